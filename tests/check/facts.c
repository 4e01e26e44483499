/* What can be told of a key's history without a search. */
#include <stdlib.h>

#include "tests/check/check__.h"

static int by_value(const void *a, const void *b)
{
    const struct check_operation *left = *(const struct check_operation *const *)a;
    const struct check_operation *right = *(const struct check_operation *const *)b;
    return left->value < right->value ? -1 : left->value > right->value;
}

static bool index_values(struct check__key *self, struct check_result *result)
{
    for (size_t i = 0; i < self->count; i++)
        if (check__writes(&self->operations[i]) && self->operations[i].value != 0)
            self->by_value[self->value_count++] = &self->operations[i];
    qsort(self->by_value, self->value_count, sizeof(*self->by_value), by_value);
    for (size_t i = 1; i < self->value_count; i++)
        if (self->by_value[i - 1]->value == self->by_value[i]->value) {
            check__say(self, result, CHECK_MALFORMED, "lines %llu and %llu write the same value",
                       (unsigned long long)self->by_value[i - 1]->line, (unsigned long long)self->by_value[i]->line);
            return false;
        }
    return true;
}

static struct check_operation *writer_of(struct check__key *self, uint64_t value)
{
    const struct check_operation wanted = {.value = value}, *pointer = &wanted;
    const struct check_operation **found =
        bsearch(&pointer, self->by_value, self->value_count, sizeof(*self->by_value), by_value);
    return found == NULL ? NULL : &self->operations[*found - self->operations];
}

/* A value that was read was written, as that version, and not after it was read. */
static bool take_read(struct check__key *self, const struct check_operation *read, struct check_result *result)
{
    struct check_operation *write = writer_of(self, read->value);
    if (write == NULL) {
        check__say(self, result, CHECK_BAD, "line %llu read a value that nobody wrote", (unsigned long long)read->line);
        return false;
    }
    if (write->outcome == CHECK_FAILED) {
        check__say(self, result, CHECK_BAD, "line %llu read what line %llu wrote, which was refused",
                   (unsigned long long)read->line, (unsigned long long)write->line);
        return false;
    }
    if (write->start > read->end) {
        check__say(self, result, CHECK_BAD, "line %llu read what line %llu wrote only later",
                   (unsigned long long)read->line, (unsigned long long)write->line);
        return false;
    }
    if (write->version != 0 && read->version != 0 && write->version != read->version) {
        check__say(self, result, CHECK_BAD, "line %llu wrote version %llu, and line %llu read the same as version %llu",
                   (unsigned long long)write->line, (unsigned long long)write->version, (unsigned long long)read->line,
                   (unsigned long long)read->version);
        return false;
    }
    if (write->version == 0)
        write->version = read->version;
    if (write->outcome == CHECK_UNKNOWN) {
        write->outcome = CHECK_OK;
        write->end = read->end;
    } else if (read->end < write->end) {
        write->end = read->end;
    }
    return true;
}

static int by_version(const void *a, const void *b)
{
    const struct check_operation *left = *(const struct check_operation *const *)a;
    const struct check_operation *right = *(const struct check_operation *const *)b;
    return left->version < right->version ? -1 : left->version > right->version;
}

static bool check_unique(const struct check__key *self, struct check_result *result)
{
    const struct check_operation **made = check__allocate(self->count, sizeof(*made));
    size_t count = 0;
    bool good = true;
    for (size_t i = 0; i < self->count; i++)
        if (check__writes(&self->operations[i]) && self->operations[i].outcome == CHECK_OK &&
            self->operations[i].version != 0)
            made[count++] = &self->operations[i];
    qsort(made, count, sizeof(*made), by_version);
    for (size_t i = 1; i < count && good; i++)
        if (made[i - 1]->version == made[i]->version) {
            check__say(self, result, CHECK_BAD, "lines %llu and %llu both made version %llu",
                       (unsigned long long)made[i - 1]->line, (unsigned long long)made[i]->line,
                       (unsigned long long)made[i]->version);
            good = false;
        }
    free(made);
    return good;
}

bool check__facts(struct check__key *self, struct check_result *result)
{
    if (!index_values(self, result))
        return false;
    for (size_t i = 0; i < self->count; i++) {
        const struct check_operation *operation = &self->operations[i];
        if (operation->outcome != CHECK_UNKNOWN && operation->end < operation->start) {
            check__say(self, result, CHECK_MALFORMED, "line %llu ends before it starts",
                       (unsigned long long)operation->line);
            return false;
        }
        if (!check__writes(operation) && operation->outcome == CHECK_OK && operation->value != 0 &&
            !take_read(self, operation, result))
            return false;
    }
    return check_unique(self, result);
}

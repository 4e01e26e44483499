/* Reads in the past: the same time gives the same answer for ever, later times never older versions, and an answer
 * holds exactly what had been given a time up to the one asked for. */
#include <stdlib.h>

#include "tests/check/check__.h"

struct stamp {
    uint64_t version, time, line;
};

static int by_version(const void *a, const void *b)
{
    const struct stamp *left = a, *right = b;
    if (left->version != right->version)
        return left->version < right->version ? -1 : 1;
    return left->time < right->time ? -1 : left->time > right->time;
}

static int by_at(const void *a, const void *b)
{
    const struct check_operation *left = *(const struct check_operation *const *)a;
    const struct check_operation *right = *(const struct check_operation *const *)b;
    return left->at < right->at ? -1 : left->at > right->at;
}

/* What is known of versions' times, by version; they must rise. */
static bool collect(const struct check__key *self, struct stamp *stamps, size_t *count, struct check_result *result)
{
    size_t all = 0;
    *count = 0;
    for (size_t i = 0; i < self->count; i++) {
        const struct check_operation *operation = &self->operations[i];
        if (operation->outcome == CHECK_OK && operation->time != 0 && operation->version != 0)
            stamps[all++] = (struct stamp){operation->version, operation->time, operation->line};
    }
    qsort(stamps, all, sizeof(*stamps), by_version);
    for (size_t i = 0; i < all; i++) {
        const struct stamp *before = *count == 0 ? NULL : &stamps[*count - 1];
        if (before != NULL && before->version == stamps[i].version && before->time != stamps[i].time) {
            check__say(self, result, CHECK_BAD, "version %llu has one time in line %llu and another in line %llu",
                       (unsigned long long)stamps[i].version, (unsigned long long)before->line,
                       (unsigned long long)stamps[i].line);
            return false;
        }
        if (before != NULL && before->version < stamps[i].version && before->time >= stamps[i].time) {
            check__say(self, result, CHECK_BAD,
                       "version %llu (line %llu) has no later time than version %llu (line %llu)",
                       (unsigned long long)stamps[i].version, (unsigned long long)stamps[i].line,
                       (unsigned long long)before->version, (unsigned long long)before->line);
            return false;
        }
        if (before == NULL || before->version != stamps[i].version)
            stamps[(*count)++] = stamps[i];
    }
    return true;
}

/* The newest version that is known to have a time up to `at`. */
static const struct stamp *newest(const struct stamp *stamps, size_t count, uint64_t at)
{
    size_t low = 0, high = count;
    while (low < high) {
        size_t middle = low + (high - low) / 2;
        if (stamps[middle].time <= at)
            low = middle + 1;
        else
            high = middle;
    }
    return low == 0 ? NULL : &stamps[low - 1];
}

static bool check_read(const struct check__key *self, const struct check_operation *read, const struct stamp *stamps,
                       size_t count, struct check_result *result)
{
    const struct stamp *known = newest(stamps, count, read->at);
    if (known != NULL && known->version > read->version) {
        check__say(self, result, CHECK_BAD,
                   "line %llu read version %llu at a time when version %llu (line %llu) was there",
                   (unsigned long long)read->line, (unsigned long long)read->version,
                   (unsigned long long)known->version, (unsigned long long)known->line);
        return false;
    }
    size_t later = known == NULL ? 0 : (size_t)(known - stamps) + 1;
    if (read->version != 0 && later < count && stamps[later].version <= read->version) {
        check__say(self, result, CHECK_BAD,
                   "line %llu read version %llu, which has a later time than was asked for (line %llu)",
                   (unsigned long long)read->line, (unsigned long long)read->version,
                   (unsigned long long)stamps[later].line);
        return false;
    }
    return true;
}

bool check__temporal(const struct check__key *self, struct check_result *result)
{
    struct stamp *stamps = check__allocate(self->count, sizeof(*stamps));
    const struct check_operation **reads = check__allocate(self->count, sizeof(*reads));
    size_t stamp_count = 0, read_count = 0;
    bool good = collect(self, stamps, &stamp_count, result);
    for (size_t i = 0; i < self->count; i++)
        if (self->operations[i].kind == CHECK_GET_AT && self->operations[i].outcome == CHECK_OK)
            reads[read_count++] = &self->operations[i];
    qsort(reads, read_count, sizeof(*reads), by_at);
    for (size_t i = 0; i < read_count && good; i++) {
        good = check_read(self, reads[i], stamps, stamp_count, result);
        if (!good || i == 0)
            continue;
        bool same = reads[i]->at == reads[i - 1]->at;
        if (same ? reads[i]->version != reads[i - 1]->version : reads[i]->version < reads[i - 1]->version) {
            check__say(self, result, CHECK_BAD, "line %llu read version %llu, and line %llu version %llu at %s time",
                       (unsigned long long)reads[i - 1]->line, (unsigned long long)reads[i - 1]->version,
                       (unsigned long long)reads[i]->line, (unsigned long long)reads[i]->version,
                       same ? "the same" : "a later");
            good = false;
        }
    }
    free(stamps);
    free(reads);
    return good;
}

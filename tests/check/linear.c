#include <stdarg.h>
#include <stdlib.h>
#include <string.h>

#include "tests/check/check__.h"

void *check__allocate(size_t count, size_t size)
{
    void *memory = calloc(count + 1, size);
    ASSERT(memory != NULL);
    return memory;
}

void check__say(const struct check__key *self, struct check_result *result, enum check_verdict verdict,
                const char *format, ...)
{
    uint32_t key = self->count == 0 ? 0 : self->operations[0].key;
    const char *const *keys = (const char *const *)self->history->keys;
    int size = keys != NULL && key < self->history->key_count
                   ? snprintf(result->text, sizeof(result->text), "key %s: ", keys[key])
                   : snprintf(result->text, sizeof(result->text), "key %u: ", key);
    size_t at = (size_t)size < sizeof(result->text) ? (size_t)size : sizeof(result->text) - 1;
    va_list arguments;
    va_start(arguments, format);
    vsnprintf(result->text + at, sizeof(result->text) - at, format, arguments);
    va_end(arguments);
    result->verdict = verdict;
}

static int by_key(const void *a, const void *b)
{
    const struct check_operation *left = a, *right = b;
    if (left->key != right->key)
        return left->key < right->key ? -1 : 1;
    if (left->start != right->start)
        return left->start < right->start ? -1 : 1;
    return left->line < right->line ? -1 : left->line > right->line;
}

static void check_key(struct check__key *self, uint64_t steps_max, struct check_result *result)
{
    self->by_value = check__allocate(self->count, sizeof(*self->by_value));
    if (check__facts(self, result) && check__temporal(self, result))
        (void)check__search(self, steps_max, result);
    free(self->by_value);
}

void check_linearizable(struct check_history *history, uint64_t steps_max, struct check_result *result)
{
    *result = (struct check_result){.verdict = CHECK_GOOD};
    if (history->count > 0)
        qsort(history->operations, history->count, sizeof(*history->operations), by_key);
    for (size_t first = 0, end; first < history->count && result->verdict == CHECK_GOOD; first = end) {
        for (end = first + 1; end < history->count && history->operations[end].key == history->operations[first].key;)
            end++;
        struct check__key key = {.history = history, .operations = history->operations + first, .count = end - first};
        check_key(&key, steps_max, result);
        result->keys++;
    }
}

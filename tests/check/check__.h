/* What the files of this folder share. */
#ifndef TESTS_CHECK_INTERNAL_H
#define TESTS_CHECK_INTERNAL_H

#include "core/base/panic.h"
#include "tests/check/check.h"

/* Facts about one key, found before the search. `operations` are those of the key, by start. */
struct check__key {
    const struct check_history *history;
    struct check_operation *operations;
    size_t count;
    /* By value, and by version: which writes. */
    const struct check_operation **by_value;
    size_t value_count;
};

void check__say(const struct check__key *self, struct check_result *result, enum check_verdict verdict,
                const char *format, ...) __attribute__((format(printf, 4, 5)));
void *check__allocate(size_t count, size_t size);

/* facts.c: what needs no search. Gives versions to writes whose value was read, and bounds their end by the read's.
 * False: a violation was found. */
bool check__facts(struct check__key *self, struct check_result *result);
/* temporal.c: reads in the past, and platform times that rise with versions. */
bool check__temporal(const struct check__key *self, struct check_result *result);
/* search.c */
bool check__search(const struct check__key *self, uint64_t steps_max, struct check_result *result);

static inline bool check__writes(const struct check_operation *operation)
{
    return operation->kind <= CHECK_DELETE;
}

#endif

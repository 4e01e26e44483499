/* Is a history of operations on versioned objects linearizable, and were reads in the past answered truly?
 *
 * Each key is checked for itself, as linearizability is local (Herlihy and Wing, 1990). The search is Wing and Gong's
 * (1993) with Lowe's memory of configurations already seen (2017). What is known shortens it: a write whose version is
 * known fits one place only; a read that fits the present state is taken at once, as it changes nothing; and of writes
 * whose outcome is unknown and whose values nobody ever saw, the earliest of each kind stands for all of them. */
#ifndef TESTS_CHECK_H
#define TESTS_CHECK_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>

enum check_kind { CHECK_PUT, CHECK_PUT_IF, CHECK_PUT_ABSENT, CHECK_DELETE, CHECK_GET, CHECK_GET_AT };
enum check_outcome {
    CHECK_OK,
    CHECK_FAILED,  /* certainly not applied. With `seen`: because of what was there */
    CHECK_UNKNOWN, /* may have been applied, or may yet be */
};

struct check_operation {
    enum check_kind kind;
    enum check_outcome outcome;
    uint32_t key, client;
    uint64_t line;       /* names it in messages */
    uint64_t start, end; /* ns on one clock; `end` is not read for CHECK_UNKNOWN */
    uint64_t
        value; /* written or read; 0: none (a delete; nothing found; not known). No two writes of a key share one */
    uint64_t version;   /* made or seen; 0 with `seen`: nothing was there, else: not known */
    bool seen;          /* reads, and writes that failed on a condition: `version` and `deleted` are what was there */
    bool deleted;       /* what was there is a tombstone */
    uint64_t condition; /* CHECK_PUT_IF: the version asked for; CHECK_DELETE: the same, 0: any */
    uint64_t at;        /* CHECK_GET_AT: the platform time asked for */
    uint64_t time;      /* platform time of `version`; 0: not known */
};

struct check_history {
    struct check_operation *operations;
    size_t count, capacity;
    char **keys; /* names, for messages; NULL: numbers will do */
    uint32_t key_count;
    void *names; /* private to history.c */
};

void check_history_init(struct check_history *self);
void check_history_free(struct check_history *self);
void check_history_add(struct check_history *self, const struct check_operation *operation);
/* Reads one operation per line, as README.md describes. False: `error` says which line is not one, and why. */
bool check_history_read(struct check_history *self, FILE *file, char *error, size_t error_size);

enum check_verdict {
    CHECK_GOOD,
    CHECK_BAD,
    CHECK_UNDECIDED, /* the search would have taken more than `steps_max` */
    CHECK_MALFORMED, /* two writes of one key carry the same value: this checker can't tell them apart */
};

struct check_result {
    enum check_verdict verdict;
    char text[512]; /* what is wrong */
    uint64_t steps; /* configurations looked at */
    size_t keys;
};

#define CHECK_STEPS_MAX 20000000u
/* Sorts the operations by key and start. Panics without memory. */
void check_linearizable(struct check_history *history, uint64_t steps_max, struct check_result *result);

#endif

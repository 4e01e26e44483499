/* What the files of the state machine share. */
#ifndef SHARD_MACHINE_INTERNAL_H
#define SHARD_MACHINE_INTERNAL_H

#include "core/base/panic.h"
#include "core/shard/machine.h"

#include <uthash.h>

/* An answer that may be asked for again: by (client, sequence) or by Idempotency-Key. */
struct answer {
    uint8_t name[17]; /* 'c' client sequence, or 'i' digest: the fact's name and the hash key */
    uint32_t status;
    uint32_t operation;
    uint64_t version;
    uint64_t revision;
    uint64_t time;
    uint64_t digest;
    struct answer *older, *newer;  /* all answers, in log order */
    struct answer *next_of_client; /* a client's answers, in log order */
    UT_hash_handle hh;
};

/* What is known of a client: its answers that it has not confirmed, and up to where it has. A request below the
 * watermark was answered before: it is a late double, and must not be applied again now that its answer is forgotten.
 */
struct session {
    uint64_t client;
    uint64_t watermark;
    uint64_t time; /* of its latest entry */
    struct answer *first, *last;
    struct session *older, *newer; /* all sessions, by time */
    UT_hash_handle hh;
};

/* The frozen value of a session's fact. */
struct session_fact {
    uint64_t watermark;
    uint64_t time;
};
_Static_assert(sizeof(struct session_fact) == 16, "frozen layout");

struct cursor {
    uint64_t revision;
    UT_hash_handle hh;
    size_t size;
    char name[];
};

struct machine {
    struct versions *versions;
    struct answer *answers;
    struct session *sessions;
    struct cursor *cursors;
    struct answer *oldest, *newest;
    struct session *idlest, *busiest;
    uint32_t keyed_count, answer_count, session_count;
    char **closed;
    size_t closed_count;
};

/* The frozen value of an answer's fact. */
struct answer_fact {
    uint32_t status;
    uint32_t operation;
    uint64_t version;
    uint64_t revision;
    uint64_t time;
    uint64_t digest;
};
_Static_assert(sizeof(struct answer_fact) == 40, "frozen layout");

/* Facts that one entry changes, gathered before they go to the store with it. */
#define FACTS_MAX 40
struct facts {
    struct versions_fact items[FACTS_MAX];
    uint32_t count;
    uint8_t names[FACTS_MAX][24];
    struct answer_fact values[4];
    uint32_t value_count;
    struct session_fact session;
    uint64_t revision;
    struct bytes text;
};

/* answers.c */
struct session *answers__session(struct machine *self, uint64_t client); /* made if need be; NULL: no memory */
void answers__session_append(struct machine *self, struct session *session);
enum sluice_status answers__link(struct machine *self, struct answer *answer);
/* Was this very request answered before? Fills the outcome then. */
bool answers__replay(const struct machine *self, const struct wire_command *command, struct machine_outcome *outcome);
bool answers__full(const struct machine *self, const struct wire_command *command);
enum sluice_status answers__keep(struct machine *self, const struct wire_command *command, struct facts *facts,
                                 const struct machine_outcome *outcome);
/* Forgets what the client has confirmed; a bounded number at a time, so that no entry pays for many. */
enum sluice_status answers__advance(struct machine *self, struct facts *facts, const struct wire_command *command,
                                    uint64_t now);
/* Forgets what is too old for anybody to ask for. */
void answers__expire(struct machine *self, struct facts *facts, uint64_t now);

/* machine.c */
enum sluice_status machine__cursor_set(struct machine *self, const char *name, size_t size, uint64_t revision);
enum sluice_status machine__closed_add(struct machine *self, const char *prefix, size_t size);

#endif

/* A shard's deterministic state machine: applies stable entries in log order. Every replica that applies the same log
 * holds the same state.
 *
 * Holds what decides an outcome beside the versions: answers of writes that may be retried, closed prefixes, lambda
 * cursors. Expiry goes by the entries' own times, never by a clock. */
#ifndef SHARD_MACHINE_H
#define SHARD_MACHINE_H

#include "api/wire.h"
#include "core/versions/versions.h"

#define MACHINE_ANSWER_KEPT_NS  (900 * UINT64_C(1000000000)) /* how long an Idempotency-Key is remembered */
#define MACHINE_IDEMPOTENCY_MAX 131072u /* keys a shard remembers; beyond, writes with new keys are BUSY */
#define MACHINE_ANSWERS_MAX     262144u /* answers kept for clients that have not confirmed them */
#define MACHINE_SESSIONS_MAX    65536u  /* clients remembered for as long */

#define MACHINE_LAMBDA_BYTES_MAX 48u /* a lambda's name is part of a fact's name */

struct machine;

enum sluice_status machine_create(struct versions *versions, struct machine **out) SLUICE_MUST_CHECK;
void machine_destroy(struct machine *self);

/* What came of one entry. */
struct machine_outcome {
    enum sluice_status status;
    bool replayed;
    uint32_t operation; /* with CONDITION_FAILED, NOT_FOUND, DELETED: the one that failed */
    uint64_t version;   /* with those: the latest version of its key (0 none); CLOSE_PREFIX: versions under it */
    uint64_t revision;  /* where it was applied first */
    uint64_t time;
    const char *detail; /* static */
};
/* Applies the entry (index = versions_applied + 1). A failure return means that this replica can't go on (memory, disk,
 * corruption); what the entry's author did wrong is in `outcome`. */
enum sluice_status machine_apply(struct machine *self, const struct entry *entry,
                                 struct machine_outcome *outcome) SLUICE_MUST_CHECK;

/* The version that an operation of the entry makes when it gets this number. Borrowed from the entry's body. */
struct version machine_version(const struct wire_operation_view *view, const struct entry *entry, uint32_t operation,
                               uint64_t version);

/* Is the answer to this very request known, so that it would be given again? */
bool machine_answered(const struct machine *self, const struct wire_command *command);
/* Up to which revision a lambda has handled this shard's events; 0 none. */
uint64_t machine_cursor(const struct machine *self, const char *lambda, size_t size);
bool machine_prefix_closed(const struct machine *self, const char *key, size_t size);

#endif

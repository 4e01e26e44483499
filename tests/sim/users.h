/* Users of the real libsluice: it routes by the map, follows leaders, repeats, reads along cuts, resumes watches. */
#ifndef TESTS_SIM_USERS_H
#define TESTS_SIM_USERS_H

#include <stdbool.h>
#include <stdint.h>

#include "api/sluice.h"

#define SIM_USERS_MAX    3
#define SIM_KEYS         6
#define SIM_PROGRESS_MAX 64
#define SIM_CUTS_MAX     4096

/* A watch of all keys, carried on over breaks and from user to user by its cursor. */
struct sim_watch {
    struct sluice_watch *watch;
    char cursor[513];
    bool resumes; /* cursor holds where it goes on */
    bool ready;
    uint64_t ready_at;       /* when it was subscribed everywhere for the first time */
    uint64_t last[SIM_KEYS]; /* the newest version seen of each key; 0: none yet */
    uint64_t first[SIM_KEYS];
    uint64_t revision[8], operation[8]; /* by shard: of the latest event */
    uint64_t closed;
    struct {
        uint64_t closed, last[SIM_KEYS];
    } progress[SIM_PROGRESS_MAX];
    size_t progress_count;
};

/* What a snapshot read: it must be the same for ever, on any replica. */
#define SIM_CUT_DELETED UINT64_MAX
struct sim_cut {
    uint64_t at;
    uint64_t versions[SIM_KEYS];
};

struct sim_operation;
struct sim_user {
    uint32_t id;
    struct sluice_client *client;
    int64_t skew_ns;  /* of its wall clock, which nobody trusts */
    uint64_t wake_at; /* 0: none */
    bool in_turn, again;
    struct sim_operation *now, *pair; /* pair: the other put of a batch */
    char idempotency[32];             /* the operation's key; empty: libsluice's own identity will do */
    uint64_t patience_until;
    struct sim_watch watch;
};

void sim_users_start(void);
void sim_user_turn(struct sim_user *user);
void sim_watch_start(struct sim_user *user);
void sim_users_free(void);
/* All is quiet: watches saw everything, and cuts are what they were. */
void sim_check_users(void);

#endif

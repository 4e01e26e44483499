#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "tests/sim/sim.h"

#define CALL_MS     1500u
#define PATIENCE_NS (4 * NS_PER_S)

static void begin(struct sim_event *event);
static void send_now(struct sim_user *user);

size_t sim_key_name(uint32_t key, char out[16])
{
    return (size_t)snprintf(out, 16, "key%u", key);
}

/* The number of a key of ours; SIM_KEYS: it is none. */
uint32_t sim_key_number(const char *key, size_t size)
{
    return size == 4 && memcmp(key, "key", 3) == 0 && key[3] >= '0' && key[3] < '0' + SIM_KEYS
               ? (uint32_t)(key[3] - '0')
               : SIM_KEYS;
}

/* ---- The client's turn ---- */

static void wake(struct sim_event *event)
{
    struct sim_user *user = event->arg;
    if (user->client != NULL && user->wake_at == event->time) {
        user->wake_at = 0;
        sim_user_turn(user);
    }
    free(event);
}

void sim_user_turn(struct sim_user *user)
{
    if (user->client == NULL)
        return;
    if (user->in_turn) {
        user->again = true;
        return;
    }
    user->in_turn = true;
    sim.user = user;
    do {
        user->again = false;
        sluice_process(user->client);
    } while (user->again || !sluice_arm(user->client));
    sim.user = NULL;
    user->in_turn = false;
    uint64_t timeout = sluice_timeout_ns(user->client);
    if (timeout == UINT64_MAX)
        return;
    uint64_t at = sim.now + (timeout == 0 ? 1 : timeout);
    if (user->wake_at == 0 || at < user->wake_at) {
        user->wake_at = at;
        sim_after(at - sim.now, wake, user);
    }
}

/* ---- Operations ---- */

static void end(struct sim_user *user, bool answered)
{
    struct sim_operation *all[2] = {user->now, user->pair};
    for (int i = 0; i < 2 && all[i] != NULL; i++) {
        all[i]->ended = answered ? sim.now : 0;
        all[i]->failed = user->now->failed;
        sim_note(all[i]);
    }
    free(user->now);
    free(user->pair);
    user->now = user->pair = NULL;
    sim_after(random_below(&sim.random, 20 * NS_PER_MS), begin, user);
}

static uint64_t number_of(const struct sluice_object *object)
{
    char text[24] = "";
    if (object->data_size > 0 && object->data_size < sizeof(text))
        memcpy(text, object->data, object->data_size);
    return strtoull(text, NULL, 10);
}

static void take_object(struct sim_operation *now, const struct sluice_object *object)
{
    now->version = object->version;
    now->time = object->time_ns;
    now->deleted = object->deleted;
    if (now->kind >= SIM_GET)
        now->value = number_of(object);
}

static void again(struct sim_event *event)
{
    struct sim_user *user = event->arg;
    if (user->client != NULL && user->now != NULL) {
        user->now->repeated = true;
        sim.totals.repeated++;
        send_now(user);
    }
    free(event);
}

static void done(void *arg, const struct sluice_answer *answer)
{
    struct sim_user *user = arg;
    struct sim_operation *now = user->now;
    bool writes = now->kind <= SIM_DELETE;
    switch (answer->status) {
    case SLUICE_OK:
        if (answer->object_count != (user->pair == NULL ? 1 : 2))
            sim_fail("user %u was answered with %zu objects", user->id, answer->object_count);
        take_object(now, &answer->objects[0]);
        if (user->pair != NULL)
            take_object(user->pair, &answer->objects[1]);
        now->seen = true;
        break;
    case SLUICE_NOT_FOUND:
        now->failed = writes;
        now->seen = true;
        break;
    case SLUICE_DELETED:
    case SLUICE_CONDITION_FAILED:
        now->failed = writes;
        now->seen = answer->object_count == 1;
        if (now->seen)
            take_object(now, &answer->objects[0]);
        now->deleted = !writes;
        break;
    case SLUICE_OUTCOME_UNKNOWN:
        if (user->idempotency[0] != '\0' && sim.now < user->patience_until) {
            /* What a user does: the same request with the same key. It must not be applied twice. */
            sim_after(random_below(&sim.random, 300 * NS_PER_MS), again, user);
            return;
        }
        end(user, false);
        return;
    default:
        /* The promise is that nothing was applied, unless an earlier attempt with the same key may have been. */
        now->failed = writes;
        end(user, writes && !now->repeated);
        return;
    }
    end(user, true);
}

/* The texts that an operation of libsluice borrows. */
struct texts {
    char key[16], value[24];
};

static struct sluice_operation operation_of(const struct sim_operation *now, struct texts *texts)
{
    int size = now->kind == SIM_DELETE
                   ? 0
                   : snprintf(texts->value, sizeof(texts->value), "%llu", (unsigned long long)now->value);
    return (struct sluice_operation){
        .kind = now->kind == SIM_DELETE ? SLUICE_DELETE : SLUICE_PUT,
        .key = texts->key,
        .key_size = sim_key_name(now->key, texts->key),
        .data = texts->value,
        .data_size = (size_t)size,
        .if_version = now->condition,
        .if_match = now->kind == SIM_PUT_IF,
        .if_absent = now->kind == SIM_PUT_ABSENT,
    };
}

static void send_write(struct sim_user *user)
{
    struct texts texts[2];
    struct sluice_operation operations[2] = {operation_of(user->now, &texts[0])};
    if (user->pair != NULL)
        operations[1] = operation_of(user->pair, &texts[1]);
    const struct sluice_write write = {
        .call = {.timeout_ms = CALL_MS},
        .operations = operations,
        .operation_count = user->pair == NULL ? 1 : 2,
        .idempotency_key = user->idempotency[0] == '\0' ? NULL : user->idempotency,
        .idempotency_key_size = strlen(user->idempotency),
    };
    sluice_write(user->client, &write, done, user);
}

static void send_read(struct sim_user *user)
{
    char key[16];
    const struct sluice_get get = {
        .call = {.timeout_ms = CALL_MS},
        .key = key,
        .key_size = sim_key_name(user->now->key, key),
        .at_ns = user->now->kind == SIM_GET_AT ? user->now->at : 0,
    };
    sluice_get(user->client, &get, done, user);
}

static void send_now(struct sim_user *user)
{
    sim.user = user;
    if (user->now->kind <= SIM_DELETE)
        send_write(user);
    else
        send_read(user);
    sim.user = NULL;
    sim_user_turn(user);
}

/* ---- Snapshots: one cut over all shards ---- */

/* A snapshot of now is a linearizable read of each of its keys, and one of the past as well. */
static void note_reads(const struct sim_operation *now, const struct sim_cut *cut, const struct sluice_object *object,
                       uint32_t key)
{
    struct sim_operation read = {
        .client = now->client, .key = key, .started = now->started, .ended = sim.now, .at = cut->at, .seen = true};
    take_object(&read, object);
    read.group = sim_group_of_key(key);
    read.kind = SIM_GET;
    read.value = number_of(object);
    if (now->at == 0)
        sim_note(&read);
    read.kind = SIM_GET_AT;
    sim_note(&read);
}

static void cut_done(void *arg, const struct sluice_answer *answer)
{
    struct sim_user *user = arg;
    struct sim_operation *now = user->now;
    if (answer->status == SLUICE_OK && sim.cut_count < SIM_CUTS_MAX) {
        struct sim_cut *cut = &sim.cuts[sim.cut_count++];
        *cut = (struct sim_cut){.at = answer->at_ns};
        for (size_t i = 0; i < answer->object_count; i++) {
            const struct sluice_object *object = &answer->objects[i];
            uint32_t key = sim_key_number(object->key, object->key_size);
            if (key >= SIM_KEYS)
                sim_fail("a snapshot shows a key that was not asked for");
            cut->versions[key] = object->deleted ? SIM_CUT_DELETED : object->version;
            if (!object->deleted)
                note_reads(now, cut, object, key);
        }
        sim.totals.cuts++;
    }
    free(now);
    user->now = NULL;
    sim_after(random_below(&sim.random, 20 * NS_PER_MS), begin, user);
}

static void send_snapshot(struct sim_user *user)
{
    char names[SIM_KEYS][16];
    const char *keys[SIM_KEYS];
    size_t sizes[SIM_KEYS];
    for (uint32_t key = 0; key < SIM_KEYS; key++) {
        sizes[key] = sim_key_name(key, names[key]);
        keys[key] = names[key];
    }
    const struct sluice_snapshot snapshot = {.call = {.timeout_ms = CALL_MS},
                                             .keys = keys,
                                             .key_sizes = sizes,
                                             .key_count = SIM_KEYS,
                                             .at_ns = user->now->at};
    sim.user = user;
    sluice_snapshot(user->client, &snapshot, cut_done, user);
    sim.user = NULL;
    sim_user_turn(user);
}

/* A put becomes a batch of two where another key lives in the same shard: one entry, one revision. */
static void make_pair(struct sim_user *user)
{
    uint32_t key = (uint32_t)random_below(&sim.random, SIM_KEYS);
    if (user->now->kind != SIM_PUT || key == user->now->key || sim_group_of_key(key) != user->now->group)
        return;
    user->pair = malloc(sizeof(*user->pair));
    ASSERT(user->pair != NULL);
    *user->pair = *user->now;
    user->pair->key = key;
    user->pair->value = ++sim.values;
    sim.totals.batches++;
}

static void begin(struct sim_event *event)
{
    struct sim_user *user = event->arg;
    free(event);
    if (user->client == NULL || sim.ending)
        return;
    if (sim.now < sim.quiet_until) {
        sim_after(sim.quiet_until - sim.now, begin, user);
        return;
    }
    user->now = sim_operation_draw(SIM_CLIENTS_MAX + user->id);
    user->patience_until = sim.now + PATIENCE_NS;
    user->idempotency[0] = '\0';
    if (random_below(&sim.random, 2) == 0)
        snprintf(user->idempotency, sizeof(user->idempotency), "key-%u-%llu", user->id,
                 (unsigned long long)++sim.numbers);
    if (random_below(&sim.random, 8) == 0) {
        user->now->kind = SIM_GET;
        user->now->at = random_below(&sim.random, 2) == 0 ? 0 : user->now->at;
        send_snapshot(user);
    } else {
        make_pair(user);
        send_now(user);
    }
}

void sim_users_start(void)
{
    const char *nodes[] = {"tcp:node:1", "tcp:node:2", "tcp:node:3", "tcp:node:4", "tcp:node:5"};
    const struct sluice_options options = {.size = sizeof(options), .nodes = nodes, .node_count = sim.node_count};
    for (uint32_t i = 0; i < sim.user_count; i++) {
        struct sim_user *user = &sim.users[i];
        user->id = i;
        user->skew_ns = (int64_t)random_below(&sim.random, 20 * NS_PER_S) - (int64_t)(10 * NS_PER_S);
        sim.user = user;
        if (sluice_open(&options, &user->client) != SLUICE_OK)
            sim_fail("no memory");
        sim.user = NULL;
        sim_watch_start(user);
        sim_after(random_below(&sim.random, 50 * NS_PER_MS), begin, user);
        sim_user_turn(user);
    }
}

void sim_users_free(void)
{
    for (uint32_t i = 0; i < SIM_USERS_MAX; i++) {
        struct sim_user *user = &sim.users[i];
        struct sluice_client *client = user->client;
        struct sim_operation *now = user->now;
        if (client == NULL)
            continue;
        sim.ending = true;
        user->client = NULL;
        sim.user = user;
        sluice_close(client);
        sim.user = NULL;
        if (user->now == now) {
            free(now);
            free(user->pair);
        }
    }
}

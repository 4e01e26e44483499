/* One node's part in a cluster of one, over a real host whose disk answers at once. */
#include <criterion/criterion.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "core/base/clock.h"
#include "core/cluster/participant.h"
#include "core/shard/host__.h"
#include "core/shard/peer.h"

static const uint8_t cluster_id[16] = {1, 2, 3};
static struct host *host;
static struct participant *participant;
static uint64_t now_ns, tickets;
static uint64_t lost, mended; /* masks of groups */
static unsigned words;        /* messages to other nodes */

static uint64_t env_now(void *arg)
{
    (void)arg;
    return now_ns;
}

static void env_send(void *arg, uint16_t node, const struct slice *parts, unsigned count)
{
    (void)arg;
    (void)node;
    (void)parts;
    words += count > 0;
}

static void env_send_client(void *arg, void *link, const struct slice *parts, unsigned count, struct buf *payload,
                            uint32_t offset, uint32_t size)
{
    (void)arg, (void)link, (void)parts, (void)count, (void)payload, (void)offset, (void)size;
}

static uint64_t env_client_pending(void *arg, void *link)
{
    (void)arg, (void)link;
    return 0;
}

static enum sluice_status env_persist(void *arg, const struct wal_record *record)
{
    (void)arg, (void)record;
    return SLUICE_OK;
}

static uint64_t env_persist_submit(void *arg)
{
    (void)arg;
    return ++tickets;
}

static bool env_owns(void *arg, uint32_t shard, const char *key, size_t size)
{
    (void)arg;
    return participant_owns(participant, shard, key, size);
}

static bool env_storage_full(void *arg)
{
    (void)arg;
    return false;
}

static enum sluice_status env_map_apply(void *arg, const struct entry *entry, struct versions *versions,
                                        struct machine_outcome *outcome, char **reply)
{
    (void)arg;
    return participant_map_apply(participant, entry, versions, outcome, reply);
}

static void env_control(void *arg, void *link, const struct wire_header *header, const void *body)
{
    (void)arg, (void)link, (void)header, (void)body;
}

static void env_role(void *arg, uint32_t group, uint64_t epoch, bool leading)
{
    (void)arg, (void)group, (void)epoch, (void)leading;
}

static void env_caught_up(void *arg, uint32_t group, uint64_t epoch)
{
    (void)arg, (void)epoch;
    participant_caught_up(participant, group);
}

static void env_fatal(void *arg, enum sluice_status status, const char *what)
{
    (void)arg;
    cr_assert_fail("%s: %s", what, sluice_status_text(status));
}

static enum sluice_status env_versions(void *arg, const struct host_group *group, struct versions **out)
{
    const struct versions_options options = {.group = group->group, .epoch = group->epoch, .hot_bytes_max = 1u << 20};
    (void)arg;
    return versions_create(&options, out);
}

static bool env_lost(void *arg, uint32_t group)
{
    (void)arg;
    return (lost >> group & 1) != 0;
}

static enum sluice_status env_mend(void *arg, uint32_t group, uint64_t epoch)
{
    (void)arg, (void)epoch;
    mended |= UINT64_C(1) << group;
    return SLUICE_OK;
}

static const char *env_address(void *arg, unsigned index)
{
    (void)arg;
    return index == 0 ? "shm:one" : NULL;
}

static char *env_bootstrap(void *arg)
{
    static const uint16_t nodes[] = {1};
    (void)arg;
    return cluster_bootstrap(cluster_id, nodes, 1);
}

static bool env_map_comes(void *arg, const struct map *map)
{
    (void)arg, (void)map;
    return true;
}

static void env_map_came(void *arg, const struct map *map)
{
    (void)arg, (void)map;
}

static void run(uint64_t ns)
{
    for (uint64_t until = now_ns + ns; now_ns < until; now_ns += NS_PER_MS) {
        host_persisted(host, tickets);
        host_tick(host);
        participant_tick(participant, true);
        host_flush(host);
        participant_follow(participant);
    }
}

static struct host *make_host(uint16_t node)
{
    const struct host_options options = {.pairs = {.node = node,
                                                   .incarnation = 1,
                                                   .lease_ns = 60 * NS_PER_MS,
                                                   .beat_ns = 20 * NS_PER_MS,
                                                   .idle_lease_ns = 300 * NS_PER_MS,
                                                   .idle_beat_ns = 100 * NS_PER_MS,
                                                   .idle_after_ns = NS_PER_S,
                                                   .drift_ppm = 1000,
                                                   .ceiling_ahead_ns = 250 * NS_PER_MS},
                                         .seed = node};
    const struct host_env env = {.monotonic_ns = env_now,
                                 .realtime_ns = env_now,
                                 .send_peer = env_send,
                                 .send_client = env_send_client,
                                 .client_pending = env_client_pending,
                                 .persist = env_persist,
                                 .persist_submit = env_persist_submit,
                                 .owns = env_owns,
                                 .storage_full = env_storage_full,
                                 .map_apply = env_map_apply,
                                 .control = env_control,
                                 .role = env_role,
                                 .caught_up = env_caught_up,
                                 .fatal = env_fatal};
    struct host *made = NULL;
    cr_assert_eq(host_create(&options, &env, &made), SLUICE_OK);
    host_start(made);
    return made;
}

static struct participant *make(uint16_t node, struct host *of, uint64_t founders, uint64_t joined)
{
    const struct participant_env env = {.monotonic_ns = env_now,
                                        .send = env_send,
                                        .versions = env_versions,
                                        .lost = env_lost,
                                        .mend = env_mend,
                                        .address = env_address,
                                        .bootstrap = env_bootstrap,
                                        .map_comes = env_map_comes,
                                        .map_came = env_map_came,
                                        .fatal = env_fatal};
    struct participant_options options = {
        .node = node, .incarnation = 1, .founders = founders, .joined = joined, .host = of};
    struct participant *made = NULL;
    char error[256];
    memcpy(options.cluster, cluster_id, sizeof(cluster_id));
    cr_assert_eq(participant_create(&options, &env, &made), SLUICE_OK);
    cr_assert_eq(participant_open(made, error, sizeof(error)), SLUICE_OK, "%s", error);
    return made;
}

static void open_one(void)
{
    now_ns = NS_PER_S;
    host = make_host(1);
    participant = make(1, host, 2, 0);
    run(2 * NS_PER_S);
}

static void close_one(void)
{
    participant_destroy(participant);
    host_destroy(host);
}

static void change(const char *text)
{
    participant_change(participant, text, strlen(text));
    run(NS_PER_S);
}

static bool without_vote(uint32_t group)
{
    const struct replica *replica = host__replica(host, group);
    cr_assert_not_null(replica, "group %u is not here", group);
    return replica->paxos.options.amnesiac;
}

TestSuite(participant, .init = open_one, .fini = close_one);

Test(participant, founds_the_cluster_registers_and_leads_what_there_is)
{
    const struct map *map = participant_map(participant);
    cr_assert_not_null(map);
    const struct map_node *node = map_node_find(map, 1);
    cr_assert_eq(node->state, MAP_NODE_UP);
    cr_assert_eq(node->incarnation, 1);
    cr_assert_eq(map->level, MAP_LEVEL);
    cr_assert(participant_ready(participant));
    cr_assert_eq(host_leads(host), CLUSTER_ROOT_SHARDS + 1);
}

Test(participant, what_is_said_already_makes_no_new_map)
{
    uint64_t epoch = participant_map(participant)->epoch;
    char text[200];
    snprintf(text, sizeof(text),
             "{\"change\":\"node_register\",\"node\":1,\"incarnation\":\"1\",\"addresses\":[\"shm:one\"],\"levels\":[%"
             "d,%d]}",
             MAP_LEVEL_MIN, MAP_LEVEL);
    change(text);
    cr_assert_eq(participant_map(participant)->epoch, epoch);
    change(
        "{\"change\":\"node_register\",\"node\":1,\"incarnation\":\"2\",\"addresses\":[\"shm:one\"],\"levels\":[1,2]}");
    cr_assert_eq(participant_map(participant)->epoch, epoch + 1, "a new process makes one");
}

/* The log may have lost something of any group, those that it has never heard of too. */
Test(participant, a_shard_made_after_the_damage_was_found_has_lost_nothing)
{
    lost = UINT64_MAX;
    mended = 0;
    uint32_t next = participant_map(participant)->next_shard;
    change("{\"change\":\"pool_begin\",\"prefix\":\"young\",\"policy\":{\"kind\":\"persistent\",\"shards\":2}}");
    cr_assert_eq(participant_map(participant)->next_shard, next + 2);
    cr_assert_not(without_vote(next));
    cr_assert_not(without_vote(next + 1));
    cr_assert_eq(mended, UINT64_C(3) << next, "and the log says so no more");
}

Test(participant, a_node_is_told_the_map_once_it_has_said_who_it_is)
{
    words = 0;
    participant_link_up(participant, 2);
    cr_assert_eq(words, 1, "a greeting");
    uint8_t garbage[64] = {0};
    cr_assert_not(participant_message(participant, 2, garbage, sizeof(garbage)));
    cr_assert_not(participant_message(participant, 2, garbage, 3));
    run(NS_PER_S);
    uint64_t before = words;
    change("{\"change\":\"node_add\",\"node\":2,\"addresses\":[\"shm:two\"]}");
    cr_assert_not(participant_refuses(participant, 2));
    cr_assert_geq(words, before);
    participant_link_down(participant, 2);
    before = words;
    run(NS_PER_S);
    cr_assert_eq(words, before, "nothing is sent where there is no link");
}

/* What another node says of the map: nothing, if it is from before this one was taken in. */
Test(participant, a_node_that_joined_hears_no_map_from_before)
{
    const char *text = participant_map_text(participant);
    uint64_t epoch = participant_map(participant)->epoch;
    size_t size = sizeof(struct peer_header) + strlen(text);
    uint8_t *message = malloc(size);
    struct peer_header header = {.magic = PEER_MAGIC, .version = PEER_VERSION, .kind = PEER_KIND_NODE + 1};
    peer_header_seal(&header, text, strlen(text));
    memcpy(message, &header, sizeof(header));
    memcpy(message + sizeof(header), text, strlen(text));
    for (uint64_t joined = epoch; joined <= epoch + 1; joined++) {
        struct host *second_host = make_host(2);
        struct participant *second = make(2, second_host, 0, joined);
        cr_assert_null(participant_map(second));
        cr_assert(participant_message(second, 1, message, size));
        cr_assert_eq(participant_map(second) != NULL, joined == epoch);
        message[sizeof(header)] ^= 1;
        cr_assert(participant_message(second, 1, message, size), "a damaged one is dropped");
        message[sizeof(header)] ^= 1;
        participant_destroy(second);
        host_destroy(second_host);
    }
    free(message);
}

/* Whole nodes in this process, over shared memory: what they know of each other, and the changes of their members. */
#include <criterion/criterion.h>
#include <ftw.h>
#include <jansson.h>
#include <poll.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "api/sluice.h"
#include "core/base/clock.h"
#include "core/base/log.h"
#include "core/node/node.h"

#define NODES_MAX   4
#define PATIENCE_NS (30 * NS_PER_S)

static char directory[64];
static struct node *nodes[NODES_MAX + 1];

static int drop(const char *path, const struct stat *info, int kind, struct FTW *where)
{
    (void)info;
    (void)kind;
    (void)where;
    return remove(path);
}

static void open_bed(void)
{
    log_set_level(LOG_LEVEL_NONE);
    snprintf(directory, sizeof(directory), "/tmp/sluice-node-XXXXXX");
    cr_assert_not_null(mkdtemp(directory));
}

static void close_bed(void)
{
    for (unsigned id = 1; id <= NODES_MAX; id++)
        if (nodes[id] != NULL) {
            node_stop(nodes[id]);
            node_destroy(nodes[id]);
        }
    nftw(directory, drop, 16, FTW_DEPTH | FTW_PHYS);
}

static void address_of(char out[96], const char *cluster, unsigned id)
{
    snprintf(out, 96, "shm:sluice-unit-%d-%s%u", (int)getpid(), cluster, id);
}

/* Node `id` of a cluster of `count` nodes that is called `name`. */
static void start(unsigned id, unsigned count, const char *name)
{
    char listen[96], data[128], texts[NODES_MAX][128], error[512];
    const char *peers[NODES_MAX], *address = listen;
    address_of(listen, "", id);
    snprintf(data, sizeof(data), "%s/n%u", directory, id);
    for (unsigned i = 1; i <= count; i++) {
        char where[96];
        address_of(where, "", i);
        snprintf(texts[i - 1], sizeof(texts[0]), "%u=%s", i, where);
        peers[i - 1] = texts[i - 1];
    }
    const struct node_options options = {.size = sizeof(options),
                                         .id = (uint16_t)id,
                                         .data_path = data,
                                         .cluster_name = name,
                                         .listen = &address,
                                         .listen_count = 1,
                                         .peers = peers,
                                         .peer_count = count,
                                         .segment_bytes = 1u << 20,
                                         .free_percent_min = 1,
                                         .lambda_workers = 1};
    cr_assert_eq(node_create(&options, &nodes[id], error, sizeof(error)), SLUICE_OK, "%s", error);
    cr_assert_eq(node_start(nodes[id]), SLUICE_OK);
}

static void wait_ready(unsigned id)
{
    uint64_t end = clock_monotonic_ns() + PATIENCE_NS;
    while (!node_ready(nodes[id])) {
        cr_assert_lt(clock_monotonic_ns(), end, "node %u is not ready", id);
        usleep(5000);
    }
}

struct got {
    bool done;
    enum sluice_status status;
    char detail[400];
    json_t *json;
};

static void take(void *arg, const struct sluice_answer *answer)
{
    struct got *got = arg;
    got->done = true;
    got->status = answer->status;
    snprintf(got->detail, sizeof(got->detail), "%s", answer->detail);
    got->json = answer->json == NULL ? NULL : json_loads(answer->json, 0, NULL);
}

static struct sluice_client *client_of(unsigned id)
{
    char address[96];
    const char *at = address;
    struct sluice_client *client = NULL;
    address_of(address, "", id);
    const struct sluice_options options = {.size = sizeof(options), .nodes = &at, .node_count = 1};
    cr_assert_eq(sluice_open(&options, &client), SLUICE_OK);
    return client;
}

static void run(struct sluice_client *client, const struct got *got)
{
    uint64_t end = clock_monotonic_ns() + PATIENCE_NS;
    for (sluice_process(client); !got->done; sluice_process(client)) {
        struct pollfd watched = {.fd = sluice_fd(client), .events = POLLIN};
        cr_assert_lt(clock_monotonic_ns(), end, "no answer came");
        if (sluice_arm(client))
            (void)poll(&watched, 1, 5);
    }
}

static struct got change(struct sluice_client *client, const char *name, const char *json)
{
    const struct sluice_call call = {.timeout_ms = 20000, .admin = true};
    struct got got = {0};
    sluice_node_change(client, &call, name, json, take, &got);
    run(client, &got);
    return got;
}

static json_t *cluster_seen(struct sluice_client *client)
{
    const struct sluice_call call = {.timeout_ms = 20000};
    struct got got = {0};
    sluice_cluster(client, &call, take, &got);
    run(client, &got);
    cr_assert_eq(got.status, SLUICE_OK, "%s", got.detail);
    return got.json;
}

/* A member of the node's entry in the cluster's state, as a text that the caller frees; NULL: no such node. */
static char *node_member(struct sluice_client *client, unsigned id, const char *name)
{
    size_t i;
    const json_t *node;
    char *found = NULL;
    json_t *cluster = cluster_seen(client);
    json_array_foreach(json_object_get(cluster, "nodes"), i, node)
    {
        if (json_integer_value(json_object_get(node, "id")) == (json_int_t)id)
            found = json_dumps(json_object_get(node, name), JSON_ENCODE_ANY);
    }
    json_decref(cluster);
    return found;
}

static void expect_membership(struct sluice_client *client, unsigned id, const char *wanted)
{
    uint64_t end = clock_monotonic_ns() + PATIENCE_NS;
    for (;;) {
        char *found = node_member(client, id, "membership");
        bool good = found != NULL && strstr(found, wanted) != NULL;
        cr_assert(good || clock_monotonic_ns() < end, "node %u is %s, not %s", id, found, wanted);
        free(found);
        if (good)
            return;
        usleep(20000);
    }
}

Test(cluster, one_node_alone_is_ready_and_stops_at_once, .init = open_bed, .fini = close_bed)
{
    start(1, 1, "alone");
    wait_ready(1);
    uint64_t begin = clock_monotonic_ns();
    node_stop(nodes[1]);
    cr_assert_lt(clock_monotonic_ns() - begin, 5 * NS_PER_S, "there is nobody to hand anything over to");
}

Test(cluster, nodes_agree_on_the_level_and_on_changes_of_members, .init = open_bed, .fini = close_bed)
{
    for (unsigned id = 1; id <= 3; id++)
        start(id, 3, "three");
    for (unsigned id = 1; id <= 3; id++)
        wait_ready(id);
    struct sluice_client *client = client_of(2);
    uint64_t end = clock_monotonic_ns() + PATIENCE_NS;
    for (bool level = false; !level;) {
        json_t *cluster = cluster_seen(client);
        level = json_integer_value(json_object_get(cluster, "level")) == 2;
        json_decref(cluster);
        cr_assert_lt(clock_monotonic_ns(), end, "the level does not rise");
    }
    struct got added = change(client, "node_add", "{\"addresses\":[\"shm:nobody-there\"]}");
    cr_assert_eq(added.status, SLUICE_OK, "%s", added.detail);
    cr_assert_eq(json_integer_value(json_object_get(added.json, "node")), 4);
    expect_membership(client, 4, "joining");
    struct got refused = change(client, "node_remove", "{\"node\":2}");
    cr_assert_eq(refused.status, SLUICE_CONFLICT, "%s", refused.detail);
    struct got removed = change(client, "node_remove", "{\"node\":4}");
    cr_assert_eq(removed.status, SLUICE_OK, "%s", removed.detail);
    expect_membership(client, 4, "gone");
    json_decref(added.json);
    json_decref(refused.json);
    json_decref(removed.json);
    sluice_close(client);
}

Test(cluster, a_node_of_another_cluster_is_kept_out, .init = open_bed, .fini = close_bed)
{
    start(1, 3, "ours");
    start(2, 3, "ours");
    start(3, 3, "theirs");
    wait_ready(1);
    wait_ready(2);
    struct sluice_client *client = client_of(1);
    char *peers = node_member(client, 1, "peers");
    cr_assert_not_null(peers);
    cr_assert_not_null(strstr(peers, "\"node\": 2, \"connected\": true"), "%s", peers);
    cr_assert_not_null(strstr(peers, "\"node\": 3, \"connected\": false"), "%s", peers);
    cr_assert_not(node_ready(nodes[3]), "alone it has no quorum");
    free(peers);
    sluice_close(client);
}

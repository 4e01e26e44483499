#include "tests/unit/shard/small.h"

#include <criterion/criterion.h>
#include <stdlib.h>
#include <string.h>

#include "core/base/crc.h"

struct small small;

static uint64_t env_monotonic(void *arg)
{
    (void)arg;
    return small.now;
}

static uint64_t env_realtime(void *arg)
{
    (void)arg;
    return small.wall + small.now;
}

static void push(uint16_t from, uint16_t to, const struct slice *parts, unsigned count)
{
    size_t size = 0;
    for (unsigned i = 0; i < count; i++)
        size += parts[i].size;
    struct small_frame *frame = calloc(1, sizeof(*frame) + size);
    cr_assert_not_null(frame);
    frame->from = from;
    frame->to = to;
    for (unsigned i = 0; i < count; i++) {
        if (parts[i].size > 0)
            memcpy(frame->data + frame->size, parts[i].data, parts[i].size);
        frame->size += parts[i].size;
    }
    small.sent_bytes += size;
    *small.frames_tail = frame;
    small.frames_tail = &frame->next;
}

static void env_send_peer(void *arg, uint16_t to, const struct slice *parts, unsigned count)
{
    const struct small_node *node = arg;
    if (to <= small.count && !small.cut[node->id][to])
        push(node->id, to, parts, count);
}

static void env_send_client(void *arg, void *to, const struct slice *parts, unsigned count, struct buf *payload,
                            uint32_t offset, uint32_t size)
{
    struct small_link *link = to;
    (void)arg;
    link->size = 0;
    for (unsigned i = 1; i < count; i++)
        for (size_t k = 0; k < parts[i].size && link->size < sizeof(link->body); k++)
            link->body[link->size++] = ((const uint8_t *)parts[i].data)[k];
    for (uint32_t k = 0; k < size && link->size < sizeof(link->body); k++)
        link->body[link->size++] = payload->data[offset + k];
    memcpy(&link->header, parts[0].data, sizeof(link->header));
    if (link->header.type == WIRE_EVENT)
        link->events++;
    else
        link->replies++;
}

static uint64_t env_client_pending(void *arg, void *link)
{
    (void)arg;
    (void)link;
    return 0;
}

static enum sluice_status env_persist(void *arg, const struct wal_record *record)
{
    struct small_node *node = arg;
    if (node->record_count == node->record_capacity) {
        node->record_capacity = node->record_capacity == 0 ? 256 : 2 * node->record_capacity;
        node->records = realloc(node->records, node->record_capacity * sizeof(*node->records));
        cr_assert_not_null(node->records);
    }
    node->records[node->record_count++] = *record;
    if (record->entry.body != NULL)
        buf_ref(record->entry.body);
    return SLUICE_OK;
}

static uint64_t env_persist_submit(void *arg)
{
    return ++((struct small_node *)arg)->submitted;
}

static bool env_owns(void *arg, uint32_t shard, const char *key, size_t size)
{
    (void)arg;
    (void)key;
    (void)size;
    return shard == 1;
}

static bool env_storage_full(void *arg)
{
    return ((struct small_node *)arg)->full;
}

static enum sluice_status env_map_apply(void *arg, const struct entry *entry, struct versions *versions,
                                        struct machine_outcome *outcome, char **reply)
{
    (void)arg;
    (void)outcome;
    (void)reply;
    return versions_apply(versions, entry, NULL, 0, NULL, 0);
}

static void env_control(void *arg, void *link, const struct wire_header *header, const void *body)
{
    (void)arg;
    (void)link;
    (void)header;
    (void)body;
}

static void env_role(void *arg, uint32_t group, uint64_t epoch, bool leading)
{
    (void)arg;
    (void)group;
    (void)epoch;
    (void)leading;
}

static void env_caught_up(void *arg, uint32_t group, uint64_t epoch)
{
    struct small_node *node = arg;
    (void)epoch;
    host__replica(node->host, group)->paxos.options.amnesiac = false;
}

static void env_members(void *arg, uint32_t group, uint64_t epoch, uint64_t members)
{
    (void)group;
    (void)epoch;
    ((struct small_node *)arg)->members = members;
}

static void env_installed(void *arg, uint32_t group, uint64_t epoch)
{
    (void)group;
    (void)epoch;
    ((struct small_node *)arg)->installed++;
}

static void env_fatal(void *arg, enum sluice_status status, const char *what)
{
    cr_assert_fail("node %u cannot go on: %s: %s", ((struct small_node *)arg)->id, what, sluice_status_text(status));
}

void small_start(uint16_t id)
{
    struct small_node *node = &small.nodes[id];
    const struct host_env env = {
        .arg = node,
        .monotonic_ns = env_monotonic,
        .realtime_ns = env_realtime,
        .send_peer = env_send_peer,
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
        .members = env_members,
        .installed = env_installed,
        .fatal = env_fatal,
    };
    struct host_options options = small.options;
    options.seed = id;
    options.store = small.stores[id];
    options.pairs = (struct pairs_options){.node = id,
                                           .incarnation = ++node->incarnation,
                                           .lease_ns = 60 * SMALL_MS,
                                           .beat_ns = 20 * SMALL_MS,
                                           .idle_lease_ns = 300 * SMALL_MS,
                                           .idle_beat_ns = 100 * SMALL_MS,
                                           .idle_after_ns = 1000 * SMALL_MS,
                                           .drift_ppm = 1000,
                                           .ceiling_ahead_ns = 250 * SMALL_MS};
    cr_assert(!node->up);
    node->id = id;
    node->up = true;
    cr_assert_eq(host_create(&options, &env, &node->host), SLUICE_OK);
    for (size_t i = 0; i < node->record_count; i++)
        cr_assert_eq(host_recover(node->host, &node->records[i]), SLUICE_OK);
    host_start(node->host);
    for (uint16_t other = 1; other <= small.count; other++)
        host_peer_add(node->host, other);
    struct host_group group = {.group = 1,
                               .epoch = 1,
                               .memory_only = small.memory_only,
                               .amnesiac = small.memory_only && node->incarnation > 1,
                               .since = small.joined >> id & 1,
                               .lost = (small.lost >> id & 1) != 0};
    for (uint16_t other = 1; other <= small.count; other++)
        if (small.founders == 0 || (small.founders >> other & 1) != 0)
            group.replicas[group.replica_count++] = other;
    cr_assert_eq(host_group_add(node->host, &group), SLUICE_OK);
}

void small_stop(uint16_t id)
{
    struct small_node *node = &small.nodes[id];
    cr_assert(node->up);
    node->up = false;
    host_destroy(node->host);
    node->host = NULL;
}

void small_open(uint32_t count)
{
    memset(&small, 0, sizeof(small));
    log_set_level(LOG_LEVEL_NONE);
    small.options.window = 64;
    small.now = 1000 * SMALL_MS;
    small.wall = UINT64_C(1700000000) * 1000 * SMALL_MS;
    small.count = count;
    small.frames_tail = &small.frames;
}

void small_close(void)
{
    for (uint16_t id = 1; id <= SMALL_NODES_MAX; id++) {
        struct small_node *node = &small.nodes[id];
        if (node->up)
            small_stop(id);
        for (size_t i = 0; i < node->record_count; i++)
            buf_unref(node->records[i].entry.body);
        free(node->records);
    }
    while (small.frames != NULL) {
        struct small_frame *next = small.frames->next;
        free(small.frames);
        small.frames = next;
    }
    memset(&small, 0, sizeof(small));
}

static void deliver(struct small_frame *frame)
{
    struct small_node *node = &small.nodes[frame->to];
    if (node->up && !small.cut[frame->from][frame->to] && (small.filter == NULL || small.filter(frame)))
        host_peer_message(node->host, frame->from, frame->data, frame->size);
    free(frame);
}

static void step(void)
{
    for (int turn = 0; turn < 8; turn++) {
        struct small_frame *list = small.frames;
        small.frames = NULL;
        small.frames_tail = &small.frames;
        while (list != NULL) {
            struct small_frame *next = list->next;
            deliver(list);
            list = next;
        }
        for (uint16_t id = 1; id <= small.count; id++) {
            struct small_node *node = &small.nodes[id];
            if (!node->up)
                continue;
            if (node->tickets < node->submitted) {
                node->tickets = node->submitted;
                host_persisted(node->host, node->tickets);
            }
            host_tick(node->host);
            host_flush(node->host);
        }
    }
}

void small_run(uint64_t ns)
{
    for (uint64_t end = small.now + ns; small.now < end; small.now += SMALL_MS)
        step();
}

bool small_until(bool (*condition)(void), uint64_t ns)
{
    for (uint64_t end = small.now + ns; small.now < end && !condition(); small.now += SMALL_MS)
        step();
    return condition();
}

struct replica *small_replica(uint16_t id)
{
    return host__replica(small.nodes[id].host, 1);
}

uint16_t small_leader(void)
{
    for (uint16_t id = 1; id <= small.count; id++)
        if (small.nodes[id].up && small_replica(id)->leading)
            return id;
    return 0;
}

static bool led(void)
{
    return small_leader() != 0;
}

uint16_t small_wait_leader(void)
{
    cr_assert(small_until(led, 5000 * SMALL_MS), "nobody leads");
    return small_leader();
}

void small_send_write(uint16_t id, struct small_link *link, const char *key, const void *value, size_t size,
                      uint64_t deadline)
{
    static uint64_t requests;
    size_t key_size = strlen(key), operation_size = wire_operation_bytes(key_size, 0, size);
    size_t body_size = sizeof(struct wire_command) + operation_size;
    uint8_t *data = calloc(1, sizeof(struct wire_header) + body_size);
    struct wire_header header = {.magic = WIRE_MAGIC,
                                 .version = WIRE_VERSION,
                                 .type = WIRE_WRITE,
                                 .body_size = (uint32_t)body_size,
                                 .request_id = ++requests,
                                 .shard = 1};
    const struct wire_command command = {.version = 1,
                                         .kind = WIRE_COMMAND_WRITE,
                                         .operation_count = 1,
                                         .size = (uint32_t)body_size,
                                         .client = small.client,
                                         .sequence = small.client == 0 ? 0 : small.sequence,
                                         .deadline = deadline};
    const struct wire_operation operation = {.kind = WIRE_PUT,
                                             .key_size = (uint16_t)key_size,
                                             .value_size = (uint32_t)size,
                                             .size = (uint32_t)operation_size};
    uint8_t *body = data + sizeof(header);
    memcpy(body, &command, sizeof(command));
    memcpy(body + sizeof(command), &operation, sizeof(operation));
    memcpy(body + sizeof(command) + sizeof(operation), key, key_size);
    memcpy(body + sizeof(command) + wire_operation_value_offset(key_size, 0), value, size);
    header.body_crc = crc32c(body, body_size);
    memcpy(data, &header, sizeof(header));
    host_client_message(small.nodes[id].host, link, data, sizeof(header) + body_size);
    free(data);
}

void small_send_get(uint16_t id, struct small_link *link, const char *key, uint32_t flags)
{
    static uint64_t requests;
    uint8_t data[sizeof(struct wire_header) + sizeof(struct wire_query) + 64] __attribute__((aligned(8))) = {0};
    size_t key_size = strlen(key);
    const struct wire_query query = {.version = 1, .key_size = (uint16_t)key_size, .length = UINT64_MAX};
    const struct wire_header header = {.magic = WIRE_MAGIC,
                                       .version = WIRE_VERSION,
                                       .type = WIRE_GET,
                                       .body_size = (uint32_t)(sizeof(query) + key_size),
                                       .request_id = ++requests,
                                       .shard = 1,
                                       .flags = flags};
    memcpy(data, &header, sizeof(header));
    memcpy(data + sizeof(header), &query, sizeof(query));
    memcpy(data + sizeof(header) + sizeof(query), key, key_size);
    host_client_message(small.nodes[id].host, link, data, sizeof(header) + header.body_size);
}

static struct small_link *waited;

static bool answered(void)
{
    return waited->replies > 0;
}

void small_put(const char *key, const void *value, size_t size)
{
    static struct small_link link;
    for (int i = 0; i < 100; i++) {
        memset(&link, 0, sizeof(link));
        waited = &link;
        small_send_write(small_wait_leader(), &link, key, value, size, 0);
        if (small_until(answered, 1000 * SMALL_MS) && link.header.status == SLUICE_OK)
            return;
        small_run(5 * SMALL_MS);
    }
    cr_assert_fail("a write was answered by status %u: %.*s", link.header.status, (int)link.size, (char *)link.body);
}

enum sluice_status small_get(const char *key, char *value, size_t room)
{
    static struct small_link link;
    memset(&link, 0, sizeof(link));
    waited = &link;
    small_send_get(small_wait_leader(), &link, key, 0);
    cr_assert(small_until(answered, 6000 * SMALL_MS), "a read was not answered");
    struct wire_record_view view;
    size_t offset = 0;
    if (link.header.status == SLUICE_OK && wire_record_next(link.body, link.size, &offset, &view) == 1) {
        size_t size = view.record->carried_size < room ? view.record->carried_size : room;
        memcpy(value, view.value, size);
        if (size < room)
            value[size] = 0;
    }
    return (enum sluice_status)link.header.status;
}

void small_inject(uint16_t from, uint16_t to, const void *data, size_t size)
{
    const struct slice part = {data, size};
    push(from, to, &part, 1);
}

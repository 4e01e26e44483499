/* Clients: each does one operation after another, asks another node when no answer comes, and gives up at its deadline.
 */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "core/base/crc.h"
#include "tests/sim/sim.h"

#define ATTEMPT_NS  (150 * NS_PER_MS)
#define PATIENCE_NS (3 * NS_PER_S)
#define FAITHFUL_NS NS_PER_S /* who asks one node alone: perhaps one that stands still and led when it last ran */

static void begin(struct sim_client *client);
static void attempt(struct sim_client *client);

void sim_note(const struct sim_operation *operation)
{
    if (sim.history_count == sim.history_capacity) {
        sim.history_capacity = sim.history_capacity == 0 ? 1024 : sim.history_capacity * 2;
        sim.history = realloc(sim.history, sim.history_capacity * sizeof(*sim.history));
    }
    sim.history[sim.history_count++] = *operation;
    bool writes = operation->kind <= SIM_DELETE;
    sim.totals.acknowledged += operation->ended != 0 && writes && !operation->failed;
    sim.totals.reads += operation->ended != 0 && !writes;
    if (sim.verbose)
        printf("line %zu: %8.3f client %u %s key %u value %llu version %llu%s%s\n", sim.history_count,
               (double)sim.now / 1e6, operation->client, operation->kind <= SIM_DELETE ? "write" : "read",
               operation->key, (unsigned long long)operation->value, (unsigned long long)operation->version,
               operation->ended == 0 ? " unknown" : "", operation->failed ? " failed" : "");
}

static void begin_event(struct sim_event *event)
{
    begin(event->arg);
    free(event);
}

static void finish(struct sim_client *client, bool answered)
{
    client->now->ended = answered ? sim.now : 0;
    sim_note(client->now);
    free(client->now);
    client->now = NULL;
    sim_after(random_below(&sim.random, 20 * NS_PER_MS), begin_event, client);
}

static void retry_event(struct sim_event *event)
{
    struct sim_client *client = event->arg;
    if (client->now != NULL && client->attempt == event->c)
        attempt(client);
    free(event);
}

static void arrive(struct sim_event *event)
{
    struct sim_node *node = &sim.nodes[event->a];
    if (node->up) {
        if (sim_node_hold(node, event))
            return;
        host_client_message(node->host, (void *)(uintptr_t)(event->b + 1), event->data, event->size);
        sim_node_round(node);
    }
    free(event->data);
    free(event);
}

static size_t write_body(const struct sim_client *client, uint8_t *out)
{
    const struct sim_operation *now = client->now;
    char key[16], value[24];
    size_t key_size = sim_key_name(now->key, key);
    size_t value_size =
        now->kind == SIM_DELETE ? 0 : (size_t)snprintf(value, sizeof(value), "%llu", (unsigned long long)now->value);
    struct wire_operation operation = {
        .kind = now->kind == SIM_DELETE ? WIRE_DELETE : WIRE_PUT,
        .flags = now->kind == SIM_PUT_IF       ? WIRE_IF_VERSION
                 : now->kind == SIM_PUT_ABSENT ? WIRE_IF_ABSENT
                                               : 0,
        .key_size = (uint16_t)key_size,
        .value_size = (uint32_t)value_size,
        .if_version = now->condition,
    };
    operation.size = (uint32_t)wire_operation_bytes(key_size, 0, value_size);
    struct wire_command command = {
        .version = 1,
        .kind = WIRE_COMMAND_WRITE,
        .operation_count = 1,
        .size = (uint32_t)(sizeof(command) + operation.size),
        .client = client->id + 1,
        .sequence = client->sequence,
        .watermark = client->sequence,
    };
    memset(out, 0, command.size);
    memcpy(out, &command, sizeof(command));
    memcpy(out + sizeof(command), &operation, sizeof(operation));
    memcpy(out + sizeof(command) + sizeof(operation), key, key_size);
    memcpy(out + sizeof(command) + wire_operation_value_offset(key_size, 0), value, value_size);
    return command.size;
}

static size_t read_body(const struct sim_client *client, uint8_t *out)
{
    struct wire_query query = {.version = 1, .length = UINT64_MAX};
    char key[16];
    query.key_size = (uint16_t)sim_key_name(client->now->key, key);
    if (client->now->kind == SIM_GET_AT) {
        query.flags = WIRE_QUERY_AT;
        query.at = client->now->at;
    }
    memcpy(out, &query, sizeof(query));
    memcpy(out + sizeof(query), key, query.key_size);
    return sizeof(query) + query.key_size;
}

/* Sends the operation to a node; whoever answers last is asked first next time. */
static void attempt(struct sim_client *client)
{
    if (sim.now >= client->deadline) {
        finish(client, false);
        return;
    }
    bool writes = client->now->kind <= SIM_DELETE;
    uint8_t frame[512] __attribute__((aligned(8)));
    uint8_t *body = frame + sizeof(struct wire_header);
    size_t size = writes ? write_body(client, body) : read_body(client, body);
    struct wire_header header = {
        .magic = WIRE_MAGIC,
        .version = WIRE_VERSION,
        .type = writes ? WIRE_WRITE : WIRE_GET,
        .body_size = (uint32_t)size,
        .request_id = ++client->attempt,
        .time = client->hlc,
        .shard = client->now->group,
        .timeout_ms = 1000,
        .body_crc = writes ? crc32c(body, size) : 0,
    };
    memcpy(frame, &header, sizeof(header));
    bool faithful = client->now->kind == SIM_GET && random_below(&sim.random, 4) == 0;
    sim_after(faithful ? FAITHFUL_NS : ATTEMPT_NS, retry_event, client)->c = client->attempt;
    uint32_t node = client->node;
    client->node = 1 + node % sim.node_count;
    if (sim_fault(sim.faults.lose))
        return;
    const struct slice part = {frame, sizeof(header) + size};
    client->damaged = false;
    for (uint32_t copies = sim_fault(sim.faults.twice) ? 2 : 1; copies > 0; copies--) {
        struct sim_event *event = sim_frame(sim_link_delay(), arrive, &part, 1);
        event->a = node;
        event->b = client->id;
        client->damaged |= sim_corrupt(event->data, event->size);
    }
}

struct sim_operation *sim_operation_draw(uint32_t client)
{
    struct sim_operation *now = calloc(1, sizeof(*now));
    ASSERT(now != NULL);
    static const enum sim_kind kinds[] = {SIM_PUT,    SIM_PUT, SIM_PUT, SIM_PUT_IF, SIM_PUT_ABSENT,
                                          SIM_DELETE, SIM_GET, SIM_GET, SIM_GET,    SIM_GET_AT};
    now->kind = kinds[random_below(&sim.random, sizeof(kinds) / sizeof(kinds[0]))];
    now->client = client;
    now->key = (uint32_t)random_below(&sim.random, SIM_KEYS);
    now->group = sim_group_of_key(now->key);
    now->started = sim.now;
    now->condition = 1 + random_below(&sim.random, 40);
    for (size_t i = sim.history_count; now->kind == SIM_PUT_IF && i > 0 && i + 20 > sim.history_count; i--)
        if (sim.history[i - 1].key == now->key && sim.history[i - 1].ended != 0 && sim.history[i - 1].version != 0)
            now->condition = sim.history[i - 1].version;
    if (now->kind <= SIM_PUT_ABSENT)
        now->value = ++sim.values;
    /* About now by some node's clock: it has to be closed before it is answered. */
    now->at = sim_realtime(&sim.nodes[1 + random_below(&sim.random, sim.node_count)]) -
              random_below(&sim.random, 100 * NS_PER_MS);
    /* Who asks for a far future waits, and does no harm. */
    if (random_below(&sim.random, 64) == 0)
        now->at += random_below(&sim.random, UINT64_C(1) << random_below(&sim.random, 62));
    return now;
}

static void begin(struct sim_client *client)
{
    if (client->id >= sim.client_count)
        return; /* the run is ending */
    if (sim.now < sim.quiet_until) {
        sim_after(sim.quiet_until - sim.now, begin_event, client);
        return;
    }
    struct sim_operation *now = sim_operation_draw(client->id);
    client->now = now;
    client->sequence++;
    client->deadline = sim.now + PATIENCE_NS;
    attempt(client);
}

static uint64_t number_of(const void *data, size_t size)
{
    char text[24] = "";
    memcpy(text, data, size < sizeof(text) ? size : sizeof(text) - 1);
    return strtoull(text, NULL, 10);
}

static void take_record(struct sim_operation *now, const struct wire_header *header, const uint8_t *body)
{
    struct wire_record_view view;
    size_t offset = 0;
    if (wire_record_next(body, header->body_size, &offset, &view) != 1)
        sim_fail("a reply's record is malformed");
    now->version = view.record->version;
    now->time = view.record->time;
    now->deleted = (view.record->flags & WIRE_RECORD_TOMBSTONE) != 0;
    now->seen = true;
    if (now->kind >= SIM_GET && view.record->carried_size > 0)
        now->value = number_of(view.value, view.record->carried_size);
}

void sim_client_reply(uint32_t id, const uint8_t *data, size_t size)
{
    struct sim_client *client = &sim.clients[id];
    struct wire_header header;
    ASSERT(size >= sizeof(header));
    memcpy(&header, data, sizeof(header));
    if (client->now == NULL || header.type != WIRE_REPLY || header.request_id != client->attempt || client->damaged)
        return;
    if (header.time > client->hlc)
        client->hlc = header.time;
    uint8_t *body = malloc(size + 8); /* aligned, as the fabric's is */
    ASSERT(body != NULL);
    memcpy(body, data + sizeof(header), size - sizeof(header));
    struct sim_operation *now = client->now;
    bool again = false;
    switch (header.status) {
    case SLUICE_OK:
        take_record(now, &header, body);
        break;
    case SLUICE_NOT_FOUND:
        now->failed = now->kind <= SIM_DELETE;
        now->seen = true;
        now->version = 0;
        break;
    case SLUICE_DELETED:
    case SLUICE_CONDITION_FAILED:
        now->failed = now->kind <= SIM_DELETE;
        if (header.flags & WIRE_FLAG_RECORD)
            take_record(now, &header, body);
        now->seen = true;
        now->deleted = now->kind >= SIM_GET;
        break;
    default:
        again = true; /* another leader, no quorum, busy, outcome unknown: the same request again */
        break;
    }
    free(body);
    if (!again) {
        client->node = 1 + (client->node + sim.node_count - 2) % sim.node_count;
        finish(client, true);
        return;
    }
    if (header.status == SLUICE_NOT_LEADER && header.node != 0)
        client->node = header.node;
    client->attempt++;
    sim_after(5 * NS_PER_MS + random_below(&sim.random, 20 * NS_PER_MS), retry_event, client)->c = client->attempt;
}

void sim_clients_start(void)
{
    for (uint32_t i = 0; i < sim.client_count; i++) {
        sim.clients[i].id = i;
        sim.clients[i].node = 1 + i % sim.node_count;
        sim_after(random_below(&sim.random, 50 * NS_PER_MS), begin_event, &sim.clients[i]);
    }
}

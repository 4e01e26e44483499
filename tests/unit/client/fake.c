#include "tests/unit/client/fake.h"

#include <unistd.h>

#define TURN_NS (200 * NS_PER_US)

bool fake_in_client;

/* Time stands still within a turn and passes between them, so that nothing depends on how busy the machine is. */
static uint64_t now_ns = NS_PER_S;
uint64_t __wrap_clock_monotonic_ns(void);
uint64_t __wrap_clock_monotonic_ns(void)
{
    return now_ns;
}

static const uint8_t cluster[16] = {1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15, 16};

/* --- Nodes --- */

static struct wire_header header_of(const struct fake *node, uint8_t type, uint64_t request_id, size_t size)
{
    return (struct wire_header){
        .magic = WIRE_MAGIC,
        .version = WIRE_VERSION,
        .type = type,
        .body_size = (uint32_t)size,
        .request_id = request_id,
        .time = node->bed->time,
        .map_epoch = node->bed->epoch,
        .node = node->id,
    };
}

static void send(struct fabric_link *link, const struct wire_header *header, const void *body, size_t size)
{
    const struct slice parts[2] = {{header, sizeof(*header)}, {body, size}};
    enum sluice_status status = fabric_send(link, parts, size > 0 ? 2 : 1, NULL, 0, 0);
    cr_assert(status == SLUICE_OK || status == SLUICE_CLOSED);
}

void fake_reply(struct fake *node, struct fabric_link *link, const struct wire_header *request,
                enum sluice_status status, uint32_t flags, const void *body, size_t size)
{
    struct wire_header header = header_of(node, WIRE_REPLY, request->request_id, size);
    header.shard = request->shard;
    header.status = status;
    header.flags = flags;
    send(link, &header, body, size);
}

void fake_changed(struct fake *node, struct fabric_link *link, const struct wire_header *request, const char *text)
{
    struct wire_header header = header_of(node, WIRE_REPLY, request->request_id, strlen(text));
    header.map_epoch++;
    send(link, &header, text, strlen(text));
}

void fake_refuse(struct fake *node, struct fabric_link *link, const struct wire_header *request,
                 enum sluice_status status, const char *text)
{
    fake_reply(node, link, request, status, 0, text, strlen(text));
}

void fake_not_leader(struct fake *node, struct fabric_link *link, const struct wire_header *request, uint16_t leader)
{
    struct wire_header header = header_of(node, WIRE_REPLY, request->request_id, 0);
    header.shard = request->shard;
    header.status = SLUICE_NOT_LEADER;
    header.node = leader;
    send(link, &header, NULL, 0);
}

void fake_event(struct fake *node, struct fabric_link *link, uint64_t request_id, uint32_t flags, uint64_t time,
                const void *body, size_t size)
{
    struct wire_header header = header_of(node, WIRE_EVENT, request_id, size);
    header.flags = flags;
    header.time = time;
    send(link, &header, body, size);
}

void fake_add(struct bytes *out, const struct fake_record *record)
{
    static const uint8_t padding[8];
    size_t key_size = strlen(record->key), value_size = record->value == NULL ? 0 : strlen(record->value);
    const struct wire_record head = {
        .flags = (uint16_t)((record->tombstone ? WIRE_RECORD_TOMBSTONE : 0) |
                            (record->value != NULL ? WIRE_RECORD_VALUE : 0)),
        .key_size = (uint16_t)key_size,
        .content_type_size = 1,
        .value_size = (uint32_t)value_size,
        .carried_size = (uint32_t)value_size,
        .shard = record->shard,
        .operation = record->operation,
        .version = record->version,
        .revision = record->revision,
        .epoch = record->epoch == 0 ? 1 : record->epoch,
        .time = record->time,
        .object_time = record->time,
    };
    size_t plain = sizeof(head) + key_size + 1 + value_size;
    cr_assert_eq(bytes_append(out, &head, sizeof(head)), SLUICE_OK);
    cr_assert_eq(bytes_append(out, record->key, key_size), SLUICE_OK);
    cr_assert_eq(bytes_append(out, "t", 1), SLUICE_OK);
    if (value_size > 0)
        cr_assert_eq(bytes_append(out, record->value, value_size), SLUICE_OK);
    cr_assert_eq(bytes_append(out, padding, wire_pad(plain) - plain), SLUICE_OK);
}

void fake_written(struct fake *node, struct fabric_link *link, const struct wire_header *request, const uint8_t *body)
{
    const struct wire_command *command = NULL;
    const char *why = NULL;
    struct wire_operation_view view;
    size_t offset = 0;
    struct bytes out = {0};
    cr_assert_eq(wire_command_read(body, request->body_size, &command, &why), SLUICE_OK, "%s", why);
    while (command->kind == WIRE_COMMAND_WRITE && wire_operation_next(command, &offset, &view)) {
        char key[64];
        snprintf(key, sizeof(key), "%.*s", (int)view.operation->key_size, view.key);
        fake_add(&out, &(struct fake_record){.key = key,
                                             .version = 1,
                                             .revision = 1,
                                             .time = node->bed->time,
                                             .shard = request->shard,
                                             .tombstone = view.operation->kind == WIRE_DELETE});
    }
    fake_reply(node, link, request, SLUICE_OK, 0, out.data, out.size);
    bytes_free(&out);
}

static void tell_map(struct fake *node, struct fabric_link *link)
{
    if (node->bed->map == NULL)
        return;
    size_t size = strlen(node->bed->map);
    struct wire_header header = header_of(node, WIRE_REPLY, 0, size);
    header.flags = WIRE_FLAG_MORE;
    send(link, &header, node->bed->map, size);
}

static void link_gone(struct fake *self, unsigned index)
{
    self->links[index] = self->links[--self->link_count];
    self->map_asked[index] = self->map_asked[self->link_count];
}

static void handle(void *arg, const struct fabric_event *event)
{
    struct fake *self = arg;
    unsigned index = 0;
    while (index < self->link_count && self->links[index] != event->link)
        index++;
    if (event->type == FABRIC_LINK_UP) {
        cr_assert_lt(self->link_count, FAKE_LINKS_MAX);
        self->map_asked[self->link_count] = false;
        self->links[self->link_count++] = event->link;
    } else if (event->type == FABRIC_LINK_DOWN && index < self->link_count) {
        link_gone(self, index);
    } else if (event->type == FABRIC_MESSAGE && index < self->link_count) {
        const struct wire_header *header = NULL;
        const char *why = NULL;
        cr_assert_eq(wire_header_read(event->data, event->size, &header, &why), SLUICE_OK, "%s", why);
        self->asked[header->type]++;
        if (header->type == WIRE_MAP) {
            self->map_asked[index] = true;
            if (header->map_epoch < self->bed->epoch)
                tell_map(self, event->link);
        } else if (self->bed->script != NULL) {
            self->bed->script(self, event->link, header, event->data + sizeof(*header));
        }
    }
}

void fake_up(struct fake *self)
{
    char error[256] = "";
    const struct fabric_options options = {
        .size = sizeof(options),
        .identity = {.role = FABRIC_ROLE_NODE, .node = self->id, .incarnation = 1},
    };
    struct fabric_options with = options;
    memcpy(with.identity.cluster, cluster, sizeof(cluster));
    cr_assert_eq(fabric_create(&with, &self->fabric), SLUICE_OK);
    cr_assert_eq(fabric_listen(self->fabric, self->address, error, sizeof(error)), SLUICE_OK, "%s", error);
}

void fake_down(struct fake *self)
{
    if (self->fabric != NULL)
        fabric_destroy(self->fabric);
    self->fabric = NULL;
    self->link_count = 0;
}

void fake_cut(struct fake *self)
{
    while (self->link_count > 0) {
        struct fabric_link *link = self->links[0];
        link_gone(self, 0);
        fabric_link_close(link);
    }
}

/* --- The map --- */

uint16_t bed_leader(const struct bed *self, uint32_t shard)
{
    return (uint16_t)((shard - 1) % self->count + 1);
}

static void add_shard(const struct bed *self, struct bytes *out, uint32_t shard)
{
    cr_assert_eq(bytes_printf(out, "%s{\"id\":%u,\"epoch\":1,\"replicas\":[", shard == 1 ? "" : ",", shard), SLUICE_OK);
    for (unsigned i = 0; i < self->count; i++)
        cr_assert_eq(bytes_printf(out, "%s{\"node\":%u,\"incarnation\":\"0\"}", i == 0 ? "" : ",",
                                  (bed_leader(self, shard) - 1 + i) % self->count + 1),
                     SLUICE_OK);
    cr_assert_eq(bytes_printf(out, "]}"), SLUICE_OK);
}

void bed_map(struct bed *self, const char *pools, const char *shards, uint32_t next_shard)
{
    struct bytes out = {0};
    self->epoch++;
    cr_assert_eq(bytes_printf(&out,
                              "{\"format\":1,\"epoch\":%llu,\"cluster\":\"0102030405060708090a0b0c0d0e0f10\","
                              "\"next_shard\":%u,\"nodes\":[",
                              (unsigned long long)self->epoch, next_shard),
                 SLUICE_OK);
    for (unsigned i = 0; i < self->count; i++)
        cr_assert_eq(bytes_printf(&out, "%s{\"id\":%u,\"incarnation\":\"1\",\"addresses\":[\"%s\"]}", i == 0 ? "" : ",",
                                  self->nodes[i].id, self->nodes[i].address),
                     SLUICE_OK);
    cr_assert_eq(bytes_printf(&out,
                              "],\"pools\":[{\"prefix\":\"\",\"kind\":\"persistent\",\"state\":\"live\",\"replicas\":3,"
                              "\"affinity\":null,\"shards\":[1,2,3,4],\"retention\":{},\"lateness\":\"0\"}%s],"
                              "\"shards\":[",
                              pools),
                 SLUICE_OK);
    for (uint32_t shard = 1; shard <= 4; shard++)
        add_shard(self, &out, shard);
    cr_assert_eq(
        bytes_printf(&out, "%s],\"lambdas\":[%s]}%c", shards, self->lambdas == NULL ? "" : self->lambdas, '\0'),
        SLUICE_OK);
    free(self->map);
    self->map = (char *)out.data;
    for (unsigned i = 0; i < self->count; i++)
        for (unsigned k = 0; k < self->nodes[i].link_count; k++)
            if (self->nodes[i].map_asked[k])
                tell_map(&self->nodes[i], self->nodes[i].links[k]);
}

/* --- The bed --- */

void bed_open(struct bed *self, unsigned count, fake_script script)
{
    static unsigned number;
    const char *addresses[FAKE_NODES_MAX];
    *self = (struct bed){.count = count, .script = script, .time = clock_realtime_ns()};
    for (unsigned i = 0; i < count; i++) {
        struct fake *node = &self->nodes[i];
        node->bed = self;
        node->id = (uint16_t)(i + 1);
        snprintf(node->address, sizeof(node->address), "shm:fake-%d-%u-%u", (int)getpid(), number, i);
        addresses[i] = node->address;
        fake_up(node);
    }
    number++;
    bed_map(self, "", "", 5);
    const struct sluice_options options = {.size = sizeof(options), .nodes = addresses, .node_count = count};
    cr_assert_eq(sluice_open(&options, &self->client), SLUICE_OK);
}

void bed_close(struct bed *self)
{
    sluice_close(self->client);
    for (unsigned i = 0; i < self->count; i++)
        fake_down(&self->nodes[i]);
    free(self->map);
}

/* Who has armed its fabric looks at its sockets in the next poll, and not only every few milliseconds. */
static void turn(struct bed *self)
{
    for (unsigned i = 0; i < self->count; i++)
        if (self->nodes[i].fabric != NULL) {
            (void)fabric_arm(self->nodes[i].fabric);
            (void)fabric_poll(self->nodes[i].fabric, 1000, handle, &self->nodes[i]);
            fabric_flush(self->nodes[i].fabric);
            if (self->nodes[i].dying)
                fake_down(&self->nodes[i]);
            self->nodes[i].dying = false;
        }
    if (self->client != NULL) {
        fake_in_client = true;
        (void)sluice_arm(self->client);
        sluice_process(self->client);
        fake_in_client = false;
    }
    now_ns += TURN_NS;
}

void bed_run(struct bed *self, const volatile bool *done, uint32_t ms)
{
    uint64_t end = clock_monotonic_ns() + ms * NS_PER_MS;
    while (!*done) {
        cr_assert_lt(clock_monotonic_ns(), end, "nothing came in %u ms", ms);
        turn(self);
    }
}

void bed_wait(struct bed *self, const volatile unsigned *count, unsigned least, uint32_t ms)
{
    uint64_t end = clock_monotonic_ns() + ms * NS_PER_MS;
    while (*count < least) {
        cr_assert_lt(clock_monotonic_ns(), end, "%u came in %u ms, not %u", *count, ms, least);
        turn(self);
    }
}

void bed_idle(struct bed *self, uint32_t ms)
{
    uint64_t end = clock_monotonic_ns() + ms * NS_PER_MS;
    while (clock_monotonic_ns() < end)
        turn(self);
}

/* --- Answers --- */

static char *copy_of(const char *text)
{
    return text == NULL ? NULL : strdup(text);
}

void got_answer(void *arg, const struct sluice_answer *answer)
{
    struct got *self = arg;
    got_free(self);
    unsigned calls = self->calls + 1;
    *self = (struct got){.done = true,
                         .calls = calls,
                         .status = answer->status,
                         .json = copy_of(answer->json),
                         .cursor = copy_of(answer->cursor),
                         .watch_cursor = copy_of(answer->watch_cursor),
                         .count = answer->object_count,
                         .prefix_count = answer->prefix_count,
                         .at = answer->at_ns,
                         .retry_after_ms = answer->retry_after_ms,
                         .replayed = answer->replayed,
                         .durable = answer->durable};
    cr_assert_not_null(answer->detail);
    snprintf(self->detail, sizeof(self->detail), "%s", answer->detail);
    for (size_t i = 0; i < answer->object_count && i < 64; i++) {
        const struct sluice_object *object = &answer->objects[i];
        snprintf(self->keys[i], sizeof(self->keys[i]), "%.*s", (int)object->key_size, object->key);
        self->versions[i] = object->version;
        self->epochs[i] = object->epoch;
        self->deleted[i] = object->deleted;
        self->data_size[i] = object->data_size;
        self->size = object->size;
        if (object->data_size > 0 && object->data_size < sizeof(self->data[i]))
            memcpy(self->data[i], object->data, object->data_size);
    }
    for (size_t i = 0; i < answer->prefix_count && i < 64; i++)
        snprintf(self->prefixes[i], sizeof(self->prefixes[i]), "%.*s", (int)answer->prefix_sizes[i],
                 answer->prefixes[i]);
}

void got_free(struct got *self)
{
    free(self->json);
    free(self->cursor);
    free(self->watch_cursor);
    self->json = self->cursor = self->watch_cursor = NULL;
}

void start_put(struct bed *bed, const char *key, const char *value, uint32_t timeout_ms, struct got *got)
{
    const struct sluice_operation operation = {.kind = SLUICE_PUT,
                                               .key = key,
                                               .key_size = strlen(key),
                                               .content_type = "text/plain",
                                               .content_type_size = 10,
                                               .data = value,
                                               .data_size = strlen(value)};
    const struct sluice_write request = {
        .call = {.timeout_ms = timeout_ms}, .operations = &operation, .operation_count = 1};
    got->done = false;
    sluice_write(bed->client, &request, got_answer, got);
}

void start_get(struct bed *bed, const char *key, uint32_t timeout_ms, struct got *got)
{
    const struct sluice_get request = {.call = {.timeout_ms = timeout_ms}, .key = key, .key_size = strlen(key)};
    got->done = false;
    sluice_get(bed->client, &request, got_answer, got);
}

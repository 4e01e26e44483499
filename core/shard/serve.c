/* Core RPC: requests of clients to the shards, and their answers. */
#include <stdlib.h>
#include <string.h>

#include "core/base/crc.h"
#include "core/base/text.h"
#include "core/shard/host__.h"

void serve__send(struct host *self, void *link, const struct wire_header *header, const struct slice *parts,
                 unsigned count, struct buf *payload, uint32_t offset, uint32_t size)
{
    struct slice all[4] = {{header, sizeof(*header)}};
    ASSERT(count <= 3);
    for (unsigned i = 0; i < count; i++)
        all[1 + i] = parts[i];
    self->env.send_client(self->env.arg, link, all, count + 1, payload, offset, size);
}

struct wire_header serve__header(struct host *self, uint64_t request_id, uint32_t shard, enum sluice_status status,
                                 uint32_t flags, size_t body_size)
{
    return (struct wire_header){
        .magic = WIRE_MAGIC,
        .version = WIRE_VERSION,
        .type = WIRE_REPLY,
        .body_size = (uint32_t)body_size,
        .request_id = request_id,
        .time = self->clock.last,
        .map_epoch = self->map_epoch,
        .shard = shard,
        .status = status,
        .flags = flags,
        .node = self->options.pairs.node,
    };
}

void host_reply(struct host *self, void *link, const struct wire_header *request, enum sluice_status status,
                uint32_t flags, const void *body, size_t size)
{
    const struct wire_header header = serve__header(self, request->request_id, request->shard, status, flags, size);
    const struct slice part = {body, size};
    serve__send(self, link, &header, &part, size > 0 ? 1 : 0, NULL, 0, 0);
}

void serve__text(struct host *self, void *link, const struct wire_header *request, enum sluice_status status,
                 const char *text)
{
    host_reply(self, link, request, status, 0, text, strlen(text));
}

void serve__elsewhere(struct replica *self, void *link, uint64_t request_id)
{
    struct host *host = self->host;
    uint32_t alive = (self->paxos.members.voters & paxos_mask(host->options.pairs.node)) != 0;
    uint64_t voters = self->paxos.members.voters;
    for (uint64_t rest = voters; rest != 0; rest &= rest - 1) {
        uint16_t node = (uint16_t)__builtin_ctzll(rest);
        if (node != host->options.pairs.node && pairs_alive(&host->pairs, node, 0, host__now(host)))
            alive++;
    }
    const char *text = "another replica leads this shard";
    enum sluice_status status = SLUICE_NOT_LEADER;
    if (voters != 0 && alive < quorum_size((uint32_t)__builtin_popcountll(voters))) {
        status = SLUICE_UNAVAILABLE;
        text = "this shard has lost its quorum: fewer than half of its replicas can be reached; nothing was applied";
    }
    struct wire_header header = serve__header(host, request_id, self->group, status, 0, strlen(text));
    header.node = self->paxos.leader == host->options.pairs.node ? 0 : self->paxos.leader;
    const struct slice part = {text, strlen(text)};
    serve__send(host, link, &header, &part, 1, NULL, 0, 0);
}

void serve__not_leader(struct replica *self, void *link, uint64_t request_id)
{
    if (link != NULL)
        serve__elsewhere(self, link, request_id);
}

void serve__lost(struct replica *self, const struct host__pending *who)
{
    static const char text[] =
        "the leader changed while the write was under way; it may have been applied: repeat it with the same key";
    if (who->link == NULL)
        return;
    const struct wire_header header =
        serve__header(self->host, who->request_id, self->group, SLUICE_OUTCOME_UNKNOWN, 0, sizeof(text) - 1);
    const struct slice part = {text, sizeof(text) - 1};
    serve__send(self->host, who->link, &header, &part, 1, NULL, 0, 0);
}

void serve__record(const struct replica *self, const struct version *version, uint32_t carried,
                   struct wire_record *record)
{
    *record = (struct wire_record){
        .flags =
            (uint16_t)(((version->flags & VERSION_TOMBSTONE) ? WIRE_RECORD_TOMBSTONE : 0) |
                       (carried > 0 || (version->value != NULL && version->value_size == 0) ? WIRE_RECORD_VALUE : 0)),
        .key_size = (uint16_t)version->key_size,
        .content_type_size = (uint16_t)version->content_type_size,
        .value_size = version->value_size,
        .carried_size = carried,
        .shard = self->group,
        .operation = version->operation,
        .version = version->version,
        .revision = version->revision,
        .epoch = self->epoch,
        .time = version->time,
        .object_time = version->object_time,
    };
}

enum sluice_status serve__append(struct bytes *out, const struct replica *self, const struct version *version,
                                 bool with_value)
{
    static const uint8_t padding[8];
    struct wire_record record;
    uint32_t carried = with_value && version->value != NULL ? version->value_size : 0;
    serve__record(self, version, carried, &record);
    if (!with_value)
        record.flags &= (uint16_t)~WIRE_RECORD_VALUE;
    size_t plain = sizeof(record) + version->key_size + version->content_type_size + carried;
    enum sluice_status status = bytes_reserve(out, wire_pad(plain));
    if (status == SLUICE_OK)
        status = bytes_append(out, &record, sizeof(record));
    if (status == SLUICE_OK)
        status = bytes_append(out, version->key, version->key_size);
    if (status == SLUICE_OK)
        status = bytes_append(out, version->content_type, version->content_type_size);
    if (status == SLUICE_OK && carried > 0)
        status = bytes_append(out, version->value, carried);
    if (status == SLUICE_OK)
        status = bytes_append(out, padding, wire_pad(plain) - plain);
    return status;
}

/* Was nothing there before this version, or a tombstone? */
static bool created(struct replica *self, const struct version *made)
{
    struct version before;
    const struct slice key = {made->key, made->key_size};
    if ((made->flags & VERSION_TOMBSTONE) != 0)
        return false;
    if (made->version == 1 || versions_by_version(self->versions, key, made->version - 1, false, &before) != SLUICE_OK)
        return true;
    bool tombstone = (before.flags & VERSION_TOMBSTONE) != 0;
    version_release(&before);
    return tombstone;
}

/* The versions that an entry made, as records. They are looked up: a replayed write's are in the past. */
static enum sluice_status written_records(struct replica *self, const struct entry *entry,
                                          const struct machine_outcome *outcome, struct bytes *out)
{
    const struct wire_command *command = NULL;
    const char *why = NULL;
    enum sluice_status status = wire_command_read(entry->body->data, entry->body->size, &command, &why);
    struct wire_operation_view view;
    size_t offset = 0;
    if (status != SLUICE_OK || command->kind != WIRE_COMMAND_WRITE)
        return status;
    while (wire_operation_next(command, &offset, &view)) {
        struct version version;
        struct slice key = {view.key, view.operation->key_size};
        status = versions_by_time(self->versions, key, outcome->time, false, &version);
        if (status != SLUICE_OK)
            return status;
        size_t at = out->size;
        status = serve__append(out, self, &version, false);
        if (status == SLUICE_OK && created(self, &version))
            ((struct wire_record *)(void *)(out->data + at))->flags |= WIRE_RECORD_CREATED;
        version_release(&version);
        if (status != SLUICE_OK)
            return status;
    }
    return SLUICE_OK;
}

/* 412, 404 and the count of a refused CLOSE_PREFIX carry the version that decided. */
static enum sluice_status refusal_record(struct replica *self, const struct machine_outcome *outcome, struct bytes *out)
{
    const struct version version = {.version = outcome->version,
                                    .revision = outcome->revision,
                                    .time = outcome->time,
                                    .operation = outcome->operation,
                                    .key = "",
                                    .content_type = ""};
    return serve__append(out, self, &version, false);
}

void serve__written(struct replica *self, const struct host__pending *who, const struct entry *entry,
                    const struct machine_outcome *outcome, char *reply)
{
    struct host *host = self->host;
    if (who->link == NULL)
        return;
    struct bytes body = {0};
    uint32_t flags = outcome->replayed ? WIRE_FLAG_REPLAYED : 0;
    enum sluice_status status = outcome->status, built = SLUICE_OK;
    if (who->type == WIRE_MAP_CHANGE) {
        const char *text = reply != NULL ? reply : outcome->detail;
        built = bytes_append(&body, text, strlen(text));
    } else if (status == SLUICE_OK) {
        built = written_records(self, entry, outcome, &body);
    } else if (outcome->version != 0) {
        flags |= WIRE_FLAG_RECORD;
        built = refusal_record(self, outcome, &body);
    } else {
        built = bytes_append(&body, outcome->detail, strlen(outcome->detail));
    }
    if (built != SLUICE_OK) {
        /* It is applied; what fails is telling so. A retry with the same name is answered from memory. */
        status = SLUICE_OUTCOME_UNKNOWN;
        body.size = 0;
    }
    const struct wire_header header = serve__header(host, who->request_id, self->group, status, flags, body.size);
    const struct slice part = {body.data, body.size};
    serve__send(host, who->link, &header, &part, body.size > 0 ? 1 : 0, NULL, 0, 0);
    bytes_free(&body);
}

enum sluice_status serve__query(const void *body, size_t size, const struct wire_query **query, const char **why)
{
    enum sluice_status status = wire_query_read(body, size, query, why);
    if (status != SLUICE_OK || ((*query)->flags & WIRE_QUERY_OBJECT_CLOCK) == 0)
        return status;
    *why = "reading by the object clock is not offered in this release; ask by platform time";
    return SLUICE_INVALID;
}

static const char *write_error(struct host *self, const struct wire_header *header, const struct wire_command *command)
{
    struct wire_operation_view view;
    size_t offset = 0;
    if (command->kind != WIRE_COMMAND_WRITE && (header->flags & WIRE_FLAG_ADMIN) == 0)
        return "this kind of command needs admin";
    if (command->kind == WIRE_COMMAND_CURSOR || command->kind == WIRE_COMMAND_OPEN_PREFIX ||
        command->kind == WIRE_COMMAND_CLOSE_PREFIX)
        return command->operation_count == 1 ? NULL : "one operation was expected";
    while (wire_operation_next(command, &offset, &view)) {
        const char *why = text_key_error(view.key, view.operation->key_size);
        if (why != NULL)
            return why;
        if (view.operation->key_size >= 8 && memcmp(view.key, "_sluice/", 8) == 0 &&
            (header->flags & WIRE_FLAG_ADMIN) == 0)
            return "keys below _sluice/ are the store's own";
        if ((view.operation->flags & WIRE_OBJECT_TIME) && view.operation->object_time == 0)
            return "an object time lies after 1970";
    }
    (void)self;
    return NULL;
}

static bool all_owned(struct replica *self, const struct wire_command *command)
{
    struct wire_operation_view view;
    size_t offset = 0;
    if (command->kind != WIRE_COMMAND_WRITE)
        return true;
    while (wire_operation_next(command, &offset, &view))
        if (!self->host->env.owns(self->host->env.arg, self->group, view.key, view.operation->key_size))
            return false;
    return true;
}

static void serve_write(struct replica *self, void *link, const struct wire_header *header, const uint8_t *body)
{
    struct host *host = self->host;
    const struct wire_command *command = NULL;
    const char *why = "malformed";
    enum sluice_status status = wire_command_read(body, header->body_size, &command, &why);
    if (status != SLUICE_OK) {
        serve__text(host, link, header, status, why);
        return;
    }
    if (crc32c(body, header->body_size) != header->body_crc) {
        serve__text(host, link, header, SLUICE_CORRUPT, "the write's checksum does not fit its bytes; send it again");
        return;
    }
    why = write_error(host, header, command);
    if (why != NULL) {
        serve__text(host, link, header, SLUICE_INVALID, why);
        return;
    }
    if (self->paxos.role != PAXOS_LEADER) {
        serve__elsewhere(self, link, header->request_id);
        return;
    }
    if (!all_owned(self, command)) {
        serve__text(host, link, header, SLUICE_STALE_MAP,
                    "the key belongs to another shard by the cluster map in force");
        return;
    }
    if (command->kind == WIRE_COMMAND_WRITE && host->env.storage_full(host->env.arg)) {
        serve__text(host, link, header, SLUICE_STORAGE_FULL,
                    "the leader's disk is nearly full, so that it takes no writes; free space or drop history");
        return;
    }
    if (self->memory_only && versions_full(self->versions)) {
        serve__text(host, link, header, SLUICE_STORAGE_FULL,
                    "the volatile pool's memory is used up; delete the pool or raise its limit");
        return;
    }
    if (command->deadline != 0 && host_time(host) > command->deadline && !machine_answered(self->machine, command)) {
        /* Its entry's time would lie beyond: that it is not proposed costs nobody anything. */
        serve__text(host, link, header, SLUICE_DEADLINE, "the write came after its deadline; it was not applied");
        return;
    }
    if (!replica__takes_writes(self) || !host__write_room(self, header->body_size)) {
        host->figures.refused_busy++;
        serve__text(host, link, header, SLUICE_BUSY,
                    "as many writes are in flight as the shard takes; nothing was applied, try again");
        return;
    }
    struct buf *copy = buf_dup(body, header->body_size);
    const struct host__pending who = {.link = link, .request_id = header->request_id, .type = WIRE_WRITE};
    if (copy == NULL || replica__queue(self, copy, header->body_crc, ENTRY_COMMAND, &who) != SLUICE_OK) {
        buf_unref(copy);
        serve__text(host, link, header, SLUICE_MEMORY, "the node is out of memory; nothing was applied");
        return;
    }
    host->figures.writes++;
}

static void serve_map_change(struct replica *self, void *link, const struct wire_header *header, const uint8_t *body)
{
    if (self->paxos.role != PAXOS_LEADER) {
        serve__elsewhere(self, link, header->request_id);
        return;
    }
    struct buf *copy = buf_dup(body, header->body_size);
    const struct host__pending who = {.link = link, .request_id = header->request_id, .type = WIRE_MAP_CHANGE};
    if (copy == NULL || !replica__takes_writes(self) || !host__load_room(self, header->body_size) ||
        replica__queue(self, copy, crc32c(body, header->body_size), ENTRY_MAP, &who) != SLUICE_OK) {
        buf_unref(copy);
        serve__text(self->host, link, header, SLUICE_BUSY,
                    "the map group takes no more changes now; nothing was applied, try again");
    }
}

void serve__message(struct host *self, void *link, const struct wire_header *header, const uint8_t *body)
{
    /* A client's clock may lead ours a little; more than that must not drag the cluster's time along. What this node
     * has seen already drags nothing. */
    uint64_t bound = self->env.realtime_ns(self->env.arg) + HLC_AHEAD_MAX_NS;
    if (bound < self->clock.last)
        bound = self->clock.last;
    if (header->time > bound || header->after > bound) {
        serve__text(self, link, header, SLUICE_INVALID,
                    "the request's time lies more than 500 ms ahead of this node's clock; set the clocks");
        return;
    }
    hlc_merge(&self->clock, header->time);
    hlc_merge(&self->clock, header->after);
    switch (header->type) {
    case WIRE_CANCEL:
        watch__cancel(self, link, header->request_id);
        self->env.control(self->env.arg, link, header, body);
        return;
    case WIRE_MAP:
    case WIRE_STATUS:
    case WIRE_TRANSFER:
    case WIRE_LAMBDA_CHECK:
    case WIRE_LAMBDA_STATUS:
    case WIRE_LAMBDA_LOG:
        self->env.control(self->env.arg, link, header, body);
        return;
    default:
        break;
    }
    struct replica *replica = host__replica(self, header->type == WIRE_MAP_CHANGE ? MAP_GROUP : header->shard);
    if (replica == NULL || (replica->group == MAP_GROUP) != (header->type == WIRE_MAP_CHANGE)) {
        serve__text(self, link, header, SLUICE_STALE_MAP, "this node holds no replica of that shard");
        return;
    }
    switch (header->type) {
    case WIRE_WRITE:
        serve_write(replica, link, header, body);
        break;
    case WIRE_MAP_CHANGE:
        serve_map_change(replica, link, header, body);
        break;
    case WIRE_GET:
    case WIRE_LIST:
    case WIRE_HISTORY:
    case WIRE_TIME:
        read__serve(replica, link, header, body);
        break;
    case WIRE_WATCH: {
        const struct wire_query *query = NULL;
        const char *why = "malformed";
        enum sluice_status status = serve__query(body, header->body_size, &query, &why);
        if (status != SLUICE_OK)
            serve__text(self, link, header, status, why);
        else if (replica->paxos.role != PAXOS_LEADER)
            serve__elsewhere(replica, link, header->request_id);
        else
            watch__start(replica, link, header, query);
        break;
    }
    default:
        serve__text(self, link, header, SLUICE_INVALID, "this type of request is not known here");
        break;
    }
}

#include "core/shard/peer.h"

#include <string.h>

#include "core/base/crc.h"

static uint32_t head_crc(const struct peer_header *self, const void *head)
{
    return crc32c_extend(crc32c(self, offsetof(struct peer_header, crc)), head, self->head_size);
}

void peer_header_seal(struct peer_header *self, const void *head, size_t size)
{
    self->head_size = (uint32_t)size;
    self->crc = head_crc(self, head);
}

enum sluice_status peer_header_check(const struct peer_header *self, const void *data, size_t size)
{
    return self->head_size <= size && self->crc == head_crc(self, data) ? SLUICE_OK : SLUICE_CORRUPT;
}

void peer_pairs_write(const struct pairs_message *message, struct peer_pairs *out)
{
    *out = (struct peer_pairs){
        .incarnation = message->incarnation,
        .peer_incarnation = message->peer_incarnation,
        .sent_ns = message->sent_ns,
        .lease_ns = message->lease_ns,
        .ceiling = message->ceiling,
        .defections = message->defections,
        .type = message->type,
        .version_min = PEER_VERSION_MIN,
        .version_max = PEER_VERSION,
    };
}

void peer_pairs_versions(const void *data, size_t size, uint8_t version, uint8_t *min, uint8_t *max)
{
    struct peer_pairs wire;
    *min = *max = version;
    if (size < sizeof(wire))
        return;
    memcpy(&wire, data, sizeof(wire));
    if (wire.version_max == 0)
        return;
    *min = wire.version_min;
    *max = wire.version_max;
}

uint8_t peer_version_agreed(uint8_t min, uint8_t max)
{
    uint8_t high = max < PEER_VERSION ? max : PEER_VERSION;
    return high >= min && high >= PEER_VERSION_MIN ? high : 0;
}

enum sluice_status peer_pairs_read(const void *data, size_t size, uint64_t time, struct pairs_message *out)
{
    struct peer_pairs wire;
    if (size != sizeof(wire))
        return SLUICE_INVALID;
    memcpy(&wire, data, sizeof(wire));
    if (wire.type != PAIRS_BEAT && wire.type != PAIRS_BEAT_ACK)
        return SLUICE_INVALID;
    *out = (struct pairs_message){
        .type = (uint8_t)wire.type,
        .incarnation = wire.incarnation,
        .peer_incarnation = wire.peer_incarnation,
        .sent_ns = wire.sent_ns,
        .lease_ns = wire.lease_ns,
        .ceiling = wire.ceiling,
        .defections = wire.defections,
        .time = time,
    };
    return SLUICE_OK;
}

void peer_paxos_write(const struct paxos_message *message, struct peer_paxos *out)
{
    *out = (struct peer_paxos){
        .type = message->type,
        .granted = message->granted,
        .learner = message->learner,
        .entry_count = message->entry_count,
        .epoch = message->epoch,
        .ballot = message->ballot,
        .first = message->first,
        .last = message->last,
        .stable = message->stable,
        .received = message->received,
        .persisted = message->persisted,
        .incarnation = message->incarnation,
        .peer_incarnation = message->peer_incarnation,
        .instance = message->instance,
        .since = message->since,
        .whole_from = message->whole_from,
        .defections = message->defections,
        .ceiling = message->ceiling,
        .stable_opened = message->stable_opened,
        .closed_time = message->closed_time,
        .closed_index = message->closed_index,
        .lost = message->lost,
        .read = message->read,
        .transfer = message->transfer,
    };
}

static enum sluice_status entry_take(const uint8_t *data, size_t size, size_t *offset, struct entry *out)
{
    uint32_t body_size = 0;
    enum sluice_status status = entry_header_read(data + *offset, size - *offset, out, &body_size);
    if (status != SLUICE_OK)
        return status;
    *offset += sizeof(struct entry_header);
    if (body_size > size - *offset)
        return SLUICE_INVALID;
    if (body_size > 0) {
        if (crc32c(data + *offset, body_size) != out->body_crc)
            return SLUICE_CORRUPT;
        out->body = buf_dup(data + *offset, body_size);
        if (out->body == NULL)
            return SLUICE_MEMORY;
    }
    size_t padded = ((size_t)body_size + 7) & ~(size_t)7;
    *offset += padded <= size - *offset ? padded : size - *offset;
    return SLUICE_OK;
}

bool peer_members(const struct entry *entry, struct entry_members *out)
{
    if (entry->kind != ENTRY_MEMBERS || entry->body == NULL || entry->body->size != sizeof(*out))
        return false;
    memcpy(out, entry->body->data, sizeof(*out));
    return out->voters != 0 && (out->voters & 1) == 0 && __builtin_popcountll(out->voters) <= PAXOS_REPLICAS_MAX;
}

enum sluice_status peer_paxos_read(const void *data, size_t size, uint32_t group, uint16_t from,
                                   struct paxos_message *out, struct entry *entries, uint32_t *count)
{
    struct peer_paxos wire;
    *count = 0;
    if (size < sizeof(wire))
        return SLUICE_INVALID;
    memcpy(&wire, data, sizeof(wire));
    if (wire.type < PAXOS_PREVOTE || wire.type > PAXOS_TRANSFER || wire.entry_count > PAXOS_MESSAGE_ENTRIES_MAX)
        return SLUICE_INVALID;
    out->type = wire.type;
    out->granted = wire.granted != 0;
    out->learner = wire.learner != 0;
    out->from = from;
    out->entry_count = wire.entry_count;
    out->epoch = wire.epoch;
    out->ballot = wire.ballot;
    out->first = wire.first;
    out->last = wire.last;
    out->stable = wire.stable;
    out->received = wire.received;
    out->persisted = wire.persisted;
    out->incarnation = wire.incarnation;
    out->peer_incarnation = wire.peer_incarnation;
    out->instance = wire.instance;
    out->since = wire.since;
    out->whole_from = wire.whole_from;
    out->defections = wire.defections;
    out->ceiling = wire.ceiling;
    out->stable_opened = wire.stable_opened;
    out->closed_time = wire.closed_time;
    out->closed_index = wire.closed_index;
    out->lost = wire.lost != 0;
    out->read = wire.read;
    out->transfer = wire.transfer;
    size_t offset = sizeof(wire);
    for (uint32_t i = 0; i < wire.entry_count; i++) {
        enum sluice_status status = entry_take(data, size, &offset, &entries[i]);
        if (status != SLUICE_OK)
            return status;
        *count = i + 1;
        if (entries[i].group != group || entries[i].index != wire.first + i || entries[i].epoch != wire.epoch)
            return SLUICE_INVALID;
        out->entries[i] = (struct paxos_message_entry){
            .ballot = entries[i].ballot,
            .time = entries[i].time,
            .opened = entries[i].opened,
            .size = entries[i].body == NULL ? 0 : entries[i].body->size,
            .flags = entries[i].kind,
        };
        struct entry_members members;
        if (entries[i].kind == ENTRY_MEMBERS && !peer_members(&entries[i], &members))
            return SLUICE_INVALID;
        if (entries[i].kind == ENTRY_MEMBERS) {
            out->entries[i].members = members.voters;
            out->entries[i].members_instance = members.instance;
        }
    }
    return offset == size ? SLUICE_OK : SLUICE_INVALID;
}

/* ---- Snapshots and repair ---- */

enum sluice_status peer_snapshot_read(const void *data, size_t size, struct peer_snapshot *out)
{
    if (size < sizeof(*out))
        return SLUICE_INVALID;
    memcpy(out, data, sizeof(*out));
    bool bare = size == sizeof(*out) && out->count == 0, ok = false;
    switch (out->type) {
    case PEER_SNAPSHOT_BEGIN:
        ok = bare;
        break;
    case PEER_SNAPSHOT_FINISH:
        ok = bare && out->upto > 0 && out->facts_size <= PEER_FACTS_BYTES_MAX;
        break;
    case PEER_SNAPSHOT_ENTRIES:
        ok = out->first > 0 && out->upto >= out->first && out->upto < UINT64_MAX &&
             out->count <= out->upto - out->first + 1;
        break;
    case PEER_SNAPSHOT_FACTS:
        ok = out->count > 0 && out->upto > 0 && out->first <= PEER_FACTS_BYTES_MAX &&
             size - sizeof(*out) <= PEER_FACTS_BYTES_MAX - out->first;
        break;
    }
    return ok ? SLUICE_OK : SLUICE_INVALID;
}

enum sluice_status peer_snapshot_ack_read(const void *data, size_t size, struct peer_snapshot_ack *out)
{
    if (size != sizeof(*out))
        return SLUICE_INVALID;
    memcpy(out, data, sizeof(*out));
    return sluice_status_known(out->status) && out->state <= PEER_SNAPSHOT_INSTALLED ? SLUICE_OK : SLUICE_INVALID;
}

enum sluice_status peer_snapshot_entry(const void *data, size_t size, size_t *offset, struct entry *out)
{
    return entry_take(data, size, offset, out);
}

enum sluice_status peer_snapshot_numbers(const void *data, size_t size, size_t *offset, const uint8_t **numbers,
                                         uint32_t *count)
{
    uint64_t many;
    if (size - *offset < sizeof(many))
        return SLUICE_INVALID;
    memcpy(&many, (const uint8_t *)data + *offset, sizeof(many));
    *offset += sizeof(many);
    if (many > UINT16_MAX || many * sizeof(uint64_t) > size - *offset)
        return SLUICE_INVALID;
    *numbers = (const uint8_t *)data + *offset;
    *count = (uint32_t)many;
    *offset += many * sizeof(uint64_t);
    return SLUICE_OK;
}

enum sluice_status peer_snapshot_fact(const void *data, size_t size, size_t *offset, struct slice *name,
                                      struct slice *value)
{
    struct peer_fact fact;
    const uint8_t *bytes = (const uint8_t *)data + *offset;
    if (size - *offset < sizeof(fact))
        return SLUICE_INVALID;
    memcpy(&fact, bytes, sizeof(fact));
    uint64_t whole = sizeof(fact) + (uint64_t)fact.name_size + fact.value_size;
    whole = (whole + 7) & ~UINT64_C(7);
    if (fact.name_size == 0 || fact.name_size > 64 || fact.value_size == 0 || fact.value_size > 65536 ||
        whole > size - *offset)
        return SLUICE_INVALID;
    *name = (struct slice){bytes + sizeof(fact), fact.name_size};
    *value = (struct slice){bytes + sizeof(fact) + fact.name_size, fact.value_size};
    *offset += whole;
    return SLUICE_OK;
}

enum sluice_status peer_entry_read(const void *data, size_t size, struct entry *out)
{
    size_t offset = 0;
    enum sluice_status status = entry_take(data, size, &offset, out);
    if (status == SLUICE_OK && offset != size) {
        buf_unref(out->body);
        out->body = NULL;
        status = SLUICE_INVALID;
    }
    return status;
}

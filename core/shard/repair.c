/* Damaged entries: whoever reads one asks another replica for it, which has the same, and waits. What comes is checked
 * (checksums; group, epoch and revision; what can still be read of the damaged one), written back, and served. */
#include <stdlib.h>
#include <string.h>

#include "core/shard/host__.h"

#define ASK_AGAIN_NS (200 * NS_PER_MS)
#define GIVE_UP_NS   (5 * NS_PER_S)

struct host__repair {
    struct host__repair *next;
    uint64_t revision;
    uint64_t asked_ns, since_ns;
    uint16_t node; /* asked last */
};

static struct host__repair *find(const struct replica *self, uint64_t revision)
{
    struct host__repair *repair = self->repairs;
    while (repair != NULL && repair->revision != revision)
        repair = repair->next;
    return repair;
}

static void drop(struct replica *self, struct host__repair *repair)
{
    struct host__repair **at = &self->repairs;
    while (*at != repair)
        at = &(*at)->next;
    *at = repair->next;
    self->repair_count--;
    free(repair);
    self->host->next_tick_ns = 0; /* whoever waits for it looks again */
}

void repair__drop_all(struct replica *self)
{
    while (self->repairs != NULL)
        drop(self, self->repairs);
}

/* Each of the others in turn, those that can be heard first. 0: there is nobody else. */
static uint16_t whom(const struct replica *self, uint16_t after, uint64_t now)
{
    const struct host *host = self->host;
    uint64_t others = self->paxos.members.voters & ~paxos_mask(host->options.pairs.node);
    uint16_t silent = 0;
    for (uint16_t i = 1; i <= PAIRS_NODES_MAX; i++) {
        uint16_t node = (uint16_t)((after + i) % PAIRS_NODES_MAX);
        if ((others & paxos_mask(node)) == 0)
            continue;
        if (pairs_alive(&host->pairs, node, 0, now))
            return node;
        silent = silent == 0 ? node : silent;
    }
    return silent;
}

static void ask(struct replica *self, struct host__repair *repair, uint64_t now)
{
    const struct peer_repair body = {.epoch = self->epoch, .revision = repair->revision};
    struct peer_header header = {.kind = PEER_REPAIR_ASK, .group = self->group};
    struct slice parts[2] = {[1] = {&body, sizeof(body)}};
    repair->node = whom(self, repair->node, now);
    repair->asked_ns = now;
    peers__send(self->host, repair->node, &header, parts, 2);
}

bool repair__want(struct replica *self, uint64_t revision)
{
    uint64_t now = host__now(self->host);
    if (find(self, revision) != NULL)
        return true;
    if (revision == 0 || self->repair_count >= REPAIRS_MAX || whom(self, 0, now) == 0)
        return false;
    struct host__repair *repair = calloc(1, sizeof(*repair));
    if (repair == NULL)
        return false;
    repair->revision = revision;
    repair->since_ns = now;
    repair->next = self->repairs;
    self->repairs = repair;
    self->repair_count++;
    host__busy(self);
    LOG_WARN("shard", "group=%u revision %llu is damaged here; another replica is asked for it", self->group,
             (unsigned long long)revision);
    ask(self, repair, now);
    return true;
}

bool repair__pending(const struct replica *self, uint64_t revision)
{
    return find(self, revision) != NULL;
}

void repair__pump(struct replica *self, uint64_t now)
{
    for (struct host__repair *repair = self->repairs, *next; repair != NULL; repair = next) {
        next = repair->next;
        if (now - repair->since_ns > GIVE_UP_NS) {
            LOG_ERROR("shard", "group=%u nobody could give revision %llu, which is damaged here", self->group,
                      (unsigned long long)repair->revision);
            drop(self, repair);
        } else if (now - repair->asked_ns >= ASK_AGAIN_NS) {
            ask(self, repair, now);
        }
    }
}

uint64_t repair__next_ns(const struct replica *self)
{
    uint64_t next = UINT64_MAX;
    for (const struct host__repair *repair = self->repairs; repair != NULL; repair = repair->next)
        if (repair->asked_ns + ASK_AGAIN_NS < next)
            next = repair->asked_ns + ASK_AGAIN_NS;
    return next;
}

static void give(struct replica *self, uint16_t to, const struct peer_repair *wanted)
{
    static const uint8_t padding[8];
    struct entry entry;
    enum sluice_status status = versions_entry(self->versions, wanted->revision, &entry);
    if (status == SLUICE_CORRUPT)
        (void)repair__want(self, wanted->revision);
    if (status != SLUICE_OK)
        return; /* it asks the next one */
    struct entry_header entry_header;
    struct peer_header header = {.kind = PEER_REPAIR, .group = self->group};
    size_t size = entry.body == NULL ? 0 : entry.body->size;
    struct slice parts[5] = {[1] = {wanted, sizeof(*wanted)},
                             [2] = {&entry_header, sizeof(entry_header)},
                             [3] = {size == 0 ? NULL : entry.body->data, size},
                             [4] = {padding, wire_pad(size) - size}};
    entry_header_write(&entry, &entry_header);
    peers__send(self->host, to, &header, parts, 5);
    buf_unref(entry.body);
}

static void take(struct replica *self, uint16_t from, const struct peer_repair *given, const uint8_t *data, size_t size)
{
    struct entry entry;
    struct host__repair *repair = find(self, given->revision);
    if (repair == NULL)
        return; /* somebody else gave it already */
    enum sluice_status status = peer_entry_read(data, size, &entry);
    if (status == SLUICE_OK) {
        if (entry.group != self->group || entry.epoch != self->epoch || entry.index != given->revision)
            status = SLUICE_INVALID;
        if (status == SLUICE_OK)
            status = versions_repair(self->versions, &entry);
        buf_unref(entry.body);
    }
    if (status != SLUICE_OK) {
        LOG_WARN("shard", "group=%u what node %u gave for the damaged revision %llu can't be taken: %s", self->group,
                 from, (unsigned long long)given->revision, sluice_status_text(status));
        return;
    }
    self->host->figures.repairs++;
    drop(self, repair);
}

void repair__message(struct replica *self, uint16_t from, uint8_t kind, const void *data, size_t size)
{
    struct peer_repair head;
    if (size < sizeof(head) || (kind == PEER_REPAIR_ASK && size != sizeof(head))) {
        LOG_WARN("shard", "group=%u node %u sent a malformed word about a repair", self->group, from);
        return;
    }
    memcpy(&head, data, sizeof(head));
    if (head.epoch != self->epoch)
        return;
    if (kind == PEER_REPAIR_ASK)
        give(self, from, &head);
    else
        take(self, from, &head, (const uint8_t *)data + sizeof(head), size - sizeof(head));
}

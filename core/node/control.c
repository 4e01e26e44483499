/* Requests that are not the shards' business: the cluster map and its changes, this node's status, and lambdas. */
#include <jansson.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "core/node/node__.h"

static void send_map(struct node *self, struct node__subscriber *subscriber)
{
    const struct map *map = node__map(self);
    if (map == NULL || map->epoch <= subscriber->sent_epoch)
        return;
    const char *text = participant_map_text(self->participant);
    const struct wire_header request = {.request_id = subscriber->request_id};
    subscriber->sent_epoch = map->epoch;
    host_reply(self->host, subscriber->link, &request, SLUICE_OK, WIRE_FLAG_MORE, text, strlen(text));
}

static void subscribe(struct node *self, struct fabric_link *link, const struct wire_header *header)
{
    struct node__subscriber *subscriber = self->subscribers;
    while (subscriber != NULL && (subscriber->link != link || subscriber->request_id != header->request_id))
        subscriber = subscriber->next;
    if (subscriber == NULL) {
        subscriber = calloc(1, sizeof(*subscriber));
        if (subscriber == NULL) {
            host_reply(self->host, link, header, SLUICE_MEMORY, 0, NULL, 0);
            return;
        }
        subscriber->next = self->subscribers;
        self->subscribers = subscriber;
        subscriber->link = link;
        subscriber->request_id = header->request_id;
    }
    subscriber->sent_epoch = header->map_epoch;
    send_map(self, subscriber);
}

void control__map_changed(struct node *self)
{
    for (struct node__subscriber *subscriber = self->subscribers; subscriber != NULL; subscriber = subscriber->next)
        send_map(self, subscriber);
}

void control__link_down(struct node *self, struct fabric_link *link)
{
    struct node__subscriber **at = &self->subscribers;
    while (*at != NULL) {
        struct node__subscriber *subscriber = *at;
        if (subscriber->link == link) {
            *at = subscriber->next;
            free(subscriber);
        } else {
            at = &subscriber->next;
        }
    }
}

static json_t *number_text(uint64_t value)
{
    char text[24];
    snprintf(text, sizeof(text), "%llu", (unsigned long long)value);
    return json_string(text);
}

static json_t *mask_json(uint64_t mask)
{
    json_t *nodes = json_array();
    for (int node = 0; node < 64; node++)
        if ((mask >> node & 1) != 0)
            json_array_append_new(nodes, json_integer(node));
    return nodes;
}

static void add_group(void *arg, const struct host_group_status *status)
{
    json_t *groups = arg;
    json_array_append_new(groups,
                          json_pack("{s:i, s:I, s:s, s:i, s:o, s:o, s:o, s:o, s:I, s:o, s:o}", "id", (int)status->group,
                                    "epoch", (json_int_t)status->epoch, "role", status->role, "leader",
                                    (int)status->leader, "ballot", number_text(status->ballot), "stable",
                                    number_text(status->stable), "last", number_text(status->last), "applied",
                                    number_text(status->applied), "watches", (json_int_t)status->watches, "members",
                                    mask_json(status->members), "learners", mask_json(status->learners)));
}

static json_t *peers_json(struct node *self)
{
    json_t *peers = json_array();
    for (size_t i = 0; i < self->member_count; i++) {
        const struct node__member *member = &self->members[i];
        if (member->id != self->options.id && member->known)
            json_array_append_new(peers, json_pack("{s:i, s:b, s:i}", "node", (int)member->id, "connected",
                                                   member->link != NULL, "protocol",
                                                   (int)host_peer_version(self->host, member->id)));
    }
    return peers;
}

static void reply_status(struct node *self, struct fabric_link *link, const struct wire_header *header)
{
    struct host_figures figures;
    struct wal_figures log;
    json_t *groups = json_array();
    host_figures(self->host, &figures);
    wal_figures(self->wal, &log);
    host_each_group(self->host, add_group, groups);
    json_t *document = json_pack(
        "{s:i, s:o, s:I, s:o, s:{s:o, s:o, s:s}, s:{s:I, s:I, s:I, s:I, s:I, s:I}, s:{s:o, s:o, s:I, s:I}, s:o}",
        "node", (int)self->options.id, "incarnation", number_text(self->identity.incarnation), "uptime_ms",
        (json_int_t)((clock_monotonic_ns() - self->started_ns) / NS_PER_MS), "peers", peers_json(self), "storage",
        "free_bytes", number_text(self->free_bytes), "total_bytes", number_text(self->total_bytes), "state",
        self->storage_full ? "full" : "ok", "figures", "writes", (json_int_t)figures.writes, "reads",
        (json_int_t)figures.reads, "watch_events", (json_int_t)figures.watch_events, "proposals",
        (json_int_t)figures.proposals, "applied", (json_int_t)figures.applied, "peer_messages",
        (json_int_t)figures.peer_messages, "log", "bytes_written", number_text(log.bytes_written), "bytes_payload",
        number_text(log.bytes_payload), "batches", (json_int_t)log.batches, "records", (json_int_t)log.records,
        "shards", groups);
    char *text = document == NULL ? NULL : json_dumps(document, JSON_COMPACT);
    if (text != NULL)
        host_reply(self->host, link, header, SLUICE_OK, 0, text, strlen(text));
    else
        host_reply(self->host, link, header, SLUICE_MEMORY, 0, NULL, 0);
    free(text);
    json_decref(document);
}

/* ---- Who leads ---- */

struct transfer {
    struct node *node;
    const struct map *map;
    json_int_t shard; /* -1: all */
    uint16_t to;      /* 0: any */
    json_t *shards;
};

static void transfer_group(void *arg, const struct host_group_status *status)
{
    struct transfer *transfer = arg;
    uint16_t own = transfer->node->options.id;
    if ((transfer->shard >= 0 && transfer->shard != (json_int_t)status->group) || strcmp(status->role, "leader") != 0 ||
        transfer->to == own || (status->members & ~(UINT64_C(1) << own)) == 0 ||
        (transfer->to != 0 && (status->members >> transfer->to & 1) == 0))
        return;
    json_array_append_new(transfer->shards, json_pack("{s:I, s:i, s:i}", "shard", (json_int_t)status->group, "from",
                                                      (int)own, "to", (int)transfer->to));
}

/* Members only are asked; what each shard then does is its leader's and that member's business, and shows in the status
 * a moment later. */
static void transfer(struct node *self, struct fabric_link *link, const struct wire_header *header, const void *body)
{
    json_t *document = json_loadb(body, header->body_size, JSON_REJECT_DUPLICATES, NULL);
    const json_t *shard = json_object_get(document, "shard");
    json_int_t from = json_integer_value(json_object_get(document, "from"));
    json_int_t to = json_integer_value(json_object_get(document, "to"));
    if (!json_is_object(document) || (shard != NULL && !json_is_integer(shard)) || to < 0 || to >= PAIRS_NODES_MAX) {
        static const char words[] = "\"shard\" is a shard's number, \"from\" and \"to\" are nodes' numbers, 1 to 63";
        host_reply(self->host, link, header, SLUICE_INVALID, 0, words, sizeof(words) - 1);
        json_decref(document);
        return;
    }
    struct transfer transfer = {.node = self,
                                .shard = shard == NULL ? -1 : json_integer_value(shard),
                                .to = (uint16_t)to,
                                .shards = json_array()};
    json_decref(document);
    size_t i;
    const json_t *item;
    if (from == 0 || from == self->options.id)
        host_each_group(self->host, transfer_group, &transfer);
    /* A step of one group may change what the next one says, so they are asked once all are known. */
    json_array_foreach(transfer.shards, i, item)
    {
        host_group_transfer(self->host, (uint32_t)json_integer_value(json_object_get(item, "shard")), transfer.to);
    }
    json_t *answer = json_pack("{s:o}", "shards", transfer.shards);
    char *text = answer == NULL ? NULL : json_dumps(answer, JSON_COMPACT);
    if (text != NULL)
        host_reply(self->host, link, header, SLUICE_OK, 0, text, strlen(text));
    else
        host_reply(self->host, link, header, SLUICE_MEMORY, 0, NULL, 0);
    free(text);
    json_decref(answer);
}

void control__request(void *arg, void *link, const struct wire_header *header, const void *body)
{
    struct node *self = arg;
    switch (header->type) {
    case WIRE_MAP:
        subscribe(self, link, header);
        break;
    case WIRE_STATUS:
        reply_status(self, link, header);
        break;
    case WIRE_TRANSFER:
        transfer(self, link, header, body);
        break;
    case WIRE_CANCEL:
        lambdas__cancel(self, link, header->request_id);
        break;
    default:
        lambdas__request(self, link, header, body);
        break;
    }
}

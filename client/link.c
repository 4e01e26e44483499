/* Links to core nodes. The addresses that the user gave are for finding the cluster; once its map is known, the client
 * keeps a link to each node of the map, and comes back to the first addresses only when it has lost them all. */
#include <stdlib.h>
#include <string.h>

#include "client/client__.h"
#include "core/base/log.h"

#define BACKOFF_MIN_MS 10u
#define BACKOFF_MAX_MS 500u

static bool is_shm(const char *address)
{
    return strncmp(address, "shm:", 4) == 0;
}

struct peer *link__peer(const struct sluice_client *self, uint16_t node)
{
    for (struct list *item = self->peers.next; item != &self->peers; item = item->next) {
        struct peer *peer = LIST__OF(item, struct peer, link_of_client);
        if (peer->node == node)
            return peer;
    }
    return NULL;
}

/* Later, and later each time, and not all clients at once. */
static void redial_later(struct contact *contact)
{
    contact->backoff_ms = contact->backoff_ms == 0 ? BACKOFF_MIN_MS : contact->backoff_ms * 2;
    if (contact->backoff_ms > BACKOFF_MAX_MS)
        contact->backoff_ms = BACKOFF_MAX_MS;
    uint64_t pause = contact->backoff_ms * NS_PER_MS;
    pause = pause - pause / 4 + random_below(&contact->client->random, pause / 2);
    timer__set(&contact->client->timers, &contact->redial, clock_monotonic_ns() + pause);
}

static void redial_now(struct contact *contact)
{
    timer__set(&contact->client->timers, &contact->redial, clock_monotonic_ns());
}

/* --- Seeds --- */

static bool seed_needed(const struct seed *seed)
{
    const struct sluice_client *client = seed->contact.client;
    const struct peer *known = seed->node == 0 ? NULL : link__peer(client, seed->node);
    return (client->map == NULL || client->peers_up == 0) && (known == NULL || known->link == NULL);
}

static void seed_dial(struct timer *timer)
{
    struct seed *seed = LIST__OF(timer, struct seed, contact.redial);
    if (seed->contact.dialing != NULL || !seed_needed(seed))
        return;
    enum sluice_status status =
        fabric_connect(seed->contact.client->fabric, seed->address, &seed->contact, &seed->contact.dialing);
    if (status != SLUICE_OK) {
        seed->contact.dialing = NULL;
        redial_later(&seed->contact);
    }
}

static void dial_seeds(struct sluice_client *self)
{
    for (size_t i = 0; i < self->seed_count; i++)
        if (self->seeds[i].contact.dialing == NULL && !self->seeds[i].contact.redial.armed)
            redial_now(&self->seeds[i].contact);
}

enum sluice_status link__open_seeds(struct sluice_client *self, const struct sluice_options *options)
{
    self->seeds = calloc(options->node_count, sizeof(*self->seeds));
    if (self->seeds == NULL)
        return SLUICE_MEMORY;
    for (size_t i = 0; i < options->node_count; i++) {
        struct seed *seed = &self->seeds[i];
        const char *address = options->nodes[i];
        if (!is_shm(address) && strncmp(address, "tcp:", 4) != 0)
            return SLUICE_INVALID;
        seed->contact = (struct contact){.kind = CONTACT_SEED, .client = self, .redial = {.fire = seed_dial}};
        seed->address = strdup(address);
        self->seed_count = i + 1;
        if (seed->address == NULL)
            return SLUICE_MEMORY;
    }
    dial_seeds(self);
    return SLUICE_OK;
}

/* --- Peers --- */

/* The address to try next; with prefer_tcp those of shared memory only where there is nothing else. */
static const char *next_address(struct peer *peer)
{
    bool others = false;
    for (size_t i = 0; i < peer->address_count; i++)
        others = others || !is_shm(peer->addresses[i]);
    while (peer->next_address < peer->address_count) {
        const char *address = peer->addresses[peer->next_address];
        if (!(peer->contact.client->prefer_tcp && others && is_shm(address)))
            return address;
        peer->next_address++;
    }
    return NULL;
}

/* Tries the addresses in the order of the map; when none answers, all of them again after a pause. */
static void peer_dial(struct timer *timer)
{
    struct peer *peer = LIST__OF(timer, struct peer, contact.redial);
    if (peer->link != NULL || peer->contact.dialing != NULL || !peer->in_map || peer->address_count == 0)
        return; /* a node that has not told its addresses yet is dialled when the map does */
    for (const char *address = next_address(peer); address != NULL; address = next_address(peer)) {
        enum sluice_status status =
            fabric_connect(peer->contact.client->fabric, address, &peer->contact, &peer->contact.dialing);
        if (status == SLUICE_OK)
            return;
        peer->contact.dialing = NULL;
        peer->next_address++;
    }
    peer->next_address = 0;
    redial_later(&peer->contact);
}

static struct peer *peer_create(struct sluice_client *self, uint16_t node)
{
    struct peer *peer = calloc(1, sizeof(*peer));
    if (peer == NULL)
        return NULL;
    peer->contact = (struct contact){.kind = CONTACT_PEER, .client = self, .redial = {.fire = peer_dial}};
    peer->node = node;
    list__init(&peer->in_flight);
    list__append(&self->peers, &peer->link_of_client);
    return peer;
}

static void peer_free_addresses(struct peer *peer)
{
    for (size_t i = 0; i < peer->address_count; i++)
        free(peer->addresses[i]);
    free(peer->addresses);
    peer->addresses = NULL;
    peer->address_count = 0;
}

static void peer_free(struct peer *peer)
{
    struct sluice_client *client = peer->contact.client;
    timer__stop(&client->timers, &peer->contact.redial);
    list__remove(&peer->link_of_client);
    peer_free_addresses(peer);
    free(peer);
}

void link__ask_map(struct peer *peer)
{
    const struct sluice_client *client = peer->contact.client;
    /* Without the time that was seen: a node whose clock is behind would refuse it, and it is asked once a link. */
    const struct wire_header header = {
        .magic = WIRE_MAGIC,
        .version = WIRE_VERSION,
        .type = WIRE_MAP,
        .map_epoch = client->map == NULL ? 0 : client->map->epoch,
    };
    const struct slice part = {&header, sizeof(header)};
    /* Where this cannot be sent the link is at its end, or full of requests whose answers will tell of the map. */
    enum sluice_status status = fabric_send(peer->link, &part, 1, NULL, 0, 0);
    (void)status;
}

static void peer_up(struct peer *peer, struct fabric_link *link)
{
    struct sluice_client *client = peer->contact.client;
    peer->link = link;
    peer->contact.backoff_ms = 0;
    timer__stop(&client->timers, &peer->contact.redial);
    fabric_link_set_context(link, &peer->contact);
    client->peers_up++;
    LOG_DEBUG("client", "node %u is connected", peer->node);
    link__ask_map(peer);
    route__link_up(client, peer);
    ask__wake_waiting(client);
}

/* The link is gone; who waited for an answer on it looks elsewhere. May free the peer. */
static void peer_down(struct peer *peer)
{
    struct sluice_client *client = peer->contact.client;
    struct list lost;
    peer->link = NULL;
    client->peers_up--;
    client->figures.reconnects++;
    if (client->peers_up == 0)
        dial_seeds(client);
    if (peer->in_map) {
        peer->next_address = 0;
        redial_later(&peer->contact);
    }
    list__move(&peer->in_flight, &lost);
    peer->load_bytes = 0;
    for (struct list *item = lost.next; item != &lost; item = item->next)
        LIST__OF(item, struct ask, link)->peer = NULL;
    if (!peer->in_map)
        peer_free(peer);
    while (!list__empty(&lost))
        ask__lost(LIST__OF(lost.next, struct ask, link));
}

static bool addresses_same(const struct peer *peer, const struct map_node *node)
{
    bool same = peer->address_count == node->address_count;
    for (size_t i = 0; same && i < node->address_count; i++)
        same = strcmp(peer->addresses[i], node->addresses[i]) == 0;
    return same;
}

static enum sluice_status peer_set_addresses(struct peer *peer, const struct map_node *node)
{
    if (addresses_same(peer, node))
        return SLUICE_OK;
    peer_free_addresses(peer);
    peer->next_address = 0;
    peer->addresses = calloc(node->address_count + 1, sizeof(*peer->addresses));
    if (peer->addresses == NULL)
        return SLUICE_MEMORY;
    for (size_t i = 0; i < node->address_count; i++) {
        peer->addresses[i] = strdup(node->addresses[i]);
        if (peer->addresses[i] == NULL)
            return SLUICE_MEMORY;
        peer->address_count++;
    }
    return SLUICE_OK;
}

static void peer_drop(struct peer *peer)
{
    struct fabric_link *link = peer->link, *dialing = peer->contact.dialing;
    peer->in_map = false;
    peer->contact.dialing = NULL;
    if (dialing != NULL)
        fabric_link_close(dialing);
    if (link == NULL) {
        peer_free(peer);
        return;
    }
    fabric_link_close(link);
    peer_down(peer);
}

enum sluice_status link__follow_map(struct sluice_client *self)
{
    for (struct list *item = self->peers.next; item != &self->peers; item = item->next)
        LIST__OF(item, struct peer, link_of_client)->in_map = false;
    for (size_t i = 0; i < self->map->node_count; i++) {
        const struct map_node *node = &self->map->nodes[i];
        struct peer *peer = link__peer(self, node->id);
        if (node->state == MAP_NODE_GONE)
            continue;
        if (peer == NULL)
            peer = peer_create(self, node->id);
        if (peer == NULL)
            return SLUICE_MEMORY;
        peer->in_map = true;
        enum sluice_status status = peer_set_addresses(peer, node);
        if (status != SLUICE_OK)
            return status;
        if (peer->link == NULL && peer->contact.dialing == NULL && !peer->contact.redial.armed)
            redial_now(&peer->contact);
    }
    /* Dropping a peer makes its asks look elsewhere, which may call the user; so the list is looked through anew. */
    for (struct list *item = self->peers.next; item != &self->peers;) {
        struct peer *peer = LIST__OF(item, struct peer, link_of_client);
        item = item->next;
        if (!peer->in_map) {
            peer_drop(peer);
            item = self->peers.next;
        }
    }
    return SLUICE_OK;
}

/* --- Events --- */

/* Is it who we think it is? */
static const char *stranger(const struct sluice_client *self, const struct fabric_identity *identity, uint16_t node)
{
    if (identity->role != FABRIC_ROLE_NODE || identity->node == 0 || identity->node > UINT16_MAX)
        return "it is no core node";
    if (node != 0 && identity->node != node)
        return "another node answers at that address";
    if (self->map != NULL && memcmp(identity->cluster, self->map->cluster, sizeof(identity->cluster)) != 0)
        return "it belongs to another cluster";
    return NULL;
}

static void dial_failed(struct contact *contact, const char *why)
{
    contact->dialing = NULL;
    if (contact->kind == CONTACT_SEED) {
        struct seed *seed = LIST__OF(contact, struct seed, contact);
        LOG_DEBUG("client", "%s: %s", seed->address, why);
        if (seed_needed(seed))
            redial_later(contact);
        return;
    }
    struct peer *peer = LIST__OF(contact, struct peer, contact);
    LOG_DEBUG("client", "node %u at %s: %s", peer->node,
              peer->next_address < peer->address_count ? peer->addresses[peer->next_address] : "?", why);
    peer->next_address++;
    if (peer->next_address < peer->address_count)
        redial_now(contact);
    else {
        peer->next_address = 0;
        redial_later(contact);
    }
}

static void link_up(struct sluice_client *self, struct fabric_link *link)
{
    struct contact *contact = fabric_link_context(link);
    const struct fabric_identity *identity = fabric_link_peer(link);
    struct peer *peer = NULL;
    bool local = false;
    contact->dialing = NULL;
    const char *why =
        stranger(self, identity, contact->kind == CONTACT_PEER ? LIST__OF(contact, struct peer, contact)->node : 0);
    if (why != NULL) {
        LOG_WARN("client", "a link to node %u was closed: %s; check the addresses", identity->node, why);
        fabric_link_close(link);
        dial_failed(contact, why);
        return;
    }
    if (contact->kind == CONTACT_SEED) {
        struct seed *seed = LIST__OF(contact, struct seed, contact);
        seed->node = (uint16_t)identity->node;
        contact->backoff_ms = 0;
        local = is_shm(seed->address);
        peer = link__peer(self, seed->node);
        if (peer == NULL)
            peer = peer_create(self, seed->node);
        if (peer == NULL || peer->link != NULL) {
            fabric_link_close(link);
            if (peer == NULL)
                redial_later(contact);
            return;
        }
        if (peer->contact.dialing != NULL)
            fabric_link_close(peer->contact.dialing);
        peer->contact.dialing = NULL;
    } else {
        peer = LIST__OF(contact, struct peer, contact);
        local = peer->next_address < peer->address_count && is_shm(peer->addresses[peer->next_address]);
    }
    peer->local = local;
    peer_up(peer, link);
}

static void link_down(const struct fabric_event *event)
{
    struct contact *contact = fabric_link_context(event->link);
    const char *text = event->text == NULL ? "it closed the link" : event->text;
    if (contact->dialing == event->link) {
        dial_failed(contact, text);
        return;
    }
    struct peer *peer = LIST__OF(contact, struct peer, contact);
    LOG_DEBUG("client", "node %u is gone: %s", peer->node, text);
    peer_down(peer);
}

static void message(struct sluice_client *self, struct peer *peer, const uint8_t *data, size_t size)
{
    const struct wire_header *header = NULL;
    const char *why = NULL;
    if (wire_header_read(data, size, &header, &why) != SLUICE_OK) {
        LOG_WARN("client", "node %u sent what is no answer: %s; its link was closed", peer->node, why);
        struct fabric_link *link = peer->link;
        fabric_link_close(link);
        peer_down(peer);
        return;
    }
    peer->heard_ns = clock_monotonic_ns();
    client__saw_time(self, header->time);
    const uint8_t *body = data + sizeof(*header);
    if (header->request_id != 0)
        ask__message(peer, header, body);
    else if (header->type == WIRE_REPLY && header->status == SLUICE_OK)
        route__take_map(self, body, header->body_size);
}

void link__event(void *arg, const struct fabric_event *event)
{
    struct sluice_client *self = arg;
    switch (event->type) {
    case FABRIC_LINK_UP:
        link_up(self, event->link);
        break;
    case FABRIC_LINK_DOWN:
        link_down(event);
        break;
    case FABRIC_MESSAGE: {
        struct contact *contact = fabric_link_context(event->link);
        message(self, LIST__OF(contact, struct peer, contact), event->data, event->size);
        break;
    }
    case FABRIC_WRITABLE:
        ask__wake_waiting(self);
        break;
    case FABRIC_COMPLETION:
        break;
    }
}

void link__close_all(struct sluice_client *self)
{
    while (!list__empty(&self->peers)) {
        struct peer *peer = LIST__OF(self->peers.next, struct peer, link_of_client);
        if (peer->link != NULL)
            fabric_link_close(peer->link);
        if (peer->contact.dialing != NULL)
            fabric_link_close(peer->contact.dialing);
        peer_free(peer);
    }
    for (size_t i = 0; i < self->seed_count; i++) {
        if (self->seeds[i].contact.dialing != NULL)
            fabric_link_close(self->seeds[i].contact.dialing);
        timer__stop(&self->timers, &self->seeds[i].contact.redial);
        free(self->seeds[i].address);
    }
    free(self->seeds);
    self->seeds = NULL;
    self->seed_count = 0;
    self->peers_up = 0;
}

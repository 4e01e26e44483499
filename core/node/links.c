/* Links to peers and clients. Of two nodes, the one with the higher number dials the other. */
#include <stdio.h>
#include <string.h>

#include "core/node/node__.h"

#define DIAL_BACKOFF_MIN_NS (10 * NS_PER_MS)
#define DIAL_BACKOFF_MAX_NS (500 * NS_PER_MS)

static bool dials(const struct node *self, const struct node__member *member)
{
    return member->known && member->id < self->options.id && member->address_count > 0 && member->link == NULL &&
           member->dialing == NULL;
}

void links__dial(struct node *self, uint64_t now)
{
    for (size_t i = 0; i < self->member_count; i++) {
        struct node__member *member = &self->members[i];
        if (!dials(self, member) || now < member->dial_at_ns)
            continue;
        const char *address = member->addresses[member->next_address++ % member->address_count];
        enum sluice_status status = fabric_connect(self->fabric, address, member, &member->dialing);
        if (status != SLUICE_OK) {
            LOG_WARN("node", "cannot dial node %u at %s: %s", member->id, address, sluice_status_text(status));
            member->dialing = NULL;
        }
        member->dial_backoff_ns = member->dial_backoff_ns == 0 ? DIAL_BACKOFF_MIN_NS : member->dial_backoff_ns * 2;
        if (member->dial_backoff_ns > DIAL_BACKOFF_MAX_NS)
            member->dial_backoff_ns = DIAL_BACKOFF_MAX_NS;
        member->dial_at_ns = now + member->dial_backoff_ns;
    }
}

uint64_t links__next_ns(const struct node *self)
{
    uint64_t next = UINT64_MAX;
    for (size_t i = 0; i < self->member_count; i++) {
        const struct node__member *member = &self->members[i];
        if (dials(self, member) && member->dial_at_ns < next)
            next = member->dial_at_ns;
    }
    return next;
}

static void mark_closing(struct node *self, struct fabric_link *link)
{
    for (unsigned i = 0; i < self->closing_count; i++)
        if (self->closing[i] == link)
            return;
    if (self->closing_count < sizeof(self->closing) / sizeof(self->closing[0]))
        self->closing[self->closing_count++] = link;
}

static void client_gone(struct node *self, struct fabric_link *link)
{
    host_client_down(self->host, link);
    control__link_down(self, link);
    lambdas__link_down(self, link);
    for (unsigned i = 0; i < self->closing_count; i++)
        if (self->closing[i] == link)
            self->closing[i] = self->closing[--self->closing_count];
}

void links__close_marked(struct node *self)
{
    while (self->closing_count > 0) {
        struct fabric_link *link = self->closing[0];
        LOG_WARN("node", "a client that does not read its answers was cut off");
        client_gone(self, link);
        fabric_link_close(link);
    }
}

static void peer_up(struct node *self, struct fabric_link *link)
{
    const struct fabric_identity *peer = fabric_link_peer(link);
    struct node__member *member = members__find(self, peer->node);
    if (member == NULL || peer->node == self->options.id) {
        LOG_WARN("node", "node %u is no member of this cluster as far as is known here; its link was refused",
                 peer->node);
        if (member != NULL && member->dialing == link)
            member->dialing = NULL;
        fabric_link_close(link);
        return;
    }
    struct node__member *dialed = fabric_link_context(link);
    if (dialed != NULL)
        dialed->dialing = NULL;
    if (member->link != NULL && member->link != link)
        fabric_link_close(member->link); /* the newer one is of the living process */
    member->link = link;
    member->dial_backoff_ns = 0;
    member->last_words[0] = '\0';
    fabric_link_set_context(link, member);
    LOG_INFO("node", "node %u is connected (start %llu)", member->id, (unsigned long long)peer->incarnation);
    participant_link_up(self->participant, member->id);
    host_peer_up(self->host, member->id);
}

static void link_down(struct node *self, const struct fabric_event *event)
{
    struct node__member *member = fabric_link_context(event->link);
    if (member == NULL) {
        client_gone(self, event->link);
        return;
    }
    if (member->dialing == event->link) {
        member->dialing = NULL;
        /* Said once, not with every try. */
        if (strncmp(member->last_words, event->text, sizeof(member->last_words) - 1) != 0)
            LOG_WARN("node", "node %u cannot be reached: %s", member->id, event->text);
        snprintf(member->last_words, sizeof(member->last_words), "%s", event->text);
        return;
    }
    if (member->link == event->link) {
        member->link = NULL;
        participant_link_down(self->participant, member->id);
        LOG_INFO("node", "node %u is gone: %s", member->id, event->text == NULL ? "" : event->text);
        host_peer_down(self->host, member->id, fabric_link_peer(event->link)->incarnation,
                       event->reason == FABRIC_DOWN_DEAD);
    }
}

void links__event(void *arg, const struct fabric_event *event)
{
    struct node *self = arg;
    switch (event->type) {
    case FABRIC_LINK_UP:
        if (fabric_link_peer(event->link)->role == FABRIC_ROLE_NODE)
            peer_up(self, event->link);
        break;
    case FABRIC_LINK_DOWN:
        link_down(self, event);
        break;
    case FABRIC_MESSAGE: {
        struct node__member *member = fabric_link_context(event->link);
        if (member != NULL && (participant_message(self->participant, member->id, event->data, event->size) ||
                               self->failed || participant_refuses(self->participant, member->id)))
            break;
        if (member != NULL)
            host_peer_message(self->host, member->id, event->data, event->size);
        else
            host_client_message(self->host, event->link, event->data, event->size);
        break;
    }
    case FABRIC_WRITABLE:
        if (fabric_link_context(event->link) == NULL)
            host_client_writable(self->host, event->link);
        break;
    case FABRIC_COMPLETION:
        break;
    }
}

void links__send_peer(void *arg, uint16_t node, const struct slice *parts, unsigned count)
{
    struct node *self = arg;
    struct node__member *member = members__find(self, node);
    if (member == NULL || member->link == NULL)
        return;
    enum sluice_status status = fabric_send(member->link, parts, count, NULL, 0, 0);
    if (status != SLUICE_OK && status != SLUICE_CLOSED)
        LOG_DEBUG("node", "a message to node %u was dropped: %s", node, sluice_status_text(status));
}

void links__send_client(void *arg, void *link, const struct slice *parts, unsigned count, struct buf *payload,
                        uint32_t offset, uint32_t size)
{
    struct node *self = arg;
    enum sluice_status status = fabric_send(link, parts, count, payload, offset, size);
    if (status != SLUICE_OK && status != SLUICE_CLOSED)
        mark_closing(self, link);
}

uint64_t links__client_pending(void *arg, void *link)
{
    (void)arg;
    return fabric_pending(link);
}

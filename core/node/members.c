/* Who else there is: first as the options name them, then as the map does. */
#include <stdlib.h>
#include <string.h>

#include "core/node/node__.h"

struct node__member *members__find(struct node *self, uint32_t id)
{
    for (size_t i = 0; i < self->member_count; i++)
        if (self->members[i].id == id)
            return &self->members[i];
    return NULL;
}

struct node__member *members__make(struct node *self, uint16_t id)
{
    struct node__member *found = members__find(self, id);
    if (found != NULL || self->member_count == NODE_MEMBERS_MAX)
        return found;
    self->members[self->member_count] = (struct node__member){.id = id, .known = true};
    return &self->members[self->member_count++];
}

static void drop_addresses(struct node__member *member)
{
    for (size_t i = 0; i < member->address_count; i++)
        free(member->addresses[i]);
    member->address_count = 0;
}

enum sluice_status members__add_address(struct node__member *member, const char *address)
{
    if (member->address_count == NODE_ADDRESSES_MAX)
        return SLUICE_OK;
    char *copy = strdup(address);
    if (copy == NULL)
        return SLUICE_MEMORY;
    member->addresses[member->address_count++] = copy;
    return SLUICE_OK;
}

void members__free(struct node *self)
{
    for (size_t i = 0; i < self->member_count; i++)
        drop_addresses(&self->members[i]);
    self->member_count = 0;
}

/* ---- Following the map ---- */

static bool same_addresses(const struct node__member *member, const struct map_node *node)
{
    size_t count = node->address_count < NODE_ADDRESSES_MAX ? node->address_count : NODE_ADDRESSES_MAX;
    if (member->address_count != count)
        return false;
    for (size_t i = 0; i < count; i++)
        if (strcmp(member->addresses[i], node->addresses[i]) != 0)
            return false;
    return true;
}

void members__follow_map(struct node *self, const struct map *map)
{
    bool changed = false;
    for (size_t i = 0; i < map->node_count; i++) {
        const struct map_node *node = &map->nodes[i];
        if (node->id >= PAIRS_NODES_MAX)
            continue;
        struct node__member *member = members__find(self, node->id);
        if (member == NULL) {
            member = members__make(self, node->id);
            if (member == NULL)
                continue;
            LOG_INFO("node", "node %u belongs to the cluster now", node->id);
            changed = true;
        }
        bool known = node->state != MAP_NODE_GONE;
        if (known != member->known)
            LOG_INFO("node", "node %u %s", node->id, known ? "belongs to the cluster again" : "has left the cluster");
        member->known = known;
        /* A node that has not said where it is keeps the place that the options gave it. */
        if (node->address_count == 0 || same_addresses(member, node))
            continue;
        changed = true;
        drop_addresses(member);
        for (size_t k = 0; k < node->address_count; k++)
            if (members__add_address(member, node->addresses[k]) != SLUICE_OK)
                LOG_WARN("node", "no memory to keep an address of node %u", node->id);
        member->dial_at_ns = 0;
    }
    if (changed)
        data__keep_peers(self);
}

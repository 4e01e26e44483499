/* What ties this node's part in the cluster (core/cluster/participant.h) to its host, its log and its store. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "core/node/node__.h"

static uint64_t env_monotonic(void *arg)
{
    (void)arg;
    return clock_monotonic_ns();
}

/* The shards' are the host's to make. */
static enum sluice_status env_versions(void *arg, const struct host_group *group, struct versions **out)
{
    const struct node *self = arg;
    const struct versions_options options = {
        .group = MAP_GROUP, .epoch = 1, .store = self->store, .hot_bytes_max = 4u << 20};
    return group->group == MAP_GROUP ? versions_create(&options, out) : SLUICE_OK;
}

static bool env_lost(void *arg, uint32_t group)
{
    const struct node *self = arg;
    return wal_lost(self->wal, group);
}

static enum sluice_status env_mend(void *arg, uint32_t group, uint64_t epoch)
{
    struct node *self = arg;
    return wal_mend(self->wal, group, epoch);
}

/* As the options name them, or else as it listens. */
static const char *env_address(void *arg, unsigned index)
{
    struct node *self = arg;
    const struct node__member *own = members__find(self, self->options.id);
    if (own == NULL || own->address_count == 0)
        return fabric_listen_address(self->fabric, index);
    return index < own->address_count ? own->addresses[index] : NULL;
}

static char *env_bootstrap(void *arg)
{
    const struct node *self = arg;
    return cluster_bootstrap(self->identity.cluster, self->identity.founders, self->identity.founder_count);
}

static bool env_map_comes(void *arg, const struct map *map)
{
    struct node *self = arg;
    levels__follow_map(self, map);
    if (!self->failed)
        members__follow_map(self, map);
    if (data__keep_founders(self, map->group.founders) != SLUICE_OK)
        node__fail(self, SLUICE_IO, "node.json cannot be written");
    return !self->failed;
}

static void env_map_came(void *arg, const struct map *map)
{
    struct node *self = arg;
    (void)map;
    control__map_changed(self);
    lambdas__map_changed(self);
}

enum sluice_status groups__open(struct node *self, char *error, size_t error_size)
{
    struct participant_options options = {.node = self->options.id,
                                          .incarnation = self->identity.incarnation,
                                          .joined = self->identity.joined,
                                          .host = self->host};
    const struct participant_env env = {
        .arg = self,
        .monotonic_ns = env_monotonic,
        .send = links__send_peer,
        .versions = env_versions,
        .lost = env_lost,
        .mend = env_mend,
        .address = env_address,
        .bootstrap = env_bootstrap,
        .map_comes = env_map_comes,
        .map_came = env_map_came,
        .fatal = node__fail,
    };
    memcpy(options.cluster, self->identity.cluster, sizeof(options.cluster));
    for (size_t i = 0; i < self->identity.founder_count; i++)
        options.founders |= UINT64_C(1) << self->identity.founders[i];
    enum sluice_status status = participant_create(&options, &env, &self->participant);
    if (status != SLUICE_OK) {
        snprintf(error, error_size, "out of memory");
        return status;
    }
    status = participant_open(self->participant, error, error_size);
    if (status == SLUICE_OK && node__map(self) != NULL)
        members__follow_map(self, node__map(self));
    return status;
}

/* ---- What the host asks for ---- */

bool groups__owns(void *arg, uint32_t shard, const char *key, size_t size)
{
    const struct node *self = arg;
    return participant_owns(self->participant, shard, key, size);
}

enum sluice_status groups__map_apply(void *arg, const struct entry *entry, struct versions *versions,
                                     struct machine_outcome *outcome, char **reply)
{
    struct node *self = arg;
    return participant_map_apply(self->participant, entry, versions, outcome, reply);
}

void groups__caught_up(void *arg, uint32_t group, uint64_t epoch)
{
    struct node *self = arg;
    (void)epoch;
    participant_caught_up(self->participant, group);
}

void groups__members_changed(void *arg, uint32_t group, uint64_t epoch, uint64_t members)
{
    struct node *self = arg;
    participant_members_changed(self->participant, group, epoch, members);
}

void groups__installed(void *arg, uint32_t group, uint64_t epoch)
{
    struct node *self = arg;
    (void)epoch;
    participant_installed(self->participant, group);
}

const struct map *node__map(const struct node *self)
{
    return self->participant == NULL ? NULL : participant_map(self->participant);
}

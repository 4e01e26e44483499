/* What stands for RocksDB: what was applied outlives the process, all of it or up to some revision that the log can go
 * on from; until it is erased. Linked in front of what closes and erases versions. */
#include <stdlib.h>

#include "core/cluster/cluster.h"
#include "tests/sim/sim.h"

void __real_versions_destroy(struct versions *self);
enum sluice_status __real_versions_erase(struct versions *self);
/* What the linker puts in their place. */
void __wrap_versions_destroy(struct versions *self);
enum sluice_status __wrap_versions_erase(struct versions *self);
enum sluice_status __wrap_store_erase(struct store *store, uint32_t group);
bool __wrap_store_next_group(const struct store *store, uint32_t from, uint32_t *group);
void __wrap_store_flush(struct store *store);

bool sim_persistent(uint32_t group)
{
    return group == MAP_GROUP || !sim.memory_only;
}

static void drop(struct versions *versions)
{
    sim_store_forget(versions);
    __real_versions_destroy(versions);
}

struct versions *sim_store_open(struct sim_node *node, uint32_t group, uint64_t epoch)
{
    struct sim_kept *kept = &node->store[group];
    const struct versions_options options = {.group = group, .epoch = epoch, .hot_bytes_max = 64u << 20};
    if (kept->open != NULL)
        sim_fail("node %u opens group %u twice", node->id, group);
    kept->open = kept->closed;
    kept->closed = NULL;
    if (kept->open == NULL && versions_create(&options, &kept->open) != SLUICE_OK)
        sim_fail("no memory");
    kept->held = true;
    kept->durable = versions_applied(kept->open, NULL);
    node->checked[group] = 0;
    return kept->open;
}

static struct sim_kept *find(const struct versions *versions, uint32_t *group, bool *up)
{
    for (uint32_t id = 1; id <= sim.node_count; id++)
        for (*group = 0; *group <= sim.group_count; ++*group)
            if (sim.nodes[id].store[*group].open == versions) {
                *up = sim.nodes[id].up;
                return &sim.nodes[id].store[*group];
            }
    return NULL;
}

void __wrap_versions_destroy(struct versions *self)
{
    uint32_t group;
    bool up;
    struct sim_kept *kept = self == NULL ? NULL : find(self, &group, &up);
    if (kept != NULL)
        kept->open = NULL;
    if (kept != NULL && sim_persistent(group) && kept->held) {
        kept->closed = self;
        kept->was_open = !up;
    } else if (self != NULL) {
        drop(self);
    }
}

enum sluice_status __wrap_versions_erase(struct versions *self)
{
    uint32_t group;
    bool up;
    struct sim_kept *kept = find(self, &group, &up);
    if (kept != NULL) {
        kept->held = false;
        kept->durable = 0;
    }
    return __real_versions_erase(self);
}

static struct sim_node *node_of(const struct store *store)
{
    return (struct sim_node *)(uintptr_t)store;
}

enum sluice_status __wrap_store_erase(struct store *store, uint32_t group)
{
    struct sim_kept *kept = &node_of(store)->store[group];
    if (kept->closed != NULL)
        drop(kept->closed);
    *kept = (struct sim_kept){.open = kept->open};
    return SLUICE_OK;
}

bool __wrap_store_next_group(const struct store *store, uint32_t from, uint32_t *group)
{
    const struct sim_node *node = node_of(store);
    for (*group = from; *group <= sim.group_count; ++*group)
        if (node->store[*group].closed != NULL && versions_applied(node->store[*group].closed, NULL) > 0)
            return true;
    return false;
}

void __wrap_store_flush(struct store *store)
{
    (void)store;
}

/* The real machines fill it, so that the facts beside the versions are the real ones. */
static struct versions *up_to(struct versions *whole, uint32_t group, uint64_t revision)
{
    const struct versions_options options = {.group = group, .epoch = 1};
    struct versions *versions = NULL;
    struct machine *machine = NULL;
    struct cluster *cluster = NULL;
    struct paxos_members members = {.voters = sim.placement[group].founders};
    enum sluice_status status = versions_create(&options, &versions);
    if (status == SLUICE_OK)
        status = group == MAP_GROUP ? cluster_create(versions, &cluster) : machine_create(versions, &machine);
    for (uint64_t index = 1; index <= revision && status == SLUICE_OK; index++) {
        struct machine_outcome outcome;
        struct entry entry;
        char *reply = NULL;
        status = versions_entry(whole, index, &entry);
        if (status == SLUICE_OK && entry.kind == ENTRY_MEMBERS)
            status = replica__members_apply(versions, &members, &entry);
        else if (status == SLUICE_OK && group == MAP_GROUP)
            status = cluster_apply(cluster, &entry, versions, &outcome, &reply);
        else if (status == SLUICE_OK)
            status = machine_apply(machine, &entry, &outcome);
        free(reply);
        buf_unref(entry.body);
    }
    if (status != SLUICE_OK)
        sim_fail("group %u cannot be applied again up to revision %llu: %s", group, (unsigned long long)revision,
                 sluice_status_text(status));
    machine_destroy(machine);
    if (cluster != NULL)
        cluster_destroy(cluster);
    return versions;
}

/* The store is behind what was applied, by as much as the log can make good. */
static uint64_t reached(const struct sim_kept *kept)
{
    uint64_t applied = versions_applied(kept->closed, NULL);
    if (versions_gaps(kept->closed) > 0)
        return applied;
    if (!sim.keep_versions)
        return kept->durable;
    if (random_below(&sim.random, 2) == 0)
        return applied;
    return kept->durable + random_below(&sim.random, applied - kept->durable + 1);
}

void sim_store_crash(struct sim_node *node)
{
    sim.looking = true;
    for (uint32_t group = 0; group <= sim.group_count; group++) {
        struct sim_kept *kept = &node->store[group];
        if (!sim_persistent(group))
            kept->held = false;
        if (kept->closed == NULL || !kept->was_open)
            continue;
        uint64_t revision = reached(kept);
        kept->was_open = false;
        if (revision == versions_applied(kept->closed, NULL))
            continue;
        struct versions *whole = kept->closed;
        kept->closed = revision == 0 ? NULL : up_to(whole, group, revision);
        drop(whole);
    }
    sim.looking = false;
}

void sim_store_durable(struct sim_node *node, uint32_t group, uint64_t revision)
{
    node->store[group].durable = revision;
}

void sim_store_wipe(struct sim_node *node)
{
    for (uint32_t group = 0; group <= SIM_GROUPS_MAX; group++) {
        if (node->store[group].closed != NULL)
            drop(node->store[group].closed);
        node->store[group] = (struct sim_kept){0};
    }
}

/* Reads that fail at run time: an entry that the store held whole is damaged when somebody comes to read it, on one
 * replica. Linked in front of core/versions' reads; what the simulator itself looks at is read past it. */
#include "tests/sim/sim.h"

enum sluice_status __real_versions_entry(struct versions *self, uint64_t revision, struct entry *out);
enum sluice_status __real_versions_latest(struct versions *self, struct slice key, bool value, struct version *out);
enum sluice_status __real_versions_by_version(struct versions *self, struct slice key, uint64_t number, bool value,
                                              struct version *out);
enum sluice_status __real_versions_by_time(struct versions *self, struct slice key, uint64_t time, bool value,
                                           struct version *out);
enum sluice_status __real_versions_repair(struct versions *self, const struct entry *entry);
/* What the linker puts in their place. */
enum sluice_status __wrap_versions_entry(struct versions *self, uint64_t revision, struct entry *out);
enum sluice_status __wrap_versions_latest(struct versions *self, struct slice key, bool value, struct version *out);
enum sluice_status __wrap_versions_by_version(struct versions *self, struct slice key, uint64_t number, bool value,
                                              struct version *out);
enum sluice_status __wrap_versions_by_time(struct versions *self, struct slice key, uint64_t time, bool value,
                                           struct version *out);
enum sluice_status __wrap_versions_repair(struct versions *self, const struct entry *entry);

static struct sim_bad *find(const struct versions *versions, uint64_t revision)
{
    for (size_t i = 0; i < sim.bad_count; i++)
        if (sim.bad[i].versions == versions && sim.bad[i].revision == revision)
            return &sim.bad[i];
    return NULL;
}

static bool damaged(const struct versions *versions, uint64_t revision)
{
    return sim.bad_count > 0 && !sim.looking && find(versions, revision) != NULL;
}

void sim_store_forget(const struct versions *versions)
{
    for (size_t i = 0; i < sim.bad_count;)
        if (sim.bad[i].versions == versions)
            sim.bad[i] = sim.bad[--sim.bad_count];
        else
            i++;
}

void sim_store_scrub(uint32_t group)
{
    for (size_t i = 0; i < sim.bad_count;)
        if (sim.bad[i].group == group)
            sim.bad[i] = sim.bad[--sim.bad_count];
        else
            i++;
}

bool sim_store_readable(const struct sim_node *node, uint32_t group)
{
    const struct sim_kept *kept = &node->store[group];
    for (size_t i = 0; i < sim.bad_count; i++)
        if (sim.bad[i].versions == kept->open || sim.bad[i].versions == kept->closed)
            return false;
    return true;
}

/* Members that have forgotten nothing, can read everything, and have this. */
static uint32_t copies(const struct sim_node *except, uint32_t group, uint64_t revision)
{
    uint32_t count = 0;
    for (uint32_t id = 1; id <= sim.node_count; id++) {
        const struct sim_node *node = &sim.nodes[id];
        const struct replica *replica = node->up && node != except ? host__replica(node->host, group) : NULL;
        count += replica != NULL && sim_whole(&replica->paxos) && sim_store_readable(node, group) &&
                 (sim.placement[group].members & paxos_mask((uint16_t)id)) != 0 &&
                 versions_applied(replica->versions, NULL) >= revision;
    }
    return count;
}

/* Of entries that made a version, so that others keep it too; and never two copies of one. */
void sim_store_damage(struct sim_node *node)
{
    uint32_t key = (uint32_t)random_below(&sim.random, SIM_KEYS), group = sim_group_of_key(key);
    struct replica *replica = host__replica(node->host, group);
    struct version version;
    char name[16];
    size_t size = sim_key_name(key, name);
    if (replica == NULL || sim.bad_count == SIM_BAD_MAX || sim_moving(group) ||
        paxos_mask_count(sim.placement[group].members) < 3 ||
        __real_versions_latest(replica->versions, (struct slice){name, size}, false, &version) != SLUICE_OK)
        return;
    uint64_t number = 1 + random_below(&sim.random, version.version), revision = version.revision;
    version_release(&version);
    if (random_below(&sim.random, 2) == 0) {
        if (__real_versions_by_version(replica->versions, (struct slice){name, size}, number, false, &version) !=
            SLUICE_OK)
            return;
        revision = version.revision;
        version_release(&version);
    }
    /* A quorum of others has applied it. (Who can't read its newest entry has no vote when it begins anew.) */
    if (copies(node, group, revision) < paxos_mask_count(sim.placement[group].members) / 2 + 1)
        return;
    for (size_t i = 0; i < sim.bad_count; i++)
        if (sim.bad[i].group == group && sim.bad[i].revision == revision)
            return;
    sim.bad[sim.bad_count++] = (struct sim_bad){.versions = replica->versions, .group = group, .revision = revision};
    sim.totals.read_errors++;
    sim_say("node %u can't read revision %llu of group %u any more", node->id, (unsigned long long)revision, group);
}

enum sluice_status __wrap_versions_entry(struct versions *self, uint64_t revision, struct entry *out)
{
    return damaged(self, revision) ? SLUICE_CORRUPT : __real_versions_entry(self, revision, out);
}

static enum sluice_status seen(struct versions *self, enum sluice_status status, bool value, struct version *out)
{
    if (status != SLUICE_OK || !value || !damaged(self, out->revision))
        return status;
    version_release(out);
    return SLUICE_CORRUPT;
}

enum sluice_status __wrap_versions_latest(struct versions *self, struct slice key, bool value, struct version *out)
{
    return seen(self, __real_versions_latest(self, key, value, out), value, out);
}

enum sluice_status __wrap_versions_by_version(struct versions *self, struct slice key, uint64_t number, bool value,
                                              struct version *out)
{
    return seen(self, __real_versions_by_version(self, key, number, value, out), value, out);
}

enum sluice_status __wrap_versions_by_time(struct versions *self, struct slice key, uint64_t time, bool value,
                                           struct version *out)
{
    return seen(self, __real_versions_by_time(self, key, time, value, out), value, out);
}

enum sluice_status __wrap_versions_repair(struct versions *self, const struct entry *entry)
{
    struct sim_bad *bad = find(self, entry->index);
    enum sluice_status status = __real_versions_repair(self, entry);
    struct entry whole;
    if (status != SLUICE_OK || bad == NULL)
        return status;
    if (__real_versions_entry(self, entry->index, &whole) != SLUICE_OK || whole.time != entry->time ||
        whole.kind != entry->kind || whole.body_crc != entry->body_crc)
        sim_fail("a peer gave another entry for revision %llu of group %u", (unsigned long long)entry->index,
                 entry->group);
    buf_unref(whole.body);
    *bad = sim.bad[--sim.bad_count];
    sim.totals.repairs++;
    return SLUICE_OK;
}

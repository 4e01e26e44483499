#include "core/cluster/placement.h"

#include <string.h>

#include "core/base/panic.h"

struct loads {
    size_t replicas[PLACEMENT_NODES_MAX];
    size_t leaders[PLACEMENT_NODES_MAX];
};

static bool in(uint64_t mask, unsigned node)
{
    return node < PLACEMENT_NODES_MAX && (mask >> node & 1) != 0;
}

static uint64_t mask_of(const struct placement_shard *shard)
{
    uint64_t mask = 0;
    for (uint32_t i = 0; i < shard->count; i++)
        mask |= UINT64_C(1) << shard->nodes[i];
    return mask;
}

/* Strikes the nodes that may not be used and those that are too many: of these the most loaded one, the leader last. */
static void strike(uint64_t usable, uint32_t wanted, struct placement_shard *shard, struct loads *loads)
{
    uint32_t kept = 0;
    for (uint32_t i = 0; i < shard->count; i++) {
        if (in(usable, shard->nodes[i]))
            shard->nodes[kept++] = shard->nodes[i];
        else
            loads->replicas[shard->nodes[i]]--;
    }
    shard->count = kept;
    while (shard->count > wanted) {
        uint32_t worst = shard->count - 1;
        for (uint32_t i = 1; i < shard->count; i++)
            if (loads->replicas[shard->nodes[i]] > loads->replicas[shard->nodes[worst]])
                worst = i;
        loads->replicas[shard->nodes[worst]]--;
        memmove(&shard->nodes[worst], &shard->nodes[worst + 1], (shard->count - worst - 1) * sizeof(shard->nodes[0]));
        shard->count--;
    }
}

/* The least loaded usable node outside of `taken`; among equals the first one from `turn` on, so that ties do not all
 * fall on the same pair of nodes. 0: none. */
static uint16_t least(uint64_t usable, uint64_t taken, const struct loads *loads, size_t turn)
{
    uint16_t found = 0;
    for (unsigned i = 0; i < PLACEMENT_NODES_MAX; i++) {
        unsigned node = (unsigned)((turn + i) % PLACEMENT_NODES_MAX);
        if (in(usable, node) && !in(taken, node) && (found == 0 || loads->replicas[node] < loads->replicas[found]))
            found = (uint16_t)node;
    }
    return found;
}

static void fill(uint64_t usable, uint32_t wanted, struct placement_shard *shard, struct loads *loads, size_t turn)
{
    while (shard->count < wanted) {
        uint16_t node = least(usable, mask_of(shard), loads, turn);
        ASSERT(node != 0);
        shard->nodes[shard->count++] = node;
        loads->replicas[node]++;
    }
}

static void extremes(uint64_t usable, const size_t *load, unsigned *low, unsigned *high)
{
    *low = *high = 0;
    for (unsigned node = 1; node < PLACEMENT_NODES_MAX; node++) {
        if (!in(usable, node))
            continue;
        if (*low == 0 || load[node] < load[*low])
            *low = node;
        if (*high == 0 || load[node] > load[*high])
            *high = node;
    }
}

/* A node with at least two replicas more than another holds a shard that the other does not: one of them moves. Each
 * move takes a node one closer to its share, so no smaller number of moves would do. */
static void even_out(uint64_t usable, struct placement_shard *shards, size_t count, size_t first, struct loads *loads)
{
    size_t from = 0,
           movable =
               count -
               first; /* goes on where the last move ended, so that one shard does not move twice where another can */
    for (;;) {
        unsigned low, high;
        extremes(usable, loads->replicas, &low, &high);
        if (loads->replicas[high] <= loads->replicas[low] + 1)
            return;
        struct placement_shard *chosen = NULL;
        for (size_t i = 0; i < movable && chosen == NULL; i++) {
            struct placement_shard *shard = &shards[first + (from + i) % movable];
            uint64_t mask = mask_of(shard);
            if (in(mask, high) && !in(mask, low)) {
                chosen = shard;
                from = (from + i + 1) % movable;
            }
        }
        if (chosen == NULL) {
            ASSERT(first > 0);
            return;
        }
        for (uint32_t i = 0; i < chosen->count; i++)
            if (chosen->nodes[i] == high)
                chosen->nodes[i] = (uint16_t)low;
        loads->replicas[high]--;
        loads->replicas[low]++;
    }
}

static void lead(struct placement_shard *shard, uint16_t node)
{
    for (uint32_t i = 1; i < shard->count; i++)
        if (shard->nodes[i] == node) {
            shard->nodes[i] = shard->nodes[0];
            shard->nodes[0] = node;
        }
}

/* From an overloaded leader along shards whose lead can pass on, to a node that leads at least two fewer: a shortest
 * augmenting path. Without one the spread is as even as the replicas allow. */
static bool pass_lead(uint64_t usable, struct placement_shard *shards, size_t count, size_t first, struct loads *loads,
                      unsigned source)
{
    size_t via[PLACEMENT_NODES_MAX] = {0}; /* shard + 1 whose lead passes to the node */
    uint16_t queue[PLACEMENT_NODES_MAX] = {(uint16_t)source};
    uint64_t seen = UINT64_C(1) << source;
    unsigned target = 0;
    for (size_t at = 0, end = 1; at < end && target == 0; at++)
        for (size_t i = first; i < count && target == 0; i++) {
            const struct placement_shard *shard = &shards[i];
            if (shard->count == 0 || shard->nodes[0] != queue[at])
                continue;
            for (uint32_t k = 1; k < shard->count && target == 0; k++) {
                uint16_t node = shard->nodes[k];
                if (in(seen, node) || !in(usable, node))
                    continue;
                seen |= UINT64_C(1) << node;
                via[node] = i + 1;
                queue[end++] = node;
                if (loads->leaders[node] + 2 <= loads->leaders[source])
                    target = node;
            }
        }
    if (target == 0)
        return false;
    loads->leaders[target]++;
    loads->leaders[source]--;
    while (target != source) {
        struct placement_shard *shard = &shards[via[target] - 1];
        uint16_t before = shard->nodes[0];
        lead(shard, (uint16_t)target);
        target = before;
    }
    return true;
}

static void spread_leaders(uint64_t usable, struct placement_shard *shards, size_t count, size_t first,
                           struct loads *loads)
{
    for (size_t i = 0; i < count; i++)
        if (shards[i].count > 0)
            loads->leaders[shards[i].nodes[0]]++;
    for (bool moved = true; moved;) {
        moved = false;
        for (unsigned node = 1; node < PLACEMENT_NODES_MAX; node++)
            while (in(usable, node) && pass_lead(usable, shards, count, first, loads, node))
                moved = true;
    }
}

void placement_solve(uint64_t usable, struct placement_shard *shards, size_t count, size_t first)
{
    struct loads loads = {0};
    usable &= ~UINT64_C(1);
    ASSERT(usable != 0 && first <= count);
    uint32_t nodes = (uint32_t)__builtin_popcountll(usable);
    for (size_t i = 0; i < count; i++)
        for (uint32_t k = 0; k < shards[i].count; k++)
            loads.replicas[shards[i].nodes[k]]++;
    for (size_t i = first; i < count; i++)
        strike(usable, shards[i].wanted < nodes ? shards[i].wanted : nodes, &shards[i], &loads);
    for (size_t i = first; i < count; i++)
        fill(usable, shards[i].wanted < nodes ? shards[i].wanted : nodes, &shards[i], &loads, i + 1);
    even_out(usable, shards, count, first, &loads);
    spread_leaders(usable, shards, count, first, &loads);
}

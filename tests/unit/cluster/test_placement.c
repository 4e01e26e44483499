/* Properties of the placement, over many random clusters; each prints the seed that it began with. */
#include <criterion/criterion.h>
#include <stdio.h>
#include <string.h>
#include <time.h>

#include "core/base/random.h"
#include "core/cluster/placement.h"

#define SHARDS_MAX 200
#define CLUSTERS   400

static struct random dice;
static struct placement_shard shards[SHARDS_MAX];
static size_t count;
static uint64_t usable;

static void seeded(void)
{
    uint64_t seed = random_os();
    printf("seed %llu\n", (unsigned long long)seed);
    random_seed(&dice, seed);
}

static unsigned nodes_in(uint64_t mask)
{
    return (unsigned)__builtin_popcountll(mask);
}

static uint64_t random_nodes(unsigned least)
{
    uint64_t mask = 0;
    unsigned wanted = least + (unsigned)random_below(&dice, 9);
    while (nodes_in(mask) < wanted)
        mask |= UINT64_C(1) << (1 + random_below(&dice, 63));
    return mask;
}

static void fresh(void)
{
    usable = random_nodes(1);
    count = 1 + random_below(&dice, SHARDS_MAX);
    for (size_t i = 0; i < count; i++)
        shards[i] = (struct placement_shard){.wanted = 1 + (uint32_t)random_below(&dice, 5)};
    placement_solve(usable, shards, count, 0);
}

static uint64_t mask_of(const struct placement_shard *shard)
{
    uint64_t mask = 0;
    for (uint32_t i = 0; i < shard->count; i++)
        mask |= UINT64_C(1) << shard->nodes[i];
    return mask;
}

static void spread(size_t *load, size_t *low, size_t *high)
{
    *low = SIZE_MAX;
    *high = 0;
    for (unsigned node = 1; node < 64; node++) {
        if ((usable >> node & 1) == 0)
            continue;
        *low = load[node] < *low ? load[node] : *low;
        *high = load[node] > *high ? load[node] : *high;
    }
}

static void check_whole(void)
{
    size_t replicas[64] = {0}, low, high;
    for (size_t i = 0; i < count; i++) {
        uint32_t wanted = shards[i].wanted < nodes_in(usable) ? shards[i].wanted : nodes_in(usable);
        cr_assert_eq(shards[i].count, wanted);
        cr_assert_eq(nodes_in(mask_of(&shards[i])), wanted, "a node holds two replicas of one shard");
        cr_assert_eq(mask_of(&shards[i]) & ~usable, 0, "a replica is on a node that may not be used");
        for (uint32_t k = 0; k < shards[i].count; k++)
            replicas[shards[i].nodes[k]]++;
    }
    spread(replicas, &low, &high);
    cr_assert_leq(high - low, 1, "%zu to %zu replicas a node", low, high);
}

/* Moves that no placement can avoid: replicas on nodes that go or are too many, and what a node has above its share. */
static size_t moves(const struct placement_shard *before)
{
    size_t moved = 0;
    for (size_t i = 0; i < count; i++)
        moved += nodes_in(mask_of(&shards[i]) & ~mask_of(&before[i]));
    return moved;
}

Test(placement, every_shard_has_its_replicas_on_different_nodes_and_the_load_is_even)
{
    seeded();
    for (int i = 0; i < CLUSTERS; i++) {
        fresh();
        check_whole();
    }
}

Test(placement, leaders_are_even_where_every_shard_has_replicas_to_choose_from)
{
    seeded();
    for (int i = 0; i < CLUSTERS; i++) {
        size_t leaders[64] = {0}, low, high;
        usable = random_nodes(3);
        count = 1 + random_below(&dice, SHARDS_MAX);
        for (size_t k = 0; k < count; k++)
            shards[k] = (struct placement_shard){.wanted = 3};
        placement_solve(usable, shards, count, 0);
        for (size_t k = 0; k < count; k++)
            leaders[shards[k].nodes[0]]++;
        spread(leaders, &low, &high);
        cr_assert_leq(high - low, 1, "%zu to %zu shards led by a node", low, high);
    }
}

Test(placement, what_is_placed_well_stays)
{
    static struct placement_shard before[SHARDS_MAX];
    seeded();
    for (int i = 0; i < CLUSTERS; i++) {
        fresh();
        memcpy(before, shards, sizeof(before));
        placement_solve(usable, shards, count, 0);
        cr_assert_eq(memcmp(before, shards, sizeof(before)), 0);
    }
}

Test(placement, a_node_that_comes_takes_its_share_and_nothing_else_moves)
{
    static struct placement_shard before[SHARDS_MAX];
    seeded();
    for (int i = 0; i < CLUSTERS; i++) {
        size_t total = 0, taken = 0;
        uint64_t came;
        usable = random_nodes(5); /* no shard wants more replicas than there are nodes */
        count = 1 + random_below(&dice, SHARDS_MAX);
        for (size_t k = 0; k < count; k++)
            shards[k] = (struct placement_shard){.wanted = 1 + (uint32_t)random_below(&dice, 5)};
        placement_solve(usable, shards, count, 0);
        memcpy(before, shards, sizeof(before));
        do
            came = UINT64_C(1) << (1 + random_below(&dice, 63));
        while ((usable & came) != 0);
        usable |= came;
        placement_solve(usable, shards, count, 0);
        check_whole();
        for (size_t k = 0; k < count; k++) {
            uint64_t new = mask_of(&shards[k]) & ~mask_of(&before[k]);
            cr_assert(new == 0 || new == came, "a replica moved between two nodes that were there");
            taken += new != 0;
            total += shards[k].count;
        }
        cr_assert_leq(taken, (total + nodes_in(usable) - 1) / nodes_in(usable));
    }
}

Test(placement, a_node_that_goes_moves_what_it_held_and_nothing_else)
{
    static struct placement_shard before[SHARDS_MAX];
    seeded();
    for (int i = 0; i < CLUSTERS; i++) {
        size_t held = 0;
        uint16_t gone;
        usable = random_nodes(6); /* with one fewer there is still one for each replica */
        count = 1 + random_below(&dice, SHARDS_MAX);
        for (size_t k = 0; k < count; k++)
            shards[k] = (struct placement_shard){.wanted = 1 + (uint32_t)random_below(&dice, 5)};
        placement_solve(usable, shards, count, 0);
        memcpy(before, shards, sizeof(before));
        do
            gone = (uint16_t)(1 + random_below(&dice, 63));
        while ((usable >> gone & 1) == 0);
        for (size_t k = 0; k < count; k++)
            held += (mask_of(&shards[k]) >> gone & 1) != 0;
        usable &= ~(UINT64_C(1) << gone);
        placement_solve(usable, shards, count, 0);
        check_whole();
        /* Where a shard is on all the least loaded nodes already, evening out may take a further step. */
        cr_assert_leq(moves(before), held + nodes_in(usable), "%zu moved for %zu", moves(before), held);
    }
}

Test(placement, shards_before_the_first_are_counted_and_left_alone)
{
    static struct placement_shard before[SHARDS_MAX];
    seeded();
    for (int i = 0; i < CLUSTERS; i++) {
        fresh();
        size_t first = random_below(&dice, count + 1);
        for (size_t k = first; k < count; k++)
            shards[k].count = 0;
        memcpy(before, shards, sizeof(before));
        placement_solve(usable, shards, count, first);
        cr_assert_eq(memcmp(before, shards, first * sizeof(before[0])), 0);
        for (size_t k = first; k < count; k++)
            cr_assert_eq(nodes_in(mask_of(&shards[k])),
                         shards[k].wanted < nodes_in(usable) ? shards[k].wanted : nodes_in(usable));
    }
}

Test(placement, five_nodes_share_three_replicas_of_eight_shards)
{
    size_t replicas[64] = {0};
    usable = 0x3e;
    count = 8;
    for (size_t k = 0; k < count; k++)
        shards[k] = (struct placement_shard){.wanted = 3, .nodes = {1, 2, 3}, .count = 3};
    placement_solve(usable, shards, count, 0);
    check_whole();
    for (size_t k = 0; k < count; k++)
        for (uint32_t j = 0; j < 3; j++)
            replicas[shards[k].nodes[j]]++;
    cr_assert(replicas[4] >= 4 && replicas[5] >= 4);
}

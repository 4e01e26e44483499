#include <criterion/criterion.h>

#include "core/base/random.h"

Test(random, is_xoshiro256_starstar)
{
    /* From state {1, 2, 3, 4}; the first value by hand: rotl(2 * 5, 7) * 9. */
    struct random random = {{1, 2, 3, 4}};
    static const uint64_t expected[] = {11520, 0, 1509978240, 1215971899390074240};
    for (int i = 0; i < 4; i++)
        cr_assert_eq(random_next(&random), expected[i]);
}

Test(random, the_same_seed_gives_the_same_sequence_and_another_seed_another)
{
    struct random a, b, c;
    random_seed(&a, 42);
    random_seed(&b, 42);
    random_seed(&c, 43);
    unsigned equal = 0;
    for (int i = 0; i < 1000; i++) {
        uint64_t value = random_next(&a);
        cr_assert_eq(value, random_next(&b));
        equal += value == random_next(&c);
    }
    cr_assert_eq(equal, 0);
}

Test(random, seed_zero_is_as_good_as_any)
{
    struct random random;
    random_seed(&random, 0);
    /* The first number of SplitMix64 from 0, a published value. */
    cr_assert_eq(random.state[0], UINT64_C(0xe220a8397b1dcdaf));
    cr_assert_neq(random_next(&random), random_next(&random));
}

Test(random, below_stays_below_and_reaches_every_value_about_equally)
{
    struct random random;
    random_seed(&random, 7);
    unsigned counts[10] = {0};
    for (int i = 0; i < 100000; i++)
        counts[random_below(&random, 10)]++;
    for (int i = 0; i < 10; i++)
        cr_assert(counts[i] > 9500 && counts[i] < 10500, "%d: %u", i, counts[i]);
    for (int i = 0; i < 100; i++) {
        cr_assert_eq(random_below(&random, 1), 0);
        cr_assert_leq(random_below(&random, UINT64_MAX), UINT64_MAX - 1);
    }
}

Test(random, chance_holds_its_rate_and_its_ends)
{
    struct random random;
    random_seed(&random, 9);
    unsigned hits = 0;
    for (int i = 0; i < 100000; i++) {
        hits += (unsigned)random_chance(&random, 250000);
        cr_assert_not(random_chance(&random, 0));
        cr_assert(random_chance(&random, 1000000));
    }
    cr_assert(hits > 24000 && hits < 26000, "%u", hits);
}

Test(random, the_systems_numbers_differ)
{
    cr_assert_neq(random_os(), random_os());
}

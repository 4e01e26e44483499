#include <criterion/criterion.h>

#include "core/base/clock.h"
#include "core/base/drain.h"

#define MS NS_PER_MS

Test(drain, what_is_not_known_bounds_nothing)
{
    struct drain drain;
    drain_begin(&drain, 5 * NS_PER_S);
    drain_done(&drain, 5 * NS_PER_S + 100 * MS, 10);
    cr_assert(drain_allows(&drain, 5 * NS_PER_S + 199 * MS, UINT64_MAX, 0));
}

Test(drain, a_second_of_work_is_allowed_and_the_least_in_any_case)
{
    struct drain drain;
    drain_begin(&drain, NS_PER_S);
    drain_done(&drain, NS_PER_S + 200 * MS, 1000);
    cr_assert(drain_allows(&drain, NS_PER_S + 200 * MS, 5000, 0));
    cr_assert_not(drain_allows(&drain, NS_PER_S + 200 * MS, 5001, 0));
    cr_assert(drain_allows(&drain, NS_PER_S + 200 * MS, 6000, 6000));
}

Test(drain, one_slow_moment_counts_for_a_quarter_and_a_long_stillness_for_all)
{
    struct drain drain;
    drain_begin(&drain, NS_PER_S);
    drain_done(&drain, NS_PER_S + 200 * MS, 1000);
    cr_assert(drain_allows(&drain, NS_PER_S + 400 * MS, 3750, 0));
    cr_assert_not(drain_allows(&drain, NS_PER_S + 400 * MS, 3751, 0));
    cr_assert_not(drain_allows(&drain, NS_PER_S + 1200 * MS, 1, 0));
    drain_done(&drain, NS_PER_S + 1400 * MS, 1000);
    cr_assert(drain_allows(&drain, NS_PER_S + 1400 * MS, 1250, 0), "it comes back by and by");
    drain_begin(&drain, 9 * NS_PER_S);
    cr_assert(drain_allows(&drain, 9 * NS_PER_S, UINT64_MAX, 0), "after an idle time nothing is known");
}

/* What fabric-perf makes of what it measured. */
#include <criterion/criterion.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "core/base/random.h"
#include "core/rdma/main/perf.h"

static struct histogram *histogram_of(const uint64_t *values, size_t count)
{
    struct histogram *self = calloc(1, sizeof(*self));
    cr_assert_not_null(self);
    for (size_t i = 0; i < count; i++)
        histogram_add(self, values[i]);
    return self;
}

static int compare(const void *left, const void *right)
{
    uint64_t a = *(const uint64_t *)left, b = *(const uint64_t *)right;
    return (a > b) - (a < b);
}

Test(perf, a_histogram_says_nothing_of_nothing)
{
    struct histogram *empty = histogram_of(NULL, 0);
    cr_expect_eq(histogram_at(empty, 500000), 0);
    cr_expect_eq(histogram_at(empty, 1000000), 0);
    free(empty);
}

Test(perf, a_histogram_holds_the_least_and_the_greatest_number_there_is)
{
    const uint64_t values[] = {0, UINT64_MAX};
    struct histogram *both = histogram_of(values, 2);
    cr_expect_eq(both->least, 0);
    cr_expect_eq(histogram_at(both, 500000), 0);
    cr_expect_eq(histogram_at(both, 500001), UINT64_MAX);
    free(both);
}

Test(perf, percentiles_are_at_most_a_64th_above_those_of_the_sorted_numbers)
{
    enum { COUNT = 20000 };
    static uint64_t values[COUNT];
    struct random random;
    uint64_t seed = clock_realtime_ns();
    printf("seed %" PRIu64 "\n", seed);
    random_seed(&random, seed);
    for (unsigned i = 0; i < COUNT; i++)
        values[i] = random_next(&random) >> (random_next(&random) % 60);
    struct histogram *all = histogram_of(values, COUNT);
    qsort(values, COUNT, sizeof(values[0]), compare);
    for (uint32_t per_million = 50; per_million <= 1000000; per_million += 50) {
        uint64_t exact = values[(uint64_t)per_million * COUNT / 1000000 - 1], got = histogram_at(all, per_million);
        cr_assert_geq(got, exact, "at %u: %" PRIu64 " is below %" PRIu64, per_million, got, exact);
        cr_assert_leq(got - exact, exact / 64, "at %u: %" PRIu64 " is far from %" PRIu64, per_million, got, exact);
    }
    free(all);
}

static struct perf_judgement judged(enum perf_test test, uint32_t size, double usual_ms, double slow_ms, double rate)
{
    static struct perf_result result;
    struct perf_judgement judgement = {0};
    result = (struct perf_result){.test = test, .direction = PERF_BOTH, .size = size};
    for (unsigned i = 0; i < 1000; i++)
        histogram_add(&result.round_trips, (uint64_t)(1e6 * (i % 50 == 0 ? slow_ms : usual_ms)));
    result.there = result.back = (struct perf_rate){.bytes = rate};
    perf_judge(&judgement, &result);
    return judgement;
}

Test(perf, round_trips_are_judged_by_what_leases_bear)
{
    cr_expect_eq(judged(PERF_LATENCY, 64, 0.2, 5, 0).fit, PERF_FIT);
    cr_expect_eq(judged(PERF_LATENCY, 64, 0.2, 25, 0).fit, PERF_TIGHT);
    cr_expect_eq(judged(PERF_LATENCY, 64, 0.2, 45, 0).fit, PERF_UNFIT);
    struct perf_judgement large = judged(PERF_LATENCY, 1u << 20, 45, 45, 0);
    cr_expect_eq(large.fit, PERF_FIT, "how long a megabyte takes says nothing of leases");
    cr_expect_eq(large.reason_count, 0);
}

Test(perf, one_pause_longer_than_an_election_waits_is_told)
{
    static struct perf_result result;
    result = (struct perf_result){.test = PERF_LATENCY, .direction = PERF_THERE, .size = 64};
    struct perf_judgement judgement = {0};
    for (unsigned i = 0; i < 100000; i++)
        histogram_add(&result.round_trips, i == 7 ? 200 * NS_PER_MS : 100 * NS_PER_US);
    perf_judge(&judgement, &result);
    cr_expect_eq(judgement.fit, PERF_TIGHT);
    cr_expect_not_null(strstr(judgement.reasons[0], "200.0 ms"), "%s", judgement.reasons[0]);
}

Test(perf, bandwidth_is_judged_by_what_catching_up_needs_and_by_what_renewals_meet_behind_it)
{
    cr_expect_eq(judged(PERF_BANDWIDTH, 1u << 20, 1, 5, 100e6).fit, PERF_FIT);
    cr_expect_eq(judged(PERF_BANDWIDTH, 1u << 20, 1, 50, 100e6).fit, PERF_TIGHT);
    struct perf_judgement slow = judged(PERF_BANDWIDTH, 1u << 20, 1, 5, 2e6);
    cr_expect_eq(slow.fit, PERF_UNFIT);
    cr_expect_eq(slow.reason_count, 2, "each direction is told");
    cr_expect_eq(judged(PERF_BANDWIDTH, 64, 1, 5, 2e6).fit, PERF_FIT, "small messages measure processors");
}

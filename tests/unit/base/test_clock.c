#include <criterion/criterion.h>
#include <stdio.h>
#include <string.h>
#include <time.h>

#include "core/base/clock.h"
#include "core/base/random.h"

Test(clock, monotonic_never_goes_back)
{
    uint64_t last = clock_monotonic_ns();
    for (int i = 0; i < 10000; i++) {
        uint64_t now = clock_monotonic_ns();
        cr_assert_geq(now, last);
        last = now;
    }
}

Test(clock, realtime_is_the_wall_clock)
{
    uint64_t now = clock_realtime_ns();
    uint64_t wall = (uint64_t)time(NULL) * NS_PER_S;
    cr_assert(now > wall - 2 * NS_PER_S && now < wall + 3 * NS_PER_S);
}

Test(hlc, is_strictly_increasing_when_the_wall_stands_or_goes_back)
{
    struct hlc clock = {0};
    cr_assert_eq(hlc_now(&clock, 1000), 1000);
    cr_assert_eq(hlc_now(&clock, 1000), 1001);
    cr_assert_eq(hlc_now(&clock, 10), 1002);
    cr_assert_eq(hlc_now(&clock, 2000), 2000);
}

Test(hlc, follows_causality)
{
    struct hlc clock = {0};
    cr_assert_eq(hlc_now(&clock, 1000), 1000);
    hlc_merge(&clock, 5000);
    cr_assert_eq(hlc_now(&clock, 1001), 5001);
    hlc_merge(&clock, 3); /* an older time changes nothing */
    cr_assert_eq(hlc_now(&clock, 1002), 5002);
}

struct example {
    const char *text;
    uint64_t ns;
};

Test(clock_text, formats_as_rfc3339_with_nine_decimals)
{
    static const struct example examples[] = {
        {"1970-01-01T00:00:00.000000000Z", 0},
        {"1970-01-01T00:00:00.000000001Z", 1},
        {"2000-02-29T23:59:59.999999999Z", UINT64_C(951868799999999999)},
        {"2026-11-23T02:40:00.000000000Z", UINT64_C(1795401600000000000)},
        {"2100-03-01T00:00:00.500000000Z", UINT64_C(4107542400500000000)},
        {"2554-07-21T23:34:33.709551615Z", UINT64_MAX},
    };
    for (size_t i = 0; i < sizeof(examples) / sizeof(examples[0]); i++) {
        char text[CLOCK_TEXT_BYTES];
        clock_format_rfc3339(examples[i].ns, text);
        cr_assert_str_eq(text, examples[i].text);
    }
}

Test(clock_text, parses_what_rfc3339_allows)
{
    static const struct example examples[] = {
        {"1970-01-01T00:00:00Z", 0},
        {"1970-01-01t00:00:00.5z", 500000000},
        {"1970-01-01T01:00:00+01:00", 0},
        {"1969-12-31T23:30:00-01:00", UINT64_C(1800) * NS_PER_S},
        {"1969-12-31T23:59:60Z", 0},
        {"2016-12-31T23:59:60Z", UINT64_C(1483228800) * NS_PER_S},
        {"2017-01-01T00:59:60+01:00", UINT64_C(1483228800) * NS_PER_S},
        {"2026-11-23T02:40:00.123456789Z", UINT64_C(1795401600123456789)},
        {"2026-11-23T02:40:00.120Z", UINT64_C(1795401600120000000)},
        {"2000-02-29T00:00:00-00:00", UINT64_C(951782400) * NS_PER_S},
        {"2554-07-21T23:34:33.709551615Z", UINT64_MAX},
        {"0", 0},
        {"1795401600123456789", UINT64_C(1795401600123456789)},
        {"18446744073709551615", UINT64_MAX},
    };
    for (size_t i = 0; i < sizeof(examples) / sizeof(examples[0]); i++) {
        uint64_t ns = 42;
        cr_assert(clock_parse(examples[i].text, strlen(examples[i].text), &ns), "%s", examples[i].text);
        cr_assert_eq(ns, examples[i].ns, "%s gave %lu", examples[i].text, ns);
    }
}

Test(clock_text, refuses_everything_else_and_leaves_the_result_alone)
{
    static const char *const examples[] = {
        "",
        " ",
        "-1",
        "+1",
        "1 ",
        "0x10",
        "1.5",
        "18446744073709551616",
        "99999999999999999999999",
        "2026-11-23",
        "2026-11-23T02:40:00",
        "2026-11-23T02:40Z",
        "2026-11-23 02:40:00Z",
        "2026-11-23T02:40:00.Z",
        "2026-11-23T02:40:00.1234567890Z",
        "2026-11-23T02:40:00Z ",
        "2026-11-23T02:40:00ZZ",
        "2026-11-23T02:40:00+0100",
        "2026-11-23T02:40:00+24:00",
        "2026-11-23T02:40:00+01:60",
        "2026-11-23T24:00:00Z",
        "2026-11-23T02:60:00Z",
        "2026-11-23T02:40:60Z",
        "2026-11-23T02:40:61Z",
        "2026-13-01T00:00:00Z",
        "2026-00-01T00:00:00Z",
        "2026-01-00T00:00:00Z",
        "2026-04-31T00:00:00Z",
        "2026-02-29T00:00:00Z",
        "2100-02-29T00:00:00Z",
        "26-11-23T02:40:00Z",
        "1969-12-31T23:59:59Z",
        "1969-01-01T00:00:00Z",
        "1970-01-01T00:00:00+00:01",
        "0000-01-01T00:00:00Z",
        "2554-07-21T23:34:33.709551616Z",
        "2554-07-21T23:34:34Z",
        "9999-12-31T23:59:59Z",
    };
    for (size_t i = 0; i < sizeof(examples) / sizeof(examples[0]); i++) {
        uint64_t ns = 42;
        cr_assert_not(clock_parse(examples[i], strlen(examples[i]), &ns), "%s was taken", examples[i]);
        cr_assert_eq(ns, 42);
    }
    uint64_t ns;
    cr_assert_not(clock_parse("2026-11-23T02:40:00Z\0", 21, &ns), "a zero byte is no end");
}

Test(clock_text, any_time_survives_the_way_there_and_back_and_agrees_with_libc)
{
    uint64_t seed = random_os();
    struct random random;
    random_seed(&random, seed);
    for (int i = 0; i < 20000; i++) {
        uint64_t ns = random_next(&random) >> random_below(&random, 40), back = 0;
        char text[CLOCK_TEXT_BYTES], libc[CLOCK_TEXT_BYTES];
        clock_format_rfc3339(ns, text);
        cr_assert(clock_parse(text, strlen(text), &back), "seed %lu: %s", seed, text);
        cr_assert_eq(back, ns, "seed %lu: %s", seed, text);

        time_t seconds = (time_t)(ns / NS_PER_S);
        struct tm tm;
        gmtime_r(&seconds, &tm);
        strftime(libc, sizeof(libc), "%Y-%m-%dT%H:%M:%S.", &tm);
        cr_assert_eq(strncmp(text, libc, strlen(libc)), 0, "seed %lu: %s is not %s", seed, text, libc);
    }
}

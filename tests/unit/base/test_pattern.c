#include <criterion/criterion.h>
#include <pthread.h>
#include <stdio.h>
#include <string.h>

#include "core/base/clock.h"
#include "core/base/pattern.h"
#include "core/base/random.h"

enum { KEY = 1, PREFIX = 2, GLOB = 3, REGEX = 4 };

static struct pattern *compiled(int kind, const char *text)
{
    struct pattern *pattern;
    char error[256] = "";
    enum sluice_status status = pattern_compile(kind, text, strlen(text), &pattern, error, sizeof(error));
    cr_assert_eq(status, SLUICE_OK, "%s: %s", text, error);
    return pattern;
}

static bool matches(int kind, const char *text, const char *key)
{
    struct pattern *pattern = compiled(kind, text);
    bool matched = pattern_match(pattern, key, strlen(key));
    size_t size;
    const char *prefix = pattern_prefix(pattern, &size);
    if (matched)
        cr_assert(size <= strlen(key) && memcmp(key, prefix, size) == 0, "%s matches %s, but its prefix does not", text,
                  key);
    pattern_destroy(pattern);
    return matched;
}

struct example {
    int kind;
    const char *text;
    const char *yes[6];
    const char *no[6];
};

Test(pattern, each_kind_matches_what_it_says)
{
    static const struct example examples[] = {
        {KEY, "farm/cow", {"farm/cow"}, {"farm/cows", "farm/co", "farm/cow/x"}},
        {KEY, "a*", {"a*"}, {"ab"}},
        {PREFIX, "farm/c", {"farm/c", "farm/cow", "farm/c/d"}, {"farm/", "farm/b", "xfarm/c"}},
        {PREFIX, "", {"a", "farm/cow"}, {NULL}},
        {GLOB, "farm/cow", {"farm/cow"}, {"farm/cows"}},
        {GLOB, "farm/*", {"farm/cow"}, {"farm/cow/1", "farm", "farms/cow"}},
        {GLOB, "farm/*/gate", {"farm/a/gate"}, {"farm/gate", "farm/a/b/gate"}},
        {GLOB, "farm/**", {"farm/cow", "farm/cow/1"}, {"farm", "farms/cow"}},
        {GLOB, "**", {"a", "a/b"}, {NULL}},
        {GLOB, "**/camera", {"camera", "a/camera", "a/b/camera"}, {"xcamera", "a/xcamera", "camera/x"}},
        {GLOB, "a/**/b", {"a/b", "a/x/b", "a/x/y/b"}, {"ab", "a/xb", "a/b/c"}},
        {GLOB, "a**b", {"ab", "a/b", "axb", "a/x/b"}, {"a/x/bc"}},
        {GLOB, "cow?", {"cow1", "cow\xc3\xbc"}, {"cow", "cow/", "cow12"}},
        {GLOB, "cow[0-9a]", {"cow0", "cow9", "cowa"}, {"cowb", "cow", "cow00"}},
        {GLOB, "cow[!0-9]", {"cowx"}, {"cow1", "cow/"}},
        {GLOB, "a[+-9]b", {"a+b", "a.b", "a0b"}, {"a/b"}},
        {GLOB, "a[]]b", {"a]b"}, {"ab"}},
        {GLOB, "a[-x]b", {"a-b", "axb"}, {"a/b"}},
        {GLOB, "a[x-]b", {"a-b", "axb"}, {"ayb"}},
        {GLOB, "a[\\]]b", {"a]b"}, {"a\\b"}},
        {GLOB, "a\\*", {"a*"}, {"ab", "a\\*"}},
        {GLOB, "a\\**", {"a*", "a*x"}, {"ax", "a*/x"}},
        {GLOB, "a\\\\**", {"a\\", "a\\x/y"}, {"a*"}},
        {GLOB, "a.c+(d)|{e}$^", {"a.c+(d)|{e}$^"}, {"abc+(d)|{e}$^"}},
        {GLOB, "K\xc3\xbche/*", {"K\xc3\xbche/x"}, {"Kuche/x"}},
        {REGEX, "farm/cow[0-9]+", {"farm/cow1", "farm/cow27"}, {"farm/cow", "farm/cow1x", "xfarm/cow1"}},
        {REGEX, "a|bc", {"a", "bc"}, {"ac", "b", "abc"}},
        {REGEX, "(?i)Farm/.*", {"FARM/x", "farm/y/z"}, {"far/x"}},
        {REGEX, "^a$", {"a"}, {"ab"}},
        {REGEX, "(?:x/)*y", {"y", "x/x/y"}, {"x/"}},
        {REGEX, "\\Qa.b\\E.", {"a.bc"}, {"axbc"}},
    };
    for (size_t i = 0; i < sizeof(examples) / sizeof(examples[0]); i++) {
        const struct example *e = &examples[i];
        for (size_t k = 0; k < 6 && e->yes[k]; k++)
            cr_assert(matches(e->kind, e->text, e->yes[k]), "%s should match %s", e->text, e->yes[k]);
        for (size_t k = 0; k < 6 && e->no[k]; k++)
            cr_assert_not(matches(e->kind, e->text, e->no[k]), "%s should not match %s", e->text, e->no[k]);
    }
}

Test(pattern, a_bad_one_is_refused_with_the_place)
{
    static const struct {
        int kind;
        const char *text;
        const char *words;
    } examples[] = {
        {0, "a", "not 0"},
        {5, "a", "not 5"},
        {KEY, "", "empty"},
        {GLOB, "", "empty"},
        {REGEX, "", "empty"},
        {GLOB, "a/[bc", "character 3: this [ has no ]"},
        {GLOB, "a[", "character 2: this [ has no ]"},
        {GLOB, "a[]", "character 2: this [ has no ]"},
        {GLOB, "a[x\\", "character 2: this [ has no ]"},
        {GLOB, "\xc3\xbc[z-a]", "character 3: this range runs backwards"},
        {GLOB, "a[/]b", "character 2: this set holds a slash alone"},
        {GLOB, "ab\\", "character 3: this backslash"},
        {REGEX, "\xc3\xbc(b", "character 3: a ( has no )"},
        {REGEX, "\xc3\xbc\xc3\xbc)x", "character 3: this ) has no ("},
        {REGEX, "(a))(b))", "character 4: this ) has no ("},
        {REGEX, "a\\\\q\\q", "character 5: invalid escape sequence: \\q"},
        {REGEX, "x[a-", "character 2: missing ]"},
        {REGEX, "x[z-a]", "character 3: invalid character class range: z-a"},
        {REGEX, "a**", "character 2: bad repetition operator: **"},
        {REGEX, "*a", "character 1: no argument for repetition operator: *"},
        {REGEX, "ab{1001}", "character 3: invalid repetition size: {1001}"},
        {REGEX, "a(?P<n", "character 2: invalid named capture group"},
        {REGEX, "a(?=b)", "character 2: invalid perl operator"},
        {REGEX, "(a)\\1", "character 4: invalid escape sequence: \\1"},
        {REGEX, "[[:nope:]]", "invalid character class range: [:nope:]"},
        {REGEX, "abc\\", "character 4: a backslash"},
        {REGEX, "((a{100}){100}){100}", "invalid repetition size"},
        {REGEX, "(\\pL{500}){2}", "too complex"},
        {KEY, "ab\xff", "not UTF-8 from character 3"},
        {GLOB, "\xc3\xbc\xc3", "not UTF-8 from character 2"},
        {REGEX, "\xff", "not UTF-8 from character 1"},
    };
    for (size_t i = 0; i < sizeof(examples) / sizeof(examples[0]); i++) {
        struct pattern *pattern = (void *)1;
        char error[256] = "";
        enum sluice_status status = pattern_compile(examples[i].kind, examples[i].text, strlen(examples[i].text),
                                                    &pattern, error, sizeof(error));
        cr_expect_eq(status, SLUICE_INVALID, "%s: status %d", examples[i].text, status);
        cr_expect_null(pattern);
        cr_expect_not_null(strstr(error, examples[i].words), "%s: said \"%s\", not \"%s\"", examples[i].text, error,
                           examples[i].words);
    }
}

Test(pattern, one_too_long_is_refused_and_the_longest_is_taken)
{
    static char text[PATTERN_BYTES_MAX + 1];
    memset(text, 'a', sizeof(text));
    for (int kind = KEY; kind <= REGEX; kind++) {
        struct pattern *pattern;
        char error[256];
        cr_assert_eq(pattern_compile(kind, text, sizeof(text), &pattern, error, sizeof(error)), SLUICE_INVALID);
        cr_assert_not_null(strstr(error, "at most 1024"));
        cr_assert_eq(pattern_compile(kind, text, sizeof(text) - 1, &pattern, error, sizeof(error)), SLUICE_OK, "%s",
                     error);
        cr_assert(pattern_match(pattern, text, sizeof(text) - 1));
        pattern_destroy(pattern);
    }
    pattern_destroy(NULL);
}

Test(pattern, the_prefix_is_as_long_as_the_pattern_allows)
{
    static const struct {
        int kind;
        const char *text;
        const char *prefix;
    } examples[] = {
        {KEY, "farm/cow", "farm/cow"},
        {PREFIX, "farm/", "farm/"},
        {PREFIX, "\xc3", "\xc3"},
        {GLOB, "farm/**", "farm/"},
        {GLOB, "farm/c*w", "farm/c"},
        {GLOB, "farm/cow\\*", "farm/cow*"},
        {GLOB, "**", ""},
        {GLOB, "*/a", ""},
        {REGEX, "farm/cow[0-9]+", "farm/cow"},
        {REGEX, "farm/(cow|calf)", "farm/c"},
        {REGEX, ".*", ""},
        {REGEX, "farm/gate", "farm/gate"},
        {REGEX, "(?i)farm", ""},
    };
    for (size_t i = 0; i < sizeof(examples) / sizeof(examples[0]); i++) {
        struct pattern *pattern = compiled(examples[i].kind, examples[i].text);
        size_t size;
        const char *prefix = pattern_prefix(pattern, &size);
        cr_expect(size == strlen(examples[i].prefix) && memcmp(prefix, examples[i].prefix, size) == 0,
                  "%s: prefix is %.*s", examples[i].text, (int)size, prefix);
        pattern_destroy(pattern);
    }
}

Test(pattern, capture_gives_group_one_or_the_whole)
{
    static const struct {
        const char *text, *key, *captured;
    } examples[] = {
        {"farm/([^/]+)/.*", "farm/gate/camera", "gate"},
        {"farm/.*", "farm/x", "farm/x"},
        {"(?:a|(b))c", "ac", ""},
        {"(a*)b", "b", ""},
        {"x(?P<name>[0-9]+)(y)", "x12y", "12"},
        {"farm/([^/]+)", "farm/gate/camera", NULL},
    };
    for (size_t i = 0; i < sizeof(examples) / sizeof(examples[0]); i++) {
        struct pattern *pattern = compiled(REGEX, examples[i].text);
        const char *key = examples[i].key, *out = NULL;
        size_t size = 0;
        bool found = pattern_capture(pattern, key, strlen(key), &out, &size);
        cr_assert_eq(found, examples[i].captured != NULL, "%s", examples[i].text);
        if (found) {
            cr_assert(size == strlen(examples[i].captured) && memcmp(out, examples[i].captured, size) == 0);
            cr_assert(out >= key && out + size <= key + strlen(key), "the capture lies in the key");
        }
        pattern_destroy(pattern);
    }
}

/* The reference: the rules of pattern.h by trial and error, over `*`, `**`, `?` and letters. `glob` is the whole text.
 */
static bool reference(const char *start, const char *glob, const char *key)
{
    if (!*glob)
        return !*key;
    if (glob[0] == '*' && glob[1] == '*') {
        bool segment = glob == start || glob[-1] == '/';
        while (*glob == '*')
            glob++;
        if (segment && *glob == '/') {
            glob++;
            if (reference(start, glob, key))
                return true;
            for (; *key; key++)
                if (*key == '/' && reference(start, glob, key + 1))
                    return true;
            return false;
        }
        for (;; key++) {
            if (reference(start, glob, key))
                return true;
            if (!*key)
                return false;
        }
    }
    if (*glob == '*') {
        for (;; key++) {
            if (reference(start, glob + 1, key))
                return true;
            if (!*key || *key == '/')
                return false;
        }
    }
    return *key && (*glob == '?' ? *key != '/' : *glob == *key) && reference(start, glob + 1, key + 1);
}

Test(pattern, globs_agree_with_a_matcher_that_tries_everything)
{
    uint64_t seed = random_os();
    fprintf(stderr, "seed %llu\n", (unsigned long long)seed);
    struct random random;
    random_seed(&random, seed);
    unsigned matched = 0;
    for (int round = 0; round < 4000; round++) {
        char glob[16] = "", key[16];
        size_t glob_size = 1 + random_below(&random, 8);
        for (size_t i = 0; i < glob_size; i++)
            glob[i] = "ab/**?"[random_below(&random, 6)];
        struct pattern *pattern = compiled(GLOB, glob);
        for (int k = 0; k < 20; k++) {
            size_t size = 1 + random_below(&random, 7);
            memset(key, 0, sizeof(key));
            for (size_t i = 0; i < size; i++)
                key[i] = "aab/"[random_below(&random, 4)];
            bool expected = reference(glob, glob, key);
            matched += expected;
            cr_assert_eq(pattern_match(pattern, key, size), expected, "seed %llu: %s against %s",
                         (unsigned long long)seed, glob, key);
        }
        pattern_destroy(pattern);
    }
    cr_assert_gt(matched, 1000u, "the examples must not all fail to match");
}

Test(pattern, a_hostile_expression_costs_linear_time)
{
    static const char *const hostile[] = {"(a+)+b", "(a|a)*b", "(a|b)*a(a|b){80}", "(.*)(.*)(.*)(.*)(.*)(.*)x",
                                          "(?:a?){100}a{100}"};
    static char key[1024];
    struct random random;
    random_seed(&random, 7);
    for (size_t i = 0; i < sizeof(key); i++)
        key[i] = "ab"[random_below(&random, 2)];
    key[0] = 'a';
    for (size_t i = 0; i < sizeof(hostile) / sizeof(hostile[0]); i++) {
        struct pattern *pattern = compiled(REGEX, hostile[i]);
        uint64_t start = clock_monotonic_ns();
        for (int k = 0; k < 10; k++)
            pattern_match(pattern, key, sizeof(key));
        uint64_t each = (clock_monotonic_ns() - start) / 10;
        cr_assert_lt(each, 500 * NS_PER_MS, "%s took %llu ns", hostile[i], (unsigned long long)each);
        pattern_destroy(pattern);
    }
}

static void *match_often(void *arg)
{
    for (int i = 0; i < 500; i++) {
        char key[32];
        int size = snprintf(key, sizeof(key), "farm/cow%d/x%d", i, i * 7);
        if (!pattern_match(arg, key, (size_t)size) || pattern_match(arg, key, 5))
            return arg;
    }
    return NULL;
}

Test(pattern, threads_share_one)
{
    struct pattern *pattern = compiled(REGEX, "farm/(cow|calf)[0-9]+/x[0-9]*");
    pthread_t threads[4];
    for (int i = 0; i < 4; i++)
        cr_assert_eq(pthread_create(&threads[i], NULL, match_often, pattern), 0);
    for (int i = 0; i < 4; i++) {
        void *failed;
        pthread_join(threads[i], &failed);
        cr_assert_null(failed);
    }
    pattern_destroy(pattern);
}

/* Known good and known bad histories, and many small ones against trying every order. */
#include <criterion/criterion.h>
#include <string.h>
#include <time.h>

#include "core/base/random.h"
#include "tests/check/check.h"

static enum check_verdict judge_text(const char *text, char *why, size_t why_size)
{
    struct check_history history;
    struct check_result result;
    char error[256] = "";
    FILE *file = fmemopen((void *)(uintptr_t)text, strlen(text), "r");
    check_history_init(&history);
    bool read = check_history_read(&history, file, error, sizeof(error));
    fclose(file);
    if (read)
        check_linearizable(&history, CHECK_STEPS_MAX, &result);
    snprintf(why, why_size, "%s", read ? result.text : error);
    check_history_free(&history);
    return read ? result.verdict : CHECK_MALFORMED;
}

static void expect(enum check_verdict verdict, const char *text)
{
    char why[512];
    enum check_verdict came = judge_text(text, why, sizeof(why));
    cr_expect_eq(came, verdict, "verdict %d, not %d: %s", came, verdict, why);
    if (verdict != CHECK_GOOD)
        cr_expect_neq(why[0], 0, "a bad verdict says why");
}

#define OP(kind, start, end, rest)                                                                                     \
    "{\"key\":\"k\",\"kind\":\"" kind "\",\"start\":" #start ",\"end\":" #end "," rest "}\n"
#define UNKNOWN(kind, start, rest)                                                                                     \
    "{\"key\":\"k\",\"kind\":\"" kind "\",\"start\":" #start ",\"outcome\":\"unknown\"," rest "}\n"
#define OK "\"outcome\":\"ok\","
#define NO "\"outcome\":\"failed-not-applied\","

Test(linear, an_empty_history_is_linearizable)
{
    expect(CHECK_GOOD, "\n");
}

Test(linear, one_after_the_other_in_order_is_linearizable)
{
    expect(CHECK_GOOD, OP("get", 0, 1, OK "\"version\":0")                        //
           OP("put", 2, 3, OK "\"version\":1,\"value\":\"a\"")                    //
           OP("get", 4, 5, OK "\"version\":1,\"value\":\"a\"")                    //
           OP("put-if", 6, 7, OK "\"version\":2,\"value\":\"b\",\"condition\":1") //
           OP("put-if", 8, 9, NO "\"version\":2,\"value\":\"c\",\"condition\":1") //
           OP("put-absent", 10, 11, NO "\"version\":2,\"value\":\"d\"")           //
           OP("delete", 12, 13, OK "\"version\":3")                               //
           OP("get", 14, 15, OK "\"version\":3,\"deleted\":true")                 //
           OP("delete", 16, 17, NO "\"version\":3")                               //
           OP("put-absent", 18, 19, OK "\"version\":4,\"value\":\"e\""));
}

Test(linear, a_stale_read_is_not)
{
    expect(CHECK_BAD, OP("put", 0, 1, OK "\"version\":1,\"value\":\"a\"") //
           OP("put", 2, 3, OK "\"version\":2,\"value\":\"b\"")            //
           OP("get", 4, 5, OK "\"version\":1,\"value\":\"a\""));
}

Test(linear, a_stale_read_without_versions_is_not)
{
    expect(CHECK_BAD, OP("put", 0, 1, OK "\"value\":\"a\"") OP("put", 2, 3, OK "\"value\":\"b\"")
                          OP("get", 4, 5, OK "\"value\":\"a\""));
    expect(CHECK_GOOD, OP("put", 0, 5, OK "\"value\":\"a\"") OP("put", 2, 3, OK "\"value\":\"b\"")
                           OP("get", 4, 5, OK "\"value\":\"a\""));
}

Test(linear, two_reads_may_not_see_concurrent_writes_in_two_orders)
{
    const char *bad = OP("put", 0, 100, OK "\"value\":\"a\"") OP("put", 0, 100, OK "\"value\":\"b\"") //
        OP("get", 10, 20, OK "\"value\":\"a\"") OP("get", 30, 40, OK "\"value\":\"b\"")               //
        OP("get", 50, 60, OK "\"value\":\"a\"");
    expect(CHECK_BAD, bad);
}

Test(linear, an_unknown_write_may_take_effect_late_or_never)
{
    expect(CHECK_GOOD, UNKNOWN("put", 0, "\"value\":\"a\"") OP("get", 1, 2, OK "\"version\":0") //
           OP("put", 3, 4, OK "\"version\":1,\"value\":\"b\"")                                  //
           OP("get", 50, 60, OK "\"version\":2,\"value\":\"a\""));
    expect(CHECK_GOOD, UNKNOWN("put", 0, "\"value\":\"a\"") OP("put", 3, 4, OK "\"version\":1,\"value\":\"b\"") //
           OP("get", 50, 60, OK "\"version\":1,\"value\":\"b\""));
}

Test(linear, an_unknown_write_takes_effect_once_at_most)
{
    expect(CHECK_BAD, UNKNOWN("put", 0, "\"value\":\"a\"") OP("get", 1, 2, OK "\"version\":1,\"value\":\"a\"") //
           OP("put", 3, 4, OK "\"version\":2,\"value\":\"b\"")                                                 //
           OP("get", 5, 6, OK "\"version\":3,\"value\":\"a\""));
}

Test(linear, a_version_that_nobody_can_have_made_is_a_violation)
{
    expect(CHECK_BAD,
           OP("put", 0, 1, OK "\"version\":1,\"value\":\"a\"") OP("put", 3, 4, OK "\"version\":3,\"value\":\"b\""));
    /* An unknown one fills the place, unless it started too late, or its condition can't have held. */
    expect(CHECK_GOOD, UNKNOWN("put", 2, "\"value\":\"x\"") OP("put", 0, 1, OK "\"version\":1,\"value\":\"a\"")
                           OP("put", 3, 4, OK "\"version\":3,\"value\":\"b\""));
    expect(CHECK_BAD, UNKNOWN("put", 5, "\"value\":\"x\"") OP("put", 0, 1, OK "\"version\":1,\"value\":\"a\"")
                          OP("put", 3, 4, OK "\"version\":3,\"value\":\"b\""));
    expect(CHECK_BAD, UNKNOWN("put-absent", 2, "\"value\":\"x\"") OP("put", 0, 1, OK "\"version\":1,\"value\":\"a\"")
                          OP("put", 3, 4, OK "\"version\":3,\"value\":\"b\""));
}

Test(linear, a_tombstone_is_a_deletes_work)
{
    expect(CHECK_BAD, UNKNOWN("put", 2, "\"value\":\"x\"") OP("put", 0, 1, OK "\"version\":1,\"value\":\"a\"") //
           OP("get", 3, 4, OK "\"version\":2,\"deleted\":true"));
    expect(CHECK_GOOD, UNKNOWN("delete", 2, "\"client\":4") OP("put", 0, 1, OK "\"version\":1,\"value\":\"a\"") //
           OP("get", 3, 4, OK "\"version\":2,\"deleted\":true"));
    expect(CHECK_BAD, UNKNOWN("delete", 2, "\"condition\":7") OP("put", 0, 1, OK "\"version\":1,\"value\":\"a\"") //
           OP("get", 3, 4, OK "\"version\":2,\"deleted\":true"));
}

Test(linear, a_refused_write_has_no_effect)
{
    expect(CHECK_BAD, OP("put", 0, 1, NO "\"value\":\"a\"") OP("get", 2, 3, OK "\"version\":1,\"value\":\"a\""));
    expect(CHECK_GOOD, OP("put", 0, 1, NO "\"value\":\"a\"") OP("get", 2, 3, OK "\"version\":0"));
}

Test(linear, a_condition_that_failed_tells_of_the_present)
{
    expect(CHECK_BAD,
           OP("put", 0, 1, OK "\"version\":1,\"value\":\"a\"") OP("put", 2, 3, OK "\"version\":2,\"value\":\"b\"") //
           OP("put-if", 4, 5, NO "\"version\":1,\"value\":\"c\",\"condition\":7"));
    expect(CHECK_BAD, OP("put", 0, 1, OK "\"version\":1,\"value\":\"a\"") //
           OP("put-if", 4, 5, NO "\"version\":1,\"value\":\"c\",\"condition\":1"));
}

Test(linear, one_version_is_made_once)
{
    expect(CHECK_BAD,
           OP("put", 0, 9, OK "\"version\":1,\"value\":\"a\"") OP("put", 0, 9, OK "\"version\":1,\"value\":\"b\""));
}

Test(linear, values_come_from_writes_that_had_begun)
{
    expect(CHECK_BAD, OP("get", 0, 9, OK "\"version\":1,\"value\":\"a\""));
    expect(CHECK_BAD,
           OP("get", 0, 9, OK "\"version\":1,\"value\":\"a\"") OP("put", 10, 19, OK "\"version\":1,\"value\":\"a\""));
    expect(CHECK_BAD,
           OP("put", 0, 5, OK "\"version\":1,\"value\":\"a\"") OP("get", 10, 19, OK "\"version\":2,\"value\":\"a\""));
}

Test(linear, keys_are_judged_each_for_itself)
{
    expect(CHECK_GOOD,
           "{\"key\":\"x\",\"kind\":\"put\",\"start\":0,\"end\":1,\"outcome\":\"ok\",\"version\":1,\"value\":\"a\"}\n"
           "{\"key\":\"y\",\"kind\":\"put\",\"start\":0,\"end\":1,\"outcome\":\"ok\",\"version\":1,\"value\":\"a\"}\n");
}

Test(temporal, the_past_has_one_answer)
{
    const char *writes = OP("put", 0, 1, OK "\"version\":1,\"value\":\"a\",\"time\":100")
        OP("put", 2, 3, OK "\"version\":2,\"value\":\"b\",\"time\":200");
    char text[2048];
    const struct {
        enum check_verdict verdict;
        const char *reads;
    } cases[] = {
        {CHECK_GOOD, OP("get-at", 4, 5, OK "\"version\":1,\"value\":\"a\",\"at\":150")
                         OP("get-at", 6, 7, OK "\"version\":0,\"at\":99")},
        {CHECK_GOOD, OP("get-at", 4, 5, OK "\"version\":2,\"value\":\"b\",\"at\":200")},
        {CHECK_BAD, OP("get-at", 4, 5, OK "\"version\":1,\"value\":\"a\",\"at\":200")},
        {CHECK_BAD, OP("get-at", 4, 5, OK "\"version\":2,\"value\":\"b\",\"at\":199")},
        {CHECK_BAD, OP("get-at", 4, 5, OK "\"version\":0,\"at\":100")},
    };
    for (size_t i = 0; i < sizeof(cases) / sizeof(cases[0]); i++) {
        snprintf(text, sizeof(text), "%s%s", writes, cases[i].reads);
        expect(cases[i].verdict, text);
    }
}

Test(temporal, times_rise_and_later_times_show_no_older_versions)
{
    expect(CHECK_BAD, OP("put", 0, 1, OK "\"version\":1,\"value\":\"a\",\"time\":100")
                          OP("put", 2, 3, OK "\"version\":2,\"value\":\"b\",\"time\":100"));
    const char *writes =
        OP("put", 0, 1, OK "\"version\":1,\"value\":\"a\"") OP("put", 2, 3, OK "\"version\":2,\"value\":\"b\"");
    char text[2048];
    snprintf(text, sizeof(text), "%s%s", writes,
             OP("get-at", 4, 5, OK "\"version\":2,\"value\":\"b\",\"at\":150")
                 OP("get-at", 6, 7, OK "\"version\":1,\"value\":\"a\",\"at\":160"));
    expect(CHECK_BAD, text);
    snprintf(text, sizeof(text), "%s%s", writes,
             OP("get-at", 4, 5, OK "\"version\":2,\"value\":\"b\",\"at\":150")
                 OP("get-at", 6, 7, OK "\"version\":1,\"value\":\"a\",\"at\":150"));
    expect(CHECK_BAD, text);
}

Test(format, lines_that_are_none_are_refused_with_their_number)
{
    static const char *const lines[] = {
        "{",
        "[]",
        "{\"key\":\"k\",\"kind\":\"puts\",\"start\":0,\"end\":1,\"outcome\":\"ok\"}",
        "{\"key\":\"k\",\"kind\":\"put\",\"start\":0,\"end\":1,\"outcome\":\"fine\",\"value\":\"a\"}",
        "{\"key\":\"k\",\"kind\":\"put\",\"start\":0,\"end\":1,\"outcome\":\"ok\"}",
        "{\"key\":\"k\",\"kind\":\"get\",\"start\":0,\"outcome\":\"ok\"}",
        "{\"key\":\"k\",\"kind\":\"get\",\"start\":-5,\"end\":1,\"outcome\":\"ok\"}",
        "{\"key\":\"k\",\"kind\":\"put-if\",\"start\":0,\"end\":1,\"outcome\":\"ok\",\"value\":\"a\"}",
        "{\"kind\":\"get\",\"start\":0,\"end\":1,\"outcome\":\"ok\"}",
    };
    for (size_t i = 0; i < sizeof(lines) / sizeof(lines[0]); i++) {
        char text[256], why[512];
        snprintf(text, sizeof(text), "\n%s\n", lines[i]);
        cr_expect_eq(judge_text(text, why, sizeof(why)), CHECK_MALFORMED, "taken: %s", lines[i]);
        cr_expect_eq(strncmp(why, "line 2: ", 8), 0, "%s", why);
    }
    expect(CHECK_MALFORMED, OP("put", 0, 1, OK "\"value\":\"a\"") OP("put", 2, 3, OK "\"value\":\"a\""));
}

/* ---- Against trying every order ---- */

struct object {
    uint64_t version, value;
    bool live;
};

static bool holds(const struct object *object, const struct check_operation *operation)
{
    if (operation->kind == CHECK_PUT_IF)
        return object->live && object->version == operation->condition;
    if (operation->kind == CHECK_PUT_ABSENT)
        return !object->live;
    return operation->kind != CHECK_DELETE || object->live;
}

/* Can `operation` be next, with what its client was told? `apply`: of an unknown one, whether it happens. */
static bool step(struct object *object, const struct check_operation *operation)
{
    if (operation->kind == CHECK_GET)
        return (!operation->seen || (object->version == operation->version &&
                                     (object->version == 0 || object->live != operation->deleted))) &&
               (operation->value == 0 || (object->live && object->value == operation->value));
    if (operation->outcome == CHECK_FAILED)
        return !operation->seen || (!holds(object, operation) && object->version == operation->version);
    if (!holds(object, operation))
        return false;
    object->version++;
    object->live = operation->kind != CHECK_DELETE;
    object->value = operation->value;
    return operation->outcome == CHECK_UNKNOWN || operation->version == 0 || object->version == operation->version;
}

static bool any_order(const struct check_operation *operations, size_t count, uint32_t placed, struct object object)
{
    bool complete = true;
    for (size_t i = 0; i < count; i++)
        complete = complete && ((placed >> i & 1) || operations[i].outcome == CHECK_UNKNOWN);
    if (complete)
        return true;
    for (size_t i = 0; i < count; i++) {
        bool first = !(placed >> i & 1);
        for (size_t j = 0; j < count && first; j++)
            first =
                (placed >> j & 1) || operations[j].outcome == CHECK_UNKNOWN || operations[j].end >= operations[i].start;
        struct object next = object;
        if (first && step(&next, &operations[i]) && any_order(operations, count, placed | 1u << i, next))
            return true;
    }
    return false;
}

/* A history that some order explains; what a client was told is then falsified now and then. */
static size_t make_history(struct random *random, struct check_operation *out, bool versions)
{
    struct object object = {0};
    size_t count = 3 + random_below(random, 5);
    for (size_t i = 0; i < count; i++) {
        struct check_operation operation = {.kind = (enum check_kind)random_below(random, 5), .line = i + 1};
        uint64_t point = 10 * (i + 1);
        operation.start = point - random_below(random, 30 < point ? 30 : point);
        operation.end = point + random_below(random, 30);
        operation.condition = operation.kind == CHECK_PUT_IF ? random_below(random, 4) : 0;
        operation.value = operation.kind <= CHECK_PUT_ABSENT ? i + 1 : 0;
        bool applied = operation.kind <= CHECK_DELETE && holds(&object, &operation);
        if (operation.kind == CHECK_GET || !applied) {
            operation.outcome = operation.kind == CHECK_GET ? CHECK_OK : CHECK_FAILED;
            operation.seen = versions;
            operation.version = versions ? object.version : 0;
            operation.deleted = versions && object.version != 0 && !object.live;
            if (operation.kind == CHECK_GET)
                operation.value = object.live ? object.value : 0;
        } else if (random_below(random, 5) != 0) {
            object = (struct object){object.version + 1, operation.value, operation.kind != CHECK_DELETE};
            operation.version = versions ? object.version : 0;
        } else {
            operation.outcome = CHECK_UNKNOWN;
        }
        if (operation.kind <= CHECK_DELETE && random_below(random, 4) == 0) {
            operation.outcome = CHECK_UNKNOWN;
            operation.version = 0;
            operation.seen = operation.deleted = false;
        }
        if (operation.seen && random_below(random, 5) == 0)
            operation.version += 1;
        if (operation.outcome == CHECK_UNKNOWN)
            operation.end = 0;
        out[i] = operation;
    }
    return count;
}

Test(linear, agrees_with_trying_every_order_on_small_histories)
{
    struct timespec now;
    clock_gettime(CLOCK_REALTIME, &now);
    uint64_t seed = (uint64_t)now.tv_nsec;
    struct random random;
    random_seed(&random, seed);
    uint32_t good = 0, bad = 0;
    for (int round = 0; round < 20000; round++) {
        struct check_operation operations[8];
        size_t count = make_history(&random, operations, round % 3 != 0);
        struct check_history history;
        struct check_result result;
        check_history_init(&history);
        for (size_t i = 0; i < count; i++)
            check_history_add(&history, &operations[i]);
        check_linearizable(&history, CHECK_STEPS_MAX, &result);
        bool expected = any_order(operations, count, 0, (struct object){0});
        cr_assert_eq(result.verdict == CHECK_GOOD, expected,
                     "seed %llu, round %d: verdict %d (%s), an order exists: %d", (unsigned long long)seed, round,
                     result.verdict, result.text, expected);
        good += expected;
        bad += !expected;
        check_history_free(&history);
    }
    cr_expect(good > 2000 && bad > 2000, "seed %llu: %u good, %u bad: the histories say little",
              (unsigned long long)seed, good, bad);
}

/* ---- Size ---- */

static void add_large(struct check_history *history, struct random *random, uint64_t unknown_in_100, bool versions)
{
    enum { CLIENTS = 16 };
    uint64_t free_at[CLIENTS] = {0}, version = 0, value = 0;
    bool live = false;
    for (uint64_t i = 1; i <= 40000; i++) {
        uint32_t client = (uint32_t)random_below(random, CLIENTS);
        uint64_t point = 1000 * i, start = free_at[client] > point - 5000 ? free_at[client] : point - 5000;
        if (start >= point || point < 5000)
            continue;
        struct check_operation operation = {
            .client = client, .line = i, .start = start + 1, .end = point + random_below(random, 5000)};
        free_at[client] = operation.end;
        uint64_t dice = random_below(random, 10);
        bool unknown = random_below(random, 100) < unknown_in_100;
        operation.kind = dice < 5 ? CHECK_GET : dice < 9 || !live ? CHECK_PUT : CHECK_DELETE;
        if (operation.kind == CHECK_GET) {
            operation.seen = versions;
            operation.version = versions ? version : 0;
            operation.value = live ? value : 0;
            operation.deleted = versions && version != 0 && !live;
        } else {
            operation.value = operation.kind == CHECK_PUT ? i : 0;
            if (!unknown || random_below(random, 2) == 0) {
                version++;
                live = operation.kind == CHECK_PUT;
                value = operation.value;
            }
            operation.outcome = unknown ? CHECK_UNKNOWN : CHECK_OK;
            operation.version = unknown || !versions ? 0 : version;
        }
        check_history_add(history, &operation);
    }
}

Test(linear, tens_of_thousands_of_operations_on_one_key_with_unknown_outcomes_are_quick, .timeout = 60)
{
    struct random random;
    random_seed(&random, 5);
    for (int round = 0; round < 2; round++) {
        struct check_history history;
        struct check_result result;
        check_history_init(&history);
        add_large(&history, &random, 10, true);
        check_linearizable(&history, CHECK_STEPS_MAX, &result);
        cr_expect_eq(result.verdict, CHECK_GOOD, "%s", result.text);
        cr_expect_lt(result.steps, 10 * history.count);
        /* One read of an older version, late: found as well. */
        struct check_operation *read = &history.operations[history.count - 10];
        while (read->kind != CHECK_GET || read->version < 100 || read->value == 0)
            read--;
        read->version -= 50;
        read->value = 0;
        read->deleted = false;
        check_linearizable(&history, CHECK_STEPS_MAX, &result);
        cr_expect_eq(result.verdict, CHECK_BAD);
        check_history_free(&history);
    }
}

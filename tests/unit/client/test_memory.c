/* No memory: any allocation that the client makes fails, and every call is answered exactly once all the same.
 * The sanitizers bring an allocator of their own; there this file tests nothing, and says so. */
#include <stdatomic.h>

#include "core/base/log.h"
#include "core/base/random.h"
#include "tests/unit/client/fake.h"

#if !defined(__SANITIZE_ADDRESS__) && !defined(__SANITIZE_THREAD__)

extern void *__libc_malloc(size_t size);
extern void *__libc_calloc(size_t count, size_t size);
extern void *__libc_realloc(void *old, size_t size);
extern void __libc_free(void *old);

static bool counting;
static unsigned long allocations, failing;
static long left_behind;
static atomic_long living; /* helpers of libraries may have threads */

static bool fails(void)
{
    return counting && fake_in_client && ++allocations == failing;
}

void *malloc(size_t size)
{
    void *fresh = fails() ? NULL : __libc_malloc(size);
    living += fresh != NULL;
    return fresh;
}

void *calloc(size_t count, size_t size)
{
    void *fresh = fails() ? NULL : __libc_calloc(count, size);
    living += fresh != NULL;
    return fresh;
}

void *realloc(void *old, size_t size)
{
    void *fresh = fails() ? NULL : __libc_realloc(old, size);
    living += fresh != NULL && old == NULL;
    return fresh;
}

void free(void *old)
{
    living -= old != NULL;
    __libc_free(old);
}

static void answers(struct fake *node, struct fabric_link *link, const struct wire_header *header, const uint8_t *body)
{
    struct bytes out = {0};
    switch (header->type) {
    case WIRE_WRITE:
        fake_written(node, link, header, body);
        return;
    case WIRE_WATCH:
        fake_event(node, link, header->request_id, WIRE_FLAG_CLOSED, node->bed->time, NULL, 0);
        return;
    case WIRE_CANCEL:
        return;
    case WIRE_MAP_CHANGE:
        fake_changed(node, link, header, "{\"state\":\"live\"}");
        bed_map(node->bed, "", "", 5);
        return;
    case WIRE_STATUS:
    case WIRE_LAMBDA_STATUS:
        fake_reply(node, link, header, SLUICE_OK, 0, "{\"state\":\"live\"}", 16);
        return;
    case WIRE_GET:
    case WIRE_HISTORY:
    case WIRE_LIST:
        fake_add(&out, &(struct fake_record){.key = "k", .value = "v", .version = 1, .shard = header->shard});
        break;
    default:
        break;
    }
    fake_reply(node, link, header, SLUICE_OK, 0, out.data, out.size);
    bytes_free(&out);
}

static void on_event(void *arg, const struct sluice_watch_event *event)
{
    unsigned *ends = arg;
    *ends += event->type == SLUICE_WATCH_END;
}

#define CALLS 9

static void start_all(struct bed *bed, struct got got[CALLS])
{
    static const char *const keys[] = {"a", "b"}, *const prefixes[] = {"a"};
    static const size_t sizes[] = {1, 1};
    const struct sluice_call call = {.timeout_ms = 400};
    const struct sluice_operation operation = {
        .kind = SLUICE_PUT, .key = "k", .key_size = 1, .data = "v", .data_size = 1};
    const struct sluice_write write = {.call = call,
                                       .operations = &operation,
                                       .operation_count = 1,
                                       .idempotency_key = "once",
                                       .idempotency_key_size = 4};
    const struct sluice_get get = {.call = call, .key = "k", .key_size = 1};
    const struct sluice_list list = {.call = call, .prefix = "k", .prefix_size = 1, .delimiter = '/', .values = true};
    const struct sluice_history history = {.call = call, .key = "k", .key_size = 1};
    const struct sluice_snapshot snapshot = {.call = call,
                                             .keys = keys,
                                             .key_sizes = sizes,
                                             .key_count = 2,
                                             .prefixes = prefixes,
                                             .prefix_sizes = sizes,
                                             .prefix_count = 1};
    sluice_write(bed->client, &write, got_answer, &got[0]);
    sluice_get(bed->client, &get, got_answer, &got[1]);
    sluice_list(bed->client, &list, got_answer, &got[2]);
    sluice_history(bed->client, &history, got_answer, &got[3]);
    sluice_snapshot(bed->client, &snapshot, got_answer, &got[4]);
    sluice_pool_put(bed->client, &call, "", "{}", got_answer, &got[5]);
    sluice_pool_get(bed->client, &call, NULL, got_answer, &got[6]);
    sluice_lambda_get(bed->client, &call, NULL, got_answer, &got[7]);
    sluice_cluster(bed->client, &call, got_answer, &got[8]);
}

/* Everything once, with the given allocation failing; returns how many there were. */
static unsigned long run(unsigned long which)
{
    struct bed bed;
    struct got got[CALLS] = {0};
    struct sluice_watch *watch = NULL;
    char error[256];
    unsigned ends = 0;
    const struct sluice_watch_options options = {.kind = WIRE_PATTERN_PREFIX, .pattern = "k", .pattern_size = 1};
    long before = living;
    bed_open(&bed, 1, answers);
    allocations = 0;
    failing = which;
    counting = true;
    fake_in_client = true;
    start_all(&bed, got);
    enum sluice_status status = sluice_watch_start(bed.client, &options, on_event, &ends, &watch, error);
    fake_in_client = false;
    for (int i = 0; i < CALLS; i++)
        bed_run(&bed, &got[i].done, 3000);
    counting = false;
    bed_close(&bed);
    for (int i = 0; i < CALLS; i++) {
        cr_assert_eq(got[i].calls, 1, "call %d, allocation %lu", i, which);
        got_free(&got[i]);
    }
    cr_assert_eq(ends, status == SLUICE_OK ? 1 : 0);
    left_behind = living - before;
    return allocations;
}

/* And nothing is left behind. Most are jansson's in the map; so the walk through them takes random steps. */
Test(memory, any_allocation_may_fail_once, .timeout = 120)
{
    struct random random;
    uint64_t seed = random_os();
    fprintf(stderr, "seed %llu\n", (unsigned long long)seed);
    random_seed(&random, seed);
    log_set_level(LOG_LEVEL_NONE);
    unsigned long total = run(0);
    cr_assert_gt(total, 50);
    for (unsigned long which = 1; which <= total; which += 1 + random_below(&random, 8)) {
        (void)run(which);
        /* Libraries may keep something for the next time; what is left behind again is a leak. */
        if (left_behind != 0)
            (void)run(which);
        cr_assert_eq(left_behind, 0, "allocation %lu: %ld pieces are left behind", which, left_behind);
    }
}

#else

Test(memory, is_tested_without_sanitizers_alone) {}

#endif

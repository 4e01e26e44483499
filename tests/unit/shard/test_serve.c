/* What is asked of a shard, and how it is refused. */
#include <criterion/criterion.h>
#include <string.h>

#include "tests/unit/shard/small.h"

static void start(void)
{
    small_open(3);
    for (uint16_t id = 1; id <= 3; id++)
        small_start(id);
    small_put("key", "value", 5);
}

TestSuite(serve, .init = start, .fini = small_close);

static void send_query(uint16_t id, struct small_link *link, uint8_t type, const struct wire_query *query,
                       const char *key)
{
    uint8_t data[sizeof(struct wire_header) + sizeof(*query) + 64] __attribute__((aligned(8))) = {0};
    const struct wire_header header = {.magic = WIRE_MAGIC,
                                       .version = WIRE_VERSION,
                                       .type = type,
                                       .body_size = (uint32_t)(sizeof(*query) + strlen(key)),
                                       .request_id = 7,
                                       .shard = 1};
    memcpy(data, &header, sizeof(header));
    memcpy(data + sizeof(header), query, sizeof(*query));
    memcpy(data + sizeof(header) + sizeof(*query), key, strlen(key));
    host_client_message(small.nodes[id].host, link, data, sizeof(header) + header.body_size);
}

Test(serve, a_read_by_the_object_clock_is_refused_and_not_answered_by_another_clock)
{
    static const uint8_t types[] = {WIRE_GET, WIRE_LIST, WIRE_HISTORY, WIRE_WATCH};
    for (size_t i = 0; i < sizeof(types); i++) {
        struct small_link link = {0};
        const struct wire_query query = {.version = 1,
                                         .kind = WIRE_PATTERN_KEY,
                                         .key_size = 3,
                                         .flags =
                                             WIRE_QUERY_OBJECT_CLOCK | (types[i] == WIRE_WATCH ? 0 : WIRE_QUERY_AT),
                                         .at = 1,
                                         .length = UINT64_MAX};
        send_query(small_wait_leader(), &link, types[i], &query, "key");
        cr_assert_eq(link.replies, 1);
        cr_assert_eq(link.header.status, SLUICE_INVALID, "type %u", types[i]);
        cr_assert_not_null(memmem(link.body, link.size, "object clock", 12));
    }
}

/* Progress events within five seconds of a watch that asked for one so often. */
static uint32_t progress_events(uint32_t every_ms)
{
    static struct small_link link;
    const struct wire_query query = {.version = 1, .kind = WIRE_PATTERN_PREFIX, .limit = every_ms};
    memset(&link, 0, sizeof(link));
    uint16_t leader = small_wait_leader();
    send_query(leader, &link, WIRE_WATCH, &query, "");
    small_run(SMALL_MS);
    uint32_t first = link.events;
    cr_assert_gt(first, 0);
    for (int i = 0; i < 5000; i++) {
        small_run(SMALL_MS);
        cr_assert_eq(small_wait_leader(), leader);
    }
    cr_assert_eq(link.replies, 0);
    const struct wire_header cancel = {
        .magic = WIRE_MAGIC, .version = WIRE_VERSION, .type = WIRE_CANCEL, .request_id = 7, .shard = 1};
    host_client_message(small.nodes[leader].host, &link, &cancel, sizeof(cancel));
    small_run(2 * SMALL_MS);
    return link.events - first;
}

Test(serve, progress_comes_as_often_as_the_watch_asks_within_bounds)
{
    static const struct {
        uint32_t every_ms, least, most;
    } cases[] = {
        {0, 4, 6},      {1000, 4, 6}, {100, 40, 55}, {50, 80, 105}, {1, 250, 510}, /* no oftener than every 10 ms */
        {3600000, 4, 6} /* and not so seldom that the reader would take its node for dead */
    };
    for (size_t i = 0; i < sizeof(cases) / sizeof(cases[0]); i++) {
        uint32_t events = progress_events(cases[i].every_ms);
        cr_assert(events >= cases[i].least && events <= cases[i].most, "%u events, asked for one every %u ms", events,
                  cases[i].every_ms);
    }
}

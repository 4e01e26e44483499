/* Reads of one key and of many: the right question to the right node, and answers that hang together. */
#include "tests/unit/client/fake.h"

static struct wire_query asked;
static struct wire_header asked_header;
static char asked_key[64];
static unsigned reads;
static uint16_t reader;

static const struct wire_query *note(const struct fake *node, const struct wire_header *header, const uint8_t *body)
{
    const struct wire_query *query = NULL;
    const char *why = NULL;
    cr_assert_eq(wire_query_read(body, header->body_size, &query, &why), SLUICE_OK, "%s", why);
    asked = *query;
    asked_header = *header;
    snprintf(asked_key, sizeof(asked_key), "%.*s", (int)query->key_size, wire_query_key(query));
    reads++;
    reader = node->id;
    return query;
}

static void one_record(struct fake *node, struct fabric_link *link, const struct wire_header *header,
                       enum sluice_status status, uint32_t flags, const struct fake_record *record)
{
    struct bytes out = {0};
    fake_add(&out, record);
    fake_reply(node, link, header, status, flags, out.data, out.size);
    bytes_free(&out);
}

static void has_it(struct fake *node, struct fabric_link *link, const struct wire_header *header, const uint8_t *body)
{
    (void)note(node, header, body);
    one_record(node, link, header, SLUICE_OK, 0,
               &(struct fake_record){.key = asked_key, .value = "moo", .version = 4, .revision = 9});
}

Test(read, a_get_brings_the_value)
{
    struct bed bed;
    struct got got = {0};
    bed_open(&bed, 3, has_it);
    start_get(&bed, "farm/cow", 0, &got);
    bed_run(&bed, &got.done, 2000);
    cr_assert_eq(got.status, SLUICE_OK, "%s", got.detail);
    cr_assert_eq(got.versions[0], 4);
    cr_assert_str_eq(got.data[0], "moo");
    cr_assert_eq(asked.flags, 0);
    cr_assert_eq(asked.length, UINT64_MAX);
    cr_assert_not(asked_header.flags & WIRE_FLAG_STABLE);
    cr_assert_eq(reader, bed_leader(&bed, asked_header.shard));
    bed_close(&bed);
    got_free(&got);
}

static struct sluice_value *kept;
static const void *kept_data;
static bool kept_done;

static void keeps(void *arg, const struct sluice_answer *answer)
{
    (void)arg;
    cr_assert_eq(answer->status, SLUICE_OK);
    kept = sluice_value_ref(answer->objects[0].value);
    kept_data = answer->objects[0].data;
    kept_done = true;
}

Test(read, a_value_can_be_kept_beyond_the_callback_and_the_client)
{
    struct bed bed;
    bed_open(&bed, 3, has_it);
    const struct sluice_get request = {.key = "farm/cow", .key_size = 8};
    sluice_get(bed.client, &request, keeps, NULL);
    bed_run(&bed, &kept_done, 2000);
    bed_close(&bed);
    cr_assert_eq(memcmp(kept_data, "moo", 3), 0);
    sluice_value_unref(kept);
}

Test(read, versions_times_and_ranges_are_asked_for_as_given)
{
    struct bed bed;
    struct got got = {0};
    bed_open(&bed, 3, has_it);
    const struct sluice_get requests[] = {
        {.key = "k", .key_size = 1, .version = 7},
        {.key = "k", .key_size = 1, .at_ns = 55},
        {.key = "k", .key_size = 1, .offset = 10, .length = 20, .call = {.after_ns = 3}},
        {.key = "k", .key_size = 1, .head = true},
    };
    for (int i = 0; i < 4; i++) {
        got.done = false;
        sluice_get(bed.client, &requests[i], got_answer, &got);
        bed_run(&bed, &got.done, 2000);
        cr_assert_eq(got.status, SLUICE_OK);
        if (i == 0)
            cr_assert(asked.flags == WIRE_QUERY_VERSION && asked.object_version == 7);
        if (i == 1)
            cr_assert(asked.flags == WIRE_QUERY_AT && asked.at == 55);
        if (i == 2)
            cr_assert(asked.offset == 10 && asked.length == 20 && asked_header.after == 3);
        if (i == 3)
            cr_assert(asked.flags == WIRE_QUERY_NO_VALUE && got.data_size[0] == 0);
    }
    bed_close(&bed);
    got_free(&got);
}

Test(read, a_read_by_the_object_clock_is_refused_in_words)
{
    struct bed bed;
    struct got got = {0};
    bed_open(&bed, 1, has_it);
    const struct sluice_get request = {.key = "k", .key_size = 1, .at_ns = 55, .by_object_time = true};
    sluice_get(bed.client, &request, got_answer, &got);
    bed_run(&bed, &got.done, 2000);
    cr_assert_eq(got.status, SLUICE_INVALID);
    cr_assert_not_null(strstr(got.detail, "object clock"));
    cr_assert_eq(bed.nodes[0].asked[WIRE_GET], 0);
    bed_close(&bed);
    got_free(&got);
}

static void deleted(struct fake *node, struct fabric_link *link, const struct wire_header *header, const uint8_t *body)
{
    (void)note(node, header, body);
    one_record(node, link, header, SLUICE_DELETED, WIRE_FLAG_RECORD,
               &(struct fake_record){.key = asked_key, .version = 5, .tombstone = true});
}

Test(read, a_deleted_object_comes_with_the_version_of_its_tombstone)
{
    struct bed bed;
    struct got got = {0};
    bed_open(&bed, 3, deleted);
    start_get(&bed, "farm/cow", 0, &got);
    bed_run(&bed, &got.done, 2000);
    cr_assert_eq(got.status, SLUICE_DELETED);
    cr_assert_eq(got.count, 1);
    cr_assert_eq(got.versions[0], 5);
    cr_assert(got.deleted[0]);
    bed_close(&bed);
    got_free(&got);
}

static unsigned survivor;

static void survivor_answers(struct fake *node, struct fabric_link *link, const struct wire_header *header,
                             const uint8_t *body)
{
    if (node->id == survivor)
        has_it(node, link, header, body);
}

Test(read, a_stable_read_goes_on_while_any_one_replica_answers)
{
    struct bed bed;
    struct got got = {0};
    bed_open(&bed, 3, survivor_answers);
    bed_idle(&bed, 50);
    for (survivor = 1; survivor <= 3; survivor++) {
        const struct sluice_get request = {.key = "farm/cow", .key_size = 8, .stable = true, .call.timeout_ms = 3000};
        got.done = false;
        sluice_get(bed.client, &request, got_answer, &got);
        bed_run(&bed, &got.done, 4000);
        cr_assert_eq(got.status, SLUICE_OK, "node %u would have answered", survivor);
    }
    bed_close(&bed);
    got_free(&got);
}

static void followers_pass(struct fake *node, struct fabric_link *link, const struct wire_header *header,
                           const uint8_t *body)
{
    (void)note(node, header, body);
    if (node->id != bed_leader(node->bed, header->shard))
        fake_not_leader(node, link, header, bed_leader(node->bed, header->shard));
    else
        has_it(node, link, header, body);
}

Test(read, a_stable_read_takes_any_replica_and_the_leader_where_that_cannot_answer)
{
    struct bed bed;
    struct got got = {0};
    bed_open(&bed, 3, has_it);
    bed_idle(&bed, 50);
    bool used[4] = {false};
    for (int i = 0; i < 24; i++) {
        char key[16];
        int size = snprintf(key, sizeof(key), "key%d", i);
        const struct sluice_get request = {.key = key, .key_size = (size_t)size, .stable = true};
        got.done = false;
        sluice_get(bed.client, &request, got_answer, &got);
        bed_run(&bed, &got.done, 2000);
        cr_assert(asked_header.flags & WIRE_FLAG_STABLE);
        used[reader] = true;
    }
    cr_assert(used[1] && used[2] && used[3], "readers spread over the replicas");
    bed.script = followers_pass;
    for (int i = 0; i < 24; i++) {
        char key[16];
        int size = snprintf(key, sizeof(key), "key%d", i);
        const struct sluice_get request = {.key = key, .key_size = (size_t)size, .stable = true};
        got.done = false;
        sluice_get(bed.client, &request, got_answer, &got);
        bed_run(&bed, &got.done, 2000);
        cr_assert_eq(got.status, SLUICE_OK);
    }
    bed_close(&bed);
    got_free(&got);
}

static void mute(struct fake *node, struct fabric_link *link, const struct wire_header *header, const uint8_t *body)
{
    (void)node;
    (void)link;
    (void)header;
    (void)body;
}

Test(read, a_read_that_nobody_answers_runs_into_its_deadline)
{
    struct bed bed;
    struct got got = {0};
    bed_open(&bed, 3, mute);
    start_get(&bed, "farm/cow", 300, &got);
    bed_run(&bed, &got.done, 2000);
    cr_assert_eq(got.status, SLUICE_DEADLINE);
    for (int i = 0; i < 3; i++)
        fake_down(&bed.nodes[i]);
    bed_idle(&bed, 50);
    start_get(&bed, "farm/cow", 300, &got);
    bed_run(&bed, &got.done, 2000);
    cr_assert_eq(got.status, SLUICE_UNAVAILABLE, "nobody could be asked");
    bed_close(&bed);
    got_free(&got);
}

/* --- Many keys: shard k of 4 holds key number n where n % 4 + 1 == k; 40 keys, "dir D/key n" --- */

#define KEYS 40
static uint64_t asked_at[64];
static unsigned pages, time_rounds;
static uint32_t page_limit;

static void key_of(unsigned number, char key[32])
{
    snprintf(key, 32, "d%u/k%02u", number / 10, number);
}

static void list_page(struct fake *node, struct fabric_link *link, const struct wire_header *header,
                      const struct wire_query *query, const char *after, size_t after_size)
{
    struct bytes out = {0};
    uint32_t count = 0, limit = query->limit < page_limit ? query->limit : page_limit;
    bool more = false;
    cr_assert_leq(pages, 60);
    asked_at[pages++] = query->at;
    for (unsigned i = 0; i < KEYS; i++) {
        char key[32];
        key_of(i, key);
        size_t both = strlen(key) < after_size ? strlen(key) : after_size;
        int order = memcmp(key, after, both);
        bool beyond = order > 0 || (order == 0 && strlen(key) > after_size);
        if (i % 4 + 1 != header->shard || !beyond || strncmp(key, asked_key, strlen(asked_key)) != 0)
            continue;
        if (count == limit) {
            more = true;
            break;
        }
        fake_add(&out, &(struct fake_record){.key = key,
                                             .value = (query->flags & WIRE_QUERY_VALUES) ? "v" : NULL,
                                             .version = i + 1,
                                             .shard = header->shard});
        count++;
    }
    fake_reply(node, link, header, SLUICE_OK, more ? WIRE_FLAG_MORE : 0, out.data, out.size);
    bytes_free(&out);
}

static void lists(struct fake *node, struct fabric_link *link, const struct wire_header *header, const uint8_t *body)
{
    if (node->id != bed_leader(node->bed, header->shard)) {
        fake_not_leader(node, link, header, bed_leader(node->bed, header->shard));
        return;
    }
    if (header->type == WIRE_TIME) {
        time_rounds++;
        node->bed->time += 1000; /* each leader's clock is elsewhere */
        fake_reply(node, link, header, SLUICE_OK, 0, NULL, 0);
        return;
    }
    const struct wire_query *query = note(node, header, body);
    if (header->type == WIRE_GET) {
        unsigned number = (unsigned)atoi(asked_key + 4);
        if (strncmp(asked_key, "d", 1) != 0 || number >= KEYS)
            fake_refuse(node, link, header, SLUICE_NOT_FOUND, "none");
        else if (number == 7)
            one_record(node, link, header, SLUICE_DELETED, WIRE_FLAG_RECORD,
                       &(struct fake_record){.key = asked_key, .version = 2, .tombstone = true});
        else
            one_record(node, link, header, SLUICE_OK, 0,
                       &(struct fake_record){.key = asked_key, .value = "val", .version = number + 1});
        return;
    }
    cr_assert_eq(header->type, WIRE_LIST);
    list_page(node, link, header, query, wire_query_after(query), query->after_size);
}

static void start_list(struct bed *bed, const char *prefix, char delimiter, uint32_t limit, const char *cursor,
                       struct got *got)
{
    const struct sluice_list request = {
        .prefix = prefix, .prefix_size = strlen(prefix), .delimiter = delimiter, .limit = limit, .cursor = cursor};
    got->done = false;
    sluice_list(bed->client, &request, got_answer, got);
}

Test(list, keys_of_all_shards_come_in_order_at_one_time)
{
    struct bed bed;
    struct got got = {0};
    page_limit = 3; /* many pages a shard */
    bed_open(&bed, 3, lists);
    start_list(&bed, "", '\0', 0, NULL, &got);
    bed_run(&bed, &got.done, 3000);
    cr_assert_eq(got.status, SLUICE_OK, "%s", got.detail);
    cr_assert_eq(got.count, KEYS);
    for (unsigned i = 0; i < KEYS; i++) {
        char key[32];
        key_of(i, key);
        cr_assert_str_eq(got.keys[i], key);
    }
    cr_assert_eq(time_rounds, 4);
    for (unsigned i = 0; i < pages; i++)
        cr_assert_eq(asked_at[i], got.at, "one cut");
    cr_assert_eq(got.at, bed.time, "the highest of the leaders' times");
    cr_assert_null(got.cursor);
    cr_assert_not_null(got.watch_cursor);
    bed_close(&bed);
    got_free(&got);
}

Test(list, pages_follow_each_other_without_gap_or_repetition)
{
    struct bed bed;
    struct got got = {0};
    page_limit = 100;
    bed_open(&bed, 3, lists);
    char *cursor = NULL;
    unsigned next = 0, rounds = 0;
    uint64_t at = 0;
    do {
        start_list(&bed, "d", '\0', 7, cursor, &got);
        bed_run(&bed, &got.done, 3000);
        cr_assert_eq(got.status, SLUICE_OK, "%s", got.detail);
        cr_assert(at == 0 || got.at == at, "all pages are of the same time");
        at = got.at;
        for (size_t i = 0; i < got.count; i++) {
            char key[32];
            key_of(next++, key);
            cr_assert_str_eq(got.keys[i], key);
        }
        free(cursor);
        cursor = got.cursor == NULL ? NULL : strdup(got.cursor);
        rounds++;
    } while (cursor != NULL);
    cr_assert_eq(next, KEYS);
    cr_assert_eq(rounds, 6);
    bed_close(&bed);
    got_free(&got);
}

Test(list, a_delimiter_folds_what_is_beyond_it_and_skips_it)
{
    struct bed bed;
    struct got got = {0};
    page_limit = 2;
    bed_open(&bed, 3, lists);
    start_list(&bed, "", '/', 0, NULL, &got);
    bed_run(&bed, &got.done, 3000);
    cr_assert_eq(got.status, SLUICE_OK, "%s", got.detail);
    cr_assert_eq(got.count, 0);
    cr_assert_eq(got.prefix_count, 4);
    cr_assert_str_eq(got.prefixes[0], "d0/");
    cr_assert_str_eq(got.prefixes[3], "d3/");
    unsigned folded = pages;
    cr_assert_leq(folded, 4 * 5 + 4, "a group costs a shard a page at most, not all its keys: %u", folded);
    /* Page by page: the cursor stands behind the group. */
    start_list(&bed, "", '/', 3, NULL, &got);
    bed_run(&bed, &got.done, 3000);
    cr_assert_eq(got.prefix_count, 3);
    char *cursor = strdup(got.cursor);
    start_list(&bed, "", '/', 3, cursor, &got);
    bed_run(&bed, &got.done, 3000);
    cr_assert_eq(got.prefix_count, 1);
    cr_assert_str_eq(got.prefixes[0], "d3/");
    cr_assert_null(got.cursor);
    free(cursor);
    /* Below the prefix keys stand for themselves. */
    start_list(&bed, "d2/", '/', 0, NULL, &got);
    bed_run(&bed, &got.done, 3000);
    cr_assert_eq(got.count, 10);
    cr_assert_eq(got.prefix_count, 0);
    bed_close(&bed);
    got_free(&got);
}

Test(list, a_cursor_that_was_altered_or_is_of_something_else_is_refused)
{
    struct bed bed;
    struct got got = {0};
    page_limit = 100;
    bed_open(&bed, 3, lists);
    start_list(&bed, "d", '\0', 7, NULL, &got);
    bed_run(&bed, &got.done, 3000);
    char *cursor = strdup(got.cursor), *watch_cursor = strdup(got.watch_cursor);
    for (size_t i = 0; cursor[i] != '\0'; i++) {
        char was = cursor[i];
        cursor[i] = was == 'A' ? 'B' : 'A';
        start_list(&bed, "d", '\0', 7, cursor, &got);
        bed_run(&bed, &got.done, 3000);
        cr_assert_eq(got.status, SLUICE_INVALID, "at %zu", i);
        cursor[i] = was;
    }
    start_list(&bed, "d", '\0', 7, watch_cursor, &got);
    bed_run(&bed, &got.done, 3000);
    cr_assert_eq(got.status, SLUICE_INVALID);
    start_list(&bed, "e", '\0', 7, cursor, &got);
    bed_run(&bed, &got.done, 3000);
    cr_assert_eq(got.status, SLUICE_INVALID, "of another prefix");
    free(cursor);
    free(watch_cursor);
    bed_close(&bed);
    got_free(&got);
}

static bool lists_well(struct bed *bed, const char *prefix)
{
    struct got got = {0};
    pages = 0;
    start_list(bed, prefix, '\0', 0, NULL, &got);
    bed_run(bed, &got.done, 3000);
    bool good = got.status == SLUICE_OK;
    got_free(&got);
    return good;
}

static uint32_t shards_asked;

static void notes_shards(struct fake *node, struct fabric_link *link, const struct wire_header *header,
                         const uint8_t *body)
{
    (void)body;
    shards_asked |= 1u << header->shard;
    fake_reply(node, link, header, SLUICE_OK, 0, NULL, 0);
}

Test(list, exactly_the_pools_that_can_hold_the_prefix_are_asked)
{
    struct bed bed;
    bed_open(&bed, 3, notes_shards);
    bed_map(&bed,
            ",{\"prefix\":\"farm\",\"kind\":\"persistent\",\"state\":\"live\",\"replicas\":3,\"affinity\":null,"
            "\"shards\":[9],\"retention\":{},\"lateness\":\"0\"},"
            "{\"prefix\":\"farm/new\",\"kind\":\"persistent\",\"state\":\"live\",\"replicas\":3,\"affinity\":null,"
            "\"shards\":[10],\"retention\":{},\"lateness\":\"0\"}",
            ",{\"id\":9,\"epoch\":1,\"replicas\":[{\"node\":1,\"incarnation\":\"0\"}]},"
            "{\"id\":10,\"epoch\":1,\"replicas\":[{\"node\":2,\"incarnation\":\"0\"}]}",
            11);
    static const struct {
        const char *prefix;
        uint32_t shards;
    } cases[] = {
        {"", 0x1e | 1u << 9 | 1u << 10},
        {"far", 0x1e | 1u << 9 | 1u << 10},
        {"farm", 0x1e | 1u << 9 | 1u << 10},
        {"farm/", 1u << 9 | 1u << 10},
        {"farm/n", 1u << 9 | 1u << 10},
        {"farm/new/x", 1u << 10},
        {"farm/x", 1u << 9},
        {"farmland", 0x1e},
        {"other/", 0x1e},
    };
    for (size_t i = 0; i < sizeof(cases) / sizeof(cases[0]); i++) {
        shards_asked = 0;
        cr_assert(lists_well(&bed, cases[i].prefix));
        cr_assert_eq(shards_asked, cases[i].shards, "%s: %x", cases[i].prefix, shards_asked);
    }
    bed_close(&bed);
}

Test(snapshot, keys_and_prefixes_are_of_one_time_and_each_is_there_once)
{
    static const char *const keys[] = {"d1/k11", "none", "d0/k07", "d1/k11"};
    static const size_t key_sizes[] = {6, 4, 6, 6};
    static const char *const prefixes[] = {"d1/", "d1/k1", "d2/k2"};
    static const size_t prefix_sizes[] = {3, 5, 5};
    struct bed bed;
    struct got got = {0};
    page_limit = 3;
    bed_open(&bed, 3, lists);
    const struct sluice_snapshot request = {.keys = keys,
                                            .key_sizes = key_sizes,
                                            .key_count = 4,
                                            .prefixes = prefixes,
                                            .prefix_sizes = prefix_sizes,
                                            .prefix_count = 3};
    /* Which shard a key is in is the client's to compute, the lists' shards are by number; both are asked at one time.
     */
    bed.script = lists;
    sluice_snapshot(bed.client, &request, got_answer, &got);
    bed_run(&bed, &got.done, 3000);
    cr_assert_eq(got.status, SLUICE_OK, "%s", got.detail);
    cr_assert_eq(got.count, 4 + 9 + 10);
    cr_assert_str_eq(got.keys[0], "d1/k11");
    cr_assert_eq(got.versions[0], 12);
    cr_assert_str_eq(got.data[0], "val");
    cr_assert_eq(got.versions[1], 0, "never there");
    cr_assert_eq(got.versions[2], 0, "deleted by then");
    cr_assert(got.deleted[2]);
    cr_assert_str_eq(got.keys[3], "d1/k11");
    for (size_t i = 5; i < got.count; i++) {
        cr_assert_lt(strcmp(got.keys[i - 1], got.keys[i]), 0);
        cr_assert_str_neq(got.keys[i], "d1/k11");
        cr_assert_str_eq(got.data[i], "v");
    }
    for (unsigned i = 0; i < pages; i++)
        cr_assert_eq(asked_at[i], got.at);
    bed_close(&bed);
    got_free(&got);
}

/* --- History: versions 1 … 25 of one key, at most 4 a page --- */

static void has_history(struct fake *node, struct fabric_link *link, const struct wire_header *header,
                        const uint8_t *body)
{
    const struct wire_query *query = note(node, header, body);
    struct bytes out = {0};
    bool down = (query->flags & WIRE_QUERY_DESCENDING) != 0, more = false;
    unsigned count = 0;
    for (unsigned i = 1; i <= 25; i++) {
        uint64_t version = down ? 26 - i : i;
        if (version < query->from || version > query->to)
            continue;
        if (count == (query->limit < 4 ? query->limit : 4)) {
            more = true;
            break;
        }
        fake_add(&out, &(struct fake_record){.key = asked_key, .value = "v", .version = version});
        count++;
    }
    fake_reply(node, link, header, SLUICE_OK, more ? WIRE_FLAG_MORE : 0, out.data, out.size);
    bytes_free(&out);
}

static unsigned walk_history(struct bed *bed, bool descending, uint32_t limit, uint64_t from, uint64_t to)
{
    struct got got = {0};
    char *cursor = NULL;
    unsigned count = 0;
    uint64_t expected = descending ? to : from;
    do {
        const struct sluice_history request = {.key = "farm/cow",
                                               .key_size = 8,
                                               .version_from = from,
                                               .version_to = to,
                                               .limit = limit,
                                               .cursor = cursor,
                                               .descending = descending,
                                               .values = true};
        got.done = false;
        sluice_history(bed->client, &request, got_answer, &got);
        bed_run(bed, &got.done, 2000);
        cr_assert_eq(got.status, SLUICE_OK, "%s", got.detail);
        cr_assert_leq(got.count, limit);
        for (size_t i = 0; i < got.count; i++) {
            cr_assert_eq(got.versions[i], expected);
            expected = descending ? expected - 1 : expected + 1;
        }
        count += (unsigned)got.count;
        free(cursor);
        cursor = got.cursor == NULL ? NULL : strdup(got.cursor);
    } while (cursor != NULL);
    got_free(&got);
    return count;
}

Test(history, versions_come_in_order_either_way_over_all_pages)
{
    struct bed bed;
    bed_open(&bed, 3, has_history);
    cr_assert_eq(walk_history(&bed, false, 100, 1, 25), 25);
    cr_assert_eq(walk_history(&bed, true, 100, 1, 25), 25);
    cr_assert_eq(walk_history(&bed, false, 6, 3, 20), 18);
    cr_assert_eq(walk_history(&bed, true, 6, 3, 20), 18);
    cr_assert_eq(walk_history(&bed, true, 1, 1, 3), 3);
    bed_close(&bed);
}

static void garbage(struct fake *node, struct fabric_link *link, const struct wire_header *header, const uint8_t *body)
{
    (void)body;
    uint8_t bytes[100];
    memset(bytes, 0xff, sizeof(bytes));
    fake_reply(node, link, header, SLUICE_OK, 0, bytes, sizeof(bytes));
}

Test(read, answers_that_cannot_be_read_end_the_call_and_nothing_else)
{
    struct bed bed;
    struct got got = {0};
    static const char *const keys[] = {"a"};
    static const size_t sizes[] = {1};
    bed_open(&bed, 3, garbage);
    start_get(&bed, "a", 0, &got);
    bed_run(&bed, &got.done, 2000);
    cr_assert_eq(got.status, SLUICE_INTERNAL);
    start_put(&bed, "a", "x", 0, &got);
    bed_run(&bed, &got.done, 2000);
    cr_assert_eq(got.status, SLUICE_INTERNAL);
    start_list(&bed, "a", '\0', 0, NULL, &got);
    bed_run(&bed, &got.done, 2000);
    cr_assert_eq(got.status, SLUICE_INTERNAL);
    const struct sluice_history history = {.key = "a", .key_size = 1};
    got.done = false;
    sluice_history(bed.client, &history, got_answer, &got);
    bed_run(&bed, &got.done, 2000);
    cr_assert_eq(got.status, SLUICE_INTERNAL);
    const struct sluice_snapshot snapshot = {.keys = keys, .key_sizes = sizes, .key_count = 1};
    got.done = false;
    sluice_snapshot(bed.client, &snapshot, got_answer, &got);
    bed_run(&bed, &got.done, 2000);
    cr_assert_eq(got.status, SLUICE_INTERNAL);
    bed.script = has_it;
    start_get(&bed, "a", 0, &got);
    bed_run(&bed, &got.done, 2000);
    cr_assert_eq(got.status, SLUICE_OK);
    bed_close(&bed);
    got_free(&got);
}

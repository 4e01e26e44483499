/* Watches: nothing is missed and nothing repeated from a cursor on, whoever dies on the way. */
#include "client/client__.h"
#include "tests/unit/client/fake.h"

/* --- Nodes with logs: what a shard's leader was told to have, it streams --- */

#define SHARDS  48
#define LOG_MAX 64
#define STREAMS 16

struct entry {
    uint64_t revision, time;
    unsigned operations;
};
static struct shard {
    struct entry log[LOG_MAX];
    unsigned count;
    uint64_t closed;
    uint16_t leader; /* 0: nobody */
    uint64_t epoch;
} shards[SHARDS + 1];

static struct stream {
    struct fake *node;
    struct fabric_link *link;
    uint64_t request_id;
    uint32_t shard;
    uint64_t next_revision;
    uint32_t next_operation;
    bool live;
} streams[STREAMS * SHARDS];
static unsigned stream_count, watches_asked, cancels;
static struct wire_query last_query[SHARDS + 1];
static uint64_t base;

static void pump(struct stream *stream)
{
    struct shard *shard = &shards[stream->shard];
    for (unsigned i = 0; i < shard->count; i++) {
        const struct entry *entry = &shard->log[i];
        struct bytes out = {0};
        if (entry->revision < stream->next_revision)
            continue;
        uint32_t first = entry->revision == stream->next_revision ? stream->next_operation : 0;
        for (uint32_t k = first; k < entry->operations; k++) {
            char key[32];
            snprintf(key, sizeof(key), "s%u/r%llu/o%u", stream->shard, (unsigned long long)entry->revision, k);
            fake_add(&out, &(struct fake_record){.key = key,
                                                 .value = "v",
                                                 .version = 1,
                                                 .revision = entry->revision,
                                                 .operation = k,
                                                 .time = entry->time,
                                                 .epoch = shard->epoch,
                                                 .shard = stream->shard});
        }
        if (out.size > 0)
            fake_event(stream->node, stream->link, stream->request_id, 0, entry->time, out.data, out.size);
        bytes_free(&out);
        stream->next_revision = entry->revision + 1;
        stream->next_operation = 0;
    }
}

static void tell_closed(struct stream *stream)
{
    fake_event(stream->node, stream->link, stream->request_id, WIRE_FLAG_CLOSED, shards[stream->shard].closed, NULL, 0);
}

static void start_stream(struct fake *node, struct fabric_link *link, const struct wire_header *header,
                         const struct wire_query *query)
{
    struct shard *shard = &shards[header->shard];
    struct stream *stream = &streams[stream_count++];
    cr_assert_lt(stream_count, STREAMS * SHARDS);
    *stream = (struct stream){
        .node = node, .link = link, .request_id = header->request_id, .shard = header->shard, .live = true};
    if (query->flags & WIRE_QUERY_FROM_TIME) {
        stream->next_revision = shard->count == 0 ? 1 : shard->log[shard->count - 1].revision + 1;
        for (unsigned i = shard->count; i > 0 && shard->log[i - 1].time > query->from; i--)
            stream->next_revision = shard->log[i - 1].revision;
    } else {
        stream->next_revision = query->from;
        stream->next_operation = query->operation;
    }
    pump(stream);
    tell_closed(stream);
}

static void serve(struct fake *node, struct fabric_link *link, const struct wire_header *header, const uint8_t *body)
{
    const struct wire_query *query = NULL;
    const char *why = NULL;
    struct shard *shard = &shards[header->shard];
    if (header->type == WIRE_CANCEL) {
        cancels++;
        for (unsigned i = 0; i < stream_count; i++)
            if (streams[i].link == link && streams[i].request_id == header->request_id)
                streams[i].live = false;
        return;
    }
    if (shard->leader != node->id) {
        fake_not_leader(node, link, header, shard->leader);
        return;
    }
    if (header->type == WIRE_TIME) {
        fake_reply(node, link, header, SLUICE_OK, 0, NULL, 0);
        return;
    }
    cr_assert_eq(header->type, WIRE_WATCH);
    cr_assert_eq(wire_query_read(body, header->body_size, &query, &why), SLUICE_OK, "%s", why);
    watches_asked++;
    last_query[header->shard] = *query;
    if (query->epoch != 0 && query->epoch != shard->epoch)
        fake_refuse(node, link, header, SLUICE_EPOCH_LOST, "another epoch");
    else
        start_stream(node, link, header, query);
}

/* A new entry; told to those who stream. */
static void append(struct bed *bed, uint32_t number, unsigned operations)
{
    struct shard *shard = &shards[number];
    cr_assert_lt(shard->count, LOG_MAX);
    bed->time += 1000;
    shard->log[shard->count] =
        (struct entry){.revision = shard->count == 0 ? 5 : shard->log[shard->count - 1].revision + 2,
                       .time = bed->time,
                       .operations = operations};
    shard->count++;
    for (unsigned i = 0; i < stream_count; i++)
        if (streams[i].live && streams[i].shard == number)
            pump(&streams[i]);
}

static void close_time(struct bed *bed, uint32_t number)
{
    shards[number].closed = bed->time;
    for (unsigned i = 0; i < stream_count; i++)
        if (streams[i].live && streams[i].shard == number)
            tell_closed(&streams[i]);
}

/* The leader's node dies, or only its links. */
static void links_gone(struct fake *node)
{
    for (unsigned i = 0; i < stream_count; i++)
        if (streams[i].node == node)
            streams[i].live = false;
    fake_cut(node);
}

static void open_logs(struct bed *bed, unsigned nodes)
{
    stream_count = watches_asked = cancels = 0;
    bed_open(bed, nodes, serve);
    base = bed->time;
    for (uint32_t i = 1; i <= SHARDS; i++)
        shards[i] = (struct shard){.leader = bed_leader(bed, i), .epoch = 1, .closed = base - 1000000};
}

/* --- A watcher that keeps what it is told --- */

struct watcher {
    struct sluice_watch *watch;
    unsigned events, progress, ready;
    bool is_ready, ended;
    enum sluice_status status;
    char keys[512][32];
    char cursors[512][520];
    char cursor[520]; /* the last */
    uint64_t closed;
    unsigned pause_after, stop_after;
    unsigned without_cursor;
};

static void on_event(void *arg, const struct sluice_watch_event *event)
{
    struct watcher *self = arg;
    cr_assert_not(self->ended, "END is the last");
    if (event->cursor != NULL) {
        cr_assert_leq(strlen(event->cursor), 512);
        snprintf(self->cursor, sizeof(self->cursor), "%s", event->cursor);
    }
    switch (event->type) {
    case SLUICE_WATCH_PUT:
    case SLUICE_WATCH_DELETE:
        cr_assert_lt(self->events, 512);
        snprintf(self->keys[self->events], 32, "%.*s", (int)event->object->key_size, event->object->key);
        snprintf(self->cursors[self->events], 520, "%s", event->cursor == NULL ? "" : event->cursor);
        self->without_cursor += event->cursor == NULL;
        self->events++;
        if (self->events == self->pause_after)
            sluice_watch_pause(self->watch);
        if (self->events == self->stop_after) {
            sluice_watch_stop(self->watch);
            self->watch = NULL;
        }
        break;
    case SLUICE_WATCH_PROGRESS:
        cr_assert_geq(event->closed_ns, self->closed, "closed time never goes back");
        self->closed = event->closed_ns;
        self->progress++;
        break;
    case SLUICE_WATCH_READY:
        self->ready++;
        self->is_ready = true;
        self->closed = event->closed_ns;
        break;
    case SLUICE_WATCH_END:
        self->ended = true;
        self->status = event->status;
        self->watch = NULL;
        cr_assert_not_null(event->detail);
        break;
    }
}

static void watch_from(struct bed *bed, struct watcher *self, const char *cursor)
{
    char error[256] = "";
    const struct sluice_watch_options options = {.kind = WIRE_PATTERN_PREFIX,
                                                 .pattern = "",
                                                 .pattern_size = 0,
                                                 .cursor = cursor,
                                                 .values = true,
                                                 .progress_ms = 50};
    *self = (struct watcher){0};
    cr_assert_eq(sluice_watch_start(bed->client, &options, on_event, self, &self->watch, error), SLUICE_OK, "%s",
                 error);
}

static void expect_keys(const struct watcher *self, unsigned first, const char *const *keys, unsigned count)
{
    cr_assert_eq(self->events, first + count, "%u events, not %u", self->events, first + count);
    for (unsigned i = 0; i < count; i++)
        cr_assert_str_eq(self->keys[first + i], keys[i]);
}

Test(watch, it_begins_now_is_ready_once_and_tells_what_comes)
{
    struct bed bed;
    struct watcher watcher;
    open_logs(&bed, 3);
    append(&bed, 1, 1); /* before */
    watch_from(&bed, &watcher, NULL);
    bed_run(&bed, &watcher.is_ready, 2000);
    cr_assert_eq(watcher.events, 0);
    cr_assert_neq(watcher.cursor[0], '\0');
    cr_assert_eq(watches_asked, 4);
    append(&bed, 1, 2);
    bed_idle(&bed, 20);
    append(&bed, 3, 1);
    bed_idle(&bed, 20);
    append(&bed, 1, 1);
    bed_idle(&bed, 50);
    expect_keys(&watcher, 0, (const char *[]){"s1/r7/o0", "s1/r7/o1", "s3/r5/o0", "s1/r9/o0"}, 4);
    for (uint32_t i = 1; i <= 4; i++)
        close_time(&bed, i);
    bed_idle(&bed, 120);
    cr_assert_eq(watcher.closed, bed.time, "progress says that everything was seen");
    cr_assert_eq(watcher.ready, 1);
    sluice_watch_stop(watcher.watch);
    bed_idle(&bed, 50);
    cr_assert_eq(cancels, 4, "the nodes are told");
    cr_assert_not(watcher.ended);
    bed_close(&bed);
}

/* From each event's cursor on, exactly what came after it comes. */
Test(watch, from_any_cursor_on_the_rest_comes_once)
{
    struct bed bed;
    struct watcher first, again;
    struct random random;
    uint64_t seed = random_os();
    fprintf(stderr, "seed %llu\n", (unsigned long long)seed);
    random_seed(&random, seed);
    open_logs(&bed, 3);
    watch_from(&bed, &first, NULL);
    bed_run(&bed, &first.is_ready, 2000);
    for (int i = 0; i < 40; i++) {
        append(&bed, 1 + (uint32_t)random_below(&random, 4), 1 + (unsigned)random_below(&random, 3));
        if (random_below(&random, 3) == 0)
            close_time(&bed, 1 + (uint32_t)random_below(&random, 4));
        bed_idle(&bed, 1);
    }
    bed_idle(&bed, 50);
    cr_assert_gt(first.events, 40);
    for (unsigned from = 0; from < first.events; from += 7) {
        bool seen[512] = {false};
        watch_from(&bed, &again, first.cursors[from]);
        bed_run(&bed, &again.is_ready, 2000);
        bed_idle(&bed, 5);
        cr_assert_eq(again.events, first.events - from - 1, "from %u: %u events", from, again.events);
        for (unsigned i = 0; i < again.events; i++) {
            unsigned at = from + 1;
            while (at < first.events && (seen[at] || strcmp(first.keys[at], again.keys[i]) != 0))
                at++;
            cr_assert_lt(at, first.events, "%s came again or out of nowhere", again.keys[i]);
            seen[at] = true;
        }
        sluice_watch_stop(again.watch);
    }
    bed_close(&bed);
}

Test(watch, a_dead_leader_is_replaced_without_gap_or_repetition)
{
    struct bed bed;
    struct watcher watcher;
    open_logs(&bed, 3);
    watch_from(&bed, &watcher, NULL);
    bed_run(&bed, &watcher.is_ready, 2000);
    append(&bed, 1, 3);
    append(&bed, 4, 1);
    bed_idle(&bed, 50);
    cr_assert_eq(watcher.events, 4);
    /* Node 1 leads shards 1 and 4. */
    for (unsigned i = 0; i < stream_count; i++)
        if (streams[i].node == &bed.nodes[0])
            streams[i].live = false;
    fake_down(&bed.nodes[0]);
    shards[1].leader = shards[4].leader = 0;
    append(&bed, 1, 1);
    bed_idle(&bed, 150);
    cr_assert_eq(watcher.events, 4);
    shards[1].leader = shards[4].leader = 2;
    append(&bed, 1, 1);
    append(&bed, 4, 1);
    bed_idle(&bed, 400);
    cr_assert_eq(watcher.events, 7);
    expect_keys(&watcher, 7, NULL, 0);
    cr_assert_eq(last_query[1].from, 5, "after the last that came …");
    cr_assert_eq(last_query[1].operation, 3, "… and not before its next operation");
    cr_assert_eq(last_query[1].epoch, 1);
    bed_close(&bed);
    cr_assert(watcher.ended);
    cr_assert_eq(watcher.status, SLUICE_UNAVAILABLE, "closing ends it");
}

Test(watch, a_batch_that_was_cut_in_two_goes_on_in_the_middle)
{
    struct bed bed;
    struct watcher watcher, again;
    open_logs(&bed, 1);
    watch_from(&bed, &watcher, NULL);
    bed_run(&bed, &watcher.is_ready, 2000);
    append(&bed, 2, 4);
    bed_idle(&bed, 50);
    cr_assert_eq(watcher.events, 4);
    watch_from(&bed, &again, watcher.cursors[1]);
    bed_run(&bed, &again.is_ready, 2000);
    expect_keys(&again, 0, (const char *[]){"s2/r5/o2", "s2/r5/o3"}, 2);
    bed_close(&bed);
}

Test(watch, a_closed_stream_goes_on_from_the_time_that_was_closed)
{
    struct bed bed;
    struct watcher watcher;
    open_logs(&bed, 1);
    watch_from(&bed, &watcher, NULL);
    bed_run(&bed, &watcher.is_ready, 2000);
    append(&bed, 1, 1);
    close_time(&bed, 1);
    bed_idle(&bed, 50);
    links_gone(&bed.nodes[0]);
    append(&bed, 1, 1);
    bed_idle(&bed, 500);
    expect_keys(&watcher, 0, (const char *[]){"s1/r5/o0", "s1/r7/o0"}, 2);
    cr_assert(last_query[1].flags & WIRE_QUERY_FROM_TIME);
    bed_close(&bed);
}

Test(watch, who_pauses_gets_everything_later_and_no_more_memory_is_used_than_allowed)
{
    struct bed bed;
    struct watcher watcher;
    char error[256];
    open_logs(&bed, 1);
    const struct sluice_watch_options options = {
        .kind = WIRE_PATTERN_PREFIX, .pattern = "", .values = true, .progress_ms = 50, .buffer_bytes_max = 2000};
    watcher = (struct watcher){.pause_after = 3};
    cr_assert_eq(sluice_watch_start(bed.client, &options, on_event, &watcher, &watcher.watch, error), SLUICE_OK);
    bed_run(&bed, &watcher.is_ready, 2000);
    unsigned total = 0;
    for (int i = 0; i < 40; i++) {
        append(&bed, 1 + (uint32_t)i % 4, 2);
        if (i % 5 == 0)
            close_time(&bed, 1 + (uint32_t)i % 4);
        total += 2;
        bed_idle(&bed, 2);
    }
    bed_idle(&bed, 100);
    cr_assert_eq(watcher.events, 3, "in the middle of a batch if need be");
    cr_assert_gt(cancels, 0, "what there is no room for is not sent at all");
    unsigned rounds = 0;
    while (watcher.events < total && rounds++ < 100) {
        watcher.pause_after = watcher.events + 7;
        sluice_watch_resume(watcher.watch);
        bed_idle(&bed, 20);
    }
    cr_assert_eq(watcher.events, total);
    for (unsigned i = 0; i < total; i++)
        for (unsigned k = i + 1; k < total; k++)
            cr_assert_str_neq(watcher.keys[i], watcher.keys[k]);
    bed_close(&bed);
}

Test(watch, stopping_within_its_own_handler_is_allowed)
{
    struct bed bed;
    struct watcher watcher = {.stop_after = 2};
    char error[256];
    open_logs(&bed, 1);
    const struct sluice_watch_options options = {.kind = WIRE_PATTERN_PREFIX, .pattern = ""};
    cr_assert_eq(sluice_watch_start(bed.client, &options, on_event, &watcher, &watcher.watch, error), SLUICE_OK);
    bed_run(&bed, &watcher.is_ready, 2000);
    append(&bed, 1, 5);
    bed_idle(&bed, 50);
    cr_assert_eq(watcher.events, 2);
    cr_assert_not(watcher.ended);
    bed_close(&bed);
}

static void add_pool(struct bed *bed)
{
    bed_map(bed,
            ",{\"prefix\":\"farm\",\"kind\":\"persistent\",\"state\":\"live\",\"replicas\":3,\"affinity\":null,"
            "\"shards\":[9],\"retention\":{},\"lateness\":\"0\"}",
            ",{\"id\":9,\"epoch\":1,\"replicas\":[{\"node\":1,\"incarnation\":\"0\"}]}", 10);
}

Test(watch, a_new_pool_is_watched_from_its_beginning)
{
    struct bed bed;
    struct watcher watcher, again;
    open_logs(&bed, 1);
    shards[9].leader = 1;
    watch_from(&bed, &watcher, NULL);
    bed_run(&bed, &watcher.is_ready, 2000);
    /* Its first object is there before we hear of the pool, and what the others have closed is later. */
    append(&bed, 9, 1);
    for (uint32_t i = 1; i <= 4; i++)
        close_time(&bed, i);
    bed_idle(&bed, 120);
    add_pool(&bed);
    bed_idle(&bed, 50);
    expect_keys(&watcher, 0, (const char *[]){"s9/r5/o0"}, 1);
    /* A cursor from before it has shown anything leads there too. */
    append(&bed, 9, 1);
    bed_idle(&bed, 50);
    cr_assert_eq(watcher.events, 2);
    watch_from(&bed, &again, watcher.cursors[0]);
    bed_run(&bed, &again.is_ready, 2000);
    expect_keys(&again, 0, (const char *[]){"s9/r7/o0"}, 1);
    bed_close(&bed);
}

Test(watch, closed_time_waits_for_a_map_that_others_have)
{
    struct bed bed;
    struct watcher watcher;
    open_logs(&bed, 1);
    watch_from(&bed, &watcher, NULL);
    bed_run(&bed, &watcher.is_ready, 2000);
    uint64_t before = watcher.closed;
    bed.epoch++; /* nodes know of a newer map */
    bed.time += 5000;
    for (uint32_t i = 1; i <= 4; i++)
        close_time(&bed, i);
    bed_idle(&bed, 150);
    cr_assert_eq(watcher.closed, before);
    bed.epoch--;
    for (uint32_t i = 1; i <= 4; i++)
        close_time(&bed, i);
    bed_idle(&bed, 150);
    cr_assert_eq(watcher.closed, bed.time);
    bed_close(&bed);
}

Test(watch, a_deleted_pool_ends_its_part_alone)
{
    struct bed bed;
    struct watcher watcher;
    open_logs(&bed, 1);
    shards[9].leader = 1;
    add_pool(&bed);
    watch_from(&bed, &watcher, NULL);
    bed_run(&bed, &watcher.is_ready, 2000);
    append(&bed, 9, 1);
    bed_idle(&bed, 50);
    bed_map(&bed, "", "", 10);
    bed_idle(&bed, 50);
    append(&bed, 2, 1);
    bed_idle(&bed, 50);
    expect_keys(&watcher, 0, (const char *[]){"s9/r5/o0", "s2/r5/o0"}, 2);
    cr_assert_not(watcher.ended);
    bed_close(&bed);
}

Test(watch, a_lost_epoch_ends_it)
{
    struct bed bed;
    struct watcher watcher;
    open_logs(&bed, 1);
    watch_from(&bed, &watcher, NULL);
    bed_run(&bed, &watcher.is_ready, 2000);
    append(&bed, 2, 1);
    bed_idle(&bed, 50);
    shards[2].epoch = 2;
    links_gone(&bed.nodes[0]);
    bed_run(&bed, &watcher.ended, 3000);
    cr_assert_eq(watcher.status, SLUICE_EPOCH_LOST);
    bed_close(&bed);
}

Test(watch, many_shards_at_once_keep_to_512_bytes_and_find_back)
{
    struct bed bed;
    struct watcher watcher;
    char pools[1024] = "", *text = malloc(8192);
    open_logs(&bed, 1);
    size_t at = (size_t)snprintf(pools, sizeof(pools),
                                 ",{\"prefix\":\"many\",\"kind\":\"persistent\",\"state\":\"live\",\"replicas\":1,"
                                 "\"affinity\":null,\"retention\":{},\"lateness\":\"0\",\"shards\":[");
    text[0] = '\0';
    for (unsigned i = 5; i <= SHARDS; i++) {
        at += (size_t)snprintf(pools + at, sizeof(pools) - at, "%s%u", i == 5 ? "" : ",", i);
        sprintf(text + strlen(text), ",{\"id\":%u,\"epoch\":1,\"replicas\":[{\"node\":1,\"incarnation\":\"0\"}]}", i);
        shards[i].leader = 1;
    }
    snprintf(pools + at, sizeof(pools) - at, "]}");
    bed_map(&bed, pools, text, SHARDS + 1);
    free(text);
    bed_idle(&bed, 50);
    watch_from(&bed, &watcher, NULL);
    bed_run(&bed, &watcher.is_ready, 3000);
    cr_assert_eq(watches_asked, SHARDS);
    for (unsigned i = 1; i <= SHARDS; i++)
        append(&bed, i, 1);
    bed_idle(&bed, 100);
    cr_assert_eq(watcher.events, SHARDS);
    cr_assert_gt(watcher.without_cursor, 0, "more are ahead than a cursor can list");
    for (unsigned i = 1; i <= SHARDS; i++)
        close_time(&bed, i);
    bed_idle(&bed, 100);
    append(&bed, 7, 1);
    bed_idle(&bed, 50);
    cr_assert_neq(watcher.cursors[SHARDS][0], '\0', "once time has closed they can again");
    bed_close(&bed);
}

Test(watch, bad_patterns_and_cursors_are_refused_at_once)
{
    struct bed bed;
    struct sluice_watch *watch = NULL;
    char error[256];
    open_logs(&bed, 1);
    struct sluice_watch_options options = {.kind = WIRE_PATTERN_REGEX, .pattern = "a(", .pattern_size = 2};
    cr_assert_eq(sluice_watch_start(bed.client, &options, on_event, NULL, &watch, error), SLUICE_INVALID);
    cr_assert_gt(strlen(error), 5);
    options =
        (struct sluice_watch_options){.kind = WIRE_PATTERN_PREFIX, .pattern = "", .cursor = "AQNoVcC7aZPqGFKUwDd"};
    cr_assert_eq(sluice_watch_start(bed.client, &options, on_event, NULL, &watch, error), SLUICE_INVALID);
    bed_close(&bed);
}

Test(watch, a_listing_leads_to_a_watch_without_a_hole)
{
    struct bed bed;
    struct watcher watcher;
    open_logs(&bed, 1);
    append(&bed, 1, 1);
    char *cursor = watch__cursor_at(bed.time);
    append(&bed, 1, 1);
    append(&bed, 2, 1);
    watch_from(&bed, &watcher, cursor);
    bed_run(&bed, &watcher.is_ready, 2000);
    cr_assert_eq(watcher.events, 2);
    free(cursor);
    bed_close(&bed);
}

/* --- A lambda's log --- */

static unsigned logs_asked;

static void tells_log(struct fake *node, struct fabric_link *link, const struct wire_header *header,
                      const uint8_t *body)
{
    if (header->type == WIRE_CANCEL) {
        cancels++;
        return;
    }
    cr_assert_eq(header->type, WIRE_LAMBDA_LOG);
    cr_assert_eq(header->body_size, 5);
    cr_assert_eq(memcmp(body, "thumb", 5), 0);
    logs_asked++;
    if (node->id == 3)
        fake_refuse(node, link, header, SLUICE_NOT_FOUND, "no such lambda here");
    else
        fake_event(node, link, header->request_id, 0, bed_leader(node->bed, 1), "a line", 6);
}

static const char thumb[] =
    "{\"name\":\"thumb\",\"version\":1,\"sha256\":\"0000000000000000000000000000000000000000000000000000000000000000\","
    "\"config\":\"{}\",\"placement\":\"leader\",\"isolation\":\"inprocess\",\"enabled\":true,\"registered_ns\":\"1\","
    "\"size\":1,\"watches\":[]}";

static void open_with_thumb(struct bed *bed, fake_script script)
{
    bed_open(bed, 3, script);
    bed->lambdas = thumb;
    bed_map(bed, "", "", 5);
}

Test(watch, a_lambdas_log_comes_from_all_nodes_that_have_it)
{
    struct bed bed;
    struct watcher watcher = {0};
    open_with_thumb(&bed, tells_log);
    cr_assert_eq(sluice_lambda_log(bed.client, "thumb", on_event, &watcher, &watcher.watch), SLUICE_OK);
    bed_run(&bed, &watcher.is_ready, 2000);
    bed_wait(&bed, &watcher.events, 2, 2000);
    cr_assert_geq(logs_asked, 3);
    expect_keys(&watcher, 0, (const char *[]){"thumb", "thumb"}, 2);
    cancels = 0;
    sluice_watch_stop(watcher.watch);
    bed_wait(&bed, &cancels, 2, 2000);
    bed_close(&bed);
}

Test(watch, the_log_of_a_lambda_that_is_removed_ends)
{
    struct bed bed;
    struct watcher watcher = {0};
    open_with_thumb(&bed, tells_log);
    cr_assert_eq(sluice_lambda_log(bed.client, "thumb", on_event, &watcher, &watcher.watch), SLUICE_OK);
    bed_run(&bed, &watcher.is_ready, 2000);
    bed.lambdas = NULL;
    bed_map(&bed, "", "", 5);
    bed_run(&bed, &watcher.ended, 2000);
    cr_assert_eq(watcher.status, SLUICE_NOT_FOUND);
    bed_close(&bed);
}

static void no_such_log(struct fake *node, struct fabric_link *link, const struct wire_header *header,
                        const uint8_t *body)
{
    (void)body;
    if (header->type == WIRE_LAMBDA_LOG && node->id != 3)
        fake_refuse(node, link, header, SLUICE_NOT_FOUND, "no such lambda here");
}

/* Whoever asks for it is told so, and not that it is there and has ended; also while a node says nothing at all. */
Test(watch, the_log_of_a_lambda_that_is_not_there_ends_before_it_begins)
{
    struct bed bed;
    struct watcher watcher = {0};
    bed_open(&bed, 3, no_such_log);
    cr_assert_eq(sluice_lambda_log(bed.client, "thumb", on_event, &watcher, &watcher.watch), SLUICE_OK);
    bed_run(&bed, &watcher.ended, 2000);
    cr_assert_eq(watcher.status, SLUICE_NOT_FOUND);
    cr_assert_not(watcher.is_ready);
    bed_close(&bed);
}

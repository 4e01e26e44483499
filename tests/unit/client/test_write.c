/* Writes: applied once whatever happens on the way, and an answer that says how sure that is. */
#include "core/base/crc.h"
#include "tests/unit/client/fake.h"

/* What the scripts have seen. */
static struct seen {
    unsigned writes;
    uint16_t node[64];
    uint32_t shard[64];
    struct wire_command command[64];
    struct wire_header header[64];
    uint8_t body[2][512];
    size_t size[2];
} seen;

static void note(struct fake *node, const struct wire_header *header, const uint8_t *body)
{
    const struct wire_command *command = NULL;
    const char *why = NULL;
    cr_assert_eq(wire_command_read(body, header->body_size, &command, &why), SLUICE_OK, "%s", why);
    cr_assert_eq(crc32c(body, header->body_size), header->body_crc, "what is checked is what was sent");
    unsigned at = seen.writes++ % 64;
    seen.node[at] = node->id;
    seen.shard[at] = header->shard;
    seen.command[at] = *command;
    seen.header[at] = *header;
    if (at < 2 && header->body_size <= sizeof(seen.body[0])) {
        memcpy(seen.body[at], body, header->body_size);
        seen.size[at] = header->body_size;
    }
}

static void applies(struct fake *node, struct fabric_link *link, const struct wire_header *header, const uint8_t *body)
{
    note(node, header, body);
    fake_written(node, link, header, body);
}

Test(write, a_put_is_answered_with_what_the_shard_made_of_it)
{
    struct bed bed;
    struct got got = {0};
    bed_open(&bed, 3, applies);
    start_put(&bed, "farm/cow", "moo", 0, &got);
    cr_assert_not(got.done, "no answer from within the call");
    bed_run(&bed, &got.done, 2000);
    cr_assert_eq(got.status, SLUICE_OK, "%s", got.detail);
    cr_assert_eq(got.count, 1);
    cr_assert_str_eq(got.keys[0], "farm/cow");
    cr_assert_eq(got.versions[0], 1);
    cr_assert(got.durable);
    cr_assert_not(got.replayed);
    cr_assert_eq(seen.writes, 1);
    cr_assert_eq(seen.node[0], bed_leader(&bed, seen.shard[0]), "the preferred replica is tried first");
    cr_assert_eq(seen.command[0].sequence, 1);
    cr_assert_neq(seen.command[0].client, 0);
    cr_assert_gt(seen.command[0].deadline, bed.time);
    cr_assert_leq(seen.command[0].deadline, bed.time + 6 * NS_PER_S);
    bed_close(&bed);
    cr_assert_eq(got.calls, 1);
    got_free(&got);
}

static uint16_t real_leader;

static void one_leads(struct fake *node, struct fabric_link *link, const struct wire_header *header,
                      const uint8_t *body)
{
    if (node->id != real_leader)
        fake_not_leader(node, link, header, real_leader);
    else
        applies(node, link, header, body);
}

Test(write, a_redirection_is_followed_and_remembered)
{
    struct bed bed;
    struct got got = {0};
    bed_open(&bed, 3, one_leads);
    /* The leader of whatever shard the key is in: never the preferred one. */
    real_leader = 0;
    for (unsigned i = 0; i < 6; i++) {
        start_put(&bed, "farm/cow", "moo", 0, &got);
        if (real_leader == 0) {
            /* The first request shows which shard it is. */
            bed_idle(&bed, 100);
            real_leader = 3;
        }
        bed_run(&bed, &got.done, 2000);
        cr_assert_eq(got.status, SLUICE_OK, "%s", got.detail);
    }
    unsigned refused = bed.nodes[0].asked[WIRE_WRITE] + bed.nodes[1].asked[WIRE_WRITE];
    cr_assert_eq(seen.writes, 6);
    start_put(&bed, "farm/cow", "moo", 0, &got);
    bed_run(&bed, &got.done, 2000);
    cr_assert_eq(bed.nodes[0].asked[WIRE_WRITE] + bed.nodes[1].asked[WIRE_WRITE], refused,
                 "once the leader is known nobody else is asked");
    bed_close(&bed);
    got_free(&got);
}

static void nobody_knows(struct fake *node, struct fabric_link *link, const struct wire_header *header,
                         const uint8_t *body)
{
    if (node->id != real_leader)
        fake_not_leader(node, link, header, 0);
    else
        applies(node, link, header, body);
}

Test(write, where_nobody_knows_the_leader_all_replicas_are_tried_a_few_at_a_time)
{
    struct bed bed;
    struct got got[40] = {0};
    real_leader = 0; /* an election */
    bed_open(&bed, 3, nobody_knows);
    for (int i = 0; i < 40; i++) {
        char key[32];
        snprintf(key, sizeof(key), "farm/cow%d", i);
        start_put(&bed, key, "moo", 0, &got[i]);
    }
    bed_idle(&bed, 400);
    unsigned asked = 0;
    for (int i = 0; i < 3; i++)
        asked += bed.nodes[i].asked[WIRE_WRITE];
    /* Forty at first, then each of four shards has one that goes around. */
    cr_assert_lt(asked, 40 + 4 * 30, "%u requests in an election", asked);
    real_leader = 2;
    for (int i = 0; i < 40; i++) {
        bed_run(&bed, &got[i].done, 2000);
        cr_assert_eq(got[i].status, SLUICE_OK);
    }
    cr_assert_eq(seen.writes, 40, "each was applied once");
    bed_close(&bed);
    for (int i = 0; i < 40; i++)
        got_free(&got[i]);
}

static bool cutting;

static void cut_in_mid_write(struct fake *node, struct fabric_link *link, const struct wire_header *header,
                             const uint8_t *body)
{
    note(node, header, body);
    if (cutting) {
        cutting = false;
        node->dying = true;
        return;
    }
    fake_written(node, link, header, body);
}

Test(write, a_lost_link_repeats_the_same_bytes_elsewhere)
{
    struct bed bed;
    struct got got = {0};
    bed_open(&bed, 3, cut_in_mid_write);
    start_put(&bed, "warm/up", "x", 0, &got);
    bed_run(&bed, &got.done, 2000);
    seen.writes = 0;
    cutting = true;
    start_put(&bed, "farm/cow", "moo", 0, &got);
    bed_run(&bed, &got.done, 3000);
    cr_assert_eq(got.status, SLUICE_OK, "%s", got.detail);
    cr_assert_eq(seen.writes, 2);
    cr_assert_neq(seen.node[0], seen.node[1]);
    cr_assert_eq(seen.size[0], seen.size[1]);
    cr_assert_eq(memcmp(seen.body[0], seen.body[1], seen.size[0]), 0, "client, sequence and all");
    bed_close(&bed);
    got_free(&got);
}

static void silent(struct fake *node, struct fabric_link *link, const struct wire_header *header, const uint8_t *body)
{
    (void)link;
    if (header->type == WIRE_WRITE)
        note(node, header, body);
}

Test(write, no_answer_to_what_was_sent_is_an_unknown_outcome)
{
    struct bed bed;
    struct got got = {0};
    bed_open(&bed, 3, silent);
    start_put(&bed, "farm/cow", "moo", 300, &got);
    bed_run(&bed, &got.done, 2000);
    cr_assert_eq(got.status, SLUICE_OUTCOME_UNKNOWN);
    cr_assert_eq(seen.writes, 1);
    bed_close(&bed);
    got_free(&got);
}

static void refuses(struct fake *node, struct fabric_link *link, const struct wire_header *header, const uint8_t *body)
{
    (void)body;
    fake_not_leader(node, link, header, 0);
}

Test(write, what_everybody_refused_is_certainly_not_applied)
{
    struct bed bed;
    struct got got = {0};
    bed_open(&bed, 3, refuses);
    start_put(&bed, "farm/cow", "moo", 300, &got);
    bed_run(&bed, &got.done, 2000);
    cr_assert_eq(got.status, SLUICE_UNAVAILABLE);
    cr_assert_gt(got.retry_after_ms, 0);
    bed_close(&bed);
    got_free(&got);
}

Test(write, what_never_left_is_certainly_not_applied)
{
    struct bed bed;
    struct got got = {0};
    bed_open(&bed, 1, applies);
    fake_down(&bed.nodes[0]);
    start_put(&bed, "farm/cow", "moo", 200, &got);
    bed_run(&bed, &got.done, 2000);
    cr_assert_eq(got.status, SLUICE_UNAVAILABLE);
    cr_assert_eq(seen.writes, 0);
    bed_close(&bed);
    got_free(&got);
}

static void cut_then_refuses(struct fake *node, struct fabric_link *link, const struct wire_header *header,
                             const uint8_t *body)
{
    note(node, header, body);
    if (cutting) {
        cutting = false;
        node->dying = true;
        return;
    }
    fake_not_leader(node, link, header, 0);
}

Test(write, a_refusal_says_nothing_about_an_attempt_that_was_lost_before)
{
    struct bed bed;
    struct got got = {0};
    bed_open(&bed, 3, cut_then_refuses);
    cutting = true;
    start_put(&bed, "farm/cow", "moo", 500, &got);
    bed_run(&bed, &got.done, 2000);
    cr_assert_gt(seen.writes, 1);
    cr_assert_eq(got.status, SLUICE_OUTCOME_UNKNOWN, "the first attempt may have been applied");
    bed_close(&bed);
    got_free(&got);
}

Test(write, a_client_that_is_there_first_waits_for_the_nodes)
{
    struct bed bed;
    struct got got = {0};
    bed_open(&bed, 3, applies);
    for (int i = 0; i < 3; i++)
        fake_down(&bed.nodes[i]);
    start_put(&bed, "farm/cow", "moo", 4000, &got);
    bed_idle(&bed, 300);
    cr_assert_not(got.done);
    for (int i = 0; i < 3; i++)
        fake_up(&bed.nodes[i]);
    bed_run(&bed, &got.done, 3000);
    cr_assert_eq(got.status, SLUICE_OK, "%s", got.detail);
    bed_close(&bed);
    got_free(&got);
}

static void no_quorum(struct fake *node, struct fabric_link *link, const struct wire_header *header,
                      const uint8_t *body)
{
    (void)body;
    fake_refuse(node, link, header, SLUICE_UNAVAILABLE, "no quorum");
}

Test(write, a_lost_quorum_is_told_long_before_the_deadline)
{
    struct bed bed;
    struct got got = {0};
    bed_open(&bed, 3, no_quorum);
    uint64_t start = clock_monotonic_ns();
    start_put(&bed, "farm/cow", "moo", 10000, &got);
    bed_run(&bed, &got.done, 5000);
    cr_assert_eq(got.status, SLUICE_UNAVAILABLE);
    cr_assert_gt(clock_monotonic_ns() - start, 500 * NS_PER_MS, "an election may be all that it is");
    cr_assert_lt(clock_monotonic_ns() - start, 3 * NS_PER_S);
    /* By now it is known. */
    start = clock_monotonic_ns();
    start_put(&bed, "farm/cow", "moo", 10000, &got);
    bed_run(&bed, &got.done, 5000);
    cr_assert_eq(got.status, SLUICE_UNAVAILABLE);
    cr_assert_lt(clock_monotonic_ns() - start, 500 * NS_PER_MS);
    bed_close(&bed);
    got_free(&got);
}

/* The first node has lost its quorum; the others stand still, their links up. */
static void no_quorum_at_one(struct fake *node, struct fabric_link *link, const struct wire_header *header,
                             const uint8_t *body)
{
    (void)body;
    if (node->id == 1)
        fake_refuse(node, link, header, SLUICE_UNAVAILABLE, "no quorum");
}

Test(write, a_quorum_that_stands_still_is_told_long_before_the_deadline)
{
    struct bed bed;
    struct got got = {0};
    bed_open(&bed, 3, no_quorum_at_one);
    /* What may have reached one that stands still is in doubt until its deadline; what comes later is told at once. */
    start_put(&bed, "farm/cow", "moo", 3000, &got);
    bed_run(&bed, &got.done, 5000);
    cr_assert_neq(got.status, SLUICE_OK);
    got_free(&got);
    got = (struct got){0};
    uint64_t start = clock_monotonic_ns();
    start_put(&bed, "farm/cow", "moo", 10000, &got);
    bed_run(&bed, &got.done, 12000);
    cr_assert_eq(got.status, SLUICE_UNAVAILABLE);
    cr_assert_lt(clock_monotonic_ns() - start, 2 * NS_PER_S);
    bed_close(&bed);
    got_free(&got);
}

static unsigned busy_answers;

static void busy(struct fake *node, struct fabric_link *link, const struct wire_header *header, const uint8_t *body)
{
    if (busy_answers > 0) {
        busy_answers--;
        fake_refuse(node, link, header, SLUICE_BUSY, "too much");
        return;
    }
    applies(node, link, header, body);
}

Test(write, a_busy_shard_is_asked_again_for_a_while_then_the_caller_is_told)
{
    struct bed bed;
    struct got got = {0};
    bed_open(&bed, 3, busy);
    busy_answers = 4;
    start_put(&bed, "farm/cow", "moo", 5000, &got);
    bed_run(&bed, &got.done, 2000);
    cr_assert_eq(got.status, SLUICE_OK);
    busy_answers = UINT32_MAX;
    start_put(&bed, "farm/cow", "moo", 5000, &got);
    bed_run(&bed, &got.done, 3000);
    cr_assert_eq(got.status, SLUICE_BUSY);
    cr_assert_gt(got.retry_after_ms, 0);
    bed_close(&bed);
    got_free(&got);
}

static uint32_t new_shard;

static void stale(struct fake *node, struct fabric_link *link, const struct wire_header *header, const uint8_t *body)
{
    if (header->shard != new_shard) {
        fake_refuse(node, link, header, SLUICE_STALE_MAP, "another pool's");
        return;
    }
    applies(node, link, header, body);
}

Test(write, a_stale_map_is_replaced_and_the_key_routed_anew)
{
    struct bed bed;
    struct got got = {0};
    new_shard = 9;
    bed_open(&bed, 3, stale);
    start_put(&bed, "farm/cow", "moo", 5000, &got);
    bed_idle(&bed, 200);
    cr_assert_not(got.done);
    bed_map(&bed,
            ",{\"prefix\":\"farm\",\"kind\":\"persistent\",\"state\":\"live\",\"replicas\":3,\"affinity\":null,"
            "\"shards\":[9],\"retention\":{},\"lateness\":\"0\"}",
            ",{\"id\":9,\"epoch\":1,\"replicas\":[{\"node\":2,\"incarnation\":\"0\"}]}", 10);
    bed_run(&bed, &got.done, 2000);
    cr_assert_eq(got.status, SLUICE_OK, "%s", got.detail);
    cr_assert_eq(seen.writes, 1);
    cr_assert_eq(seen.shard[0], 9);
    bed_close(&bed);
    got_free(&got);
}

/* Node 1 has stopped without its links telling; node 2 leads by now. */
static void stopped(struct fake *node, struct fabric_link *link, const struct wire_header *header, const uint8_t *body)
{
    if (node->id == 1)
        return;
    if (node->id == 3)
        fake_not_leader(node, link, header, 2);
    else if (header->type == WIRE_TIME)
        fake_reply(node, link, header, SLUICE_OK, 0, NULL, 0);
    else
        applies(node, link, header, body);
}

Test(write, a_leader_that_stopped_is_found_out_and_its_writes_go_to_the_new_one)
{
    struct bed bed;
    struct got got[8] = {0};
    bed_open(&bed, 3, stopped);
    bed_idle(&bed, 100);
    for (int i = 0; i < 8; i++) {
        char key[32];
        snprintf(key, sizeof(key), "farm/cow%d", i);
        start_put(&bed, key, "moo", 5000, &got[i]);
    }
    for (int i = 0; i < 8; i++) {
        bed_run(&bed, &got[i].done, 4000);
        cr_assert_eq(got[i].status, SLUICE_OK, "%s", got[i].detail);
    }
    cr_assert_gt(bed.nodes[0].asked[WIRE_WRITE], 0, "some were sent to the one that stopped");
    bed_close(&bed);
    for (int i = 0; i < 8; i++)
        got_free(&got[i]);
}

Test(write, the_watermark_rises_with_the_answers)
{
    struct bed bed;
    struct got got = {0}, held = {0};
    bed_open(&bed, 3, applies);
    start_put(&bed, "a", "1", 0, &got);
    bed_run(&bed, &got.done, 2000);
    start_put(&bed, "b", "2", 0, &got);
    bed_run(&bed, &got.done, 2000);
    cr_assert_eq(seen.command[1].sequence, 2);
    cr_assert_eq(seen.command[1].watermark, 2, "the first was answered");
    bed.script = silent;
    start_put(&bed, "c", "3", 5000, &held);
    bed_idle(&bed, 50);
    bed.script = applies;
    start_put(&bed, "d", "4", 0, &got);
    bed_run(&bed, &got.done, 2000);
    cr_assert_eq(seen.command[3].sequence, 4);
    cr_assert_eq(seen.command[3].watermark, 3, "the third was not");
    bed_close(&bed);
    cr_assert_eq(held.status, SLUICE_OUTCOME_UNKNOWN, "closing answers it");
    got_free(&got);
    got_free(&held);
}

static struct wire_command digest_of(struct bed *bed, const char *subject, const char *idempotency_key,
                                     const char *value, uint64_t if_version)
{
    struct got got = {0};
    const struct sluice_operation operation = {.kind = SLUICE_PUT,
                                               .key = "farm/cow",
                                               .key_size = 8,
                                               .data = value,
                                               .data_size = strlen(value),
                                               .if_match = if_version != 0,
                                               .if_version = if_version};
    const struct sluice_write request = {.operations = &operation,
                                         .operation_count = 1,
                                         .idempotency_key = idempotency_key,
                                         .idempotency_key_size = strlen(idempotency_key),
                                         .subject = subject};
    seen.writes = 0;
    sluice_write(bed->client, &request, got_answer, &got);
    bed_run(bed, &got.done, 2000);
    got_free(&got);
    return seen.command[0];
}

Test(write, an_idempotency_key_names_the_request_and_a_digest_its_content)
{
    struct bed bed;
    bed_open(&bed, 3, applies);
    struct wire_command first = digest_of(&bed, "ann", "k1", "moo", 0);
    struct wire_command again = digest_of(&bed, "ann", "k1", "moo", 0);
    struct wire_command other = digest_of(&bed, "ann", "k1", "mee", 0);
    struct wire_command condition = digest_of(&bed, "ann", "k1", "moo", 3);
    struct wire_command subject = digest_of(&bed, "bob", "k1", "moo", 0);
    struct wire_command key = digest_of(&bed, "ann", "k2", "moo", 0);
    cr_assert_eq(memcmp(first.idempotency, again.idempotency, 16), 0);
    cr_assert_eq(first.request_digest, again.request_digest);
    cr_assert_eq(memcmp(first.idempotency, other.idempotency, 16), 0);
    cr_assert_neq(first.request_digest, other.request_digest);
    cr_assert_neq(first.request_digest, condition.request_digest);
    cr_assert_neq(memcmp(first.idempotency, subject.idempotency, 16), 0);
    cr_assert_neq(memcmp(first.idempotency, key.idempotency, 16), 0);
    bed_close(&bed);
}

static void large(struct fake *node, struct fabric_link *link, const struct wire_header *header, const uint8_t *body)
{
    const struct wire_command *command = NULL;
    const char *why = NULL;
    struct wire_operation_view view;
    size_t offset = 0;
    cr_assert_eq(wire_command_read(body, header->body_size, &command, &why), SLUICE_OK, "%s", why);
    cr_assert_eq(crc32c(body, header->body_size), header->body_crc);
    cr_assert(wire_operation_next(command, &offset, &view));
    for (uint32_t i = 0; i < view.operation->value_size; i++)
        cr_assert_eq(((const uint8_t *)view.value)[i], (uint8_t)(i * 31), "at %u", i);
    for (size_t i = view.operation->value_size; i < wire_pad(view.operation->value_size); i++)
        cr_assert_eq(((const uint8_t *)view.value)[i], 0, "no stray bytes behind the value");
    fake_written(node, link, header, body);
}

Test(write, a_value_of_any_size_arrives_whole_out_of_its_own_buffer)
{
    struct bed bed;
    bed_open(&bed, 3, large);
    static const uint32_t sizes[] = {0, 1, 7, 8, 9, 4095, 4096, 300001, 5000003};
    for (size_t i = 0; i < sizeof(sizes) / sizeof(sizes[0]); i++) {
        struct got got = {0};
        /* Room for more than what counts. */
        struct sluice_value *value = sluice_value_create(sizes[i] + 5);
        memset(sluice_value_data(value), 0xee, sizes[i] + 5);
        for (uint32_t k = 0; k < sizes[i]; k++)
            sluice_value_data(value)[k] = (uint8_t)(k * 31);
        const struct sluice_operation operation = {
            .kind = SLUICE_PUT, .key = "farm/cow", .key_size = 8, .value = value, .data_size = sizes[i]};
        const struct sluice_write request = {.operations = &operation, .operation_count = 1};
        sluice_write(bed.client, &request, got_answer, &got);
        sluice_value_unref(value);
        bed_run(&bed, &got.done, 5000);
        cr_assert_eq(got.status, SLUICE_OK, "%s", got.detail);
        got_free(&got);
    }
    bed_close(&bed);
}

static void condition_failed(struct fake *node, struct fabric_link *link, const struct wire_header *header,
                             const uint8_t *body)
{
    struct bytes out = {0};
    (void)body;
    fake_add(&out, &(struct fake_record){.key = "", .version = 7, .revision = 3});
    fake_reply(node, link, header, SLUICE_CONDITION_FAILED, WIRE_FLAG_RECORD, out.data, out.size);
    bytes_free(&out);
}

Test(write, a_failed_condition_names_the_version_that_is_there)
{
    struct bed bed;
    struct got got = {0};
    bed_open(&bed, 3, condition_failed);
    start_put(&bed, "farm/cow", "moo", 0, &got);
    bed_run(&bed, &got.done, 2000);
    cr_assert_eq(got.status, SLUICE_CONDITION_FAILED);
    cr_assert_eq(got.count, 1);
    cr_assert_str_eq(got.keys[0], "farm/cow");
    cr_assert_eq(got.versions[0], 7);
    bed_close(&bed);
    got_free(&got);
}

static void start_batch(struct bed *bed, const char *const *keys, size_t count, struct got *got)
{
    struct sluice_operation operations[8] = {0};
    for (size_t i = 0; i < count; i++)
        operations[i] = (struct sluice_operation){
            .kind = SLUICE_PUT, .key = keys[i], .key_size = strlen(keys[i]), .data = "x", .data_size = 1};
    const struct sluice_write request = {.operations = operations, .operation_count = count};
    got->done = false;
    sluice_write(bed->client, &request, got_answer, got);
}

Test(write, a_batch_over_shards_is_told_which_and_how_to_join_them)
{
    static const char *const apart[] = {"a/b/1", "a/b/2", "a/b/3", "a/b/4", "a/b/5", "a/b/6"};
    struct bed bed;
    struct got got = {0};
    bed_open(&bed, 3, applies);
    start_batch(&bed, apart, 6, &got);
    bed_run(&bed, &got.done, 2000);
    cr_assert_eq(got.status, SLUICE_CONFLICT);
    cr_assert_not_null(strstr(got.json, "{\"key\":\"a/b/1\",\"shard\":"));
    cr_assert_not_null(strstr(got.json, "\"affinity\":\"((?:[^/]+/){2}).*\""), "%s", got.json);
    cr_assert_eq(seen.writes, 0);
    /* The very setting joins them. */
    bed_map(&bed,
            ",{\"prefix\":\"a\",\"kind\":\"persistent\",\"state\":\"live\",\"replicas\":3,"
            "\"affinity\":\"((?:[^/]+/){2}).*\",\"shards\":[9,10,11],\"retention\":{},\"lateness\":\"0\"}",
            ",{\"id\":9,\"epoch\":1,\"replicas\":[{\"node\":1,\"incarnation\":\"0\"}]},"
            "{\"id\":10,\"epoch\":1,\"replicas\":[{\"node\":2,\"incarnation\":\"0\"}]},"
            "{\"id\":11,\"epoch\":1,\"replicas\":[{\"node\":3,\"incarnation\":\"0\"}]}",
            12);
    bed_idle(&bed, 50);
    start_batch(&bed, apart, 6, &got);
    bed_run(&bed, &got.done, 2000);
    cr_assert_eq(got.status, SLUICE_OK, "%s", got.detail);
    cr_assert_eq(got.count, 6);
    cr_assert_str_eq(got.keys[5], "a/b/6");
    bed_close(&bed);
    got_free(&got);
}

Test(write, a_condition_on_a_version_of_a_lost_epoch_fails)
{
    struct bed bed;
    struct got got = {0};
    bed_open(&bed, 3, applies);
    const struct sluice_operation operation = {
        .kind = SLUICE_PUT, .key = "farm/cow", .key_size = 8, .if_match = true, .if_version = 3, .if_epoch = 2};
    const struct sluice_write request = {.operations = &operation, .operation_count = 1};
    sluice_write(bed.client, &request, got_answer, &got);
    bed_run(&bed, &got.done, 2000);
    cr_assert_eq(got.status, SLUICE_CONDITION_FAILED);
    cr_assert_eq(seen.writes, 0);
    bed_close(&bed);
    got_free(&got);
}

Test(write, bad_input_is_refused_before_anything_is_sent)
{
    struct bed bed;
    bed_open(&bed, 3, applies);
    static const struct {
        struct sluice_operation operation;
        enum sluice_status status;
    } cases[] = {
        {{.kind = SLUICE_PUT, .key = "", .key_size = 0}, SLUICE_INVALID},
        {{.kind = SLUICE_PUT, .key = "a//b", .key_size = 4}, SLUICE_INVALID},
        {{.kind = SLUICE_PUT, .key = "a\xff", .key_size = 2}, SLUICE_INVALID},
        {{.kind = SLUICE_PUT, .key = "_sluice/x", .key_size = 9}, SLUICE_FORBIDDEN},
        {{.kind = SLUICE_DELETE, .key = "a", .key_size = 1, .data = "x", .data_size = 1}, SLUICE_INVALID},
        {{.kind = 7, .key = "a", .key_size = 1}, SLUICE_INVALID},
        {{.kind = SLUICE_PUT, .key = "a", .key_size = 1, .content_type_size = 256}, SLUICE_INVALID},
        {{.kind = SLUICE_PUT, .key = "a", .key_size = 1, .data_size = (64u << 20) + 1}, SLUICE_TOO_LARGE},
        {{.kind = SLUICE_PUT, .key = "a", .key_size = 1, .has_object_time = true}, SLUICE_INVALID},
    };
    for (size_t i = 0; i < sizeof(cases) / sizeof(cases[0]); i++) {
        struct got got = {0};
        const struct sluice_write request = {.operations = &cases[i].operation, .operation_count = 1};
        sluice_write(bed.client, &request, got_answer, &got);
        cr_assert_not(got.done);
        bed_run(&bed, &got.done, 1000);
        cr_assert_eq(got.status, cases[i].status, "case %zu: %s", i, got.detail);
        got_free(&got);
    }
    cr_assert_eq(seen.writes, 0);
    bed_close(&bed);
}

Test(write, more_than_may_be_in_flight_is_busy_and_closing_answers_all)
{
    struct bed bed;
    struct got got[70] = {0};
    bed_open(&bed, 3, silent);
    sluice_close(bed.client);
    const char *addresses[] = {bed.nodes[0].address};
    const struct sluice_options options = {
        .size = sizeof(options), .nodes = addresses, .node_count = 1, .in_flight_max = 64};
    cr_assert_eq(sluice_open(&options, &bed.client), SLUICE_OK);
    for (int i = 0; i < 70; i++)
        start_put(&bed, "farm/cow", "moo", 5000, &got[i]);
    bed_idle(&bed, 100);
    for (int i = 0; i < 70; i++) {
        cr_assert_eq(got[i].done, i >= 64);
        if (i >= 64)
            cr_assert_eq(got[i].status, SLUICE_BUSY);
    }
    struct sluice_figures figures;
    sluice_figures(bed.client, &figures);
    cr_assert_eq(figures.in_flight, 64);
    bed_close(&bed);
    for (int i = 0; i < 70; i++) {
        cr_assert_eq(got[i].calls, 1, "exactly once");
        if (i < 64)
            cr_assert_eq(got[i].status, SLUICE_OUTCOME_UNKNOWN);
        got_free(&got[i]);
    }
}

#include "client/client.h"

Test(write, effects_and_cursors_carry_the_identity_that_they_are_given)
{
    struct bed bed;
    struct got got = {0};
    bed_open(&bed, 3, applies);
    const struct sluice_operation operation = {
        .kind = SLUICE_PUT, .key = "a", .key_size = 1, .data = "x", .data_size = 1};
    const struct sluice_write request = {.operations = &operation, .operation_count = 1};
    sluice__write_as(bed.client, &request, 77, 12, 10, got_answer, &got);
    bed_run(&bed, &got.done, 2000);
    cr_assert_eq(got.status, SLUICE_OK);
    cr_assert_eq(seen.command[0].client, 77);
    cr_assert_eq(seen.command[0].sequence, 12);
    cr_assert_eq(seen.command[0].watermark, 10);
    got.done = false;
    sluice__cursor(bed.client, "thumb", 3, 41, got_answer, &got);
    bed_run(&bed, &got.done, 2000);
    cr_assert_eq(got.status, SLUICE_OK);
    cr_assert_eq(seen.command[1].kind, WIRE_COMMAND_CURSOR);
    cr_assert_eq(seen.shard[1], 3);
    cr_assert(seen.header[1].flags & WIRE_FLAG_ADMIN);
    bed_close(&bed);
    got_free(&got);
}

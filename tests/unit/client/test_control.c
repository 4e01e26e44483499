/* Pools, lambdas, the cluster's status: the steps in their order, what is undone when one fails, and what people read.
 */
#include "tests/unit/client/fake.h"

/* What was asked, one line each: "change …", "close 3 farm", "open 3 farm", "put …". */
static char steps[64][200];
static unsigned step_count;
static uint64_t held[16]; /* versions that a shard holds under a prefix that is to be closed */
static bool pool_exists, pool_live, lose_change;

static void step(const char *format, ...) __attribute__((format(printf, 1, 2)));
static void step(const char *format, ...)
{
    va_list arguments;
    va_start(arguments, format);
    cr_assert_lt(step_count, 64);
    vsnprintf(steps[step_count++], sizeof(steps[0]), format, arguments);
    va_end(arguments);
}

static unsigned count_steps(const char *prefix)
{
    unsigned count = 0;
    for (unsigned i = 0; i < step_count; i++)
        count += strncmp(steps[i], prefix, strlen(prefix)) == 0;
    return count;
}

static unsigned step_at(const char *prefix)
{
    for (unsigned i = 0; i < step_count; i++)
        if (strncmp(steps[i], prefix, strlen(prefix)) == 0)
            return i;
    cr_assert_fail("no step %s", prefix);
    return UINT32_MAX;
}

static void publish(struct bed *bed)
{
    char pool[300];
    snprintf(pool, sizeof(pool),
             ",{\"prefix\":\"farm\",\"kind\":\"volatile\",\"state\":\"%s\",\"replicas\":2,\"affinity\":null,"
             "\"shards\":[5,6],\"retention\":{},\"lateness\":\"7\"}",
             pool_live ? "live" : "creating");
    bed_map(bed, pool_exists ? pool : "",
            pool_exists ? ",{\"id\":5,\"epoch\":1,\"replicas\":[{\"node\":1,\"incarnation\":\"1\"}]},"
                          "{\"id\":6,\"epoch\":1,\"replicas\":[{\"node\":1,\"incarnation\":\"1\"}]}"
                        : "",
            7);
}

static void map_change(struct fake *node, struct fabric_link *link, const struct wire_header *header,
                       const uint8_t *body)
{
    char text[200], reply[100];
    snprintf(text, sizeof(text), "%.*s", (int)header->body_size, (const char *)body);
    step("change %s", text);
    bool found = pool_exists;
    if (strstr(text, "pool_begin")) {
        pool_exists = found = true;
    } else if (strstr(text, "pool_live")) {
        pool_live = true;
    } else {
        pool_exists = pool_live = false;
    }
    if (lose_change) {
        lose_change = false;
        publish(node->bed);
        node->dying = true;
        return;
    }
    snprintf(reply, sizeof(reply), "{\"state\":\"%s\"}", pool_live ? "live" : "creating");
    if (found)
        fake_changed(node, link, header, reply);
    else
        fake_refuse(node, link, header, SLUICE_NOT_FOUND, "there is no such pool");
    publish(node->bed);
}

static void order(struct fake *node, struct fabric_link *link, const struct wire_header *header, const uint8_t *body)
{
    const struct wire_command *command = NULL;
    const char *why = NULL;
    struct wire_operation_view view;
    size_t offset = 0;
    struct bytes out = {0};
    cr_assert_eq(wire_command_read(body, header->body_size, &command, &why), SLUICE_OK, "%s", why);
    cr_assert(wire_operation_next(command, &offset, &view));
    cr_assert(header->flags & WIRE_FLAG_ADMIN);
    bool close = command->kind == WIRE_COMMAND_CLOSE_PREFIX;
    cr_assert(close || command->kind == WIRE_COMMAND_OPEN_PREFIX);
    step("%s %u %.*s", close ? "close" : "open", header->shard, (int)view.operation->key_size, view.key);
    if (close && held[header->shard] > 0) {
        fake_add(&out, &(struct fake_record){.key = "", .version = held[header->shard]});
        fake_reply(node, link, header, SLUICE_CONFLICT, WIRE_FLAG_RECORD, out.data, out.size);
        bytes_free(&out);
        return;
    }
    fake_reply(node, link, header, SLUICE_OK, 0, NULL, 0);
}

static void pools(struct fake *node, struct fabric_link *link, const struct wire_header *header, const uint8_t *body)
{
    if (header->type == WIRE_MAP_CHANGE)
        map_change(node, link, header, body);
    else
        order(node, link, header, body);
}

static void put_pool(struct bed *bed, struct got *got)
{
    const struct sluice_call call = {0};
    got->done = false;
    sluice_pool_put(bed->client, &call, "/farm/", "{\"kind\":\"volatile\",\"shards\":2}", got_answer, got);
    cr_assert_not(got->done);
    bed_run(bed, &got->done, 3000);
}

Test(pool, a_new_one_goes_live_once_every_shard_around_it_is_closed)
{
    struct bed bed;
    struct got got = {0};
    bed_open(&bed, 1, pools);
    put_pool(&bed, &got);
    cr_assert_eq(got.status, SLUICE_OK, "%s", got.detail);
    cr_assert_str_eq(got.json,
                     "{\"prefix\":\"farm\",\"kind\":\"volatile\",\"state\":\"live\",\"shards\":2,\"replicas\":"
                     "2,\"affinity\":null,\"retention\":{},\"lateness\":\"7\"}");
    cr_assert_str_eq(steps[0],
                     "change {\"change\":\"pool_begin\",\"prefix\":\"farm\",\"policy\":{\"kind\":\"volatile\","
                     "\"shards\":2}}");
    cr_assert_eq(count_steps("close"), 4, "each shard of the root");
    cr_assert_eq(step_at("change {\"change\":\"pool_live\""), 5);
    cr_assert_eq(step_count, 6);
    /* Put again, it is there already. */
    put_pool(&bed, &got);
    cr_assert_eq(got.status, SLUICE_OK);
    cr_assert_eq(step_count, 7);
    bed_close(&bed);
    got_free(&got);
}

Test(pool, where_keys_are_already_it_is_undone_and_they_are_counted)
{
    struct bed bed;
    struct got got = {0};
    bed_open(&bed, 1, pools);
    held[2] = 30;
    held[4] = 12;
    put_pool(&bed, &got);
    cr_assert_eq(got.status, SLUICE_CONFLICT);
    cr_assert_not_null(strstr(got.detail, "42 versions"), "%s", got.detail);
    cr_assert_eq(count_steps("open"), 4, "all of them, whoever was closed before");
    cr_assert_str_eq(steps[step_count - 1], "change {\"change\":\"pool_abort\",\"prefix\":\"farm\"}");
    cr_assert_eq(count_steps("change {\"change\":\"pool_live\""), 0);
    bed_close(&bed);
    got_free(&got);
}

Test(pool, what_a_dead_client_began_is_finished_by_the_next)
{
    struct bed bed;
    struct got got = {0};
    pool_exists = true; /* "creating": somebody got so far */
    bed_open(&bed, 1, pools);
    publish(&bed);
    put_pool(&bed, &got);
    cr_assert_eq(got.status, SLUICE_OK, "%s", got.detail);
    cr_assert_eq(count_steps("close"), 4);
    cr_assert(pool_live);
    bed_close(&bed);
    got_free(&got);
}

static void delete_pool(struct bed *bed, bool force, struct got *got)
{
    const struct sluice_call call = {0};
    got->done = false;
    sluice_pool_delete(bed->client, &call, "farm", force, got_answer, got);
    bed_run(bed, &got->done, 5000);
}

Test(pool, an_empty_one_is_closed_deleted_and_its_keys_given_back)
{
    struct bed bed;
    struct got got = {0};
    pool_exists = pool_live = true;
    bed_open(&bed, 1, pools);
    publish(&bed);
    bed_idle(&bed, 50);
    delete_pool(&bed, false, &got);
    cr_assert_eq(got.status, SLUICE_OK, "%s", got.detail);
    cr_assert_eq(count_steps("close 5 farm") + count_steps("close 6 farm"), 2);
    cr_assert_eq(step_at("change {\"change\":\"pool_delete\""), 2);
    cr_assert_eq(count_steps("open"), 4, "the root's");
    bed_close(&bed);
    got_free(&got);
}

Test(pool, one_that_holds_versions_is_deleted_by_force_alone)
{
    struct bed bed;
    struct got got = {0};
    pool_exists = pool_live = true;
    held[6] = 9;
    bed_open(&bed, 1, pools);
    publish(&bed);
    bed_idle(&bed, 50);
    delete_pool(&bed, false, &got);
    cr_assert_eq(got.status, SLUICE_CONFLICT);
    cr_assert_not_null(strstr(got.detail, "9 versions"));
    cr_assert_eq(count_steps("open 5 farm") + count_steps("open 6 farm"), 2, "it goes on as before");
    cr_assert_eq(count_steps("change"), 0);
    delete_pool(&bed, true, &got);
    cr_assert_eq(got.status, SLUICE_OK);
    delete_pool(&bed, false, &got);
    cr_assert_eq(got.status, SLUICE_NOT_FOUND);
    bed_close(&bed);
    got_free(&got);
}

Test(pool, a_delete_whose_answer_was_lost_is_no_missing_pool)
{
    struct bed bed;
    struct got got = {0};
    pool_exists = pool_live = true;
    bed_open(&bed, 2, pools);
    publish(&bed);
    bed_idle(&bed, 50);
    lose_change = true;
    delete_pool(&bed, true, &got);
    cr_assert_eq(got.status, SLUICE_OK, "%s", got.detail);
    cr_assert_eq(count_steps("change"), 2);
    bed_close(&bed);
    got_free(&got);
}

Test(pool, the_root_stays_and_bad_prefixes_and_policies_are_refused)
{
    struct bed bed;
    struct got got = {0};
    const struct sluice_call call = {0};
    bed_open(&bed, 1, pools);
    sluice_pool_delete(bed.client, &call, "/", false, got_answer, &got);
    bed_run(&bed, &got.done, 2000);
    cr_assert_eq(got.status, SLUICE_CONFLICT);
    got.done = false;
    sluice_pool_put(bed.client, &call, "a//b", "{}", got_answer, &got);
    bed_run(&bed, &got.done, 2000);
    cr_assert_eq(got.status, SLUICE_INVALID);
    got.done = false;
    sluice_pool_put(bed.client, &call, "a", "[]", got_answer, &got);
    bed_run(&bed, &got.done, 2000);
    cr_assert_eq(got.status, SLUICE_INVALID);
    got.done = false;
    sluice_pool_get(bed.client, &call, "none", got_answer, &got);
    bed_run(&bed, &got.done, 2000);
    cr_assert_eq(got.status, SLUICE_NOT_FOUND);
    got.done = false;
    sluice_pool_get(bed.client, &call, NULL, got_answer, &got);
    bed_run(&bed, &got.done, 2000);
    cr_assert_eq(got.status, SLUICE_OK);
    cr_assert_eq(strncmp(got.json, "{\"pools\":[{\"prefix\":\"\"", 22), 0, "%s", got.json);
    cr_assert_eq(step_count, 0);
    bed_close(&bed);
    got_free(&got);
}

/* --- Lambdas --- */

static const char sha256_of_abc[] = "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad";
static bool refuse_check, conflict;

static void publish_lambda(struct bed *bed)
{
    char lambdas[400], *text = NULL;
    snprintf(
        lambdas, sizeof(lambdas),
        "\"lambdas\":[{\"name\":\"thumb\",\"version\":1,\"sha256\":\"%s\",\"config\":\"{\\\"a\\\":1}\",\"placement\":"
        "\"leader\",\"isolation\":\"inprocess\",\"enabled\":true,\"registered_ns\":\"1\",\"size\":3,"
        "\"watches\":[{\"kind\":2,\"pattern\":\"farm/\"}]}]}",
        sha256_of_abc);
    bed->epoch++;
    char *at = strstr(bed->map, "\"lambdas\"");
    char *epoch = strstr(bed->map, "\"epoch\":");
    cr_assert_gt(asprintf(&text, "%.*s\"epoch\":%llu%.*s%s", (int)(epoch - bed->map), bed->map,
                          (unsigned long long)bed->epoch, (int)(at - strchr(epoch, ',')), strchr(epoch, ','), lambdas),
                 0);
    free(bed->map);
    bed->map = text;
    for (unsigned i = 0; i < bed->count; i++)
        for (unsigned k = 0; k < bed->nodes[i].link_count; k++) {
            const struct wire_header nobody = {0};
            fake_reply(&bed->nodes[i], bed->nodes[i].links[k], &nobody, SLUICE_OK, WIRE_FLAG_MORE, bed->map,
                       strlen(bed->map));
        }
}

static void statuses(struct fake *node, struct fabric_link *link, const struct wire_header *header)
{
    char text[400];
    snprintf(
        text, sizeof(text),
        "[{\"name\":\"thumb\",\"version\":1,\"state\":\"%s\",\"error\":%s,\"events\":%u,\"runs\":1,\"failures\":0,"
        "\"parked\":0,\"effects\":2,\"counters\":{\"made\":%u},\"parked_events\":[],\"cursors\":[{\"shard\":%u}]}]",
        node->id == 2 ? "failed" : "active", node->id == 2 ? "\"no such symbol\"" : "null", node->id * 10u, node->id,
        node->id);
    fake_reply(node, link, header, SLUICE_OK, 0, text, strlen(text));
}

static void lambdas(struct fake *node, struct fabric_link *link, const struct wire_header *header, const uint8_t *body)
{
    static const char watches[] = "{\"watches\":[{\"kind\":2,\"pattern\":\"farm/\"}]}";
    const struct wire_command *command = NULL;
    const char *why = NULL;
    switch (header->type) {
    case WIRE_LAMBDA_CHECK:
        step("check %u %.*s", *(const uint32_t *)(const void *)body, (int)header->body_size - 4, body + 4);
        if (refuse_check)
            fake_refuse(node, link, header, SLUICE_UNPROCESSABLE, "undefined symbol: frobnicate");
        else
            fake_reply(node, link, header, SLUICE_OK, 0, watches, sizeof(watches) - 1);
        break;
    case WIRE_WRITE:
        cr_assert_eq(wire_command_read(body, header->body_size, &command, &why), SLUICE_OK);
        cr_assert(header->flags & WIRE_FLAG_ADMIN);
        step("put");
        fake_written(node, link, header, body);
        break;
    case WIRE_MAP_CHANGE:
        step("change %.*s", (int)header->body_size, (const char *)body);
        if (conflict)
            fake_refuse(node, link, header, SLUICE_CONFLICT, "version 1 was uploaded meanwhile");
        else
            fake_changed(node, link, header, "{}");
        publish_lambda(node->bed);
        break;
    case WIRE_LAMBDA_STATUS:
        statuses(node, link, header);
        break;
    default:
        break;
    }
}

static void upload(struct bed *bed, const char *manifest, struct got *got)
{
    struct sluice_value *file = sluice_value_create(3);
    memcpy(sluice_value_data(file), "abc", 3);
    const struct sluice_lambda_upload request = {
        .name = "thumb", .manifest_json = manifest, .file = file, .file_size = 3};
    got->done = false;
    sluice_lambda_upload(bed->client, &request, got_answer, got);
    sluice_value_unref(file);
    bed_run(bed, &got->done, 5000);
}

Test(lambda, an_upload_is_tried_kept_and_then_named)
{
    struct bed bed;
    struct got got = {0};
    bed_open(&bed, 1, lambdas);
    upload(&bed, "{\"config\":{\"a\":1}}", &got);
    cr_assert_eq(got.status, SLUICE_OK, "%s", got.detail);
    char expected[200];
    snprintf(expected, sizeof(expected), "{\"name\":\"thumb\",\"version\":1,\"sha256\":\"%s\",\"state\":\"active\"}",
             sha256_of_abc);
    cr_assert_str_eq(got.json, expected);
    cr_assert_str_eq(steps[0], "check 7 {\"a\":1}abc");
    cr_assert_str_eq(steps[1], "put");
    cr_assert_not_null(strstr(steps[2], "\"lambda_put\",\"name\":\"thumb\",\"version\":1"));
    cr_assert_not_null(strstr(steps[2], sha256_of_abc));
    cr_assert_eq(step_count, 3);
    bed_close(&bed);
    got_free(&got);
}

Test(lambda, what_does_not_load_is_answered_in_the_loaders_words_and_not_kept)
{
    struct bed bed;
    struct got got = {0};
    refuse_check = true;
    bed_open(&bed, 1, lambdas);
    upload(&bed, NULL, &got);
    cr_assert_eq(got.status, SLUICE_UNPROCESSABLE);
    cr_assert_str_eq(got.detail, "undefined symbol: frobnicate");
    cr_assert_eq(step_count, 1);
    upload(&bed, "{\"config\":3}", &got);
    cr_assert_eq(got.status, SLUICE_INVALID);
    upload(&bed, "{\"colour\":3}", &got);
    cr_assert_eq(got.status, SLUICE_UNPROCESSABLE);
    upload(&bed, "{", &got);
    cr_assert_eq(got.status, SLUICE_INVALID);
    cr_assert_eq(step_count, 1);
    bed_close(&bed);
    got_free(&got);
}

Test(lambda, another_upload_that_was_faster_is_a_conflict)
{
    struct bed bed;
    struct got got = {0};
    conflict = true;
    bed_open(&bed, 1, lambdas);
    upload(&bed, NULL, &got);
    cr_assert_eq(got.status, SLUICE_CONFLICT);
    bed_close(&bed);
    got_free(&got);
}

Test(lambda, what_the_nodes_say_is_added_up)
{
    struct bed bed;
    struct got got = {0};
    const struct sluice_call call = {0};
    bed_open(&bed, 3, lambdas);
    bed_idle(&bed, 100);
    publish_lambda(&bed);
    bed_idle(&bed, 50);
    sluice_lambda_get(bed.client, &call, "thumb", got_answer, &got);
    bed_run(&bed, &got.done, 3000);
    cr_assert_eq(got.status, SLUICE_OK, "%s", got.detail);
    cr_assert_not_null(strstr(got.json, "\"events\":60"), "%s", got.json);
    cr_assert_not_null(strstr(got.json, "\"counters\":{\"made\":6}"));
    cr_assert_not_null(strstr(got.json, "\"state\":\"failed\""));
    cr_assert_not_null(strstr(got.json, "\"last_error\":\"no such symbol\""));
    cr_assert_not_null(strstr(got.json, "\"config\":{\"a\":1}"));
    cr_assert_not_null(strstr(got.json, "\"watches\":[{\"kind\":2,\"pattern\":\"farm/\"}]"));
    cr_assert_not_null(strstr(got.json, "\"cursors\":[{\"shard\":1},{\"shard\":2},{\"shard\":3}]"));
    got.done = false;
    sluice_lambda_get(bed.client, &call, NULL, got_answer, &got);
    bed_run(&bed, &got.done, 3000);
    cr_assert_eq(strncmp(got.json, "{\"lambdas\":[{\"name\":\"thumb\"", 26), 0);
    got.done = false;
    sluice_lambda_get(bed.client, &call, "none", got_answer, &got);
    bed_run(&bed, &got.done, 3000);
    cr_assert_eq(got.status, SLUICE_NOT_FOUND);
    got.done = false;
    sluice_lambda_action(bed.client, &call, "thumb", "paint", got_answer, &got);
    bed_run(&bed, &got.done, 3000);
    cr_assert_eq(got.status, SLUICE_INVALID);
    got.done = false;
    sluice_lambda_action(bed.client, &call, "thumb", "disable", got_answer, &got);
    bed_run(&bed, &got.done, 3000);
    cr_assert_eq(got.status, SLUICE_OK, "%s", got.detail);
    cr_assert_str_eq(steps[0], "change {\"change\":\"lambda_enable\",\"name\":\"thumb\",\"enabled\":false}");
    bed_close(&bed);
    got_free(&got);
}

Test(lambda, closing_in_the_middle_of_an_upload_answers_it)
{
    struct bed bed;
    struct got got = {0};
    bed_open(&bed, 1, NULL);
    bed_idle(&bed, 50);
    struct sluice_value *file = sluice_value_create(3);
    memset(sluice_value_data(file), 0, 3);
    const struct sluice_lambda_upload request = {.name = "thumb", .file = file, .file_size = 3};
    sluice_lambda_upload(bed.client, &request, got_answer, &got);
    bed.script = lambdas;
    /* The check is answered, the put is on its way. */
    bed_wait(&bed, &step_count, 2, 3000);
    bed_close(&bed);
    cr_assert_eq(got.calls, 1);
    cr_assert_eq(got.status, SLUICE_UNAVAILABLE);
    sluice_value_unref(file);
    got_free(&got);
}

/* --- The cluster --- */

static void status_of(struct fake *node, struct fabric_link *link, const struct wire_header *header,
                      const uint8_t *body)
{
    char text[600];
    (void)body;
    if (header->type != WIRE_STATUS || node->id == 3)
        return; /* node 3 does not answer */
    snprintf(text, sizeof(text),
             "{\"node\":%u,\"uptime_ms\":5,\"storage\":{\"state\":\"ok\"},\"shards\":["
             "{\"id\":0,\"role\":\"%s\",\"ballot\":\"7\",\"stable\":\"2\"},"
             "{\"id\":1,\"epoch\":1,\"role\":\"%s\",\"ballot\":\"%u\",\"stable\":\"%u\",\"last\":\"90\"}]}",
             node->id, node->id == 2 ? "leader" : "follower", "leader", node->id * 10u, node->id * 40u);
    fake_reply(node, link, header, SLUICE_OK, 0, text, strlen(text));
}

Test(cluster, nodes_shards_leaders_and_lag_are_put_together)
{
    struct bed bed;
    struct got got = {0};
    const struct sluice_call call = {0};
    bed_open(&bed, 3, status_of);
    bed_idle(&bed, 100);
    cr_assert(sluice_ready(bed.client));
    uint64_t start = clock_monotonic_ns();
    sluice_cluster(bed.client, &call, got_answer, &got);
    bed_run(&bed, &got.done, 3000);
    cr_assert_eq(got.status, SLUICE_OK, "%s", got.detail);
    cr_assert_lt(clock_monotonic_ns() - start, NS_PER_S / 2, "those that answer set the pace");
    cr_assert_not_null(strstr(got.json, "\"cluster\":\"0102030405060708090a0b0c0d0e0f10\""), "%s", got.json);
    cr_assert_not_null(strstr(got.json, "{\"id\":3,\"state\":\"silent\",\"reachable\":false"));
    cr_assert_not_null(strstr(got.json, "\"map_leader\":2"));
    /* Two say that they lead; the higher ballot is right. */
    cr_assert_not_null(strstr(got.json, "\"id\":1,\"pool\":\"\",\"epoch\":1,\"leader\":2"));
    cr_assert_not_null(strstr(got.json, "\"stable\":\"40\",\"last\":\"90\",\"applied\":\"0\",\"lag\":40"));
    cr_assert_not_null(strstr(got.json, "{\"node\":3,\"role\":\"unreachable\",\"wanted\":true}"));
    bed_close(&bed);
    got_free(&got);
}

Test(cluster, a_node_that_is_not_there_is_not_waited_for)
{
    struct bed bed;
    struct got got = {0};
    const struct sluice_call call = {0};
    bed_open(&bed, 3, status_of);
    bed_idle(&bed, 100);
    cr_assert(sluice_ready(bed.client));
    fake_down(&bed.nodes[2]);
    uint64_t start = clock_monotonic_ns();
    sluice_cluster(bed.client, &call, got_answer, &got);
    bed_run(&bed, &got.done, 3000);
    cr_assert_eq(got.status, SLUICE_OK, "%s", got.detail);
    cr_assert_lt(clock_monotonic_ns() - start, 200 * NS_PER_MS);
    cr_assert_not_null(strstr(got.json, "{\"id\":3,\"state\":\"unreachable\",\"reachable\":false"), "%s", got.json);
    cr_assert_not_null(strstr(got.json, "\"leader\":2"));
    bed_close(&bed);
    got_free(&got);
}

Test(cluster, with_too_few_nodes_it_is_not_ready)
{
    struct bed bed;
    bed_open(&bed, 3, status_of);
    bed_idle(&bed, 100);
    cr_assert(sluice_ready(bed.client));
    fake_down(&bed.nodes[0]);
    bed_idle(&bed, 50);
    cr_assert(sluice_ready(bed.client));
    fake_down(&bed.nodes[1]);
    bed_idle(&bed, 50);
    cr_assert_not(sluice_ready(bed.client));
    fake_up(&bed.nodes[1]);
    bed_idle(&bed, 1000);
    cr_assert(sluice_ready(bed.client));
    bed_close(&bed);
}

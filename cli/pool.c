/* pool: pools and their policies. */
#include <stdlib.h>
#include <string.h>

#include "cli/http.h"

#define SHARDS_MAX   1024
#define REPLICAS_MAX 7

enum {
    OPTION_KIND = 256,
    OPTION_SHARDS,
    OPTION_REPLICAS,
    OPTION_AFFINITY,
    OPTION_LATENESS,
    OPTION_POLICY,
    OPTION_FORCE
};

struct pool {
    struct cli_common common;
    const char *prefix;
    json_t *policy;
    bool force;
};

static error_t parse_prefix(int key, char *arg, struct argp_state *state)
{
    struct pool *self = state->input;
    switch (key) {
    case ARGP_KEY_INIT:
        state->child_inputs[0] = &self->common;
        return 0;
    case ARGP_KEY_ARG:
        if (self->prefix != NULL)
            argp_error(state, "one PREFIX was expected; came another: %s", arg);
        self->prefix = arg;
        return 0;
    case ARGP_KEY_END:
        if (self->prefix == NULL)
            argp_error(state, "a PREFIX was expected; / is the root pool");
        return 0;
    default:
        return ARGP_ERR_UNKNOWN;
    }
}

static error_t parse_none(int key, char *arg, struct argp_state *state)
{
    struct pool *self = state->input;
    switch (key) {
    case ARGP_KEY_INIT:
        state->child_inputs[0] = &self->common;
        return 0;
    case ARGP_KEY_ARG:
        argp_error(state, "no argument was expected; came: %s", arg);
        return 0;
    default:
        return ARGP_ERR_UNKNOWN;
    }
}

/* The root's path is %2F; another prefix is a path without a slash at either end. */
static void pool_path(struct bytes *out, const char *prefix)
{
    const char *begin = prefix + strspn(prefix, "/");
    size_t length = strlen(begin);
    while (length > 0 && begin[length - 1] == '/')
        length--;
    char *bare = cli_must(strndup(begin, length));
    cli_must_status(bytes_printf(out, "/v1/pools/"));
    cli_encode(out, length == 0 ? "/" : bare, true);
    free(bare);
}

/* "shards" is a count, or the list of their numbers. */
static const char *shards_text(const json_t *pool, char scratch[CLI_NUMBER_BYTES])
{
    const json_t *shards = json_object_get(pool, "shards");
    if (!json_is_array(shards))
        return cli_member(pool, "shards", scratch);
    snprintf(scratch, CLI_NUMBER_BYTES, "%zu", json_array_size(shards));
    return scratch;
}

static void lateness_text(const json_t *pool, char scratch[CLI_NUMBER_BYTES])
{
    const char *text = cli_member(pool, "lateness", scratch);
    char *end = NULL;
    double ns = strtod(text, &end);
    if (end == text || *end != '\0' || ns == 0)
        snprintf(scratch, CLI_NUMBER_BYTES, "-");
    else
        snprintf(scratch, CLI_NUMBER_BYTES, "%g s", ns / 1e9);
}

static void add_row(struct cli_table *table, const json_t *pool)
{
    char scratch[CLI_NUMBER_BYTES];
    const char *prefix = cli_member(pool, "prefix", scratch);
    cli_table_cell(table, *prefix == '\0' ? "/" : prefix);
    cli_table_cell(table, cli_member(pool, "kind", scratch));
    cli_table_cell(table, shards_text(pool, scratch));
    cli_table_cell(table, cli_member(pool, "replicas", scratch));
    cli_table_cell(table, cli_member(pool, "affinity", scratch));
    lateness_text(pool, scratch);
    cli_table_cell(table, scratch);
    cli_table_cell(table, cli_member(pool, "state", scratch));
}

static void show_pools(const json_t *pools)
{
    static const char *const heading[] = {"PREFIX", "KIND", "SHARDS", "REPLICAS", "AFFINITY", "LATENESS", "STATE"};
    struct cli_table table = {.columns = 7};
    size_t i;
    const json_t *pool;
    for (size_t k = 0; k < 7; k++)
        cli_table_cell(&table, heading[k]);
    if (json_is_object(pools))
        add_row(&table, pools);
    json_array_foreach(pools, i, pool) add_row(&table, pool);
    cli_table_print(&table);
}

static int show_answer(const struct pool *self, const char *path)
{
    json_t *json = NULL;
    int code = http_get_json(&self->common, path, self->prefix, &json);
    if (code != CLI_OK)
        return code;
    const json_t *list = json_object_get(json, "pools");
    if (!self->common.json) {
        show_pools(list != NULL ? list : json);
    } else if (json_is_array(list)) {
        size_t i;
        const json_t *pool;
        json_array_foreach(list, i, pool) cli_print_json(pool);
    } else {
        cli_print_json(json);
    }
    json_decref(json);
    return CLI_OK;
}

static int pool_ls(int argc, char **argv)
{
    static const struct argp argp = {
        .parser = parse_none,
        .children = cli_common_child,
        .doc = "Lists the pools: which keys, how they are kept.\vExample:\n  sluice pool ls\n" CLI_EXIT_DOC};
    struct pool self = {0};
    cli_parse(&argp, argc, argv, &self);
    return show_answer(&self, "/v1/pools");
}

static int pool_get(int argc, char **argv)
{
    static const struct argp argp = {
        .parser = parse_prefix,
        .children = cli_common_child,
        .args_doc = "PREFIX",
        .doc = "Shows one pool.\vExamples:\n  sluice pool get /\n  sluice pool get farm/frames --json\n" CLI_EXIT_DOC};
    struct pool self = {0};
    struct bytes path = {0};
    cli_parse(&argp, argc, argv, &self);
    pool_path(&path, self.prefix);
    int code = show_answer(&self, cli_text(&path));
    bytes_free(&path);
    return code;
}

/* --- put --------------------------------------------------------------------------------------------------------- */

static const struct argp_option put_options[] = {
    {"kind", OPTION_KIND, "KIND", 0, "persistent (default), volatile (memory of a quorum) or trigger (events only)", 0},
    {"shards", OPTION_SHARDS, "N", 0, "Independent logs; keys are spread over them", 0},
    {"replicas", OPTION_REPLICAS, "N", 0, "Nodes that keep each shard", 0},
    {"affinity", OPTION_AFFINITY, "REGEX", 0, "Keys whose first group is equal live in one shard", 0},
    {"lateness", OPTION_LATENESS, "SECONDS", 0, "How late a sensor's time may be", 0},
    {"policy", OPTION_POLICY, "JSON", 0, "The policy as the REST interface takes it; other options are added to it", 0},
    {0},
};

/* Seconds with decimals, as whole nanoseconds in text. */
static json_t *lateness_of(const struct argp_state *state, const char *text)
{
    char *end = NULL, ns[CLI_NUMBER_BYTES];
    double seconds = strtod(text, &end);
    if (end == text || *end != '\0' || !(seconds >= 0) || !(seconds <= 1e9))
        argp_error(state, "--lateness: seconds were expected; came: %s", text);
    snprintf(ns, sizeof(ns), "%.0f", seconds * 1e9);
    return json_string(ns);
}

static error_t parse_put(int key, char *arg, struct argp_state *state)
{
    struct pool *self = state->input;
    json_error_t error;
    json_t *policy;
    switch (key) {
    case OPTION_KIND:
        json_object_set_new(self->policy, "kind", json_string(arg));
        return 0;
    case OPTION_SHARDS:
        json_object_set_new(self->policy, "shards",
                            json_integer((json_int_t)cli_number(state, "--shards", arg, 1, SHARDS_MAX)));
        return 0;
    case OPTION_REPLICAS:
        json_object_set_new(self->policy, "replicas",
                            json_integer((json_int_t)cli_number(state, "--replicas", arg, 1, REPLICAS_MAX)));
        return 0;
    case OPTION_AFFINITY:
        json_object_set_new(self->policy, "affinity", json_string(arg));
        return 0;
    case OPTION_LATENESS:
        json_object_set_new(self->policy, "lateness", lateness_of(state, arg));
        return 0;
    case OPTION_POLICY:
        policy = json_loads(arg, JSON_REJECT_DUPLICATES, &error);
        if (!json_is_object(policy))
            argp_error(state, "--policy: a JSON object was expected: %s",
                       policy == NULL ? error.text : "this is another value");
        json_object_update_missing(self->policy, policy);
        json_decref(policy);
        return 0;
    default:
        return parse_prefix(key, arg, state);
    }
}

static int pool_put(int argc, char **argv)
{
    static const struct argp argp = {
        .options = put_options,
        .parser = parse_put,
        .children = cli_common_child,
        .args_doc = "PREFIX",
        .doc = "Makes a pool: all keys below PREFIX follow its policy. Making it again, equal, does nothing.\v"
               "A pool's kind, shards and affinity stay as they are for ever. Nothing may live below PREFIX yet.\n"
               "Examples:\n"
               "  sluice pool put farm/frames --kind volatile --shards 4\n"
               "  sluice pool put farm/herd --affinity 'farm/herd/(cow[0-9]+)/.*'   (a cow's keys share a "
               "shard)\n" CLI_EXIT_DOC};
    struct pool self = {.policy = cli_must(json_object())};
    struct bytes path = {0};
    struct http_answer answer = {0};
    cli_parse(&argp, argc, argv, &self);
    pool_path(&path, self.prefix);
    char *body = cli_must(json_dumps(self.policy, JSON_COMPACT));
    struct http_request request = {.method = "PUT",
                                   .path = cli_text(&path),
                                   .what = self.prefix,
                                   .body = body,
                                   .body_size = strlen(body),
                                   .repeatable = true};
    http_add(&self.common, &request, "Content-Type", "application/json");
    int code = http_call(&self.common, &request, &answer);
    json_t *json = code == CLI_OK ? http_json(&self.common, &answer) : NULL;
    if (json != NULL && self.common.json) {
        cli_print_json(json);
    } else if (json != NULL) {
        const json_t *pool = json_object_get(json, "pool");
        show_pools(pool != NULL ? pool : json);
    } else if (code == CLI_OK) {
        code = CLI_ERROR;
    }
    json_decref(json);
    json_decref(self.policy);
    free(body);
    http_answer_free(&answer);
    bytes_free(&path);
    return code;
}

/* --- rm ---------------------------------------------------------------------------------------------------------- */

static const struct argp_option rm_options[] = {
    {"force", OPTION_FORCE, NULL, 0, "Delete what is in it too, with all versions, for ever", 0},
    {0},
};

static error_t parse_rm(int key, char *arg, struct argp_state *state)
{
    struct pool *self = state->input;
    if (key != OPTION_FORCE)
        return parse_prefix(key, arg, state);
    self->force = true;
    return 0;
}

static int pool_rm(int argc, char **argv)
{
    static const struct argp argp = {.options = rm_options,
                                     .parser = parse_rm,
                                     .children = cli_common_child,
                                     .args_doc = "PREFIX",
                                     .doc = "Removes an empty pool.\v"
                                            "Examples:\n"
                                            "  sluice pool rm farm/frames\n"
                                            "  sluice pool rm farm/frames --force\n" CLI_EXIT_DOC};
    struct pool self = {0};
    struct bytes path = {0};
    struct http_answer answer = {0};
    cli_parse(&argp, argc, argv, &self);
    pool_path(&path, self.prefix);
    cli_query(&path, "force", self.force ? "true" : NULL);
    struct http_request request = {.method = "DELETE", .path = cli_text(&path), .what = self.prefix};
    int code = http_call(&self.common, &request, &answer);
    if (code == CLI_OK && self.common.json)
        printf("%s\n", answer.body.size > 0 ? cli_text(&answer.body) : "{}");
    else if (code == CLI_OK)
        printf("removed\n");
    http_answer_free(&answer);
    bytes_free(&path);
    return code;
}

int cli_pool(int argc, char **argv)
{
    static const struct cli_command commands[] = {
        {"ls", "list the pools", pool_ls},
        {"get", "show one", pool_get},
        {"put", "make one", pool_put},
        {"rm", "remove one", pool_rm},
        {0},
    };
    return cli_dispatch("sluice pool", "A pool is a path prefix with a policy: where its keys live and how.\n",
                        commands, argc, argv);
}

/* cluster: nodes, shards, leaders, lag. */
#include <stdlib.h>
#include <string.h>

#include "cli/http.h"

static error_t parse(int key, char *arg, struct argp_state *state)
{
    struct cli_common *self = state->input;
    switch (key) {
    case ARGP_KEY_INIT:
        state->child_inputs[0] = self;
        return 0;
    case ARGP_KEY_ARG:
        argp_error(state, "no argument was expected; came: %s", arg);
        return 0;
    default:
        return ARGP_ERR_UNKNOWN;
    }
}

static void head(struct cli_table *table, const char *const *names)
{
    for (size_t i = 0; i < table->columns; i++)
        cli_table_cell(table, names[i]);
}

/* 93784000 ms is "1d 2h". */
static void uptime_text(const json_t *node, char out[CLI_NUMBER_BYTES])
{
    json_int_t seconds = json_integer_value(json_object_get(node, "uptime_ms")) / 1000;
    if (!json_is_integer(json_object_get(node, "uptime_ms")))
        snprintf(out, CLI_NUMBER_BYTES, "-");
    else if (seconds < 60)
        snprintf(out, CLI_NUMBER_BYTES, "%llds", (long long)seconds);
    else if (seconds < 3600)
        snprintf(out, CLI_NUMBER_BYTES, "%lldm %llds", (long long)(seconds / 60), (long long)(seconds % 60));
    else if (seconds < 86400)
        snprintf(out, CLI_NUMBER_BYTES, "%lldh %lldm", (long long)(seconds / 3600), (long long)(seconds % 3600 / 60));
    else
        snprintf(out, CLI_NUMBER_BYTES, "%lldd %lldh", (long long)(seconds / 86400),
                 (long long)(seconds % 86400 / 3600));
}

/* "2, 3": the peers that the node has a link to. */
static void links_text(const json_t *node, struct bytes *out)
{
    size_t i;
    const json_t *peer;
    json_array_foreach(json_object_get(node, "peers"), i, peer)
    {
        if (json_is_true(json_object_get(peer, "connected")))
            cli_must_status(bytes_printf(out, "%s%lld", out->size > 0 ? ", " : "",
                                         (long long)json_integer_value(json_object_get(peer, "node"))));
    }
    if (out->size == 0)
        cli_must_status(bytes_append(out, "-", 1));
}

static void show_nodes(const json_t *nodes)
{
    static const char *const names[] = {"NODE", "STATE", "UPTIME", "LINKS", "DISK FREE", "OF", "DISK"};
    struct cli_table table = {.columns = 7};
    char scratch[CLI_NUMBER_BYTES];
    size_t i;
    const json_t *node;
    head(&table, names);
    json_array_foreach(nodes, i, node)
    {
        struct bytes links = {0};
        const json_t *storage = json_object_get(node, "storage");
        cli_table_cell(&table, cli_member(node, "id", scratch));
        cli_table_cell(&table, cli_member(node, "state", scratch));
        uptime_text(node, scratch);
        cli_table_cell(&table, scratch);
        links_text(node, &links);
        cli_table_cell(&table, cli_text(&links));
        cli_member_size(storage, "free_bytes", scratch);
        cli_table_cell(&table, scratch);
        cli_member_size(storage, "total_bytes", scratch);
        cli_table_cell(&table, scratch);
        cli_table_cell(&table, cli_member(storage, "state", scratch));
        bytes_free(&links);
    }
    cli_table_print(&table);
}

/* "1, 2, 3 (14 behind)": the nodes that keep the shard, and how many entries they have not stable yet. */
static void replicas_text(const json_t *shard, struct bytes *out)
{
    size_t i;
    const json_t *replica;
    char scratch[CLI_NUMBER_BYTES], lag[CLI_NUMBER_BYTES];
    json_array_foreach(json_object_get(shard, "replicas"), i, replica)
    {
        const char *behind = cli_member(replica, "lag", lag), *role = cli_member(replica, "role", scratch);
        bool away = strcmp(role, "unreachable") == 0;
        cli_must_status(bytes_printf(out, "%s%s", out->size > 0 ? ", " : "", cli_member(replica, "node", scratch)));
        if (away)
            cli_must_status(bytes_printf(out, " (unreachable)"));
        else if (strcmp(behind, "0") != 0 && strcmp(behind, "-") != 0)
            cli_must_status(bytes_printf(out, " (%s behind)", behind));
    }
    if (out->size == 0)
        cli_must_status(bytes_append(out, "-", 1));
}

static void show_shards(const json_t *shards)
{
    static const char *const names[] = {"SHARD", "POOL", "LEADER", "EPOCH", "STABLE", "REPLICAS"};
    struct cli_table table = {.columns = 6};
    char scratch[CLI_NUMBER_BYTES];
    size_t i;
    const json_t *shard;
    head(&table, names);
    json_array_foreach(shards, i, shard)
    {
        struct bytes replicas = {0};
        const char *pool = cli_member(shard, "pool", scratch);
        cli_table_cell(&table, cli_member(shard, "id", scratch));
        cli_table_cell(&table, *pool == '\0' ? "/" : pool);
        const char *leader = cli_member(shard, "leader", scratch);
        cli_table_cell(&table, strcmp(leader, "0") == 0 ? "none" : leader);
        cli_table_cell(&table, cli_member(shard, "epoch", scratch));
        cli_table_cell(&table, cli_member(shard, "stable", scratch));
        replicas_text(shard, &replicas);
        cli_table_cell(&table, cli_text(&replicas));
        bytes_free(&replicas);
    }
    cli_table_print(&table);
}

int cli_cluster(int argc, char **argv)
{
    static const struct argp argp = {
        .parser = parse,
        .children = cli_common_child,
        .doc =
            "Shows the cluster: its nodes, and for each shard who leads it, up to which revision it is stable and how "
            "far each replica is behind.\v"
            "Examples:\n"
            "  sluice cluster\n"
            "  sluice cluster --json | jq '.shards[] | select(.leader == 0)'   (shards that nobody "
            "leads)\n" CLI_EXIT_DOC};
    struct cli_common self = {0};
    json_t *json = NULL;
    cli_parse(&argp, argc, argv, &self);
    int code = http_get_json(&self, "/v1/cluster", NULL, &json);
    if (code == CLI_OK && self.json) {
        cli_print_json(json);
    } else if (code == CLI_OK) {
        show_nodes(json_object_get(json, "nodes"));
        putchar('\n');
        show_shards(json_object_get(json, "shards"));
    }
    json_decref(json);
    return code;
}

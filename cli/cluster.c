/* cluster: nodes, shards, leaders, lag; nodes are added, removed and replaced, and the lead is moved. */
#include <stdlib.h>
#include <string.h>

#include "cli/http.h"

#define NODE_MAX 63

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
    static const char *const names[] = {"NODE", "STATE", "MEMBER", "UPTIME", "LINKS", "DISK FREE", "OF", "DISK"};
    struct cli_table table = {.columns = 8};
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
        cli_table_cell(&table, cli_member(node, "membership", scratch));
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

/* While releases are mixed: who understands more than the cluster does yet. */
static void show_rollout(const json_t *json)
{
    json_int_t level = json_integer_value(json_object_get(json, "level"));
    struct bytes ahead = {0};
    char scratch[CLI_NUMBER_BYTES];
    size_t i;
    const json_t *node;
    json_array_foreach(json_object_get(json, "nodes"), i, node)
    {
        if (json_integer_value(json_array_get(json_object_get(node, "levels"), 1)) > level && level > 0)
            cli_must_status(bytes_printf(&ahead, "%s%s", ahead.size > 0 ? ", " : "", cli_member(node, "id", scratch)));
    }
    if (ahead.size > 0)
        printf("\nThe cluster works at level %lld, and rises once all nodes are of the release of: %s. Until then "
               "these can "
               "go back to the one before.\n",
               (long long)level, cli_text(&ahead));
    bytes_free(&ahead);
}

/* What is worth saying of a replica beside its node: nothing where it is a wanted member that keeps up. */
static void replica_notes(const json_t *replica, struct bytes *out)
{
    char scratch[CLI_NUMBER_BYTES];
    const char *behind = cli_member(replica, "lag", scratch);
    const char *role = json_string_value(json_object_get(replica, "role"));
    const json_t *wanted = json_object_get(replica, "wanted"), *member = json_object_get(replica, "member");
    const char *notes[4];
    size_t count = 0;
    if (role != NULL && strcmp(role, "unreachable") == 0)
        notes[count++] = "unreachable";
    if (json_is_true(json_object_get(replica, "learner")))
        notes[count++] = "learner";
    else if (json_is_false(member) && json_is_true(wanted))
        notes[count++] = "not a member yet";
    if (json_is_false(wanted))
        notes[count++] = json_is_false(member) ? "left" : "leaving";
    bool late = strcmp(behind, "0") != 0 && strcmp(behind, "-") != 0;
    for (size_t i = 0; i < count; i++)
        cli_must_status(bytes_printf(out, "%s%s", i == 0 ? " (" : ", ", notes[i]));
    if (late)
        cli_must_status(bytes_printf(out, "%s%s behind", count == 0 ? " (" : ", ", behind));
    if (late || count > 0)
        cli_must_status(bytes_printf(out, ")"));
}

/* "1, 2, 3 (14 behind)": the nodes that keep the shard, and how many entries they have not stable yet. */
static void replicas_text(const json_t *shard, struct bytes *out)
{
    size_t i;
    const json_t *replica;
    char scratch[CLI_NUMBER_BYTES];
    json_array_foreach(json_object_get(shard, "replicas"), i, replica)
    {
        cli_must_status(bytes_printf(out, "%s%s", out->size > 0 ? ", " : "", cli_member(replica, "node", scratch)));
        replica_notes(replica, out);
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

static int cluster_show(int argc, char **argv)
{
    static const struct argp argp = {
        .parser = parse,
        .children = cli_common_child,
        .args_doc = "\nadd|remove|replace|transfer …",
        .doc = "Shows the cluster: its nodes, and for each shard who leads it, up to which revision it is stable, who "
               "keeps "
               "it and how far each replica is behind. Or changes it: see sluice cluster add --help and so on.\v"
               "A replica is wanted by the cluster map and a member by the shard's log; while a shard moves, one of "
               "them is "
               "ahead of the other, and a learner is being fed.\n"
               "Examples:\n"
               "  sluice cluster\n"
               "  sluice cluster add\n"
               "  sluice cluster replace 3\n"
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
        show_rollout(json);
        putchar('\n');
        show_shards(json_object_get(json, "shards"));
    }
    json_decref(json);
    return code;
}

/* --- Members ----------------------------------------------------------------------------------------------------- */

enum { OPTION_FORCE = 256, OPTION_ADDRESS, OPTION_WITH, OPTION_SHARD, OPTION_FROM, OPTION_TO };

struct members {
    struct cli_common common;
    bool needs_node;
    uint64_t node; /* 0: none given */
    json_t *body;
    bool force;
};

static error_t parse_members(int key, char *arg, struct argp_state *state)
{
    struct members *self = state->input;
    json_t *addresses;
    switch (key) {
    case ARGP_KEY_INIT:
        state->child_inputs[0] = &self->common;
        return 0;
    case OPTION_FORCE:
        self->force = true;
        return 0;
    case OPTION_ADDRESS:
        if (strncmp(arg, "tcp:", 4) != 0 && strncmp(arg, "shm:", 4) != 0)
            argp_error(state, "--address: an address like tcp:HOST:PORT or shm:NAME was expected; came: %s", arg);
        addresses = json_object_get(self->body, "addresses");
        if (addresses == NULL)
            json_object_set_new(self->body, "addresses", addresses = json_array());
        json_array_append_new(addresses, json_string(arg));
        return 0;
    case OPTION_WITH:
        json_object_set_new(self->body, "with",
                            json_integer((json_int_t)cli_number(state, "--with", arg, 1, NODE_MAX)));
        return 0;
    case OPTION_SHARD:
        json_object_set_new(self->body, "shard",
                            json_integer((json_int_t)cli_number(state, "--shard", arg, 0, UINT32_MAX)));
        return 0;
    case OPTION_FROM:
        json_object_set_new(self->body, "from",
                            json_integer((json_int_t)cli_number(state, "--from", arg, 1, NODE_MAX)));
        return 0;
    case OPTION_TO:
        json_object_set_new(self->body, "to", json_integer((json_int_t)cli_number(state, "--to", arg, 1, NODE_MAX)));
        return 0;
    case ARGP_KEY_ARG:
        if (self->node != 0 || json_object_get(self->body, "shard") != NULL)
            argp_error(state, "one NODE was expected; came another: %s", arg);
        self->node = cli_number(state, "NODE", arg, 1, NODE_MAX);
        return 0;
    case ARGP_KEY_END:
        if (self->needs_node && self->node == 0)
            argp_error(state, "a NODE's number was expected; sluice cluster shows them");
        return 0;
    default:
        return ARGP_ERR_UNKNOWN;
    }
}

/* Sends it, shows the answer with --json or hands it on. */
static int members_call(struct members *self, const char *method, const char *path, const char *what, json_t **out)
{
    struct http_answer answer = {0};
    char *body = cli_must(json_dumps(self->body, JSON_COMPACT));
    bool sends = strcmp(method, "POST") == 0;
    struct http_request request = {.method = method,
                                   .path = path,
                                   .what = what,
                                   .body = sends ? body : NULL,
                                   .body_size = sends ? strlen(body) : 0};
    if (sends)
        http_add(&self->common, &request, "Content-Type", "application/json");
    int code = http_call(&self->common, &request, &answer);
    *out = code == CLI_OK ? http_json(&self->common, &answer) : NULL;
    if (code == CLI_OK && *out == NULL)
        code = CLI_ERROR;
    if (code == CLI_OK && self->common.json)
        cli_print_json(*out);
    free(body);
    http_answer_free(&answer);
    return code;
}

static void say_moving(const json_t *json)
{
    char scratch[CLI_NUMBER_BYTES];
    if (json_integer_value(json_object_get(json, "shards_moving")) > 0)
        printf("%s shards move now; sluice cluster shows how far they are\n",
               cli_member(json, "shards_moving", scratch));
}

/* How the declared node is started. */
static void say_start(const json_t *json)
{
    char scratch[CLI_NUMBER_BYTES];
    if (strcmp(cli_member(json, "state", scratch), "joining") == 0)
        printf("node %s may join; start it there:\n"
               "  sluiced --id %s --data DIRECTORY --listen tcp:0.0.0.0:PORT --advertise tcp:ITS-HOST:PORT --join "
               "ADDRESS-OF-A-MEMBER\n",
               cli_member(json, "node", scratch), cli_member(json, "node", scratch));
    else
        printf("node %s is %s\n", cli_member(json, "node", scratch), json_string_value(json_object_get(json, "state")));
}

static int cluster_add(int argc, char **argv)
{
    static const struct argp_option options[] = {
        {"address", OPTION_ADDRESS, "ADDR", 0, "Where the other nodes reach it; it says so itself when it joins", 0},
        {0},
    };
    static const struct argp argp = {
        .options = options,
        .parser = parse_members,
        .children = cli_common_child,
        .args_doc = "[NODE]",
        .doc = "Declares a node: number NODE, or the next free one. Once its process has joined, shards move to it.\v"
               "A process that is started with --join declares itself; this is for choosing the number first.\n"
               "A node that is being removed stays after all when it is added again.\n"
               "Examples:\n"
               "  sluice cluster add\n"
               "  sluice cluster add 7 --address tcp:10.0.0.7:7000\n" CLI_EXIT_DOC};
    struct members self = {.body = cli_must(json_object())};
    json_t *json = NULL;
    cli_parse(&argp, argc, argv, &self);
    if (self.node != 0)
        json_object_set_new(self.body, "id", json_integer((json_int_t)self.node));
    int code = members_call(&self, "POST", "/v1/cluster/nodes", NULL, &json);
    if (code == CLI_OK && !self.common.json) {
        say_start(json);
        say_moving(json);
    }
    json_decref(json);
    json_decref(self.body);
    return code;
}

static int cluster_remove(int argc, char **argv)
{
    static const struct argp_option options[] = {
        {"force", OPTION_FORCE, NULL, 0, "Even where that leaves fewer replicas than pools want", 0},
        {0},
    };
    static const struct argp argp = {
        .options = options,
        .parser = parse_members,
        .children = cli_common_child,
        .args_doc = "NODE",
        .doc = "Takes a node out of the cluster: what it holds moves to the others; once it shows as gone, its process "
               "can be stopped.\v"
               "Examples:\n"
               "  sluice cluster remove 2\n"
               "  sluice cluster remove 2 --force\n" CLI_EXIT_DOC};
    struct members self = {.needs_node = true, .body = cli_must(json_object())};
    char path[64], what[32];
    json_t *json = NULL;
    cli_parse(&argp, argc, argv, &self);
    snprintf(path, sizeof(path), "/v1/cluster/nodes/%u%s", (unsigned)self.node, self.force ? "?force=true" : "");
    snprintf(what, sizeof(what), "node %u", (unsigned)self.node);
    int code = members_call(&self, "DELETE", path, what, &json);
    if (code == CLI_OK && !self.common.json) {
        char scratch[CLI_NUMBER_BYTES];
        printf("node %u is %s\n", (unsigned)self.node, cli_member(json, "state", scratch));
        say_moving(json);
    }
    json_decref(json);
    json_decref(self.body);
    return code;
}

static int cluster_replace(int argc, char **argv)
{
    static const struct argp_option options[] = {
        {"with", OPTION_WITH, "NODE", 0, "The node that takes its place (default: a new one, the next free number)", 0},
        {"address", OPTION_ADDRESS, "ADDR", 0, "Where the other nodes reach the new one", 0},
        {0},
    };
    static const struct argp argp = {
        .options = options,
        .parser = parse_members,
        .children = cli_common_child,
        .args_doc = "NODE",
        .doc = "Lets another node take every place of NODE, which may be dead for good.\v"
               "Examples:\n"
               "  sluice cluster replace 3              (then start the node that the answer names, with --join)\n"
               "  sluice cluster replace 3 --with 6     (node 6 is there already, or is to come)\n" CLI_EXIT_DOC};
    struct members self = {.needs_node = true, .body = cli_must(json_object())};
    char path[64], what[32];
    json_t *json = NULL;
    cli_parse(&argp, argc, argv, &self);
    snprintf(path, sizeof(path), "/v1/cluster/nodes/%u/replace", (unsigned)self.node);
    snprintf(what, sizeof(what), "node %u", (unsigned)self.node);
    int code = members_call(&self, "POST", path, what, &json);
    if (code == CLI_OK && !self.common.json) {
        char scratch[CLI_NUMBER_BYTES];
        printf("node %s takes the places of node %u\n", cli_member(json, "node", scratch), (unsigned)self.node);
        say_start(json);
        say_moving(json);
    }
    json_decref(json);
    json_decref(self.body);
    return code;
}

static int cluster_transfer(int argc, char **argv)
{
    static const struct argp_option options[] = {
        {"shard", OPTION_SHARD, "N", 0, "Of this shard; 0 is the cluster map (default: of all)", 0},
        {"from", OPTION_FROM, "NODE", 0, "Where this node leads", 0},
        {"to", OPTION_TO, "NODE", 0, "To this node (default: to whichever member holds most)", 0},
        {0},
    };
    static const struct argp argp = {
        .options = options,
        .parser = parse_members,
        .children = cli_common_child,
        .doc = "Moves the lead of shards to other members, without an election.\v"
               "After some seconds the lead goes back to the node that the cluster map prefers, while that is up.\n"
               "Examples:\n"
               "  sluice cluster transfer --from 2              (before work on that machine)\n"
               "  sluice cluster transfer --shard 5 --to 1\n" CLI_EXIT_DOC};
    struct members self = {.body = cli_must(json_object())};
    size_t i;
    const json_t *shard;
    json_t *json = NULL;
    cli_parse(&argp, argc, argv, &self);
    if (self.node != 0 || json_object_size(self.body) == 0) {
        cli_complain(&self.common, "say whose lead is to be moved, with --shard, --from or --to (see --help)");
        json_decref(self.body);
        return CLI_USAGE;
    }
    int code = members_call(&self, "POST", "/v1/cluster/transfer", NULL, &json);
    if (code == CLI_OK && !self.common.json) {
        struct cli_table table = {.columns = 3};
        char scratch[CLI_NUMBER_BYTES];
        static const char *const names[] = {"SHARD", "FROM", "TO"};
        head(&table, names);
        json_array_foreach(json_object_get(json, "shards"), i, shard)
        {
            cli_table_cell(&table, cli_member(shard, "shard", scratch));
            cli_table_cell(&table, cli_member(shard, "from", scratch));
            cli_table_cell(&table, json_integer_value(json_object_get(shard, "to")) == 0
                                       ? "any"
                                       : cli_member(shard, "to", scratch));
        }
        cli_table_print(&table);
        if (json_array_size(json_object_get(json, "shards")) == 0)
            puts("nothing was to be moved");
    }
    json_decref(json);
    json_decref(self.body);
    return code;
}

int cli_cluster(int argc, char **argv)
{
    static const struct cli_command commands[] = {
        {"add", "declare a node", cluster_add},
        {"remove", "take a node out; its data move first", cluster_remove},
        {"replace", "let a node take the places of another", cluster_replace},
        {"transfer", "move the lead of shards", cluster_transfer},
        {0},
    };
    for (size_t i = 0; argc > 1 && commands[i].name != NULL; i++)
        if (strcmp(argv[1], commands[i].name) == 0)
            return cli_dispatch("sluice cluster", "", commands, argc, argv);
    return cluster_show(argc, argv);
}

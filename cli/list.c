/* ls, history, snapshot: many objects or versions. Pages are followed by their cursors and shown as they come. */
#include <stdlib.h>
#include <string.h>

#include "cli/http.h"

#define PAGE_MAX  1000u
#define LIMIT_MAX (UINT64_C(1) << 53)

enum {
    OPTION_DELIMITER = 256,
    OPTION_LIMIT,
    OPTION_AT,
    OPTION_FROM,
    OPTION_TO,
    OPTION_DESC,
    OPTION_CLOCK,
    OPTION_PREFIX
};

static const char *version_state(const json_t *version)
{
    return json_is_true(json_object_get(version, "deleted")) ? "deleted" : "put";
}

/* The page's size, for what is still wanted of `limit` (0: all). */
static void page_limit(struct bytes *path, uint64_t limit, uint64_t shown)
{
    char text[CLI_NUMBER_BYTES];
    uint64_t left = limit == 0 ? PAGE_MAX : limit - shown;
    snprintf(text, sizeof(text), "%llu", (unsigned long long)(left < PAGE_MAX ? left : PAGE_MAX));
    cli_query(path, "limit", text);
}

static const char *cursor_of(const json_t *page)
{
    const char *cursor = json_string_value(json_object_get(page, "cursor"));
    return cursor != NULL && *cursor != '\0' ? cursor : NULL;
}

/* Shows one page; returns how many lines that were. */
typedef uint64_t (*show_page)(void *self, const json_t *page);

/* Fetches page after page of `base` until the last, or until `limit` lines were shown. */
static int follow_pages(const struct cli_common *common, struct bytes *base, const char *what, uint64_t limit,
                        show_page show, void *self)
{
    char *cursor = NULL;
    uint64_t shown = 0;
    int code = CLI_OK;
    do {
        struct bytes path = {0};
        json_t *page = NULL;
        cli_must_status(bytes_append(&path, base->data, base->size));
        page_limit(&path, limit, shown);
        cli_query(&path, "cursor", cursor);
        free(cursor);
        cursor = NULL;
        code = http_get_json(common, cli_text(&path), what, &page);
        if (code == CLI_OK) {
            shown += show(self, page);
            if (cursor_of(page) != NULL && (limit == 0 || shown < limit))
                cursor = cli_must(strdup(cursor_of(page)));
        }
        json_decref(page);
        bytes_free(&path);
    } while (code == CLI_OK && cursor != NULL && !ferror(stdout));
    free(cursor);
    return code;
}

/* --- ls ---------------------------------------------------------------------------------------------------------- */

struct ls {
    struct cli_common common;
    const char *prefix, *delimiter;
    uint64_t limit;
    bool timed, facts;
    char at[CLI_TIME_BYTES];
};

static const struct argp_option ls_options[] = {
    {"delimiter", OPTION_DELIMITER, "C", 0, "Show what is between the prefix and the next C once, like a folder", 0},
    {"limit", OPTION_LIMIT, "N", 0, "At most N lines", 0},
    {"at", OPTION_AT, "TIME", 0, "What was there at that time", 0},
    {"long", 'l', NULL, 0, "Version, size, type and time too", 0},
    {0},
};

static error_t parse_ls(int key, char *arg, struct argp_state *state)
{
    struct ls *self = state->input;
    switch (key) {
    case ARGP_KEY_INIT:
        state->child_inputs[0] = &self->common;
        return 0;
    case OPTION_DELIMITER:
        self->delimiter = arg;
        return 0;
    case OPTION_LIMIT:
        self->limit = cli_number(state, "--limit", arg, 1, LIMIT_MAX);
        return 0;
    case OPTION_AT:
        cli_time(state, arg, self->at);
        self->timed = true;
        return 0;
    case 'l':
        self->facts = true;
        return 0;
    case ARGP_KEY_ARG:
        if (self->prefix != NULL)
            argp_error(state, "one PREFIX was expected; came another: %s", arg);
        self->prefix = arg[0] == '/' ? arg + 1 : arg;
        return 0;
    default:
        return ARGP_ERR_UNKNOWN;
    }
}

static void show_name(const struct ls *self, struct cli_table *table, const char *name, const json_t *object)
{
    char scratch[CLI_NUMBER_BYTES];
    if (!self->facts) {
        cli_print_text(stdout, name, strlen(name));
        putchar('\n');
        return;
    }
    cli_table_cell(table, object != NULL ? cli_member(object, "version", scratch) : "-");
    if (object != NULL)
        cli_member_size(object, "size", scratch);
    cli_table_cell(table, object != NULL ? scratch : "-");
    cli_table_cell(table, object != NULL ? cli_member(object, "content_type", scratch) : "-");
    cli_table_cell(table, object != NULL ? cli_member(object, "time", scratch) : "-");
    cli_table_cell(table, name);
}

/* Objects and prefixes come as two sorted lists; they are shown as one. */
static uint64_t show_ls(void *arg, const json_t *page)
{
    struct ls *self = arg;
    const json_t *objects = json_object_get(page, "objects"), *prefixes = json_object_get(page, "prefixes");
    size_t object_count = json_array_size(objects), prefix_count = json_array_size(prefixes), i = 0, k = 0;
    struct cli_table table = {.columns = 5};
    while (i < object_count || k < prefix_count) {
        const json_t *object = json_array_get(objects, i), *prefix = json_array_get(prefixes, k);
        const char *key = json_string_value(json_object_get(object, "key")), *folder = json_string_value(prefix);
        key = key != NULL ? key : "";
        folder = folder != NULL ? folder : "";
        bool next_is_object = k == prefix_count || (i < object_count && strcmp(key, folder) < 0);
        i += next_is_object;
        k += !next_is_object;
        if (!self->common.json) {
            show_name(self, &table, next_is_object ? key : folder, next_is_object ? object : NULL);
        } else if (next_is_object) {
            cli_print_json(object);
        } else {
            json_t *line = cli_must(json_pack("{s:s}", "prefix", folder));
            cli_print_json(line);
            json_decref(line);
        }
    }
    cli_table_print(&table);
    return object_count + prefix_count;
}

int cli_ls(int argc, char **argv)
{
    static const struct argp argp = {
        .options = ls_options,
        .parser = parse_ls,
        .children = cli_common_child,
        .args_doc = "[PREFIX]",
        .doc = "Lists the objects whose keys begin with PREFIX, in the order of their keys, all as of one instant.\v"
               "PREFIX is plain text: farm finds farmland/x too, farm/ does not.\n"
               "Examples:\n"
               "  sluice ls farm/ -l\n"
               "  sluice ls farm/ --delimiter /        (like a folder: farm/cow2716/ once)\n"
               "  sluice ls farm/ --at -1d --json | jq .key\n" CLI_TIME_DOC CLI_EXIT_DOC};
    struct ls self = {0};
    cli_parse(&argp, argc, argv, &self);

    struct bytes path = {0};
    cli_must_status(bytes_printf(&path, "/v1/objects"));
    cli_query(&path, "prefix", self.prefix);
    cli_query(&path, "delimiter", self.delimiter);
    cli_query(&path, "at", self.timed ? self.at : NULL);
    int code = follow_pages(&self.common, &path, self.prefix, self.limit, show_ls, &self);
    bytes_free(&path);
    return code;
}

/* --- history ----------------------------------------------------------------------------------------------------- */

struct history {
    struct cli_common common;
    const char *key, *clock;
    uint64_t limit;
    bool from_set, to_set, descending, headed;
    char from[CLI_TIME_BYTES], to[CLI_TIME_BYTES];
};

static const struct argp_option history_options[] = {
    {"from", OPTION_FROM, "TIME", 0, "Not before that time", 0},
    {"to", OPTION_TO, "TIME", 0, "Not after that time", 0},
    {"clock", OPTION_CLOCK, "CLOCK", 0, "What the times mean: platform (the store's, default) or object (the sensor's)",
     0},
    {"limit", OPTION_LIMIT, "N", 0, "At most N versions", 0},
    {"desc", OPTION_DESC, NULL, 0, "The newest first", 0},
    {0},
};

static error_t parse_history(int key, char *arg, struct argp_state *state)
{
    struct history *self = state->input;
    switch (key) {
    case ARGP_KEY_INIT:
        state->child_inputs[0] = &self->common;
        return 0;
    case OPTION_FROM:
        cli_time(state, arg, self->from);
        self->from_set = true;
        return 0;
    case OPTION_TO:
        cli_time(state, arg, self->to);
        self->to_set = true;
        return 0;
    case OPTION_CLOCK:
        if (strcmp(arg, "platform") != 0 && strcmp(arg, "object") != 0)
            argp_error(state, "--clock: platform or object was expected; came: %s", arg);
        self->clock = arg;
        return 0;
    case OPTION_LIMIT:
        self->limit = cli_number(state, "--limit", arg, 1, LIMIT_MAX);
        return 0;
    case OPTION_DESC:
        self->descending = true;
        return 0;
    case ARGP_KEY_ARG:
        if (self->key != NULL)
            argp_error(state, "one KEY was expected; came another: %s", arg);
        self->key = arg;
        return 0;
    case ARGP_KEY_END:
        if (self->key == NULL)
            argp_error(state, "a KEY was expected");
        return 0;
    default:
        return ARGP_ERR_UNKNOWN;
    }
}

static uint64_t show_history(void *arg, const json_t *page)
{
    struct history *self = arg;
    struct cli_table table = {.columns = 5};
    char scratch[CLI_NUMBER_BYTES];
    size_t i;
    const json_t *version;
    if (!self->common.json && !self->headed) {
        static const char *const heading[] = {"VERSION", "WHAT", "SIZE", "TYPE", "TIME"};
        for (size_t k = 0; k < 5; k++)
            cli_table_cell(&table, heading[k]);
        self->headed = true;
    }
    json_array_foreach(json_object_get(page, "versions"), i, version)
    {
        if (self->common.json) {
            cli_print_json(version);
            continue;
        }
        bool deleted = json_is_true(json_object_get(version, "deleted"));
        cli_table_cell(&table, cli_member(version, "version", scratch));
        cli_table_cell(&table, version_state(version));
        cli_member_size(version, "size", scratch);
        cli_table_cell(&table, deleted ? "-" : scratch);
        cli_table_cell(&table, deleted ? "-" : cli_member(version, "content_type", scratch));
        cli_table_cell(&table, cli_member(version, "time", scratch));
    }
    cli_table_print(&table);
    return json_array_size(json_object_get(page, "versions"));
}

int cli_history(int argc, char **argv)
{
    static const struct argp argp = {
        .options = history_options,
        .parser = parse_history,
        .children = cli_common_child,
        .args_doc = "KEY",
        .doc = "Lists the versions of an object, the oldest first; a deletion is a version too.\v"
               "Examples:\n"
               "  sluice history farm/cow2716/photo\n"
               "  sluice history farm/cow2716/photo --from -1h --desc --limit 10\n" CLI_TIME_DOC CLI_EXIT_DOC};
    struct history self = {0};
    cli_parse(&argp, argc, argv, &self);

    struct bytes path = {0};
    cli_key_path(&path, "/v1/history/", self.key);
    cli_query(&path, "from", self.from_set ? self.from : NULL);
    cli_query(&path, "to", self.to_set ? self.to : NULL);
    cli_query(&path, "clock", self.clock);
    cli_query(&path, "order", self.descending ? "desc" : NULL);
    int code = follow_pages(&self.common, &path, self.key, self.limit, show_history, &self);
    bytes_free(&path);
    return code;
}

/* --- snapshot ---------------------------------------------------------------------------------------------------- */

struct snapshot {
    struct cli_common common;
    json_t *body;
    bool any;
};

static const struct argp_option snapshot_options[] = {
    {"prefix", OPTION_PREFIX, "P", 0, "All objects whose keys begin with P; may be repeated", 0},
    {"at", OPTION_AT, "TIME", 0, "The instant (default: now)", 0},
    {0},
};

static void snapshot_add(struct snapshot *self, const char *list, const char *text)
{
    json_array_append_new(json_object_get(self->body, list), json_string(text[0] == '/' ? text + 1 : text));
    self->any = true;
}

static error_t parse_snapshot(int key, char *arg, struct argp_state *state)
{
    struct snapshot *self = state->input;
    char at[CLI_TIME_BYTES];
    switch (key) {
    case ARGP_KEY_INIT:
        state->child_inputs[0] = &self->common;
        return 0;
    case OPTION_PREFIX:
        snapshot_add(self, "prefixes", arg);
        return 0;
    case OPTION_AT:
        cli_time(state, arg, at);
        json_object_set_new(self->body, "at", json_string(at));
        return 0;
    case ARGP_KEY_ARG:
        snapshot_add(self, "keys", arg);
        return 0;
    case ARGP_KEY_END:
        if (!self->any)
            argp_error(state, "a KEY or --prefix was expected");
        return 0;
    default:
        return ARGP_ERR_UNKNOWN;
    }
}

static void show_snapshot(const json_t *json)
{
    static const char *const heading[] = {"KEY", "VERSION", "SIZE", "TYPE", "TIME"};
    struct cli_table table = {.columns = 5};
    char scratch[CLI_NUMBER_BYTES];
    size_t i;
    const json_t *object;
    for (size_t k = 0; k < 5; k++)
        cli_table_cell(&table, heading[k]);
    json_array_foreach(json_object_get(json, "objects"), i, object)
    {
        cli_table_cell(&table, cli_member(object, "key", scratch));
        cli_table_cell(&table, cli_member(object, "version", scratch));
        cli_member_size(object, "size", scratch);
        cli_table_cell(&table, scratch);
        cli_table_cell(&table, cli_member(object, "content_type", scratch));
        cli_table_cell(&table, cli_member(object, "time", scratch));
    }
    json_array_foreach(json_object_get(json, "missing"), i, object)
    {
        cli_table_cell(&table, json_is_string(object) ? json_string_value(object) : "-");
        cli_table_cell(&table, "missing");
        for (size_t k = 2; k < 5; k++)
            cli_table_cell(&table, "-");
    }
    cli_table_print(&table);
    printf("all as of %s ns\n", cli_member(json, "at_ns", scratch));
}

int cli_snapshot(int argc, char **argv)
{
    static const struct argp argp = {
        .options = snapshot_options,
        .parser = parse_snapshot,
        .children = cli_common_child,
        .args_doc = "[KEY...]",
        .doc =
            "Reads many objects as of one instant, a consistent cut over all shards. With --json the values come too, "
            "in base64.\v"
            "Examples:\n"
            "  sluice snapshot farm/gate farm/cow2716/position\n"
            "  sluice snapshot --prefix farm/ --at -10m\n"
            "  sluice snapshot farm/gate --json | jq -r '.objects[0].data' | base64 -d\n" CLI_TIME_DOC CLI_EXIT_DOC};
    struct snapshot self = {.body = cli_must(json_pack("{s:[],s:[]}", "keys", "prefixes"))};
    cli_parse(&argp, argc, argv, &self);

    char *body = cli_must(json_dumps(self.body, JSON_COMPACT));
    struct http_request request = {
        .method = "POST", .path = "/v1/snapshot", .body = body, .body_size = strlen(body), .repeatable = true};
    struct http_answer answer = {0};
    http_add(&self.common, &request, "Content-Type", "application/json");
    int code = http_call(&self.common, &request, &answer);
    json_t *json = code == CLI_OK ? http_json(&self.common, &answer) : NULL;
    if (json != NULL && self.common.json)
        cli_print_json(json);
    else if (json != NULL)
        show_snapshot(json);
    else if (code == CLI_OK)
        code = CLI_ERROR;
    json_decref(json);
    json_decref(self.body);
    free(body);
    http_answer_free(&answer);
    return code;
}

/* watch: changes as they happen, from a cursor or from now on, through lost connections. */
#include <string.h>

#include "cli/http.h"
#include "core/base/text.h"

#define COUNT_MAX (UINT64_C(1) << 53)

#define SILENCE_SECONDS 15L /* progress comes once a second */

enum { OPTION_PREFIX = 256, OPTION_GLOB, OPTION_REGEX, OPTION_KEY, OPTION_FROM, OPTION_DATA, OPTION_PROGRESS };

struct watch {
    struct cli_common common;
    const char *pattern, *kind, *from;
    bool data, progress;
    uint64_t count, seen;
};

static const struct argp_option watch_options[] = {
    {"key", OPTION_KEY, NULL, 0, "PATTERN is one key", 0},
    {"prefix", OPTION_PREFIX, NULL, 0, "PATTERN is how keys begin", 0},
    {"glob", OPTION_GLOB, NULL, 0, "PATTERN is a glob: * within a segment, ** across", 0},
    {"regex", OPTION_REGEX, NULL, 0, "PATTERN is a regular expression (RE2) for the whole key", 0},
    {"from", OPTION_FROM, "CURSOR", 0, "Go on after that event (default: from now on)", 0},
    {"data", OPTION_DATA, NULL, 0, "The values too", 0},
    {"progress", OPTION_PROGRESS, NULL, 0, "Also show up to which time everything has been seen", 0},
    {"count", 'n', "N", 0, "End after N changes", 0},
    {0},
};

static void set_kind(const struct argp_state *state, struct watch *self, const char *kind)
{
    if (self->kind != NULL)
        argp_error(state, "--key, --prefix, --glob and --regex exclude each other");
    self->kind = kind;
}

/* Without an option the pattern's look decides. */
static const char *guess_kind(const char *pattern)
{
    size_t length = strlen(pattern);
    if (strpbrk(pattern, "*?[") != NULL)
        return "glob";
    return length == 0 || pattern[length - 1] == '/' ? "prefix" : "key";
}

static error_t parse_watch(int key, char *arg, struct argp_state *state)
{
    struct watch *self = state->input;
    switch (key) {
    case ARGP_KEY_INIT:
        state->child_inputs[0] = &self->common;
        return 0;
    case OPTION_KEY:
        set_kind(state, self, "key");
        return 0;
    case OPTION_PREFIX:
        set_kind(state, self, "prefix");
        return 0;
    case OPTION_GLOB:
        set_kind(state, self, "glob");
        return 0;
    case OPTION_REGEX:
        set_kind(state, self, "regex");
        return 0;
    case OPTION_FROM:
        self->from = arg;
        return 0;
    case OPTION_DATA:
        self->data = true;
        return 0;
    case OPTION_PROGRESS:
        self->progress = true;
        return 0;
    case 'n':
        self->count = cli_number(state, "--count", arg, 1, COUNT_MAX);
        return 0;
    case ARGP_KEY_ARG:
        if (self->pattern != NULL)
            argp_error(state, "one PATTERN was expected; came another: %s (does a shell expand it? quote it)", arg);
        self->pattern = arg;
        return 0;
    case ARGP_KEY_END:
        if (self->pattern == NULL)
            argp_error(state, "a PATTERN was expected");
        if (self->kind == NULL)
            self->kind = guess_kind(self->pattern);
        if (strcmp(self->kind, "regex") != 0 && self->pattern[0] == '/')
            self->pattern++;
        return 0;
    default:
        return ARGP_ERR_UNKNOWN;
    }
}

/* The event's JSON with what only the stream says: its kind and the cursor to go on from. */
static void show_json(const struct http_event *event, json_t *json)
{
    json_object_set_new(json, "event", json_string(event->type));
    if (event->id[0] != '\0')
        json_object_set_new(json, "cursor", json_string(event->id));
    cli_print_json(json);
}

static bool readable(const struct bytes *value)
{
    for (size_t i = 0; i < value->size; i++)
        if ((value->data[i] < 0x20 && value->data[i] != '\n' && value->data[i] != '\t') || value->data[i] == 0x7f)
            return false;
    return text_utf8_valid((const char *)value->data, value->size);
}

static void show_value(const json_t *json)
{
    const char *data = json_string_value(json_object_get(json, "data"));
    struct bytes value = {0};
    if (json_is_true(json_object_get(json, "truncated"))) {
        printf("    (too large for an event; \"sluice get KEY --version N\" reads it)\n");
    } else if (data != NULL && cli_base64_decode(data, &value)) {
        if (readable(&value) && value.size > 0)
            printf("%.*s%s", (int)value.size, (const char *)value.data, value.data[value.size - 1] == '\n' ? "" : "\n");
        else
            printf("    (%zu bytes that are no text; --json shows them in base64)\n", value.size);
    }
    bytes_free(&value);
}

static void show_event(const struct watch *self, const struct http_event *event, const json_t *json)
{
    char version[CLI_NUMBER_BYTES], size[CLI_NUMBER_BYTES], scratch[CLI_NUMBER_BYTES];
    struct bytes line = {0};
    bool deleted = strcmp(event->type, "delete") == 0;
    cli_member_size(json, "size", size);
    cli_must_status(bytes_printf(&line, "%s  %-6s  %s  version %s%s%s\n", cli_member(json, "time", scratch),
                                 event->type, cli_member(json, "key", scratch), cli_member(json, "version", version),
                                 deleted ? "" : "  ", deleted ? "" : size));
    cli_print_text(stdout, cli_text(&line), line.size);
    bytes_free(&line);
    if (self->data)
        show_value(json);
}

static bool on_event(void *arg, const struct http_event *event)
{
    struct watch *self = arg;
    json_error_t error;
    char scratch[CLI_NUMBER_BYTES];
    bool progress = strcmp(event->type, "progress") == 0;
    if (progress && !self->progress)
        return true;
    json_t *json = json_loadb(event->data, event->data_size, 0, &error);
    if (!json_is_object(json)) {
        cli_complain(&self->common, "an event of type %s is no JSON object (%s)", event->type, error.text);
        json_decref(json);
        return true;
    }
    if (self->common.json)
        show_json(event, json);
    else if (progress)
        printf("everything up to %s ns has been seen\n", cli_member(json, "closed_ns", scratch));
    else
        show_event(self, event, json);
    json_decref(json);
    self->seen += !progress;
    /* Who reads this through a pipe wants it now; and once nobody reads, it is over. */
    return fflush(stdout) == 0 && (self->count == 0 || self->seen < self->count);
}

int cli_watch(int argc, char **argv)
{
    static const struct argp argp = {
        .options = watch_options,
        .parser = parse_watch,
        .children = cli_common_child,
        .args_doc = "PATTERN",
        .doc = "Shows changes of the objects that match PATTERN as they happen, until it is interrupted. When the "
               "connection is lost it goes on where it stopped: nothing is missed and nothing comes twice.\v"
               "Without --key, --prefix, --glob or --regex, a PATTERN that ends with / is a prefix, one with any of "
               "* ? [ is a glob, any other is a key. With --json each event carries the cursor to go on from.\n"
               "Examples:\n"
               "  sluice watch farm/\n"
               "  sluice watch 'farm/*/temperature' --data\n"
               "  sluice watch --regex 'farm/cow[0-9]+/photo' --json | jq -r .key\n"
               "  sluice watch farm/gate -n 1     (waits for the next change)\n" CLI_EXIT_DOC};
    struct watch self = {0};
    cli_parse(&argp, argc, argv, &self);

    struct bytes path = {0};
    cli_must_status(bytes_printf(&path, "/v1/watch"));
    cli_query(&path, self.kind, self.pattern);
    cli_query(&path, "from", self.from);
    cli_query(&path, "data", self.data ? "true" : NULL);
    int code = http_follow(&self.common, cli_text(&path), self.pattern, SILENCE_SECONDS, on_event, &self);
    bytes_free(&path);
    return code;
}

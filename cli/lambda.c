/* lambda: code that the store runs when objects change. */
#include <stdlib.h>
#include <string.h>

#include "cli/http.h"

#define SILENCE_SECONDS 45L /* the gateway keeps a silent stream alive every 15 to 20 */

enum { OPTION_NAME = 256, OPTION_CONFIG };

struct lambda {
    struct cli_common common;
    const char *argument, *name; /* what stands on the line, and --name */
    const char *expected;        /* what argument is, for messages; NULL: there is none */
    json_t *config;
};

static error_t parse_one(int key, char *arg, struct argp_state *state)
{
    struct lambda *self = state->input;
    switch (key) {
    case ARGP_KEY_INIT:
        state->child_inputs[0] = &self->common;
        return 0;
    case ARGP_KEY_ARG:
        if (self->expected == NULL)
            argp_error(state, "no argument was expected; came: %s", arg);
        if (self->argument != NULL)
            argp_error(state, "one %s was expected; came another: %s", self->expected, arg);
        self->argument = arg;
        return 0;
    case ARGP_KEY_END:
        if (self->expected != NULL && self->argument == NULL)
            argp_error(state, "a %s was expected", self->expected);
        return 0;
    default:
        return ARGP_ERR_UNKNOWN;
    }
}

static void lambda_path(struct bytes *out, const char *name, const char *action)
{
    cli_must_status(bytes_printf(out, "/v1/lambdas/"));
    cli_encode(out, name, true);
    if (action != NULL)
        cli_must_status(bytes_printf(out, "/%s", action));
}

/* --- ls, get ----------------------------------------------------------------------------------------------------- */

static void add_row(struct cli_table *table, const json_t *lambda)
{
    static const char *const members[] = {"name", "version", "state", "events", "failures", "parked", "queued"};
    char scratch[CLI_NUMBER_BYTES];
    for (size_t i = 0; i < sizeof(members) / sizeof(members[0]); i++)
        cli_table_cell(table, cli_member(lambda, members[i], scratch));
    const char *error = json_string_value(json_object_get(lambda, "error"));
    cli_table_cell(table, error != NULL ? error : "-");
}

static void show_lambdas(const json_t *list)
{
    static const char *const heading[] = {"NAME",     "VERSION", "STATE",  "EVENTS",
                                          "FAILURES", "PARKED",  "QUEUED", "ERROR"};
    struct cli_table table = {.columns = 8};
    size_t i;
    const json_t *lambda;
    for (size_t k = 0; k < 8; k++)
        cli_table_cell(&table, heading[k]);
    if (json_is_object(list))
        add_row(&table, list);
    json_array_foreach(list, i, lambda) add_row(&table, lambda);
    cli_table_print(&table);
}

static int lambda_ls(int argc, char **argv)
{
    static const struct argp argp = {
        .parser = parse_one,
        .children = cli_common_child,
        .doc = "Lists the lambdas and how they fare.\vExample:\n  sluice lambda ls\n" CLI_EXIT_DOC};
    struct lambda self = {0};
    json_t *json = NULL;
    size_t i;
    const json_t *lambda;
    cli_parse(&argp, argc, argv, &self);
    int code = http_get_json(&self.common, "/v1/lambdas", NULL, &json);
    if (code != CLI_OK)
        return code;
    const json_t *list = json_object_get(json, "lambdas");
    if (list == NULL)
        list = json;
    if (!self.common.json)
        show_lambdas(list);
    else
        json_array_foreach(list, i, lambda) cli_print_json(lambda);
    json_decref(json);
    return CLI_OK;
}

static int lambda_get(int argc, char **argv)
{
    static const struct argp argp = {.parser = parse_one,
                                     .children = cli_common_child,
                                     .args_doc = "NAME",
                                     .doc = "Shows one lambda: its state, watches, counters and errors, as JSON.\v"
                                            "Example:\n  sluice lambda get shapes | jq .counters\n" CLI_EXIT_DOC};
    struct lambda self = {.expected = "NAME"};
    struct bytes path = {0};
    json_t *json = NULL;
    cli_parse(&argp, argc, argv, &self);
    lambda_path(&path, self.argument, NULL);
    int code = http_get_json(&self.common, cli_text(&path), self.argument, &json);
    if (code == CLI_OK && self.common.json)
        cli_print_json(json);
    else if (code == CLI_OK && json_dumpf(json, stdout, JSON_INDENT(2)) == 0)
        putchar('\n');
    json_decref(json);
    bytes_free(&path);
    return code;
}

/* --- put --------------------------------------------------------------------------------------------------------- */

static const struct argp_option put_options[] = {
    {"name", OPTION_NAME, "NAME", 0, "What it is called (default: the file's name without .so)", 0},
    {"config", OPTION_CONFIG, "JSON", 0, "What its initialize is given; @FILE reads it from a file", 0},
    {0},
};

static json_t *read_config(const struct argp_state *state, const struct lambda *self, const char *arg)
{
    struct bytes text = {0};
    json_error_t error;
    if (arg[0] == '@' && !cli_read_file(&self->common, arg + 1, &text))
        exit(CLI_ERROR);
    json_t *config = arg[0] == '@' ? json_loadb((const char *)text.data, text.size, JSON_REJECT_DUPLICATES, &error)
                                   : json_loads(arg, JSON_REJECT_DUPLICATES, &error);
    if (!json_is_object(config))
        argp_error(state, "--config: a JSON object was expected: %s",
                   config == NULL ? error.text : "this is another value");
    bytes_free(&text);
    return config;
}

static error_t parse_put(int key, char *arg, struct argp_state *state)
{
    struct lambda *self = state->input;
    switch (key) {
    case OPTION_NAME:
        self->name = arg;
        return 0;
    case OPTION_CONFIG:
        json_decref(self->config);
        self->config = read_config(state, self, arg);
        return 0;
    default:
        return parse_one(key, arg, state);
    }
}

/* build/lambdas/shapes.so is called shapes. */
static char *name_of(const char *path)
{
    const char *slash = strrchr(path, '/');
    char *name = cli_must(strdup(slash != NULL ? slash + 1 : path));
    size_t length = strlen(name);
    if (length > 3 && strcmp(name + length - 3, ".so") == 0)
        name[length - 3] = '\0';
    return name;
}

static void add_part(curl_mime *mime, const char *name, const char *type, const char *file_name, const void *data,
                     size_t size)
{
    curl_mimepart *part = cli_must(curl_mime_addpart(mime));
    if (curl_mime_name(part, name) != CURLE_OK || curl_mime_type(part, type) != CURLE_OK ||
        (file_name != NULL && curl_mime_filename(part, file_name) != CURLE_OK) ||
        curl_mime_data(part, data, size) != CURLE_OK)
        cli_must(NULL);
}

static int upload(const struct lambda *self, const char *name, struct bytes *file)
{
    json_t *manifest = cli_must(json_pack("{s:s}", "name", name));
    if (self->config != NULL)
        json_object_set(manifest, "config", self->config);
    char *text = cli_must(json_dumps(manifest, JSON_COMPACT));
    struct http_request request = {.method = "POST", .path = "/v1/lambdas", .what = name};
    struct http_answer answer = {0};
    request.mime = cli_must(curl_mime_init(http_handle()));
    add_part(request.mime, "manifest", "application/json", NULL, text, strlen(text));
    add_part(request.mime, "file", "application/octet-stream", "lambda.so", cli_text(file), file->size);
    int code = http_call(&self->common, &request, &answer);
    json_t *json = code == CLI_OK ? http_json(&self->common, &answer) : NULL;
    char version[CLI_NUMBER_BYTES], scratch[CLI_NUMBER_BYTES];
    if (json != NULL && self->common.json)
        cli_print_json(json);
    else if (json != NULL)
        printf("%s: version %s, %s\n", name, cli_member(json, "version", version), cli_member(json, "state", scratch));
    else if (code == CLI_OK)
        code = CLI_ERROR;
    json_decref(json);
    json_decref(manifest);
    free(text);
    http_answer_free(&answer);
    return code;
}

static int lambda_put(int argc, char **argv)
{
    static const struct argp argp = {
        .options = put_options,
        .parser = parse_put,
        .children = cli_common_child,
        .args_doc = "FILE",
        .doc = "Uploads a shared object and puts it to work, or replaces the one of that name. It is tried in a "
               "process of "
               "its own first; when it is refused, the version before stays in service.\v"
               "Examples:\n"
               "  sluice lambda put shapes.so\n"
               "  sluice lambda put shapes.so --name cows --config '{\"watch\":\"farm/*/photo\"}'\n" CLI_EXIT_DOC};
    struct lambda self = {.expected = "FILE"};
    struct bytes file = {0};
    cli_parse(&argp, argc, argv, &self);
    char *name = self.name != NULL ? cli_must(strdup(self.name)) : name_of(self.argument);
    int code = cli_read_file(&self.common, self.argument, &file) ? upload(&self, name, &file) : CLI_ERROR;
    json_decref(self.config);
    bytes_free(&file);
    free(name);
    return code;
}

/* --- rm, enable, disable ----------------------------------------------------------------------------------------- */

static int act(const struct argp *argp, int argc, char **argv, const char *method, const char *action, const char *done)
{
    struct lambda self = {.expected = "NAME"};
    struct bytes path = {0};
    struct http_answer answer = {0};
    cli_parse(argp, argc, argv, &self);
    lambda_path(&path, self.argument, action);
    struct http_request request = {.method = method, .path = cli_text(&path), .what = self.argument};
    if (action != NULL) { /* to enable twice is to enable once */
        request.body = "";
        request.repeatable = true;
    }
    int code = http_call(&self.common, &request, &answer);
    if (code == CLI_OK && self.common.json)
        printf("%s\n", answer.body.size > 0 ? cli_text(&answer.body) : "{}");
    else if (code == CLI_OK)
        printf("%s: %s\n", self.argument, done);
    http_answer_free(&answer);
    bytes_free(&path);
    return code;
}

static int lambda_rm(int argc, char **argv)
{
    static const struct argp argp = {.parser = parse_one,
                                     .children = cli_common_child,
                                     .args_doc = "NAME",
                                     .doc = "Removes a lambda from all nodes and ends its watches.\v"
                                            "Example:\n  sluice lambda rm shapes\n" CLI_EXIT_DOC};
    return act(&argp, argc, argv, "DELETE", NULL, "removed");
}

static int lambda_enable(int argc, char **argv)
{
    static const struct argp argp = {.parser = parse_one,
                                     .children = cli_common_child,
                                     .args_doc = "NAME",
                                     .doc = "Puts a lambda to work again; it goes on where it stopped.\v"
                                            "Example:\n  sluice lambda enable shapes\n" CLI_EXIT_DOC};
    return act(&argp, argc, argv, "POST", "enable", "enabled");
}

static int lambda_disable(int argc, char **argv)
{
    static const struct argp argp = {.parser = parse_one,
                                     .children = cli_common_child,
                                     .args_doc = "NAME",
                                     .doc = "Stops a lambda; its place in the log is kept.\v"
                                            "Example:\n  sluice lambda disable shapes\n" CLI_EXIT_DOC};
    return act(&argp, argc, argv, "POST", "disable", "disabled");
}

/* --- log --------------------------------------------------------------------------------------------------------- */

static bool on_line(void *arg, const struct http_event *event)
{
    struct lambda *self = arg;
    json_t *line = json_stringn(event->data, event->data_size);
    if (self->common.json && line != NULL) {
        cli_print_json(line);
    } else {
        cli_print_text(stdout, event->data, event->data_size);
        putchar('\n');
    }
    json_decref(line);
    return fflush(stdout) == 0;
}

static int lambda_log(int argc, char **argv)
{
    static const struct argp argp = {.parser = parse_one,
                                     .children = cli_common_child,
                                     .args_doc = "NAME",
                                     .doc = "Follows what a lambda logs, until it is interrupted.\v"
                                            "Example:\n  sluice lambda log shapes\n" CLI_EXIT_DOC};
    struct lambda self = {.expected = "NAME"};
    struct bytes path = {0};
    cli_parse(&argp, argc, argv, &self);
    lambda_path(&path, self.argument, "log");
    int code = http_follow(&self.common, cli_text(&path), self.argument, SILENCE_SECONDS, on_line, &self);
    bytes_free(&path);
    return code;
}

int cli_lambda(int argc, char **argv)
{
    static const struct cli_command commands[] = {
        {"ls", "list the lambdas", lambda_ls},
        {"get", "show one: watches, counters, errors", lambda_get},
        {"put", "upload one, or its next version", lambda_put},
        {"rm", "remove one", lambda_rm},
        {"enable", "put one to work again", lambda_enable},
        {"disable", "stop one; it keeps its place", lambda_disable},
        {"log", "follow what one logs", lambda_log},
        {0},
    };
    return cli_dispatch("sluice lambda", "A lambda is code that the store runs the moment an object changes.\n",
                        commands, argc, argv);
}

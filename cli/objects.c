/* put, get, rm: one object. */
#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "cli/http.h"

#define VERSION_MAX UINT64_C(18446744073709551615)

static error_t one_key(struct argp_state *state, const char **key, char *arg)
{
    if (*key != NULL)
        argp_error(state, "one KEY was expected; came another: %s", arg);
    if (*arg == '\0')
        argp_error(state, "a KEY is at least one character");
    *key = arg;
    return 0;
}

/* --if-match takes 3, "3" or an epoch and a version, 2.3; the header wants quotes. */
static void add_if_match(const struct cli_common *common, struct http_request *request, const char *version)
{
    struct bytes tag = {0};
    if (version == NULL)
        return;
    bool bare = version[0] != '"' && strcmp(version, "*") != 0;
    cli_must_status(bytes_printf(&tag, bare ? "\"%s\"" : "%s", version));
    http_add(common, request, "If-Match", cli_text(&tag));
    bytes_free(&tag);
}

/* What a write answers: a line for people, or the server's JSON. */
static int show_written(const struct cli_common *common, struct http_answer *answer, const char *verb)
{
    json_t *json = http_json(common, answer);
    char version[CLI_NUMBER_BYTES], shard[CLI_NUMBER_BYTES], size[CLI_NUMBER_BYTES];
    if (json == NULL)
        return CLI_ERROR;
    if (common->json) {
        cli_print_json(json);
    } else if (answer->status == 202) { /* a trigger pool keeps nothing */
        struct bytes line = {0};
        cli_must_status(bytes_printf(&line, "%s: triggered at %s\n", cli_member(json, "key", version),
                                     cli_member(json, "time", shard)));
        cli_print_text(stdout, cli_text(&line), line.size);
        bytes_free(&line);
    } else {
        struct bytes line = {0};
        cli_member_size(json, "size", size);
        bool sized = json_object_get(json, "size") != NULL && strcmp(verb, "deleted") != 0;
        bool volatile_now = json_is_false(json_object_get(json, "durable"));
        cli_must_status(bytes_printf(&line, "%s: version %s %s at %s%s%s, shard %s%s\n", cli_member(json, "key", shard),
                                     cli_member(json, "version", version), verb, cli_member(json, "time", shard),
                                     sized ? ", " : "", sized ? size : "", cli_member(json, "shard", shard),
                                     volatile_now ? ", not on disk yet" : ""));
        cli_print_text(stdout, cli_text(&line), line.size);
        bytes_free(&line);
    }
    json_decref(json);
    return CLI_OK;
}

/* --- put --------------------------------------------------------------------------------------------------------- */

struct put {
    struct cli_common common;
    const char *key, *file, *content_type, *if_match, *idempotency, *ack;
    bool absent, timed;
    char object_time[CLI_TIME_BYTES];
};

enum { OPTION_IF_MATCH = 256, OPTION_ABSENT, OPTION_OBJECT_TIME, OPTION_IDEMPOTENCY, OPTION_ACK, OPTION_AT };

static const struct argp_option put_options[] = {
    {"content-type", 't', "TYPE", 0, "What the bytes are (default: by the file's extension)", 0},
    {"if-match", OPTION_IF_MATCH, "V", 0, "Only where the latest version is V; \"*\": where there is one", 0},
    {"if-none-match", OPTION_ABSENT, NULL, 0, "Only where nothing is", 0},
    {"object-time", OPTION_OBJECT_TIME, "TIME", 0, "When the sensor took it", 0},
    {"idempotency-key", OPTION_IDEMPOTENCY, "K", 0,
     "The same K again writes nothing and answers as the first time (default: one of its own, so that a lost answer "
     "can "
     "be asked for again)",
     0},
    {"ack", OPTION_ACK, "WHEN", 0, "persisted: once it is on a quorum's disks (default); delivered: in their memory",
     0},
    {0},
};

static error_t parse_put(int key, char *arg, struct argp_state *state)
{
    struct put *self = state->input;
    switch (key) {
    case ARGP_KEY_INIT:
        state->child_inputs[0] = &self->common;
        return 0;
    case 't':
        self->content_type = arg;
        return 0;
    case OPTION_IF_MATCH:
        self->if_match = arg;
        return 0;
    case OPTION_ABSENT:
        self->absent = true;
        return 0;
    case OPTION_OBJECT_TIME:
        cli_time(state, arg, self->object_time);
        self->timed = true;
        return 0;
    case OPTION_IDEMPOTENCY:
        self->idempotency = arg;
        return 0;
    case OPTION_ACK:
        if (strcmp(arg, "persisted") != 0 && strcmp(arg, "delivered") != 0)
            argp_error(state, "--ack: persisted or delivered was expected; came: %s", arg);
        self->ack = arg;
        return 0;
    case ARGP_KEY_ARG:
        if (state->arg_num == 0)
            return one_key(state, &self->key, arg);
        if (state->arg_num > 1)
            argp_error(state, "KEY and FILE were expected; came another: %s", arg);
        self->file = arg;
        return 0;
    case ARGP_KEY_END:
        if (self->key == NULL)
            argp_error(state, "a KEY was expected");
        if (self->absent && self->if_match != NULL)
            argp_error(state, "--if-match and --if-none-match exclude each other");
        return 0;
    default:
        return ARGP_ERR_UNKNOWN;
    }
}

int cli_put(int argc, char **argv)
{
    static const struct argp argp = {
        .options = put_options,
        .parser = parse_put,
        .children = cli_common_child,
        .args_doc = "KEY [FILE|-]",
        .doc =
            "Writes a new version of an object from FILE, or from standard input.\v"
            "A KEY is a path: farm/cow2716/photo. Once this has succeeded, the version is on the disks of a quorum.\n"
            "Examples:\n"
            "  sluice put farm/cow2716/photo cow.jpg\n"
            "  echo 38.5 | sluice put farm/cow2716/temperature --content-type text/plain\n"
            "  sluice put config/feeding plan.json --if-match 3     (nobody else has changed it)\n"
            "  sluice put locks/gate - --if-none-match </dev/null   (the first one wins)\n" CLI_TIME_DOC CLI_EXIT_DOC};
    struct put self = {.file = "-"};
    cli_parse(&argp, argc, argv, &self);

    struct bytes value = {0}, path = {0};
    struct http_answer answer = {0};
    int code = CLI_ERROR;
    if (cli_read_file(&self.common, self.file, &value)) {
        cli_key_path(&path, "/v1/objects/", self.key);
        cli_query(&path, "ack", self.ack);
        struct http_request request = {
            .method = "PUT", .path = cli_text(&path), .what = self.key, .body = cli_text(&value)};
        request.body_size = value.size;
        http_add(&self.common, &request, "Content-Type",
                 self.content_type != NULL ? self.content_type : cli_content_type(self.file));
        add_if_match(&self.common, &request, self.if_match);
        http_add(&self.common, &request, "If-None-Match", self.absent ? "*" : NULL);
        http_add(&self.common, &request, "Sluice-Object-Time", self.timed ? self.object_time : NULL);
        http_add_idempotency(&self.common, &request, self.idempotency);
        code = http_call(&self.common, &request, &answer);
        if (code == CLI_OK)
            code = show_written(&self.common, &answer, "written");
    }
    http_answer_free(&answer);
    bytes_free(&path);
    bytes_free(&value);
    return code;
}

/* --- rm ---------------------------------------------------------------------------------------------------------- */

struct rm {
    struct cli_common common;
    const char *key, *if_match, *idempotency;
};

static const struct argp_option rm_options[] = {
    {"if-match", OPTION_IF_MATCH, "V", 0, "Only where the latest version is V", 0},
    {"idempotency-key", OPTION_IDEMPOTENCY, "K", 0, "The same K again deletes nothing and answers as the first time",
     0},
    {0},
};

static error_t parse_rm(int key, char *arg, struct argp_state *state)
{
    struct rm *self = state->input;
    switch (key) {
    case ARGP_KEY_INIT:
        state->child_inputs[0] = &self->common;
        return 0;
    case OPTION_IF_MATCH:
        self->if_match = arg;
        return 0;
    case OPTION_IDEMPOTENCY:
        self->idempotency = arg;
        return 0;
    case ARGP_KEY_ARG:
        return one_key(state, &self->key, arg);
    case ARGP_KEY_END:
        if (self->key == NULL)
            argp_error(state, "a KEY was expected");
        return 0;
    default:
        return ARGP_ERR_UNKNOWN;
    }
}

int cli_rm(int argc, char **argv)
{
    static const struct argp argp = {
        .options = rm_options,
        .parser = parse_rm,
        .children = cli_common_child,
        .args_doc = "KEY",
        .doc = "Deletes an object. Its older versions stay readable by number and by time.\v"
               "Examples:\n"
               "  sluice rm farm/cow2716/photo\n"
               "  sluice get farm/cow2716/photo --at -1h   (it is still there)\n" CLI_EXIT_DOC};
    struct rm self = {0};
    cli_parse(&argp, argc, argv, &self);

    struct bytes path = {0};
    struct http_answer answer = {0};
    cli_key_path(&path, "/v1/objects/", self.key);
    struct http_request request = {.method = "DELETE", .path = cli_text(&path), .what = self.key};
    add_if_match(&self.common, &request, self.if_match);
    http_add_idempotency(&self.common, &request, self.idempotency);
    int code = http_call(&self.common, &request, &answer);
    if (code == CLI_OK)
        code = show_written(&self.common, &answer, "deleted");
    http_answer_free(&answer);
    bytes_free(&path);
    return code;
}

/* --- get --------------------------------------------------------------------------------------------------------- */

struct get {
    struct cli_common common;
    const char *key, *file, *clock, *consistency, *range;
    bool timed;
    char version[CLI_NUMBER_BYTES], at[CLI_TIME_BYTES];
};

static const struct argp_option get_options[] = {
    {"output", 'o', "FILE", 0, "Write the value there; FILE is replaced only once all has come", 0},
    {"version", 'v', "N", 0, "That version", 0},
    {"at", OPTION_AT, "TIME", 0, "The version that was the latest at that time", 0},
    {"clock", 'c', "CLOCK", 0,
     "What --at means: platform (when the store took it, the default) or object (the sensor's)", 0},
    {"consistency", 's', "HOW", 0, "linearizable (default) or stable: any replica answers, maybe with an older version",
     0},
    {"range", 'r', "A-B", 0, "Bytes A to B, counted from 0; A- to the end; -N the last N", 0},
    {0},
};

static error_t parse_get(int key, char *arg, struct argp_state *state)
{
    struct get *self = state->input;
    switch (key) {
    case ARGP_KEY_INIT:
        state->child_inputs[0] = &self->common;
        return 0;
    case 'o':
        self->file = arg;
        return 0;
    case 'v':
        snprintf(self->version, sizeof(self->version), "%llu",
                 (unsigned long long)cli_number(state, "--version", arg, 1, VERSION_MAX));
        return 0;
    case OPTION_AT:
        cli_time(state, arg, self->at);
        self->timed = true;
        return 0;
    case 'c':
        if (strcmp(arg, "platform") != 0 && strcmp(arg, "object") != 0)
            argp_error(state, "--clock: platform or object was expected; came: %s", arg);
        self->clock = arg;
        return 0;
    case 's':
        if (strcmp(arg, "linearizable") != 0 && strcmp(arg, "stable") != 0)
            argp_error(state, "--consistency: linearizable or stable was expected; came: %s", arg);
        self->consistency = arg;
        return 0;
    case 'r':
        if (strchr(arg, '-') == NULL || arg[strspn(arg, "0123456789-")] != '\0' ||
            strchr(arg, '-') != strrchr(arg, '-'))
            argp_error(state, "--range: bytes like 0-99 were expected; came: %s", arg);
        self->range = arg;
        return 0;
    case ARGP_KEY_ARG:
        return one_key(state, &self->key, arg);
    case ARGP_KEY_END:
        if (self->key == NULL)
            argp_error(state, "a KEY was expected");
        if (self->version[0] != '\0' && self->timed)
            argp_error(state, "--version and --at exclude each other");
        return 0;
    default:
        return ARGP_ERR_UNKNOWN;
    }
}

/* A regular file appears whole or not at all; a device, a pipe or a link is written as it is. */
struct output {
    const struct cli_common *common;
    const char *path;
    char *partial;
    FILE *file;
};

static bool output_open(struct output *self)
{
    struct bytes name = {0};
    struct stat info;
    if (lstat(self->path, &info) == 0 && !S_ISREG(info.st_mode)) {
        self->file = fopen(self->path, "wb");
        if (self->file == NULL)
            cli_complain(self->common, "%s cannot be written: %s", self->path, strerror(errno));
        return self->file != NULL;
    }
    cli_must_status(bytes_printf(&name, "%s.XXXXXX", self->path));
    self->partial = cli_must(strdup(cli_text(&name)));
    bytes_free(&name);
    int fd = mkostemp(self->partial, O_CLOEXEC);
    mode_t mask = umask(0);
    (void)umask(mask);
    if (fd >= 0 && fchmod(fd, 0666 & ~mask) == 0)
        self->file = fdopen(fd, "wb");
    if (self->file != NULL)
        return true;
    cli_complain(self->common, "%s cannot be written: %s", self->path, strerror(errno));
    return false;
}

static bool output_end(struct output *self, bool good)
{
    if (self->file != NULL && fclose(self->file) != 0 && good) {
        cli_complain(self->common, "%s cannot be written: %s", self->path, strerror(errno));
        good = false;
    }
    if (good && self->partial != NULL && rename(self->partial, self->path) != 0) {
        cli_complain(self->common, "%s cannot be written: %s", self->path, strerror(errno));
        good = false;
    }
    if (!good && self->partial != NULL)
        (void)unlink(self->partial);
    free(self->partial);
    return good;
}

static bool to_file(void *arg, const char *data, size_t size)
{
    struct output *output = arg;
    if (fwrite(data, 1, size, output->file) == size)
        return true;
    cli_complain(output->common, "%s cannot be written: %s", output->path, strerror(errno));
    return false;
}

/* The facts that came as headers, and the value where it went nowhere else. */
static void show_facts(const struct get *self, struct http_answer *answer)
{
    static const struct {
        const char *header, *name;
    } known[] = {{"Sluice-Version", "version"},
                 {"Sluice-Revision", "revision"},
                 {"Sluice-Time", "time"},
                 {"Sluice-Object-Time", "object_time"},
                 {"ETag", "etag"},
                 {"Content-Type", "content_type"},
                 {"Content-Range", "content_range"}};
    const char *key = self->key[0] == '/' ? self->key + 1 : self->key;
    json_t *json = cli_must(json_pack("{s:s}", "key", key));
    for (size_t i = 0; i < sizeof(known) / sizeof(known[0]); i++) {
        const char *value = http_header(answer, known[i].header);
        char *end = NULL;
        long long number = value != NULL ? strtoll(value, &end, 10) : 0;
        bool numeric = i < 2 && value != NULL && end != value && *end == '\0';
        if (value != NULL)
            json_object_set_new(json, known[i].name, numeric ? json_integer(number) : json_string(value));
    }
    if (self->file == NULL) {
        struct bytes text = {0};
        cli_base64_encode(answer->body.data, answer->body.size, &text);
        json_object_set_new(json, "size", json_integer((json_int_t)answer->body.size));
        json_object_set_new(json, "data", json_stringn((const char *)text.data, text.size));
        bytes_free(&text);
    } else {
        json_object_set_new(json, "file", json_string(self->file));
    }
    cli_print_json(json);
    json_decref(json);
}

int cli_get(int argc, char **argv)
{
    static const struct argp argp = {
        .options = get_options,
        .parser = parse_get,
        .children = cli_common_child,
        .args_doc = "KEY",
        .doc =
            "Reads an object to standard output: the latest version, a version by its number, or what was there at a "
            "time.\v"
            "A read at a time waits until nothing can change what was there then, and gives the same bytes for ever. "
            "With --json the facts are shown, and the value in base64 unless -o takes it.\n"
            "Examples:\n"
            "  sluice get farm/cow2716/photo -o cow.jpg\n"
            "  sluice get farm/cow2716/temperature --version 1\n"
            "  sluice get farm/cow2716/temperature --at -5m\n"
            "  sluice get farm/cow2716/photo --range 0-1023 | file -\n"
            "  sluice get farm/cow2716/photo --json | jq .content_type\n" CLI_TIME_DOC CLI_EXIT_DOC};
    struct get self = {0};
    cli_parse(&argp, argc, argv, &self);

    struct bytes path = {0}, range = {0};
    struct http_answer answer = {0};
    struct output output = {.common = &self.common, .path = "standard output", .file = stdout};
    bool named = self.file != NULL && strcmp(self.file, "-") != 0;
    cli_key_path(&path, "/v1/objects/", self.key);
    cli_query(&path, "version", self.version[0] != '\0' ? self.version : NULL);
    cli_query(&path, "at", self.timed ? self.at : NULL);
    cli_query(&path, "clock", self.clock);
    cli_query(&path, "consistency", self.consistency);
    struct http_request request = {.method = "GET", .path = cli_text(&path), .what = self.key, .arg = &output};
    if (named || !self.common.json)
        request.sink = to_file;
    else
        self.file = NULL; /* "-": its place is in the JSON */
    cli_must_status(bytes_printf(&range, "bytes=%s", self.range != NULL ? self.range : ""));
    http_add(&self.common, &request, "Range", self.range != NULL ? cli_text(&range) : NULL);

    int code = CLI_ERROR;
    output.path = named ? self.file : output.path;
    output.file = named ? NULL : output.file;
    if (!named || output_open(&output)) {
        code = http_call(&self.common, &request, &answer);
        if (named && !output_end(&output, code == CLI_OK) && code == CLI_OK)
            code = CLI_ERROR;
        if (code == CLI_OK && self.common.json)
            show_facts(&self, &answer);
    } else {
        (void)output_end(&output, false);
    }
    http_answer_free(&answer);
    bytes_free(&range);
    bytes_free(&path);
    return code;
}

/* Options that every command takes, and arguments that several understand. */
#include <ctype.h>
#include <errno.h>
#include <stdarg.h>
#include <stdlib.h>
#include <string.h>

#include "cli/cli.h"
#include "core/base/clock.h"

#define DEFAULT_URL        "http://127.0.0.1:8080"
#define DEFAULT_TIMEOUT_MS 5000u
#define TIMEOUT_MS_MAX     60000u

enum { OPTION_URL = 1000, OPTION_JSON, OPTION_TIMEOUT };

void *cli_must(void *memory)
{
    if (memory == NULL) {
        fputs("sluice: no memory could be had\n", stderr);
        exit(CLI_ERROR);
    }
    return memory;
}

void cli_must_status(enum sluice_status status)
{
    if (status != SLUICE_OK)
        cli_must(NULL);
}

void cli_complain(const struct cli_common *common, const char *format, ...)
{
    struct bytes text = {0};
    char *message = NULL;
    va_list arguments;
    va_start(arguments, format);
    int length = vasprintf(&message, format, arguments);
    va_end(arguments);
    if (length < 0)
        cli_must(NULL);
    fflush(stdout);
    cli_must_status(bytes_printf(&text, "%s: %s\n", common != NULL ? common->command : "sluice", message));
    cli_print_text(stderr, (const char *)text.data, text.size);
    bytes_free(&text);
    free(message);
}

/* --- options ----------------------------------------------------------------------------------------------------- */

static void set_url(const struct argp_state *state, struct cli_common *common, const char *url)
{
    if (strncmp(url, "http://", 7) != 0 && strncmp(url, "https://", 8) != 0)
        argp_error(state, "an address like %s was expected as the store's URL; came: %s", DEFAULT_URL, url);
    size_t length = strlen(url);
    while (length > 0 && url[length - 1] == '/')
        length--;
    if (length >= sizeof(common->url))
        argp_error(state, "the store's URL is longer than %zu bytes", sizeof(common->url) - 1);
    memcpy(common->url, url, length);
    common->url[length] = '\0';
}

static void set_timeout(const struct argp_state *state, struct cli_common *common, const char *text)
{
    char *end = NULL;
    double seconds = strtod(text, &end);
    if (end == text || *end != '\0' || !(seconds >= 0.001) || !(seconds <= TIMEOUT_MS_MAX / 1000.0))
        argp_error(state, "--timeout: seconds from 0.001 to %u were expected; came: %s", TIMEOUT_MS_MAX / 1000, text);
    common->timeout_ms = (uint32_t)(seconds * 1000.0);
}

static error_t parse_common(int key, char *arg, struct argp_state *state)
{
    struct cli_common *common = state->input;
    switch (key) {
    case OPTION_URL:
        set_url(state, common, arg);
        return 0;
    case OPTION_JSON:
        common->json = true;
        return 0;
    case OPTION_TIMEOUT:
        set_timeout(state, common, arg);
        return 0;
    case ARGP_KEY_SUCCESS: {
        const char *given = getenv("SLUICE_URL");
        if (common->url[0] == '\0')
            set_url(state, common, given != NULL && *given != '\0' ? given : DEFAULT_URL);
        return 0;
    }
    default:
        return ARGP_ERR_UNKNOWN;
    }
}

static const struct argp_option common_options[] = {
    {NULL, 0, NULL, 0, "Of every command:", 100},
    {"json", OPTION_JSON, NULL, 0, "Answer in JSON: one document a line", 100},
    {"url", OPTION_URL, "URL", 0, "Where the store is (instead of SLUICE_URL)", 100},
    {"timeout", OPTION_TIMEOUT, "SECONDS", 0, "How long to try, at most 60 (default: 5)", 100},
    {0},
};
static const struct argp common_argp = {.options = common_options, .parser = parse_common};
const struct argp_child cli_common_child[] = {{&common_argp, 0, NULL, 100}, {0}};

void cli_parse(const struct argp *argp, int argc, char **argv, void *input)
{
    struct cli_common *common = input;
    common->command = argv[0];
    common->timeout_ms = DEFAULT_TIMEOUT_MS;
    argp_err_exit_status = CLI_USAGE;
    error_t failed = argp_parse(argp, argc, argv, 0, NULL, input);
    if (failed != 0) {
        cli_complain(common, "%s", strerror(failed));
        exit(CLI_ERROR);
    }
}

/* --- arguments --------------------------------------------------------------------------------------------------- */

/* -5m and the like: an age, counted back from this host's clock. */
static bool age_time(const char *text, uint64_t *out)
{
    char *end = NULL;
    if (text[0] != '-' || !isdigit((unsigned char)text[1]))
        return false;
    errno = 0;
    double value = strtod(text + 1, &end);
    double unit = 0;
    if (strcmp(end, "s") == 0)
        unit = 1e9;
    else if (strcmp(end, "m") == 0)
        unit = 60e9;
    else if (strcmp(end, "h") == 0)
        unit = 3600e9;
    else if (strcmp(end, "d") == 0)
        unit = 86400e9;
    uint64_t now = clock_realtime_ns();
    if (errno != 0 || unit == 0 || value * unit >= (double)now)
        return false;
    *out = now - (uint64_t)(value * unit);
    return true;
}

void cli_time(const struct argp_state *state, const char *text, char out[CLI_TIME_BYTES])
{
    uint64_t time = 0;
    if (strcmp(text, "now") == 0)
        time = clock_realtime_ns();
    else if (!age_time(text, &time) && !clock_parse(text, strlen(text), &time))
        argp_error(state,
                   "a time was expected: 2026-11-23T02:40:00Z, nanoseconds since 1970, \"now\", or an age like -5m "
                   "(s, m, h, d); came: %s",
                   text);
    snprintf(out, CLI_TIME_BYTES, "%llu", (unsigned long long)time);
}

uint64_t cli_number(const struct argp_state *state, const char *name, const char *text, uint64_t low, uint64_t high)
{
    char *end = NULL;
    errno = 0;
    unsigned long long value = strtoull(text, &end, 10);
    if (*text < '0' || *text > '9' || *end != '\0' || errno != 0 || value < low || value > high)
        argp_error(state, "%s: a number from %llu to %llu was expected; came: %s", name, (unsigned long long)low,
                   (unsigned long long)high, text);
    return value;
}

const char *cli_content_type(const char *path)
{
    static const struct {
        const char *extension, *type;
    } known[] = {{"avif", "image/avif"},
                 {"bin", "application/octet-stream"},
                 {"csv", "text/csv"},
                 {"gif", "image/gif"},
                 {"gz", "application/gzip"},
                 {"htm", "text/html"},
                 {"html", "text/html"},
                 {"jpeg", "image/jpeg"},
                 {"jpg", "image/jpeg"},
                 {"js", "text/javascript"},
                 {"json", "application/json"},
                 {"md", "text/markdown"},
                 {"mp3", "audio/mpeg"},
                 {"mp4", "video/mp4"},
                 {"ndjson", "application/x-ndjson"},
                 {"pdf", "application/pdf"},
                 {"png", "image/png"},
                 {"svg", "image/svg+xml"},
                 {"tar", "application/x-tar"},
                 {"txt", "text/plain"},
                 {"wasm", "application/wasm"},
                 {"wav", "audio/wav"},
                 {"webm", "video/webm"},
                 {"webp", "image/webp"},
                 {"xml", "application/xml"},
                 {"yaml", "application/yaml"},
                 {"yml", "application/yaml"},
                 {"zip", "application/zip"}};
    const char *name = strrchr(path, '/');
    const char *dot = strrchr(name != NULL ? name : path, '.');
    for (size_t i = 0; dot != NULL && i < sizeof(known) / sizeof(known[0]); i++)
        if (strcasecmp(dot + 1, known[i].extension) == 0)
            return known[i].type;
    return "application/octet-stream";
}

/* --- URLs -------------------------------------------------------------------------------------------------------- */

void cli_encode(struct bytes *out, const char *text, bool slashes)
{
    for (const char *at = text; *at != '\0'; at++) {
        unsigned char c = (unsigned char)*at;
        bool plain = (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z') || (c >= '0' && c <= '9') ||
                     strchr("-._~", c) != NULL || (c == '/' && !slashes);
        cli_must_status(plain ? bytes_append(out, &c, 1) : bytes_printf(out, "%%%02X", c));
    }
}

void cli_query(struct bytes *url, const char *name, const char *value)
{
    if (value == NULL)
        return;
    bool first = url->size == 0 || memchr(url->data, '?', url->size) == NULL;
    cli_must_status(bytes_printf(url, "%c%s=", first ? '?' : '&', name));
    cli_encode(url, value, true);
}

void cli_key_path(struct bytes *out, const char *prefix, const char *key)
{
    cli_must_status(bytes_printf(out, "%s", prefix));
    cli_encode(out, key[0] == '/' ? key + 1 : key, false);
}

const char *cli_text(struct bytes *bytes)
{
    cli_must_status(bytes_reserve(bytes, 1));
    bytes->data[bytes->size] = '\0';
    return (const char *)bytes->data;
}

/* The program sluice-gateway: flags and environment to options, then the loop. */
#include <argp.h>
#include <errno.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>

#include "core/base/log.h"
#include "gateway/gateway.h"

#define LIST_MAX 64

struct settings {
    struct gateway_options options;
    const char *nodes[LIST_MAX], *hosts[LIST_MAX], *origins[LIST_MAX];
};

enum key {
    KEY_LISTEN = 'l',
    KEY_NODES = 'n',
    KEY_GRPC = 'g',
    KEY_TOKENS = 't',
    KEY_INSECURE = 256,
    KEY_TLS_CERTIFICATE,
    KEY_TLS_KEY,
    KEY_CORE_TLS_CA,
    KEY_CORE_TLS_CERT,
    KEY_CORE_TLS_KEY,
    KEY_HOST,
    KEY_ORIGIN,
    KEY_VALUE_LIMIT,
    KEY_MEMORY,
    KEY_CONNECTIONS,
    KEY_PREFER_TCP,
    KEY_LOG_LEVEL,
};

static const struct argp_option options[] = {
    {NULL, 0, NULL, 0, "What to serve", 1},
    {"nodes", KEY_NODES, "ADDRESS,…", 0, "Some core nodes: shm:NAME or tcp:HOST:PORT (needed)", 1},
    {"listen", KEY_LISTEN, "HOST:PORT", 0, "HTTP (default 127.0.0.1:8080)", 1},
    {"grpc", KEY_GRPC, "HOST:PORT", 0, "gRPC (default: none)", 1},
    {"prefer-tcp", KEY_PREFER_TCP, NULL, 0, "Do not use shared memory to reach nodes on this machine", 1},
    {"core-tls-ca", KEY_CORE_TLS_CA, "FILE", 0,
     "Where the core nodes have TLS: whose certificates are accepted (PEM). Read at the start, as the next two", 1},
    {"core-tls-cert", KEY_CORE_TLS_CERT, "FILE", 0, "The gateway's certificate towards the nodes, with its chain (PEM)",
     1},
    {"core-tls-key", KEY_CORE_TLS_KEY, "FILE", 0, "Its key (PEM, without a password)", 1},
    {NULL, 0, NULL, 0, "Who may use it", 2},
    {"tokens", KEY_TOKENS, "FILE", 0, "Bearer tokens, as JSON; without, everybody may do everything", 2},
    {"tls-certificate", KEY_TLS_CERTIFICATE, "FILE", 0, "PEM, the chain included", 2},
    {"tls-key", KEY_TLS_KEY, "FILE", 0, "PEM", 2},
    {"insecure", KEY_INSECURE, NULL, 0, "Listen beyond this machine without tokens or without TLS", 2},
    {"allow-host", KEY_HOST, "NAME", 0, "A name by which clients may call this gateway (repeat it)", 2},
    {"allow-origin", KEY_ORIGIN, "ORIGIN", 0, "A web origin whose pages may call, https://app.example (repeat it)", 2},
    {NULL, 0, NULL, 0, "Limits", 3},
    {"value-limit", KEY_VALUE_LIMIT, "BYTES", 0, "Of one value (default and most: 64M)", 3},
    {"memory", KEY_MEMORY, "BYTES", 0, "Of all bodies and answers under way (default 1G)", 3},
    {"connections", KEY_CONNECTIONS, "COUNT", 0, "HTTP connections (default 20000)", 3},
    {NULL, 0, NULL, 0, "Other", -1},
    {"log-level", KEY_LOG_LEVEL, "LEVEL", 0, "debug, info, warn, error or none (default info)", -1},
    {0},
};

/* Splits at commas; the pieces live as long as the process. */
static size_t split(struct argp_state *state, const char *text, const char **out)
{
    size_t count = 0;
    char *rest = strdup(text), *piece;
    if (rest == NULL)
        argp_failure(state, EXIT_FAILURE, ENOMEM, "reading options");
    while ((piece = strsep(&rest, ",")) != NULL) {
        if (*piece == '\0')
            continue;
        if (count == LIST_MAX)
            argp_error(state, "more than %d entries in %s", LIST_MAX, text);
        out[count++] = piece;
    }
    return count;
}

/* "64M": a number with an optional K, M or G. */
static uint64_t size_of(struct argp_state *state, const char *text)
{
    char *end;
    errno = 0;
    unsigned long long value = strtoull(text, &end, 10);
    unsigned shift = *end == 'K' ? 10 : *end == 'M' ? 20 : *end == 'G' ? 30 : 0;
    if (errno != 0 || end == text || text[0] == '-' || end[shift > 0] != '\0' || value == 0 ||
        value > UINT64_MAX >> shift)
        argp_error(state, "a size was expected, for example 64M; came: %s", text);
    return value << shift;
}

static void add(struct argp_state *state, const char **list, size_t *count, const char *text)
{
    if (*count == LIST_MAX)
        argp_error(state, "more than %d names", LIST_MAX);
    list[(*count)++] = text;
}

static error_t parse_option(int key, char *text, struct argp_state *state)
{
    struct settings *settings = state->input;
    struct gateway_options *to = &settings->options;
    int level;
    switch (key) {
    case KEY_NODES:
        to->node_count = split(state, text, settings->nodes);
        break;
    case KEY_LISTEN:
        to->listen = text;
        break;
    case KEY_GRPC:
        to->grpc_listen = text;
        break;
    case KEY_PREFER_TCP:
        to->prefer_tcp = true;
        break;
    case KEY_TOKENS:
        to->tokens_path = text;
        break;
    case KEY_TLS_CERTIFICATE:
        to->tls_certificate_path = text;
        break;
    case KEY_TLS_KEY:
        to->tls_key_path = text;
        break;
    case KEY_CORE_TLS_CA:
        to->core_tls_ca = text;
        break;
    case KEY_CORE_TLS_CERT:
        to->core_tls_certificate = text;
        break;
    case KEY_CORE_TLS_KEY:
        to->core_tls_key = text;
        break;
    case KEY_INSECURE:
        to->insecure = true;
        break;
    case KEY_HOST:
        add(state, settings->hosts, &to->host_count, text);
        break;
    case KEY_ORIGIN:
        add(state, settings->origins, &to->origin_count, text);
        break;
    case KEY_VALUE_LIMIT:
        to->value_bytes_max = size_of(state, text);
        break;
    case KEY_MEMORY:
        to->memory_max = size_of(state, text);
        break;
    case KEY_CONNECTIONS:
        to->connections_max = (uint32_t)size_of(state, text);
        break;
    case KEY_LOG_LEVEL:
        level = log_level_parse(text);
        if (level < 0)
            argp_error(state, "--log-level: debug, info, warn, error or none was expected; came: %s", text);
        log_set_level((enum log_level)level);
        break;
    case ARGP_KEY_ARG:
        argp_error(state, "an option was expected; came: %s", text);
        break;
    case ARGP_KEY_END:
        if (to->node_count == 0)
            argp_error(state, "give --nodes, for example --nodes shm:node1");
        break;
    default:
        return ARGP_ERR_UNKNOWN;
    }
    return 0;
}

/* SLUICE_GATEWAY_LISTEN stands for --listen, and so on; the command line wins, since it is read later. */
static void read_environment(struct argp_state *state)
{
    for (const struct argp_option *option = options; option->name != NULL || option->doc != NULL; option++) {
        char name[64] = "SLUICE_GATEWAY_";
        if (option->name == NULL)
            continue;
        size_t used = strlen(name);
        for (const char *c = option->name; *c != '\0'; c++)
            name[used++] = *c == '-' ? '_' : (char)(*c - ('a' - 'A'));
        char *value = getenv(name);
        if (value == NULL || *value == '\0' || (option->arg == NULL && strcmp(value, "0") == 0))
            continue;
        if (option->key == KEY_HOST || option->key == KEY_ORIGIN) {
            const char *pieces[LIST_MAX];
            size_t count = split(state, value, pieces);
            for (size_t i = 0; i < count; i++)
                (void)parse_option(option->key, (char *)(uintptr_t)pieces[i], state);
        } else {
            (void)parse_option(option->key, value, state);
        }
    }
}

static error_t parse(int key, char *text, struct argp_state *state)
{
    if (key == ARGP_KEY_INIT) {
        read_environment(state);
        return 0;
    }
    return parse_option(key, text, state);
}

static const struct argp argp = {
    .options = options,
    .parser = parse,
    .args_doc = "",
    .doc =
        "Serves the store over HTTP (REST and server-sent events) and gRPC. It keeps nothing itself: run as many as "
        "you like.\v"
        "Examples:\n"
        "  sluice-gateway --nodes shm:node1\n"
        "  sluice-gateway --nodes tcp:10.0.0.1:7400,tcp:10.0.0.2:7400 --listen 0.0.0.0:8443 --grpc 0.0.0.0:8444 \\\n"
        "      --tokens tokens.json --tls-certificate chain.pem --tls-key key.pem\n\n"
        "tokens.json: {\"tokens\":[{\"token\":\"…\",\"role\":\"write\",\"prefix\":\"farm/\",\"subject\":\"barn\"}]}; a "
        "role is read, write "
        "or admin; instead of the token its sha256 may stand there.\n\n"
        "Every option can come from the environment: SLUICE_GATEWAY_NODES stands for --nodes, SLUICE_GATEWAY_TLS_KEY "
        "for --tls-key. "
        "The command line wins.",
};

static struct gateway *running;

static void on_signal(int number)
{
    (void)number;
    gateway_stop(running);
}

int main(int argc, char **argv)
{
    static struct settings settings;
    settings.options.nodes = settings.nodes;
    settings.options.hosts = settings.hosts;
    settings.options.origins = settings.origins;
    argp_parse(&argp, argc, argv, 0, NULL, &settings);

    struct rlimit files;
    if (getrlimit(RLIMIT_NOFILE, &files) == 0) {
        files.rlim_cur = files.rlim_max;
        (void)setrlimit(RLIMIT_NOFILE, &files);
    }
    char error[512] = "";
    if (gateway_create(&settings.options, &running, error, sizeof(error)) != SLUICE_OK) {
        fprintf(stderr, "sluice-gateway: %s\n", error);
        return EXIT_FAILURE;
    }
    struct sigaction action = {.sa_handler = on_signal};
    sigaction(SIGINT, &action, NULL);
    sigaction(SIGTERM, &action, NULL);
    gateway_run(running);
    gateway_destroy(running);
    return EXIT_SUCCESS;
}

/* sluiced: a core node. Options from the command line, then a configuration file, then the environment; the latter
 * wins. */
#include <argp.h>
#include <ini.h>
#include <poll.h>
#include <pthread.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/signalfd.h>
#include <unistd.h>

#include "core/base/log.h"
#include "core/lambda/lambda.h"
#include "core/node/node.h"

#define LIST_MAX  126 /* two addresses for each node that there can be */
#define TEXTS_MAX (3 * LIST_MAX + 16)

struct settings {
    struct node_options node;
    const char *listen[LIST_MAX];
    const char *peers[LIST_MAX];
    const char *join[LIST_MAX];
    char *texts[TEXTS_MAX]; /* what the options point to, to be freed at the end */
    size_t text_count;
    char error[1024];
    bool check;
};

enum {
    OPTION_CHECK = 256,
    OPTION_HEALTH,
    OPTION_CACHE,
    OPTION_VOLATILE,
    OPTION_SEGMENT,
    OPTION_WORKERS,
    OPTION_FREE,
    OPTION_INPROCESS,
    OPTION_NAME,
    OPTION_JOIN,
    OPTION_ADVERTISE,
    OPTION_CATCH_UP,
    OPTION_TLS_CA,
    OPTION_TLS_CERT,
    OPTION_TLS_KEY
};

static const struct argp_option options[] = {
    {"config", 'c', "FILE", 0,
     "Read options from an INI file: the names below without dashes, one a line (listen = tcp:0.0.0.0:7000)", 0},
    {"id", 'i', "N", 0, "This node's number, 1 to 63; \"auto\" takes the number at the end of the host's name plus one",
     0},
    {"data", 'd', "DIR", 0, "Data directory; created, and this node's own for ever", 0},
    {"listen", 'l', "ADDR", 0, "Listen on ADDR: tcp:HOST:PORT, or shm:NAME for processes of this host; may be repeated",
     0},
    {"peer", 'p', "ID=ADDR", 0,
     "A node that begins the cluster and where to reach it; repeat it for each. A node that is not among them joins "
     "them at its first start, so that all nodes can be given the same",
     0},
    {"join", OPTION_JOIN, "ADDR", 0,
     "Become a node of the running cluster whose member listens at ADDR; may be repeated. Does nothing once it has "
     "joined",
     0},
    {"advertise", OPTION_ADVERTISE, "ADDR", 0,
     "Where the other nodes and clients reach this one, if it is none of the peers (default: where it listens)", 0},
    {"cluster-name", OPTION_NAME, "NAME", 0, "Names the cluster when it is founded (default: sluice)", 0},
    {"tls-ca", OPTION_TLS_CA, "FILE", 0,
     "Mutual TLS 1.3 on every tcp address, with nodes and clients whose certificates are signed by these (PEM). Give "
     "all nodes, gateways and clients such files, or none. Read at the start: restart to renew",
     0},
    {"tls-cert", OPTION_TLS_CERT, "FILE", 0, "This node's certificate and its chain (PEM), for server and client use",
     0},
    {"tls-key", OPTION_TLS_KEY, "FILE", 0, "Its key (PEM, without a password)", 0},
    {"health", OPTION_HEALTH, "HOST:PORT", 0, "Answer /healthz and /readyz there", 0},
    {"cache-bytes", OPTION_CACHE, "N", 0, "Recent versions kept in memory (default: 268435456)", 0},
    {"volatile-bytes", OPTION_VOLATILE, "N", 0, "Memory of volatile pools (default: 1073741824)", 0},
    {"segment-bytes", OPTION_SEGMENT, "N", 0, "Size of a log segment (default: 67108864)", 0},
    {"catch-up-rate", OPTION_CATCH_UP, "N", 0,
     "Bytes a second sent to replicas that lag, while clients are served; without such work as fast as it goes "
     "(default: 8388608 a processor)",
     0},
    {"free-percent", OPTION_FREE, "N", 0, "Read-only below so much free disk (default: 5)", 0},
    {"lambda-workers", OPTION_WORKERS, "N", 0, "Threads that run lambdas (default: one a processor, at most 4)", 0},
    {"allow-inprocess", OPTION_INPROCESS, "yes|no", 0,
     "May lambdas run in this process? They are trusted code then (default: no)", 0},
    {"log-level", 'L', "LEVEL", 0, "debug, info, warn, error or none (default: info)", 0},
    {"check-config", OPTION_CHECK, NULL, 0, "Check the options, say what is wrong, and end", 0},
    {0},
};

static const char doc[] = "Runs one core node of a Sluice cluster.\v"
                          "Each option can also be given in the environment, which wins: SLUICE_ID, SLUICE_DATA, "
                          "SLUICE_LISTEN, SLUICE_PEERS and SLUICE_JOIN (comma separated), SLUICE_ADVERTISE, "
                          "SLUICE_CLUSTER_NAME, SLUICE_TLS_CA, SLUICE_TLS_CERT, SLUICE_TLS_KEY, SLUICE_HEALTH, "
                          "SLUICE_CACHE_BYTES, SLUICE_VOLATILE_BYTES, "
                          "SLUICE_SEGMENT_BYTES, SLUICE_FREE_PERCENT, SLUICE_LAMBDA_WORKERS, "
                          "SLUICE_ALLOW_INPROCESS, SLUICE_LOG_LEVEL.\n\n"
                          "A cluster of three on one host:\n"
                          "  sluiced --id 1 --data n1 --listen shm:a --peer 1=shm:a --peer 2=shm:b --peer 3=shm:c\n"
                          "  sluiced --id 2 --data n2 --listen shm:b --peer 1=shm:a --peer 2=shm:b --peer 3=shm:c\n"
                          "  sluiced --id 3 --data n3 --listen shm:c --peer 1=shm:a --peer 2=shm:b --peer 3=shm:c\n"
                          "A fourth one for it:\n"
                          "  sluiced --id 4 --data n4 --listen shm:d --join shm:a\n\n"
                          "Exit status: 0 stopped on request, 1 could not start or had to stop, 64 wrong options.";

static bool fail(struct settings *settings, const char *name, const char *expected, const char *came)
{
    snprintf(settings->error, sizeof(settings->error), "%s: %s was expected; came: %s", name, expected, came);
    return false;
}

static bool number(struct settings *settings, const char *name, const char *text, uint64_t low, uint64_t high,
                   uint64_t *out)
{
    char *end = NULL;
    unsigned long long value = strtoull(text, &end, 10);
    char expected[80];
    if (*text < '0' || *text > '9' || *end != '\0' || value < low || value > high) {
        snprintf(expected, sizeof(expected), "a number from %llu to %llu", (unsigned long long)low,
                 (unsigned long long)high);
        return fail(settings, name, expected, text);
    }
    *out = value;
    return true;
}

/* sluice-core-2 is node 3: ordinals of a StatefulSet begin at 0. */
static bool automatic_id(struct settings *settings)
{
    char host[256] = "";
    uint64_t ordinal = 0;
    if (gethostname(host, sizeof(host) - 1) != 0)
        return fail(settings, "id", "a host name", "none");
    const char *at = host + strlen(host);
    while (at > host && at[-1] >= '0' && at[-1] <= '9')
        at--;
    if (*at == '\0')
        return fail(settings, "id", "a host name that ends in a number, for \"auto\",", host);
    if (!number(settings, "id", at, 0, 62, &ordinal))
        return false;
    settings->node.id = (uint16_t)(ordinal + 1);
    return true;
}

/* Kept until the end; NULL after an error was noted. */
static const char *keep(struct settings *settings, const char *name, const char *text)
{
    char *copy = settings->text_count < TEXTS_MAX ? strdup(text) : NULL;
    if (copy == NULL) {
        (void)fail(settings, name, "fewer options", text);
        return NULL;
    }
    settings->texts[settings->text_count++] = copy;
    return copy;
}

static void free_texts(struct settings *settings)
{
    while (settings->text_count > 0)
        free(settings->texts[--settings->text_count]);
}

static bool append(struct settings *settings, const char *name, const char **list, size_t *count, const char *text)
{
    if (*count == LIST_MAX)
        return fail(settings, name, "at most 126 of them", text);
    list[*count] = keep(settings, name, text);
    return list[(*count)++] != NULL;
}

static bool split(struct settings *settings, const char *name, const char **list, size_t *count, const char *text)
{
    char *copy = strdup(text), *rest = copy, *item;
    bool good = copy != NULL;
    *count = 0;
    while (good && (item = strsep(&rest, ",")) != NULL)
        if (*item != '\0')
            good = append(settings, name, list, count, item);
    free(copy);
    return good;
}

static bool set(struct settings *settings, const char *name, const char *value)
{
    struct node_options *node = &settings->node;
    uint64_t parsed = 0;
    if (strcmp(name, "id") == 0) {
        if (strcmp(value, "auto") == 0)
            return automatic_id(settings);
        if (!number(settings, name, value, 1, 63, &parsed))
            return false;
        node->id = (uint16_t)parsed;
    } else if (strcmp(name, "data") == 0) {
        return (node->data_path = keep(settings, name, value)) != NULL;
    } else if (strcmp(name, "listen") == 0) {
        return append(settings, name, settings->listen, &node->listen_count, value);
    } else if (strcmp(name, "peer") == 0) {
        return append(settings, name, settings->peers, &node->peer_count, value);
    } else if (strcmp(name, "join") == 0) {
        return append(settings, name, settings->join, &node->join_count, value);
    } else if (strcmp(name, "advertise") == 0) {
        return (node->advertise = keep(settings, name, value)) != NULL;
    } else if (strcmp(name, "cluster-name") == 0) {
        return (node->cluster_name = keep(settings, name, value)) != NULL;
    } else if (strcmp(name, "health") == 0) {
        return (node->health_address = keep(settings, name, value)) != NULL;
    } else if (strcmp(name, "tls-ca") == 0) {
        return (node->tls_ca = keep(settings, name, value)) != NULL;
    } else if (strcmp(name, "tls-cert") == 0) {
        return (node->tls_certificate = keep(settings, name, value)) != NULL;
    } else if (strcmp(name, "tls-key") == 0) {
        return (node->tls_key = keep(settings, name, value)) != NULL;
    } else if (strcmp(name, "cache-bytes") == 0) {
        return number(settings, name, value, 1u << 20, UINT64_C(1) << 40, &node->cache_bytes);
    } else if (strcmp(name, "catch-up-rate") == 0) {
        return number(settings, name, value, 1u << 16, UINT64_C(1) << 40, &node->catch_up_rate);
    } else if (strcmp(name, "volatile-bytes") == 0) {
        return number(settings, name, value, 1u << 20, UINT64_C(1) << 40, &node->volatile_bytes);
    } else if (strcmp(name, "segment-bytes") == 0) {
        return number(settings, name, value, 1u << 20, UINT64_C(1) << 32, &node->segment_bytes);
    } else if (strcmp(name, "free-percent") == 0) {
        if (!number(settings, name, value, 1, 90, &parsed))
            return false;
        node->free_percent_min = (uint32_t)parsed;
    } else if (strcmp(name, "lambda-workers") == 0) {
        if (!number(settings, name, value, 1, 64, &parsed))
            return false;
        node->lambda_workers = (uint32_t)parsed;
    } else if (strcmp(name, "allow-inprocess") == 0) {
        if (strcmp(value, "yes") != 0 && strcmp(value, "no") != 0)
            return fail(settings, name, "yes or no", value);
        node->allow_inprocess = strcmp(value, "yes") == 0;
    } else if (strcmp(name, "log-level") == 0) {
        int level = log_level_parse(value);
        if (level < 0)
            return fail(settings, name, "debug, info, warn, error or none", value);
        log_set_level((enum log_level)level);
    } else {
        return fail(settings, "configuration", "a known name (see --help)", name);
    }
    return true;
}

static int from_file(void *arg, const char *section, const char *name, const char *value)
{
    struct settings *settings = arg;
    (void)section;
    return set(settings, name, value) ? 1 : 0;
}

static bool read_file(struct settings *settings, const char *path)
{
    int line = ini_parse(path, from_file, settings);
    if (line == 0)
        return true;
    char why[160];
    snprintf(why, sizeof(why), "%.150s", settings->error);
    if (line < 0)
        snprintf(settings->error, sizeof(settings->error), "the configuration file %.150s cannot be read", path);
    else
        snprintf(settings->error, sizeof(settings->error), "%.60s, line %d: %s", path, line,
                 why[0] == '\0' ? "NAME = VALUE was expected" : why);
    return false;
}

static bool from_environment(struct settings *settings)
{
    static const struct {
        const char *variable, *name;
    } known[] = {{"SLUICE_ID", "id"},
                 {"SLUICE_DATA", "data"},
                 {"SLUICE_CLUSTER_NAME", "cluster-name"},
                 {"SLUICE_ADVERTISE", "advertise"},
                 {"SLUICE_TLS_CA", "tls-ca"},
                 {"SLUICE_TLS_CERT", "tls-cert"},
                 {"SLUICE_TLS_KEY", "tls-key"},
                 {"SLUICE_HEALTH", "health"},
                 {"SLUICE_CACHE_BYTES", "cache-bytes"},
                 {"SLUICE_VOLATILE_BYTES", "volatile-bytes"},
                 {"SLUICE_SEGMENT_BYTES", "segment-bytes"},
                 {"SLUICE_CATCH_UP_RATE", "catch-up-rate"},
                 {"SLUICE_FREE_PERCENT", "free-percent"},
                 {"SLUICE_LAMBDA_WORKERS", "lambda-workers"},
                 {"SLUICE_ALLOW_INPROCESS", "allow-inprocess"},
                 {"SLUICE_LOG_LEVEL", "log-level"}};
    for (size_t i = 0; i < sizeof(known) / sizeof(known[0]); i++) {
        const char *value = getenv(known[i].variable);
        if (value != NULL && *value != '\0' && !set(settings, known[i].name, value))
            return false;
    }
    const char *listen = getenv("SLUICE_LISTEN"), *peers = getenv("SLUICE_PEERS"), *join = getenv("SLUICE_JOIN");
    if (listen != NULL && *listen != '\0' &&
        !split(settings, "SLUICE_LISTEN", settings->listen, &settings->node.listen_count, listen))
        return false;
    if (join != NULL && *join != '\0' &&
        !split(settings, "SLUICE_JOIN", settings->join, &settings->node.join_count, join))
        return false;
    return peers == NULL || *peers == '\0' ||
           split(settings, "SLUICE_PEERS", settings->peers, &settings->node.peer_count, peers);
}

static error_t parse(int key, char *arg, struct argp_state *state)
{
    struct settings *settings = state->input;
    for (size_t i = 0; i < sizeof(options) / sizeof(options[0]) - 1; i++) {
        if (options[i].key != key)
            continue;
        if (key == OPTION_CHECK)
            settings->check = true;
        else if (!(key == 'c' ? read_file(settings, arg) : set(settings, options[i].name, arg)))
            argp_error(state, "%s", settings->error);
        return 0;
    }
    if (key == ARGP_KEY_ARG)
        argp_error(state, "no argument was expected; came: %s", arg);
    return ARGP_ERR_UNKNOWN;
}

static int serve(struct node *node)
{
    sigset_t signals;
    sigemptyset(&signals);
    sigaddset(&signals, SIGINT);
    sigaddset(&signals, SIGTERM);
    int fd = signalfd(-1, &signals, SFD_CLOEXEC);
    if (fd < 0 || node_start(node) != SLUICE_OK) {
        LOG_ERROR("sluiced", "the threads could not be started");
        return 1;
    }
    for (unsigned i = 0; node_address(node, i) != NULL; i++)
        LOG_INFO("sluiced", "listening on %s", node_address(node, i));
    struct pollfd watched[2] = {{.fd = fd, .events = POLLIN}, {.fd = node_failed_fd(node), .events = POLLIN}};
    while (poll(watched, 2, -1) < 0)
        ;
    close(fd);
    if (watched[1].revents != 0)
        return 1;
    LOG_INFO("sluiced", "stopping");
    return 0;
}

static int run(struct settings *settings)
{
    char error[512];
    if (!from_environment(settings)) {
        fprintf(stderr, "sluiced: %s\n", settings->error);
        return 64;
    }
    if (settings->check) {
        puts("the options are well-formed");
        return 0;
    }
    sigset_t signals;
    sigemptyset(&signals);
    sigaddset(&signals, SIGINT);
    sigaddset(&signals, SIGTERM);
    pthread_sigmask(SIG_BLOCK, &signals, NULL);
    signal(SIGPIPE, SIG_IGN);
    struct node *node = NULL;
    if (node_create(&settings->node, &node, error, sizeof(error)) != SLUICE_OK) {
        fprintf(stderr, "sluiced: %s\n", error);
        return 1;
    }
    int result = serve(node);
    node_stop(node);
    node_destroy(node);
    return result;
}

int main(int argc, char **argv)
{
    if (argc > 1 && strcmp(argv[1], "--lambda-check") == 0)
        return lambda_check_main(argc, argv);
    static const struct argp argp = {.options = options, .parser = parse, .doc = doc};
    static struct settings settings = {.node = {.size = sizeof(settings.node), .data_path = "sluice-data"}};
    settings.node.listen = settings.listen;
    settings.node.peers = settings.peers;
    settings.node.join = settings.join;
    argp_parse(&argp, argc, argv, 0, NULL, &settings);
    int result = run(&settings);
    free_texts(&settings);
    return result;
}

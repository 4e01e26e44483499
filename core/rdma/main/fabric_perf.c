/* fabric-perf: what a network gives the fabric, measured before a cluster is trusted to it. */
#include <argp.h>
#include <errno.h>
#include <math.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/wait.h>
#include <unistd.h>

#include "api/release.h"
#include "core/base/log.h"
#include "core/base/panic.h"
#include "core/rdma/main/perf.h"

#define SELF_SHM "shm:fabric-perf-%d"

enum { EXIT_FIT = 0, EXIT_FAILED = 1, EXIT_UNFIT = 2 };

struct settings {
    struct perf_options perf;
    bool serve, self;
    const char *tls_ca, *tls_certificate, *tls_key;
};

enum { KEY_SPIN = 256, KEY_JSON, KEY_SELF, KEY_TLS_CA, KEY_TLS_CERT, KEY_TLS_KEY };

static const struct argp_option options[] = {
    {NULL, 0, NULL, 0, "Which side", 1},
    {"serve", 's', NULL, 0, "Listen at ADDRESS and do as clients ask, until stopped", 1},
    {"self", KEY_SELF, NULL, 0,
     "Start both sides on this machine, at ADDRESS (default: shm:, shared memory): what its processors give", 1},
    {NULL, 0, NULL, 0, "What to measure", 2},
    {"test", 't', "TEST", 0, "latency, bandwidth or all (default: all)", 2},
    {"sizes", 'z', "SIZE,…", 0,
     "Bytes of a message, up to 64M, with K or M; at most 16 of them (default: 64,1K,16K,256K for latency, 1K,16K,1M "
     "for bandwidth)",
     2},
    {"direction", 'd', "WHERE", 0, "Of the bandwidth: there (to the server), back or both at once (default: there)", 2},
    {"seconds", 'n', "SECONDS", 0, "For each size of each test (default: 1)", 2},
    {"spin", KEY_SPIN, "MICROSECONDS", 0,
     "How long a side polls before it sleeps (default: as nodes do, about as long as a wake-up takes)", 2},
    {NULL, 0, NULL, 0, "With TLS, on both sides, as the nodes will have it", 3},
    {"tls-ca", KEY_TLS_CA, "FILE", 0, "Whose certificates are accepted (PEM)", 3},
    {"tls-cert", KEY_TLS_CERT, "FILE", 0, "This side's certificate, of a node, with its chain (PEM)", 3},
    {"tls-key", KEY_TLS_KEY, "FILE", 0, "Its key (PEM, without a password)", 3},
    {NULL, 0, NULL, 0, "Output", 4},
    {"json", KEY_JSON, NULL, 0, "One JSON document instead of tables", 4},
    {0},
};

static const char doc[] =
    "Measures what a network gives a Sluice cluster: the latency and the bandwidth of the links that its nodes would "
    "have, and says whether that is enough.\v"
    "ADDRESS is as nodes have it: tcp:HOST:PORT, or shm:NAME between processes of one machine.\n\n"
    "Between two machines, the first being 10.0.0.1:\n"
    "  fabric-perf --serve tcp:0.0.0.0:7900          (there)\n"
    "  fabric-perf tcp:10.0.0.1:7900                 (here)\n"
    "  fabric-perf -d both -z 1M -n 10 -t bandwidth tcp:10.0.0.1:7900\n"
    "This machine alone:\n"
    "  fabric-perf --self\n"
    "  fabric-perf --self tcp:127.0.0.1:0\n\n"
    "How to read it. Latency is one way, half a round trip: a put is acknowledged after one round trip to the fastest "
    "followers and one write to their disks. Nodes renew leases of 60 ms every 20 ms and elect a new leader after "
    "150 ms of silence, so it is the rare slow round trips that decide; measure for minutes (-n 300) before you trust "
    "a network. The last columns of the bandwidth say how late a renewal would be behind such a load.\n\n"
    "Measure each pair of machines, in both directions, while whatever else uses the network does so.\n\n"
    "Exit status: 0 fit (or tight, which it says), 1 could not measure, 2 not fit for a cluster with the default "
    "times, 64 wrong options.";

static uint32_t parse_size(struct argp_state *state, const char *text)
{
    char *end;
    errno = 0;
    unsigned long value = strtoul(text, &end, 10);
    unsigned shift = *end == 'K' ? 10 : *end == 'M' ? 20 : 0;
    if (*text < '0' || *text > '9' || errno != 0 || end[shift > 0] != '\0' || value == 0 ||
        value > (PERF_SIZE_MAX >> shift))
        argp_error(state, "--sizes: sizes from 1 to 64M were expected, for example 64,1K,1M; came: %s", text);
    return (uint32_t)value << shift;
}

static void parse_sizes(struct argp_state *state, struct perf_options *perf, const char *text)
{
    char *copy = strdup(text), *rest = copy, *piece;
    if (!copy)
        PANIC("out of memory");
    perf->size_count = 0;
    while ((piece = strsep(&rest, ",")) != NULL) {
        if (perf->size_count == PERF_SIZES_MAX)
            argp_error(state, "--sizes: at most %u sizes were expected; came: %s", PERF_SIZES_MAX, text);
        perf->sizes[perf->size_count++] = parse_size(state, piece);
    }
    free(copy);
}

static double parse_number(struct argp_state *state, const char *name, const char *text, double least, double most)
{
    char *end;
    double value = strtod(text, &end);
    if (end == text || *end != '\0' || !isfinite(value) || value < least || value > most)
        argp_error(state, "--%s: a number from %g to %g was expected; came: %s", name, least, most, text);
    return value;
}

/* Which of the words `text` is. */
static unsigned parse_word(struct argp_state *state, const char *name, const char *text, const char *const *words)
{
    for (unsigned i = 0; i < 3; i++)
        if (strcmp(text, words[i]) == 0)
            return i;
    argp_error(state, "--%s: %s, %s or %s was expected; came: %s", name, words[0], words[1], words[2], text);
    return 0;
}

static void check(struct argp_state *state, const struct settings *settings)
{
    if (settings->serve && settings->self)
        argp_error(state, "--serve or --self was expected; came both");
    if (!settings->perf.address && !settings->self)
        argp_error(state, "an address was expected, for example tcp:10.0.0.1:7900, or --self");
}

static error_t parse(int key, char *text, struct argp_state *state)
{
    static const char *const tests[] = {"latency", "bandwidth", "all"};
    static const char *const directions[] = {"there", "back", "both"};
    struct settings *settings = state->input;
    struct perf_options *perf = &settings->perf;
    unsigned word;
    switch (key) {
    case 's':
        settings->serve = true;
        break;
    case KEY_SELF:
        settings->self = true;
        break;
    case 't':
        word = parse_word(state, "test", text, tests);
        perf->latency = word != 1;
        perf->bandwidth = word != 0;
        break;
    case 'z':
        parse_sizes(state, perf, text);
        break;
    case 'd':
        perf->direction = (enum perf_direction)(parse_word(state, "direction", text, directions) + PERF_THERE);
        break;
    case 'n':
        perf->seconds = parse_number(state, "seconds", text, 0.01, PERF_SECONDS_MAX);
        break;
    case KEY_SPIN:
        perf->spin_ns = (uint32_t)(parse_number(state, "spin", text, 0, 1e6) * (double)NS_PER_US);
        break;
    case KEY_TLS_CA:
        settings->tls_ca = text;
        break;
    case KEY_TLS_CERT:
        settings->tls_certificate = text;
        break;
    case KEY_TLS_KEY:
        settings->tls_key = text;
        break;
    case KEY_JSON:
        perf->json = true;
        break;
    case ARGP_KEY_ARG:
        if (perf->address)
            argp_error(state, "one address was expected; came a second one: %s", text);
        perf->address = text;
        break;
    case ARGP_KEY_END:
        check(state, settings);
        break;
    default:
        return ARGP_ERR_UNKNOWN;
    }
    return 0;
}

static volatile int stopped;
static void on_signal(int number)
{
    (void)number;
    stopped = 1;
}

static int complain(const char *error)
{
    fprintf(stderr, "fabric-perf: %s\n", error);
    return EXIT_FAILED;
}

/* --- the three ways to run --- */

static void say_listening(void *arg, const char *address)
{
    (void)arg;
    LOG_INFO("fabric-perf", "listening on %s; measure with: fabric-perf %s", address, address);
}

static int serve(const struct perf_options *perf)
{
    char error[512] = "";
    bool good = perf_serve(perf, false, &stopped, say_listening, NULL, error, sizeof(error));
    return good ? EXIT_FIT : complain(error);
}

static int measure(const struct perf_options *perf, const char *address)
{
    char error[512] = "";
    struct perf_report *report = perf_report_create(perf->json);
    perf_report_address(report, address, perf->fabric.tls != NULL);
    bool good = perf_measure(perf, address, &stopped, perf_report_result, report, error, sizeof(error));
    if (!good)
        return complain(error); /* what was measured until then has been printed, unless it was to be one document */
    return perf_report_finish(report) == PERF_UNFIT ? EXIT_UNFIT : EXIT_FIT;
}

/* The child tells its parent the address, or, behind a '!', why there is none. */
static void tell_parent(void *arg, const char *address)
{
    const int *pipe_end = arg;
    if (write(*pipe_end, address, strlen(address) + 1) < 0)
        _exit(EXIT_FAILED);
}

static _Noreturn void serve_self(const struct perf_options *perf, int pipe_end)
{
    char error[512] = "!";
    (void)prctl(PR_SET_PDEATHSIG, SIGKILL);
    if (!perf_serve(perf, true, &stopped, tell_parent, &pipe_end, error + 1, sizeof(error) - 1))
        tell_parent(&pipe_end, error);
    _exit(EXIT_FIT);
}

static int both(struct perf_options *perf)
{
    char name[64], address[512] = "";
    int ends[2];
    (void)snprintf(name, sizeof(name), SELF_SHM, (int)getpid());
    if (!perf->address || strcmp(perf->address, "shm:") == 0)
        perf->address = name;
    if (pipe(ends) != 0)
        return complain(strerror(errno));
    pid_t child = fork();
    if (child < 0)
        return complain(strerror(errno));
    if (child == 0) {
        (void)close(ends[0]);
        serve_self(perf, ends[1]);
    }
    (void)close(ends[1]);
    ssize_t got = read(ends[0], address, sizeof(address) - 1);
    (void)close(ends[0]);
    int code = got <= 0            ? complain("the serving side ended before it listened")
               : address[0] == '!' ? complain(address + 1)
                                   : measure(perf, address);
    (void)kill(child, SIGTERM);
    (void)waitpid(child, NULL, 0);
    return code;
}

int main(int argc, char **argv)
{
    static const struct argp argp = {.options = options, .parser = parse, .args_doc = "[ADDRESS]", .doc = doc};
    static struct settings settings = {
        .perf = {.latency = true, .bandwidth = true, .direction = PERF_THERE, .seconds = 1, .spin_ns = UINT32_MAX}};
    argp_err_exit_status = 64;
    argp_parse(&argp, argc, argv, 0, NULL, &settings);
    struct perf_options *perf = &settings.perf;
    /* A cluster of its own: nodes refuse us and we refuse nodes, by name. */
    perf->fabric = (struct fabric_options){
        .size = sizeof(perf->fabric),
        .identity = {.cluster = "fabric-perf v1", .role = FABRIC_ROLE_NODE, .node = settings.serve ? 1 : 2},
        .message_bytes_max = PERF_SIZE_MAX,
        .spin_ns = perf->spin_ns,
    };
    struct sigaction action = {.sa_handler = on_signal};
    (void)sigaction(SIGINT, &action, NULL);
    (void)sigaction(SIGTERM, &action, NULL);
    (void)signal(SIGPIPE, SIG_IGN);
    char error[512] = "";
    if (fabric_tls_create(settings.tls_ca, settings.tls_certificate, settings.tls_key, &perf->fabric.tls, error,
                          sizeof(error)) != SLUICE_OK)
        return complain(error);
    int code = settings.serve ? serve(perf) : settings.self ? both(perf) : measure(perf, perf->address);
    fabric_tls_destroy(perf->fabric.tls);
    return code;
}

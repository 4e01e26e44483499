/* up: a store on this machine. */
#include <pthread.h>
#include <signal.h>
#include <string.h>
#include <sys/resource.h>

#include "cli/http.h"
#include "cli/up.h"
#include "core/base/log.h"

#define RESTART_AFTER_MAX 86400u

enum {
    OPTION_HTTP = 256,
    OPTION_GRPC,
    OPTION_FABRIC,
    OPTION_RESTART,
    OPTION_LOG,
    OPTION_TOKENS,
    OPTION_CERTIFICATE,
    OPTION_KEY,
    OPTION_INSECURE
};

static const struct argp_option options[] = {
    {"data", 'd', "DIR", 0, "Where everything is kept (default: ./sluice-data)", 0},
    {"nodes", 'n', "N", 0, "So many core nodes, each a process of its own (default: 1, in this process)", 0},
    {"http", OPTION_HTTP, "ADDR:PORT", 0, "Where the gateway answers HTTP (default: 127.0.0.1:8080)", 0},
    {"grpc", OPTION_GRPC, "ADDR:PORT", 0, "Where the gateway answers gRPC (default: 127.0.0.1:8081)", 0},
    {"fabric", OPTION_FABRIC, "shm|tcp", 0, "How the processes talk: shared memory (default) or TCP on loopback", 0},
    {"restart-after", OPTION_RESTART, "SECONDS", 0, "Start a process that died again after that (default: 5; 0: never)",
     0},
    {"log-level", OPTION_LOG, "LEVEL", 0, "debug, info, warn, error or none (default: one node warn, several info)", 0},
    {"tokens", OPTION_TOKENS, "FILE", 0, "Bearer tokens and what they may do, as sluice-gateway takes them", 0},
    {"tls-certificate", OPTION_CERTIFICATE, "FILE", 0, "Serve HTTPS with this certificate (PEM)", 0},
    {"tls-key", OPTION_KEY, "FILE", 0, "... and this key (PEM)", 0},
    {"insecure", OPTION_INSECURE, NULL, 0, "Listen beyond this host without tokens or TLS", 0},
    {"verbose", 'v', NULL, 0, "Show the processes' logs here too", 0},
    {0},
};

static void set_number(const struct argp_state *state, const char *name, const char *arg, uint32_t low, uint32_t high,
                       uint32_t *out)
{
    *out = (uint32_t)cli_number(state, name, arg, low, high);
}

static error_t parse(int key, char *arg, struct argp_state *state)
{
    struct up *self = state->input;
    switch (key) {
    case 'd':
        self->data = arg;
        return 0;
    case 'n':
        set_number(state, "--nodes", arg, 1, UP_NODES_MAX, &self->nodes);
        return 0;
    case 'v':
        self->verbose = true;
        return 0;
    case OPTION_HTTP:
        self->http = arg;
        return 0;
    case OPTION_GRPC:
        self->grpc = arg;
        return 0;
    case OPTION_FABRIC:
        if (strcmp(arg, "shm") != 0 && strcmp(arg, "tcp") != 0)
            argp_error(state, "--fabric: shm or tcp was expected; came: %s", arg);
        self->tcp = strcmp(arg, "tcp") == 0;
        self->fabric_set = true;
        return 0;
    case OPTION_RESTART:
        set_number(state, "--restart-after", arg, 0, RESTART_AFTER_MAX, &self->restart_after_s);
        return 0;
    case OPTION_LOG:
        if (log_level_parse(arg) < 0)
            argp_error(state, "--log-level: debug, info, warn, error or none was expected; came: %s", arg);
        self->log_level = arg;
        return 0;
    case OPTION_TOKENS:
        self->tokens = arg;
        return 0;
    case OPTION_CERTIFICATE:
        self->certificate = arg;
        return 0;
    case OPTION_KEY:
        self->key = arg;
        return 0;
    case OPTION_INSECURE:
        self->insecure = true;
        return 0;
    case ARGP_KEY_ARG:
        argp_error(state, "no argument was expected; came: %s", arg);
        return 0;
    case ARGP_KEY_END:
        if ((self->certificate == NULL) != (self->key == NULL))
            argp_error(state, "--tls-certificate and --tls-key belong together");
        return 0;
    default:
        return ARGP_ERR_UNKNOWN;
    }
}

/* Where this host reaches what listens on ADDR:PORT. */
static void set_url(struct up *self)
{
    const char *colon = strrchr(self->http, ':');
    bool anywhere = strncmp(self->http, "0.0.0.0:", 8) == 0 || strncmp(self->http, "[::]:", 5) == 0;
    snprintf(self->common.url, sizeof(self->common.url), "%s://%s%s", self->certificate != NULL ? "https" : "http",
             anywhere ? "127.0.0.1" : self->http, anywhere ? colon : "");
}

bool up_ready(const struct up *self)
{
    return http_probe(&self->common, "/readyz");
}

void up_greet(const struct up *self)
{
    static const char default_http[] = "127.0.0.1:8080";
    printf("  HTTP     %s\n  gRPC     %s\n  data     %s\n\nTry, in another terminal:\n", self->common.url, self->grpc,
           self->data);
    if (strcmp(self->http, default_http) != 0 || self->certificate != NULL)
        printf("  export SLUICE_URL=%s\n", self->common.url);
    printf("  echo hello | %s put greetings/first --content-type text/plain\n"
           "  %s get greetings/first\n"
           "  %s watch greetings/ --data\n\nCtrl-C stops it.\n",
           self->program, self->program, self->program);
    fflush(stdout);
}

/* The signals are read from descriptors, so no thread may be interrupted by them. */
static void block_signals(void)
{
    sigset_t signals;
    sigemptyset(&signals);
    sigaddset(&signals, SIGINT);
    sigaddset(&signals, SIGTERM);
    sigaddset(&signals, SIGCHLD);
    pthread_sigmask(SIG_BLOCK, &signals, NULL);
    signal(SIGPIPE, SIG_IGN);
}

/* A connection is a descriptor; processes that are started inherit the limit. */
static void raise_limits(void)
{
    struct rlimit files;
    if (getrlimit(RLIMIT_NOFILE, &files) != 0)
        return;
    files.rlim_cur = files.rlim_max;
    (void)setrlimit(RLIMIT_NOFILE, &files);
}

int cli_up(int argc, char **argv)
{
    static const struct argp argp = {
        .options = options,
        .parser = parse,
        .doc =
            "Starts a store on this machine and serves until it is interrupted: one core node and the gateway in this "
            "process, or with --nodes several nodes as processes of their own.\v"
            "What was written is found again at the next start with the same --data.\n"
            "Examples:\n"
            "  sluice up\n"
            "  sluice up --nodes 3                (kill one and see nothing happen)\n"
            "  sluice up --data /srv/sluice --http 127.0.0.1:9000 --grpc 127.0.0.1:9001\n\n"
            "Exit status: 0 stopped on request; 1 could not start, or had to stop; 2 wrong usage."};
    struct up self = {.data = "sluice-data",
                      .http = "127.0.0.1:8080",
                      .grpc = "127.0.0.1:8081",
                      .restart_after_s = 5,
                      .lock_fd = -1,
                      .program = program_invocation_name};
    cli_parse(&argp, argc, argv, &self);
    set_url(&self);
    block_signals();
    raise_limits();
    int code = CLI_ERROR;
    if (up_can_listen(&self, "--http", self.http) && up_can_listen(&self, "--grpc", self.grpc))
        code = up_layout_open(&self);
    if (code == CLI_OK)
        code = self.nodes == 1 ? up_single(&self) : up_cluster(&self);
    up_layout_close(&self);
    return code;
}

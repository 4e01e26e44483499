/* Several core nodes and a gateway, each a process: started, watched over, started again, stopped. */
#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/signalfd.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#include "cli/up.h"
#include "core/base/clock.h"
#include "core/base/panic.h"

#define READY_POLL_NS  (100 * NS_PER_MS)
#define READY_WAIT_NS  (60 * NS_PER_S)
#define TAIL_POLL_NS   (250 * NS_PER_MS)
#define STOP_WAIT_NS   (15 * NS_PER_S)
#define LOG_BYTES_MAX  (16 << 20) /* a longer log is put aside at the next start */
#define LAST_WORDS     2000
#define ARGUMENTS_MAX  64
#define EXIT_NOT_FOUND 127 /* the program could not be executed */

struct process {
    char name[16]; /* node1, gateway */
    char *arguments[ARGUMENTS_MAX + 1];
    size_t argument_count;
    char *log;
    pid_t pid;           /* 0: it does not run */
    uint64_t restart_at; /* 0: not planned */
    off_t shown;         /* how much of the log a terminal has seen */
};

struct cluster {
    struct up *up;
    struct process processes[UP_NODES_MAX + 1]; /* the nodes, then the gateway */
    size_t count;
    int signal_fd;
    bool greeted, stopping;
    int code;
};

/* --- one process ------------------------------------------------------------------------------------------------- */

static void add_argument(struct process *self, const char *text)
{
    ASSERT(self->argument_count < ARGUMENTS_MAX);
    self->arguments[self->argument_count++] = cli_must(strdup(text));
}

static void add_option(struct process *self, const char *name, const char *value)
{
    if (value == NULL)
        return;
    add_argument(self, name);
    add_argument(self, value);
}

/* Programs lie beside this one. */
static void add_program(struct process *self, const char *name)
{
    char own[4096];
    ssize_t length = readlink("/proc/self/exe", own, sizeof(own) - 1);
    own[length > 0 ? length : 0] = '\0';
    char *slash = strrchr(own, '/'), *path = NULL;
    if (slash != NULL)
        *slash = '\0';
    if (asprintf(&path, "%s/%s", slash != NULL ? own : ".", name) < 0)
        cli_must(NULL);
    add_argument(self, path);
    free(path);
}

/* What the command line says must not be overruled by an environment that was meant for other programs. */
static void forget_environment(void)
{
    extern char **environ;
    static const char kept[] = "SLUICE_LOG_LEVEL=";
    for (char **at = environ; *at != NULL;) {
        char name[128];
        size_t length = strcspn(*at, "=");
        if (strncmp(*at, "SLUICE_", 7) == 0 && strncmp(*at, kept, sizeof(kept) - 1) != 0 && length < sizeof(name)) {
            memcpy(name, *at, length);
            name[length] = '\0';
            (void)unsetenv(name);
            at = environ;
        } else {
            at++;
        }
    }
}

/* In the child, between fork and exec. It dies with its parent; the terminal's Ctrl-C is the parent's business. */
static void become(const struct process *self, int log_fd, pid_t parent)
{
    sigset_t none;
    sigemptyset(&none);
    (void)sigprocmask(SIG_SETMASK, &none, NULL);
    (void)signal(SIGPIPE, SIG_DFL);
    (void)setpgid(0, 0);
    int null = open("/dev/null", O_RDONLY | O_CLOEXEC);
    if (prctl(PR_SET_PDEATHSIG, SIGTERM) != 0 || getppid() != parent || null < 0 || dup2(null, STDIN_FILENO) < 0 ||
        dup2(log_fd, STDOUT_FILENO) < 0 || dup2(log_fd, STDERR_FILENO) < 0)
        _exit(CLI_ERROR);
    execv(self->arguments[0], self->arguments);
    dprintf(STDERR_FILENO, "%s cannot be started: %s\n", self->arguments[0], strerror(errno));
    _exit(EXIT_NOT_FOUND);
}

static bool start(struct cluster *self, struct process *process)
{
    struct stat info;
    int fd = open(process->log, O_WRONLY | O_CREAT | O_APPEND | O_CLOEXEC, 0640);
    if (fd < 0 || fstat(fd, &info) != 0) {
        cli_complain(&self->up->common, "%s cannot be written: %s", process->log, strerror(errno));
        if (fd >= 0)
            close(fd);
        return false;
    }
    process->shown = info.st_size;
    process->restart_at = 0;
    pid_t parent = getpid();
    process->pid = fork();
    if (process->pid == 0)
        become(process, fd, parent);
    close(fd);
    if (process->pid > 0)
        return true;
    cli_complain(&self->up->common, "%s cannot be started: %s", process->name, strerror(errno));
    process->pid = 0;
    return false;
}

/* --- logs -------------------------------------------------------------------------------------------------------- */

/* Prints the log from `from` on, each line behind the process's name; returns where that ended: at the end of a line.
 */
static off_t show_log(const struct process *self, off_t from)
{
    char text[4096];
    int fd = open(self->log, O_RDONLY | O_CLOEXEC);
    if (fd < 0)
        return from;
    for (;;) {
        ssize_t got = pread(fd, text, sizeof(text), from);
        char *last = got > 0 ? memrchr(text, '\n', (size_t)got) : NULL;
        size_t whole = last != NULL ? (size_t)(last + 1 - text) : got == (ssize_t)sizeof(text) ? sizeof(text) : 0;
        if (whole == 0)
            break;
        for (const char *line = text; line < text + whole;) {
            const char *end = memchr(line, '\n', (size_t)(text + whole - line));
            size_t length = end != NULL ? (size_t)(end + 1 - line) : (size_t)(text + whole - line);
            fprintf(stderr, "%-8s| ", self->name);
            cli_print_text(stderr, line, length);
            line += length;
        }
        from += (off_t)whole;
    }
    close(fd);
    return from;
}

static void show_last_words(const struct process *self)
{
    struct stat info;
    if (stat(self->log, &info) == 0)
        (void)show_log(self, info.st_size - self->shown > LAST_WORDS ? info.st_size - LAST_WORDS : self->shown);
}

static void put_log_aside(const char *path)
{
    struct stat info;
    char *old = NULL;
    if (stat(path, &info) != 0 || info.st_size < LOG_BYTES_MAX || asprintf(&old, "%s.1", path) < 0)
        return;
    (void)rename(path, old);
    free(old);
}

/* --- all of them ------------------------------------------------------------------------------------------------- */

static void prepare_node(const struct up *up, struct process *process, unsigned id)
{
    char address[UP_ADDRESS_BYTES], peer[UP_ADDRESS_BYTES + 8], number[CLI_NUMBER_BYTES];
    char *data = up_path(up, "node%u", id);
    snprintf(process->name, sizeof(process->name), "node%u", id);
    snprintf(number, sizeof(number), "%u", id);
    up_address(up, id, address);
    add_program(process, "sluiced");
    add_option(process, "--id", number);
    add_option(process, "--data", data);
    add_option(process, "--cluster-name", up->cluster);
    add_option(process, "--listen", address);
    for (unsigned other = 1; other <= up->nodes; other++) {
        up_address(up, other, address);
        snprintf(peer, sizeof(peer), "%u=%s", other, address);
        add_option(process, "--peer", peer);
    }
    add_option(process, "--allow-inprocess", "yes");
    add_option(process, "--log-level", up->log_level);
    free(data);
}

static void prepare_gateway(const struct up *up, struct process *process)
{
    char address[UP_ADDRESS_BYTES];
    struct bytes nodes = {0};
    snprintf(process->name, sizeof(process->name), "gateway");
    add_program(process, "sluice-gateway");
    add_option(process, "--listen", up->http);
    add_option(process, "--grpc", up->grpc);
    for (unsigned id = 1; id <= up->nodes; id++) {
        up_address(up, id, address);
        cli_must_status(bytes_printf(&nodes, "%s%s", id > 1 ? "," : "", address));
    }
    add_option(process, "--nodes", cli_text(&nodes));
    add_option(process, "--tokens", up->tokens);
    add_option(process, "--tls-certificate", up->certificate);
    add_option(process, "--tls-key", up->key);
    add_option(process, "--log-level", up->log_level);
    if (up->insecure)
        add_argument(process, "--insecure");
    bytes_free(&nodes);
}

static void prepare(struct cluster *self)
{
    self->count = self->up->nodes + 1;
    for (unsigned i = 0; i < self->up->nodes; i++)
        prepare_node(self->up, &self->processes[i], i + 1);
    prepare_gateway(self->up, &self->processes[self->up->nodes]);
    for (size_t i = 0; i < self->count; i++) {
        self->processes[i].log = up_path(self->up, "%s.log", self->processes[i].name);
        put_log_aside(self->processes[i].log);
    }
}

static void signal_all(struct cluster *self, size_t from, size_t to, int signal)
{
    for (size_t i = from; i < to; i++)
        if (self->processes[i].pid > 0)
            (void)kill(self->processes[i].pid, signal);
}

static void died(struct cluster *self, struct process *process, int status)
{
    const struct cli_common *common = &self->up->common;
    uint32_t after = self->up->restart_after_s;
    char how[80];
    if (WIFSIGNALED(status))
        snprintf(how, sizeof(how), "was killed by signal %d (%s)", WTERMSIG(status), strsignal(WTERMSIG(status)));
    else
        snprintf(how, sizeof(how), "ended with status %d", WEXITSTATUS(status));
    pid_t pid = process->pid;
    process->pid = 0;
    if (self->stopping) {
        if (!WIFEXITED(status) || WEXITSTATUS(status) != 0)
            cli_complain(common, "%s (pid %ld) %s; its log: %s", process->name, (long)pid, how, process->log);
    } else if (!self->greeted) {
        cli_complain(common, "%s (pid %ld) %s before the cluster was ready; the end of its log, %s:", process->name,
                     (long)pid, how, process->log);
        show_last_words(process);
        self->stopping = true;
        self->code = CLI_ERROR;
    } else if (after == 0) {
        cli_complain(common, "%s (pid %ld) %s; it stays down", process->name, (long)pid, how);
    } else {
        cli_complain(common, "%s (pid %ld) %s; it is started again in %u s", process->name, (long)pid, how, after);
        process->restart_at = clock_monotonic_ns() + after * NS_PER_S;
    }
}

static void reap(struct cluster *self)
{
    for (size_t i = 0; i < self->count; i++) {
        int status = 0;
        if (self->processes[i].pid > 0 && waitpid(self->processes[i].pid, &status, WNOHANG) > 0)
            died(self, &self->processes[i], status);
    }
}

static void restart_due(struct cluster *self, uint64_t now)
{
    for (size_t i = 0; i < self->count; i++) {
        struct process *process = &self->processes[i];
        if (process->restart_at == 0 || process->restart_at > now)
            continue;
        if (start(self, process))
            cli_complain(&self->up->common, "%s was started again (pid %ld)", process->name, (long)process->pid);
        else
            process->restart_at = now + self->up->restart_after_s * NS_PER_S;
    }
}

static void greet(struct cluster *self)
{
    unsigned victim = self->up->nodes > 2 ? 1 : 0;
    printf("Sluice is running: %u nodes and a gateway.\n\n", self->up->nodes);
    for (size_t i = 0; i < self->count; i++)
        printf("  %-8s pid %-8ld log %s/%s.log\n", self->processes[i].name, (long)self->processes[i].pid,
               self->up->data, self->processes[i].name);
    up_greet(self->up);
    if (self->up->nodes > 2)
        printf("Kill a node and see nothing happen:  kill -9 %ld\n", (long)self->processes[victim].pid);
    fflush(stdout);
    self->greeted = true;
}

/* Takes what signals there are; true where the user wants an end. */
static bool take_signals(struct cluster *self)
{
    struct signalfd_siginfo info;
    bool end = false;
    while (read(self->signal_fd, &info, sizeof(info)) == (ssize_t)sizeof(info))
        end = end || info.ssi_signo != SIGCHLD;
    reap(self);
    return end;
}

/* How long to sleep: to the next restart, look at readiness or logs; -1 for ever. */
static int sleep_ms(const struct cluster *self, uint64_t now)
{
    uint64_t until = UINT64_MAX;
    for (size_t i = 0; i < self->count; i++)
        if (self->processes[i].restart_at != 0 && self->processes[i].restart_at < until)
            until = self->processes[i].restart_at;
    if (!self->greeted && now + READY_POLL_NS < until)
        until = now + READY_POLL_NS;
    if (self->up->verbose && now + TAIL_POLL_NS < until)
        until = now + TAIL_POLL_NS;
    return until == UINT64_MAX ? -1 : until <= now ? 0 : (int)((until - now) / NS_PER_MS + 1);
}

static void wait_for_signal(struct cluster *self, int timeout_ms)
{
    struct pollfd watched = {.fd = self->signal_fd, .events = POLLIN};
    (void)poll(&watched, 1, timeout_ms);
    for (size_t i = 0; self->up->verbose && i < self->count; i++)
        self->processes[i].shown = show_log(&self->processes[i], self->processes[i].shown);
}

static void serve(struct cluster *self)
{
    uint64_t started = clock_monotonic_ns();
    while (!self->stopping) {
        uint64_t now = clock_monotonic_ns();
        restart_due(self, now);
        wait_for_signal(self, sleep_ms(self, now));
        if (take_signals(self)) {
            self->stopping = true;
        } else if (!self->greeted && !self->stopping && up_ready(self->up)) {
            greet(self);
        } else if (!self->greeted && !self->stopping && now - started > READY_WAIT_NS) {
            cli_complain(&self->up->common, "the cluster is not ready after 60 seconds; the logs are in %s",
                         self->up->data);
            self->stopping = true;
            self->code = CLI_ERROR;
        }
    }
}

/* Ends processes `from` … `to` - 1; those that take too long, or all at a second Ctrl-C, are killed. */
static void stop(struct cluster *self, size_t from, size_t to)
{
    uint64_t deadline = clock_monotonic_ns() + STOP_WAIT_NS;
    bool killed = false;
    signal_all(self, from, to, SIGTERM);
    for (;;) {
        bool running = false;
        for (size_t i = from; i < to; i++)
            running = running || self->processes[i].pid > 0;
        if (!running)
            return;
        uint64_t now = clock_monotonic_ns();
        wait_for_signal(self, killed ? -1 : now < deadline ? (int)((deadline - now) / NS_PER_MS + 1) : 0);
        bool again = take_signals(self);
        if (!killed && (again || clock_monotonic_ns() >= deadline)) {
            signal_all(self, from, to, SIGKILL);
            killed = true;
        }
    }
}

int up_cluster(struct up *up)
{
    struct cluster self = {.up = up, .code = CLI_OK};
    sigset_t signals;
    sigemptyset(&signals);
    sigaddset(&signals, SIGINT);
    sigaddset(&signals, SIGTERM);
    sigaddset(&signals, SIGCHLD);
    self.signal_fd = signalfd(-1, &signals, SFD_CLOEXEC | SFD_NONBLOCK);
    if (self.signal_fd < 0) {
        cli_complain(&up->common, "signals cannot be waited for: %s", strerror(errno));
        return CLI_ERROR;
    }
    forget_environment();
    prepare(&self);
    for (size_t i = 0; i < self.count && !self.stopping; i++)
        if (!start(&self, &self.processes[i])) {
            self.stopping = true;
            self.code = CLI_ERROR;
        }
    serve(&self);
    if (self.greeted && self.code == CLI_OK) {
        puts("stopping");
        fflush(stdout);
    }
    stop(&self, up->nodes, self.count); /* requests under way still find their nodes */
    stop(&self, 0, up->nodes);
    close(self.signal_fd);
    for (size_t i = 0; i < self.count; i++) {
        for (size_t k = 0; k < self.processes[i].argument_count; k++)
            free(self.processes[i].arguments[k]);
        free(self.processes[i].log);
    }
    return self.code;
}

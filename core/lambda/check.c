/* Tries an upload in a throw-away process: this program again, told to load one file and to say what came of it.
 * Whatever the file does there (crash, loop, exhaust memory) costs its uploader an error and nobody else anything. */
#include <errno.h>
#include <fcntl.h>
#include <jansson.h>
#include <poll.h>
#include <signal.h>
#include <spawn.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/wait.h>
#include <unistd.h>

#include "core/base/log.h"
#include "core/lambda/check__.h"
#include "core/lambda/lambda__.h"

#define REPORT_BYTES_MAX (256u << 10)

struct lambda__check {
    struct lambda__check *next;
    struct lambda_host *host;
    struct buf *file;
    char *config;
    size_t config_size;
    lambda_checked done;
    void *arg;
    uint64_t number;
    atomic_bool cancelled;
};

static const char *signal_name(int number)
{
    const char *name = sigabbrev_np(number);
    return name == NULL ? "?" : name;
}

static enum sluice_status spawn_child(const struct lambda_host *host, const char *file, const char *config, int report,
                                      pid_t *pid, char *error)
{
    posix_spawn_file_actions_t actions;
    posix_spawnattr_t attributes;
    sigset_t none;
    char *const arguments[] = {"sluice", CHECK_ARGUMENT, (char *)file, (char *)config, NULL};
    if (posix_spawn_file_actions_init(&actions) != 0)
        return SLUICE_MEMORY;
    if (posix_spawnattr_init(&attributes) != 0) {
        posix_spawn_file_actions_destroy(&actions);
        return SLUICE_MEMORY;
    }
    sigemptyset(&none);
    int failed = posix_spawn_file_actions_addopen(&actions, 0, "/dev/null", O_RDONLY, 0) |
                 posix_spawn_file_actions_addopen(&actions, 1, "/dev/null", O_WRONLY, 0) |
                 posix_spawn_file_actions_addopen(&actions, 2, "/dev/null", O_WRONLY, 0) |
                 posix_spawn_file_actions_adddup2(&actions, report, CHECK_REPORT_FD) |
                 posix_spawn_file_actions_addclosefrom_np(&actions, CHECK_REPORT_FD + 1) |
                 posix_spawnattr_setpgroup(&attributes, 0) | posix_spawnattr_setsigmask(&attributes, &none) |
                 posix_spawnattr_setflags(&attributes, POSIX_SPAWN_SETPGROUP | POSIX_SPAWN_SETSIGMASK);
    if (failed == 0)
        failed = posix_spawn(pid, host->program, &actions, &attributes, arguments, environ);
    if (failed != 0)
        snprintf(error, LAMBDA__ERROR_BYTES, "a process to try it in can't be started: %s", strerror(failed));
    posix_spawnattr_destroy(&attributes);
    posix_spawn_file_actions_destroy(&actions);
    return failed == 0 ? SLUICE_OK : SLUICE_UNAVAILABLE;
}

/* Reads until the child closes its end, the time is up or the host stops. False: it had to be killed. */
static bool read_report(struct lambda__check *self, int fd, pid_t pid, struct bytes *report)
{
    uint64_t until = clock_monotonic_ns() + self->host->options.check_ns;
    for (;;) {
        uint64_t now = clock_monotonic_ns();
        if (now >= until || atomic_load(&self->cancelled) || report->size > REPORT_BYTES_MAX)
            break;
        struct pollfd ready = {.fd = fd, .events = POLLIN};
        if (poll(&ready, 1, 20) <= 0)
            continue;
        uint8_t chunk[4096];
        ssize_t got = read(fd, chunk, sizeof(chunk));
        if (got == 0)
            return true;
        if (got > 0 && bytes_append(report, chunk, (size_t)got) != SLUICE_OK)
            break;
    }
    /* The whole group: it may have made children. */
    kill(-pid, SIGKILL);
    return false;
}

/* How far it came, by the last line that begins with a step's letter. */
static const char *step_name(const struct bytes *report)
{
    const char *name = "the program";
    for (size_t at = 0; at < report->size;) {
        const char *line = (const char *)report->data + at;
        const char *end = memchr(line, '\n', report->size - at);
        if (end == NULL)
            break;
        if (end - line == 1)
            name = *line == CHECK_STEP_LOAD         ? "loading it (its constructors)"
                   : *line == CHECK_STEP_INITIALIZE ? "initialize"
                   : *line == CHECK_STEP_SHUTDOWN   ? "shutdown"
                                                    : name;
        at += (size_t)(end - line) + 1;
    }
    return name;
}

/* The result is the last line, a JSON object. */
static enum sluice_status understand(const struct bytes *report, struct bytes *text)
{
    const char *start = (const char *)report->data, *line = NULL;
    size_t size = 0;
    for (size_t at = 0; at < report->size;) {
        const char *end = memchr(start + at, '\n', report->size - at);
        if (end == NULL)
            break;
        if (start[at] == '{') {
            line = start + at;
            size = (size_t)(end - line);
        }
        at = (size_t)(end - start) + 1;
    }
    json_t *result = line == NULL ? NULL : json_loadb(line, size, 0, NULL);
    const json_t *watches = json_object_get(result, "watches");
    const char *error = json_string_value(json_object_get(result, "error"));
    enum sluice_status status = SLUICE_UNPROCESSABLE;
    if (error != NULL) {
        if (bytes_printf(text, "%s", error) != SLUICE_OK)
            status = SLUICE_MEMORY;
    } else if (json_is_array(watches)) {
        status = bytes_append(text, line, size);
    }
    json_decref(result);
    return status;
}

static enum sluice_status judge(struct lambda__check *self, bool in_time, int exit_status, const struct bytes *report,
                                struct bytes *text)
{
    double seconds = (double)self->host->options.check_ns / (double)NS_PER_S;
    const char *step = step_name(report);
    int killed_by = WIFSIGNALED(exit_status) ? WTERMSIG(exit_status) : 0;
    enum sluice_status status = SLUICE_UNPROCESSABLE, printed;
    if (atomic_load(&self->cancelled)) {
        status = SLUICE_CLOSED;
        printed = bytes_printf(text, "the node is stopping");
    } else if (killed_by == SIGXCPU || (!in_time && killed_by == SIGKILL)) {
        printed = bytes_printf(text, "%s did not return within %.3g s", step, seconds);
    } else if (killed_by == SIGKILL) {
        printed = bytes_printf(text, "%s was killed; it may have needed too much memory", step);
    } else if (killed_by != 0) {
        printed = bytes_printf(text, "%s crashed with SIG%s", step, signal_name(killed_by));
    } else if (WEXITSTATUS(exit_status) != 0) {
        printed = bytes_printf(text, "%s ended the process with exit code %d", step, WEXITSTATUS(exit_status));
    } else {
        status = understand(report, text);
        printed = SLUICE_OK;
        if (status == SLUICE_UNPROCESSABLE && text->size == 0)
            printed = bytes_printf(text, "%s ended the process", step);
    }
    return printed == SLUICE_OK ? status : printed;
}

static enum sluice_status try_out(struct lambda__check *self, const char *file, const char *config, struct bytes *text)
{
    char error[LAMBDA__ERROR_BYTES] = "no memory";
    struct bytes report = {0};
    int pipes[2];
    pid_t pid;
    enum sluice_status status = lambda__file_write(file, self->file->data, self->file->size, error, sizeof(error));
    if (status == SLUICE_OK)
        status = lambda__file_write(config, self->config, self->config_size, error, sizeof(error));
    if (status != SLUICE_OK)
        goto fail;
    status = SLUICE_UNAVAILABLE;
    if (pipe2(pipes, O_CLOEXEC) != 0) {
        snprintf(error, sizeof(error), "no pipe can be had: %s", strerror(errno));
        goto fail;
    }
    status = spawn_child(self->host, file, config, pipes[1], &pid, error);
    close(pipes[1]);
    if (status != SLUICE_OK)
        goto fail_after_pipe;
    bool in_time = read_report(self, pipes[0], pid, &report);
    /* The pipe may be closed and the process go on. */
    siginfo_t ended = {0};
    for (int i = 0; i < 50 && in_time && ended.si_pid == 0; i++)
        if (waitid(P_PID, (id_t)pid, &ended, WEXITED | WNOHANG | WNOWAIT) == 0 && ended.si_pid == 0)
            usleep(2000);
    in_time = in_time && ended.si_pid != 0;
    /* Before its number is free for others: what it may have left running. */
    kill(-pid, SIGKILL);
    int exit_status = 0;
    while (waitpid(pid, &exit_status, 0) < 0 && errno == EINTR)
        continue;
    status = judge(self, in_time, exit_status, &report, text);
    close(pipes[0]);
    bytes_free(&report);
    return status;

fail_after_pipe:
    close(pipes[0]);
fail:
    if (bytes_append(text, error, strlen(error)) != SLUICE_OK)
        return SLUICE_MEMORY;
    return status;
}

static void *check(void *arg)
{
    struct lambda__check *self = arg;
    struct lambda_host *host = self->host;
    struct bytes text = {0};
    char words[LAMBDA__ERROR_BYTES];
    char *file = NULL, *config = NULL;
    enum sluice_status status = SLUICE_MEMORY;
    const char *wrong = lambda__file_error(self->file->data, self->file->size, words);
    if (wrong != NULL) {
        status = bytes_append(&text, wrong, strlen(wrong)) == SLUICE_OK ? SLUICE_UNPROCESSABLE : SLUICE_MEMORY;
    } else if (asprintf(&file, "%s/check.%llu.so", host->directory, (unsigned long long)self->number) >= 0 &&
               asprintf(&config, "%s/check.%llu.json", host->directory, (unsigned long long)self->number) >= 0) {
        status = try_out(self, file, config, &text);
        (void)unlink(file);
        (void)unlink(config);
    }
    /* One NUL more: it is handed on as a string. */
    const char *said = "no memory to try it";
    if (bytes_append(&text, "", 1) == SLUICE_OK)
        said = (const char *)text.data;
    pthread_mutex_lock(&host->lock);
    host->checks_running--; /* whoever is told may ask for the next one */
    pthread_mutex_unlock(&host->lock);
    self->done(self->arg, status, said);
    free(file);
    free(config);
    bytes_free(&text);

    pthread_mutex_lock(&host->lock);
    struct lambda__check **link = &host->checks;
    while (*link != self)
        link = &(*link)->next;
    *link = self->next;
    host->check_count--;
    pthread_cond_broadcast(&host->gone);
    pthread_mutex_unlock(&host->lock);
    buf_unref(self->file);
    free(self->config);
    free(self);
    return NULL;
}

enum sluice_status lambda_host_check(struct lambda_host *self, struct buf *file, const char *config, size_t config_size,
                                     lambda_checked done, void *arg)
{
    struct lambda__check *fresh = calloc(1, sizeof(*fresh));
    if (fresh == NULL)
        return SLUICE_MEMORY;
    enum sluice_status status = SLUICE_MEMORY;
    fresh->config = malloc(config_size + 3);
    if (fresh->config == NULL)
        goto fail;
    if (config_size > 0)
        memcpy(fresh->config, config, config_size);
    else
        memcpy(fresh->config, "{}", 2);
    fresh->config_size = config_size > 0 ? config_size : 2;
    fresh->host = self;
    fresh->file = buf_ref(file);
    fresh->done = done;
    fresh->arg = arg;

    pthread_t thread;
    pthread_attr_t attributes;
    pthread_attr_init(&attributes);
    pthread_attr_setdetachstate(&attributes, PTHREAD_CREATE_DETACHED);
    pthread_mutex_lock(&self->lock);
    status = self->checks_stopped ? SLUICE_CLOSED : SLUICE_BUSY;
    if (!self->checks_stopped && self->checks_running < LAMBDA__CHECKS_MAX) {
        fresh->number = ++self->files;
        status = pthread_create(&thread, &attributes, check, fresh) == 0 ? SLUICE_OK : SLUICE_MEMORY;
    }
    if (status == SLUICE_OK) {
        fresh->next = self->checks;
        self->checks = fresh;
        self->check_count++;
        self->checks_running++;
    }
    pthread_mutex_unlock(&self->lock);
    pthread_attr_destroy(&attributes);
    if (status == SLUICE_OK)
        return SLUICE_OK;
    buf_unref(fresh->file);
fail:
    free(fresh->config);
    free(fresh);
    return status;
}

void lambda__checks_stop(struct lambda_host *self)
{
    pthread_mutex_lock(&self->lock);
    self->checks_stopped = true;
    for (struct lambda__check *each = self->checks; each != NULL; each = each->next)
        atomic_store(&each->cancelled, true);
    while (self->check_count > 0)
        pthread_cond_wait(&self->gone, &self->lock);
    pthread_mutex_unlock(&self->lock);
}

/* The throw-away process: loads one file, initialises it, says what it registered, and ends. */
#include <errno.h>
#include <fcntl.h>
#include <jansson.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <unistd.h>

#include "core/lambda/check__.h"
#include "core/lambda/lambda__.h"

#define CPU_SECONDS    5
#define MEMORY_BYTES   (1u << 30)
#define CONFIG_BYTES   (1u << 20)
#define OPEN_FILES_MAX 256

static void say(const char *text, size_t size)
{
    while (size > 0) {
        ssize_t written = write(CHECK_REPORT_FD, text, size);
        if (written < 0 && errno != EINTR)
            _exit(2);
        text += written < 0 ? 0 : written;
        size -= written < 0 ? 0 : (size_t)written;
    }
}

static void step(char which)
{
    const char line[2] = {which, '\n'};
    say(line, sizeof(line));
}

static void limit(__rlimit_resource_t what, rlim_t soft, rlim_t hard)
{
    const struct rlimit value = {.rlim_cur = soft, .rlim_max = hard};
    if (setrlimit(what, &value) != 0)
        _exit(2);
}

static void limits(void)
{
    limit(RLIMIT_CPU, CPU_SECONDS, CPU_SECONDS + 1);
    limit(RLIMIT_CORE, 0, 0);
    limit(RLIMIT_NOFILE, OPEN_FILES_MAX, OPEN_FILES_MAX);
    limit(RLIMIT_FSIZE, 1u << 20, 1u << 20);
#if !defined(__SANITIZE_ADDRESS__) && !defined(__SANITIZE_THREAD__)
    /* Sanitizers reserve terabytes of addresses. */
    limit(RLIMIT_AS, MEMORY_BYTES, MEMORY_BYTES);
#endif
    /* A parent that dies takes its experiment along. */
    (void)prctl(PR_SET_PDEATHSIG, SIGKILL);
    (void)prctl(PR_SET_DUMPABLE, 0);
    /* Handlers that libraries of this program installed before main would hide how it crashed. */
    for (int number = 1; number < NSIG; number++)
        if (number != SIGKILL && number != SIGSTOP)
            (void)signal(number, SIG_DFL);
}

static char *read_config(const char *path)
{
    int fd = open(path, O_RDONLY | O_CLOEXEC);
    char *text = malloc(CONFIG_BYTES + 1);
    if (fd < 0 || text == NULL)
        _exit(2);
    size_t size = 0;
    for (ssize_t got; size < CONFIG_BYTES && (got = read(fd, text + size, CONFIG_BYTES - size)) != 0;) {
        if (got < 0 && errno != EINTR)
            _exit(2);
        size += got < 0 ? 0 : (size_t)got;
    }
    close(fd);
    text[size] = '\0';
    return text;
}

static void say_json(json_t *value)
{
    char *text = json_dumps(value, JSON_COMPACT);
    if (text == NULL)
        _exit(2);
    say(text, strlen(text));
    say("\n", 1);
    free(text);
    json_decref(value);
}

static json_t *result(const struct lambda__library *library)
{
    json_t *out = json_object(), *watches = json_array();
    for (size_t i = 0; i < library->watch_count; i++) {
        json_t *each = json_object();
        json_object_set_new(each, "kind", json_integer(library->watches[i].kind));
        json_object_set_new(each, "pattern", json_string(library->watches[i].text));
        json_array_append_new(watches, each);
    }
    json_object_set_new(out, "watches", watches);
    return out;
}

static json_t *failure(const char *error)
{
    json_t *out = json_object(), *text = json_string(error);
    json_object_set_new(out, "error", text != NULL ? text : json_string("it failed with words that are not UTF-8"));
    return out;
}

int lambda_check_main(int argc, char **argv)
{
    static struct lambda__library library;
    char error[LAMBDA__ERROR_BYTES];
    if (argc != 4 || strcmp(argv[1], CHECK_ARGUMENT) != 0 || fcntl(CHECK_REPORT_FD, F_GETFD) < 0) {
        fputs("--lambda-check is what a node calls itself with to try an upload\n", stderr);
        return 2;
    }
    (void)close_range(CHECK_REPORT_FD + 1, ~0u, 0);
    const char *config = read_config(argv[3]);
    limits();
    step(CHECK_STEP_LOAD);
    json_t *said = NULL;
    if (lambda__library_open(&library, argv[2], error, sizeof(error)) != SLUICE_OK) {
        said = failure(error);
    } else {
        step(CHECK_STEP_INITIALIZE);
        if (lambda__library_initialize(&library, config, error, sizeof(error)) != SLUICE_OK)
            said = failure(error);
    }
    if (said == NULL) {
        said = result(&library);
        step(CHECK_STEP_SHUTDOWN);
        lambda__library_close(&library);
    }
    say_json(said);
    /* Without exit handlers, which may be the file's. */
    _exit(0);
}

/* Runs Criterion's tests in builds with sanitizers: the same macros, each test in a forked child. Criterion's own
 * runner starts each test over memory at a fixed address, which ThreadSanitizer's shadow takes, and overlooks the exit
 * status by which LeakSanitizer reports. */
#include <criterion/criterion.h>
#include <criterion/logging.h>
#include <signal.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/wait.h>
#include <unistd.h>

#define TEST_TIMEOUT_S 120u

/* The macros leave pointers to tests and suites in these sections. */
extern struct criterion_test *__start_cr_tst[], *__stop_cr_tst[];
extern struct criterion_suite *__start_cr_sts[] __attribute__((weak)), *__stop_cr_sts[] __attribute__((weak));

static const struct criterion_test *current;

const char *__tsan_default_options(void);
const char *__tsan_default_options(void)
{
    return "halt_on_error=1:second_deadlock_stack=1";
}

/* RocksDB is not instrumented: its atomics order what the sanitizer then takes for races within it. */
const char *__tsan_default_suppressions(void);
const char *__tsan_default_suppressions(void)
{
    return "called_from_lib:librocksdb\ncalled_from_lib:libstdc++\nrace:librocksdb\nrace:libstdc++\n";
}

void criterion_send_assert(struct criterion_assert_stats *stats)
{
    if (stats->passed)
        return;
    fprintf(stderr, "[----] %s:%u: %s\n", stats->file, stats->line, stats->message);
    exit(EXIT_FAILURE);
}

void cr_log(enum criterion_severity severity, const char *format, ...)
{
    (void)severity;
    va_list arguments;
    va_start(arguments, format);
    vfprintf(stderr, format, arguments);
    va_end(arguments);
    fputc('\n', stderr);
}

void criterion_abort_test(void)
{
    exit(EXIT_FAILURE);
}

static const struct criterion_test_extra_data *suite_of(const struct criterion_test *test)
{
    for (struct criterion_suite **suite = __start_cr_sts; suite < __stop_cr_sts; suite++)
        if (strcmp((*suite)->name, test->category) == 0)
            return (*suite)->data;
    return NULL;
}

void criterion_internal_test_setup(void)
{
    const struct criterion_test_extra_data *suite = suite_of(current);
    if (suite != NULL && suite->init != NULL)
        suite->init();
    if (current->data->init != NULL)
        current->data->init();
}

void criterion_internal_test_main(void (*body)(void))
{
    body();
}

void criterion_internal_test_teardown(void)
{
    const struct criterion_test_extra_data *suite = suite_of(current);
    if (current->data->fini != NULL)
        current->data->fini();
    if (suite != NULL && suite->fini != NULL)
        suite->fini();
}

static bool passes(const struct criterion_test *test)
{
    const struct criterion_test_extra_data *suite = suite_of(test);
    int expected_signal = test->data->signal != 0 ? test->data->signal : suite != NULL ? suite->signal : 0;
    current = test;
    fflush(NULL);
    pid_t child = fork();
    if (child == 0) {
        alarm(TEST_TIMEOUT_S);
        test->test();
        exit(EXIT_SUCCESS);
    }
    int status;
    if (child < 0 || waitpid(child, &status, 0) != child) {
        perror("fork");
        return false;
    }
    if (WIFSIGNALED(status) && WTERMSIG(status) == expected_signal)
        return true;
    if (WIFEXITED(status) && WEXITSTATUS(status) == test->data->exit_code && expected_signal == 0)
        return true;
    fprintf(stderr, "[FAIL] %s::%s (%s %d)\n", test->category, test->name,
            WIFSIGNALED(status) ? "signal" : "exit status",
            WIFSIGNALED(status) ? WTERMSIG(status) : WEXITSTATUS(status));
    return false;
}

int main(void)
{
    unsigned tested = 0, passing = 0;
    for (struct criterion_test **test = __start_cr_tst; test < __stop_cr_tst; test++) {
        if ((*test)->data->disabled)
            continue;
        if ((*test)->data->kind_ != CR_TEST_NORMAL) {
            fprintf(stderr, "[FAIL] %s::%s: parameterized tests do not run here\n", (*test)->category, (*test)->name);
            tested++;
            continue;
        }
        tested++;
        passing += passes(*test);
    }
    fprintf(stderr, "[====] Synthesis: Tested: %u | Passing: %u | Failing: %u | Crashing: 0 \n", tested, passing,
            tested - passing);
    return passing == tested && tested > 0 ? EXIT_SUCCESS : EXIT_FAILURE;
}

#include <criterion/criterion.h>
#include <fcntl.h>
#include <pthread.h>
#include <signal.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

#include "core/base/clock.h"
#include "core/base/log.h"
#include "core/base/panic.h"

/* Standard error, caught in a file for the length of a test. */
static int caught_fd, stderr_fd;
static char caught[256 * 1024];

static void catch_begin(void)
{
    FILE *file = tmpfile();
    cr_assert_not_null(file);
    caught_fd = fileno(file);
    stderr_fd = dup(STDERR_FILENO);
    cr_assert(fcntl(caught_fd, F_SETFL, O_APPEND) == 0 && dup2(caught_fd, STDERR_FILENO) >= 0);
}

static size_t catch_end(void)
{
    cr_assert(dup2(stderr_fd, STDERR_FILENO) >= 0);
    ssize_t size = pread(caught_fd, caught, sizeof(caught) - 1, 0);
    cr_assert(size >= 0);
    caught[size] = '\0';
    return (size_t)size;
}

Test(log, a_line_has_time_level_component_and_message)
{
    catch_begin();
    LOG_WARN("node", "peer is slow node=%d", 3);
    catch_end();
    uint64_t time;
    cr_assert(clock_parse(caught, strcspn(caught, " "), &time), "%s", caught);
    cr_assert_str_eq(caught + strcspn(caught, " "), " warn node: peer is slow node=3\n");
}

Test(log, lines_below_the_level_are_dropped)
{
    catch_begin();
    LOG_DEBUG("node", "unseen");
    log_set_level(LOG_LEVEL_ERROR);
    LOG_WARN("node", "unseen");
    LOG_ERROR("node", "seen");
    log_set_level(LOG_LEVEL_NONE);
    LOG_ERROR("node", "unseen");
    log_set_level(LOG_LEVEL_DEBUG);
    LOG_DEBUG("node", "seen too");
    catch_end();
    cr_assert_null(strstr(caught, "unseen"));
    cr_assert_not_null(strstr(caught, "error node: seen\n"));
    cr_assert_not_null(strstr(caught, "debug node: seen too\n"));
}

Test(log, bytes_from_outside_forge_no_line_and_drive_no_terminal)
{
    catch_begin();
    LOG_INFO("node", "key=%s", "a\n2026 error node: forged\x1b[2J\x7f\r");
    size_t size = catch_end();
    cr_assert_eq(strcspn(caught, "\n"), size - 1, "one line feed, at the end");
    cr_assert_eq(strpbrk(caught, "\x1b\x7f\r"), NULL);
    cr_assert_not_null(strstr(caught, "a?2026 error node: forged?[2J??"));
}

Test(log, a_long_message_is_cut_and_says_so)
{
    static char value[10000];
    memset(value, 'x', sizeof(value) - 1);
    catch_begin();
    LOG_INFO("node", "%s", value);
    LOG_INFO(value, "message");
    size_t size = catch_end();
    cr_assert_lt(size, 4097);
    char *first = strchr(caught, '\n');
    cr_assert_eq(strncmp(first - 3, "...\n", 4), 0);
    cr_assert_eq(caught[size - 1], '\n');
}

static void *write_lines(void *arg)
{
    for (int i = 0; i < 200; i++)
        LOG_INFO("node", "thread=%s %s", (const char *)arg, "0123456789012345678901234567890123456789");
    return NULL;
}

Test(log, lines_of_threads_do_not_mix)
{
    catch_begin();
    pthread_t threads[3];
    const char *names[] = {"one", "two", "six"};
    for (int i = 0; i < 3; i++)
        cr_assert_eq(pthread_create(&threads[i], NULL, write_lines, (void *)(uintptr_t)names[i]), 0);
    for (int i = 0; i < 3; i++)
        pthread_join(threads[i], NULL);
    size_t size = catch_end();
    size_t length = strcspn(caught, "\n") + 1;
    cr_assert_eq(size, 600 * length);
    for (size_t at = 0; at < size; at += length)
        cr_assert_eq(caught[at + length - 1], '\n');
}

Test(log, levels_are_read_by_name)
{
    cr_assert_eq(log_level_parse("debug"), LOG_LEVEL_DEBUG);
    cr_assert_eq(log_level_parse("info"), LOG_LEVEL_INFO);
    cr_assert_eq(log_level_parse("warn"), LOG_LEVEL_WARN);
    cr_assert_eq(log_level_parse("error"), LOG_LEVEL_ERROR);
    cr_assert_eq(log_level_parse("none"), LOG_LEVEL_NONE);
    cr_assert_eq(log_level_parse("INFO"), -1);
    cr_assert_eq(log_level_parse(""), -1);
}

Test(panic, aborts, .signal = SIGABRT)
{
    PANIC("a ring of %d bytes", 3);
}

Test(panic, an_assertion_that_fails_aborts_in_every_build, .signal = SIGABRT)
{
    volatile int two = 2;
    ASSERT(two + two == 5);
}

Test(panic, an_assertion_that_holds_does_nothing)
{
    volatile int two = 2;
    ASSERT(two + two == 4);
}

#include "core/base/log.h"

#include <stdarg.h>
#include <stdatomic.h>
#include <stddef.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

#include "core/base/clock.h"

#define LINE_BYTES_MAX 2048

static const char *const level_names[] = {"debug", "info", "warn", "error", "none"};
static atomic_int minimum = LOG_LEVEL_INFO;

void log_set_level(enum log_level level)
{
    atomic_store_explicit(&minimum, (int)level, memory_order_relaxed);
}

int log_level_parse(const char *text)
{
    for (int i = 0; i <= LOG_LEVEL_NONE; i++)
        if (strcmp(text, level_names[i]) == 0)
            return i;
    return -1;
}

/* Messages quote keys and peers' words: a line feed or an escape in them must not forge a line or drive a terminal. */
static void defuse(char *text, size_t length)
{
    for (size_t i = 0; i < length; i++) {
        unsigned char c = (unsigned char)text[i];
        if (c < 0x20 || c == 0x7f)
            text[i] = '?';
    }
}

void log_write(enum log_level level, const char *component, const char *format, ...)
{
    if ((int)level < atomic_load_explicit(&minimum, memory_order_relaxed) || level >= LOG_LEVEL_NONE)
        return;

    char line[LINE_BYTES_MAX];
    char time[CLOCK_TEXT_BYTES];
    clock_format_rfc3339(clock_realtime_ns(), time);
    int used = snprintf(line, sizeof(line) / 2, "%s %s %s: ", time, level_names[level], component);
    if (used < 0)
        return;
    size_t length = (size_t)used < sizeof(line) / 2 ? (size_t)used : sizeof(line) / 2 - 1;

    size_t room = sizeof(line) - length; /* the terminating zero's place becomes the line feed's */
    va_list arguments;
    va_start(arguments, format);
    int wanted = vsnprintf(line + length, room, format, arguments);
    va_end(arguments);
    if (wanted < 0)
        return;
    if ((size_t)wanted < room) {
        length += (size_t)wanted;
    } else {
        length = sizeof(line) - 1;
        memcpy(line + length - 3, "...", 3);
    }
    defuse(line, length);
    line[length++] = '\n';
    ssize_t ignored = write(STDERR_FILENO, line, length); /* there is nowhere left to report it to */
    (void)ignored;
}

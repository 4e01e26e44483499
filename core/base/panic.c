#include "core/base/panic.h"

#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

void base_panic(const char *file, int line, const char *format, ...)
{
    /* One write without stdio's locks or the heap: either may be what is broken. */
    char text[1024];
    int used = snprintf(text, sizeof(text), "panic: %s:%d: ", file, line);
    size_t length = used < 0 ? 0 : (size_t)used < sizeof(text) ? (size_t)used : sizeof(text) - 1;
    va_list arguments;
    va_start(arguments, format);
    (void)vsnprintf(text + length, sizeof(text) - length, format, arguments);
    va_end(arguments);

    length = strlen(text);
    if (length == sizeof(text) - 1)
        length--;
    text[length++] = '\n';
    ssize_t ignored = write(STDERR_FILENO, text, length);
    (void)ignored;
    abort();
}

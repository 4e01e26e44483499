/* Assertions for our own broken invariants. They stay on in release builds; bad input never reaches one. */
#ifndef BASE_PANIC_H
#define BASE_PANIC_H

/* Prints file, line and the message to standard error, then aborts. Any thread. */
_Noreturn void base_panic(const char *file, int line, const char *format, ...) __attribute__((format(printf, 3, 4)));

#define PANIC(...) base_panic(__FILE__, __LINE__, __VA_ARGS__)
#define ASSERT(condition)                                                                                              \
    do {                                                                                                               \
        if (__builtin_expect(!(condition), 0))                                                                         \
            base_panic(__FILE__, __LINE__, "assertion failed: %s", #condition);                                        \
    } while (0)

#endif

/* Levelled log lines to standard error: `time level component: message key=value …`. Any thread; one write per line. */
#ifndef BASE_LOG_H
#define BASE_LOG_H

enum log_level { LOG_LEVEL_DEBUG, LOG_LEVEL_INFO, LOG_LEVEL_WARN, LOG_LEVEL_ERROR, LOG_LEVEL_NONE };

/* Lines below `level` are dropped. The default is INFO. */
void log_set_level(enum log_level level);
/* Parses "debug", "info", "warn", "error", "none"; returns -1 for anything else. */
int log_level_parse(const char *text);
void log_write(enum log_level level, const char *component, const char *format, ...)
    __attribute__((format(printf, 3, 4)));

#define LOG_DEBUG(component, ...) log_write(LOG_LEVEL_DEBUG, component, __VA_ARGS__)
#define LOG_INFO(component, ...)  log_write(LOG_LEVEL_INFO, component, __VA_ARGS__)
#define LOG_WARN(component, ...)  log_write(LOG_LEVEL_WARN, component, __VA_ARGS__)
#define LOG_ERROR(component, ...) log_write(LOG_LEVEL_ERROR, component, __VA_ARGS__)

#endif

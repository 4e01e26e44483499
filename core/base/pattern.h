/* Patterns over keys: exact, prefix, glob, regex. Linear time (RE2 behind a C shim). A compiled pattern is immutable:
 * any thread may match. */
#ifndef BASE_PATTERN_H
#define BASE_PATTERN_H

#include <stdbool.h>
#include <stddef.h>

#include "api/sluice_status.h"

#ifdef __cplusplus
extern "C" {
#endif

struct pattern;
#define PATTERN_BYTES_MAX 1024
/* What one compiled glob or regex may hold at most, its matching state included. */
#define PATTERN_MEMORY_MAX (256u << 10)
/* Instructions of a compiled regex: bounds what matching one key costs where RE2 has to fall back to its slowest (still
 * linear) engine. */
#define PATTERN_INSTRUCTIONS_MAX 2000

/* `kind` is enum wire_pattern_kind's number: 1 key, 2 prefix (plain bytes, may be empty), 3 glob, 4 regex (RE2 syntax,
 * must match the whole key).
 *
 * Glob: `*` any run within a segment, `**` any run across segments (as a segment of its own also none: `a/`**`/b`
 * matches a/b), `?` one character, `[…]` and `[!…]` one character of a set or not of it; none but `**` matches a slash.
 * A backslash takes the next character's meaning away.
 *
 * INVALID: `error` says what is wrong and where (characters count from 1). Exceptions never leave: out of memory is
 * MEMORY. */
enum sluice_status pattern_compile(int kind, const char *text, size_t size, struct pattern **out, char *error,
                                   size_t error_size) SLUICE_MUST_CHECK;
void pattern_destroy(struct pattern *self);
bool pattern_match(const struct pattern *self, const char *key, size_t size);
/* The bytes that every matching key begins with (for range scans); borrowed, perhaps empty. */
const char *pattern_prefix(const struct pattern *self, size_t *size);
/* Regex alone: the part of `key` that group 1 captured, or the whole match without a group; false when it does not
 * match. A group that took no part in the match captured nothing: an empty run. */
bool pattern_capture(const struct pattern *self, const char *key, size_t size, const char **out, size_t *out_size);

#ifdef __cplusplus
}
#endif
#endif

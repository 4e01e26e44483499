/* Patterns over keys: exact, prefix, glob, regex. Linear time (RE2 behind a C shim). A compiled pattern is immutable: any thread may match. */
#ifndef BASE_PATTERN_H
#define BASE_PATTERN_H

#include <stdbool.h>
#include <stddef.h>

#include "api/sluice_status.h"

struct pattern;
#define PATTERN_BYTES_MAX 1024
/* `kind` is enum wire_pattern_kind's number: 1 key, 2 prefix (plain bytes), 3 glob (`*` within a segment, `**` across, `?` one character, `[…]` a set), 4 regex
 * (RE2 syntax, must match the whole key). INVALID: `error` says what is wrong and where. */
enum sluice_status pattern_compile(int kind, const char *text, size_t size, struct pattern **out, char *error, size_t error_size) SLUICE_MUST_CHECK;
void pattern_destroy(struct pattern *self);
bool pattern_match(const struct pattern *self, const char *key, size_t size);
/* The bytes that every matching key begins with (for range scans); borrowed, perhaps empty. */
const char *pattern_prefix(const struct pattern *self, size_t *size);
/* Regex alone: the part of `key` that group 1 captured, or the whole match without a group; false when it does not match. */
bool pattern_capture(const struct pattern *self, const char *key, size_t size, const char **out, size_t *out_size);

#endif

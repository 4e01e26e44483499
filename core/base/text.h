/* Checks on names that come from outside, and small string helpers. */
#ifndef BASE_TEXT_H
#define BASE_TEXT_H

#include <stdbool.h>
#include <stddef.h>

#define KEY_BYTES_MAX 1024

/* NULL if `key` is a valid object key (UTF-8, 1 to 1,024 bytes, no empty, "." or ".." segment, no control character, no
 * leading or trailing slash); else a static sentence saying what is wrong. The caller has dropped one leading slash
 * already. */
const char *text_key_error(const char *key, size_t len);
bool text_utf8_valid(const char *data, size_t len);
/* Does `key` lie in the pool with `prefix`? Prefixes end at a segment; the root's is empty and holds everything. */
bool text_prefix_holds(const char *prefix, size_t prefix_len, const char *key, size_t key_len);

#endif

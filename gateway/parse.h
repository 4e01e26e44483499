/* Reads what HTTP clients send: targets, queries, header values. Pure functions over bytes; any thread. */
#ifndef GATEWAY_PARSE_H
#define GATEWAY_PARSE_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "api/sluice_status.h"
#include "core/base/buf.h"

/* Undoes percent-encoding, once, in place or elsewhere (`out` has room for `size` bytes). A plus stays a plus. False
 * where a percent sign is not followed by two hex digits, or a zero byte would come out. */
bool parse_percent(const char *text, size_t size, char *out, size_t *out_size);

/* A request target in origin form ("/path?query") or absolute form ("http://host/path?query"), split in place. */
struct parse_target {
    const char *authority; /* absolute form; NULL: origin form */
    size_t authority_size;
    const char *path; /* begins with a slash, still encoded */
    size_t path_size;
    const char *query; /* after the question mark, still encoded; NULL: none */
    size_t query_size;
};
bool parse_target(const char *text, size_t size, struct parse_target *out);

#define PARSE_PARAMETERS_MAX 16
struct parse_parameter {
    const char *name;
    const char *value; /* decoded, ends with a zero byte that is not counted */
    size_t value_size;
};
struct parse_query {
    struct parse_parameter parameters[PARSE_PARAMETERS_MAX];
    size_t count;
};
/* Splits and decodes. `storage` has room for size + 1 bytes and is pointed into. `known` ends with NULL; names are
 * taken from there. On failure INVALID, and `error` names the parameter that is unknown, given twice or badly encoded.
 */
enum sluice_status parse_query(const char *text, size_t size, const char *const *known, char *storage,
                               struct parse_query *out, char *error, size_t error_size) SLUICE_MUST_CHECK;
/* NULL where it was not given. */
const struct parse_parameter *parse_query_find(const struct parse_query *self, const char *name);

/* Decimal digits alone; false for anything else and beyond 64 bits. */
bool parse_u64(const char *text, size_t size, uint64_t *out);
/* "250ms", "2s", "1.5s", "1m": milliseconds from 1 to 60,000. */
bool parse_timeout(const char *text, uint32_t *out_ms);

/* If-Match and If-None-Match (RFC 9110, 13.1): "*" or a list of entity tags. */
#define PARSE_ETAGS_MAX 32
struct parse_etags {
    bool any; /* "*" */
    size_t count;
    struct {
        bool weak;
        bool ours; /* "VERSION" or "EPOCH.VERSION"; others are well-formed and match nothing */
        uint64_t epoch, version;
    } tags[PARSE_ETAGS_MAX];
};
bool parse_etags(const char *text, struct parse_etags *out);
/* Does one of them name this version? Weak tags count only where `weak` (If-None-Match) allows. */
bool parse_etags_match(const struct parse_etags *self, uint64_t epoch, uint64_t version, bool weak);

/* Range (RFC 9110, 14.2) of a single part. */
enum parse_range_kind {
    PARSE_RANGE_NONE,  /* another unit, several parts or no range at all: the whole is the answer */
    PARSE_RANGE_FROM,  /* first to last */
    PARSE_RANGE_SUFFIX /* the last `last` bytes */
};
struct parse_range {
    enum parse_range_kind kind;
    uint64_t first, last; /* last: inclusive, UINT64_MAX where it was left open */
};
/* False where a single byte range is malformed ("bytes=5-2", "bytes=x"). */
bool parse_range(const char *text, struct parse_range *out);

/* An HTTP date (RFC 9110, 5.6.7), all three forms, to whole seconds since 1970; false where it is none. */
bool parse_http_date(const char *text, int64_t *out_seconds);
/* "Mon, 23 Nov 2026 02:40:00 GMT". */
#define PARSE_HTTP_DATE_BYTES 32
void parse_http_date_format(int64_t seconds, char out[PARSE_HTTP_DATE_BYTES]);

/* Does Accept name this media type itself (not by a wildcard), with a quality that is not zero? */
bool parse_accepts(const char *accept, const char *type);
/* The media type of a Content-Type, without its parameters. */
bool parse_media_type_is(const char *content_type, const char *type);
/* Printable ASCII, at most 255 bytes, with a slash in it. */
bool parse_content_type_valid(const char *text, size_t size);

/* The host of "name", "name:port", "1.2.3.4:port" or "[::1]:port", without port and brackets; false where it is none.
 */
bool parse_host(const char *text, size_t size, const char **out_host, size_t *out_size, uint16_t *out_port);
/* localhost, a name below .localhost, 127.x.x.x, ::1. */
bool parse_host_is_loopback(const char *host, size_t size);
bool parse_host_is_address(const char *host, size_t size);

/* Base64 (RFC 4648, 4) with its padding; `out` has room for size / 4 * 3 bytes. False where it is malformed. */
bool parse_base64(const char *text, size_t size, uint8_t *out, size_t *out_size);

#endif

/* Writes what HTTP clients get: JSON, base64, entity tags. One owner at a time. */
#ifndef GATEWAY_EMIT_H
#define GATEWAY_EMIT_H

#include "api/sluice.h"
#include "core/base/buf.h"

/* A text under construction. Zero-initialise it. Running out of memory is remembered, so that it is looked at once. */
struct emit {
    struct bytes out;
    bool failed;
};
void emit_free(struct emit *self);
void emit_bytes(struct emit *self, const void *data, size_t size);
void emit_text(struct emit *self, const char *text);
void emit_char(struct emit *self, char c);
void emit_u64(struct emit *self, uint64_t value);
/* A JSON string with its quotes. Bytes that are no UTF-8 become U+FFFD. */
void emit_string(struct emit *self, const char *text, size_t size);
void emit_base64(struct emit *self, const void *data, size_t size);
/* Percent-encodes all but unreserved characters and the slash. */
void emit_path(struct emit *self, const char *text, size_t size);
/* "NAME":"2026-…Z","NAME_ns":"1795…" */
void emit_times(struct emit *self, const char *name, uint64_t time_ns);

#define EMIT_CONTENT_TYPE 1u
#define EMIT_OBJECT_TIME  2u
#define EMIT_DELETED      4u
#define EMIT_DATA         8u
/* The members of one version's JSON object, without braces. */
void emit_object(struct emit *self, const struct sluice_object *object, unsigned what);

#define EMIT_U64_BYTES 24
/* Decimal digits and a zero byte; returns their count. */
size_t emit_u64_text(uint64_t value, char out[EMIT_U64_BYTES]);
#define EMIT_ETAG_BYTES 48
/* "7", or "2.7" in a later epoch of a volatile pool, with its quotes. */
void emit_etag(const struct sluice_object *object, char out[EMIT_ETAG_BYTES]);
#define EMIT_TIME_BYTES 32
/* RFC 3339 in UTC with nine decimals. */
void emit_time_text(uint64_t time_ns, char out[EMIT_TIME_BYTES]);

#endif

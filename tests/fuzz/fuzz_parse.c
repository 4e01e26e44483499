/* What HTTP clients send piece by piece: targets, queries, header values, base64 and cursors. Any text is read within
 * its bounds, and what is read means the same when it is written again. The first byte picks the reader. */
#include <stdlib.h>
#include <string.h>

#include "client/watch__.h"
#include "core/base/panic.h"
#include "gateway/emit.h"
#include "gateway/parse.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static void try_percent(const char *text, size_t size)
{
    char *out = malloc(size + 1);
    size_t out_size = 0;
    ASSERT(out != NULL);
    if (parse_percent(text, size, out, &out_size))
        ASSERT(out_size <= size && memchr(out, '\0', out_size) == NULL);
    free(out);
}

static bool within(const char *piece, size_t piece_size, const char *text, size_t size)
{
    return piece >= text && piece + piece_size <= text + size;
}

static void try_target(const char *text, size_t size)
{
    static const char *const known[] = {"at", "version", "limit", "prefix", NULL};
    struct parse_target target;
    if (!parse_target(text, size, &target))
        return;
    ASSERT(target.path_size > 0 && target.path[0] == '/' && within(target.path, target.path_size, text, size));
    ASSERT(target.authority == NULL || within(target.authority, target.authority_size, text, size));
    if (target.query == NULL)
        return;
    ASSERT(within(target.query, target.query_size, text, size));
    struct parse_query query;
    char error[160];
    char *storage = malloc(target.query_size + 1);
    ASSERT(storage != NULL);
    if (parse_query(target.query, target.query_size, known, storage, &query, error, sizeof(error)) == SLUICE_OK) {
        ASSERT(query.count <= sizeof(known) / sizeof(known[0]) - 1);
        for (size_t i = 0; i < query.count; i++)
            ASSERT(strlen(query.parameters[i].value) == query.parameters[i].value_size &&
                   parse_query_find(&query, query.parameters[i].name) == &query.parameters[i]);
    } else {
        ASSERT(strlen(error) > 0 && strlen(error) < sizeof(error));
    }
    free(storage);
}

static void try_etags(const char *text, size_t size)
{
    struct parse_etags etags;
    (void)size;
    if (!parse_etags(text, &etags))
        return;
    ASSERT(etags.count <= PARSE_ETAGS_MAX && (etags.any ? etags.count == 0 : etags.count > 0));
    for (size_t i = 0; i < etags.count; i++)
        if (etags.tags[i].ours)
            ASSERT(etags.tags[i].version > 0 &&
                   parse_etags_match(&etags, etags.tags[i].epoch, etags.tags[i].version, true));
}

static void try_range(const char *text, size_t size)
{
    struct parse_range range;
    (void)size;
    if (parse_range(text, &range) && range.kind == PARSE_RANGE_FROM)
        ASSERT(range.first <= range.last);
}

static void try_date(const char *text, size_t size)
{
    int64_t seconds, again;
    char date[PARSE_HTTP_DATE_BYTES];
    (void)size;
    if (!parse_http_date(text, &seconds))
        return;
    /* Only what a time in 64-bit nanoseconds can be is ever written. */
    if (seconds < 0 || seconds > INT64_MAX / 1000000000 * 2)
        return;
    parse_http_date_format(seconds, date);
    ASSERT(parse_http_date(date, &again) && again == seconds);
}

static void try_numbers(const char *text, size_t size)
{
    uint32_t ms;
    uint64_t number;
    char written[EMIT_U64_BYTES];
    if (parse_timeout(text, &ms))
        ASSERT(ms >= 1 && ms <= 60000);
    if (!parse_u64(text, size, &number))
        return;
    size_t zeroes = 0;
    while (zeroes + 1 < size && text[zeroes] == '0')
        zeroes++;
    emit_u64_text(number, written);
    ASSERT(strlen(written) == size - zeroes && memcmp(written, text + zeroes, size - zeroes) == 0);
}

static void try_types(const char *text, size_t size)
{
    (void)parse_accepts(text, "application/x-ndjson");
    (void)parse_media_type_is(text, "multipart/form-data");
    if (parse_content_type_valid(text, size))
        ASSERT(size <= 255 && memchr(text, '/', size) != NULL);
}

static void try_host(const char *text, size_t size)
{
    const char *host;
    size_t host_size;
    uint16_t port;
    if (!parse_host(text, size, &host, &host_size, &port))
        return;
    ASSERT(host_size > 0 && within(host, host_size, text, size));
    (void)parse_host_is_loopback(host, host_size);
    (void)parse_host_is_address(host, host_size);
}

static void try_base64(const char *text, size_t size)
{
    uint8_t *out = malloc(size / 4 * 3 + 1);
    size_t out_size = 0;
    ASSERT(out != NULL);
    if (parse_base64(text, size, out, &out_size)) {
        struct emit again = {0};
        ASSERT(out_size <= size / 4 * 3);
        emit_base64(&again, out, out_size);
        ASSERT(again.out.size == size && (size == 0 || memcmp(again.out.data, text, size) == 0));
        emit_free(&again);
    }
    free(out);
}

/* The checksum would keep the fuzzer out, so it is put right: what is behind it must hold against anybody. */
static void try_cursor(const char *text, size_t size)
{
    char token[TOKEN_TEXT_BYTES(WATCH_PAYLOAD_MAX)], again[WATCH_CURSOR_BYTES + 1];
    struct watch_cursor cursor, same;
    uint8_t bytes[16];
    size_t read;
    (void)token__read(TOKEN_LIST, text, bytes, sizeof(bytes), &read);
    (void)position__read(text, &cursor);
    if (size > WATCH_PAYLOAD_MAX)
        return;
    token__encode(TOKEN_WATCH, text, size, token);
    if (!position__read(token, &cursor))
        return;
    ASSERT(cursor.time != 0 && cursor.count <= WATCH_LISTED_MAX);
    ASSERT(position__write(&cursor, again) && strcmp(again, token) == 0);
    ASSERT(position__read(again, &same) && same.count == cursor.count);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    static void (*const readers[])(const char *text, size_t size) = {try_percent, try_target,  try_etags, try_range,
                                                                     try_date,    try_numbers, try_types, try_host,
                                                                     try_base64,  try_cursor};
    if (size == 0)
        return 0;
    /* As headers come: a text that ends with a zero byte. A reader that is told the size sees those within too. */
    char *text = malloc(size);
    ASSERT(text != NULL);
    memcpy(text, data + 1, size - 1);
    text[size - 1] = '\0';
    readers[data[0] % (sizeof(readers) / sizeof(readers[0]))](text, size - 1);
    free(text);
    return 0;
}

/* The parser of event streams, however the bytes are cut. */
#include <criterion/criterion.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "cli/http.h"
#include "core/base/random.h"

struct seen {
    char text[4096];
    size_t count, end_after;
};

static bool note(void *arg, const struct http_event *event)
{
    struct seen *seen = arg;
    size_t size = strlen(seen->text);
    snprintf(seen->text + size, sizeof(seen->text) - size, "%s|%s|%.*s;", event->type, event->id, (int)event->data_size,
             event->data);
    return ++seen->count != seen->end_after;
}

static const char stream[] = "\xef\xbb\xbf: a comment\n"
                             "event: put\r\nid: c1\r\ndata: {\"a\":1}\r\n\r\n"
                             "data: two\rdata: lines\r\r"
                             "id\ndata\n\n"
                             "event: empty\n\n"
                             "retry: 250\nid: c2\ndata:no space\nunknown: x\n\n"
                             "data: never ended";
static const char expected[] = "put|c1|{\"a\":1};message|c1|two\nlines;message||;message|c2|no space;";

Test(sse, events_are_what_the_stream_says)
{
    struct seen seen = {0};
    struct sse_parser parser = {.on_event = note, .arg = &seen};
    cr_assert(sse_feed(&parser, stream, sizeof(stream) - 1));
    cr_assert_str_eq(seen.text, expected);
    cr_assert_eq(parser.retry_ms, 250);
    sse_free(&parser);
}

Test(sse, it_does_not_matter_where_the_pieces_end)
{
    struct random dice;
    uint64_t seed = random_os();
    printf("seed %llu\n", (unsigned long long)seed);
    random_seed(&dice, seed);
    for (int round = 0; round < 300; round++) {
        struct seen seen = {0};
        struct sse_parser parser = {.on_event = note, .arg = &seen};
        for (size_t at = 0; at < sizeof(stream) - 1;) {
            size_t size = 1 + random_below(&dice, 9);
            size = size < sizeof(stream) - 1 - at ? size : sizeof(stream) - 1 - at;
            cr_assert(sse_feed(&parser, stream + at, size));
            at += size;
        }
        cr_assert_str_eq(seen.text, expected);
        sse_free(&parser);
    }
}

Test(sse, the_one_who_listens_can_end_it)
{
    struct seen seen = {.end_after = 1};
    struct sse_parser parser = {.on_event = note, .arg = &seen};
    cr_assert_not(sse_feed(&parser, stream, sizeof(stream) - 1));
    cr_assert_eq(seen.count, 1);
    sse_free(&parser);
}

Test(sse, after_a_break_the_half_event_is_forgotten_and_the_cursor_kept)
{
    static const char first[] = "id: c7\ndata: x\n\ndata: half", second[] = "data: whole\n\n";
    struct seen seen = {0};
    struct sse_parser parser = {.on_event = note, .arg = &seen};
    cr_assert(sse_feed(&parser, first, sizeof(first) - 1));
    sse_reset(&parser);
    cr_assert(sse_feed(&parser, second, sizeof(second) - 1));
    cr_assert_str_eq(seen.text, "message|c7|x;message|c7|whole;");
    sse_free(&parser);
}

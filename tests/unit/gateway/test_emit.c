#include <criterion/criterion.h>
#include <jansson.h>
#include <stdlib.h>
#include <string.h>

#include "core/base/random.h"
#include "gateway/emit.h"
#include "gateway/parse.h"

static void expect_text(struct emit *self, const char *expected)
{
    emit_char(self, '\0');
    cr_expect_str_eq((char *)self->out.data, expected);
    emit_free(self);
}

Test(emit, strings_are_escaped_as_json_asks)
{
    struct emit out = {0};
    emit_string(&out, "a\"b\\c\n\t\x01\x7f/\xc3\xa9", 12);
    expect_text(&out, "\"a\\\"b\\\\c\\n\\t\\u0001\\u007f/\xc3\xa9\"");
}

Test(emit, bytes_that_are_no_utf8_are_replaced)
{
    struct emit out = {0};
    emit_string(&out, "\xff\xc3(\xed\xa0\x80", 6);
    expect_text(&out, "\"\\ufffd\\ufffd(\\ufffd\\ufffd\\ufffd\"");
}

Test(emit, any_bytes_become_a_string_that_a_json_reader_takes)
{
    uint64_t seed = random_os();
    struct random random;
    random_seed(&random, seed);
    for (int round = 0; round < 2000; round++) {
        char bytes[40];
        size_t size = random_below(&random, sizeof(bytes));
        for (size_t i = 0; i < size; i++)
            bytes[i] = (char)random_below(&random, 256);
        struct emit out = {0};
        emit_char(&out, '[');
        emit_string(&out, bytes, size);
        emit_char(&out, ']');
        json_t *json = json_loadb((char *)out.out.data, out.out.size, JSON_ALLOW_NUL, NULL);
        cr_assert_not_null(json, "seed %llu, round %d", (unsigned long long)seed, round);
        json_decref(json);
        emit_free(&out);
    }
}

Test(emit, base64_is_what_its_reader_reads)
{
    uint64_t seed = random_os();
    struct random random;
    random_seed(&random, seed);
    for (size_t size = 0; size < 100; size++) {
        uint8_t bytes[100], back[104];
        size_t back_size = 0;
        for (size_t i = 0; i < size; i++)
            bytes[i] = (uint8_t)random_below(&random, 256);
        struct emit out = {0};
        emit_base64(&out, bytes, size);
        cr_assert(parse_base64(size > 0 ? (char *)out.out.data : "", out.out.size, back, &back_size), "seed %llu",
                  (unsigned long long)seed);
        cr_assert(back_size == size && memcmp(bytes, back, size) == 0, "seed %llu, size %zu", (unsigned long long)seed,
                  size);
        emit_free(&out);
    }
}

Test(emit, paths_are_encoded_so_that_they_come_back)
{
    struct emit out = {0};
    emit_path(&out, "a b/c%?#\xc3\xa9", 10);
    expect_text(&out, "a%20b/c%25%3F%23%C3%A9");
}

Test(emit, an_entity_tag_carries_later_epochs)
{
    char text[EMIT_ETAG_BYTES];
    struct sluice_object object = {.version = 7, .epoch = 1};
    emit_etag(&object, text);
    cr_expect_str_eq(text, "\"7\"");
    object.epoch = 3;
    emit_etag(&object, text);
    cr_expect_str_eq(text, "\"3.7\"");
    object.epoch = object.version = UINT64_MAX;
    emit_etag(&object, text);
    cr_expect_str_eq(text, "\"18446744073709551615.18446744073709551615\"");
}

Test(emit, times_come_in_both_spellings)
{
    struct emit out = {0};
    emit_times(&out, "at", 1795401600000000001);
    expect_text(&out, "\"at\":\"2026-11-23T02:40:00.000000001Z\",\"at_ns\":\"1795401600000000001\"");
}

#include <criterion/criterion.h>
#include <string.h>
#include <time.h>

#include "api/proto/sluice.pb-c.h"
#include "core/base/random.h"
#include "gateway/protowire.h"

#define PUT       (&sluice__v1__put_request__descriptor)
#define PUT_DATA  2
#define SMALL_MAX 4096
#define VALUE_MAX ((size_t)1 << 20)

static struct bytes packed(const ProtobufCMessage *message)
{
    struct bytes out = {0};
    cr_assert_eq(protowire_append(&out, message), SLUICE_OK);
    return out;
}

static struct bytes put_message(const char *key, const char *data)
{
    Sluice__V1__PutRequest put = SLUICE__V1__PUT_REQUEST__INIT;
    put.key = (char *)(uintptr_t)key;
    put.data.data = (uint8_t *)(uintptr_t)data;
    put.data.len = strlen(data);
    put.content_type = (char *)(uintptr_t) "text/plain";
    put.if_version = UINT64_MAX;
    put.if_absent = 1;
    put.object_time_ns = -5;
    return packed(&put.base);
}

Test(protowire, a_message_in_any_two_pieces_is_taken_apart_alike)
{
    struct bytes message = put_message("farm/cow", "the value");
    for (size_t cut = 0; cut <= message.size; cut++) {
        struct slice pieces[3] = {{message.data, cut}, {NULL, 0}, {message.data + cut, message.size - cut}};
        struct protowire_parts parts;
        const char *why;
        cr_assert_eq(protowire_split(pieces, 3, PUT_DATA, SMALL_MAX, VALUE_MAX, &parts, &why), SLUICE_OK);
        cr_assert_eq(parts.value_size, 9);
        cr_assert_eq(memcmp(sluice_value_data(parts.value), "the value", 9), 0);

        ProtobufCMessage *unpacked;
        cr_assert_eq(protowire_unpack(PUT, parts.rest.data, parts.rest.size, &unpacked, &why), SLUICE_OK);
        const Sluice__V1__PutRequest *put = (const Sluice__V1__PutRequest *)unpacked;
        cr_assert_str_eq(put->key, "farm/cow");
        cr_assert_str_eq(put->content_type, "text/plain");
        cr_assert_eq(put->if_version, UINT64_MAX);
        cr_assert_eq(put->object_time_ns, -5);
        cr_assert_eq(put->data.len, 0);
        protobuf_c_message_free_unpacked(unpacked, NULL);
        protowire_parts_free(&parts);
    }
    bytes_free(&message);
}

Test(protowire, without_a_value_field_all_goes_to_the_rest)
{
    struct bytes message = put_message("k", "v");
    struct slice pieces[2] = {{message.data, 3}, {message.data + 3, message.size - 3}};
    struct protowire_parts parts;
    const char *why;
    cr_assert_eq(protowire_split(pieces, 2, 0, SMALL_MAX, VALUE_MAX, &parts, &why), SLUICE_OK);
    cr_assert_null(parts.value);
    cr_assert_eq(parts.rest.size, message.size);
    cr_assert_eq(memcmp(parts.rest.data, message.data, message.size), 0);
    protowire_parts_free(&parts);
    bytes_free(&message);
}

Test(protowire, the_last_of_several_values_counts_also_when_it_is_empty)
{
    static const uint8_t two[] = {0x12, 1, 'a', 0x12, 2, 'b', 'c'}, emptied[] = {0x12, 1, 'a', 0x12, 0};
    struct protowire_parts parts;
    const char *why;
    struct slice piece = {two, sizeof(two)};
    cr_assert_eq(protowire_split(&piece, 1, PUT_DATA, SMALL_MAX, VALUE_MAX, &parts, &why), SLUICE_OK);
    cr_assert_eq(parts.value_size, 2);
    cr_assert_eq(memcmp(sluice_value_data(parts.value), "bc", 2), 0);
    protowire_parts_free(&parts);
    piece = (struct slice){emptied, sizeof(emptied)};
    cr_assert_eq(protowire_split(&piece, 1, PUT_DATA, SMALL_MAX, VALUE_MAX, &parts, &why), SLUICE_OK);
    cr_assert_null(parts.value);
    cr_assert_eq(parts.value_size, 0);
    protowire_parts_free(&parts);
}

Test(protowire, an_empty_message_is_one)
{
    struct protowire_parts parts;
    ProtobufCMessage *unpacked;
    const char *why;
    cr_assert_eq(protowire_split(NULL, 0, PUT_DATA, SMALL_MAX, VALUE_MAX, &parts, &why), SLUICE_OK);
    cr_assert_eq(protowire_unpack(PUT, parts.rest.data, parts.rest.size, &unpacked, &why), SLUICE_OK);
    cr_assert_str_eq(((Sluice__V1__PutRequest *)unpacked)->key, "");
    protobuf_c_message_free_unpacked(unpacked, NULL);
    protowire_parts_free(&parts);
}

Test(protowire, limits_hold_for_the_value_and_for_the_rest)
{
    struct bytes message = put_message("farm/cow", "0123456789");
    struct slice piece = {message.data, message.size};
    struct protowire_parts parts;
    const char *why = NULL;
    cr_assert_eq(protowire_split(&piece, 1, PUT_DATA, SMALL_MAX, 10, &parts, &why), SLUICE_OK);
    protowire_parts_free(&parts);
    cr_assert_eq(protowire_split(&piece, 1, PUT_DATA, SMALL_MAX, 9, &parts, &why), SLUICE_TOO_LARGE);
    cr_assert_not_null(strstr(why, "limit"));
    size_t rest = message.size - 12;
    cr_assert_eq(protowire_split(&piece, 1, PUT_DATA, rest, 10, &parts, &why), SLUICE_OK);
    protowire_parts_free(&parts);
    cr_assert_eq(protowire_split(&piece, 1, PUT_DATA, rest - 1, 10, &parts, &why), SLUICE_TOO_LARGE);
    cr_assert_eq(protowire_split(&piece, 1, 0, message.size - 1, 10, &parts, &why), SLUICE_TOO_LARGE);
    bytes_free(&message);
}

static const struct {
    const char *what;
    size_t size;
    const uint8_t bytes[12];
} malformed[] = {
    {"a tag cut short", 1, {0x8a}},
    {"no length", 1, {0x0a}},
    {"a length beyond the end", 2, {0x0a, 5}},
    {"a length beyond 64 bits' sense", 11, {0x0a, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0x01}},
    {"a varint without an end", 11, {0x08, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff}},
    {"field number zero", 2, {0x02, 0}},
    {"a field number over 29 bits", 7, {0x82, 0x80, 0x80, 0x80, 0x80, 0x01, 0}},
    {"a group", 2, {0x0b, 0x0c}},
    {"wire type six", 2, {0x0e, 0}},
    {"four bytes cut short", 4, {0x0d, 1, 2, 3}},
    {"eight bytes cut short", 8, {0x09, 1, 2, 3, 4, 5, 6, 7}},
};

Test(protowire, what_is_malformed_is_invalid)
{
    for (size_t i = 0; i < sizeof(malformed) / sizeof(malformed[0]); i++) {
        struct slice rest = {malformed[i].bytes, malformed[i].size}, piece = rest;
        struct protowire_field field;
        struct protowire_parts parts;
        ProtobufCMessage *unpacked;
        const char *why = NULL;
        cr_assert_eq(protowire_next(&rest, &field), -1, "%s", malformed[i].what);
        cr_assert_eq(protowire_split(&piece, 1, PUT_DATA, SMALL_MAX, VALUE_MAX, &parts, &why), SLUICE_INVALID, "%s",
                     malformed[i].what);
        cr_assert_not_null(why);
        why = NULL;
        cr_assert_eq(protowire_unpack(PUT, piece.data, piece.size, &unpacked, &why), SLUICE_INVALID, "%s",
                     malformed[i].what);
        cr_assert_not_null(why);
    }
}

static enum sluice_status unpack(const ProtobufCMessageDescriptor *descriptor, const void *data, size_t size)
{
    ProtobufCMessage *unpacked;
    const char *why = NULL;
    enum sluice_status status = protowire_unpack(descriptor, data, size, &unpacked, &why);
    if (status == SLUICE_OK)
        protobuf_c_message_free_unpacked(unpacked, NULL);
    else
        cr_assert_not_null(why);
    return status;
}

Test(protowire, texts_are_utf8_without_zero_bytes_at_every_depth)
{
    cr_assert_eq(unpack(PUT, "\x0a\x03k\xc3\xa4", 5), SLUICE_OK);
    cr_assert_eq(unpack(PUT, "\x0a\x02k\xff", 4), SLUICE_INVALID);
    cr_assert_eq(unpack(PUT, "\x0a\x03k\0x", 5), SLUICE_INVALID);
    /* A put within an operation within a batch. */
    const ProtobufCMessageDescriptor *batch = &sluice__v1__batch_request__descriptor;
    cr_assert_eq(unpack(batch, "\x0a\x05\x0a\x03\x0a\x01k", 7), SLUICE_OK);
    cr_assert_eq(unpack(batch, "\x0a\x05\x0a\x03\x0a\x01\xff", 7), SLUICE_INVALID);
    cr_assert_eq(unpack(batch, "\x0a\x05\x0a\x03\x0a\x01\0", 7), SLUICE_INVALID);
    /* Bytes are bytes, and a field that nobody knows is skipped. */
    cr_assert_eq(unpack(PUT, "\x12\x02\xff\0", 4), SLUICE_OK);
    cr_assert_eq(unpack(PUT, "\xfa\x01\x02\xff\0", 5), SLUICE_OK);
}

Test(protowire, a_field_of_another_wire_type_is_invalid)
{
    cr_assert_eq(unpack(PUT, "\x08\x01", 2), SLUICE_INVALID);     /* key as a number */
    cr_assert_eq(unpack(PUT, "\x22\x01\x31", 3), SLUICE_INVALID); /* if_version as bytes */
    cr_assert_eq(unpack(PUT, "\x0d\x01\x02\x03\x04", 5), SLUICE_INVALID);
}

Test(protowire, elements_are_counted_before_anybody_allocates_for_them)
{
    size_t size = 2 * (size_t)PROTOWIRE_FIELDS_MAX;
    uint8_t *names = malloc(size + 2);
    for (size_t i = 0; i < size + 2; i += 2) {
        names[i] = 0x0a;
        names[i + 1] = 0;
    }
    cr_assert_eq(unpack(&sluice__v1__snapshot_request__descriptor, names, size), SLUICE_OK);
    cr_assert_eq(unpack(&sluice__v1__snapshot_request__descriptor, names, size + 2), SLUICE_INVALID);
    /* Unknown fields count too. */
    for (size_t i = 0; i < size + 2; i += 2)
        names[i] = 0x7a;
    cr_assert_eq(unpack(&sluice__v1__snapshot_request__descriptor, names, size + 2), SLUICE_INVALID);
    free(names);
}

Test(protowire, heads_have_the_size_that_is_foretold)
{
    static const size_t sizes[] = {0, 1, 127, 128, 16383, 16384, (size_t)64 << 20};
    for (size_t i = 0; i < sizeof(sizes) / sizeof(sizes[0]); i++) {
        struct bytes out = {0};
        cr_assert_eq(protowire_append_head(&out, 10, sizes[i]), SLUICE_OK);
        cr_assert_eq(out.size, protowire_head_size(10, sizes[i]));
        bytes_free(&out);
    }
}

Test(protowire, any_bytes_give_an_answer_and_the_same_one_in_any_pieces)
{
    uint64_t seed = (uint64_t)time(NULL);
    struct random random;
    cr_log_info("seed %llu", (unsigned long long)seed);
    random_seed(&random, seed);
    struct bytes message = put_message("farm/cow", "the value of the cow");
    for (int round = 0; round < 20000; round++) {
        uint8_t copy[128];
        size_t size = message.size;
        memcpy(copy, message.data, size);
        for (uint64_t hits = 1 + random_below(&random, 3); hits > 0; hits--)
            copy[random_below(&random, size)] = (uint8_t)random_next(&random);
        size = random_below(&random, 4) == 0 ? random_below(&random, size + 1) : size;
        size_t cut = random_below(&random, size + 1);
        struct slice whole = {copy, size}, pieces[2] = {{copy, cut}, {copy + cut, size - cut}};
        struct protowire_parts one, two;
        const char *why;
        enum sluice_status status = protowire_split(&whole, 1, PUT_DATA, SMALL_MAX, VALUE_MAX, &one, &why);
        cr_assert_eq(protowire_split(pieces, 2, PUT_DATA, SMALL_MAX, VALUE_MAX, &two, &why), status, "seed %llu",
                     (unsigned long long)seed);
        cr_assert_eq(one.value_size, two.value_size);
        cr_assert_eq(one.rest.size, two.rest.size);
        if (one.value_size > 0)
            cr_assert_eq(memcmp(sluice_value_data(one.value), sluice_value_data(two.value), one.value_size), 0);
        unpack(PUT, copy, size);
        protowire_parts_free(&one);
        protowire_parts_free(&two);
    }
    bytes_free(&message);
}

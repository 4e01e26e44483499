/* Core RPC's layouts: what was built is read back the same, and no byte that is cut off or turned over does harm. */
#include <criterion/criterion.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "api/wire.h"

/* A heap copy of exactly `size` bytes: a sanitizer sees each byte read beyond it. */
static void *exactly(const void *data, size_t size)
{
    void *copy = malloc(size > 0 ? size : 1);
    cr_assert_not_null(copy);
    memcpy(copy, data, size);
    return copy;
}

static size_t add_operation(uint8_t *at, const char *key, const char *type, const char *value, uint8_t kind)
{
    struct wire_operation operation = {
        .kind = kind,
        .flags = WIRE_IF_VERSION | WIRE_OBJECT_TIME,
        .key_size = (uint16_t)strlen(key),
        .content_type_size = (uint16_t)strlen(type),
        .value_size = (uint32_t)strlen(value),
        .size = (uint32_t)wire_operation_bytes(strlen(key), strlen(type), strlen(value)),
        .if_version = 7,
        .object_time = 9,
    };
    memset(at, 0, operation.size);
    memcpy(at, &operation, sizeof(operation));
    memcpy(at + sizeof(operation), key, strlen(key));
    memcpy(at + sizeof(operation) + strlen(key), type, strlen(type));
    memcpy(at + wire_operation_value_offset(strlen(key), strlen(type)), value, strlen(value));
    return operation.size;
}

static size_t build_command(uint8_t *out, const char *second_key)
{
    size_t size = sizeof(struct wire_command);
    size += add_operation(out + size, "farm/cow", "image/jpeg", "a picture of a cow", WIRE_PUT);
    size += add_operation(out + size, second_key, "", "", WIRE_DELETE);
    struct wire_command command = {
        .version = 1,
        .kind = WIRE_COMMAND_WRITE,
        .operation_count = 2,
        .size = (uint32_t)size,
        .client = 5,
        .sequence = 6,
        .watermark = 4,
    };
    memcpy(out, &command, sizeof(command));
    return size;
}

/* Reads through everything that a checked command lets one touch. */
static uint64_t sum_command(const struct wire_command *command, int *count)
{
    struct wire_operation_view view;
    size_t offset = 0;
    uint64_t sum = 0;
    *count = 0;
    while (wire_operation_next(command, &offset, &view)) {
        const uint8_t *value = view.value;
        for (size_t i = 0; i < view.operation->key_size; i++)
            sum += (uint8_t)view.key[i];
        for (size_t i = 0; i < view.operation->content_type_size; i++)
            sum += (uint8_t)view.content_type[i];
        for (size_t i = 0; i < view.operation->value_size; i++)
            sum += value[i];
        (*count)++;
    }
    return sum;
}

Test(wire, a_command_is_read_as_it_was_built)
{
    uint8_t bytes[512] __attribute__((aligned(8)));
    size_t size = build_command(bytes, "farm/pig");
    const struct wire_command *command = NULL;
    const char *why = NULL;
    cr_assert_eq(wire_command_read(bytes, size, &command, &why), SLUICE_OK, "%s", why);

    struct wire_operation_view view;
    size_t offset = 0;
    cr_assert(wire_operation_next(command, &offset, &view));
    cr_assert_eq(view.operation->kind, WIRE_PUT);
    cr_assert_eq(view.operation->if_version, 7);
    cr_assert_eq(memcmp(view.key, "farm/cow", 8), 0);
    cr_assert_eq(memcmp(view.content_type, "image/jpeg", 10), 0);
    cr_assert_eq((uintptr_t)view.value % 8, 0);
    cr_assert_eq(memcmp(view.value, "a picture of a cow", 18), 0);
    cr_assert(wire_operation_next(command, &offset, &view));
    cr_assert_eq(view.operation->kind, WIRE_DELETE);
    cr_assert_eq(memcmp(view.key, "farm/pig", 8), 0);
    cr_assert_not(wire_operation_next(command, &offset, &view));
}

Test(wire, a_command_that_was_cut_off_is_refused)
{
    uint8_t bytes[512] __attribute__((aligned(8)));
    size_t size = build_command(bytes, "farm/pig");
    for (size_t left = 0; left < size; left++) {
        const struct wire_command *command = NULL;
        const char *why = NULL;
        void *copy = exactly(bytes, left);
        cr_assert_eq(wire_command_read(copy, left, &command, &why), SLUICE_INVALID, "%zu bytes", left);
        cr_assert_not_null(why);
        /* Also where the header owns up to being short: the operations must not reach beyond. */
        if (left >= sizeof(struct wire_command)) {
            ((struct wire_command *)copy)->size = (uint32_t)left;
            cr_assert_eq(wire_command_read(copy, left, &command, &why), SLUICE_INVALID, "%zu bytes", left);
        }
        free(copy);
    }
}

Test(wire, no_bit_of_a_command_turned_over_leads_outside_of_it)
{
    uint8_t bytes[512] __attribute__((aligned(8)));
    size_t size = build_command(bytes, "farm/pig");
    uint8_t *copy = exactly(bytes, size);
    int refused = 0, count = 0;
    for (size_t bit = 0; bit < size * 8; bit++) {
        const struct wire_command *command = NULL;
        const char *why = NULL;
        copy[bit / 8] ^= (uint8_t)(1u << bit % 8);
        if (wire_command_read(copy, size, &command, &why) == SLUICE_OK) {
            (void)sum_command(command, &count);
            cr_assert_eq(count, 2);
        } else {
            cr_assert_not_null(why);
            refused++;
        }
        copy[bit / 8] ^= (uint8_t)(1u << bit % 8);
    }
    cr_assert_gt(refused, 300, "sizes, kinds, counts and versions are all checked");
    free(copy);
}

Test(wire, a_batch_names_each_key_at_most_once)
{
    uint8_t bytes[512] __attribute__((aligned(8)));
    const struct wire_command *command = NULL;
    const char *why = NULL;
    size_t size = build_command(bytes, "farm/cow");
    cr_assert_eq(wire_command_read(bytes, size, &command, &why), SLUICE_INVALID);
    size = build_command(bytes, "farm/coz");
    cr_assert_eq(wire_command_read(bytes, size, &command, &why), SLUICE_OK);
}

Test(wire, the_largest_batch_is_taken_and_one_more_is_not)
{
    size_t each = wire_operation_bytes(4, 0, 0), total = sizeof(struct wire_command) + 1025 * each;
    uint8_t *bytes = calloc(1, total);
    struct wire_command *command = (struct wire_command *)(void *)bytes;
    const struct wire_command *out = NULL;
    const char *why = NULL;
    for (unsigned i = 0; i < 1025; i++) {
        char key[8];
        snprintf(key, sizeof(key), "%04u", i);
        (void)add_operation(bytes + sizeof(*command) + i * each, key, "", "", WIRE_DELETE);
    }
    *command =
        (struct wire_command){.version = 1, .kind = 1, .operation_count = 1024, .size = (uint32_t)(total - each)};
    cr_assert_eq(wire_command_read(bytes, total - each, &out, &why), SLUICE_OK, "%s", why);
    command->operation_count = 1025;
    command->size = (uint32_t)total;
    cr_assert_eq(wire_command_read(bytes, total, &out, &why), SLUICE_INVALID);
    free(bytes);
}

Test(wire, a_header_tells_another_protocol_version_and_size)
{
    struct wire_header header = {.magic = WIRE_MAGIC, .version = WIRE_VERSION, .type = WIRE_GET, .body_size = 0};
    const struct wire_header *out = NULL;
    const char *why = NULL;
    cr_assert_eq(wire_header_read(&header, sizeof(header), &out, &why), SLUICE_OK);
    for (size_t left = 0; left < sizeof(header); left++) {
        void *copy = exactly(&header, left);
        cr_assert_eq(wire_header_read(copy, left, &out, &why), SLUICE_INVALID);
        free(copy);
    }
    header.body_size = 8;
    cr_assert_eq(wire_header_read(&header, sizeof(header), &out, &why), SLUICE_INVALID);
    header.body_size = WIRE_BODY_BYTES_MAX + 1;
    cr_assert_eq(wire_header_read(&header, sizeof(header), &out, &why), SLUICE_TOO_LARGE);
    header.body_size = 0;
    header.version = 2;
    cr_assert_eq(wire_header_read(&header, sizeof(header), &out, &why), SLUICE_VERSION);
    header.version = WIRE_VERSION;
    header.magic = 0x5754;
    cr_assert_eq(wire_header_read(&header, sizeof(header), &out, &why), SLUICE_INVALID);
}

Test(wire, a_query_is_exactly_as_long_as_its_parts)
{
    struct {
        struct wire_query query;
        char text[16];
    } built = {.query = {.version = 1, .kind = WIRE_PATTERN_GLOB, .key_size = 6, .after_size = 4},
               .text = "farm/*last"};
    size_t size = sizeof(built.query) + 10;
    const struct wire_query *out = NULL;
    const char *why = NULL;
    cr_assert_eq(wire_query_read(&built, size, &out, &why), SLUICE_OK, "%s", why);
    cr_assert_eq(memcmp(wire_query_key(out), "farm/*", 6), 0);
    cr_assert_eq(memcmp(wire_query_after(out), "last", 4), 0);
    for (size_t left = 0; left < size; left++) {
        void *copy = exactly(&built, left);
        cr_assert_eq(wire_query_read(copy, left, &out, &why), SLUICE_INVALID);
        free(copy);
    }
    cr_assert_eq(wire_query_read(&built, size + 1, &out, &why), SLUICE_INVALID);
    uint8_t *copy = exactly(&built, size);
    for (size_t bit = 0; bit < size * 8; bit++) {
        copy[bit / 8] ^= (uint8_t)(1u << bit % 8);
        if (wire_query_read(copy, size, &out, &why) == SLUICE_OK)
            cr_assert_eq(sizeof(*out) + out->key_size + out->after_size, size);
        copy[bit / 8] ^= (uint8_t)(1u << bit % 8);
    }
    free(copy);
}

static size_t add_record(uint8_t *at, const char *key, const char *value)
{
    const struct wire_record record = {
        .flags = WIRE_RECORD_VALUE,
        .key_size = (uint16_t)strlen(key),
        .content_type_size = 1,
        .value_size = (uint32_t)strlen(value),
        .carried_size = (uint32_t)strlen(value),
        .version = 3,
    };
    size_t size = wire_record_bytes(strlen(key), 1, strlen(value));
    memset(at, 0, size);
    memcpy(at, &record, sizeof(record));
    memcpy(at + sizeof(record), key, strlen(key));
    at[sizeof(record) + strlen(key)] = 't';
    memcpy(at + sizeof(record) + strlen(key) + 1, value, strlen(value));
    return size;
}

Test(wire, records_are_walked_to_the_end_and_not_beyond)
{
    uint8_t bytes[512] __attribute__((aligned(8)));
    struct wire_record_view view;
    size_t size = add_record(bytes, "a/b", "hello"), offset = 0;
    size += add_record(bytes + size, "c", "");
    cr_assert_eq(wire_record_next(bytes, size, &offset, &view), 1);
    cr_assert_eq(memcmp(view.key, "a/b", 3), 0);
    cr_assert_eq(memcmp(view.value, "hello", 5), 0);
    cr_assert_eq(wire_record_next(bytes, size, &offset, &view), 1);
    cr_assert_eq(view.key[0], 'c');
    cr_assert_eq(view.record->carried_size, 0);
    cr_assert_eq(wire_record_next(bytes, size, &offset, &view), 0);
    cr_assert_eq(wire_record_next(bytes, size, &offset, &view), 0);
}

Test(wire, the_last_record_may_go_without_its_padding)
{
    uint8_t bytes[512] __attribute__((aligned(8)));
    struct wire_record_view view;
    size_t offset = 0;
    (void)add_record(bytes, "a/b", "hello");
    cr_assert_eq(wire_record_next(bytes, sizeof(struct wire_record) + 3 + 1 + 5, &offset, &view), 1);
    cr_assert_eq(wire_record_next(bytes, sizeof(struct wire_record) + 3 + 1 + 5, &offset, &view), 0);
}

Test(wire, records_that_were_cut_off_or_turned_over_do_no_harm)
{
    uint8_t bytes[512] __attribute__((aligned(8)));
    size_t size = add_record(bytes, "a/b", "hello");
    size += add_record(bytes + size, "c", "world");
    uint8_t *copy = exactly(bytes, size);
    uint64_t sum = 0;
    for (size_t bit = 0; bit < size * 8; bit++) {
        struct wire_record_view view;
        size_t offset = 0;
        copy[bit / 8] ^= (uint8_t)(1u << bit % 8);
        while (wire_record_next(copy, size, &offset, &view) == 1)
            for (size_t i = 0; i < view.record->carried_size; i++)
                sum += ((const uint8_t *)view.value)[i];
        copy[bit / 8] ^= (uint8_t)(1u << bit % 8);
    }
    free(copy);
    cr_assert_gt(sum, 0);
    for (size_t left = 1; left < size; left++) {
        struct wire_record_view view;
        size_t offset = 0;
        int last;
        copy = exactly(bytes, left);
        while ((last = wire_record_next(copy, left, &offset, &view)) == 1)
            sum += view.record->version;
        cr_assert(last == -1 || offset == left);
        free(copy);
    }
}

#include <criterion/criterion.h>
#include <stdlib.h>
#include <string.h>

#include "core/base/crc.h"
#include "core/shard/machine.h"

#define MS UINT64_C(1000000)

/* A machine over a memory twin, and entries applied to it one after the other. */
static struct fixture {
    struct versions *versions;
    struct machine *machine;
    uint64_t revision, time;
    struct machine_outcome outcome;
} fixture;

static void open_fixture(void)
{
    const struct versions_options options = {.group = 1, .epoch = 1, .hot_bytes_max = 64u << 20};
    memset(&fixture, 0, sizeof(fixture));
    cr_assert_eq(versions_create(&options, &fixture.versions), SLUICE_OK);
    cr_assert_eq(machine_create(fixture.versions, &fixture.machine), SLUICE_OK);
    fixture.time = 1000 * MS;
}

static void close_fixture(void)
{
    machine_destroy(fixture.machine);
    versions_destroy(fixture.versions);
}

struct request {
    enum wire_command_kind kind;
    enum wire_operation_kind operation;
    uint8_t flags;
    const char *key, *value;
    uint64_t if_version;
    uint64_t client, sequence, watermark, deadline;
    uint8_t idempotency;
    uint32_t name; /* more of the idempotency key */
    uint64_t digest;
};

static enum sluice_status apply(struct request request)
{
    const char *value = request.value == NULL ? "" : request.value;
    size_t key_size = strlen(request.key), value_size = strlen(value);
    size_t operation_size = wire_operation_bytes(key_size, 0, value_size);
    struct buf *body = buf_create((uint32_t)(sizeof(struct wire_command) + operation_size));
    memset(body->data, 0, body->size);
    const struct wire_command command = {.version = 1,
                                         .kind = (uint8_t)(request.kind == 0 ? WIRE_COMMAND_WRITE : request.kind),
                                         .operation_count = 1,
                                         .size = body->size,
                                         .deadline = request.deadline,
                                         .client = request.client,
                                         .sequence = request.sequence,
                                         .watermark = request.watermark,
                                         .idempotency = {request.idempotency, (uint8_t)request.name,
                                                         (uint8_t)(request.name >> 8), (uint8_t)(request.name >> 16)},
                                         .request_digest = request.digest};
    const struct wire_operation operation = {.kind = (uint8_t)(request.operation == 0 ? WIRE_PUT : request.operation),
                                             .flags = request.flags,
                                             .key_size = (uint16_t)key_size,
                                             .value_size = (uint32_t)value_size,
                                             .size = (uint32_t)operation_size,
                                             .if_version = request.if_version};
    memcpy(body->data, &command, sizeof(command));
    memcpy(body->data + sizeof(command), &operation, sizeof(operation));
    memcpy(body->data + sizeof(command) + sizeof(operation), request.key, key_size);
    memcpy(body->data + sizeof(command) + wire_operation_value_offset(key_size, 0), value, value_size);
    const struct entry entry = {.index = ++fixture.revision,
                                .ballot = 1 << 16 | 1,
                                .time = fixture.time += MS,
                                .epoch = 1,
                                .group = 1,
                                .kind = ENTRY_COMMAND,
                                .body_crc = crc32c(body->data, body->size),
                                .body = body};
    cr_assert_eq(machine_apply(fixture.machine, &entry, &fixture.outcome), SLUICE_OK);
    buf_unref(body);
    return fixture.outcome.status;
}

static uint64_t latest(const char *key)
{
    struct version version;
    if (versions_latest(fixture.versions, (struct slice){key, strlen(key)}, false, &version) != SLUICE_OK)
        return 0;
    uint64_t number = version.version;
    version_release(&version);
    return number;
}

TestSuite(machine, .init = open_fixture, .fini = close_fixture);

Test(machine, versions_of_a_key_rise_by_one_and_a_delete_is_a_version_too)
{
    cr_assert_eq(apply((struct request){.key = "farm/cow", .value = "a"}), SLUICE_OK);
    cr_assert_eq(apply((struct request){.key = "farm/cow", .value = "b"}), SLUICE_OK);
    cr_assert_eq(apply((struct request){.key = "farm/cow", .operation = WIRE_DELETE}), SLUICE_OK);
    cr_assert_eq(latest("farm/cow"), 3);
    cr_assert_eq(apply((struct request){.key = "farm/cow", .value = "c"}), SLUICE_OK);
    cr_assert_eq(latest("farm/cow"), 4);
}

Test(machine, conditions_are_evaluated_in_log_order_and_change_nothing_when_they_fail)
{
    cr_assert_eq(apply((struct request){.key = "k", .flags = WIRE_IF_VERSION, .if_version = 1}),
                 SLUICE_CONDITION_FAILED);
    cr_assert_eq(apply((struct request){.key = "k", .flags = WIRE_IF_PRESENT}), SLUICE_CONDITION_FAILED);
    cr_assert_eq(apply((struct request){.key = "k", .flags = WIRE_IF_ABSENT}), SLUICE_OK);
    cr_assert_eq(apply((struct request){.key = "k", .flags = WIRE_IF_ABSENT}), SLUICE_CONDITION_FAILED);
    cr_assert_eq(fixture.outcome.version, 1);
    cr_assert_eq(apply((struct request){.key = "k", .flags = WIRE_IF_VERSION, .if_version = 1}), SLUICE_OK);
    cr_assert_eq(
        apply((struct request){.key = "k", .operation = WIRE_DELETE, .flags = WIRE_IF_VERSION, .if_version = 1}),
        SLUICE_CONDITION_FAILED);
    cr_assert_eq(latest("k"), 2);
}

Test(machine, deleting_nothing_is_not_found_and_deleting_again_is_deleted)
{
    cr_assert_eq(apply((struct request){.key = "k", .operation = WIRE_DELETE}), SLUICE_NOT_FOUND);
    cr_assert_eq(apply((struct request){.key = "k"}), SLUICE_OK);
    cr_assert_eq(apply((struct request){.key = "k", .operation = WIRE_DELETE}), SLUICE_OK);
    cr_assert_eq(apply((struct request){.key = "k", .operation = WIRE_DELETE}), SLUICE_DELETED);
    cr_assert_eq(fixture.outcome.version, 2);
    cr_assert_eq(apply((struct request){.key = "k", .flags = WIRE_IF_ABSENT}), SLUICE_OK);
    cr_assert_eq(latest("k"), 3);
}

Test(machine, a_clients_repeated_request_applies_once_and_gets_the_first_answer)
{
    cr_assert_eq(apply((struct request){.key = "k", .client = 7, .sequence = 1, .watermark = 1}), SLUICE_OK);
    uint64_t revision = fixture.outcome.revision;
    cr_assert_eq(apply((struct request){.key = "k", .client = 7, .sequence = 1, .watermark = 1}), SLUICE_OK);
    cr_assert(fixture.outcome.replayed);
    cr_assert_eq(fixture.outcome.revision, revision);
    cr_assert_eq(latest("k"), 1);
}

Test(machine, a_late_double_of_a_confirmed_request_is_not_applied_again)
{
    cr_assert_eq(apply((struct request){.key = "k", .client = 7, .sequence = 1, .watermark = 1}), SLUICE_OK);
    cr_assert_eq(apply((struct request){.key = "k", .client = 7, .sequence = 2, .watermark = 2}), SLUICE_OK);
    cr_assert_eq(apply((struct request){.key = "k", .client = 7, .sequence = 1, .watermark = 1}),
                 SLUICE_OUTCOME_UNKNOWN);
    cr_assert_eq(latest("k"), 2);
}

Test(machine, an_idempotency_key_answers_alike_and_refuses_another_request)
{
    cr_assert_eq(apply((struct request){.key = "k", .idempotency = 9, .digest = 1}), SLUICE_OK);
    cr_assert_eq(apply((struct request){.key = "k", .idempotency = 9, .digest = 1}), SLUICE_OK);
    cr_assert(fixture.outcome.replayed);
    cr_assert_eq(apply((struct request){.key = "k", .idempotency = 9, .digest = 2}), SLUICE_IDEMPOTENCY_MISMATCH);
    cr_assert_eq(latest("k"), 1);
}

Test(machine, an_idempotency_key_remembers_refusals_too)
{
    cr_assert_eq(apply((struct request){.key = "k", .flags = WIRE_IF_PRESENT, .idempotency = 9}),
                 SLUICE_CONDITION_FAILED);
    cr_assert_eq(apply((struct request){.key = "k"}), SLUICE_OK);
    cr_assert_eq(apply((struct request){.key = "k", .flags = WIRE_IF_PRESENT, .idempotency = 9}),
                 SLUICE_CONDITION_FAILED);
    cr_assert(fixture.outcome.replayed);
}

Test(machine, answers_are_forgotten_after_the_stated_window_by_log_time)
{
    cr_assert_eq(apply((struct request){.key = "k", .idempotency = 9}), SLUICE_OK);
    fixture.time += MACHINE_ANSWER_KEPT_NS;
    cr_assert_eq(apply((struct request){.key = "other"}), SLUICE_OK);
    cr_assert_eq(apply((struct request){.key = "k", .idempotency = 9}), SLUICE_OK);
    cr_assert_not(fixture.outcome.replayed);
    cr_assert_eq(latest("k"), 2);
}

Test(machine, a_full_table_of_idempotency_keys_refuses_new_ones_and_forgets_none_early)
{
    uint64_t began = fixture.time;
    for (uint32_t i = 0; i < MACHINE_IDEMPOTENCY_MAX; i++)
        cr_assert_eq(apply((struct request){.key = "k", .idempotency = 1, .name = i}), SLUICE_OK);
    cr_assert_geq(MACHINE_IDEMPOTENCY_MAX, 100000, "what is promised");
    uint64_t number = latest("k");
    /* An attacker with ever new keys is refused, applies nothing, and pushes nobody out. */
    for (uint32_t i = 0; i < 1000; i++)
        cr_assert_eq(apply((struct request){.key = "k", .idempotency = 2, .name = i}), SLUICE_BUSY);
    cr_assert_eq(latest("k"), number);
    for (uint32_t i = 0; i < MACHINE_IDEMPOTENCY_MAX; i += 1009) {
        cr_assert_eq(apply((struct request){.key = "k", .idempotency = 1, .name = i}), SLUICE_OK);
        cr_assert(fixture.outcome.replayed, "key %u was forgotten early", i);
    }
    cr_assert_eq(latest("k"), number);
    cr_assert_eq(apply((struct request){.key = "other", .client = 5, .sequence = 1}), SLUICE_OK, "others write on");
    /* Once the first ones are older than the window there is room again, and only theirs. */
    fixture.time = began + MACHINE_ANSWER_KEPT_NS + 20 * MS;
    (void)apply((struct request){.key = "other"});
    (void)apply((struct request){.key = "other"});
    cr_assert_eq(apply((struct request){.key = "k", .idempotency = 2, .name = 0}), SLUICE_OK);
    cr_assert_eq(apply((struct request){.key = "k", .idempotency = 1, .name = MACHINE_IDEMPOTENCY_MAX - 1}), SLUICE_OK);
    cr_assert(fixture.outcome.replayed);
}

Test(machine, a_write_past_its_deadline_is_certainly_not_applied)
{
    cr_assert_eq(apply((struct request){.key = "k", .deadline = fixture.time}), SLUICE_DEADLINE);
    cr_assert_eq(latest("k"), 0);
}

Test(machine, a_closed_prefix_refuses_its_keys_and_only_those)
{
    cr_assert_eq(apply((struct request){.key = "farm", .kind = WIRE_COMMAND_CLOSE_PREFIX}), SLUICE_OK);
    cr_assert_eq(apply((struct request){.key = "farm/cow"}), SLUICE_STALE_MAP);
    cr_assert_eq(apply((struct request){.key = "farmland/x"}), SLUICE_OK);
    cr_assert_eq(apply((struct request){.key = "farm", .kind = WIRE_COMMAND_OPEN_PREFIX}), SLUICE_OK);
    cr_assert_eq(apply((struct request){.key = "farm/cow"}), SLUICE_OK);
}

Test(machine, closing_a_prefix_with_records_is_refused_with_their_count)
{
    cr_assert_eq(apply((struct request){.key = "farm/cow"}), SLUICE_OK);
    cr_assert_eq(apply((struct request){.key = "farm/cow", .operation = WIRE_DELETE}), SLUICE_OK);
    cr_assert_eq(apply((struct request){.key = "farm", .kind = WIRE_COMMAND_CLOSE_PREFIX}), SLUICE_CONFLICT);
    cr_assert_eq(fixture.outcome.version, 2, "history counts too");
    cr_assert_eq(apply((struct request){.key = "farm/cow"}), SLUICE_OK);
}

Test(machine, a_lambdas_cursor_moves_forward_only)
{
    cr_assert_eq(apply((struct request){.key = "thumbnail", .kind = WIRE_COMMAND_CURSOR, .if_version = 10}), SLUICE_OK);
    cr_assert_eq(apply((struct request){.key = "thumbnail", .kind = WIRE_COMMAND_CURSOR, .if_version = 5}), SLUICE_OK);
    cr_assert_eq(machine_cursor(fixture.machine, "thumbnail", 9), 10);
    cr_assert_eq(machine_cursor(fixture.machine, "other", 5), 0);
}

/* What a machine decides must not depend on whether it has been running or was opened again. */
Test(machine, a_machine_opened_from_its_facts_decides_alike)
{
    cr_assert_eq(apply((struct request){.key = "k", .client = 7, .sequence = 1, .watermark = 1}), SLUICE_OK);
    cr_assert_eq(apply((struct request){.key = "k", .client = 7, .sequence = 2, .watermark = 2}), SLUICE_OK);
    cr_assert_eq(apply((struct request){.key = "k", .idempotency = 9, .digest = 1}), SLUICE_OK);
    cr_assert_eq(apply((struct request){.key = "farm", .kind = WIRE_COMMAND_CLOSE_PREFIX}), SLUICE_OK);
    cr_assert_eq(apply((struct request){.key = "thumbnail", .kind = WIRE_COMMAND_CURSOR, .if_version = 10}), SLUICE_OK);
    machine_destroy(fixture.machine);
    cr_assert_eq(machine_create(fixture.versions, &fixture.machine), SLUICE_OK);
    cr_assert_eq(apply((struct request){.key = "k", .client = 7, .sequence = 2, .watermark = 2}), SLUICE_OK);
    cr_assert(fixture.outcome.replayed);
    cr_assert_eq(apply((struct request){.key = "k", .client = 7, .sequence = 1, .watermark = 1}),
                 SLUICE_OUTCOME_UNKNOWN);
    cr_assert_eq(apply((struct request){.key = "k", .idempotency = 9, .digest = 2}), SLUICE_IDEMPOTENCY_MISMATCH);
    cr_assert_eq(apply((struct request){.key = "farm/cow"}), SLUICE_STALE_MAP);
    cr_assert_eq(machine_cursor(fixture.machine, "thumbnail", 9), 10);
}

#include <criterion/criterion.h>
#include <string.h>

#include "api/sluice_status.h"

struct row {
    uint32_t number;
    int http, grpc;
    const char *name, *code, *text;
};
static const struct row rows[] = {
#define ROW(name, number, http, grpc, code, text) {number, http, grpc, #name, code, text},
    SLUICE_STATUS_TABLE(ROW)
#undef ROW
};
#define ROWS (sizeof(rows) / sizeof(rows[0]))

Test(status, every_number_answers_with_its_own_row)
{
    for (size_t i = 0; i < ROWS; i++) {
        enum sluice_status status = (enum sluice_status)rows[i].number;
        cr_assert_str_eq(sluice_status_text(status), rows[i].text);
        cr_assert_str_eq(sluice_status_code(status), rows[i].code);
        cr_assert_eq(sluice_status_http(status), rows[i].http);
        cr_assert_eq(sluice_status_grpc(status), rows[i].grpc);
        cr_assert(sluice_status_known(rows[i].number));
    }
}

Test(status, numbers_and_codes_are_given_once)
{
    for (size_t i = 0; i < ROWS; i++)
        for (size_t j = i + 1; j < ROWS; j++) {
            cr_assert_neq(rows[i].number, rows[j].number, "%s and %s", rows[i].name, rows[j].name);
            cr_assert_str_neq(rows[i].code, rows[j].code);
        }
}

Test(status, wire_numbers_are_frozen)
{
    cr_assert_eq(SLUICE_OK, 0);
    cr_assert_eq(SLUICE_NOT_FOUND, 4);
    cr_assert_eq(SLUICE_CONDITION_FAILED, 10);
    cr_assert_eq(SLUICE_UNAVAILABLE, 17);
    cr_assert_eq(SLUICE_OUTCOME_UNKNOWN, 19);
    cr_assert_eq(SLUICE_TRIGGER_POOL, 21);
    cr_assert_eq(SLUICE_NOT_LEADER, 32);
    cr_assert_eq(SLUICE_CORRUPT, 36);
    cr_assert_eq(SLUICE_INTERNAL, 40);
}

Test(status, an_unknown_number_is_no_status_and_answers_as_internal)
{
    static const uint32_t unknown[] = {22, 31, 41, 255, 0x80000000u, UINT32_MAX};
    for (size_t i = 0; i < sizeof(unknown) / sizeof(unknown[0]); i++) {
        cr_assert_not(sluice_status_known(unknown[i]));
        cr_assert_str_eq(sluice_status_code((enum sluice_status)unknown[i]), "internal");
        cr_assert_eq(sluice_status_http((enum sluice_status)unknown[i]), 500);
        cr_assert_eq(sluice_status_grpc((enum sluice_status)unknown[i]), 13);
    }
}

Test(status, codes_are_snake_case_and_http_and_grpc_agree_on_failure)
{
    for (size_t i = 0; i < ROWS; i++) {
        cr_assert_eq(strspn(rows[i].code, "abcdefghijklmnopqrstuvwxyz_"), strlen(rows[i].code), "%s", rows[i].code);
        bool ok = rows[i].number == SLUICE_OK;
        cr_assert_eq(rows[i].http == 200, ok);
        cr_assert_eq(rows[i].grpc == 0, ok);
        cr_assert(ok || (rows[i].http >= 400 && rows[i].http < 600));
        cr_assert(rows[i].grpc >= 0 && rows[i].grpc <= 16);
    }
}

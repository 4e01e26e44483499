#include <criterion/criterion.h>
#include <string.h>

#include "gateway/auth.h"

#define FARM  "farm-token-0123456789"
#define ADMIN "admin-token-0123456789"
#define TOKENS                                                                                                         \
    "{\"tokens\":["                                                                                                    \
    "{\"token\":\"" FARM "\",\"role\":\"write\",\"prefix\":\"farm/\",\"subject\":\"barn\"},"                           \
    "{\"token\":\"" FARM "\",\"role\":\"read\",\"prefix\":\"/weather\"},"                                              \
    "{\"sha256\":\"b3057e05d75e8cdca4bd6ddd527af736913e8464a7a3d47d7a09389eaa8e1eb4\",\"role\":\"read\"},"             \
    "{\"token\":\"" ADMIN "\",\"role\":\"admin\"}]}"

static struct auth *load(const char *text)
{
    struct auth *auth = NULL;
    char error[256] = "";
    cr_assert_eq(auth_create_from_json(text, strlen(text), &auth, error, sizeof(error)), SLUICE_OK, "%s", error);
    return auth;
}

static const struct auth_subject *login(const struct auth *auth, const char *token)
{
    const struct auth_subject *subject = NULL;
    const char *why = NULL;
    char header[128] = "Bearer ";
    strcat(header, token);
    cr_assert_eq(auth_login(auth, header, strlen(header), &subject, &why), SLUICE_OK, "%s", why);
    return subject;
}

static enum sluice_status key(const struct auth_subject *subject, enum auth_role role, const char *name)
{
    const char *why = "";
    return auth_key(subject, role, name, strlen(name), &why);
}

static enum sluice_status prefix(const struct auth_subject *subject, enum auth_role role, const char *name)
{
    const char *why = "";
    return auth_prefix(subject, role, name, strlen(name), &why);
}

static enum sluice_status pool(const struct auth_subject *subject, enum auth_role role, const char *name)
{
    const char *why = "";
    return auth_pool(subject, role, name, strlen(name), &why);
}

Test(auth, a_token_opens_its_prefix_and_nothing_beside)
{
    struct auth *auth = load(TOKENS);
    const struct auth_subject *barn = login(auth, FARM);
    cr_expect_str_eq(auth_subject_name(barn), "barn");
    cr_expect_eq(key(barn, AUTH_WRITE, "farm/cow"), SLUICE_OK);
    cr_expect_eq(key(barn, AUTH_READ, "farm/cow"), SLUICE_OK);
    cr_expect_eq(key(barn, AUTH_ADMIN, "farm/cow"), SLUICE_FORBIDDEN);
    cr_expect_eq(key(barn, AUTH_READ, "farm"), SLUICE_FORBIDDEN);
    cr_expect_eq(key(barn, AUTH_READ, "farmland/x"), SLUICE_FORBIDDEN);
    cr_expect_eq(key(barn, AUTH_READ, "weather/rain"), SLUICE_OK);
    cr_expect_eq(key(barn, AUTH_WRITE, "weather/rain"), SLUICE_FORBIDDEN);
    cr_expect_eq(key(barn, AUTH_READ, "_sluice/lambdas/x"), SLUICE_FORBIDDEN);
    auth_destroy(auth);
}

Test(auth, a_list_lies_within_the_prefix_of_the_token)
{
    struct auth *auth = load(TOKENS);
    const struct auth_subject *barn = login(auth, FARM);
    cr_expect_eq(prefix(barn, AUTH_READ, "farm/"), SLUICE_OK);
    cr_expect_eq(prefix(barn, AUTH_READ, "farm/co"), SLUICE_OK);
    cr_expect_eq(prefix(barn, AUTH_READ, "farm"), SLUICE_FORBIDDEN, "farm also begins farmland");
    cr_expect_eq(prefix(barn, AUTH_READ, ""), SLUICE_FORBIDDEN);
    cr_expect_eq(prefix(barn, AUTH_READ, "/"), SLUICE_FORBIDDEN);
    cr_expect_eq(prefix(login(auth, ADMIN), AUTH_READ, ""), SLUICE_OK);
    auth_destroy(auth);
}

Test(auth, internal_objects_need_admin_of_everything)
{
    struct auth *auth = load(TOKENS);
    const struct auth_subject *reader = login(auth, "reader-token-0123456789"), *admin = login(auth, ADMIN);
    cr_expect_eq(key(reader, AUTH_READ, "any/thing"), SLUICE_OK);
    cr_expect_eq(key(reader, AUTH_WRITE, "any/thing"), SLUICE_FORBIDDEN);
    cr_expect_eq(key(reader, AUTH_READ, "_sluice/map"), SLUICE_FORBIDDEN);
    cr_expect_eq(prefix(reader, AUTH_READ, "_sluice/"), SLUICE_FORBIDDEN);
    cr_expect_eq(pool(reader, AUTH_READ, "_sluice"), SLUICE_FORBIDDEN);
    cr_expect_eq(key(admin, AUTH_WRITE, "_sluice/map"), SLUICE_OK);
    cr_expect_eq(prefix(admin, AUTH_READ, "_sluice/"), SLUICE_OK);
    cr_expect(auth_internal("_sluice/x", 9) && !auth_internal("_sluice", 7) && !auth_internal("a/_sluice/", 10));
    auth_destroy(auth);
}

Test(auth, pools_and_lambdas_ask_for_admin)
{
    const char *why;
    struct auth *auth = load(TOKENS);
    const struct auth_subject *barn = login(auth, FARM), *admin = login(auth, ADMIN);
    cr_expect_eq(pool(barn, AUTH_READ, "farm"), SLUICE_OK);
    cr_expect_eq(pool(barn, AUTH_ADMIN, "farm"), SLUICE_FORBIDDEN);
    cr_expect_eq(pool(barn, AUTH_READ, ""), SLUICE_FORBIDDEN);
    cr_expect_eq(auth_everything(barn, AUTH_READ, &why), SLUICE_FORBIDDEN);
    cr_expect_eq(auth_everything(admin, AUTH_ADMIN, &why), SLUICE_OK);
    cr_expect_eq(pool(admin, AUTH_ADMIN, ""), SLUICE_OK);
    auth_destroy(auth);
}

Test(auth, wrong_and_missing_tokens_are_unauthenticated)
{
    struct auth *auth = load(TOKENS);
    const struct auth_subject *subject;
    const char *why = NULL;
    const char *const bad[] = {
        "", "Bearer", "Bearer ", "Basic " FARM, "Bearer " FARM "x", "Bearer farm-token-012345678", FARM};
    for (size_t i = 0; i < sizeof(bad) / sizeof(bad[0]); i++)
        cr_expect_eq(auth_login(auth, bad[i], strlen(bad[i]), &subject, &why), SLUICE_UNAUTHENTICATED, "%s", bad[i]);
    cr_expect_eq(auth_login(auth, NULL, 0, &subject, &why), SLUICE_UNAUTHENTICATED);
    cr_expect_eq(auth_login(auth, "bearer  " FARM " ", strlen("bearer  " FARM " "), &subject, &why), SLUICE_OK);
    auth_destroy(auth);
}

Test(auth, without_tokens_everything_is_allowed)
{
    struct auth *auth = auth_create_open();
    const struct auth_subject *subject = NULL;
    const char *why;
    cr_assert(auth_is_open(auth));
    cr_expect_eq(auth_login(auth, NULL, 0, &subject, &why), SLUICE_OK);
    cr_expect_null(auth_subject_name(subject));
    cr_expect_eq(key(subject, AUTH_ADMIN, "_sluice/x"), SLUICE_OK);
    auth_destroy(auth);
}

Test(auth, a_document_that_is_wrong_says_where)
{
    static const struct {
        const char *text, *says;
    } bad[] = {
        {"", "JSON"},
        {"[]", "object"},
        {"{\"tokens\":[]}", "at least one"},
        {"{\"tokens\":[1]}", "entry 1"},
        {"{\"tokens\":[{\"token\":\"short\",\"role\":\"read\"}]}", "shorter"},
        {"{\"tokens\":[{\"token\":\"" FARM "\",\"role\":\"owner\"}]}", "role"},
        {"{\"tokens\":[{\"token\":\"" FARM "\"}]}", "role"},
        {"{\"tokens\":[{\"role\":\"read\"}]}", "token"},
        {"{\"tokens\":[{\"token\":\"" FARM "\",\"sha256\":\"00\",\"role\":\"read\"}]}", "either"},
        {"{\"tokens\":[{\"sha256\":\"00\",\"role\":\"read\"}]}", "64 hex"},
        {"{\"tokens\":[{\"token\":\"" FARM "\",\"role\":\"read\",\"prefix\":\"a//b\"}]}", "segment"},
        {"{\"tokens\":[{\"token\":\"" FARM "\",\"role\":\"read\",\"path\":\"a\"}]}", "members"},
        {"{\"tokens\":[{\"token\":\"" FARM "\",\"role\":\"read\"}],\"more\":1}", "object"},
        {"{\"tokens\":[{\"token\":\"" FARM "\",\"role\":\"read\",\"role\":\"admin\"}]}", "JSON"},
    };
    for (size_t i = 0; i < sizeof(bad) / sizeof(bad[0]); i++) {
        struct auth *auth = NULL;
        char error[256] = "";
        cr_expect_eq(auth_create_from_json(bad[i].text, strlen(bad[i].text), &auth, error, sizeof(error)),
                     SLUICE_INVALID);
        cr_expect_not_null(strstr(error, bad[i].says), "%s: %s", bad[i].text, error);
    }
}

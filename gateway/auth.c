#include "gateway/auth.h"

#include <errno.h>
#include <jansson.h>
#include <openssl/crypto.h>
#include <openssl/sha.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>

#include "core/base/text.h"

#define TOKENS_FILE_BYTES_MAX (4u << 20)
#define TOKEN_BYTES_MIN       16u
#define INTERNAL_PREFIX       "_sluice/"

struct grant {
    enum auth_role role;
    char *prefix; /* without a slash at its end; empty: everything */
    size_t prefix_size;
};

struct auth_subject {
    unsigned char digest[SHA256_DIGEST_LENGTH]; /* of the token: a copy of this memory opens nothing */
    char *name;                                 /* NULL: the open set's */
    struct grant *grants;
    size_t grant_count;
};

struct auth {
    struct auth_subject *subjects;
    size_t count;
    bool open;
    struct auth_subject anybody; /* of an open set */
};

static struct grant everything = {.role = AUTH_ADMIN, .prefix = (char *)"", .prefix_size = 0};

struct auth *auth_create_open(void)
{
    struct auth *self = calloc(1, sizeof(*self));
    if (self != NULL) {
        self->open = true;
        self->anybody.grants = &everything;
        self->anybody.grant_count = 1;
    }
    return self;
}

void auth_destroy(struct auth *self)
{
    if (self == NULL)
        return;
    for (size_t i = 0; i < self->count; i++) {
        for (size_t j = 0; j < self->subjects[i].grant_count; j++)
            free(self->subjects[i].grants[j].prefix);
        free(self->subjects[i].grants);
        free(self->subjects[i].name);
    }
    free(self->subjects);
    free(self);
}

bool auth_is_open(const struct auth *self)
{
    return self->open;
}

/* --- Loading ------------------------------------------------------------------------------------------------------ */

static int hex_value(char c)
{
    if (c >= '0' && c <= '9')
        return c - '0';
    c = (char)(c | 0x20);
    return c >= 'a' && c <= 'f' ? c - 'a' + 10 : -1;
}

static bool read_digest(const char *hex, unsigned char out[SHA256_DIGEST_LENGTH])
{
    if (strlen(hex) != 2 * SHA256_DIGEST_LENGTH)
        return false;
    for (size_t i = 0; i < SHA256_DIGEST_LENGTH; i++) {
        int high = hex_value(hex[2 * i]), low = hex_value(hex[2 * i + 1]);
        if (high < 0 || low < 0)
            return false;
        out[i] = (unsigned char)(high << 4 | low);
    }
    return true;
}

static bool read_role(const char *text, enum auth_role *out)
{
    static const char *const names[] = {[AUTH_READ] = "read", [AUTH_WRITE] = "write", [AUTH_ADMIN] = "admin"};
    for (int role = AUTH_READ; role <= AUTH_ADMIN; role++) {
        if (text != NULL && strcmp(names[role], text) == 0) {
            *out = (enum auth_role)role;
            return true;
        }
    }
    return false;
}

struct entry {
    unsigned char digest[SHA256_DIGEST_LENGTH];
    const char *subject, *prefix;
    size_t prefix_size;
    enum auth_role role;
};

/* NULL, or what is wrong with the entry. */
static const char *read_entry(const json_t *json, struct entry *out)
{
    const char *name;
    const json_t *member;
    json_object_foreach((json_t *)(uintptr_t)json, name, member)
    {
        static const char *const known[] = {"token", "sha256", "role", "prefix", "subject"};
        bool found = false;
        for (size_t i = 0; i < sizeof(known) / sizeof(known[0]); i++)
            found = found || strcmp(known[i], name) == 0;
        if (!found || !json_is_string(member))
            return "has the members token or sha256, role, prefix and subject, all of them text";
    }
    const char *token = json_string_value(json_object_get(json, "token"));
    const char *digest = json_string_value(json_object_get(json, "sha256"));
    if ((token == NULL) == (digest == NULL))
        return "has either a token or its sha256";
    if (token != NULL && strlen(token) < TOKEN_BYTES_MIN)
        return "has a token shorter than 16 characters; make one with: openssl rand -hex 32";
    if (token != NULL)
        SHA256((const unsigned char *)token, strlen(token), out->digest);
    else if (!read_digest(digest, out->digest))
        return "has a sha256 that is not 64 hex digits";
    if (!read_role(json_string_value(json_object_get(json, "role")), &out->role))
        return "has a role other than read, write or admin";
    out->subject = json_string_value(json_object_get(json, "subject"));
    const char *prefix = json_string_value(json_object_get(json, "prefix"));
    if (prefix == NULL)
        prefix = "";
    prefix += prefix[0] == '/';
    out->prefix = prefix;
    out->prefix_size = strlen(prefix);
    if (out->prefix_size > 0 && prefix[out->prefix_size - 1] == '/')
        out->prefix_size--;
    return out->prefix_size > 0 ? text_key_error(prefix, out->prefix_size) : NULL;
}

static enum sluice_status add_entry(struct auth *self, const struct entry *entry)
{
    struct auth_subject *subject = NULL;
    for (size_t i = 0; i < self->count && subject == NULL; i++) {
        if (memcmp(self->subjects[i].digest, entry->digest, sizeof(entry->digest)) == 0)
            subject = &self->subjects[i];
    }
    if (subject == NULL) {
        struct auth_subject *grown = realloc(self->subjects, (self->count + 1) * sizeof(*grown));
        if (grown == NULL)
            return SLUICE_MEMORY;
        self->subjects = grown;
        subject = &grown[self->count];
        *subject = (struct auth_subject){0};
        memcpy(subject->digest, entry->digest, sizeof(entry->digest));
        /* Without a name the digest's beginning tells subjects apart. */
        char name[2 * 8 + 1];
        for (size_t i = 0; i < 8; i++)
            snprintf(name + 2 * i, 3, "%02x", entry->digest[i]);
        subject->name = strdup(entry->subject != NULL ? entry->subject : name);
        if (subject->name == NULL)
            return SLUICE_MEMORY;
        self->count++;
    }
    struct grant *grants = realloc(subject->grants, (subject->grant_count + 1) * sizeof(*grants));
    if (grants == NULL)
        return SLUICE_MEMORY;
    subject->grants = grants;
    char *prefix = strndup(entry->prefix, entry->prefix_size);
    if (prefix == NULL)
        return SLUICE_MEMORY;
    grants[subject->grant_count++] =
        (struct grant){.role = entry->role, .prefix = prefix, .prefix_size = entry->prefix_size};
    return SLUICE_OK;
}

enum sluice_status auth_create_from_json(const char *text, size_t size, struct auth **out, char *error,
                                         size_t error_size)
{
    json_error_t where;
    json_t *json = json_loadb(text, size, JSON_REJECT_DUPLICATES, &where);
    if (json == NULL) {
        snprintf(error, error_size, "the tokens are no JSON document: line %d: %s", where.line, where.text);
        return SLUICE_INVALID;
    }
    const json_t *tokens = json_object_get(json, "tokens");
    enum sluice_status status = SLUICE_INVALID;
    struct auth *self = calloc(1, sizeof(*self));
    if (self == NULL) {
        snprintf(error, error_size, "no memory");
        status = SLUICE_MEMORY;
    } else if (!json_is_array(tokens) || json_array_size(tokens) == 0 || json_object_size(json) != 1) {
        /* An empty list would open everything to everybody, which nobody can have meant. */
        snprintf(error, error_size, "the tokens are an object {\"tokens\":[…]} with at least one entry");
    } else {
        status = SLUICE_OK;
        for (size_t i = 0; i < json_array_size(tokens) && status == SLUICE_OK; i++) {
            struct entry entry;
            const json_t *element = json_array_get(tokens, i);
            const char *wrong = json_is_object(element) ? read_entry(element, &entry) : "is no object";
            status = wrong == NULL ? add_entry(self, &entry) : SLUICE_INVALID;
            if (status != SLUICE_OK)
                snprintf(error, error_size, "entry %zu of the tokens %s", i + 1,
                         wrong != NULL ? wrong : "found no memory");
        }
    }
    json_decref(json);
    if (status != SLUICE_OK) {
        auth_destroy(self);
        return status;
    }
    *out = self;
    return SLUICE_OK;
}

enum sluice_status auth_create_from_file(const char *path, struct auth **out, char *error, size_t error_size)
{
    FILE *file = fopen(path, "re");
    if (file == NULL) {
        snprintf(error, error_size, "cannot read the tokens file %s: %s", path, strerror(errno));
        return SLUICE_IO;
    }
    char *text = malloc(TOKENS_FILE_BYTES_MAX);
    size_t size = text != NULL ? fread(text, 1, TOKENS_FILE_BYTES_MAX, file) : 0;
    enum sluice_status status = SLUICE_IO;
    if (text == NULL || ferror(file) || size == TOKENS_FILE_BYTES_MAX)
        snprintf(error, error_size, "cannot read the tokens file %s, or it is larger than 4 MiB", path);
    else
        status = auth_create_from_json(text, size, out, error, error_size);
    if (text != NULL)
        OPENSSL_cleanse(text, size);
    free(text);
    fclose(file);
    return status;
}

/* --- Asking ------------------------------------------------------------------------------------------------------- */

enum sluice_status auth_login(const struct auth *self, const char *authorization, size_t size,
                              const struct auth_subject **out, const char **why)
{
    if (self->open) {
        *out = &self->anybody;
        return SLUICE_OK;
    }
    static const char scheme[] = "Bearer ";
    size_t scheme_size = sizeof(scheme) - 1;
    if (authorization == NULL || size <= scheme_size || strncasecmp(authorization, scheme, scheme_size) != 0) {
        *why = "send a token in the header \"Authorization: Bearer TOKEN\"";
        return SLUICE_UNAUTHENTICATED;
    }
    const char *token = authorization + scheme_size;
    size_t token_size = size - scheme_size;
    while (token_size > 0 && *token == ' ') {
        token++;
        token_size--;
    }
    while (token_size > 0 && token[token_size - 1] == ' ')
        token_size--;
    unsigned char digest[SHA256_DIGEST_LENGTH];
    SHA256((const unsigned char *)token, token_size, digest);
    *out = NULL;
    for (size_t i = 0; i < self->count; i++) {
        if (CRYPTO_memcmp(self->subjects[i].digest, digest, sizeof(digest)) == 0)
            *out = &self->subjects[i];
    }
    if (*out != NULL)
        return SLUICE_OK;
    *why = "this token is not known";
    return SLUICE_UNAUTHENTICATED;
}

const char *auth_subject_name(const struct auth_subject *subject)
{
    return subject->name;
}

bool auth_internal(const char *key_or_prefix, size_t size)
{
    size_t length = sizeof(INTERNAL_PREFIX) - 1;
    return size >= length && memcmp(key_or_prefix, INTERNAL_PREFIX, length) == 0;
}

enum sluice_status auth_everything(const struct auth_subject *subject, enum auth_role role, const char **why)
{
    for (size_t i = 0; i < subject->grant_count; i++) {
        if (subject->grants[i].prefix_size == 0 && subject->grants[i].role >= role)
            return SLUICE_OK;
    }
    *why = role == AUTH_ADMIN ? "this needs a token with the role admin for everything"
                              : "this needs a token for everything, not for a prefix";
    return SLUICE_FORBIDDEN;
}

/* Is `name` at the grant's prefix or below? With `whole`, `name` itself ends at a segment. */
static bool holds(const struct grant *grant, const char *name, size_t size, bool whole)
{
    if (text_prefix_holds(grant->prefix, grant->prefix_size, name, size))
        return true;
    return whole && size == grant->prefix_size && memcmp(grant->prefix, name, size) == 0;
}

static enum sluice_status below(const struct auth_subject *subject, enum auth_role role, const char *name, size_t size,
                                bool whole, const char **why)
{
    if (auth_internal(name, size))
        return auth_everything(subject, AUTH_ADMIN, why);
    bool known = false;
    for (size_t i = 0; i < subject->grant_count; i++) {
        const struct grant *grant = &subject->grants[i];
        bool inside = holds(grant, name, size, whole);
        if (inside && grant->role >= role)
            return SLUICE_OK;
        known = known || inside;
    }
    *why = !known               ? "this token is for another prefix"
           : role == AUTH_WRITE ? "this token may read here, not write"
                                : "this needs a token with the role admin";
    return SLUICE_FORBIDDEN;
}

enum sluice_status auth_key(const struct auth_subject *subject, enum auth_role role, const char *key, size_t size,
                            const char **why)
{
    return below(subject, role, key, size, false, why);
}

enum sluice_status auth_prefix(const struct auth_subject *subject, enum auth_role role, const char *prefix, size_t size,
                               const char **why)
{
    /* "farm/" lies within a grant for farm, "farm" does not: it would show farmland too. */
    if (size > 1 && prefix[size - 1] == '/')
        return below(subject, role, prefix, auth_internal(prefix, size) ? size : size - 1, true, why);
    return below(subject, role, prefix, size, false, why);
}

enum sluice_status auth_pool(const struct auth_subject *subject, enum auth_role role, const char *prefix, size_t size,
                             const char **why)
{
    static const char internal[] = "_sluice";
    if (size == sizeof(internal) - 1 && memcmp(prefix, internal, size) == 0)
        return auth_everything(subject, AUTH_ADMIN, why);
    return below(subject, role, prefix, size, true, why);
}

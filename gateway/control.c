/* Pools and lambdas. Their JSON is the store's own; here it is checked for being JSON, and files are taken in. */
#include <jansson.h>
#include <stdlib.h>
#include <string.h>

#include "core/base/text.h"
#include "gateway/http__.h"

static void on_json(struct request *request, const struct sluice_answer *answer, unsigned status)
{
    if (answer->status != SLUICE_OK)
        reply__answer_problem(request, answer);
    else
        reply__json_text(request, status, answer->json);
}

static void on_done(void *arg, const struct sluice_answer *answer)
{
    on_json(arg, answer, 200);
}

static void on_created(void *arg, const struct sluice_answer *answer)
{
    on_json(arg, answer, 201);
}

/* --- Pools ----------------------------------------------------------------------------------------------------------
 */

static bool check_pool(struct request *request, enum auth_role role)
{
    const char *why;
    enum sluice_status status = request->key != NULL
                                    ? auth_pool(request->subject, role, request->key, request->key_size, &why)
                                    : auth_everything(request->subject, role, &why);
    request->call.admin = request->key != NULL && auth_internal(request->key, request->key_size);
    if (status != SLUICE_OK)
        reply__problem(request, status, "%s", why);
    return status == SLUICE_OK;
}

bool pool__check_read(struct request *request)
{
    return check_pool(request, AUTH_READ);
}

bool pool__check_write(struct request *request)
{
    bool force;
    return check_pool(request, AUTH_ADMIN) && request__flag(request, "force", &force);
}

void pool__get(struct request *request)
{
    sluice_pool_get(request->gateway->client, &request->call, request->key, on_done, request);
}

/* The document of the body, as text that ends with a zero byte; free it. NULL: it has replied. */
static char *read_policy(struct request *request)
{
    json_error_t where;
    const char *type = request->headers.content_type;
    if (type != NULL && type[0] != '\0' && !parse_media_type_is(type, "application/json")) {
        reply__problem(request, SLUICE_UNSUPPORTED_MEDIA,
                       "the policy is a JSON document: Content-Type: application/json");
        return NULL;
    }
    json_t *json = json_loadb(collect__data(&request->body), request->body.size, JSON_REJECT_DUPLICATES, &where);
    if (json == NULL || !json_is_object(json)) {
        reply__problem(request, SLUICE_INVALID, "the policy is no JSON object: line %d, column %d: %s", where.line,
                       where.column, json == NULL ? where.text : "another type");
        json_decref(json);
        return NULL;
    }
    char *text = json_dumps(json, JSON_COMPACT);
    json_decref(json);
    if (text == NULL)
        reply__problem(request, SLUICE_MEMORY, "there is no memory for this request now; try again");
    return text;
}

void pool__put(struct request *request)
{
    char *policy = read_policy(request);
    if (policy == NULL)
        return;
    sluice_pool_put(request->gateway->client, &request->call, request->key, policy, on_done, request);
    free(policy);
}

void pool__delete(struct request *request)
{
    bool force = false;
    if (request__flag(request, "force", &force))
        sluice_pool_delete(request->gateway->client, &request->call, request->key, force, on_done, request);
}

/* --- Lambdas --------------------------------------------------------------------------------------------------------
 */

#define MANIFEST_BYTES_MAX (256u << 10)

struct upload {
    struct MHD_PostProcessor *parts; /* multipart/form-data; NULL: the body is the file */
    struct request *request;
    struct collect file, manifest;
    bool has_file, has_manifest;
    char *name;
};

static void release_upload(struct request *request)
{
    struct upload *self = request->state;
    if (self->parts != NULL)
        MHD_destroy_post_processor(self->parts);
    collect__free(&self->file);
    collect__free(&self->manifest);
    free(self->name);
    free(self);
}

bool lambda__check(struct request *request)
{
    const char *why;
    enum sluice_status status = auth_everything(request->subject, AUTH_ADMIN, &why);
    request->call.admin = true;
    if (status != SLUICE_OK)
        reply__problem(request, status, "%s", why);
    return status == SLUICE_OK;
}

static bool name_valid(const char *name, size_t size)
{
    return size <= 255 && memchr(name, '/', size) == NULL && text_key_error(name, size) == NULL;
}

/* A part of the form, or a piece of one. Returning MHD_NO stops the reader. */
static enum MHD_Result on_part(void *arg, enum MHD_ValueKind kind, const char *key, const char *filename,
                               const char *content_type, const char *encoding, const char *data, uint64_t offset,
                               size_t size)
{
    (void)kind;
    (void)filename;
    (void)content_type;
    struct upload *self = arg;
    bool is_file = key != NULL && strcmp(key, "file") == 0;
    bool is_manifest = key != NULL && strcmp(key, "manifest") == 0;
    bool *seen = is_file ? &self->has_file : &self->has_manifest;
    struct collect *into = is_file ? &self->file : &self->manifest;
    uint64_t limit = is_file ? self->request->gateway->options.value_bytes_max : MANIFEST_BYTES_MAX;
    if (!is_file && !is_manifest) {
        reply__problem(self->request, SLUICE_INVALID, "the form has the parts file and manifest, and no other");
        return MHD_NO;
    }
    if (encoding != NULL && strcmp(encoding, "binary") != 0 && strcmp(encoding, "8bit") != 0 &&
        strcmp(encoding, "7bit") != 0) {
        reply__problem(self->request, SLUICE_UNSUPPORTED_MEDIA,
                       "a part is sent as it is, without a Content-Transfer-Encoding");
        return MHD_NO;
    }
    if (offset == 0 && *seen) {
        reply__problem(self->request, SLUICE_INVALID, "the part %s is given twice", is_file ? "file" : "manifest");
        return MHD_NO;
    }
    *seen = true;
    if (size > 0 && !collect__append(into, data, size, limit)) {
        if (into->size + size > limit)
            reply__problem(self->request, SLUICE_TOO_LARGE, "the part %s is larger than the limit of %llu bytes",
                           is_file ? "file" : "manifest", (unsigned long long)limit);
        return MHD_NO;
    }
    return MHD_YES;
}

bool lambda__check_upload(struct request *request)
{
    size_t size;
    const char *name = request__parameter(request, "name", &size), *type = request->headers.content_type;
    bool form = parse_media_type_is(type, "multipart/form-data");
    if (!lambda__check(request))
        return false;
    if (!form && name == NULL) {
        reply__problem(request, SLUICE_UNSUPPORTED_MEDIA,
                       "send multipart/form-data with the parts file and manifest, or the file alone with ?name=NAME");
        return false;
    }
    if (name != NULL && !name_valid(name, size)) {
        reply__problem(request, SLUICE_INVALID, "a lambda's name is 1 to 255 bytes of UTF-8 without a slash");
        return false;
    }
    struct upload *self = calloc(1, sizeof(*self));
    if (self == NULL) {
        reply__problem(request, SLUICE_MEMORY, "there is no memory for an upload now; try again");
        return false;
    }
    request->state = self;
    request->release = release_upload;
    self->request = request;
    if (!form)
        return true;
    self->parts = MHD_create_post_processor(request->connection, 4096, on_part, self);
    if (self->parts == NULL)
        reply__problem(request, SLUICE_INVALID, "multipart/form-data needs a boundary, of at most 70 characters");
    return self->parts != NULL;
}

bool lambda__upload_data(struct request *request, const char *data, size_t size)
{
    struct upload *self = request->state;
    if (self->parts == NULL)
        return collect__append(&self->file, data, size, request->gateway->options.value_bytes_max);
    if (MHD_post_process(self->parts, data, size) == MHD_YES)
        return true;
    if (!request->replied)
        reply__problem(request, SLUICE_INVALID, "the form is malformed, or there is no memory for it");
    return false;
}

/* The name is the query's or the manifest's; where both are given they agree. */
static bool read_manifest(struct request *request, struct upload *self, char **out)
{
    json_error_t where;
    const char *name = request__parameter(request, "name", NULL);
    *out = NULL;
    if (self->has_manifest) {
        json_t *json = json_loadb(collect__data(&self->manifest), self->manifest.size, JSON_REJECT_DUPLICATES, &where);
        if (json == NULL || !json_is_object(json)) {
            reply__problem(request, SLUICE_INVALID, "the manifest is no JSON object: line %d, column %d: %s",
                           where.line, where.column, json == NULL ? where.text : "another type");
            json_decref(json);
            return false;
        }
        const char *given = json_string_value(json_object_get(json, "name"));
        if (given != NULL && (name == NULL || strcmp(name, given) == 0))
            self->name = strdup(given);
        else if (given != NULL)
            reply__problem(request, SLUICE_INVALID, "the manifest's name and ?name= differ");
        *out = json_dumps(json, JSON_COMPACT);
        json_decref(json);
    }
    if (request->replied)
        return false;
    if (self->name == NULL && name != NULL)
        self->name = strdup(name);
    if (self->name != NULL && name_valid(self->name, strlen(self->name)))
        return true;
    reply__problem(request, SLUICE_INVALID, "the manifest has a name: 1 to 255 bytes of UTF-8 without a slash");
    return false;
}

void lambda__upload(struct request *request)
{
    struct upload *self = request->state;
    char *manifest = NULL;
    if (self->parts != NULL) {
        enum MHD_Result ended = MHD_destroy_post_processor(self->parts);
        self->parts = NULL;
        if (ended != MHD_YES) {
            reply__problem(request, SLUICE_INVALID, "the form is malformed: it ends before its last boundary");
            return;
        }
    }
    if (self->file.size == 0)
        reply__problem(request, SLUICE_INVALID, "the part file is missing or empty: it is the shared object");
    else if (read_manifest(request, self, &manifest)) {
        struct sluice_lambda_upload upload = {.call = request->call,
                                              .name = self->name,
                                              .manifest_json = manifest,
                                              .file = self->file.value,
                                              .file_size = self->file.size};
        sluice_lambda_upload(request->gateway->client, &upload, on_created, request);
    }
    free(manifest);
}

void lambda__get(struct request *request)
{
    sluice_lambda_get(request->gateway->client, &request->call, request->key, on_done, request);
}

void lambda__delete(struct request *request)
{
    sluice_lambda_delete(request->gateway->client, &request->call, request->key, on_done, request);
}

void lambda__enable(struct request *request)
{
    sluice_lambda_action(request->gateway->client, &request->call, request->key, "enable", on_done, request);
}

void lambda__disable(struct request *request)
{
    sluice_lambda_action(request->gateway->client, &request->call, request->key, "disable", on_done, request);
}

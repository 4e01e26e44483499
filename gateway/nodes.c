/* The nodes of the cluster: added, removed, replaced; and who leads. */
#include <jansson.h>
#include <stdlib.h>
#include <string.h>

#include "gateway/http__.h"

#define NODE_MAX 63

bool nodes__check(struct request *request)
{
    bool force;
    const char *why;
    enum sluice_status status = auth_everything(request->subject, AUTH_ADMIN, &why);
    request->call.admin = true;
    if (status != SLUICE_OK)
        reply__problem(request, status, "%s", why);
    return status == SLUICE_OK && request__flag(request, "force", &force);
}

static void on_members(struct request *request, const struct sluice_answer *answer, unsigned status)
{
    if (answer->status != SLUICE_OK)
        reply__answer_problem(request, answer);
    else
        reply__json_text(request, status, answer->json);
}

static void on_changed(void *arg, const struct sluice_answer *answer)
{
    on_members(arg, answer, 200);
}

static void on_added(void *arg, const struct sluice_answer *answer)
{
    on_members(arg, answer, 201);
}

/* A node's number, or a shard's: an integer from `low` to `high`. */
static bool number_good(struct request *request, const json_t *object, const char *name, json_int_t low,
                        json_int_t high)
{
    const json_t *value = json_object_get(object, name);
    if (value == NULL ||
        (json_is_integer(value) && json_integer_value(value) >= low && json_integer_value(value) <= high))
        return true;
    reply__problem(request, SLUICE_INVALID, "\"%s\" is a number from %lld to %lld", name, (long long)low,
                   (long long)high);
    return false;
}

static bool addresses_good(struct request *request, const json_t *object)
{
    size_t i;
    const json_t *address, *list = json_object_get(object, "addresses");
    bool good = list == NULL || json_is_array(list);
    json_array_foreach(list, i, address)
    {
        const char *text = json_string_value(address);
        good = good && text != NULL && strlen(text) <= 255 &&
               (strncmp(text, "tcp:", 4) == 0 || strncmp(text, "shm:", 4) == 0);
    }
    if (!good)
        reply__problem(request, SLUICE_INVALID,
                       "\"addresses\" is a list of texts like tcp:HOST:PORT, where the other nodes reach this one");
    return good;
}

static json_t *read_json(struct request *request)
{
    json_error_t where;
    const char *type = request->headers.content_type;
    if (type != NULL && type[0] != '\0' && !parse_media_type_is(type, "application/json")) {
        reply__problem(request, SLUICE_UNSUPPORTED_MEDIA,
                       "the body is a JSON document: Content-Type: application/json");
        return NULL;
    }
    json_t *json = json_loadb(collect__data(&request->body), request->body.size, JSON_REJECT_DUPLICATES, &where);
    if (json_is_object(json))
        return json;
    reply__problem(request, SLUICE_INVALID, "the body is no JSON object: line %d, column %d: %s", where.line,
                   where.column, json == NULL ? where.text : "another type");
    json_decref(json);
    return NULL;
}

/* The body as an object that has no other members than `known` ("" ends them); no body is {}. NULL: it has replied. */
static json_t *read_body(struct request *request, const char *const *known)
{
    json_t *json = request->body.size == 0 ? json_object() : read_json(request);
    const char *name;
    json_t *value;
    json_object_foreach(json, name, value)
    {
        size_t i = 0;
        while (*known[i] != '\0' && strcmp(known[i], name) != 0)
            i++;
        if (*known[i] != '\0')
            continue;
        reply__problem(request, SLUICE_INVALID,
                       "the document has a member that is not known here; openapi.yaml names "
                       "those that are");
        json_decref(json);
        return NULL;
    }
    return json;
}

/* Takes `document`. */
static void change(struct request *request, const char *name, json_t *document, sluice_done done)
{
    char *text = document == NULL ? NULL : json_dumps(document, JSON_COMPACT);
    json_decref(document);
    if (text == NULL)
        reply__problem(request, SLUICE_MEMORY, "there is no memory for this request now; try again");
    else
        sluice_node_change(request->gateway->client, &request->call, name, text, done, request);
    free(text);
}

/* The change's document: what is given under its name there. */
static json_t *rename_member(json_t *body, const char *from, const char *to)
{
    json_t *document = json_object(), *value = json_object_get(body, from);
    if (value != NULL)
        json_object_set(document, to, value);
    if (json_object_get(body, "addresses") != NULL)
        json_object_set(document, "addresses", json_object_get(body, "addresses"));
    json_decref(body);
    return document;
}

void nodes__add(struct request *request)
{
    static const char *const known[] = {"id", "addresses", ""};
    json_t *body = read_body(request, known);
    if (body == NULL)
        return;
    if (number_good(request, body, "id", 1, NODE_MAX) && addresses_good(request, body))
        change(request, "node_add", rename_member(body, "id", "node"), on_added);
    else
        json_decref(body);
}

void nodes__remove(struct request *request)
{
    bool force = false;
    if (request__flag(request, "force", &force))
        change(request, "node_remove",
               json_pack("{s:i, s:b}", "node", (int)strtol(request->key, NULL, 10), "force", force), on_changed);
}

void nodes__replace(struct request *request)
{
    static const char *const known[] = {"with", "addresses", ""};
    json_t *body = read_body(request, known);
    if (body == NULL)
        return;
    if (!number_good(request, body, "with", 1, NODE_MAX) || !addresses_good(request, body)) {
        json_decref(body);
        return;
    }
    json_t *document = rename_member(body, "with", "new");
    json_object_set_new(document, "old", json_integer(strtol(request->key, NULL, 10)));
    change(request, "node_replace", document, on_changed);
}

void nodes__transfer(struct request *request)
{
    static const char *const known[] = {"shard", "from", "to", ""};
    json_t *body = read_body(request, known);
    if (body == NULL)
        return;
    bool good = number_good(request, body, "shard", 0, UINT32_MAX) && number_good(request, body, "from", 1, NODE_MAX) &&
                number_good(request, body, "to", 1, NODE_MAX);
    if (good && json_object_size(body) == 0) {
        reply__problem(request, SLUICE_INVALID,
                       "say whose lead is to be moved: \"shard\", or \"from\" a node, or \"to\" "
                       "one");
        good = false;
    }
    char *text = good ? json_dumps(body, JSON_COMPACT) : NULL;
    json_decref(body);
    if (good && text == NULL)
        reply__problem(request, SLUICE_MEMORY, "there is no memory for this request now; try again");
    else if (good)
        sluice_transfer(request->gateway->client, &request->call, text, on_changed, request);
    free(text);
}

/* Nodes come, go and are replaced; who leads is moved. */
#include <jansson.h>
#include <stdlib.h>
#include <string.h>

#include "client/client__.h"

/* --- Changes of the members --- */

struct members_job {
    struct job job;
    struct change change;
    json_t *document;
    char *answer;
};

static void members_deinit(struct job *job)
{
    struct members_job *self = (struct members_job *)job;
    change__deinit(&self->change);
    json_decref(self->document);
    free(self->answer);
}

static bool members_show(struct job *job)
{
    return change__shows(&((struct members_job *)job)->change);
}

static void members_shown(struct job *job)
{
    job__answer_json(job, SLUICE_OK, sluice_status_text(SLUICE_OK), ((struct members_job *)job)->answer);
}

static void members_changed(struct ask *ask, const struct reply *reply)
{
    struct members_job *self = ask->owner;
    if (reply->status != SLUICE_OK) {
        job__fail_reply(&self->job, reply);
        return;
    }
    self->answer = strndup((const char *)reply->body, reply->body_size);
    if (self->answer == NULL)
        job__fail(&self->job, SLUICE_MEMORY, "the members were changed; there is no memory to say how");
    else
        job__when_mapped(&self->job, members_show, members_shown);
}

/* The number of a fresh node is chosen here, so that a change that is sent again after a broken link says the same. */
static json_int_t fresh_number(const struct map *map)
{
    for (uint16_t id = 1; id < 64; id++)
        if (map_node_find(map, id) == NULL)
            return id;
    for (uint16_t id = 1; id < 64; id++)
        if (map_node_find(map, id)->state == MAP_NODE_GONE)
            return id;
    return 0;
}

static void name_fresh(const struct map *map, json_t *document)
{
    const char *change = json_string_value(json_object_get(document, "change"));
    const char *field = strcmp(change, "node_add") == 0 ? "node" : strcmp(change, "node_replace") == 0 ? "new" : NULL;
    json_int_t number = fresh_number(map);
    if (field != NULL && json_object_get(document, field) == NULL && number != 0)
        json_object_set_new(document, field, json_integer(number));
}

static void members_go(struct job *job)
{
    struct members_job *self = (struct members_job *)job;
    name_fresh(job->client->map, self->document);
    if (!change__send(&self->change, job, json_incref(self->document), members_changed))
        job__fail(job, SLUICE_MEMORY, "no memory; nothing was changed");
}

void sluice_node_change(struct sluice_client *client, const struct sluice_call *call, const char *change,
                        const char *json, sluice_done done, void *arg)
{
    struct members_job *self = job__create(client, sizeof(*self), call, done, arg, members_deinit);
    if (self == NULL)
        return;
    self->document = json == NULL ? json_object() : json_loads(json, JSON_REJECT_DUPLICATES, NULL);
    if (!json_is_object(self->document))
        job__refuse(&self->job, SLUICE_INVALID, "a JSON object was expected");
    else if (json_object_set_new(self->document, "change", json_string(change)) != 0)
        job__refuse(&self->job, SLUICE_MEMORY, "no memory; nothing was changed");
    else
        job__later(&self->job, members_go);
}

/* --- Who leads --- */

struct transfer_job {
    struct job job;
    struct gather gather;
    char *text;
};

static void transfer_deinit(struct job *job)
{
    struct transfer_job *self = (struct transfer_job *)job;
    gather__deinit(&self->gather);
    free(self->text);
}

static void transfer_told(struct gather *gather)
{
    struct transfer_job *self = LIST__OF(gather, struct transfer_job, gather);
    json_t *shards = json_array();
    for (size_t i = 0; i < gather->count; i++)
        json_array_extend(shards, json_object_get(gather->nodes[i].json, "shards"));
    json_t *document = json_pack("{s:O}", "shards", shards);
    char *text = document == NULL ? NULL : json_dumps(document, JSON_COMPACT);
    json_decref(document);
    json_decref(shards);
    if (text == NULL)
        job__fail(&self->job, SLUICE_MEMORY, "no memory for the answer");
    else
        job__answer_json(&self->job, SLUICE_OK, sluice_status_text(SLUICE_OK), text);
    free(text);
}

static bool transfer_names_what_is_there(struct transfer_job *self)
{
    const struct map *map = self->job.client->map;
    json_t *document = json_loads(self->text, JSON_REJECT_DUPLICATES, NULL);
    const json_t *shard = json_object_get(document, "shard");
    bool good = json_is_object(document);
    if (!good)
        job__fail(&self->job, SLUICE_INVALID, "a JSON object was expected");
    if (good && json_integer_value(shard) != MAP_GROUP &&
        map_shard_find(map, (uint32_t)json_integer_value(shard)) == NULL) {
        job__fail(&self->job, SLUICE_NOT_FOUND, "there is no such shard");
        good = false;
    }
    static const char *const nodes[] = {"from", "to"};
    for (size_t i = 0; good && i < 2; i++) {
        const json_t *node = json_object_get(document, nodes[i]);
        const struct map_node *found = node == NULL ? NULL : map_node_find(map, (uint16_t)json_integer_value(node));
        if (node == NULL || (found != NULL && found->state != MAP_NODE_GONE))
            continue;
        job__fail(&self->job, SLUICE_NOT_FOUND, "there is no such node");
        good = false;
    }
    json_decref(document);
    return good;
}

static void transfer_go(struct job *job)
{
    struct transfer_job *self = (struct transfer_job *)job;
    if (!transfer_names_what_is_there(self))
        return;
    if (!gather__start(&self->gather, job, WIRE_TRANSFER, self->text, strlen(self->text), transfer_told))
        job__fail(job, SLUICE_MEMORY, "no memory for the request");
}

void sluice_transfer(struct sluice_client *client, const struct sluice_call *call, const char *json, sluice_done done,
                     void *arg)
{
    struct transfer_job *self = job__create(client, sizeof(*self), call, done, arg, transfer_deinit);
    if (self == NULL)
        return;
    self->text = strdup(json);
    if (self->text == NULL)
        job__refuse(&self->job, SLUICE_MEMORY, "no memory; nothing was moved");
    else
        job__later(&self->job, transfer_go);
}

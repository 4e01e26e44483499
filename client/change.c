/* A change of the cluster map: JSON to the leader of the map group. */
#include <jansson.h>
#include <stdlib.h>
#include <string.h>

#include "client/client__.h"

/* The reply names the map that has the change; an earlier one may have some other change that ours had not seen. Where
 * nothing was to be changed it is the one that is here. */
static void answered(struct ask *ask, const struct reply *reply)
{
    struct change *self = LIST__OF(ask, struct change, ask);
    if (reply->status == SLUICE_OK && reply->header != NULL && reply->header->map_epoch >= self->epoch &&
        reply->header->map_epoch != 0)
        self->epoch = reply->header->map_epoch - 1;
    self->done(ask, reply);
}

bool change__send(struct change *self, struct job *job, void *document,
                  void (*done)(struct ask *ask, const struct reply *reply))
{
    change__deinit(self);
    self->text = document == NULL ? NULL : json_dumps(document, JSON_COMPACT);
    json_decref(document);
    if (self->text == NULL)
        return false;
    self->epoch = job->client->map == NULL ? 0 : job->client->map->epoch;
    self->done = done;
    job__ask(job, &self->ask, WIRE_MAP_CHANGE, answered);
    self->ask.flags |= WIRE_FLAG_ADMIN;
    self->ask.target = ASK_SHARD;
    self->ask.shard = MAP_GROUP;
    self->ask.writes = true;
    self->ask.body = self->text;
    self->ask.body_size = strlen(self->text);
    ask__start(&self->ask);
    return true;
}

void change__deinit(struct change *self)
{
    ask__cancel(&self->ask);
    free(self->text);
    self->text = NULL;
}

bool change__shows(const struct change *self)
{
    const struct map *map = self->ask.client->map;
    return map != NULL && map->epoch > self->epoch;
}

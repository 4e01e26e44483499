/* The time of a cut "now": the highest time that the leaders of all its shards report in one round. A leader's time is
 * at or above everything that it has acknowledged, so all of that is in the cut. */
#include <stdlib.h>

#include "client/client__.h"

static void cut_end(struct cut *self, const struct reply *failed)
{
    for (size_t i = 0; i < self->count; i++)
        ask__cancel(&self->asks[i]);
    self->done(self, failed);
}

static void told(struct ask *ask, const struct reply *reply)
{
    struct cut *self = ask->owner;
    /* A shard whose pool has been deleted meanwhile has nothing to add. */
    if (reply->status != SLUICE_OK && reply->status != SLUICE_STALE_MAP) {
        cut_end(self, reply);
        return;
    }
    if (reply->status == SLUICE_OK && reply->header->time > self->time)
        self->time = reply->header->time;
    if (--self->left == 0)
        cut_end(self, NULL);
}

bool cut__start(struct cut *self, struct sluice_client *client, const uint32_t *shards, size_t count, uint64_t after,
                uint64_t deadline_ns, void (*done)(struct cut *self, const struct reply *failed))
{
    *self = (struct cut){.time = after, .done = done};
    if (count > 0)
        self->asks = calloc(count, sizeof(*self->asks));
    if (self->asks == NULL)
        return false;
    self->count = self->left = count;
    for (size_t i = 0; i < count; i++) {
        self->asks[i] = (struct ask){
            .client = client,
            .type = WIRE_TIME,
            .target = ASK_SHARD,
            .shard = shards[i],
            .after = after,
            .deadline_ns = deadline_ns,
            .done = told,
            .owner = self,
        };
        ask__start(&self->asks[i]);
    }
    return true;
}

void cut__deinit(struct cut *self)
{
    for (size_t i = 0; i < self->count; i++)
        ask__cancel(&self->asks[i]);
    free(self->asks);
    self->asks = NULL;
    self->count = 0;
}

/* Releases side by side: a node that does not understand the level at which the cluster works stops, and what is on its
 * disk is written in a later format only once no node may go back to a release that does not read it. */
#include <stdio.h>

#include "core/node/node__.h"

void levels__follow_map(struct node *self, const struct map *map)
{
    char words[240];
    if (map->level == self->level_seen)
        return;
    if (!participant_understands(map->level, words, sizeof(words))) {
        node__fail(self, SLUICE_VERSION, words);
        return;
    }
    const struct release_formats *formats = release_formats_at(map->level);
    /* node.json first: it is looked at first by a release that reads none of them. */
    enum sluice_status status = data__use_format(self, formats->node);
    if (status == SLUICE_OK) {
        wal_use_format(self->wal, formats->log);
        status = store_use_format(self->store, formats->store);
    }
    if (status != SLUICE_OK) {
        node__fail(self, status, "what is on disk cannot be said to have a later format");
        return;
    }
    if (self->level_seen != 0)
        LOG_INFO("node", "the cluster works at level %u from now on", map->level);
    self->level_seen = map->level;
}

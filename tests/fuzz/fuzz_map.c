/* Cluster maps: whatever the bytes, the answer is an answer; what was taken keeps its meaning when it is written and
 * read again. */
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include "api/map.h"
#include "core/base/panic.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    char error[256] = "";
    struct map *map = NULL, *again = NULL;
    if (map_parse((const char *)data, size, &map, error) != SLUICE_OK) {
        ASSERT(error[0] != '\0');
        return 0;
    }
    for (size_t i = 0; i < map->shard_count; i++)
        ASSERT(map->shards[i].pool < map->pool_count && map_shard_find(map, map->shards[i].id) == &map->shards[i]);
    for (size_t i = 0; i < map->pool_count; i++) {
        ASSERT(map_pool_find(map, map->pools[i].prefix, strlen(map->pools[i].prefix)) == &map->pools[i]);
        ASSERT(map_shard_find(map, map_shard_of(&map->pools[i], error, sizeof(error))) != NULL);
    }
    (void)map_pool_of(map, (const char *)data, size);
    char *text = map_format(map);
    ASSERT(text != NULL);
    ASSERT(map_parse(text, strlen(text), &again, error) == SLUICE_OK);
    char *same = map_format(again);
    ASSERT(same != NULL && strcmp(text, same) == 0);
    free(same);
    free(text);
    map_destroy(again);
    map_destroy(map);
    return 0;
}

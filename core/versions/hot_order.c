/* The skip list that keeps objects in key order. */
#include <string.h>

#include "core/base/panic.h"
#include "core/versions/hot.h"

/* xorshift64: one level more with probability 1/4. The order of keys decides nothing here, so it need not be secret or
 * repeatable. */
uint8_t hot__level(struct hot *self)
{
    uint64_t state = self->level_state;
    state ^= state << 13;
    state ^= state >> 7;
    state ^= state << 17;
    self->level_state = state;
    uint8_t level = 1;
    while (level < HOT_HEIGHT_MAX && (state & 3) == 0) {
        level++;
        state >>= 2;
        if (state == 0)
            break;
    }
    return level;
}

/* For each level the link that leads to the first object >= key (or > key); returns level 0's. */
static struct hot_object **find_links(struct hot *self, struct slice key, bool strictly,
                                      struct hot_object **links[HOT_HEIGHT_MAX])
{
    struct hot_object **array = self->head; /* the links of where we stand */
    struct hot_object *passed = NULL;       /* known to be >= key: not compared again a level lower */
    for (uint32_t level = self->levels; level-- > 0;) {
        while (array[level] != NULL && array[level] != passed) {
            struct hot_object *object = array[level];
            int order = hot__compare(hot_key(object), object->key_size, key.data, key.size);
            if (order > 0 || (order == 0 && !strictly))
                break;
            array = object->forward;
        }
        passed = array[level];
        if (links != NULL)
            links[level] = &array[level];
    }
    return &array[0];
}

void hot__order_insert(struct hot *self, struct hot_object *object)
{
    struct hot_object **links[HOT_HEIGHT_MAX];
    while (self->levels < object->height)
        self->head[self->levels++] = NULL;
    find_links(self, (struct slice){hot_key(object), object->key_size}, false, links);
    for (uint32_t level = 0; level < object->height; level++) {
        object->forward[level] = *links[level];
        *links[level] = object;
    }
}

void hot__order_remove(struct hot *self, struct hot_object *object)
{
    struct hot_object **links[HOT_HEIGHT_MAX];
    find_links(self, (struct slice){hot_key(object), object->key_size}, false, links);
    for (uint32_t level = 0; level < object->height; level++) {
        ASSERT(*links[level] == object);
        *links[level] = object->forward[level];
    }
}

struct hot_object *hot_seek(const struct hot *self, struct slice key, bool strictly)
{
    if (self->levels == 0)
        return NULL;
    return *find_links((struct hot *)(uintptr_t)self, key, strictly, NULL);
}

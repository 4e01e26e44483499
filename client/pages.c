/* Answers that come in pages: each page is copied once, and the objects point into the copies. */
#include <stdlib.h>
#include <string.h>

#include "client/client__.h"

void pages__free(struct pages *self)
{
    for (size_t i = 0; i < self->page_count; i++)
        sluice_value_unref(self->pages[i]);
    free(self->pages);
    free(self->objects);
    *self = (struct pages){0};
}

bool pages__hold(struct pages *self, struct sluice_value *page)
{
    if (self->page_count == self->page_capacity) {
        size_t capacity = self->page_capacity == 0 ? 8 : self->page_capacity * 2;
        struct sluice_value **grown = reallocarray(self->pages, capacity, sizeof(struct sluice_value *));
        if (grown == NULL)
            return false;
        self->pages = grown;
        self->page_capacity = capacity;
    }
    self->pages[self->page_count++] = sluice_value_ref(page);
    return true;
}

bool pages__holds(const struct pages *self, const struct sluice_value *page)
{
    size_t looked_at = 0;
    for (size_t i = self->page_count; i > 0 && looked_at < 256; i--, looked_at++)
        if (self->pages[i - 1] == page)
            return true;
    return false;
}

bool pages__add(struct pages *self, const struct sluice_object *object)
{
    if (self->object_count == self->object_capacity) {
        size_t capacity = self->object_capacity == 0 ? 16 : self->object_capacity * 2;
        struct sluice_object *grown = reallocarray(self->objects, capacity, sizeof(*grown));
        if (grown == NULL)
            return false;
        self->objects = grown;
        self->object_capacity = capacity;
    }
    self->objects[self->object_count++] = *object;
    self->bytes += object->data_size + object->key_size + object->content_type_size;
    return true;
}

enum sluice_status pages__take(struct pages *self, const void *bytes, size_t size, bool values)
{
    struct wire_record_view view;
    size_t offset = 0;
    int last;
    if (size == 0)
        return SLUICE_OK;
    struct sluice_value *page = sluice_value_create((uint32_t)size);
    bool held = page != NULL && pages__hold(self, page);
    sluice_value_unref(page);
    if (!held)
        return SLUICE_MEMORY;
    memcpy(sluice_value_data(page), bytes, size);
    while ((last = wire_record_next(sluice_value_data(page), size, &offset, &view)) == 1) {
        struct sluice_object object;
        record__object(&view, values, page, &object);
        if (!pages__add(self, &object))
            return SLUICE_MEMORY;
    }
    return last == 0 ? SLUICE_OK : SLUICE_INTERNAL;
}

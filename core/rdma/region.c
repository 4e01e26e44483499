/* Registered memory, who may write it, and the writes. */
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#include "core/base/panic.h"
#include "core/base/random.h"
#include "core/rdma/fabric__provider.h"

enum sluice_status fabric_region_create(struct fabric *self, size_t bytes, struct fabric_region **out)
{
    if (bytes == 0 || bytes > SIZE_MAX / 2)
        return SLUICE_INVALID;
    struct fabric_region *region = calloc(1, sizeof(*region));
    if (!region)
        return SLUICE_MEMORY;
    region->fabric = self;
    region->size = bytes;
    region->fd = ring__sealed_create("sluice-region", bytes);
    if (region->fd < 0)
        goto fail;
    void *memory = mmap(NULL, bytes, PROT_READ | PROT_WRITE, MAP_SHARED, region->fd, 0);
    if (memory == MAP_FAILED)
        goto fail_after_fd;
    (void)madvise(memory, bytes, MADV_DONTFORK);
    region->memory = memory;
    fabric__list_init(&region->all);
    fabric__list_push(&self->regions, &region->all);
    *out = region;
    return SLUICE_OK;

fail_after_fd:
    (void)close(region->fd);
fail:
    free(region);
    return SLUICE_MEMORY;
}

void *fabric_region_memory(const struct fabric_region *region)
{
    return region->memory;
}

static struct fabric__grant **grant_of(struct fabric_link *link, const struct fabric_region *region)
{
    struct fabric__grant **at = &link->grants;
    while (*at && (*at)->region != region)
        at = &(*at)->next;
    return at;
}

static enum sluice_status take_back(struct fabric_link *link, struct fabric__grant **at)
{
    struct fabric__grant *grant = *at;
    *at = grant->next;
    enum sluice_status status = link->provider->revoke(grant->region, link, grant);
    free(grant);
    return status;
}

void fabric_region_destroy(struct fabric_region *region)
{
    if (!region)
        return;
    struct fabric *self = region->fabric;
    for (struct fabric__node *node = self->links.next; node != &self->links; node = node->next) {
        struct fabric_link *link = FABRIC__LINK_OF(node, all);
        struct fabric__grant **at = grant_of(link, region);
        if (*at)
            (void)!take_back(link, at);
    }
    fabric__list_remove(&region->all);
    (void)munmap(region->memory, region->size);
    (void)close(region->fd);
    free(region);
}

static enum sluice_status revoke_access(struct fabric_region *region, struct fabric_link *link)
{
    struct fabric__grant **at = grant_of(link, region);
    if (*at)
        return take_back(link, at);
    /* Not held now. A mapping that was handed out once may still be there, whoever has asked in the meantime. */
    return region->ever_mapped && !link->provider->asks_kernel ? SLUICE_UNPROCESSABLE : SLUICE_OK;
}

enum sluice_status fabric_region_permit(struct fabric_region *region, struct fabric_link *link,
                                        enum fabric_access access, uint64_t *key)
{
    ASSERT(region->fabric == link->fabric);
    if (access == FABRIC_ACCESS_NONE)
        return revoke_access(region, link);
    if (access != FABRIC_ACCESS_WRITE)
        return SLUICE_INVALID;
    if (link->state != LINK__UP)
        return SLUICE_CLOSED;
    struct fabric__grant *held = *grant_of(link, region);
    if (held) {
        *key = held->key;
        return SLUICE_OK;
    }
    struct fabric__grant *grant = calloc(1, sizeof(*grant));
    if (!grant)
        return SLUICE_MEMORY;
    grant->region = region;
    grant->key = random_os();
    enum sluice_status status = link->provider->permit(region, link, grant);
    if (status != SLUICE_OK) {
        free(grant);
        return status;
    }
    grant->next = link->grants;
    link->grants = grant;
    *key = grant->key;
    return SLUICE_OK;
}

struct fabric__grant *fabric__grant_find(const struct fabric_link *link, uint64_t key)
{
    struct fabric__grant *grant = link->grants;
    while (grant && grant->key != key)
        grant = grant->next;
    return grant;
}

void fabric__drop_grants(struct fabric_link *link)
{
    while (link->grants) {
        struct fabric__grant *grant = link->grants;
        link->grants = grant->next;
        free(grant);
    }
}

enum sluice_status fabric__completions_push(struct fabric__completions *self, uint64_t cookie,
                                            enum sluice_status status)
{
    if (self->count == self->capacity) {
        uint32_t capacity = self->capacity ? 2 * self->capacity : 16;
        struct fabric__completion *items = realloc(self->items, capacity * sizeof(*items));
        if (!items)
            return SLUICE_MEMORY;
        self->items = items;
        self->capacity = capacity;
    }
    self->items[self->count++] = (struct fabric__completion){cookie, status};
    return SLUICE_OK;
}

enum sluice_status fabric_write(struct fabric_link *link, uint64_t key, uint64_t offset, const void *data,
                                uint32_t size, unsigned flags, uint64_t cookie)
{
    if (link->state != LINK__UP)
        return link->state < LINK__UP ? SLUICE_AGAIN : SLUICE_CLOSED;
    return link->provider->write(link, key, offset, data, size, flags, cookie);
}

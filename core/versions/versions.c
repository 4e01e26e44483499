#include "core/versions/versions.h"

#include <stdlib.h>

#include "core/base/log.h"
#include "core/base/panic.h"
#include "core/versions/memory.h"
#include "core/versions/versions__.h"

void version_release(struct version *version)
{
    buf_unref(version->owner);
    version->owner = NULL;
}

enum sluice_status versions_create(const struct versions_options *options, struct versions **out)
{
    struct versions *self = memory__allocate_zeroed(1, sizeof(*self));
    if (self == NULL)
        return SLUICE_MEMORY;
    self->group = options->group;
    self->epoch = options->epoch;
    self->hot_bytes_max = options->hot_bytes_max;
    enum sluice_status status;
    if (options->store != NULL) {
        struct store_found found;
        status = store__group_open(options->store, options->group, options->epoch, &self->stored, &found);
        if (status != SLUICE_OK)
            goto fail;
        self->view = *store__cold(self->stored);
        self->cold = &self->view;
        self->applied = self->indexed = found.state.applied;
        self->time = found.state.time;
        self->held = found.held;
        self->gaps = found.gaps;
        versions__see(self);
    } else {
        status = facts_init(&self->facts);
        if (status != SLUICE_OK)
            goto fail;
    }
    status = hot_init(&self->hot, self->applied);
    if (status != SLUICE_OK)
        goto fail_after_store;
    *out = self;
    return SLUICE_OK;

fail_after_store:
    if (self->stored != NULL)
        store__group_close(self->stored);
    else
        facts_deinit(&self->facts);
fail:
    free(self);
    return status;
}

void versions_destroy(struct versions *self)
{
    if (self == NULL)
        return;
    versions__ingest_drop(self);
    if (self->stored != NULL)
        store__group_close(self->stored);
    facts_deinit(&self->facts);
    hot_deinit(&self->hot);
    free(self);
}

enum sluice_status versions_erase(struct versions *self)
{
    struct hot fresh;
    enum sluice_status status = hot_init(&fresh, 0);
    if (status != SLUICE_OK)
        return status;
    if (self->stored != NULL) {
        status = store__erase(self->stored);
    } else {
        struct facts none;
        status = facts_init(&none);
        if (status == SLUICE_OK) {
            facts_deinit(&self->facts);
            self->facts = none;
        }
    }
    if (status != SLUICE_OK) {
        hot_deinit(&fresh);
        return status;
    }
    hot_deinit(&self->hot);
    self->hot = fresh;
    self->applied = self->time = self->indexed = self->gaps = self->compacted = 0;
    versions__ingest_drop(self);
    return SLUICE_OK;
}

uint64_t versions_applied(const struct versions *self, uint64_t *time)
{
    if (time != NULL)
        *time = self->time;
    return self->applied;
}

static enum sluice_status check_apply(const struct versions *self, const struct entry *entry,
                                      const struct version *made, uint32_t made_count,
                                      const struct versions_fact *facts, uint32_t fact_count)
{
    ASSERT(entry->index == self->applied + 1);
    for (uint32_t i = 0; i < made_count; i++) {
        ASSERT(made[i].revision == entry->index && made[i].time == entry->time && made[i].operation <= UINT16_MAX);
        ASSERT(made[i].version > 0 && made[i].content_type_size <= UINT8_MAX && made[i].flags <= VERSION_TOMBSTONE);
    }
    for (uint32_t i = 0; i < fact_count; i++)
        ASSERT(facts[i].name.size > 0 && facts[i].name.size <= FACT_NAME_BYTES_MAX &&
               facts[i].value.size <= FACT_VALUE_BYTES_MAX);
    if (entry->time >= self->time)
        return SLUICE_OK;
    /* Searches by time rest on it. Times come from leaders, so the log says which one broke the promise. */
    LOG_ERROR("versions", "group=%u revision %llu of ballot %llx has a time before its predecessor's", self->group,
              (unsigned long long)entry->index, (unsigned long long)entry->ballot);
    return SLUICE_INTERNAL;
}

enum sluice_status versions_apply(struct versions *self, const struct entry *entry, const struct version *made,
                                  uint32_t made_count, const struct versions_fact *facts, uint32_t fact_count)
{
    struct store_item *item = NULL;
    struct fact *prepared = NULL;
    enum sluice_status status = check_apply(self, entry, made, made_count, facts, fact_count);
    if (status != SLUICE_OK)
        return status;
    /* All that can fail comes first. */
    if (self->stored != NULL) {
        item = store__item_create(self->stored, entry, made, made_count, facts, fact_count);
        if (item == NULL)
            return SLUICE_MEMORY;
    } else {
        status = facts_prepare(facts, fact_count, &prepared);
        if (status != SLUICE_OK)
            return status;
    }
    status = hot_apply(&self->hot, entry, made, made_count);
    if (status != SLUICE_OK) {
        store__item_destroy(item);
        facts_discard(prepared);
        return status;
    }
    self->applied = entry->index;
    self->time = entry->time;
    if (self->held != 0 || self->next != NULL)
        versions__ingest_passed(self);
    if (self->stored == NULL) {
        facts_commit(&self->facts, facts, fact_count, prepared);
        return SLUICE_OK;
    }
    status = store__push(self->stored, item);
    versions__evict(self, VERSIONS_EVICT_STEPS);
    return status;
}

void versions__evict(struct versions *self, uint32_t steps_max)
{
    if (self->stored == NULL || self->hot.bytes <= self->hot_bytes_max)
        return;
    uint64_t indexed = store__indexed(self->stored);
    if (indexed > self->indexed)
        self->indexed = indexed;
    hot_evict(&self->hot, self->indexed, self->hot_bytes_max, steps_max);
}

void versions_indexed(struct versions *self, uint64_t revision)
{
    ASSERT(revision <= self->applied);
    if (revision > self->indexed)
        self->indexed = revision;
    versions__evict(self, VERSIONS_EVICT_STEPS_NEWS);
}

bool versions_full(const struct versions *self)
{
    return self->stored == NULL && versions_hot_bytes(self) > self->hot_bytes_max;
}

uint64_t versions_hot_bytes(const struct versions *self)
{
    return self->hot.bytes + self->facts.bytes;
}

enum sluice_status versions_facts(struct versions *self, void (*each)(void *arg, struct slice name, struct slice value),
                                  void *arg)
{
    if (self->stored == NULL) {
        facts_each(&self->facts, each, arg);
        return SLUICE_OK;
    }
    enum sluice_status status = store__drain(self->stored);
    if (status != SLUICE_OK)
        return status;
    return cold_facts(self->cold, self->group, each, arg);
}

enum sluice_status versions_entry(struct versions *self, uint64_t revision, struct entry *out)
{
    if (revision == 0 || revision > self->applied)
        return SLUICE_NOT_FOUND;
    if (revision < self->hot.first) {
        uint64_t next;
        if (self->cold == NULL)
            return SLUICE_GONE;
        enum sluice_status status = cold_next(self->cold, self->group, revision, self->hot.first - 1, &next);
        if (status == SLUICE_NOT_FOUND || (status == SLUICE_OK && next != revision))
            return SLUICE_GONE;
        return status != SLUICE_OK ? status : cold_entry(self->cold, self->group, revision, out);
    }
    const struct hot_slot *slot = hot_slot(&self->hot, revision);
    if (slot->kind == HOT_GAP)
        return SLUICE_GONE;
    *out = (struct entry){
        .index = revision,
        .ballot = slot->ballot,
        .opened = slot->opened,
        .time = slot->time,
        .epoch = slot->epoch,
        .group = self->group,
        .kind = slot->kind,
        .body_crc = slot->body_crc,
        .body = slot->body == NULL ? NULL : buf_ref(slot->body),
    };
    return SLUICE_OK;
}

enum sluice_status versions_revision_after(struct versions *self, uint64_t time, uint64_t *out)
{
    if (time >= self->time) {
        *out = self->applied + 1;
        return SLUICE_OK;
    }
    /* The answer lies in the deque if it is not its first entry, or if nothing lies before that. */
    uint64_t hot = hot_revision_after(&self->hot, time);
    if (self->cold == NULL || self->hot.first == 1 || hot > self->hot.first) {
        while (hot <= self->hot.last && hot_slot(&self->hot, hot)->kind == HOT_GAP)
            hot++;
        *out = hot;
        return SLUICE_OK;
    }
    return cold_revision_after(self->cold, self->group, time, self->hot.first - 1, out);
}

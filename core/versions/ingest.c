/* Taking in a snapshot, compaction, and what is written back after damage.
 *
 * Entries never change once they are chosen, so those of a snapshot are written where they belong at once; that they
 * are of later revisions than what was applied keeps them out of every read, and they do no harm where the shard goes
 * on by its log instead. One atomic write at the end makes them readable together with the facts. */
#include <stdlib.h>
#include <string.h>

#include "core/base/crc.h"
#include "core/base/log.h"
#include "core/base/panic.h"
#include "core/versions/memory.h"
#include "core/versions/versions__.h"

void versions__see(struct versions *self)
{
    self->view.until = self->held > self->applied ? self->applied : UINT64_MAX;
    self->view.gaps = self->gaps;
}

static bool is_gap(const struct versions *self, uint64_t revision)
{
    return hot_slot(&self->hot, revision)->kind == HOT_GAP;
}

enum sluice_status versions_next(struct versions *self, uint64_t revision, uint64_t *next)
{
    if (revision == 0)
        revision = 1;
    if (revision < self->hot.first && self->cold != NULL) {
        enum sluice_status status = cold_next(self->cold, self->group, revision, self->hot.first - 1, next);
        if (status != SLUICE_NOT_FOUND)
            return status;
    }
    if (revision < self->hot.first)
        revision = self->hot.first;
    while (revision <= self->applied && is_gap(self, revision))
        revision++;
    *next = revision;
    return revision <= self->applied ? SLUICE_OK : SLUICE_NOT_FOUND;
}

uint64_t versions_gaps(const struct versions *self)
{
    return self->gaps < self->applied ? self->gaps : self->applied;
}

enum sluice_status versions_compact(struct versions *self, uint64_t upto)
{
    if (upto > self->applied)
        upto = self->applied;
    if (self->stored == NULL) {
        hot_compact(&self->hot, self->compacted + 1, upto);
        self->compacted = upto > self->compacted ? upto : self->compacted;
        self->gaps = upto > self->gaps ? upto : self->gaps;
        return SLUICE_OK;
    }
    if (upto <= self->compacted)
        return SLUICE_OK;
    enum sluice_status status = store__compact(self->stored, upto, upto > self->gaps ? upto : self->gaps);
    if (status != SLUICE_OK)
        return status;
    self->compacted = upto;
    if (upto > self->gaps)
        self->gaps = upto;
    versions__see(self);
    return SLUICE_OK;
}

static void drop_next(struct versions *self)
{
    if (self->next == NULL)
        return;
    hot_deinit(self->next);
    free(self->next);
    self->next = NULL;
}

void versions__ingest_drop(struct versions *self)
{
    drop_next(self);
    self->held = 0;
    self->held_time = 0;
    versions__see(self);
}

void versions__ingest_passed(struct versions *self)
{
    if (self->next != NULL && self->next->last < self->applied)
        drop_next(self);
    versions__see(self);
}

enum sluice_status versions_ingest_begin(struct versions *self, uint64_t *position)
{
    if (self->stored == NULL && self->next == NULL) {
        struct hot *next = memory__allocate(sizeof(*next));
        enum sluice_status status = next == NULL ? SLUICE_MEMORY : hot_dup(&self->hot, self->group, next);
        if (status != SLUICE_OK) {
            free(next);
            return status;
        }
        self->next = next;
        self->held = self->applied;
    }
    if (self->held < self->applied)
        self->held = self->applied;
    if (self->held_time < self->time)
        self->held_time = self->time;
    *position = self->held;
    return SLUICE_OK;
}

/* Keys are checked here, since the twin that would refuse them is not asked over a store. */
static bool fits(const struct versions *self, const struct entry *entry, const struct version *made,
                 uint32_t made_count)
{
    bool ok = entry->group == self->group && entry->epoch == self->epoch && entry->index > self->held &&
              entry->time >= self->held_time && (made_count == 0 || entry->body != NULL);
    for (uint32_t i = 0; i < made_count && ok; i++)
        ok = made[i].key_size > 0 && made[i].key_size <= KEY_BYTES_MAX &&
             memchr(made[i].key, 0, made[i].key_size) == NULL && made[i].version > 0 &&
             made[i].revision == entry->index && made[i].time == entry->time && made[i].content_type_size <= UINT8_MAX;
    return ok;
}

enum sluice_status versions_ingest_entry(struct versions *self, const struct entry *entry, const struct version *made,
                                         uint32_t made_count)
{
    enum sluice_status status;
    if (self->stored == NULL && self->next == NULL)
        return SLUICE_CONFLICT;
    if (!fits(self, entry, made, made_count)) {
        LOG_ERROR("versions", "group=%u revision %llu of a snapshot does not follow revision %llu", self->group,
                  (unsigned long long)entry->index, (unsigned long long)self->held);
        return SLUICE_INVALID;
    }
    if (self->stored == NULL) {
        status = hot_skip(self->next, entry->index - 1, self->held_time);
        if (status == SLUICE_OK)
            status = hot_apply(self->next, entry, made, made_count);
    } else {
        struct store_item *item = store__item_create(self->stored, entry, made, made_count, NULL, 0);
        if (item == NULL)
            return SLUICE_MEMORY;
        /* Before it can be read: what is beyond `applied` is hidden from now on. */
        self->held = entry->index;
        versions__see(self);
        status = store__push_ingested(self->stored, item);
    }
    if (status == SLUICE_OK) {
        self->held = entry->index;
        self->held_time = entry->time;
    }
    return status;
}

static enum sluice_status finish_in_memory(struct versions *self, uint64_t upto, uint64_t time,
                                           const struct versions_fact *facts, uint32_t fact_count)
{
    struct facts fresh;
    struct fact *prepared = NULL;
    if (self->next == NULL)
        return SLUICE_CONFLICT;
    enum sluice_status status = facts_init(&fresh);
    if (status != SLUICE_OK)
        return status;
    status = facts_prepare(facts, fact_count, &prepared);
    if (status == SLUICE_OK)
        status = hot_skip(self->next, upto, time);
    if (status != SLUICE_OK) {
        facts_discard(prepared);
        facts_deinit(&fresh);
        return status;
    }
    facts_commit(&fresh, facts, fact_count, prepared);
    facts_deinit(&self->facts);
    hot_deinit(&self->hot);
    self->facts = fresh;
    self->hot = *self->next;
    free(self->next);
    self->next = NULL;
    self->gaps = upto;
    return SLUICE_OK;
}

static enum sluice_status finish_stored(struct versions *self, uint64_t upto, uint64_t time,
                                        const struct versions_fact *facts, uint32_t fact_count)
{
    struct hot fresh;
    enum sluice_status status = hot_init(&fresh, upto);
    if (status != SLUICE_OK)
        return status;
    status = store__finish(self->stored, upto, time, facts, fact_count);
    if (status != SLUICE_OK) {
        hot_deinit(&fresh);
        return status;
    }
    hot_deinit(&self->hot);
    self->hot = fresh;
    self->indexed = upto;
    self->gaps = upto;
    return SLUICE_OK;
}

enum sluice_status versions_ingest_finish(struct versions *self, uint64_t upto, uint64_t time,
                                          const struct versions_fact *facts, uint64_t fact_total)
{
    if (upto < self->held || upto <= self->applied || time < self->held_time || fact_total > UINT32_MAX)
        return SLUICE_INVALID;
    uint32_t fact_count = (uint32_t)fact_total;
    for (uint32_t i = 0; i < fact_count; i++)
        if (facts[i].name.size == 0 || facts[i].name.size > FACT_NAME_BYTES_MAX || facts[i].value.size == 0 ||
            facts[i].value.size > FACT_VALUE_BYTES_MAX)
            return SLUICE_INVALID;
    enum sluice_status status = self->stored == NULL ? finish_in_memory(self, upto, time, facts, fact_count)
                                                     : finish_stored(self, upto, time, facts, fact_count);
    if (status != SLUICE_OK)
        return status;
    self->applied = upto;
    self->time = time;
    versions__ingest_drop(self);
    return SLUICE_OK;
}

/* Is the time of a neighbour that can be read in order with this entry's? */
static bool in_order(struct versions *self, const struct entry *entry)
{
    struct entry near;
    uint32_t size;
    uint64_t next;
    if (entry->index > 1 && cold_entry_header(self->cold, self->group, entry->index - 1, &near, &size) == SLUICE_OK &&
        near.time > entry->time)
        return false;
    if (versions_next(self, entry->index + 1, &next) == SLUICE_OK &&
        cold_entry_header(self->cold, self->group, next, &near, &size) == SLUICE_OK && near.time < entry->time)
        return false;
    return entry->time <= self->time;
}

enum sluice_status versions_repair(struct versions *self, const struct entry *entry)
{
    struct entry before;
    uint32_t size = entry->body == NULL ? 0 : entry->body->size, before_size;
    if (entry->group != self->group || entry->epoch != self->epoch || entry->index == 0 ||
        entry->index > self->applied || (size > 0 && crc32c(entry->body->data, size) != entry->body_crc))
        return SLUICE_INVALID;
    /* What is in memory is whole, and the store gets it from there. */
    if (self->stored == NULL || entry->index >= self->hot.first)
        return SLUICE_OK;
    enum sluice_status status = cold_entry_header(self->cold, self->group, entry->index, &before, &before_size);
    if (status == SLUICE_OK && (before.time != entry->time || before.kind != entry->kind || before_size != size ||
                                (size > 0 && before.body_crc != entry->body_crc)))
        return SLUICE_CONFLICT;
    if (status != SLUICE_OK && status != SLUICE_CORRUPT && status != SLUICE_NOT_FOUND)
        return status;
    if (!in_order(self, entry))
        return SLUICE_CONFLICT;
    return store__repair(self->stored, entry);
}

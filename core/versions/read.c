/* Reads: the hot part and the cold one, merged exactly. What is in both is the same; what is in neither is not there.
 */
#include <string.h>

#include "core/base/panic.h"
#include "core/versions/versions__.h"

static enum sluice_status give(struct hot_object *object, uint64_t number, bool with_value, struct version *out)
{
    hot_view(object, number, with_value, out);
    buf_ref(out->owner);
    object->referenced = true;
    return SLUICE_OK;
}

/* May the store hold versions of the key that the hot part lacks? */
static bool look_below(const struct versions *self, const struct hot_object *object)
{
    if (self->cold == NULL)
        return false;
    return object != NULL ? object->first > 1 : !self->hot.all_keys;
}

enum sluice_status versions_latest(struct versions *self, struct slice key, bool with_value, struct version *out)
{
    struct hot_object *object = hot_find(&self->hot, key);
    if (object != NULL)
        return give(object, hot_last(object), with_value, out);
    if (!look_below(self, NULL))
        return SLUICE_NOT_FOUND;
    enum sluice_status status = cold_latest(self->cold, self->group, key, with_value, out);
    if (status == SLUICE_OK && with_value) {
        hot_cache(&self->hot, out);
        versions__evict(self, VERSIONS_EVICT_STEPS);
    }
    return status;
}

enum sluice_status versions_by_version(struct versions *self, struct slice key, uint64_t version, bool with_value,
                                       struct version *out)
{
    struct hot_object *object = hot_find(&self->hot, key);
    if (version == 0 || (object != NULL && version > hot_last(object)))
        return SLUICE_NOT_FOUND;
    if (object != NULL && version >= object->first)
        return give(object, version, with_value, out);
    if (!look_below(self, object))
        return SLUICE_NOT_FOUND;
    return cold_by_version(self->cold, self->group, key, version, with_value, out);
}

enum sluice_status versions_by_time(struct versions *self, struct slice key, uint64_t time, bool with_value,
                                    struct version *out)
{
    struct hot_object *object = hot_find(&self->hot, key);
    uint32_t until = object == NULL ? 0 : hot_count_until(object, time);
    if (until > 0)
        return give(object, object->first + until - 1, with_value, out);
    if (!look_below(self, object))
        return SLUICE_NOT_FOUND;
    return cold_by_time(self->cold, self->group, key, time, object == NULL ? UINT64_MAX : object->first, with_value,
                        out);
}

static bool has_prefix(struct slice key, struct slice prefix)
{
    return key.size >= prefix.size && (prefix.size == 0 || memcmp(key.data, prefix.data, prefix.size) == 0);
}

static struct slice object_key(const struct hot_object *object)
{
    return (struct slice){hot_key(object), object->key_size};
}

/* Two sorted runs of keys, walked together. */
struct merge {
    struct versions *versions;
    struct slice prefix;
    struct hot_object *hot; /* NULL: at the end */
    struct cold_keys *cold; /* NULL: nothing to look for there */
    struct slice cold_key;  /* valid while cold_here */
    bool cold_here;
};

static void merge_settle(struct merge *self)
{
    if (self->hot != NULL && !has_prefix(object_key(self->hot), self->prefix))
        self->hot = NULL;
    self->cold_here = self->cold != NULL && cold_keys_current(self->cold, &self->cold_key);
}

static enum sluice_status merge_begin(struct merge *self, struct versions *versions, struct slice prefix,
                                      struct slice after)
{
    *self = (struct merge){.versions = versions, .prefix = prefix};
    bool past = after.size > 0 && hot__compare(after.data, after.size, prefix.data, prefix.size) >= 0;
    self->hot = hot_seek(&versions->hot, past ? after : prefix, past);
    if (versions->cold != NULL && !versions->hot.whole) {
        enum sluice_status status =
            cold_keys_open(versions->cold, versions->group, prefix, past ? after : (struct slice){0}, &self->cold);
        if (status != SLUICE_OK)
            return status;
    }
    merge_settle(self);
    return SLUICE_OK;
}

/* Which of the two runs stands at the smallest key? False at the end. */
static bool merge_current(const struct merge *self, bool *in_hot, bool *in_cold)
{
    int order = 0;
    if (self->hot == NULL && !self->cold_here)
        return false;
    if (self->hot == NULL)
        order = 1;
    else if (!self->cold_here)
        order = -1;
    else
        order = hot__compare(hot_key(self->hot), self->hot->key_size, self->cold_key.data, self->cold_key.size);
    *in_hot = order <= 0;
    *in_cold = order >= 0;
    return true;
}

static void merge_advance(struct merge *self, bool hot, bool cold)
{
    if (hot)
        self->hot = hot_next(self->hot);
    if (cold)
        cold_keys_skip(self->cold);
    merge_settle(self);
}

static enum sluice_status merge_end(struct merge *self, enum sluice_status status)
{
    if (self->cold != NULL) {
        if (status == SLUICE_OK)
            status = cold_keys_status(self->cold);
        cold_keys_close(self->cold);
    }
    return status;
}

/* The version of the current key at the range's time. `owned` tells whether `out` must be released. */
static enum sluice_status list_pick(struct merge *merge, const struct versions_range *range, bool in_hot, bool in_cold,
                                    struct version *out, bool *owned)
{
    struct versions *self = merge->versions;
    *owned = false;
    uint32_t until = in_hot ? hot_count_until(merge->hot, range->at) : 0;
    if (until > 0) {
        hot_view(merge->hot, merge->hot->first + until - 1, range->values, out);
        return SLUICE_OK;
    }
    *owned = true;
    if (in_hot) {
        if (!in_cold)
            return SLUICE_NOT_FOUND;
        return cold_by_time(self->cold, self->group, object_key(merge->hot), range->at, merge->hot->first,
                            range->values, out);
    }
    ASSERT(in_cold);
    enum sluice_status status = cold_keys_newest(merge->cold, range->values, out);
    if (status != SLUICE_OK || out->time <= range->at)
        return status;
    uint64_t newest = out->version;
    version_release(out);
    return cold_by_time(self->cold, self->group, merge->cold_key, range->at, newest, range->values, out);
}

enum sluice_status versions_list(struct versions *self, const struct versions_range *range, versions_visit visit,
                                 void *arg)
{
    struct merge merge;
    bool in_hot, in_cold, more = true;
    enum sluice_status status = merge_begin(&merge, self, range->prefix, range->after);
    if (status != SLUICE_OK)
        return status;
    while (more && merge_current(&merge, &in_hot, &in_cold)) {
        struct version version;
        bool owned;
        status = list_pick(&merge, range, in_hot, in_cold, &version, &owned);
        if (status == SLUICE_OK) {
            if (range->tombstones || !(version.flags & VERSION_TOMBSTONE))
                more = visit(arg, &version);
            if (owned)
                version_release(&version);
        } else if (status != SLUICE_NOT_FOUND) {
            break;
        }
        status = SLUICE_OK;
        merge_advance(&merge, in_hot, in_cold);
    }
    return merge_end(&merge, status);
}

enum sluice_status versions_count(struct versions *self, struct slice prefix, uint64_t limit, uint64_t *out)
{
    struct merge merge;
    bool in_hot, in_cold;
    uint64_t count = 0;
    char inside[KEY_BYTES_MAX + 1];
    if (prefix.size > KEY_BYTES_MAX)
        return SLUICE_INVALID;
    /* A pool holds what lies below its prefix and a slash; the root holds all. */
    struct slice bytes = {inside, prefix.size == 0 ? 0 : prefix.size + 1};
    if (prefix.size > 0)
        memcpy(inside, prefix.data, prefix.size);
    inside[prefix.size] = '/';
    enum sluice_status status = merge_begin(&merge, self, bytes, (struct slice){0});
    if (status != SLUICE_OK)
        return status;
    while (status == SLUICE_OK && count < limit && merge_current(&merge, &in_hot, &in_cold)) {
        uint64_t below = in_hot ? merge.hot->first : UINT64_MAX;
        if (in_hot)
            count += merge.hot->count;
        if (in_cold) {
            uint64_t cold = 0;
            status = cold_keys_count(merge.cold, below, limit > count ? limit - count : 0, &cold);
            count += cold;
        }
        merge_advance(&merge, in_hot, false);
    }
    *out = count < limit ? count : limit;
    return merge_end(&merge, status);
}

static bool hot_history(const struct hot_object *object, const struct versions_span *span, versions_visit visit,
                        void *arg)
{
    uint64_t first = object->first + (span->time_from == 0 ? 0 : hot_count_until(object, span->time_from - 1));
    uint64_t last = object->first + hot_count_until(object, span->time_to) - 1;
    if (first < span->version_from)
        first = span->version_from;
    if (last > span->version_to)
        last = span->version_to;
    for (uint64_t step = 0; first <= last && step <= last - first; step++) {
        struct version version;
        hot_view(object, span->descending ? last - step : first + step, span->values, &version);
        if (!visit(arg, &version))
            return false;
    }
    return true;
}

enum sluice_status versions_history(struct versions *self, struct slice key, const struct versions_span *span,
                                    versions_visit visit, void *arg)
{
    struct hot_object *object = hot_find(&self->hot, key);
    bool more = true;
    if (span->descending && object != NULL)
        more = hot_history(object, span, visit, arg);
    bool cold = look_below(self, object) && (object == NULL || span->version_from < object->first);
    if (more && cold) {
        struct versions_span below = *span;
        if (object != NULL && below.version_to >= object->first)
            below.version_to = object->first - 1;
        enum sluice_status status = cold_history(self->cold, self->group, key, &below, visit, arg, &more);
        if (status != SLUICE_OK)
            return status;
    }
    if (more && !span->descending && object != NULL)
        hot_history(object, span, visit, arg);
    return SLUICE_OK;
}

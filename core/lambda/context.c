/* What a lambda sees of the store while one of its callbacks runs. Everything it is given lives until the callback
 * returns. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "api/wire.h"
#include "core/base/text.h"
#include "core/lambda/lambda__.h"

static int code_of(enum sluice_status status)
{
    switch (status) {
    case SLUICE_OK:
        return 0;
    case SLUICE_NOT_FOUND:
    case SLUICE_DELETED:
        return SLUICE_LAMBDA_NOT_FOUND;
    case SLUICE_GONE:
    case SLUICE_EPOCH_LOST:
        return SLUICE_LAMBDA_GONE;
    case SLUICE_INVALID:
    case SLUICE_FORBIDDEN:
    case SLUICE_METHOD_NOT_ALLOWED:
    case SLUICE_TRIGGER_POOL:
    case SLUICE_TOO_LARGE:
        return SLUICE_LAMBDA_INVALID;
    case SLUICE_DEADLINE:
        return SLUICE_LAMBDA_DEADLINE;
    case SLUICE_MEMORY:
        return SLUICE_LAMBDA_MEMORY;
    default:
        return SLUICE_LAMBDA_UNAVAILABLE;
    }
}

/* Drops the leading slash that the store ignores. False for what is no key. */
static bool key_good(const char **key, size_t *size)
{
    if (*key == NULL)
        return false;
    if (**key == '/')
        ++*key;
    *size = strlen(*key);
    return text_key_error(*key, *size) == NULL;
}

static void release(struct sluice_context *self, void *owner)
{
    if (owner != NULL)
        self->host->options.env.release(self->host->options.env.arg, owner);
}

/* Makes the lambda's view of what the env gave, and takes over its owner. */
static int adopt(struct sluice_context *self, const struct lambda_object *in, struct sluice_lambda_object *out)
{
    const void *value = in->value;
    struct lambda__owned *owned = NULL;
    char *key = lambda__arena_text(&self->arena, in->key, in->key_size);
    char *content_type = lambda__arena_text(&self->arena, in->content_type, in->content_type_size);
    if (key == NULL || content_type == NULL)
        goto fail;
    if (in->owner != NULL) {
        owned = lambda__arena_take(&self->arena, sizeof(*owned));
        if (owned == NULL)
            goto fail;
        *owned = (struct lambda__owned){.next = self->owned, .owner = in->owner};
        self->owned = owned;
    } else if (value != NULL) {
        void *copy = lambda__arena_take(&self->arena, in->value_size);
        if (copy == NULL)
            goto fail;
        memcpy(copy, value, in->value_size);
        value = copy;
    }
    *out = (struct sluice_lambda_object){
        .key = key,
        .content_type = content_type,
        .value = value,
        .size = in->value_size,
        .version = in->version,
        .revision = in->revision,
        .time_ns = in->time,
        .object_time_ns = in->object_time,
        .shard = in->shard,
        .deleted = in->deleted,
    };
    return 0;

fail:
    release(self, in->owner);
    return SLUICE_LAMBDA_MEMORY;
}

static int read_one(struct sluice_context *self, const char *key, uint64_t version, uint64_t at,
                    struct sluice_lambda_object *out)
{
    memset(out, 0, sizeof(*out));
    size_t size;
    if (!key_good(&key, &size))
        return SLUICE_LAMBDA_INVALID;
    /* The event's own object is the newest one of its key then, and it is here. */
    const struct sluice_lambda_object *own = &self->event->object;
    if (strcmp(key, own->key) == 0 && (version == 0 ? at == own->time_ns : version == own->version)) {
        *out = *own;
        return own->deleted ? SLUICE_LAMBDA_NOT_FOUND : 0;
    }
    if (!lambda__env_enter(self->host))
        return SLUICE_LAMBDA_UNAVAILABLE;
    const struct lambda_env *env = &self->host->options.env;
    struct lambda_call call = self->call;
    struct lambda_object object = {0};
    call.at = at;
    int result = code_of(env->get(env->arg, &call, key, size, version, &object));
    if (result == 0 && version != 0 && object.time > at) {
        release(self, object.owner);
        result = SLUICE_LAMBDA_NOT_FOUND;
    } else if (result == 0) {
        result = adopt(self, &object, out);
    }
    lambda__env_leave(self->host);
    return result == 0 && out->deleted ? SLUICE_LAMBDA_NOT_FOUND : result;
}

static int context_get(struct sluice_context *self, const char *key, struct sluice_lambda_object *out)
{
    return read_one(self, key, 0, self->call.at, out);
}

static int context_get_version(struct sluice_context *self, const char *key, uint64_t version,
                               struct sluice_lambda_object *out)
{
    if (version == 0) {
        memset(out, 0, sizeof(*out));
        return SLUICE_LAMBDA_NOT_FOUND;
    }
    return read_one(self, key, version, self->call.at, out);
}

static int context_get_at(struct sluice_context *self, const char *key, uint64_t time_ns,
                          struct sluice_lambda_object *out)
{
    if (time_ns > self->call.at) {
        memset(out, 0, sizeof(*out));
        return SLUICE_LAMBDA_INVALID;
    }
    return read_one(self, key, 0, time_ns, out);
}

/* What the env finds is gathered first and shown to the lambda when the env is done: a visitor may read on, and user
 * code never runs on a thread of the env's. */
struct found {
    struct found *next;
    struct sluice_lambda_object object;
};
struct gathering {
    struct sluice_context *context;
    struct found *first, *last;
    int result;
};

static bool gather(void *arg, const struct lambda_object *object)
{
    struct gathering *self = arg;
    struct sluice_context *context = self->context;
    struct found *found = lambda__arena_take(&context->arena, sizeof(*found));
    if (found == NULL || context->arena.bytes > LAMBDA_RUN_BYTES_MAX) {
        release(context, object->owner);
        self->result = SLUICE_LAMBDA_MEMORY;
        return false;
    }
    found->next = NULL;
    self->result = adopt(context, object, &found->object);
    if (self->result != 0)
        return false;
    if (self->last != NULL)
        self->last->next = found;
    else
        self->first = found;
    self->last = found;
    return true;
}

static int show(const struct gathering *self, enum sluice_status status, sluice_visit visit, void *arg)
{
    if (self->result != 0 || status != SLUICE_OK)
        return self->result != 0 ? self->result : code_of(status);
    for (const struct found *found = self->first; found != NULL && visit(arg, &found->object) == 0;)
        found = found->next;
    return 0;
}

static int context_list(struct sluice_context *self, const char *prefix, sluice_visit visit, void *arg)
{
    if (prefix == NULL || visit == NULL || strlen(prefix) > KEY_BYTES_MAX)
        return SLUICE_LAMBDA_INVALID;
    if (*prefix == '/')
        prefix++;
    if (!lambda__env_enter(self->host))
        return SLUICE_LAMBDA_UNAVAILABLE;
    const struct lambda_env *env = &self->host->options.env;
    struct gathering gathering = {.context = self};
    enum sluice_status status = env->list(env->arg, &self->call, prefix, strlen(prefix), gather, &gathering);
    lambda__env_leave(self->host);
    return show(&gathering, status, visit, arg);
}

static int context_history(struct sluice_context *self, const char *key, uint32_t limit, int with_values,
                           sluice_visit visit, void *arg)
{
    size_t size;
    if (visit == NULL || !key_good(&key, &size))
        return SLUICE_LAMBDA_INVALID;
    if (limit == 0)
        return 0;
    if (!lambda__env_enter(self->host))
        return SLUICE_LAMBDA_UNAVAILABLE;
    const struct lambda_env *env = &self->host->options.env;
    struct gathering gathering = {.context = self};
    enum sluice_status status =
        env->history(env->arg, &self->call, key, size, limit, with_values != 0, gather, &gathering);
    lambda__env_leave(self->host);
    return show(&gathering, status, visit, arg);
}

static int context_snapshot(struct sluice_context *self, const char *const *keys, size_t count, sluice_visit visit,
                            void *arg)
{
    if (visit == NULL || (count > 0 && keys == NULL) || count > WIRE_OPERATIONS_MAX)
        return SLUICE_LAMBDA_INVALID;
    if (count == 0)
        return 0;
    const char **names = lambda__arena_take(&self->arena, count * sizeof(*names));
    size_t *sizes = lambda__arena_take(&self->arena, count * sizeof(*sizes));
    if (names == NULL || sizes == NULL)
        return SLUICE_LAMBDA_MEMORY;
    for (size_t i = 0; i < count; i++) {
        names[i] = keys[i];
        if (!key_good(&names[i], &sizes[i]))
            return SLUICE_LAMBDA_INVALID;
    }
    if (!lambda__env_enter(self->host))
        return SLUICE_LAMBDA_UNAVAILABLE;
    const struct lambda_env *env = &self->host->options.env;
    struct gathering gathering = {.context = self};
    enum sluice_status status = env->snapshot(env->arg, &self->call, names, sizes, count, gather, &gathering);
    lambda__env_leave(self->host);
    return show(&gathering, status, visit, arg);
}

static int effect_add(struct sluice_context *self, const char *key, const void *value, uint64_t value_size,
                      const char *content_type, bool removes, bool triggers)
{
    struct lambda__outbox *outbox = &self->outbox;
    size_t key_size, type_size;
    if (!key_good(&key, &key_size) || text_prefix_holds("_sluice", 7, key, key_size) ||
        (value == NULL && value_size > 0) || value_size > WIRE_VALUE_BYTES_MAX)
        return SLUICE_LAMBDA_INVALID;
    if (content_type == NULL)
        content_type = removes ? "" : "application/octet-stream";
    type_size = strlen(content_type);
    if (type_size > WIRE_CONTENT_TYPE_BYTES_MAX || outbox->count == LAMBDA_EFFECTS_MAX)
        return SLUICE_LAMBDA_INVALID;
    if (outbox->arena.bytes + value_size > LAMBDA_RUN_BYTES_MAX)
        return SLUICE_LAMBDA_MEMORY;

    struct lambda__effect *effect = lambda__arena_take(&outbox->arena, sizeof(*effect));
    char *own_key = lambda__arena_text(&outbox->arena, key, key_size);
    char *own_type = lambda__arena_text(&outbox->arena, content_type, type_size);
    void *own_value = lambda__arena_take(&outbox->arena, value_size);
    if (effect == NULL || own_key == NULL || own_type == NULL || own_value == NULL)
        return SLUICE_LAMBDA_MEMORY;
    if (value_size > 0)
        memcpy(own_value, value, value_size);
    *effect = (struct lambda__effect){.remove = removes,
                                      .trigger = triggers,
                                      .key_size = key_size,
                                      .content_type_size = type_size,
                                      .value_size = value_size,
                                      .key = own_key,
                                      .content_type = own_type,
                                      .value = own_value};
    if (outbox->last != NULL)
        outbox->last->next = effect;
    else
        outbox->first = effect;
    outbox->last = effect;
    outbox->count++;
    return 0;
}

static int context_put(struct sluice_context *self, const char *key, const void *value, uint64_t size,
                       const char *content_type)
{
    return effect_add(self, key, value, size, content_type, false, false);
}

static int context_remove(struct sluice_context *self, const char *key)
{
    return effect_add(self, key, NULL, 0, NULL, true, false);
}

static int context_trigger(struct sluice_context *self, const char *key, const void *value, uint64_t size,
                           const char *content_type)
{
    return effect_add(self, key, value, size, content_type, false, true);
}

static void context_log(struct sluice_context *self, const char *format, ...)
{
    va_list arguments;
    va_start(arguments, format);
    lambda__vprint(self->feed->lambda->slot, format, arguments);
    va_end(arguments);
}

static void context_counter(struct sluice_context *self, const char *name, int64_t delta)
{
    lambda__count(self->feed->lambda->slot, name, delta);
}

static void context_fail(struct sluice_context *self, const char *format, ...)
{
    va_list arguments;
    va_start(arguments, format);
    vsnprintf(self->error, sizeof(self->error), format, arguments);
    va_end(arguments);
}

const struct sluice_host lambda__host_interface = {
    .abi = SLUICE_LAMBDA_ABI,
    .size = sizeof(struct sluice_host),
    .get = context_get,
    .get_version = context_get_version,
    .get_at = context_get_at,
    .list = context_list,
    .history = context_history,
    .snapshot = context_snapshot,
    .put = context_put,
    .remove = context_remove,
    .trigger = context_trigger,
    .log = context_log,
    .counter = context_counter,
    .fail = context_fail,
};

void lambda__context_free(struct sluice_context *self)
{
    while (self->owned != NULL) {
        /* Nobody may be asked any more once the env is closed; the process is ending then. */
        if (lambda__env_enter(self->host)) {
            release(self, self->owned->owner);
            lambda__env_leave(self->host);
        }
        self->owned = self->owned->next;
    }
    lambda__arena_free(&self->arena);
    lambda__arena_free(&self->outbox.arena);
}

#include "host.h"

#include <criterion/criterion.h>
#include <dlfcn.h>
#include <fnmatch.h>
#include <jpeglib.h>
#include <limits.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#define VERSIONS_MAX 512

struct stored {
    char key[64];
    unsigned char *value;
    size_t size;
    uint64_t version, time;
    bool deleted;
};

struct stage {
    struct sluice_host host;
    void *handle, *state;
    void (*shutdown)(void *);
    int kind;
    char pattern[128];
    sluice_callback callback;
    void *closure;
    struct stored versions[VERSIONS_MAX];
    size_t count;
    struct stored effects[16]; /* of the run */
    size_t effect_count;
    struct {
        char name[64];
        long value;
    } counters[32];
    char line[512];
    int read_result;
    unsigned reads_fail;
};

static char words[512];

static struct stage *of(const struct sluice_context *context)
{
    return (struct stage *)(uintptr_t)context;
}

static int host_watch(const struct sluice_host *host, int kind, const char *pattern, sluice_callback callback,
                      void *closure)
{
    struct stage *self = host->self;
    cr_assert_eq(self->kind, 0, "one watch");
    self->kind = kind;
    snprintf(self->pattern, sizeof(self->pattern), "%s", pattern);
    self->callback = callback;
    self->closure = closure;
    return 0;
}

static void host_error(const struct sluice_host *host, const char *format, ...)
{
    (void)host;
    va_list arguments;
    va_start(arguments, format);
    vsnprintf(words, sizeof(words), format, arguments);
    va_end(arguments);
}

static void context_say(struct sluice_context *context, const char *format, ...)
{
    va_list arguments;
    va_start(arguments, format);
    vsnprintf(of(context)->line, sizeof(of(context)->line), format, arguments);
    va_end(arguments);
}

static const struct stored *find(const struct stage *self, const char *key, uint64_t version)
{
    const struct stored *found = NULL;
    for (size_t i = 0; i < self->count; i++)
        if (strcmp(self->versions[i].key, key) == 0 && (version == 0 || self->versions[i].version == version))
            found = &self->versions[i];
    return found;
}

static void view(const struct stored *stored, struct sluice_lambda_object *out)
{
    *out = (struct sluice_lambda_object){.key = stored->key,
                                         .content_type = "",
                                         .value = stored->value,
                                         .size = stored->size,
                                         .version = stored->version,
                                         .revision = stored->time,
                                         .time_ns = stored->time,
                                         .object_time_ns = stored->time,
                                         .shard = 1,
                                         .deleted = stored->deleted};
}

static int context_get_version(struct sluice_context *context, const char *key, uint64_t version,
                               struct sluice_lambda_object *out)
{
    struct stage *self = of(context);
    memset(out, 0, sizeof(*out));
    if (self->reads_fail > 0) {
        self->reads_fail--;
        return self->read_result;
    }
    const struct stored *found = find(self, key, version);
    if (found == NULL)
        return SLUICE_LAMBDA_NOT_FOUND;
    view(found, out);
    return found->deleted ? SLUICE_LAMBDA_NOT_FOUND : 0;
}

static int effect(struct stage *self, const char *key, const void *value, size_t size, bool deleted)
{
    cr_assert_lt(self->effect_count, 16u);
    struct stored *effect = &self->effects[self->effect_count++];
    *effect = (struct stored){.size = size, .deleted = deleted, .value = malloc(size + 1)};
    snprintf(effect->key, sizeof(effect->key), "%s", key);
    if (size > 0)
        memcpy(effect->value, value, size);
    effect->value[size] = '\0';
    return 0;
}

static int context_put(struct sluice_context *context, const char *key, const void *value, uint64_t size,
                       const char *content_type)
{
    cr_assert_not_null(content_type);
    return effect(of(context), key, value, size, false);
}

static int context_remove(struct sluice_context *context, const char *key)
{
    return effect(of(context), key, NULL, 0, true);
}

static void context_counter(struct sluice_context *context, const char *name, int64_t delta)
{
    struct stage *self = of(context);
    for (int i = 0; i < 32; i++) {
        if (self->counters[i].name[0] == '\0')
            snprintf(self->counters[i].name, sizeof(self->counters[i].name), "%s", name);
        if (strcmp(self->counters[i].name, name) == 0) {
            self->counters[i].value += delta;
            return;
        }
    }
}

struct stage *stage_open(const char *name, const char *config)
{
    char program[PATH_MAX - 256], path[PATH_MAX];
    ssize_t size = readlink("/proc/self/exe", program, sizeof(program) - 1);
    cr_assert_gt(size, 0);
    program[size] = '\0';
    *strrchr(program, '/') = '\0';
    snprintf(path, sizeof(path), "%s/../lambdas/%s.so", program, name);
    struct stage *self = calloc(1, sizeof(*self));
    self->handle = dlopen(path, RTLD_NOW | RTLD_LOCAL);
    cr_assert_not_null(self->handle, "%s", dlerror());
    int (*initialize)(const struct sluice_host *, const char *, void **) = NULL;
    *(void **)&initialize = dlsym(self->handle, "sluice_lambda_initialize");
    *(void **)&self->shutdown = dlsym(self->handle, "sluice_lambda_shutdown");
    self->host = (struct sluice_host){.abi = SLUICE_LAMBDA_ABI,
                                      .size = sizeof(self->host),
                                      .self = self,
                                      .watch = host_watch,
                                      .error = host_error,
                                      .get_version = context_get_version,
                                      .put = context_put,
                                      .remove = context_remove,
                                      .log = context_say,
                                      .fail = context_say,
                                      .counter = context_counter};
    words[0] = '\0';
    if (initialize(&self->host, config, &self->state) == 0)
        return self;
    dlclose(self->handle);
    free(self);
    return NULL;
}

const char *stage_error(void)
{
    return words;
}

void stage_close(struct stage *self)
{
    if (self->shutdown != NULL)
        self->shutdown(self->state);
    for (size_t i = 0; i < self->count; i++)
        free(self->versions[i].value);
    dlclose(self->handle);
    free(self);
}

static struct stored *store(struct stage *self, const char *key, unsigned char *value, size_t size, bool deleted)
{
    cr_assert_lt(self->count, (size_t)VERSIONS_MAX);
    const struct stored *before = find(self, key, 0);
    struct stored *fresh = &self->versions[self->count++];
    *fresh = (struct stored){.value = value,
                             .size = size,
                             .version = before == NULL ? 1 : before->version + 1,
                             .time = 1000 + self->count,
                             .deleted = deleted};
    snprintf(fresh->key, sizeof(fresh->key), "%s", key);
    return fresh;
}

static bool watches(const struct stage *self, const char *key)
{
    switch (self->kind) {
    case SLUICE_KEY:
        return strcmp(key, self->pattern) == 0;
    case SLUICE_PREFIX:
        return strncmp(key, self->pattern, strlen(self->pattern)) == 0;
    default: /* fnmatch's star passes slashes, which these tests do not depend on */
        return fnmatch(self->pattern, key, 0) == 0;
    }
}

int stage_put(struct stage *self, const char *key, const void *value, size_t size)
{
    /* A block of its own size, so that reading beyond it is seen. */
    unsigned char *copy = malloc(size == 0 ? 1 : size);
    if (size > 0)
        memcpy(copy, value, size);
    const struct stored *stored = store(self, key, copy, size, value == NULL);
    if (!watches(self, key))
        return 0;
    struct sluice_event event = {.size = sizeof(event), .attempt = 1};
    view(stored, &event.object);
    int result = self->callback((struct sluice_context *)(void *)self, &event, self->closure);
    for (size_t i = 0; i < self->effect_count; i++) {
        struct stored *each = &self->effects[i];
        if (result == 0)
            store(self, each->key, each->value, each->size, each->deleted);
        else
            free(each->value);
    }
    self->effect_count = 0;
    return result;
}

const char *stage_get(struct stage *self, const char *key, size_t *size, uint64_t *version)
{
    const struct stored *found = find(self, key, 0);
    if (found == NULL || found->deleted)
        return NULL;
    *size = found->size;
    *version = found->version;
    return (const char *)found->value;
}

bool stage_deleted(struct stage *self, const char *key)
{
    const struct stored *found = find(self, key, 0);
    return found != NULL && found->deleted;
}

long stage_counter(struct stage *self, const char *name)
{
    for (int i = 0; i < 32; i++)
        if (strcmp(self->counters[i].name, name) == 0)
            return self->counters[i].value;
    return 0;
}

const char *stage_line(struct stage *self)
{
    return self->line;
}

void stage_reads_fail(struct stage *self, int result, unsigned times)
{
    self->read_result = result;
    self->reads_fail = times;
}

unsigned char *picture(unsigned width, unsigned height, unsigned x, unsigned y, unsigned square, unsigned noise,
                       unsigned long *bytes)
{
    static uint32_t random = 1;
    struct jpeg_compress_struct info;
    struct jpeg_error_mgr errors;
    unsigned char *out = NULL, *row = malloc(3ul * width);
    *bytes = 0;
    info.err = jpeg_std_error(&errors);
    jpeg_create_compress(&info);
    jpeg_mem_dest(&info, &out, bytes);
    info.image_width = width;
    info.image_height = height;
    info.input_components = 3;
    info.in_color_space = JCS_RGB;
    jpeg_set_defaults(&info);
    jpeg_set_quality(&info, 85, TRUE);
    jpeg_start_compress(&info, TRUE);
    for (unsigned line = 0; line < height; line++) {
        for (unsigned column = 0; column < width; column++) {
            int level = line >= y && line < y + square && column >= x && column < x + square ? 230 : 90;
            random = random * 1664525u + 1013904223u;
            if (noise > 0)
                level += (int)((random >> 16) % (2 * noise + 1)) - (int)noise;
            memset(row + 3ul * column, level < 0 ? 0 : level > 255 ? 255 : level, 3);
        }
        JSAMPROW rows[1] = {row};
        jpeg_write_scanlines(&info, rows, 1);
    }
    jpeg_finish_compress(&info);
    jpeg_destroy_compress(&info);
    free(row);
    return out;
}

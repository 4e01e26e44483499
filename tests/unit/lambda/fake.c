#include "fake.h"

#include <criterion/criterion.h>
#include <dirent.h>
#include <fcntl.h>
#include <jansson.h>
#include <limits.h>
#include <openssl/sha.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "core/base/log.h"

/* The program of the tests is also what the host executes to try an upload. */
__attribute__((constructor)) static void be_the_check(int argc, char **argv)
{
    if (argc > 1 && strcmp(argv[1], "--lambda-check") == 0)
        _exit(lambda_check_main(argc, argv));
}

struct fake *fake_create(void)
{
    struct fake *self = calloc(1, sizeof(*self));
    self->writes = calloc(FAKE_WRITES_MAX, sizeof(*self->writes));
    pthread_mutex_init(&self->lock, NULL);
    self->failure = SLUICE_UNAVAILABLE;
    log_set_level(LOG_LEVEL_WARN);
    self->random = 88172645463325252u;
    for (int i = 1; i < 8; i++)
        snprintf(self->files[i], sizeof(self->files[i]), "%s", fixture("call_back"));
    return self;
}

static char directory[PATH_MAX];

void fake_destroy(struct fake *self)
{
    cr_assert_eq(atomic_load(&self->owners), 0, "%d objects were not given back", atomic_load(&self->owners));
    if (directory[0] != '\0') {
        DIR *open = opendir(directory);
        for (struct dirent *entry; (entry = readdir(open)) != NULL;)
            cr_assert_eq(entry->d_name[0], '.', "%s was left behind", entry->d_name);
        closedir(open);
        rmdir(directory);
    }
    pthread_mutex_destroy(&self->lock);
    free(self->writes);
    free(self);
}

struct owner {
    char text[256];
};

static void give(struct fake *self, const struct fake_object *from, bool with_value, struct lambda_object *out)
{
    struct owner *owner = calloc(1, sizeof(*owner));
    snprintf(owner->text, sizeof(owner->text), "%s%s", from->key, from->value);
    size_t key_size = strlen(from->key);
    *out = (struct lambda_object){
        .key = owner->text,
        .key_size = key_size,
        .content_type = "text/plain",
        .content_type_size = 10,
        .value = with_value ? owner->text + key_size : NULL,
        .value_size = strlen(from->value),
        .version = from->version,
        .revision = from->version,
        .time = from->time,
        .object_time = from->time,
        .shard = 1,
        .deleted = from->deleted,
        .owner = owner,
    };
    atomic_fetch_add(&self->owners, 1);
}

static void env_release(void *arg, void *owner)
{
    struct fake *self = arg;
    atomic_fetch_sub(&self->owners, 1);
    free(owner);
}

static const struct fake_object *find(const struct fake *self, const char *key, size_t size, uint64_t version,
                                      uint64_t at)
{
    const struct fake_object *found = NULL;
    for (size_t i = 0; i < self->object_count; i++) {
        const struct fake_object *each = &self->objects[i];
        if (strlen(each->key) == size && memcmp(each->key, key, size) == 0 &&
            (version != 0 ? each->version == version : each->time <= at) &&
            (found == NULL || each->version > found->version))
            found = each;
    }
    return found;
}

static enum sluice_status env_get(void *arg, const struct lambda_call *call, const char *key, size_t key_size,
                                  uint64_t version, struct lambda_object *out)
{
    struct fake *self = arg;
    atomic_fetch_add(&self->reads, 1);
    cr_assert_gt(call->deadline_ns, 0u);
    pthread_mutex_lock(&self->lock);
    const struct fake_object *found = find(self, key, key_size, version, call->at);
    if (found != NULL)
        give(self, found, true, out);
    pthread_mutex_unlock(&self->lock);
    return found == NULL ? SLUICE_NOT_FOUND : SLUICE_OK;
}

static enum sluice_status env_list(void *arg, const struct lambda_call *call, const char *prefix, size_t prefix_size,
                                   lambda_visit visit, void *visit_arg)
{
    struct fake *self = arg;
    for (size_t i = 0; i < self->object_count; i++) {
        const struct fake_object *each = &self->objects[i];
        if (strncmp(each->key, prefix, prefix_size) != 0 || each->deleted ||
            find(self, each->key, strlen(each->key), 0, call->at) != each)
            continue;
        struct lambda_object object;
        give(self, each, false, &object);
        if (!visit(visit_arg, &object))
            break;
    }
    return SLUICE_OK;
}

static enum sluice_status env_history(void *arg, const struct lambda_call *call, const char *key, size_t key_size,
                                      uint32_t limit, bool values, lambda_visit visit, void *visit_arg)
{
    struct fake *self = arg;
    const struct fake_object *latest = find(self, key, key_size, 0, call->at);
    for (uint64_t version = latest == NULL ? 0 : latest->version; version > 0 && limit > 0; version--, limit--) {
        const struct fake_object *each = find(self, key, key_size, version, 0);
        if (each == NULL)
            break;
        struct lambda_object object;
        give(self, each, values, &object);
        if (!visit(visit_arg, &object))
            break;
    }
    return SLUICE_OK;
}

static enum sluice_status env_snapshot(void *arg, const struct lambda_call *call, const char *const *keys,
                                       const size_t *key_sizes, size_t count, lambda_visit visit, void *visit_arg)
{
    struct fake *self = arg;
    for (size_t i = 0; i < count; i++) {
        const struct fake_object *found = find(self, keys[i], key_sizes[i], 0, call->at);
        struct lambda_object object = {.key = keys[i], .key_size = key_sizes[i], .content_type = ""};
        /* Without an owner the host must copy: this one is gone when the visit returns. */
        char value[64] = "";
        if (found != NULL) {
            snprintf(value, sizeof(value), "%s", found->value);
            object.value = value;
            object.value_size = strlen(value);
            object.version = found->version;
            object.time = found->time;
        }
        bool more = visit(visit_arg, &object);
        memset(value, 'x', sizeof(value));
        if (!more)
            break;
    }
    return SLUICE_OK;
}

static bool chance(struct fake *self)
{
    self->random ^= self->random << 13;
    self->random ^= self->random >> 7;
    self->random ^= self->random << 17;
    return self->random % 1000000 < self->fail_per_million;
}

static void apply(struct fake *self, const struct lambda_write *write)
{
    for (size_t i = self->write_count; i > 0; i--) {
        struct fake_write *each = &self->writes[i - 1];
        if (each->client == write->client && each->sequence == write->sequence) {
            each->times++;
            cr_assert(strlen(each->key) == write->key_size && memcmp(each->key, write->key, write->key_size) == 0,
                      "the same sequence for another key");
            return;
        }
    }
    cr_assert_lt(self->write_count, (size_t)FAKE_WRITES_MAX);
    struct fake_write *fresh = &self->writes[self->write_count++];
    *fresh = (struct fake_write){.client = write->client,
                                 .sequence = write->sequence,
                                 .watermark = write->watermark,
                                 .ns = clock_monotonic_ns(),
                                 .times = 1,
                                 .remove = write->remove,
                                 .trigger = write->trigger};
    snprintf(fresh->key, sizeof(fresh->key), "%.*s", (int)write->key_size, write->key);
    snprintf(fresh->value, sizeof(fresh->value), "%.*s", (int)write->value_size, (const char *)write->value);
}

static enum sluice_status env_write(void *arg, const struct lambda_call *call, const struct lambda_write *write)
{
    struct fake *self = arg;
    (void)call;
    cr_assert_geq(write->sequence, write->watermark, "a watermark above what may still be sent");
    enum sluice_status status = SLUICE_OK;
    pthread_mutex_lock(&self->lock);
    bool fails = chance(self);
    bool applied_all_the_same = fails && self->random % 3 == 0;
    if (!fails && atomic_load(&self->unavailable) > 0) {
        atomic_fetch_sub(&self->unavailable, 1);
        fails = true;
        applied_all_the_same = self->write_applies;
    }
    if (self->refused_key[0] != '\0' && strncmp(self->refused_key, write->key, write->key_size) == 0)
        status = self->refused_status;
    else if (fails)
        status = applied_all_the_same ? SLUICE_OUTCOME_UNKNOWN : self->failure;
    if (status == SLUICE_OK || applied_all_the_same)
        apply(self, write);
    pthread_mutex_unlock(&self->lock);
    return status;
}

static enum sluice_status env_cursor(void *arg, const char *lambda, uint32_t shard, uint64_t epoch, uint64_t revision)
{
    struct fake *self = arg;
    (void)lambda;
    (void)epoch;
    if (atomic_load(&self->no_cursor))
        return SLUICE_UNAVAILABLE;
    pthread_mutex_lock(&self->lock);
    self->cursor_calls++;
    if (revision > self->cursors[shard % 64])
        self->cursors[shard % 64] = revision;
    pthread_mutex_unlock(&self->lock);
    if (self->on_cursor != NULL)
        self->on_cursor(self->on_cursor_arg, shard, revision);
    return SLUICE_OK;
}

struct buf *fixture_read(const char *path)
{
    int fd = open(path, O_RDONLY | O_CLOEXEC);
    cr_assert(fd >= 0, "%s is not there", path);
    struct stat facts;
    fstat(fd, &facts);
    struct buf *file = buf_create((uint32_t)facts.st_size);
    cr_assert_eq(read(fd, file->data, file->size), (ssize_t)file->size);
    close(fd);
    return file;
}

static enum sluice_status env_fetch(void *arg, const char *name, uint64_t version, struct lambda_object *out)
{
    struct fake *self = arg;
    (void)name;
    if (self->files[version % 8][0] == '\0')
        return SLUICE_NOT_FOUND;
    struct buf *file = fixture_read(self->files[version % 8]);
    void *copy = malloc(file->size);
    memcpy(copy, file->data, file->size);
    *out = (struct lambda_object){.value = copy, .value_size = file->size, .version = version, .owner = copy};
    buf_unref(file);
    atomic_fetch_add(&self->owners, 1);
    return SLUICE_OK;
}

static void env_room(void *arg, uint64_t tag)
{
    struct fake *self = arg;
    (void)tag;
    atomic_fetch_add(&self->rooms, 1);
}

static void env_changed(void *arg)
{
    struct fake *self = arg;
    atomic_fetch_add(&self->changes, 1);
}

struct lambda_env fake_env(struct fake *self)
{
    return (struct lambda_env){.arg = self,
                               .get = env_get,
                               .list = env_list,
                               .history = env_history,
                               .snapshot = env_snapshot,
                               .write = env_write,
                               .cursor = env_cursor,
                               .fetch = env_fetch,
                               .release = env_release,
                               .room = env_room,
                               .changed = env_changed};
}

struct lambda_host_options fake_options(struct fake *self)
{
    snprintf(directory, sizeof(directory), "/tmp/sluice-lambda-test.XXXXXX");
    cr_assert_not_null(mkdtemp(directory));
    return (struct lambda_host_options){.env = fake_env(self),
                                        .directory = directory,
                                        .allow_inprocess = true,
                                        .workers = 4,
                                        .retry_first_ns = 2 * NS_PER_MS,
                                        .cursor_ns = 5 * NS_PER_MS};
}

size_t fake_write_count(struct fake *self)
{
    pthread_mutex_lock(&self->lock);
    size_t count = self->write_count;
    pthread_mutex_unlock(&self->lock);
    return count;
}

struct fake_write fake_write_at(struct fake *self, size_t index)
{
    pthread_mutex_lock(&self->lock);
    cr_assert_lt(index, self->write_count);
    struct fake_write write = self->writes[index];
    pthread_mutex_unlock(&self->lock);
    return write;
}

uint64_t fake_cursor(struct fake *self, uint32_t shard)
{
    pthread_mutex_lock(&self->lock);
    uint64_t cursor = self->cursors[shard % 64];
    pthread_mutex_unlock(&self->lock);
    return cursor;
}

unsigned fake_cursor_calls(struct fake *self)
{
    pthread_mutex_lock(&self->lock);
    unsigned calls = self->cursor_calls;
    pthread_mutex_unlock(&self->lock);
    return calls;
}

void fake_object_add(struct fake *self, const char *key, uint64_t version, uint64_t time, const char *value)
{
    struct fake_object *fresh = &self->objects[self->object_count++];
    *fresh = (struct fake_object){.version = version, .time = time, .deleted = value == NULL};
    snprintf(fresh->key, sizeof(fresh->key), "%s", key);
    snprintf(fresh->value, sizeof(fresh->value), "%s", value == NULL ? "" : value);
}

const char *fixture(const char *name)
{
    static char paths[8][PATH_MAX];
    static unsigned turn;
    char *path = paths[turn++ % 8];
    char program[PATH_MAX - 64];
    ssize_t size = readlink("/proc/self/exe", program, sizeof(program) - 1);
    cr_assert_gt(size, 0);
    program[size] = '\0';
    *strrchr(program, '/') = '\0';
    snprintf(path, PATH_MAX, "%s/unit/lambda/fixtures/%s.so", program, name);
    return path;
}

void fixture_sha256(const char *path, char out[65])
{
    struct buf *file = fixture_read(path);
    uint8_t digest[SHA256_DIGEST_LENGTH];
    SHA256(file->data, file->size, digest);
    for (size_t i = 0; i < sizeof(digest); i++)
        snprintf(out + 2 * i, 3, "%02x", digest[i]);
    buf_unref(file);
}

struct map *fake_map(struct fake *self, const struct fake_lambda *lambdas, size_t count)
{
    struct map *map = calloc(1, sizeof(*map));
    map->lambdas = calloc(count + 1, sizeof(*map->lambdas));
    map->lambda_count = count;
    for (size_t i = 0; i < count; i++) {
        struct map_lambda *each = &map->lambdas[i];
        each->name = strdup(lambdas[i].name);
        each->version = lambdas[i].version;
        each->enabled = !lambdas[i].disabled;
        cr_assert(asprintf(&each->config, "[%d,\"%s\",\"%p\",\"%p\"]", lambdas[i].kind, lambdas[i].pattern,
                           (void *)lambdas[i].callback, lambdas[i].closure) > 0);
        each->watches = calloc(1, sizeof(*each->watches));
        each->watches[0].kind = lambdas[i].kind;
        each->watches[0].pattern = strdup(lambdas[i].pattern);
        each->watch_count = 1;
        if (self->files[each->version % 8][0] != '\0')
            fixture_sha256(self->files[each->version % 8], each->sha256);
    }
    return map;
}

void fake_map_free(struct map *map)
{
    for (size_t i = 0; i < map->lambda_count; i++) {
        free(map->lambdas[i].name);
        free(map->lambdas[i].config);
        free(map->lambdas[i].watches[0].pattern);
        free(map->lambdas[i].watches);
    }
    free(map->lambdas);
    free(map);
}

struct search {
    const char *name;
    struct lambda *found;
};

static void match_name(void *arg, struct lambda *lambda)
{
    struct search *search = arg;
    if (strcmp(lambda_name(lambda), search->name) == 0)
        search->found = lambda_ref(lambda);
}

struct lambda *fake_lambda(struct lambda_host *host, const char *name)
{
    struct search search = {.name = name};
    lambda_host_each(host, match_name, &search);
    return search.found;
}

static bool all_active(struct lambda_host *host, const struct fake_lambda *lambdas, size_t count)
{
    for (size_t i = 0; i < count; i++) {
        struct lambda *found = fake_lambda(host, lambdas[i].name);
        bool active = found != NULL && lambda_version(found) == lambdas[i].version;
        lambda_unref(found);
        if (!active)
            return false;
    }
    return true;
}

void fake_load(struct lambda_host *host, struct fake *self, const struct fake_lambda *lambdas, size_t count)
{
    struct map *map = fake_map(self, lambdas, count);
    cr_assert_eq(lambda_host_apply_map(host, map), SLUICE_OK);
    fake_map_free(map);
    EVENTUALLY(all_active(host, lambdas, count), "the lambdas should become active: %s",
               lambda_host_status(host, NULL));
}

bool fake_offer(struct lambda_feed *feed, const char *key, uint64_t revision, uint32_t operation, const char *value)
{
    uint32_t size = (uint32_t)strlen(value);
    struct buf *body = buf_dup(value, size + 1); /* callbacks of the tests read it as text */
    const struct version version = {.key = key,
                                    .key_size = (uint32_t)strlen(key),
                                    .content_type = "text/plain",
                                    .content_type_size = 10,
                                    .value = body->data,
                                    .value_size = size,
                                    .version = revision,
                                    .revision = revision,
                                    .time = revision * 10,
                                    .object_time = revision * 10,
                                    .operation = operation,
                                    .owner = body};
    bool taken = lambda_feed_offer(feed, &version);
    buf_unref(body);
    return taken;
}

static json_t *status_of(struct lambda_host *host, const char *name)
{
    char *text = lambda_host_status(host, name);
    json_t *list = json_loads(text, 0, NULL);
    cr_assert(json_is_array(list), "%s", text);
    free(text);
    return list;
}

long fake_status(struct lambda_host *host, const char *name, const char *field)
{
    json_t *list = status_of(host, name), *value = json_object_get(json_array_get(list, 0), field);
    long number = json_is_integer(value) ? (long)json_integer_value(value) : -1;
    json_decref(list);
    return number;
}

bool fake_status_says(struct lambda_host *host, const char *name, const char *words)
{
    char *text = lambda_host_status(host, name);
    bool says = strstr(text, words) != NULL;
    free(text);
    return says;
}

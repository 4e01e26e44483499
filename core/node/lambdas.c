/* Lambdas on this node: which shards feed which of them, uploads that are tried, logs that are followed. */
#include <semaphore.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "core/node/lambda_env.h"

enum sluice_status lambdas__create(struct node *self, char *error, size_t error_size)
{
    struct node__lambdas *lambdas = calloc(1, sizeof(*lambdas));
    if (lambdas == NULL)
        return SLUICE_MEMORY;
    lambdas->node = self;
    lambdas->closed = true;
    self->lambdas = lambdas;
    (void)error;
    (void)error_size;
    return SLUICE_OK;
}

enum sluice_status lambdas__start(struct node *self)
{
    struct node__lambdas *lambdas = self->lambdas;
    char error[256] = "";
    const char *addresses[NODE_ADDRESSES_MAX] = {0};
    size_t count = 0;
    while (count < NODE_ADDRESSES_MAX && fabric_listen_address(self->fabric, (unsigned)count) != NULL) {
        addresses[count] = fabric_listen_address(self->fabric, (unsigned)count);
        count++;
    }
    const struct sluice_tls tls = {self->options.tls_ca, self->options.tls_certificate, self->options.tls_key};
    enum sluice_status status = inner_create(addresses, count, &tls, &lambdas->inner);
    if (status != SLUICE_OK)
        return status;
    char *directory = data__path(self, "lambdas");
    const struct lambda_host_options options = {
        .env = lambda_env__make(lambdas),
        .directory = directory,
        .allow_inprocess = self->options.allow_inprocess,
        .workers = self->options.lambda_workers,
    };
    status = directory == NULL ? SLUICE_MEMORY : lambda_host_create(&options, &lambdas->host, error, sizeof(error));
    free(directory);
    if (status != SLUICE_OK) {
        LOG_ERROR("node", "lambdas cannot be hosted: %s", error);
        return status;
    }
    lambdas->closed = false;
    /* A map that was recovered from disk has not been shown to the lambda host yet. */
    if (node__map(self) != NULL)
        lambdas__map_changed(self);
    return SLUICE_OK;
}

/* ---- Feeds ---- */

static bool feed_match(void *arg, const char *key, size_t size)
{
    const struct node__feed *feed = arg;
    return lambda_match(feed->lambda, key, size);
}

static bool feed_offer(void *arg, const struct version *version, uint64_t epoch)
{
    const struct node__feed *feed = arg;
    (void)epoch;
    return lambda_feed_offer(feed->sink, version);
}

static void feed_passed(void *arg, uint64_t revision)
{
    const struct node__feed *feed = arg;
    lambda_feed_passed(feed->sink, revision);
}

static void feed_free(struct node__feed *feed)
{
    host_feed_stop(feed->source);
    lambda_feed_stop(feed->sink);
    lambda_unref(feed->lambda);
    free(feed);
}

/* Events begin where the shard's cursor stands, or with the lambda's registration where it has none. */
static enum sluice_status first_revision(struct node *node, const struct node__led *led, const char *name,
                                         uint64_t *out)
{
    const struct map_lambda *entry = map_lambda_find(node__map(node), name);
    uint64_t cursor = host_cursor(node->host, led->group, name), registered = 1;
    struct versions *versions = host_group_versions(node->host, led->group);
    if (entry == NULL || versions == NULL)
        return SLUICE_NOT_FOUND;
    enum sluice_status status = versions_revision_after(versions, entry->registered_ns, &registered);
    if (status != SLUICE_OK)
        return status;
    *out = cursor + 1 > registered ? cursor + 1 : registered;
    return SLUICE_OK;
}

static void feed_make(struct node__lambdas *self, struct lambda *lambda, const struct node__led *led)
{
    struct node *node = self->node;
    uint64_t from = 1;
    struct node__feed *feed = calloc(1, sizeof(*feed));
    enum sluice_status status = feed == NULL ? SLUICE_MEMORY : first_revision(node, led, lambda_name(lambda), &from);
    if (status != SLUICE_OK)
        goto fail;
    feed->lambda = lambda_ref(lambda);
    feed->group = led->group;
    feed->epoch = led->epoch;
    status =
        lambda_feed_start(self->host, lambda, led->group, led->epoch, from, (uint64_t)(uintptr_t)feed, &feed->sink);
    if (status != SLUICE_OK)
        goto fail_after_ref;
    const struct host_feed_options options = {
        .group = led->group,
        .epoch = led->epoch,
        .from = from,
        .match = feed_match,
        .offer = feed_offer,
        .passed = feed_passed,
        .arg = feed,
    };
    status = host_feed_start(node->host, &options, &feed->source);
    if (status != SLUICE_OK)
        goto fail_after_sink;
    feed->next = self->feeds;
    self->feeds = feed;
    return;

fail_after_sink:
    lambda_feed_stop(feed->sink);
fail_after_ref:
    lambda_unref(feed->lambda);
fail:
    free(feed);
    LOG_WARN("node", "lambda %s is not fed from shard %u: %s", lambda_name(lambda), led->group,
             sluice_status_text(status));
}

static const struct node__led *led_find(const struct node__lambdas *self, uint32_t group, uint64_t epoch)
{
    for (size_t i = 0; i < self->led_count; i++)
        if (self->led[i].group == group && self->led[i].epoch == epoch)
            return &self->led[i];
    return NULL;
}

static void feed_where_missing(void *arg, struct lambda *lambda)
{
    struct node__lambdas *self = arg;
    if (!lambda_active(lambda))
        return;
    for (size_t i = 0; i < self->led_count; i++) {
        const struct node__feed *feed = self->feeds;
        while (feed != NULL &&
               (feed->lambda != lambda || feed->group != self->led[i].group || feed->epoch != self->led[i].epoch))
            feed = feed->next;
        if (feed == NULL)
            feed_make(self, lambda, &self->led[i]);
    }
}

/* Makes the feeds what they should be: one for each active lambda on each shard that is led here. */
static void sync_feeds(struct node__lambdas *self)
{
    struct node__feed **at = &self->feeds;
    while (*at != NULL) {
        struct node__feed *feed = *at;
        if (lambda_active(feed->lambda) && led_find(self, feed->group, feed->epoch) != NULL) {
            at = &feed->next;
        } else {
            *at = feed->next;
            feed_free(feed);
        }
    }
    if (!self->closed)
        lambda_host_each(self->host, feed_where_missing, self);
}

void lambdas__role(void *arg, uint32_t group, uint64_t epoch, bool leading)
{
    struct node *node = arg;
    struct node__lambdas *self = node->lambdas;
    if (self == NULL || group == MAP_GROUP)
        return; /* the map group holds no objects */
    if (leading) {
        if (self->led_count == self->led_capacity) {
            size_t capacity = self->led_capacity == 0 ? 16 : self->led_capacity * 2;
            struct node__led *grown = realloc(self->led, capacity * sizeof(*grown));
            if (grown == NULL) {
                node__fail(node, SLUICE_MEMORY, "no memory to note a shard that is led here");
                return;
            }
            self->led = grown;
            self->led_capacity = capacity;
        }
        self->led[self->led_count++] = (struct node__led){.group = group, .epoch = epoch};
        /* The host is in the midst of a step; feeds begin at the round's end. */
        atomic_store(&self->changed, true);
        return;
    }
    for (size_t i = 0; i < self->led_count; i++)
        if (self->led[i].group == group)
            self->led[i--] = self->led[--self->led_count];
    struct node__feed **at = &self->feeds;
    while (*at != NULL) {
        struct node__feed *feed = *at;
        if (feed->group == group) {
            *at = feed->next;
            feed_free(feed);
        } else {
            at = &feed->next;
        }
    }
}

void lambdas__round(struct node *node)
{
    struct node__lambdas *self = node->lambdas;
    if (self->closed)
        return;
    /* Workers that find this stale ask whether the node still leads before they send anything. */
    lambda_host_alive(self->host);
    if (atomic_exchange(&self->changed, false))
        sync_feeds(self);
    if (atomic_exchange(&self->room, false))
        for (struct node__feed *feed = self->feeds; feed != NULL; feed = feed->next)
            host_feed_kick(feed->source);
}

void lambdas__map_changed(struct node *node)
{
    struct node__lambdas *self = node->lambdas;
    if (self->closed)
        return;
    enum sluice_status status = lambda_host_apply_map(self->host, node__map(node));
    if (status != SLUICE_OK)
        LOG_WARN("node", "the lambdas of the new map cannot be loaded: %s", sluice_status_text(status));
    atomic_store(&self->changed, true);
}

/* ---- Uploads that are tried ---- */

static void check_answer(struct node *node, void *arg)
{
    struct node__check *check = arg;
    struct node__check **at = &node->lambdas->checks;
    while (*at != NULL && *at != check)
        at = &(*at)->next;
    if (*at == check)
        *at = check->next;
    if (check->link != NULL)
        host_reply(node->host, check->link, &check->header, check->status, 0, check->text,
                   check->text == NULL ? 0 : strlen(check->text));
    free(check->text);
    free(check);
}

static void checked(void *arg, enum sluice_status status, const char *text)
{
    struct node__check *check = arg;
    check->status = status;
    check->text = text == NULL ? NULL : strdup(text);
    while (!node__post(check->node, check_answer, check))
        usleep(1000);
}

static void start_check(struct node *node, struct fabric_link *link, const struct wire_header *header,
                        const uint8_t *body)
{
    struct node__lambdas *self = node->lambdas;
    uint32_t config_size = 0;
    static const char malformed[] = "an upload is a 4-byte size, the configuration, and the shared object";
    if (header->body_size < 4 || (memcpy(&config_size, body, 4), config_size > header->body_size - 4)) {
        host_reply(node->host, link, header, SLUICE_INVALID, 0, malformed, sizeof(malformed) - 1);
        return;
    }
    if (!node->options.allow_inprocess) {
        static const char text[] = "this node runs no lambdas in its process, and this release has no other isolation; "
                                   "start it with allow-inprocess = yes";
        host_reply(node->host, link, header, SLUICE_UNPROCESSABLE, 0, text, sizeof(text) - 1);
        return;
    }
    struct node__check *check = calloc(1, sizeof(*check));
    struct buf *file = buf_dup(body + 4 + config_size, header->body_size - 4 - config_size);
    enum sluice_status status = SLUICE_MEMORY;
    if (check != NULL && file != NULL) {
        *check = (struct node__check){.node = node, .link = link, .header = *header, .next = self->checks};
        self->checks = check;
        status = lambda_host_check(self->host, file, (const char *)body + 4, config_size, checked, check);
        if (status != SLUICE_OK)
            self->checks = check->next;
    }
    buf_unref(file);
    if (status == SLUICE_OK)
        return;
    free(check);
    const char *text = sluice_status_text(status);
    host_reply(node->host, link, header, status, 0, text, strlen(text));
}

/* ---- Logs that are followed ---- */

struct line {
    uint64_t tail;
    uint64_t time;
    size_t size;
    char text[];
};

static void send_line(struct node *node, void *arg)
{
    struct line *line = arg;
    struct node__tail *tail = node->lambdas->tails;
    while (tail != NULL && tail->number != line->tail)
        tail = tail->next;
    if (tail != NULL) {
        const struct wire_header header = {.magic = WIRE_MAGIC,
                                           .version = WIRE_VERSION,
                                           .type = WIRE_EVENT,
                                           .body_size = (uint32_t)line->size,
                                           .request_id = tail->request_id,
                                           .time = line->time,
                                           .node = node->options.id};
        const struct slice parts[2] = {{&header, sizeof(header)}, {line->text, line->size}};
        links__send_client(node, tail->link, parts, 2, NULL, 0, 0);
    }
    free(line);
}

/* Any thread. A line that finds no room is dropped: the log is for people. */
static void on_line(void *arg, uint64_t number, uint64_t time_ns, const char *text, size_t size)
{
    const struct node__tail *tail = arg;
    struct line *line = malloc(sizeof(*line) + size);
    (void)number;
    if (line == NULL)
        return;
    *line = (struct line){.tail = tail->number, .time = time_ns, .size = size};
    memcpy(line->text, text, size);
    if (!node__post(tail->node, send_line, line))
        free(line);
}

static void start_tail(struct node *node, struct fabric_link *link, const struct wire_header *header, const char *body)
{
    struct node__lambdas *self = node->lambdas;
    char name[LAMBDA_NAME_BYTES_MAX + 1];
    struct node__tail *tail = calloc(1, sizeof(*tail));
    snprintf(name, sizeof(name), "%.*s", (int)(header->body_size < sizeof(name) ? header->body_size : sizeof(name) - 1),
             body);
    enum sluice_status status = SLUICE_MEMORY;
    if (tail != NULL) {
        *tail = (struct node__tail){
            .node = node, .link = link, .request_id = header->request_id, .number = ++self->tails_made};
        status = lambda_host_log_subscribe(self->host, name, on_line, tail, &tail->subscription);
    }
    if (status == SLUICE_OK) {
        tail->next = self->tails;
        self->tails = tail;
        return;
    }
    free(tail);
    const char *text = status == SLUICE_NOT_FOUND ? "there is no such lambda on this node" : sluice_status_text(status);
    host_reply(node->host, link, header, status, 0, text, strlen(text));
}

static void drop_tails(struct node__lambdas *self, const struct fabric_link *link, uint64_t request_id)
{
    struct node__tail **at = &self->tails;
    while (*at != NULL) {
        struct node__tail *tail = *at;
        if ((link == NULL || tail->link == link) && (request_id == 0 || tail->request_id == request_id)) {
            *at = tail->next;
            lambda_log_unsubscribe(tail->subscription);
            free(tail);
        } else {
            at = &tail->next;
        }
    }
}

/* ---- Requests and the end ---- */

void lambdas__request(struct node *node, struct fabric_link *link, const struct wire_header *header, const void *body)
{
    struct node__lambdas *self = node->lambdas;
    if (self->closed) {
        static const char text[] = "the node is starting or stopping; try again";
        host_reply(node->host, link, header, SLUICE_UNAVAILABLE, 0, text, sizeof(text) - 1);
        return;
    }
    if (header->type == WIRE_LAMBDA_CHECK) {
        start_check(node, link, header, body);
    } else if (header->type == WIRE_LAMBDA_LOG) {
        start_tail(node, link, header, body);
    } else {
        char name[LAMBDA_NAME_BYTES_MAX + 1];
        snprintf(name, sizeof(name), "%.*s",
                 (int)(header->body_size < sizeof(name) ? header->body_size : sizeof(name) - 1),
                 header->body_size == 0 ? "" : (const char *)body);
        char *text = lambda_host_status(self->host, header->body_size == 0 ? NULL : name);
        host_reply(node->host, link, header, text == NULL ? SLUICE_MEMORY : SLUICE_OK, 0, text,
                   text == NULL ? 0 : strlen(text));
        free(text);
    }
}

void lambdas__link_down(struct node *node, struct fabric_link *link)
{
    for (struct node__check *check = node->lambdas->checks; check != NULL; check = check->next)
        if (check->link == link)
            check->link = NULL;
    drop_tails(node->lambdas, link, 0);
}

void lambdas__cancel(struct node *node, struct fabric_link *link, uint64_t request_id)
{
    drop_tails(node->lambdas, link, request_id);
}

static void close_all(struct node *node, void *arg)
{
    struct node__lambdas *self = node->lambdas;
    self->closed = true;
    self->led_count = 0;
    sync_feeds(self);
    drop_tails(self, NULL, 0);
    if (arg != NULL)
        sem_post(arg);
}

void lambdas__stop(struct node *node)
{
    struct node__lambdas *self = node->lambdas;
    if (self == NULL || self->inner == NULL)
        return;
    sem_t done;
    sem_init(&done, 0, 0);
    /* Feeds are the reactor's; where it is gone already they are ours. */
    bool posted = node->thread_started && node__post(node, close_all, &done);
    while (posted && !atomic_load(&node->gone)) {
        struct timespec limit;
        clock_gettime(CLOCK_REALTIME, &limit);
        limit.tv_nsec += 50 * 1000 * 1000;
        limit.tv_sec += limit.tv_nsec / 1000000000;
        limit.tv_nsec %= 1000000000;
        if (sem_timedwait(&done, &limit) == 0)
            break;
    }
    if (!self->closed && (!node->thread_started || atomic_load(&node->gone)))
        close_all(node, NULL);
    if (self->host != NULL)
        lambda_host_destroy(self->host);
    self->host = NULL;
    inner_destroy(self->inner);
    self->inner = NULL;
    sem_destroy(&done);
}

void lambdas__destroy(struct node *node)
{
    struct node__lambdas *self = node->lambdas;
    if (self == NULL)
        return;
    while (self->checks != NULL) {
        struct node__check *next = self->checks->next;
        free(self->checks->text);
        free(self->checks);
        self->checks = next;
    }
    free(self->led);
    free(self);
    node->lambdas = NULL;
}

/* A fabric: its descriptors, its lists of links, and the loop that visits them. */
#include "core/rdma/fabric.h"

#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/eventfd.h>
#include <sys/mman.h>
#include <sys/timerfd.h>
#include <time.h>
#include <unistd.h>

#include "core/base/clock.h"
#include "core/base/log.h"
#include "core/base/panic.h"
#include "core/rdma/fabric__provider.h"

#define MESSAGE_BYTES_MAX_DEFAULT  (65u << 20)
#define PENDING_BYTES_MAX_DEFAULT  (UINT64_C(256) << 20)
#define CONNECT_TIMEOUT_MS_DEFAULT 2000u
#define ACCEPTS_PER_POLL           64
#define SHAKE_NS_PER_POLL          (5 * NS_PER_MS) /* leases must not wait for a crowd of newcomers */
#define ACCEPT_RETRY_NS            (100 * NS_PER_MS)
#define GREETING_MAX               1024u /* strangers that say nothing hold at most so many descriptors */
#define LOG_LINES_MAX              10u
#define LOG_WINDOW_NS              (10 * NS_PER_S)

static const struct fabric__provider *const providers[] = {&fabric__shm_provider, &fabric__tcp_provider};

static const struct fabric__provider *provider_of(const char *address, const char **rest)
{
    for (size_t i = 0; i < sizeof(providers) / sizeof(providers[0]); i++) {
        size_t size = strlen(providers[i]->scheme);
        if (strncmp(address, providers[i]->scheme, size) == 0) {
            *rest = address + size;
            return providers[i];
        }
    }
    return NULL;
}

/* --- create and destroy --- */

static enum sluice_status read_options(struct fabric *self, const struct fabric_options *options)
{
    if (options->size < offsetof(struct fabric_options, ring_bytes) || options->size > 4096)
        return SLUICE_INVALID;
    struct fabric_options *own = &self->options;
    own->spin_ns = UINT32_MAX;
    memcpy(own, options, options->size < sizeof(*own) ? options->size : sizeof(*own));
    (void)fabric__tls_ref(own->tls);
    if (own->identity.role != FABRIC_ROLE_NODE && own->identity.role != FABRIC_ROLE_CLIENT)
        return SLUICE_INVALID;
    if (own->ring_bytes != 0 && !ring__size_valid(own->ring_bytes))
        return SLUICE_INVALID;
    if (own->message_bytes_max == 0)
        own->message_bytes_max = MESSAGE_BYTES_MAX_DEFAULT;
    if (own->pending_bytes_max == 0)
        own->pending_bytes_max = PENDING_BYTES_MAX_DEFAULT;
    if (own->connect_timeout_ms == 0)
        own->connect_timeout_ms = CONNECT_TIMEOUT_MS_DEFAULT;
    return SLUICE_OK;
}

static enum sluice_status bell_create(struct fabric *self)
{
    self->attended = calloc(FABRIC__BELL_WORDS, sizeof(*self->attended));
    if (!self->attended)
        return SLUICE_MEMORY;
    self->bell_fd = ring__sealed_create("sluice-bell", FABRIC__BELL_BYTES);
    if (self->bell_fd < 0)
        return SLUICE_MEMORY;
    void *memory = mmap(NULL, FABRIC__BELL_BYTES, PROT_READ | PROT_WRITE, MAP_SHARED, self->bell_fd, 0);
    if (memory == MAP_FAILED)
        return SLUICE_MEMORY;
    (void)madvise(memory, FABRIC__BELL_BYTES, MADV_DONTFORK);
    self->bell = memory;
    return SLUICE_OK;
}

static void give_back(struct fabric *self)
{
    fabric__wait_destroy(self);
    if (self->bell)
        (void)munmap(self->bell, FABRIC__BELL_BYTES);
    if (self->bell_fd >= 0)
        (void)close(self->bell_fd);
    free(self->attended);
    free(self->slots);
    free(self->staging);
    fabric_tls_destroy(self->options.tls);
    free(self);
}

enum sluice_status fabric_create(const struct fabric_options *options, struct fabric **out)
{
    struct fabric *self = calloc(1, sizeof(*self));
    if (!self)
        return SLUICE_MEMORY;
    fabric__list_init(&self->links);
    fabric__list_init(&self->active);
    fabric__list_init(&self->dirty);
    fabric__list_init(&self->timed);
    fabric__list_init(&self->dead);
    fabric__list_init(&self->regions);
    self->bell_fd = self->epoll_fd = self->wake_fd = self->timer_fd = -1;
    enum sluice_status status = read_options(self, options);
    if (status == SLUICE_OK)
        status = bell_create(self);
    if (status == SLUICE_OK)
        status = fabric__wait_create(self);
    if (status != SLUICE_OK) {
        give_back(self);
        return status;
    }
    *out = self;
    return SLUICE_OK;
}

void fabric_destroy(struct fabric *self)
{
    if (!self)
        return;
    ASSERT(!self->in_poll);
    while (!fabric__list_empty(&self->links))
        fabric_link_close(FABRIC__LINK_OF(self->links.next, all));
    while (self->listeners) {
        struct fabric__listener *listener = self->listeners;
        self->listeners = listener->next;
        listener->provider->unlisten(listener);
        free(listener);
    }
    while (!fabric__list_empty(&self->regions))
        fabric_region_destroy(
            (struct fabric_region *)(void *)((char *)self->regions.next - offsetof(struct fabric_region, all)));
    fabric__shm_provider.discard(self);
    fabric__tcp_provider.discard(self);
    give_back(self);
}

/* --- listening --- */

enum sluice_status fabric_listen(struct fabric *self, const char *address, char *error, size_t error_size)
{
    const char *rest;
    const struct fabric__provider *provider = provider_of(address, &rest);
    if (!provider) {
        (void)snprintf(error, error_size, "expected an address like shm:NAME or tcp:HOST:PORT, got \"%s\"", address);
        return SLUICE_INVALID;
    }
    struct fabric__listener *listener = calloc(1, sizeof(*listener));
    if (!listener) {
        (void)snprintf(error, error_size, "out of memory");
        return SLUICE_MEMORY;
    }
    *listener = (struct fabric__listener){.fabric = self, .provider = provider, .fd = -1};
    listener->source = (struct fabric__source){SOURCE_LISTENER, listener};
    enum sluice_status status = provider->listen(listener, rest, error, error_size);
    if (status != SLUICE_OK)
        goto fail;
    /* Edge-triggered, so that a process out of descriptors does not spin on a connection that it can't accept. */
    status = fabric__epoll_add(self, listener->fd, EPOLLIN | EPOLLET, &listener->source);
    if (status != SLUICE_OK) {
        (void)snprintf(error, error_size,
                       "the kernel refuses to watch a further socket: raise fs.epoll.max_user_watches");
        goto fail_after_listen;
    }
    struct fabric__listener **last = &self->listeners;
    while (*last)
        last = &(*last)->next;
    *last = listener;
    return SLUICE_OK;

fail_after_listen:
    provider->unlisten(listener);
fail:
    free(listener);
    return status;
}

const char *fabric_listen_address(const struct fabric *self, unsigned index)
{
    const struct fabric__listener *listener = self->listeners;
    while (listener && index-- > 0)
        listener = listener->next;
    return listener ? listener->address : NULL;
}

static void accept_waiting(struct fabric *self)
{
    self->listener_ready = false;
    for (struct fabric__listener *listener = self->listeners; listener; listener = listener->next) {
        for (int i = 0; listener->ready; i++) {
            enum sluice_status status = SLUICE_MEMORY;
            if (i == ACCEPTS_PER_POLL) {
                self->listener_ready = true;
                break;
            }
            if (self->greeting < GREETING_MAX)
                status = listener->provider->accept(listener);
            if (status == SLUICE_OK)
                continue;
            listener->ready = false;
            if (status == SLUICE_AGAIN)
                continue;
            fabric__complain(self, "%s: can't accept now, trying again: %s", listener->address,
                             self->greeting < GREETING_MAX ? sluice_status_text(status)
                                                           : "too many handshakes are under way");
            listener->retry = true;
            fabric__timer_at(self, clock_monotonic_ns() + ACCEPT_RETRY_NS);
        }
    }
}

/* --- links --- */

struct fabric_link *fabric__link_create(struct fabric *self, const struct fabric__provider *provider, bool accepted)
{
    struct fabric_link *link = calloc(1, sizeof(*link));
    if (!link)
        return NULL;
    link->fabric = self;
    link->provider = provider;
    link->accepted = accepted;
    link->fd = -1;
    link->ring.fd = -1;
    link->source = (struct fabric__source){SOURCE_SOCKET, link};
    fabric__list_init(&link->all);
    fabric__list_init(&link->active);
    fabric__list_init(&link->dirty);
    fabric__list_init(&link->timed);
    provider->init(link);
    fabric__list_push(&self->links, &link->all);
    if (accepted)
        self->greeting++;
    fabric__set_state(link, accepted ? LINK__HELLO : LINK__OPENING);
    link->deadline = clock_monotonic_ns() + self->options.connect_timeout_ms * NS_PER_MS;
    fabric__set_timer(link, link->deadline);
    return link;
}

enum sluice_status fabric_connect(struct fabric *self, const char *address, void *context, struct fabric_link **out)
{
    const char *rest;
    const struct fabric__provider *provider = provider_of(address, &rest);
    if (!provider)
        return SLUICE_INVALID;
    struct fabric_link *link = fabric__link_create(self, provider, false);
    if (!link)
        return SLUICE_MEMORY;
    link->context = context;
    (void)snprintf(link->name, sizeof(link->name), "%s", address);
    enum sluice_status status = provider->connect(link, rest);
    if (status != SLUICE_OK) {
        fabric_link_close(link);
        return status;
    }
    *out = link;
    return SLUICE_OK;
}

static bool is_urgent(const struct fabric_link *link)
{
    if (link->state >= LINK__ENDING)
        return false;
    return link->provider->asks_kernel || link->state != LINK__UP;
}

void fabric__set_state(struct fabric_link *link, enum fabric__state state)
{
    struct fabric *self = link->fabric;
    link->state = state;
    bool urgent = is_urgent(link);
    if (urgent != link->urgent) {
        self->urgent += urgent ? 1u : -1u;
        link->urgent = urgent;
    }
    if (state >= LINK__UP && link->accepted && !link->greeted) {
        link->greeted = true;
        self->greeting--;
    }
    if (state >= LINK__ENDING)
        fabric__set_timer(link, 0);
}

void fabric__activate(struct fabric_link *link)
{
    if (fabric__list_empty(&link->active)) {
        fabric__list_push(&link->fabric->active, &link->active);
        link->fabric->active_count++;
    }
}

void fabric__deactivate(struct fabric_link *link)
{
    if (!fabric__list_empty(&link->active)) {
        fabric__list_remove(&link->active);
        link->fabric->active_count--;
    }
}

void fabric__fail(struct fabric_link *link, enum fabric_down reason, const char *format, ...)
{
    if (link->state >= LINK__ENDING)
        return;
    va_list args;
    va_start(args, format);
    (void)vsnprintf(link->text, sizeof(link->text), format, args);
    va_end(args);
    link->reason = link->state < LINK__ANSWERED ? FABRIC_DOWN_REFUSED : reason;
    if (link->accepted && !link->reported_up)
        fabric__complain(link->fabric, "refused %s: %s", link->name, link->text);
    else if (reason == FABRIC_DOWN_PROTOCOL)
        fabric__complain(link->fabric, "closing the link with %s, which sent what no correct peer sends: %s",
                         link->name, link->text);
    fabric__set_state(link, LINK__ENDING);
    fabric__drop_pending(link);
    fabric__list_remove(&link->dirty);
    link->provider->close(link);
    fabric__activate(link);
}

void fabric__complain(struct fabric *self, const char *format, ...)
{
    uint64_t now = clock_monotonic_ns();
    if (self->log_window == 0 || now - self->log_window > LOG_WINDOW_NS) {
        if (self->log_dropped)
            LOG_WARN("fabric", "%u similar lines were left out", self->log_dropped);
        self->log_window = now;
        self->log_lines = self->log_dropped = 0;
    }
    if (self->log_lines == LOG_LINES_MAX) {
        self->log_dropped++;
        return;
    }
    self->log_lines++;
    char line[512];
    va_list args;
    va_start(args, format);
    (void)vsnprintf(line, sizeof(line), format, args);
    va_end(args);
    LOG_WARN("fabric", "%s", line);
}

/* --- polling --- */

static void reap(struct fabric *self)
{
    while (!fabric__list_empty(&self->dead))
        fabric__link_free(FABRIC__LINK_OF(self->dead.next, all));
}

static bool tick_changed(struct fabric *self)
{
    /* A few milliseconds of the coarse clock, which costs no system call: how often a busy fabric looks at sockets and
     * deaths. */
    struct timespec now;
    (void)clock_gettime(CLOCK_MONOTONIC_COARSE, &now);
    if (self->tick == now.tv_nsec)
        return false;
    self->tick = now.tv_nsec;
    return true;
}

unsigned fabric_poll(struct fabric *self, unsigned budget, fabric_handler handler, void *arg)
{
    ASSERT(!self->in_poll);
    self->in_poll = true;
    self->shake_ns_left = SHAKE_NS_PER_POLL;
    self->handler = handler;
    self->handler_arg = arg;
    self->events = 0;
    bool slept = self->armed;
    fabric__disarm(self);
    if (!self->fresh && (slept || self->urgent || tick_changed(self)))
        (void)fabric__collect(self, 0);
    self->fresh = false;
    if (self->timer_fired)
        fabric__timers_run(self);
    if (self->listener_ready)
        accept_waiting(self);
    fabric__bell_scan(self);
    /* Each link once, from where the last poll stopped: whoever was visited goes to the end of the list. */
    for (unsigned left = self->active_count; left > 0 && self->events < budget && !fabric__list_empty(&self->active);
         left--) {
        struct fabric_link *link = FABRIC__LINK_OF(self->active.next, active);
        fabric__list_push(&self->active, &link->active);
        fabric__link_visit(link, budget);
    }
    fabric_flush(self);
    self->in_poll = false;
    reap(self);
    return self->events;
}

void fabric_flush(struct fabric *self)
{
    while (!fabric__list_empty(&self->dirty)) {
        struct fabric_link *link = FABRIC__LINK_OF(self->dirty.next, dirty);
        fabric__list_remove(&link->dirty);
        link->provider->publish(link);
    }
}

void fabric__link_free(struct fabric_link *link)
{
    fabric__list_remove(&link->all);
    link->provider->release(link);
    ring__reader_deinit(&link->reader);
    ring__memory_close(&link->ring);
    free(link->completions.items);
    free(link);
}

void fabric_link_close(struct fabric_link *link)
{
    struct fabric *self = link->fabric;
    if (link->closed || link->state == LINK__DOWN)
        return;
    link->closed = true;
    if (link->state == LINK__UP)
        link->provider->publish(link);
    if (link->state < LINK__ENDING) {
        fabric__set_state(link, LINK__ENDING);
        link->provider->close(link);
    }
    fabric__bury(link);
    if (!self->in_poll)
        reap(self);
}

void fabric__bury(struct fabric_link *link)
{
    fabric__set_state(link, LINK__DOWN);
    fabric__drop_pending(link);
    fabric__drop_grants(link);
    fabric__deactivate(link);
    fabric__list_remove(&link->dirty);
    fabric__list_push(&link->fabric->dead, &link->all);
}

const struct fabric_identity *fabric_link_peer(const struct fabric_link *link)
{
    return &link->peer;
}
void *fabric_link_context(const struct fabric_link *link)
{
    return link->context;
}
void fabric_link_set_context(struct fabric_link *link, void *context)
{
    link->context = context;
}

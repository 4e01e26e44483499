/* Sleeping and waking. One epoll set holds the eventfd that peers on this host ring, all sockets, proofs of death, one
 * timer and what the caller watches, so that a single sleep serves them all. Before it a bounded spin, which pays when
 * the answer is about to come. */
#include <errno.h>
#include <limits.h>
#include <pthread.h>
#include <sched.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/eventfd.h>
#include <sys/timerfd.h>
#include <time.h>
#include <unistd.h>

#include "core/base/clock.h"
#include "core/base/panic.h"
#include "core/rdma/fabric__provider.h"

#define EVENTS_MAX        64
#define SPIN_NS_MAX       (20 * NS_PER_US)
#define SPIN_CHECKS       32 /* looks at memory between two looks at the clock */
#define SPIN_WATCH_ROUNDS 8
#define SPIN_SKIP_MAX     64u /* waits between two tries of a spin that does not pay */
#define WAKE_ROUNDS       15

static inline void relax(void)
{
#if defined(__x86_64__)
    __builtin_ia32_pause();
#elif defined(__aarch64__)
    __asm__ volatile("yield");
#endif
}

/* --- how long spinning is worth it: about the cost of one wake-up of a thread on another core --- */

static pthread_once_t wake_once = PTHREAD_ONCE_INIT;
static uint32_t wake_ns;

/* Of the machine, whatever we are pinned to: those whom we wait for may run elsewhere. */
static long cores(void)
{
    return sysconf(_SC_NPROCESSORS_ONLN);
}

struct ping {
    int fds[2];
    size_t core;
    uint64_t took[WAKE_ROUNDS];
};

static void settle(size_t core)
{
    cpu_set_t set;
    CPU_ZERO(&set);
    CPU_SET(core, &set);
    (void)sched_setaffinity(0, sizeof(set), &set); /* this thread alone; where it may not, the measurement is a guess */
}

static void *echo(void *arg)
{
    const struct ping *ping = arg;
    uint64_t one;
    settle(ping->core);
    for (int i = 0; i < WAKE_ROUNDS; i++) {
        if (read(ping->fds[0], &one, sizeof(one)) != sizeof(one) ||
            write(ping->fds[1], &one, sizeof(one)) != sizeof(one))
            PANIC("an eventfd of our own: %s", strerror(errno));
    }
    return NULL;
}

static void *call(void *arg)
{
    struct ping *ping = arg;
    struct ping other = *ping;
    pthread_t thread;
    settle(0);
    other.core = 1;
    if (pthread_create(&thread, NULL, echo, &other) != 0)
        return NULL;
    for (int i = 0; i < WAKE_ROUNDS; i++) {
        uint64_t one = 1, start = clock_monotonic_ns();
        if (write(ping->fds[0], &one, sizeof(one)) != sizeof(one) ||
            read(ping->fds[1], &one, sizeof(one)) != sizeof(one))
            PANIC("an eventfd of our own: %s", strerror(errno));
        ping->took[i] = (clock_monotonic_ns() - start) / 2;
    }
    (void)pthread_join(thread, NULL);
    return NULL;
}

static int compare(const void *left, const void *right)
{
    uint64_t a = *(const uint64_t *)left, b = *(const uint64_t *)right;
    return (a > b) - (a < b);
}

static void wake_measure(void)
{
    pthread_t thread;
    struct ping ping = {.fds = {eventfd(0, EFD_CLOEXEC), eventfd(0, EFD_CLOEXEC)}};
    wake_ns = SPIN_NS_MAX;
    if (cores() > 1 && ping.fds[0] >= 0 && ping.fds[1] >= 0 && pthread_create(&thread, NULL, call, &ping) == 0) {
        (void)pthread_join(thread, NULL);
        qsort(ping.took, WAKE_ROUNDS, sizeof(ping.took[0]), compare);
        uint64_t median = ping.took[WAKE_ROUNDS / 2];
        wake_ns = (uint32_t)(median == 0 || median > SPIN_NS_MAX ? SPIN_NS_MAX : median);
    }
    for (int i = 0; i < 2; i++) {
        if (ping.fds[i] >= 0)
            (void)close(ping.fds[i]);
    }
}

static void spin_init(struct fabric *self)
{
    self->spin_adapts = self->options.spin_ns == UINT32_MAX;
    if (self->spin_adapts)
        (void)pthread_once(&wake_once, wake_measure);
    self->spin_ns = self->spin_adapts ? wake_ns : self->options.spin_ns;
    /* Whoever spins on the only core keeps from running whom it waits for. */
    if (cores() < 2)
        self->spin_ns = 0;
}

/* --- the epoll set --- */

enum sluice_status fabric__epoll_add(struct fabric *self, int fd, uint32_t events, struct fabric__source *source)
{
    struct epoll_event event = {.events = events, .data.ptr = source};
    if (epoll_ctl(self->epoll_fd, EPOLL_CTL_ADD, fd, &event) == 0)
        return SLUICE_OK;
    return errno == ENOMEM || errno == ENOSPC ? SLUICE_MEMORY : SLUICE_INVALID;
}

enum sluice_status fabric__wait_create(struct fabric *self)
{
    self->epoll_fd = epoll_create1(EPOLL_CLOEXEC);
    self->wake_fd = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
    self->timer_fd = timerfd_create(CLOCK_BOOTTIME, TFD_CLOEXEC | TFD_NONBLOCK);
    if (self->epoll_fd < 0 || self->wake_fd < 0 || self->timer_fd < 0)
        return SLUICE_IO;
    self->wake_source = (struct fabric__source){SOURCE_BELL, self};
    self->timer_source = (struct fabric__source){SOURCE_TIMER, self};
    self->watch_source = (struct fabric__source){SOURCE_WATCH, self};
    /* Edge-triggered: each ring of the bell wakes, and neither descriptor needs to be read. */
    enum sluice_status status = fabric__epoll_add(self, self->wake_fd, EPOLLIN | EPOLLET, &self->wake_source);
    if (status == SLUICE_OK)
        status = fabric__epoll_add(self, self->timer_fd, EPOLLIN | EPOLLET, &self->timer_source);
    spin_init(self);
    return status;
}

void fabric__wait_destroy(struct fabric *self)
{
    if (self->epoll_fd >= 0)
        (void)close(self->epoll_fd);
    if (self->wake_fd >= 0)
        (void)close(self->wake_fd);
    if (self->timer_fd >= 0)
        (void)close(self->timer_fd);
}

static void mark(struct fabric *self, struct fabric__source *source, uint32_t events)
{
    struct fabric_link *link = source->owner;
    switch (source->kind) {
    case SOURCE_BELL:
    case SOURCE_WATCH:
        return;
    case SOURCE_TIMER:
        self->timer_fired = true;
        self->timer_armed_at = 0;
        return;
    case SOURCE_LISTENER:
        ((struct fabric__listener *)source->owner)->ready = true;
        self->listener_ready = true;
        return;
    case SOURCE_PIDFD:
        link->flags |= LINK__DEAD;
        break;
    case SOURCE_SOCKET:
        if (events & (EPOLLIN | EPOLLRDHUP | EPOLLHUP | EPOLLERR))
            link->flags |= LINK__READABLE;
        if (events & (EPOLLRDHUP | EPOLLHUP | EPOLLERR))
            link->flags |= LINK__HUNG;
        if (events & (EPOLLOUT | EPOLLHUP | EPOLLERR))
            link->flags |= LINK__SENDABLE;
        break;
    }
    fabric__activate(link);
}

/* Nanoseconds where the kernel has them (Linux 5.11), else milliseconds, rounded up. */
static int wait_events(const struct fabric *self, struct epoll_event *events, uint64_t timeout_ns)
{
    if (timeout_ns == 0)
        return epoll_wait(self->epoll_fd, events, EVENTS_MAX, 0);
    struct timespec timeout = {.tv_sec = (time_t)(timeout_ns / NS_PER_S), .tv_nsec = (long)(timeout_ns % NS_PER_S)};
    int count = epoll_pwait2(self->epoll_fd, events, EVENTS_MAX, timeout_ns == UINT64_MAX ? NULL : &timeout, NULL);
    if (count >= 0 || errno != ENOSYS)
        return count;
    uint64_t ms = timeout_ns / NS_PER_MS + (timeout_ns % NS_PER_MS != 0);
    return epoll_wait(self->epoll_fd, events, EVENTS_MAX,
                      timeout_ns == UINT64_MAX ? -1 : (int)(ms < INT_MAX ? ms : INT_MAX));
}

bool fabric__collect(struct fabric *self, uint64_t timeout_ns)
{
    struct epoll_event events[EVENTS_MAX];
    int count = wait_events(self, events, timeout_ns);
    for (int i = 0; i < count; i++)
        mark(self, events[i].data.ptr, events[i].events);
    return count > 0;
}

enum sluice_status fabric_watch(struct fabric *self, int fd)
{
    enum sluice_status status = fabric__epoll_add(self, fd, EPOLLIN, &self->watch_source);
    if (status == SLUICE_OK)
        self->watches++;
    return status;
}

void fabric_unwatch(struct fabric *self, int fd)
{
    if (epoll_ctl(self->epoll_fd, EPOLL_CTL_DEL, fd, NULL) == 0)
        self->watches--;
}

int fabric_fd(const struct fabric *self)
{
    return self->epoll_fd;
}

/* --- timers --- */

void fabric__timer_at(struct fabric *self, uint64_t at)
{
    if (self->timer_armed_at != 0 && self->timer_armed_at <= at)
        return;
    struct itimerspec when = {.it_value = {.tv_sec = (time_t)(at / NS_PER_S), .tv_nsec = (long)(at % NS_PER_S)}};
    if (timerfd_settime(self->timer_fd, TFD_TIMER_ABSTIME, &when, NULL) != 0)
        PANIC("timerfd_settime: %s", strerror(errno));
    self->timer_armed_at = at;
}

void fabric__set_timer(struct fabric_link *link, uint64_t at)
{
    link->timer_at = at;
    if (at == 0) {
        fabric__list_remove(&link->timed);
        return;
    }
    fabric__list_push(&link->fabric->timed, &link->timed);
    fabric__timer_at(link->fabric, at);
}

void fabric__timers_run(struct fabric *self)
{
    self->timer_fired = false;
    uint64_t now = clock_monotonic_ns(), next = UINT64_MAX;
    for (struct fabric__node *node = self->timed.next, *after; node != &self->timed; node = after) {
        struct fabric_link *link = FABRIC__LINK_OF(node, timed);
        after = node->next;
        if (link->timer_at > now) {
            next = link->timer_at < next ? link->timer_at : next;
            continue;
        }
        fabric__set_timer(link, 0);
        link->flags |= LINK__TIMER;
        fabric__activate(link);
    }
    for (struct fabric__listener *listener = self->listeners; listener; listener = listener->next) {
        if (listener->retry)
            listener->ready = self->listener_ready = true;
        listener->retry = false;
    }
    if (next != UINT64_MAX)
        fabric__timer_at(self, next);
}

/* --- sleeping --- */

static bool has_work(const struct fabric *self)
{
    if (self->timer_fired || self->listener_ready || fabric__bell_work(self))
        return true;
    for (const struct fabric__node *node = self->active.next; node != &self->active; node = node->next) {
        if (fabric__link_work(FABRIC__LINK_OF(node, active)))
            return true;
    }
    return false;
}

void fabric__disarm(struct fabric *self)
{
    if (!self->armed)
        return;
    self->armed = false;
    atomic_store_explicit(&self->bell->sleeping, 0, memory_order_relaxed);
}

bool fabric_arm(struct fabric *self)
{
    ASSERT(!self->in_poll);
    fabric_flush(self);
    self->armed = true;
    /* Sequentially consistent, against the same in a sender: it stores its tail and then looks here, we store here and
     * then look at its tail; one of the two sees the other. */
    atomic_store(&self->bell->sleeping, 1);
    if (!has_work(self))
        return true;
    fabric__disarm(self);
    return false;
}

static bool spin(struct fabric *self, uint64_t until)
{
    unsigned round = 0;
    do {
        for (int i = 0; i < SPIN_CHECKS; i++) {
            if (has_work(self))
                return true;
            relax();
        }
        /* Sockets tell only through the kernel; what is watched beside them may wait a little for it. */
        round++;
        bool ask = self->urgent || (self->watches && round % SPIN_WATCH_ROUNDS == 0);
        if (ask && fabric__collect(self, 0)) {
            self->fresh = true;
            return true;
        }
    } while (clock_monotonic_ns() < until);
    return false;
}

/* How long this wait may spin. Where spinning has not paid lately (the other has no core to run on, or takes its time)
 * it is tried ever more seldom; one success brings it back. */
static uint64_t spin_worth(struct fabric *self)
{
    if (!self->spin_adapts)
        return self->spin_ns;
    if (self->spin_skip > 0) {
        self->spin_skip--;
        return 0;
    }
    /* Who was just woken needs one wake-up's time before it can answer. */
    return self->woke_peer ? 2 * (uint64_t)self->spin_ns : self->spin_ns;
}

static void spin_learn(struct fabric *self, bool paid)
{
    self->spin_backoff = paid ? 0 : self->spin_backoff ? 2 * self->spin_backoff : 1;
    if (self->spin_backoff > SPIN_SKIP_MAX)
        self->spin_backoff = SPIN_SKIP_MAX;
    self->spin_skip = self->spin_backoff;
}

void fabric_wait(struct fabric *self, uint64_t timeout_ns)
{
    ASSERT(!self->in_poll);
    fabric_flush(self);
    if (has_work(self))
        return;
    uint64_t spin_ns = spin_worth(self);
    self->woke_peer = false;
    if (spin_ns > timeout_ns)
        spin_ns = timeout_ns;
    bool paid = spin_ns > 0 && spin(self, clock_monotonic_ns() + spin_ns);
    if (spin_ns > 0)
        spin_learn(self, paid);
    if (paid || !fabric_arm(self))
        return;
    (void)fabric__collect(self, timeout_ns > spin_ns ? timeout_ns - spin_ns : 0);
    self->fresh = true;
    fabric__disarm(self);
}

/* The threads that run users' code. As many as there are processors, and more, within bounds, while all of them are
 * held by lambdas that take long and another lambda waits. */
#include <errno.h>

#include "core/base/log.h"
#include "core/lambda/lambda__.h"

/* Takes back one's own announcement of sleep. False: somebody has promised a wake-up for it already. */
static bool sleep_withdraw(struct lambda_host *self)
{
    unsigned sleepers = atomic_load(&self->sleepers);
    while (sleepers > 0)
        if (atomic_compare_exchange_weak(&self->sleepers, &sleepers, sleepers - 1))
            return true;
    return false;
}

void lambda__worker_wake(struct lambda_host *self)
{
    /* Whoever takes a sleeper off the count wakes one: a burst of events does not wake the same thread many times. */
    if (sleep_withdraw(self))
        sem_post(&self->wake);
}

static void wait_wake(sem_t *wake)
{
    while (sem_wait(wake) != 0)
        ASSERT(errno == EINTR);
}

/* Sleeps, with the lock held at both ends. False: nothing came for so long that an additional thread may leave. */
static bool worker_sleep(struct lambda_host *self)
{
    bool woken = true, extra = self->threads - self->threads_stuck > self->options.workers;
    atomic_fetch_add(&self->sleepers, 1);
    bool work = atomic_load(&self->intake) != NULL;
    pthread_mutex_unlock(&self->lock);
    if (!work) {
        struct timespec until;
        clock_gettime(CLOCK_MONOTONIC, &until);
        until.tv_sec += (time_t)(LAMBDA__EXTRA_IDLE_NS / NS_PER_S);
        int result;
        do
            result = extra ? sem_clockwait(&self->wake, CLOCK_MONOTONIC, &until) : sem_wait(&self->wake);
        while (result != 0 && errno == EINTR);
        woken = result == 0;
    }
    if ((work || !woken) && !sleep_withdraw(self)) {
        wait_wake(&self->wake);
        woken = true;
    }
    pthread_mutex_lock(&self->lock);
    return woken;
}

static bool runnable(const struct lambda_host *self)
{
    for (const struct lambda *lambda = self->turn_first; lambda != NULL; lambda = lambda->turn_next)
        if (lambda__may_run(self, lambda))
            return true;
    return false;
}

static void *worker(void *arg)
{
    struct lambda_host *self = arg;
    struct lambda__run run;
    bool woken = true;
    pthread_mutex_lock(&self->lock);
    while (woken || self->threads - self->threads_stuck <= self->options.workers) {
        lambda__intake_drain(self);
        struct lambda__event *event = lambda__pick(self), *garbage = self->garbage;
        self->garbage = NULL;
        if (event != NULL) {
            lambda__run_begin(self, &run, event);
            if (atomic_load(&self->sleepers) > 0 && runnable(self))
                lambda__worker_wake(self);
        }
        if (event != NULL || garbage != NULL) {
            pthread_mutex_unlock(&self->lock);
            lambda__garbage_free(garbage);
            if (event != NULL)
                lambda__run_work(self, &run);
            else
                pthread_mutex_lock(&self->lock);
            continue;
        }
        if (self->stopping)
            break;
        woken = worker_sleep(self);
    }
    self->threads--;
    pthread_cond_broadcast(&self->gone);
    pthread_mutex_unlock(&self->lock);
    return NULL;
}

static enum sluice_status spawn(struct lambda_host *self)
{
    pthread_attr_t attributes;
    pthread_t thread;
    if (pthread_attr_init(&attributes) != 0)
        return SLUICE_MEMORY;
    pthread_attr_setdetachstate(&attributes, PTHREAD_CREATE_DETACHED);
    int failed = pthread_create(&thread, &attributes, worker, self);
    pthread_attr_destroy(&attributes);
    if (failed != 0)
        return SLUICE_MEMORY;
    self->threads++;
    return SLUICE_OK;
}

void lambda__workers_grow(struct lambda_host *self)
{
    unsigned able = self->threads - self->threads_stuck;
    bool wanted = able < self->options.workers;
    if (!wanted && atomic_load(&self->sleepers) == 0 && able < self->options.workers * LAMBDA__GROWTH)
        for (const struct lambda *lambda = self->turn_first; lambda != NULL && !wanted; lambda = lambda->turn_next)
            wanted = lambda->running == 0 && lambda__may_run(self, lambda);
    if (!wanted || self->stopping)
        return;
    if (spawn(self) != SLUICE_OK)
        LOG_WARN("lambda", "no further thread can be had; %u are running", self->threads);
}

enum sluice_status lambda__workers_start(struct lambda_host *self)
{
    enum sluice_status status = SLUICE_OK;
    pthread_mutex_lock(&self->lock);
    while (self->threads < self->options.workers && status == SLUICE_OK)
        status = spawn(self);
    pthread_mutex_unlock(&self->lock);
    return status;
}

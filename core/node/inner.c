#include "core/node/inner.h"

#include <errno.h>
#include <poll.h>
#include <stdatomic.h>
#include <stdlib.h>
#include <sys/prctl.h>

#include "core/base/clock.h"
#include "core/base/queue.h"

#define CALLS_MAX 4096u

struct inner {
    struct sluice_client *client;
    struct queue *calls;
    pthread_t thread;
    atomic_bool stopping;
};

static void sleep_a_while(struct inner *self)
{
    struct pollfd watched[2] = {{.fd = sluice_fd(self->client), .events = POLLIN},
                                {.fd = queue_fd(self->calls), .events = POLLIN}};
    uint64_t timeout = sluice_timeout_ns(self->client);
    struct timespec limit = {.tv_sec = (time_t)(timeout / NS_PER_S), .tv_nsec = (long)(timeout % NS_PER_S)};
    /* The queue is asked last: what was pushed before it announced its sleep is seen here, what comes later rings. */
    if (sluice_arm(self->client) && queue_prepare_sleep(self->calls))
        (void)ppoll(watched, 2, timeout == UINT64_MAX ? NULL : &limit, NULL);
    queue_awake(self->calls);
}

static void *run(void *arg)
{
    struct inner *self = arg;
    prctl(PR_SET_NAME, "inner-client");
    for (;;) {
        struct inner_call *call;
        while ((call = queue_pop(self->calls)) != NULL)
            call->start(self->client, call);
        sluice_process(self->client);
        if (atomic_load(&self->stopping))
            return NULL;
        sleep_a_while(self);
    }
}

enum sluice_status inner_create(const char *const *addresses, size_t count, const struct sluice_tls *tls,
                                struct inner **out)
{
    const struct sluice_options options = {
        .size = sizeof(options), .nodes = addresses, .node_count = count, .tls = *tls};
    struct inner *self = calloc(1, sizeof(*self));
    enum sluice_status status = SLUICE_MEMORY;
    if (self == NULL)
        return status;
    status = queue_create(CALLS_MAX, &self->calls);
    if (status != SLUICE_OK)
        goto fail;
    status = sluice_open(&options, &self->client);
    if (status != SLUICE_OK)
        goto fail_after_queue;
    status = SLUICE_MEMORY;
    if (pthread_create(&self->thread, NULL, run, self) != 0)
        goto fail_after_client;
    *out = self;
    return SLUICE_OK;

fail_after_client:
    sluice_close(self->client);
fail_after_queue:
    queue_destroy(self->calls);
fail:
    free(self);
    return status;
}

static void nothing(struct sluice_client *client, struct inner_call *call)
{
    (void)client;
    inner_done(call);
}

void inner_destroy(struct inner *self)
{
    if (self == NULL)
        return;
    atomic_store(&self->stopping, true);
    /* Wakes the thread; it ends after this round at the latest. */
    struct inner_call wake = {.start = nothing};
    pthread_mutex_init(&wake.lock, NULL);
    pthread_cond_init(&wake.changed, NULL);
    (void)queue_push(self->calls, &wake);
    pthread_join(self->thread, NULL);
    pthread_cond_destroy(&wake.changed);
    pthread_mutex_destroy(&wake.lock);
    struct inner_call *left;
    while ((left = queue_pop(self->calls)) != NULL)
        if (left != &wake)
            left->start(self->client, left);
    /* Answers everything that is still under way. */
    sluice_close(self->client);
    queue_destroy(self->calls);
    free(self);
}

bool inner_run(struct inner *self, void (*start)(struct sluice_client *client, struct inner_call *call), void *arg)
{
    struct inner_call call = {.start = start, .arg = arg};
    if (atomic_load(&self->stopping))
        return false;
    pthread_mutex_init(&call.lock, NULL);
    pthread_cond_init(&call.changed, NULL);
    bool taken = queue_push(self->calls, &call);
    pthread_mutex_lock(&call.lock);
    while (taken && !call.done)
        pthread_cond_wait(&call.changed, &call.lock);
    pthread_mutex_unlock(&call.lock);
    pthread_cond_destroy(&call.changed);
    pthread_mutex_destroy(&call.lock);
    return taken;
}

void inner_done(struct inner_call *call)
{
    pthread_mutex_lock(&call->lock);
    call->done = true;
    pthread_cond_signal(&call->changed);
    pthread_mutex_unlock(&call->lock);
}

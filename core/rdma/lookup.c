/* Host names. The C library looks them up blocking, for seconds when a name server is away; so a thread of its own does
 * it. */
#include <fcntl.h>
#include <netdb.h>
#include <pthread.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "core/rdma/fabric__provider.h"

struct fabric__lookup {
    atomic_uint refs; /* the link's and the thread's */
    atomic_bool done;
    int wake_fd; /* own duplicate: the fabric may be gone when the answer comes */
    int error;
    struct addrinfo *result;
    char port[16];
    char host[];
};

void fabric__lookup_release(struct fabric__lookup *self)
{
    if (!self || atomic_fetch_sub(&self->refs, 1) != 1)
        return;
    if (self->result)
        freeaddrinfo(self->result);
    if (self->wake_fd >= 0)
        (void)close(self->wake_fd);
    free(self);
}

static void look_up(struct fabric__lookup *self, int flags)
{
    struct addrinfo hints = {.ai_socktype = SOCK_STREAM, .ai_flags = AI_NUMERICSERV | flags};
    self->error = getaddrinfo(self->host, self->port, &hints, &self->result);
}

static void *run(void *arg)
{
    struct fabric__lookup *self = arg;
    uint64_t one = 1;
    look_up(self, AI_ADDRCONFIG);
    atomic_store(&self->done, true);
    ssize_t written = write(self->wake_fd, &one, sizeof(one));
    (void)written; /* a full eventfd is readable as it is */
    fabric__lookup_release(self);
    return NULL;
}

static enum sluice_status run_thread(struct fabric__lookup *self, int wake_fd)
{
    pthread_attr_t attributes;
    pthread_t thread;
    self->wake_fd = fcntl(wake_fd, F_DUPFD_CLOEXEC, 0);
    if (self->wake_fd < 0 || pthread_attr_init(&attributes) != 0)
        return SLUICE_MEMORY;
    (void)pthread_attr_setdetachstate(&attributes, PTHREAD_CREATE_DETACHED);
    atomic_store(&self->refs, 2);
    int error = pthread_create(&thread, &attributes, run, self);
    (void)pthread_attr_destroy(&attributes);
    if (error == 0)
        return SLUICE_OK;
    atomic_store(&self->refs, 1);
    return SLUICE_MEMORY;
}

enum sluice_status fabric__lookup_start(const char *host, const char *port, int wake_fd, struct fabric__lookup **out)
{
    size_t size = strlen(host) + 1;
    struct fabric__lookup *self = calloc(1, sizeof(*self) + size);
    if (!self)
        return SLUICE_MEMORY;
    memcpy(self->host, host, size);
    (void)snprintf(self->port, sizeof(self->port), "%s", port);
    atomic_init(&self->refs, 1);
    self->wake_fd = -1;
    look_up(self, AI_NUMERICHOST);
    if (self->error != EAI_NONAME) {
        atomic_store(&self->done, true);
        *out = self;
        return SLUICE_OK;
    }
    enum sluice_status status = run_thread(self, wake_fd);
    if (status != SLUICE_OK) {
        fabric__lookup_release(self);
        return status;
    }
    *out = self;
    return SLUICE_OK;
}

bool fabric__lookup_done(const struct fabric__lookup *self)
{
    return atomic_load(&self->done);
}

const struct addrinfo *fabric__lookup_result(const struct fabric__lookup *self, const char **error)
{
    *error = self->error ? gai_strerror(self->error) : NULL;
    return self->error ? NULL : self->result;
}

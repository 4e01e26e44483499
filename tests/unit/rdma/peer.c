#include "tests/unit/rdma/peer.h"

#include <signal.h>
#include <stdio.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#include "tests/unit/rdma/certificates.h"

static void handle(void *arg, const struct fabric_event *event)
{
    struct peer *self = arg;
    switch (event->type) {
    case FABRIC_LINK_UP:
        self->ups++;
        self->link = event->link;
        break;
    case FABRIC_LINK_DOWN:
        self->downs++;
        self->reason = event->reason;
        cr_assert_not_null(event->text);
        (void)snprintf(self->text, sizeof(self->text), "%s", event->text);
        break;
    case FABRIC_MESSAGE:
        self->messages++;
        self->bytes += event->size;
        if (self->on_message)
            self->on_message(self, event);
        break;
    case FABRIC_WRITABLE:
        self->writables++;
        break;
    case FABRIC_COMPLETION:
        self->completions++;
        self->cookie = event->cookie;
        self->status = event->status;
        break;
    }
    if (self->on_event)
        self->on_event(self, event);
}

struct fabric_options peer_options(uint32_t role)
{
    return (struct fabric_options){
        .size = sizeof(struct fabric_options),
        .identity = {.cluster = {1, 2, 3}, .role = role, .node = 7, .incarnation = 99, .features = 6},
        .ring_bytes = 64u << 10,
        .spin_ns = 0,
    };
}

static struct fabric_tls *common_tls;

void peers_use_tls(void)
{
    char error[256] = "";
    struct certificate own = certificate_make((struct certificate_options){0});
    cr_assert_eq(fabric_tls_create(certificate_authority(AUTHORITY_OURS), own.path, own.key_path, &common_tls, error,
                                   sizeof(error)),
                 SLUICE_OK, "%s", error);
}

void peer_create(struct peer *self, const struct fabric_options *options)
{
    struct fabric_options with = *options;
    if (!with.tls)
        with.tls = common_tls;
    cr_assert_eq(fabric_create(&with, &self->fabric), SLUICE_OK);
}

void peer_destroy(struct peer *self)
{
    fabric_destroy(self->fabric);
    self->fabric = NULL;
}

const char *peer_listen(struct peer *self, const char *scheme)
{
    static unsigned number;
    char address[128], error[256] = "";
    if (strcmp(scheme, "shm") == 0)
        (void)snprintf(address, sizeof(address), "shm:test-%d-%u", (int)getpid(), number++);
    else
        (void)snprintf(address, sizeof(address), "tcp:127.0.0.1:0");
    cr_assert_eq(fabric_listen(self->fabric, address, error, sizeof(error)), SLUICE_OK, "%s", error);
    const char *bound = NULL;
    for (unsigned i = 0; fabric_listen_address(self->fabric, i); i++)
        bound = fabric_listen_address(self->fabric, i);
    cr_assert_not_null(bound);
    return bound;
}

void peer_connect(struct peer *self, const char *address)
{
    cr_assert_eq(fabric_connect(self->fabric, address, self, &self->link), SLUICE_OK);
}

unsigned peer_poll(struct peer *self)
{
    return fabric_poll(self->fabric, 64, handle, self);
}

unsigned peers_step(struct peer *a, struct peer *b, struct peer *c)
{
    unsigned events = a ? peer_poll(a) : 0;
    events += b ? peer_poll(b) : 0;
    events += c ? peer_poll(c) : 0;
    return events;
}

void peers_rest(void)
{
    struct timespec moment = {.tv_nsec = 50000};
    (void)nanosleep(&moment, NULL);
}

void peers_connect(struct peer *left, const struct fabric_options *left_options, struct peer *right,
                   const struct fabric_options *right_options, const char *scheme)
{
    peer_create(left, left_options);
    peer_create(right, right_options);
    peer_connect(left, peer_listen(right, scheme));
    POLL_UNTIL(left, right, left->ups == 1 && right->ups == 1);
}

void peers_plain(struct peer *left, struct peer *right, const char *scheme)
{
    struct fabric_options node = peer_options(FABRIC_ROLE_NODE);
    peers_connect(left, &node, right, &node, scheme);
}

enum sluice_status peer_send(struct peer *self, const void *data, size_t size)
{
    struct slice part = {data, size};
    return fabric_send(self->link, &part, 1, NULL, 0, 0);
}

enum sluice_status peer_send_buf(struct peer *self, struct buf *buf)
{
    return fabric_send(self->link, NULL, 0, buf, 0, buf->size);
}

pid_t in_child(void (*body)(const char *address, int ready), const char *address, int *ready)
{
    int ends[2];
    cr_assert_eq(pipe(ends), 0);
    pid_t child = fork();
    cr_assert_geq(child, 0);
    if (child == 0) {
        (void)prctl(PR_SET_PDEATHSIG, SIGKILL);
        (void)close(ends[0]);
        body(address, ends[1]);
        _exit(0);
    }
    (void)close(ends[1]);
    *ready = ends[0];
    return child;
}

void child_kill(pid_t child, int signal)
{
    cr_assert_eq(kill(child, signal), 0);
    if (signal == SIGKILL)
        cr_assert_eq(waitpid(child, NULL, 0), child);
}

void child_address(int ready, char *out, size_t out_size)
{
    ssize_t got = read(ready, out, out_size - 1);
    cr_assert_gt(got, 0, "the child did not start");
    out[got] = 0;
}

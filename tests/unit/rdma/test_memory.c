/* Every allocation fails once: nothing crashes, nothing hangs, and a link that goes on has lost nothing. Descriptors
 * run out, too. */
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <unistd.h>

#include "tests/unit/rdma/peer.h"

#if !defined(__SANITIZE_ADDRESS__) && !defined(__SANITIZE_THREAD__)

extern void *__libc_malloc(size_t size);
extern void *__libc_calloc(size_t count, size_t size);
extern void *__libc_realloc(void *memory, size_t size);

static __thread long fail_in; /* the allocation of this thread that fails, counted from 1; 0: none */
static __thread bool failed;

static bool fails(void)
{
    if (fail_in == 0 || --fail_in > 0)
        return false;
    failed = true;
    errno = ENOMEM;
    return true;
}

void *malloc(size_t size)
{
    return fails() ? NULL : __libc_malloc(size);
}
void *calloc(size_t count, size_t size)
{
    return fails() ? NULL : __libc_calloc(count, size);
}
void *realloc(void *memory, size_t size)
{
    return fails() ? NULL : __libc_realloc(memory, size);
}

#define LARGE_BYTES 200000u
#define ROUNDS_MAX  4000

struct tally {
    unsigned ups, downs, small, large, completions;
};

static void count(void *arg, const struct fabric_event *event)
{
    struct tally *tally = arg;
    switch (event->type) {
    case FABRIC_LINK_UP:
        tally->ups++;
        break;
    case FABRIC_LINK_DOWN:
        tally->downs++;
        break;
    case FABRIC_MESSAGE:
        if (event->size == LARGE_BYTES)
            tally->large += event->data[0] == 'x' && event->data[LARGE_BYTES - 1] == 'x';
        else
            tally->small += event->size == 3;
        break;
    case FABRIC_COMPLETION:
        tally->completions += event->status == SLUICE_OK;
        break;
    case FABRIC_WRITABLE:
        break;
    }
}

struct scene {
    struct fabric *left, *right;
    struct fabric_link *link;
    struct fabric_link *accepted;
    struct tally at_left, at_right;
};

static bool poll_until(struct scene *self, const unsigned *counter, unsigned value)
{
    for (int i = 0; i < ROUNDS_MAX && *counter < value; i++) {
        if (self->at_left.downs)
            return false;
        if (fabric_poll(self->left, 64, count, &self->at_left) + fabric_poll(self->right, 64, count, &self->at_right) ==
            0)
            usleep(20);
    }
    return *counter >= value;
}

/* True when all went well; false when something was refused on the way, in order. */
static bool play(struct scene *self, const char *scheme, const uint8_t *large)
{
    struct fabric_options node = peer_options(FABRIC_ROLE_NODE);
    node.ring_bytes = 16u << 10;
    node.connect_timeout_ms = 50;
    char address[64], error[256];
    (void)snprintf(address, sizeof(address), strcmp(scheme, "shm") == 0 ? "shm:memory-%d" : "tcp:127.0.0.1:0",
                   (int)getpid());
    if (fabric_create(&node, &self->left) != SLUICE_OK || fabric_create(&node, &self->right) != SLUICE_OK ||
        fabric_listen(self->right, address, error, sizeof(error)) != SLUICE_OK)
        return false;
    if (fabric_connect(self->left, fabric_listen_address(self->right, 0), NULL, &self->link) != SLUICE_OK)
        return false;
    if (!poll_until(self, &self->at_left.ups, 1))
        return false;
    struct slice small = {"moo", 3}, big = {large, LARGE_BYTES};
    struct buf *payload = buf_dup(large, LARGE_BYTES);
    unsigned sent_small = 0, sent_large = 0;
    sent_small += fabric_send(self->link, &small, 1, NULL, 0, 0) == SLUICE_OK;
    sent_large += fabric_send(self->link, &big, 1, NULL, 0, 0) == SLUICE_OK;
    sent_large += payload && fabric_send(self->link, NULL, 0, payload, 0, LARGE_BYTES) == SLUICE_OK;
    sent_small += fabric_send(self->link, &small, 1, NULL, 0, 0) == SLUICE_OK;
    buf_unref(payload);
    /* What was taken arrives, or the link goes down. */
    bool arrived =
        poll_until(self, &self->at_right.large, sent_large) && poll_until(self, &self->at_right.small, sent_small);
    cr_assert(arrived || self->at_left.downs || self->at_right.downs, "a message that was taken got lost");
    struct fabric_region *region;
    uint64_t key;
    if (!arrived || fabric_region_create(self->left, 100, &region) != SLUICE_OK)
        return false;
    if (fabric_region_permit(region, self->link, FABRIC_ACCESS_WRITE, &key) != SLUICE_OK)
        return false;
    return sent_small == 2 && sent_large == 2;
}

OVER_BOTH(memory, each_allocation_may_fail_once)
{
    static uint8_t large[LARGE_BYTES];
    memset(large, 'x', sizeof(large));
    long tried = 0;
    bool all = false;
    while (!all) {
        struct scene scene = {0};
        failed = false;
        fail_in = ++tried;
        all = play(&scene, scheme, large);
        fail_in = 0;
        cr_assert(failed || all, "the scene went wrong although nothing failed");
        all = all && !failed;
        fabric_destroy(scene.left);
        fabric_destroy(scene.right);
        cr_assert_lt(tried, 500);
    }
    cr_log_info("%s: %ld allocations failed in turn", scheme, tried - 1);
    cr_assert_gt(tried, 10, "the scene allocates nothing?");
}

#endif

static unsigned open_descriptors(void)
{
    unsigned open = 0;
    for (int fd = 0; fd < 1000; fd++)
        open += fcntl(fd, F_GETFD) >= 0;
    return open;
}

OVER_BOTH(memory, a_fabric_without_descriptors_refuses_and_goes_on_when_it_has_some_again)
{
    struct peer server = {0}, client = {0};
    struct fabric_options node = peer_options(FABRIC_ROLE_NODE);
    node.connect_timeout_ms = 400;
    peer_create(&server, &node);
    peer_create(&client, &node);
    const char *address = peer_listen(&server, scheme);
    unsigned before = open_descriptors();
    struct rlimit limit;
    cr_assert_eq(getrlimit(RLIMIT_NOFILE, &limit), 0);
    rlim_t soft = limit.rlim_cur;
    for (unsigned spare = 0; spare < 14; spare++) {
        /* Both ends of the link live in this process: it runs dry at another step each time. */
        limit.rlim_cur = before + spare;
        cr_assert_eq(setrlimit(RLIMIT_NOFILE, &limit), 0);
        unsigned ups = client.ups, downs = client.downs;
        struct fabric_link *link;
        if (fabric_connect(client.fabric, address, NULL, &link) == SLUICE_OK) {
            POLL_UNTIL(&client, &server, client.ups > ups || client.downs > downs);
            if (client.ups > ups)
                fabric_link_close(client.link);
        }
        limit.rlim_cur = soft;
        cr_assert_eq(setrlimit(RLIMIT_NOFILE, &limit), 0);
        /* With descriptors again, the next one works. */
        ups = client.ups;
        unsigned gone = server.downs;
        peer_connect(&client, address);
        POLL_UNTIL(&client, &server, client.ups > ups && server.ups > gone);
        fabric_link_close(client.link);
        POLL_UNTIL(&client, &server, server.downs == server.ups);
    }
    uint64_t until = clock_monotonic_ns() + 10 * NS_PER_S;
    while (open_descriptors() > before && clock_monotonic_ns() < until)
        peers_step(&client, &server, NULL);
    cr_assert_eq(open_descriptors(), before, "descriptors leak");
    peer_destroy(&client);
    peer_destroy(&server);
}

/* What two ends of a link may rely on, over each provider. */
#include <poll.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/eventfd.h>
#include <sys/wait.h>
#include <unistd.h>

#include "core/base/crc.h"
#include "core/base/random.h"
#include "tests/unit/rdma/peer.h"

/* A message of the tests: its number, then bytes that follow from it. */
static void fill(uint8_t *data, uint32_t size, uint32_t number)
{
    struct random random;
    random_seed(&random, number);
    for (uint32_t i = 0; i < size; i += 8) {
        uint64_t word = random_next(&random);
        memcpy(data + i, &word, size - i < 8 ? size - i : 8);
    }
    if (size >= 4)
        memcpy(data, &number, 4);
}

static struct buf *filled(uint32_t size, uint32_t number)
{
    struct buf *buf = buf_create(size);
    cr_assert_not_null(buf);
    fill(buf->data, size, number);
    return buf;
}

static void expect_next(struct peer *self, const struct fabric_event *event)
{
    uint32_t *next = self->arg, number;
    cr_assert_geq(event->size, 4);
    memcpy(&number, event->data, 4);
    cr_assert_eq(number, *next, "message %u came instead of %u", number, *next);
    struct buf *expected = filled(event->size, number);
    cr_assert(memcmp(expected->data, event->data, event->size) == 0, "message %u was damaged", number);
    buf_unref(expected);
    (*next)++;
}

OVER_BOTH(link, both_sides_learn_who_the_other_is)
{
    struct peer left = {0}, right = {0};
    struct fabric_options client = peer_options(FABRIC_ROLE_CLIENT), node = peer_options(FABRIC_ROLE_NODE);
    client.identity.features = 3;
    client.identity.incarnation = 5;
    peers_connect(&left, &client, &right, &node, scheme);
    const struct fabric_identity *peer = fabric_link_peer(right.link);
    cr_assert_eq(peer->role, FABRIC_ROLE_CLIENT);
    cr_assert_eq(peer->incarnation, 5);
    cr_assert_eq(peer->features, 2, "what both have");
    cr_assert_arr_eq(peer->cluster, client.identity.cluster, 16);
    peer = fabric_link_peer(left.link);
    cr_assert_eq(peer->role, FABRIC_ROLE_NODE);
    cr_assert_eq(peer->node, 7);
    cr_assert_eq(peer->incarnation, 99);
    cr_assert_eq(fabric_link_context(left.link), &left);
    cr_assert_null(fabric_link_context(right.link));
    fabric_link_set_context(right.link, &client);
    cr_assert_eq(fabric_link_context(right.link), &client);
    peer_destroy(&left);
    peer_destroy(&right);
}

OVER_BOTH(link, messages_arrive_in_order_whatever_their_size)
{
    struct peer left = {0}, right = {0};
    uint64_t seed = random_os();
    cr_log_info("seed %lu", seed);
    struct random random;
    random_seed(&random, seed);
    uint32_t left_next = 0, right_next = 0, left_sent = 0, right_sent = 0;
    peers_plain(&left, &right, scheme);
    left.on_message = right.on_message = expect_next;
    left.arg = &left_next;
    right.arg = &right_next;
    const uint32_t total = 1500;
    static uint8_t data[300000];
    while (left_next < total || right_next < total) {
        struct peer *from = random_chance(&random, 500000) ? &left : &right;
        uint32_t *sent = from == &left ? &left_sent : &right_sent;
        for (uint64_t burst = random_below(&random, 8); burst > 0 && *sent < total; burst--) {
            uint32_t size =
                4 + (uint32_t)random_below(&random, random_chance(&random, 50000) ? sizeof(data) - 4 : 5000);
            fill(data, size, *sent);
            /* In parts, with and without a referenced payload. */
            uint32_t cut = (uint32_t)random_below(&random, size), half = cut / 2;
            struct slice parts[2] = {{data, half}, {data + half, cut - half}};
            enum sluice_status status;
            if (random_chance(&random, 500000)) {
                struct buf *payload = buf_dup(data, size);
                status = fabric_send(from->link, parts, 2, payload, cut, size - cut);
                buf_unref(payload);
            } else {
                struct slice three[3] = {parts[0], parts[1], {data + cut, size - cut}};
                status = fabric_send(from->link, three, 3, NULL, 0, 0);
            }
            cr_assert_eq(status, SLUICE_OK);
            (*sent)++;
        }
        if (random_chance(&random, 300000))
            fabric_flush(from->fabric);
        if (random_chance(&random, 500000))
            peer_poll(&left);
        else
            peer_poll(&right);
    }
    cr_assert_eq(left.downs + right.downs, 0);
    peer_destroy(&left);
    peer_destroy(&right);
}

OVER_BOTH(link, an_empty_message_is_a_message)
{
    struct peer left = {0}, right = {0};
    peers_plain(&left, &right, scheme);
    struct slice none[2] = {{NULL, 0}, {NULL, 0}};
    cr_assert_eq(fabric_send(left.link, none, 0, NULL, 0, 0), SLUICE_OK);
    cr_assert_eq(fabric_send(left.link, none, 2, NULL, 0, 0), SLUICE_OK);
    fabric_flush(left.fabric);
    POLL_UNTIL(&left, &right, right.messages == 2);
    cr_assert_eq(right.bytes, 0);
    peer_destroy(&left);
    peer_destroy(&right);
}

static void answer(struct peer *self, const struct fabric_event *event)
{
    (void)self;
    struct slice part = {event->data, event->size};
    cr_assert_eq(fabric_send(event->link, &part, 1, NULL, 0, 0), SLUICE_OK);
}

static void check_sum(struct peer *self, const struct fabric_event *event)
{
    if (event->size > 1000)
        *(uint32_t *)self->arg = crc32c(event->data, event->size);
}

OVER_BOTH(link, a_message_of_64_MiB_arrives_and_starves_nobody)
{
    struct peer big = {0}, small = {0}, server = {0};
    struct fabric_options node = peer_options(FABRIC_ROLE_NODE);
    node.ring_bytes = 1u << 20;
    peers_connect(&big, &node, &server, &node, scheme);
    struct fabric_link *big_link = server.link;
    peer_create(&small, &node);
    peer_connect(&small, fabric_listen_address(server.fabric, 0));
    POLL_UNTIL3(&big, &small, &server, small.ups == 1 && server.ups == 2);

    struct buf *payload = filled(64u << 20, 1);
    uint32_t sum = 0;
    server.arg = &sum;
    server.on_message = check_sum;
    cr_assert_eq(peer_send_buf(&big, payload), SLUICE_OK);
    unsigned rounds = 0;
    uint64_t small_before = 0;
    while (sum == 0) {
        if (server.messages == small_before) {
            cr_assert_eq(peer_send(&small, "moo", 3), SLUICE_OK);
            small_before++;
        }
        peers_step(&big, &small, &server);
        cr_assert_lt(++rounds, 1000000u);
    }
    cr_assert_gt(server.messages, 30, "small messages were answered while the large one came: %u", server.messages);
    cr_assert_eq(sum, crc32c(payload->data, payload->size));
    POLL_UNTIL3(&big, &small, &server, fabric_pending(big.link) == 0 && atomic_load(&payload->refs) == 1);
    cr_assert_neq(big_link, server.link);
    buf_unref(payload);
    peer_destroy(&big);
    peer_destroy(&small);
    peer_destroy(&server);
}

OVER_BOTH(link, a_sender_is_told_to_wait_and_then_to_go_on_and_nothing_is_lost)
{
    struct peer left = {0}, right = {0};
    struct fabric_options node = peer_options(FABRIC_ROLE_NODE);
    node.pending_bytes_max = 300000;
    peers_connect(&left, &node, &right, &node, scheme);
    uint32_t next = 0, sent = 0;
    right.arg = &next;
    right.on_message = expect_next;
    static uint8_t data[10000];
    unsigned refused = 0;
    for (int round = 0; round < 20; round++) {
        enum sluice_status status;
        for (;;) {
            fill(data, sizeof(data), sent);
            status = peer_send(&left, data, sizeof(data));
            if (status != SLUICE_OK)
                break;
            sent++;
            cr_assert_lt(sent, 100000u, "nothing holds the sender back");
            fabric_flush(left.fabric);
        }
        cr_assert_eq(status, SLUICE_AGAIN);
        refused++;
        cr_assert_gt(fabric_pending(left.link), 0);
        unsigned before = left.writables;
        POLL_UNTIL(&left, &right, left.writables > before);
        cr_assert_eq(fabric_pending(left.link), 0);
    }
    POLL_UNTIL(&left, &right, next == sent);
    cr_assert_eq(refused, 20);
    peer_destroy(&left);
    peer_destroy(&right);
}

OVER_BOTH(link, a_message_beyond_the_receivers_limit_is_refused_at_once)
{
    struct peer left = {0}, right = {0};
    struct fabric_options node = peer_options(FABRIC_ROLE_NODE), modest = node;
    modest.message_bytes_max = 1000;
    peers_connect(&left, &node, &right, &modest, scheme);
    static uint8_t data[1001];
    cr_assert_eq(peer_send(&left, data, 1001), SLUICE_TOO_LARGE);
    cr_assert_eq(peer_send(&left, data, 1000), SLUICE_OK);
    cr_assert_eq(peer_send(&right, data, 1001), SLUICE_OK);
    POLL_UNTIL(&left, &right, left.messages == 1 && right.messages == 1);
    peer_destroy(&left);
    peer_destroy(&right);
}

static void close_own_link(struct peer *self, const struct fabric_event *event)
{
    uint32_t before = crc32c(event->data, event->size);
    fabric_link_close(event->link);
    cr_assert_eq(crc32c(event->data, event->size), before, "the message is borrowed until the callback returns");
    self->link = NULL;
}

OVER_BOTH(link, a_link_may_be_closed_within_its_own_message)
{
    struct peer left = {0}, right = {0};
    peers_plain(&left, &right, scheme);
    right.on_message = close_own_link;
    for (int i = 0; i < 5; i++)
        cr_assert_eq(peer_send(&left, "moo", 3), SLUICE_OK);
    POLL_UNTIL(&left, &right, left.downs == 1);
    cr_assert_eq(left.reason, FABRIC_DOWN_CLOSED);
    cr_assert_eq(right.messages, 1, "nothing comes from a link that was closed");
    cr_assert_eq(right.downs, 0, "its own close is not reported");
    peer_destroy(&left);
    peer_destroy(&right);
}

static void connect_back(struct peer *self, const struct fabric_event *event)
{
    struct fabric_link *link;
    char address[128];
    memcpy(address, event->data, event->size);
    address[event->size] = 0;
    cr_assert_eq(fabric_connect(self->fabric, address, NULL, &link), SLUICE_OK);
    self->on_message = NULL;
}

OVER_BOTH(link, a_handler_may_connect_and_send)
{
    struct peer left = {0}, right = {0};
    peers_plain(&left, &right, scheme);
    const char *address = peer_listen(&left, scheme);
    right.on_message = connect_back;
    cr_assert_eq(peer_send(&left, address, strlen(address)), SLUICE_OK);
    POLL_UNTIL(&left, &right, left.ups == 2 && right.ups == 2);
    left.on_message = answer;
    cr_assert_eq(peer_send(&right, "moo", 3), SLUICE_OK);
    POLL_UNTIL(&left, &right, right.messages == 2);
    peer_destroy(&left);
    peer_destroy(&right);
}

OVER_BOTH(link, all_that_was_sent_before_a_close_arrives_before_its_report)
{
    struct peer left = {0}, right = {0};
    peers_plain(&left, &right, scheme);
    for (int i = 0; i < 100; i++)
        cr_assert_eq(peer_send(&left, "moo", 3), SLUICE_OK);
    fabric_link_close(left.link);
    POLL_UNTIL(&left, &right, right.downs == 1);
    cr_assert_eq(right.messages, 100);
    cr_assert_eq(right.reason, FABRIC_DOWN_CLOSED);
    cr_assert_eq(left.downs, 0);
    peer_destroy(&left);
    peer_destroy(&right);
}

static void send_on_the_dead(struct peer *self, const struct fabric_event *event)
{
    (void)self;
    if (event->type == FABRIC_LINK_DOWN) {
        cr_assert_eq(fabric_send(event->link, NULL, 0, NULL, 0, 0), SLUICE_CLOSED);
        fabric_link_close(event->link);
    }
}

OVER_BOTH(link, a_link_that_is_down_says_so)
{
    struct peer left = {0}, right = {0};
    peers_plain(&left, &right, scheme);
    left.on_event = send_on_the_dead;
    peer_destroy(&right);
    POLL_UNTIL(&left, NULL, left.downs == 1);
    peer_destroy(&left);
}

OVER_BOTH(link, before_it_is_up_a_link_takes_nothing)
{
    struct peer left = {0}, right = {0};
    struct fabric_options node = peer_options(FABRIC_ROLE_NODE);
    peer_create(&left, &node);
    peer_create(&right, &node);
    peer_connect(&left, peer_listen(&right, scheme));
    cr_assert_eq(peer_send(&left, "moo", 3), SLUICE_AGAIN);
    fabric_link_close(left.link);
    for (int i = 0; i < 100; i++)
        peers_step(&left, &right, NULL);
    cr_assert_eq(left.ups + left.downs + right.ups + right.downs, 0);
    peer_destroy(&left);
    peer_destroy(&right);
}

OVER_BOTH(link, nobody_there_is_said_with_the_address)
{
    struct peer left = {0}, right = {0};
    struct fabric_options node = peer_options(FABRIC_ROLE_NODE);
    peer_create(&left, &node);
    peer_create(&right, &node);
    char address[128];
    (void)snprintf(address, sizeof(address), "%s", peer_listen(&right, scheme));
    peer_destroy(&right);
    peer_connect(&left, address);
    POLL_UNTIL(&left, NULL, left.downs == 1);
    cr_assert_eq(left.reason, FABRIC_DOWN_REFUSED);
    cr_assert_not_null(strstr(left.text, address), "%s", left.text);
    cr_assert_not_null(strstr(left.text, "running"), "%s", left.text);
    peer_destroy(&left);
}

Test(link, addresses_that_are_none_are_refused_with_what_was_expected)
{
    struct peer peer = {0};
    struct fabric_options node = peer_options(FABRIC_ROLE_NODE);
    peer_create(&peer, &node);
    struct fabric_link *link;
    static const char *const bad[] = {"",
                                      "moo",
                                      "tcp:",
                                      "tcp:host",
                                      "tcp::1",
                                      "tcp:host:",
                                      "tcp:h:1x",
                                      "tcp:h:99999",
                                      "tcp:1:2:3",
                                      "tcp:[::1:70",
                                      "shm:",
                                      "verbs:x",
                                      "tcp:[]:70",
                                      "shm:\0moo",
                                      "http://a:1",
                                      "tcp:h:-1",
                                      "tcp:h:100000000",
                                      "TCP:h:1"};
    for (size_t i = 0; i < sizeof(bad) / sizeof(bad[0]); i++) {
        char error[256] = "";
        cr_assert_eq(fabric_connect(peer.fabric, bad[i], NULL, &link), SLUICE_INVALID, "%s", bad[i]);
        cr_assert_eq(fabric_listen(peer.fabric, bad[i], error, sizeof(error)), SLUICE_INVALID, "%s", bad[i]);
        cr_assert_not_null(strstr(error, "expected"), "%s: %s", bad[i], error);
    }
    char name[200] = "shm:";
    memset(name + 4, 'x', 150);
    cr_assert_eq(fabric_connect(peer.fabric, name, NULL, &link), SLUICE_INVALID);
    cr_assert_null(fabric_listen_address(peer.fabric, 0));
    peer_destroy(&peer);
}

Test(link, an_address_that_is_taken_says_so)
{
    struct peer peer = {0};
    struct fabric_options node = peer_options(FABRIC_ROLE_NODE);
    peer_create(&peer, &node);
    char error[256];
    cr_assert_eq(fabric_listen(peer.fabric, peer_listen(&peer, "shm"), error, sizeof(error)), SLUICE_IO);
    cr_assert_not_null(strstr(error, "another process"), "%s", error);
    cr_assert_eq(fabric_listen(peer.fabric, peer_listen(&peer, "tcp"), error, sizeof(error)), SLUICE_IO);
    cr_assert_not_null(strstr(error, "choose another port"), "%s", error);
    cr_assert_not_null(fabric_listen_address(peer.fabric, 1));
    cr_assert_null(fabric_listen_address(peer.fabric, 2));
    peer_destroy(&peer);
}

Test(link, a_path_may_be_a_rendezvous_and_a_leftover_is_no_obstacle)
{
    struct fabric_options node = peer_options(FABRIC_ROLE_NODE);
    char address[64], error[256] = "";
    (void)snprintf(address, sizeof(address), "shm:/tmp/sluice-test-%d.sock", (int)getpid());
    for (int round = 0; round < 2; round++) {
        struct peer left = {0}, right = {0};
        peer_create(&left, &node);
        peer_create(&right, &node);
        cr_assert_eq(fabric_listen(right.fabric, address, error, sizeof(error)), SLUICE_OK, "%s", error);
        peer_connect(&left, address);
        POLL_UNTIL(&left, &right, left.ups == 1 && right.ups == 1);
        peer_destroy(&left);
        peer_destroy(&right);
        cr_assert_neq(access(address + 4, F_OK), 0, "the path is left behind");
        /* What a killed process leaves: a socket file without a socket. */
        pid_t child = fork();
        if (child == 0) {
            peer_create(&right, &node);
            _exit(fabric_listen(right.fabric, address, error, sizeof(error)) != SLUICE_OK);
        }
        child_kill(child, 0);
        cr_assert_eq(waitpid(child, NULL, 0), child);
        cr_assert_eq(access(address + 4, F_OK), 0);
    }
    (void)unlink(address + 4);
}

Test(link, host_names_are_looked_up_while_polling_goes_on)
{
    struct peer left = {0}, right = {0};
    struct fabric_options node = peer_options(FABRIC_ROLE_NODE);
    peer_create(&left, &node);
    peer_create(&right, &node);
    const char *port = strrchr(peer_listen(&right, "tcp"), ':');
    char address[64];
    (void)snprintf(address, sizeof(address), "tcp:localhost%s", port);
    peer_connect(&left, address);
    POLL_UNTIL(&left, &right, left.ups == 1);
    left.downs = 0;
    struct fabric_link *link;
    cr_assert_eq(fabric_connect(left.fabric, "tcp:no-such-host.invalid:1", NULL, &link), SLUICE_OK);
    POLL_UNTIL(&left, &right, left.downs == 1);
    cr_assert_eq(left.reason, FABRIC_DOWN_REFUSED);
    cr_assert_not_null(strstr(left.text, "no-such-host.invalid"), "%s", left.text);
    /* A look-up outlives its link and its fabric. */
    cr_assert_eq(fabric_connect(left.fabric, "tcp:no-such-host-either.invalid:1", NULL, &link), SLUICE_OK);
    fabric_link_close(link);
    peer_destroy(&left);
    peer_destroy(&right);
}

OVER_BOTH(link, a_sleeper_is_woken_by_a_message_a_descriptor_and_its_deadline)
{
    struct peer left = {0}, right = {0};
    peers_plain(&left, &right, scheme);
    while (peers_step(&left, &right, NULL))
        continue;
    uint64_t start = clock_monotonic_ns();
    fabric_wait(right.fabric, 20 * NS_PER_MS);
    cr_assert_geq(clock_monotonic_ns() - start, 15 * NS_PER_MS, "with nothing to do it sleeps");

    /* Asleep in a foreign loop. */
    while (peer_poll(&right))
        continue;
    struct pollfd asleep = {.fd = fabric_fd(right.fabric), .events = POLLIN};
    cr_assert(fabric_arm(right.fabric));
    cr_assert_eq(poll(&asleep, 1, 10), 0);
    cr_assert_eq(peer_send(&left, "moo", 3), SLUICE_OK);
    fabric_flush(left.fabric);
    cr_assert_eq(poll(&asleep, 1, 5000), 1);
    POLL_UNTIL(&left, &right, right.messages == 1);
    cr_assert_eq(peer_send(&left, "moo", 3), SLUICE_OK);
    fabric_flush(left.fabric);
    if (strcmp(scheme, "shm") == 0)
        cr_assert_not(fabric_arm(right.fabric), "there is work already");
    POLL_UNTIL(&left, &right, right.messages == 2);

    int bell = eventfd(0, EFD_NONBLOCK);
    cr_assert_eq(fabric_watch(right.fabric, bell), SLUICE_OK);
    uint64_t one = 1;
    cr_assert_eq(write(bell, &one, sizeof(one)), (ssize_t)sizeof(one));
    start = clock_monotonic_ns();
    fabric_wait(right.fabric, 5 * NS_PER_S);
    cr_assert_lt(clock_monotonic_ns() - start, NS_PER_S);
    fabric_unwatch(right.fabric, bell);
    peer_poll(&right);
    start = clock_monotonic_ns();
    fabric_wait(right.fabric, 20 * NS_PER_MS);
    cr_assert_geq(clock_monotonic_ns() - start, 15 * NS_PER_MS, "no longer watched");
    close(bell);
    peer_destroy(&left);
    peer_destroy(&right);
}

struct echo {
    struct peer peer;
    char address[128];
    bool listening;
};

static void *echo_thread(void *arg)
{
    struct echo *echo = arg;
    echo->peer.on_message = answer;
    while (echo->peer.downs == 0) {
        if (peer_poll(&echo->peer) == 0)
            fabric_wait(echo->peer.fabric, 100 * NS_PER_MS);
    }
    peer_destroy(&echo->peer);
    return NULL;
}

OVER_BOTH(link, two_threads_of_one_process_talk_spinning_and_sleeping)
{
    struct echo echo = {0};
    struct peer left = {0};
    struct fabric_options node = peer_options(FABRIC_ROLE_NODE);
    node.spin_ns = UINT32_MAX;
    peer_create(&echo.peer, &node);
    peer_create(&left, &node);
    (void)snprintf(echo.address, sizeof(echo.address), "%s", peer_listen(&echo.peer, scheme));
    pthread_t thread;
    cr_assert_eq(pthread_create(&thread, NULL, echo_thread, &echo), 0);
    peer_connect(&left, echo.address);
    unsigned sent = 0;
    uint64_t deadline = clock_monotonic_ns() + PATIENCE_NS;
    while (left.messages < 4000) {
        cr_assert_lt(clock_monotonic_ns(), deadline, "a wake-up was lost: %u of %u", left.messages, sent);
        for (; left.ups && sent < 4000 && sent - left.messages < 1 + sent % 7; sent++)
            cr_assert_eq(peer_send(&left, &sent, sizeof(sent)), SLUICE_OK);
        if (peer_poll(&left) == 0)
            fabric_wait(left.fabric, 100 * NS_PER_MS);
        if (sent % 500 == 0)
            peers_rest(); /* long enough for the other to fall asleep */
    }
    peer_destroy(&left);
    cr_assert_eq(pthread_join(thread, NULL), 0);
}

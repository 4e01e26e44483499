/* Peers that die, stop, lie or are somebody else: it costs them their link and nobody else anything. */
#include <arpa/inet.h>
#include <errno.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <sys/wait.h>
#include <unistd.h>

#include "core/base/crc.h"
#include "core/base/random.h"
#include "core/rdma/fabric__provider.h"
#include "core/rdma/tcp__stream.h"
#include "tests/unit/rdma/peer.h"

/* A healthy peer is still served: what every test of this file ends with. */
static void still_serves(struct peer *server)
{
    struct peer healthy = {0};
    struct fabric_options node = peer_options(FABRIC_ROLE_NODE);
    unsigned ups = server->ups, messages = server->messages;
    server->on_message = NULL;
    peer_create(&healthy, &node);
    peer_connect(&healthy, fabric_listen_address(server->fabric, 0));
    POLL_UNTIL(&healthy, server, healthy.ups == 1 && server->ups == ups + 1);
    cr_assert_eq(peer_send(&healthy, "moo", 3), SLUICE_OK);
    POLL_UNTIL(&healthy, server, server->messages == messages + 1);
    peer_destroy(&healthy);
}

static void serve(struct peer *server, const char *scheme)
{
    struct fabric_options node = peer_options(FABRIC_ROLE_NODE);
    peer_create(server, &node);
    (void)peer_listen(server, scheme);
}

/* --- children --- */

static void connect_and(const char *address, struct peer *self)
{
    struct fabric_options node = peer_options(FABRIC_ROLE_NODE);
    peer_create(self, &node);
    peer_connect(self, address);
    POLL_UNTIL(self, NULL, self->ups == 1);
}

static void stream_for_ever(const char *address, int ready)
{
    static uint8_t data[3000];
    struct peer self = {0};
    connect_and(address, &self);
    (void)ready;
    for (;;) {
        while (peer_send(&self, data, sizeof(data)) == SLUICE_OK && fabric_pending(self.link) < 100000)
            continue;
        if (peer_poll(&self) == 0)
            fabric_wait(self.fabric, NS_PER_MS);
    }
}

OVER_BOTH(faults, a_peer_killed_in_the_midst_of_sending_is_noticed_and_harms_nobody)
{
    struct peer server = {0};
    serve(&server, scheme);
    int ready;
    for (int round = 0; round < 5; round++) {
        pid_t child = in_child(stream_for_ever, fabric_listen_address(server.fabric, 0), &ready);
        unsigned before = server.messages, downs = server.downs;
        POLL_UNTIL(&server, NULL, server.messages > before + 200);
        child_kill(child, SIGKILL);
        uint64_t start = clock_monotonic_ns();
        POLL_UNTIL(&server, NULL, server.downs == downs + 1);
        bool shm = strcmp(scheme, "shm") == 0;
        cr_assert_eq(server.reason, shm ? FABRIC_DOWN_DEAD : FABRIC_DOWN_CLOSED, "%s", server.text);
        cr_assert_lt(clock_monotonic_ns() - start, 200 * NS_PER_MS, "it took %lu us",
                     (clock_monotonic_ns() - start) / 1000);
        close(ready);
    }
    still_serves(&server);
    peer_destroy(&server);
}

static void half_a_frame(const char *address, int ready)
{
    struct peer self = {0};
    connect_and(address, &self);
    cr_assert_eq(peer_send(&self, "whole", 5), SLUICE_OK);
    fabric_flush(self.fabric);
    /* Placed in the peer's memory, but never published. */
    cr_assert_eq(peer_send(&self, "never", 5), SLUICE_OK);
    (void)!write(ready, "x", 1);
    pause();
}

Test(faults, what_a_dead_peer_had_not_published_is_never_seen)
{
    struct peer server = {0};
    serve(&server, "shm");
    int ready;
    char word[8];
    pid_t child = in_child(half_a_frame, fabric_listen_address(server.fabric, 0), &ready);
    POLL_UNTIL(&server, NULL, server.ups == 1);
    child_address(ready, word, sizeof(word));
    child_kill(child, SIGKILL);
    POLL_UNTIL(&server, NULL, server.downs == 1);
    cr_assert_eq(server.reason, FABRIC_DOWN_DEAD);
    cr_assert_eq(server.messages, 1, "what was published before the death is delivered, and no more");
    still_serves(&server);
    peer_destroy(&server);
}

static void read_slowly(const char *address, int ready)
{
    struct peer self = {0};
    connect_and(address, &self);
    (void)ready;
    for (;;) {
        if (peer_poll(&self) == 0)
            fabric_wait(self.fabric, 100 * NS_PER_MS);
        if (self.downs)
            _exit(0);
        if (self.bytes > 0 && peer_send(&self, &self.bytes, sizeof(self.bytes)) != SLUICE_OK)
            _exit(1);
    }
}

static void take_count(struct peer *self, const struct fabric_event *event)
{
    cr_assert_eq(event->size, 8);
    memcpy(self->arg, event->data, 8);
}

OVER_BOTH(faults, a_stopped_peer_bounds_its_sender_and_gets_everything_when_it_goes_on)
{
    struct peer server = {0};
    struct fabric_options node = peer_options(FABRIC_ROLE_NODE);
    node.pending_bytes_max = 1u << 20;
    peer_create(&server, &node);
    (void)peer_listen(&server, scheme);
    int ready;
    uint64_t got = 0, sent = 0;
    server.arg = &got;
    server.on_message = take_count;
    pid_t child = in_child(read_slowly, fabric_listen_address(server.fabric, 0), &ready);
    POLL_UNTIL(&server, NULL, server.ups == 1);
    child_kill(child, SIGSTOP);
    static uint8_t data[5000];
    enum sluice_status status;
    while ((status = peer_send(&server, data, sizeof(data))) == SLUICE_OK) {
        sent += sizeof(data);
        peer_poll(&server);
        cr_assert_lt(sent, 64u << 20, "nothing bounds what is sent to a stopped peer");
    }
    cr_assert_eq(status, SLUICE_AGAIN);
    cr_assert_leq(fabric_pending(server.link), (uint64_t)(1u << 20) + node.ring_bytes);
    uint64_t start = clock_monotonic_ns();
    for (int i = 0; i < 1000; i++)
        peer_poll(&server);
    cr_assert_lt(clock_monotonic_ns() - start, NS_PER_S, "a stopped peer stops nobody else");
    cr_assert_eq(server.downs, 0);
    child_kill(child, SIGCONT);
    POLL_UNTIL(&server, NULL, got == sent);
    still_serves(&server);
    child_kill(child, SIGKILL);
    peer_destroy(&server);
}

/* --- strangers --- */

static int open_tcp(const char *address)
{
    struct sockaddr_in to = {.sin_family = AF_INET, .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
    to.sin_port = htons((uint16_t)atoi(strrchr(address, ':') + 1));
    int fd = socket(AF_INET, SOCK_STREAM, 0);
    cr_assert_eq(connect(fd, (struct sockaddr *)&to, sizeof(to)), 0);
    return fd;
}

static int open_shm(const char *address)
{
    struct sockaddr_un to = {.sun_family = AF_UNIX};
    int length = snprintf(to.sun_path + 1, sizeof(to.sun_path) - 1, "sluice/%s", address + 4);
    int fd = socket(AF_UNIX, SOCK_SEQPACKET, 0);
    cr_assert_eq(
        connect(fd, (struct sockaddr *)&to, (socklen_t)(offsetof(struct sockaddr_un, sun_path) + 1 + (size_t)length)),
        0);
    return fd;
}

static int open_raw(const char *scheme, const char *address)
{
    return strcmp(scheme, "shm") == 0 ? open_shm(address) : open_tcp(address);
}

/* True once the other side has closed the connection. */
static bool is_closed(int fd)
{
    char bytes[512];
    ssize_t got;
    while ((got = recv(fd, bytes, sizeof(bytes), MSG_DONTWAIT)) > 0)
        continue;
    return got == 0 || (errno != EAGAIN && errno != EINTR);
}

static struct fabric__hello hello_of(struct peer *server)
{
    struct fabric_link link = {.fabric = server->fabric, .provider = &fabric__tcp_provider};
    link.ring.size = 64u << 10;
    struct fabric__hello hello;
    fabric__hello_make(&link, &hello);
    return hello;
}

OVER_BOTH(faults, garbage_in_place_of_a_handshake_closes_its_connection_alone)
{
    struct peer server = {0};
    serve(&server, scheme);
    const char *address = fabric_listen_address(server.fabric, 0);
    struct random random;
    uint64_t seed = random_os();
    cr_log_info("seed %lu", seed);
    random_seed(&random, seed);
    struct fabric__hello good = hello_of(&server);
    for (int round = 0; round < 60; round++) {
        int fd = open_raw(scheme, address);
        uint8_t bytes[400];
        size_t size = 1 + random_below(&random, sizeof(bytes));
        for (size_t i = 0; i < sizeof(bytes); i++)
            bytes[i] = (uint8_t)random_next(&random);
        if (round % 3 == 1) { /* a hello with one bit wrong */
            memcpy(bytes, &good, sizeof(good));
            size = sizeof(good);
            uint64_t bit = random_below(&random, size * 8);
            bytes[bit / 8] ^= (uint8_t)(1 << bit % 8);
        } else if (round % 3 == 2) {
            size = (size_t)snprintf((char *)bytes, sizeof(bytes), "GET /metrics HTTP/1.1\r\nHost: farm\r\n\r\n");
        }
        cr_assert_eq(send(fd, bytes, size, MSG_NOSIGNAL), (ssize_t)size);
        POLL_UNTIL(&server, NULL, is_closed(fd));
        close(fd);
    }
    cr_assert_eq(server.ups + server.downs + server.messages, 0, "the application hears nothing of strangers");
    still_serves(&server);
    peer_destroy(&server);
}

OVER_BOTH(faults, a_connection_that_never_ends_its_handshake_is_dropped_in_time)
{
    struct peer server = {0};
    struct fabric_options node = peer_options(FABRIC_ROLE_NODE);
    node.connect_timeout_ms = 100;
    peer_create(&server, &node);
    const char *address = peer_listen(&server, scheme);
    int silent = open_raw(scheme, address), half = open_raw(scheme, address);
    struct fabric__hello hello = hello_of(&server);
    cr_assert_gt(send(half, &hello, strcmp(scheme, "tcp") == 0 ? 40 : sizeof(hello), 0), 0);
    uint64_t start = clock_monotonic_ns();
    peer_poll(&server);
    while (!is_closed(silent) || !is_closed(half)) {
        fabric_wait(server.fabric, 10 * NS_PER_S); /* its own timer must wake it */
        peer_poll(&server);
    }
    cr_assert_geq(clock_monotonic_ns() - start, 80 * NS_PER_MS);
    cr_assert_lt(clock_monotonic_ns() - start, 2 * NS_PER_S);
    close(silent);
    close(half);
    still_serves(&server);
    peer_destroy(&server);
}

OVER_BOTH(faults, a_silent_listener_is_given_up_in_time)
{
    struct peer left = {0}, right = {0};
    struct fabric_options node = peer_options(FABRIC_ROLE_NODE);
    node.connect_timeout_ms = 100;
    peer_create(&left, &node);
    peer_create(&right, &node);
    peer_connect(&left, peer_listen(&right, scheme)); /* and `right` is never polled */
    uint64_t start = clock_monotonic_ns();
    while (left.downs == 0) {
        if (peer_poll(&left) == 0)
            fabric_wait(left.fabric, 10 * NS_PER_S);
    }
    cr_assert_eq(left.reason, FABRIC_DOWN_REFUSED);
    cr_assert_geq(clock_monotonic_ns() - start, 80 * NS_PER_MS);
    cr_assert_lt(clock_monotonic_ns() - start, 2 * NS_PER_S);
    peer_destroy(&left);
    peer_destroy(&right);
}

OVER_BOTH(faults, nodes_of_different_clusters_refuse_each_other_with_both_names)
{
    struct peer left = {0}, right = {0};
    struct fabric_options ours = peer_options(FABRIC_ROLE_NODE), theirs = ours;
    theirs.identity.cluster[0] = 0xee;
    peer_create(&left, &theirs);
    peer_create(&right, &ours);
    peer_connect(&left, peer_listen(&right, scheme));
    POLL_UNTIL(&left, &right, left.downs == 1);
    cr_assert_eq(left.reason, FABRIC_DOWN_REFUSED);
    cr_assert_not_null(strstr(left.text, "expected cluster 010203"), "%s", left.text);
    cr_assert_not_null(strstr(left.text, "came ee0203"), "%s", left.text);
    cr_assert_eq(left.ups + right.ups + right.downs, 0);
    still_serves(&right);
    peer_destroy(&left);
    peer_destroy(&right);
}

Test(faults, who_may_talk_to_whom_is_decided_on_both_sides_alike)
{
    static const struct {
        uint32_t own_role, peer_role;
        uint8_t own_cluster, peer_cluster;
        bool welcome;
    } cases[] = {
        {FABRIC_ROLE_NODE, FABRIC_ROLE_NODE, 1, 1, true},    {FABRIC_ROLE_NODE, FABRIC_ROLE_NODE, 1, 2, false},
        {FABRIC_ROLE_NODE, FABRIC_ROLE_NODE, 1, 0, false},   {FABRIC_ROLE_NODE, FABRIC_ROLE_NODE, 0, 1, false},
        {FABRIC_ROLE_NODE, FABRIC_ROLE_NODE, 0, 0, true},    {FABRIC_ROLE_NODE, FABRIC_ROLE_CLIENT, 1, 0, true},
        {FABRIC_ROLE_NODE, FABRIC_ROLE_CLIENT, 1, 1, true},  {FABRIC_ROLE_NODE, FABRIC_ROLE_CLIENT, 1, 2, false},
        {FABRIC_ROLE_CLIENT, FABRIC_ROLE_NODE, 0, 1, true},  {FABRIC_ROLE_CLIENT, FABRIC_ROLE_NODE, 1, 1, true},
        {FABRIC_ROLE_CLIENT, FABRIC_ROLE_NODE, 1, 2, false},
    };
    for (size_t i = 0; i < sizeof(cases) / sizeof(cases[0]); i++) {
        struct peer own = {0}, other = {0};
        struct fabric_options options = peer_options(cases[i].own_role), others = peer_options(cases[i].peer_role);
        memset(options.identity.cluster, cases[i].own_cluster, 16);
        memset(others.identity.cluster, cases[i].peer_cluster, 16);
        peer_create(&own, &options);
        peer_create(&other, &others);
        struct fabric__hello hello = hello_of(&other);
        char text[FABRIC__TEXT_BYTES];
        cr_assert_eq(fabric__hello_check(own.fabric, &hello, text), cases[i].welcome, "case %zu", i);
        peer_destroy(&own);
        peer_destroy(&other);
    }
}

static struct fabric__hello resealed(struct fabric__hello hello)
{
    struct fabric__hello copy = hello;
    copy.crc = crc32c(&copy, offsetof(struct fabric__hello, crc));
    return copy;
}

Test(faults, another_protocol_version_role_or_ring_is_refused_with_what_was_expected)
{
    struct peer own = {0};
    struct fabric_options options = peer_options(FABRIC_ROLE_NODE);
    peer_create(&own, &options);
    struct fabric__hello good = hello_of(&own), bad;
    char text[FABRIC__TEXT_BYTES];
    cr_assert(fabric__hello_check(own.fabric, &good, text));
    bad = good;
    bad.version = bad.version_min = FABRIC__VERSION + 1;
    bad = resealed(bad);
    cr_assert_not(fabric__hello_check(own.fabric, &bad, text));
    cr_assert_not_null(strstr(text, "expected fabric protocol"), "%s", text);
    bad = good;
    bad.version = FABRIC__VERSION + 1; /* a later release that still speaks ours */
    bad = resealed(bad);
    cr_assert(fabric__hello_check(own.fabric, &bad, text));
    bad = good;
    bad.role = 3;
    bad = resealed(bad);
    cr_assert_not(fabric__hello_check(own.fabric, &bad, text));
    bad = good;
    bad.ring_bytes = 100000;
    bad = resealed(bad);
    cr_assert_not(fabric__hello_check(own.fabric, &bad, text));
    peer_destroy(&own);
}

/* --- peers that go mad after a good handshake --- */

static void scribble_over_everything(const char *address, int ready)
{
    struct peer self = {0};
    connect_and(address, &self);
    (void)ready;
    struct random random;
    random_seed(&random, (uint64_t)getpid());
    struct fabric__shm *shm = &self.link->shm;
    for (int i = 0; i < 200; i++) {
        for (uint32_t at = 0; at < shm->peer.size; at += 8) {
            uint64_t word = random_next(&random);
            if (random_chance(&random, 600000))
                word = random_below(&random, 64) | random_below(&random, 6) << 32;
            memcpy(shm->peer.bytes + at, &word, 8);
        }
        atomic_store(&shm->peer.control->credit, random_chance(&random, 500000) ? 0 : random_next(&random));
        atomic_store(&shm->peer.control->tail, random_below(&random, shm->peer.size) & ~UINT64_C(7));
        for (unsigned word = 0; word < FABRIC__BELL_WORDS; word++)
            atomic_store(&shm->bell->words[word], UINT64_MAX);
        atomic_store(&shm->bell->sleeping, 0);
        uint64_t one = 1;
        (void)!write(shm->wake_fd, &one, sizeof(one));
    }
    pause();
}

Test(faults, a_peer_that_scribbles_over_shared_memory_loses_its_link)
{
    struct peer server = {0};
    serve(&server, "shm");
    for (int round = 0; round < 10; round++) {
        int ready;
        pid_t child = in_child(scribble_over_everything, fabric_listen_address(server.fabric, 0), &ready);
        unsigned downs = server.downs, ups = server.ups;
        POLL_UNTIL(&server, NULL, server.ups == ups + 1);
        POLL_UNTIL(&server, NULL, server.downs == downs + 1);
        cr_assert_eq(server.reason, FABRIC_DOWN_PROTOCOL, "%s", server.text);
        child_kill(child, SIGKILL);
        close(ready);
    }
    still_serves(&server);
    peer_destroy(&server);
}

static void garbage_down_the_stream(struct peer *server, struct random *random)
{
    struct peer left = {0};
    struct fabric_options node = peer_options(FABRIC_ROLE_NODE);
    peer_create(&left, &node);
    peer_connect(&left, fabric_listen_address(server->fabric, 0));
    unsigned ups = server->ups, downs = server->downs;
    POLL_UNTIL(&left, server, left.ups == 1 && server->ups == ups + 1);
    for (int i = 0; i < 100000 && server->downs == downs; i++) {
        uint8_t bytes[64];
        for (size_t at = 0; at < sizeof(bytes); at++)
            bytes[at] = (uint8_t)(1 + random_below(random, 255)); /* no zeros: no header begins within by chance */
        struct tcp__frame frame = {.kind = (uint8_t)random_below(random, 6),
                                   .length = (uint32_t)random_below(random, 64)};
        if (frame.kind == TCP__RING && random_chance(random, 500000))
            frame.offset = server->link->reader.head;
        if (random_chance(random, 900000))
            memcpy(bytes, &frame, sizeof(frame));
        (void)!send(left.link->fd, bytes, sizeof(bytes), MSG_NOSIGNAL | MSG_DONTWAIT);
        peer_poll(server);
    }
    cr_assert_eq(server->downs, downs + 1, "garbage was taken for a stream");
    cr_assert_eq(server->reason, FABRIC_DOWN_PROTOCOL, "%s", server->text);
    peer_destroy(&left);
}

Test(faults, garbage_after_a_good_handshake_closes_the_link)
{
    struct peer server = {0};
    serve(&server, "tcp");
    struct random random;
    uint64_t seed = random_os();
    cr_log_info("seed %lu", seed);
    random_seed(&random, seed);
    for (int round = 0; round < 30; round++)
        garbage_down_the_stream(&server, &random);
    still_serves(&server);
    peer_destroy(&server);
}

Test(faults, unknown_packets_on_the_rendezvous_socket_close_the_link)
{
    struct peer left = {0}, right = {0};
    peers_plain(&left, &right, "shm");
    cr_assert_eq(send(left.link->fd, "moo", 3, MSG_NOSIGNAL), 3);
    POLL_UNTIL(&left, &right, right.downs == 1);
    cr_assert_eq(right.reason, FABRIC_DOWN_PROTOCOL);
    peer_destroy(&left);
    peer_destroy(&right);
}

static void leave_without_a_word(const char *address, int ready)
{
    struct peer self = {0};
    connect_and(address, &self);
    (void)ready;
    (void)close(self.link->fd); /* the socket goes, the process lives on */
    pause();
}

Test(faults, a_closed_socket_is_no_proof_of_death)
{
    struct peer server = {0};
    serve(&server, "shm");
    int ready;
    pid_t child = in_child(leave_without_a_word, fabric_listen_address(server.fabric, 0), &ready);
    POLL_UNTIL(&server, NULL, server.downs == 1);
    cr_assert_eq(server.reason, FABRIC_DOWN_CLOSED, "%s", server.text);
    child_kill(child, SIGKILL);
    peer_destroy(&server);
}

static void exit_at_once(const char *address, int ready)
{
    struct peer self = {0};
    connect_and(address, &self);
    cr_assert_eq(peer_send(&self, "last", 4), SLUICE_OK);
    fabric_flush(self.fabric);
    (void)ready;
    _exit(0);
}

Test(faults, a_process_that_ends_by_itself_is_proved_dead_and_its_last_words_arrive)
{
    struct peer server = {0};
    serve(&server, "shm");
    int ready;
    pid_t child = in_child(exit_at_once, fabric_listen_address(server.fabric, 0), &ready);
    POLL_UNTIL(&server, NULL, server.downs == 1);
    cr_assert_eq(server.reason, FABRIC_DOWN_DEAD, "%s", server.text);
    cr_assert_eq(server.messages, 1);
    cr_assert_eq(waitpid(child, NULL, 0), child);
    peer_destroy(&server);
}

static void listen_and_wait(const char *scheme, int ready)
{
    struct peer self = {0};
    serve(&self, scheme);
    const char *address = fabric_listen_address(self.fabric, 0);
    (void)!write(ready, address, strlen(address));
    for (;;) {
        if (peer_poll(&self) == 0)
            fabric_wait(self.fabric, 100 * NS_PER_MS);
    }
}

Test(faults, the_death_of_who_was_connected_to_wakes_a_sleeper_at_once)
{
    struct peer client = {0};
    struct fabric_options options = peer_options(FABRIC_ROLE_CLIENT);
    int ready;
    char address[128];
    pid_t child = in_child(listen_and_wait, "shm", &ready);
    child_address(ready, address, sizeof(address));
    peer_create(&client, &options);
    peer_connect(&client, address);
    POLL_UNTIL(&client, NULL, client.ups == 1);
    child_kill(child, SIGKILL);
    uint64_t start = clock_monotonic_ns();
    while (client.downs == 0) {
        if (peer_poll(&client) == 0)
            fabric_wait(client.fabric, 10 * NS_PER_S);
    }
    cr_assert_eq(client.reason, FABRIC_DOWN_DEAD);
    cr_assert_lt(clock_monotonic_ns() - start, 200 * NS_PER_MS);
    peer_destroy(&client);
}

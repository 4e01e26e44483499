/* TLS over tcp: who may come, what is said to those who may not, and what of it can be seen from outside. */
#include <arpa/inet.h>
#include <errno.h>
#include <fcntl.h>
#include <openssl/err.h>
#include <openssl/ssl.h>
#include <poll.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <unistd.h>

#include "core/base/random.h"
#include "core/rdma/fabric__provider.h"
#include "tests/unit/rdma/certificates.h"
#include "tests/unit/rdma/peer.h"

/* --- helpers --- */

static struct fabric_tls *tls_of(const char *authority, struct certificate_options options)
{
    char error[256] = "";
    struct fabric_tls *tls;
    struct certificate own = certificate_make(options);
    cr_assert_eq(fabric_tls_create(authority, own.path, own.key_path, &tls, error, sizeof(error)), SLUICE_OK, "%s",
                 error);
    return tls;
}

static struct fabric_tls *our_tls(void)
{
    return tls_of(certificate_authority(AUTHORITY_OURS), (struct certificate_options){0});
}

static void create(struct peer *self, uint32_t role, struct fabric_tls *tls)
{
    struct fabric_options options = peer_options(role);
    options.tls = tls;
    peer_create(self, &options);
    fabric_tls_destroy(tls); /* the fabric has its own reference */
}

/* What is logged from here on. */
static int log_fd = -1;
static void watch_log(void)
{
    log_fd = memfd_create("log", 0);
    cr_assert_geq(log_fd, 0);
    cr_assert_geq(dup2(log_fd, STDERR_FILENO), 0);
}
static bool logged(const char *text)
{
    static char lines[65536];
    ssize_t got = pread(log_fd, lines, sizeof(lines) - 1, 0);
    lines[got > 0 ? got : 0] = 0;
    return strstr(lines, text) != NULL;
}

/* Connects and expects to be refused; both sides must say why in such words. */
static void refused(struct fabric_tls *server_tls, struct fabric_tls *client_tls, uint32_t role,
                    const char *server_says, const char *client_says)
{
    struct peer server = {0}, client = {0};
    watch_log();
    create(&server, FABRIC_ROLE_NODE, server_tls);
    create(&client, role, client_tls);
    peer_connect(&client, peer_listen(&server, "tcp"));
    POLL_UNTIL(&client, &server, client.downs == 1 && logged(server_says));
    cr_expect_eq(client.reason, FABRIC_DOWN_REFUSED);
    cr_expect_not_null(strstr(client.text, client_says), "the client was told: %s", client.text);
    cr_expect_eq(client.ups + server.ups + server.downs, 0, "nobody above hears of it");
    cr_expect(logged("refused 127.0.0.1:"), "the log says who it was");
    peer_destroy(&client);
    peer_destroy(&server);
}

/* --- who may come --- */

Test(tls, a_certificate_of_another_authority_is_refused_by_the_accepting_side)
{
    struct fabric_tls *stranger =
        tls_of(certificate_authorities(), (struct certificate_options){.authority = AUTHORITY_THEIRS});
    refused(our_tls(), stranger, FABRIC_ROLE_NODE, "the peer's TLS certificate is not accepted: unable to get local",
            "the peer does not accept our TLS certificate");
}

Test(tls, a_certificate_of_another_authority_is_refused_by_the_connecting_side)
{
    struct fabric_tls *stranger =
        tls_of(certificate_authorities(), (struct certificate_options){.authority = AUTHORITY_THEIRS});
    refused(stranger, our_tls(), FABRIC_ROLE_NODE, "the peer does not accept our TLS certificate",
            "the peer's TLS certificate is not accepted: unable to get local");
}

Test(tls, an_expired_certificate_is_refused_on_either_side)
{
    const char *authority = certificate_authority(AUTHORITY_OURS);
    const struct certificate_options expired = {.expired = true};
    refused(our_tls(), tls_of(authority, expired), FABRIC_ROLE_NODE, "not accepted: certificate has expired",
            "certificate expired");
    refused(tls_of(authority, expired), our_tls(), FABRIC_ROLE_NODE, "certificate expired",
            "not accepted: certificate has expired");
}

Test(tls, who_comes_in_the_clear_is_told_what_to_give)
{
    refused(our_tls(), NULL, FABRIC_ROLE_NODE, "TLS was expected, came a connection in the clear",
            "TLS was expected, came a connection in the clear: give it a CA, a certificate and a key");
}

Test(tls, who_comes_with_tls_to_a_side_without_is_refused)
{
    refused(NULL, our_tls(), FABRIC_ROLE_NODE, "expected a connection in the clear, came TLS",
            "closed the connection during the TLS handshake");
}

Test(tls, a_clients_certificate_makes_no_node)
{
    const char *authority = certificate_authority(AUTHORITY_OURS);
    const struct certificate_options for_clients = {.purposes = "clientAuth"};
    refused(our_tls(), tls_of(authority, for_clients), FABRIC_ROLE_NODE, "came one for clients alone",
            "came one for clients alone");
    refused(tls_of(authority, for_clients), our_tls(), FABRIC_ROLE_CLIENT, "the peer does not accept our TLS",
            "unsuitable certificate purpose");
    struct peer server = {0}, client = {0};
    create(&server, FABRIC_ROLE_NODE, our_tls());
    create(&client, FABRIC_ROLE_CLIENT, tls_of(authority, for_clients));
    peer_connect(&client, peer_listen(&server, "tcp"));
    POLL_UNTIL(&client, &server, client.ups == 1 && server.ups == 1);
    peer_destroy(&client);
    peer_destroy(&server);
}

/* --- strangers that speak TLS of their own --- */

struct stranger {
    int fd;
    SSL_CTX *context;
    SSL *ssl;
    bool over;
    char why[128]; /* what ended it */
};

static void stranger_connect(struct stranger *self, struct peer *server, const struct certificate *certificate,
                             int version)
{
    struct sockaddr_in to = {.sin_family = AF_INET, .sin_addr = {htonl(INADDR_LOOPBACK)}};
    to.sin_port = htons((uint16_t)atoi(strrchr(fabric_listen_address(server->fabric, 0), ':') + 1));
    *self = (struct stranger){.fd = socket(AF_INET, SOCK_STREAM, 0), .context = SSL_CTX_new(TLS_client_method())};
    cr_assert_eq(connect(self->fd, (struct sockaddr *)&to, sizeof(to)), 0);
    cr_assert_eq(fcntl(self->fd, F_SETFL, O_NONBLOCK), 0);
    cr_assert_eq(SSL_CTX_set_max_proto_version(self->context, version), 1);
    if (certificate) {
        cr_assert_eq(SSL_CTX_use_certificate_file(self->context, certificate->path, SSL_FILETYPE_PEM), 1);
        cr_assert_eq(SSL_CTX_use_PrivateKey_file(self->context, certificate->key_path, SSL_FILETYPE_PEM), 1);
    }
    self->ssl = SSL_new(self->context);
    cr_assert_eq(SSL_set_fd(self->ssl, self->fd), 1);
    SSL_set_connect_state(self->ssl);
}

/* Goes on with the handshake, then reads, until the other side ends it. */
static void stranger_step(struct stranger *self)
{
    char bytes[256];
    ERR_clear_error();
    int result = SSL_read(self->ssl, bytes, sizeof(bytes));
    int error = SSL_get_error(self->ssl, result);
    if (self->over || result > 0 || error == SSL_ERROR_WANT_READ || error == SSL_ERROR_WANT_WRITE)
        return;
    self->over = true;
    const char *reason = ERR_reason_error_string(ERR_peek_last_error());
    (void)snprintf(self->why, sizeof(self->why), "%s", reason ? reason : "closed");
}

static void stranger_end(struct stranger *self)
{
    SSL_free(self->ssl);
    SSL_CTX_free(self->context);
    close(self->fd);
}

#define STRANGER_UNTIL(stranger, server, condition) POLL_UNTIL((server), NULL, (stranger_step(stranger), (condition)))

Test(tls, who_shows_no_certificate_is_refused_and_told)
{
    struct peer server = {0};
    struct stranger stranger;
    watch_log();
    create(&server, FABRIC_ROLE_NODE, our_tls());
    (void)peer_listen(&server, "tcp");
    stranger_connect(&stranger, &server, NULL, TLS1_3_VERSION);
    STRANGER_UNTIL(&stranger, &server, stranger.over);
    cr_expect_not_null(strstr(stranger.why, "certificate required"), "%s", stranger.why);
    cr_expect(logged("a TLS certificate was expected, none came"));
    cr_expect_eq(server.ups, 0);
    stranger_end(&stranger);
    peer_destroy(&server);
}

Test(tls, an_older_tls_is_refused_even_with_a_good_certificate)
{
    struct peer server = {0};
    struct stranger stranger;
    struct certificate good = certificate_make((struct certificate_options){0});
    watch_log();
    create(&server, FABRIC_ROLE_NODE, our_tls());
    (void)peer_listen(&server, "tcp");
    stranger_connect(&stranger, &server, &good, TLS1_2_VERSION);
    STRANGER_UNTIL(&stranger, &server, stranger.over);
    cr_expect_not_null(strstr(stranger.why, "protocol version"), "%s", stranger.why);
    cr_expect(logged("TLS 1.3 was expected, came an older one"));
    stranger_end(&stranger);
    peer_destroy(&server);
}

Test(tls, a_good_certificate_and_no_sluice_behind_it_is_refused)
{
    struct peer server = {0};
    struct stranger stranger;
    struct certificate good = certificate_make((struct certificate_options){0});
    watch_log();
    create(&server, FABRIC_ROLE_NODE, our_tls());
    (void)peer_listen(&server, "tcp");
    stranger_connect(&stranger, &server, &good, TLS1_3_VERSION);
    STRANGER_UNTIL(&stranger, &server, SSL_is_init_finished(stranger.ssl));
    cr_assert_eq(SSL_write(stranger.ssl, "GET / HTTP/1.1\r\n\r\n", 18), 18);
    STRANGER_UNTIL(&stranger, &server, stranger.over);
    cr_expect(logged("expected a Sluice handshake, came something that begins with \"GET /"));
    stranger_end(&stranger);
    peer_destroy(&server);
}

/* --- between the two --- */

/* Carries bytes between two peers, looks for a word among them, and can spoil one. */
struct relay {
    int listener, near, far;
    char address[64];
    char target[64];
    bool seen_plain; /* the marker or the fabric's magic passed */
    uint64_t carried[2];
    uint64_t spoil_at; /* the first byte of SPOILED on its way from the near side; UINT64_MAX: none */
};
#define MARKER  "the cow in the barn"
#define SPOILED 8u /* longer than a record's header, of which the standard has a part ignored */

static void relay_open(struct relay *self, const char *target)
{
    struct sockaddr_in at = {.sin_family = AF_INET, .sin_addr = {htonl(INADDR_LOOPBACK)}};
    socklen_t size = sizeof(at);
    *self = (struct relay){
        .listener = socket(AF_INET, SOCK_STREAM | SOCK_NONBLOCK, 0), .near = -1, .far = -1, .spoil_at = UINT64_MAX};
    cr_assert_eq(bind(self->listener, (struct sockaddr *)&at, sizeof(at)), 0);
    cr_assert_eq(listen(self->listener, 4), 0);
    cr_assert_eq(getsockname(self->listener, (struct sockaddr *)&at, &size), 0);
    (void)snprintf(self->address, sizeof(self->address), "tcp:127.0.0.1:%u", ntohs(at.sin_port));
    (void)snprintf(self->target, sizeof(self->target), "%s", target);
}

static void carry(struct relay *self, int from, int to, unsigned way)
{
    char bytes[4096];
    ssize_t got = recv(from, bytes, sizeof(bytes), MSG_DONTWAIT);
    if (got <= 0) {
        if (got == 0)
            (void)shutdown(to, SHUT_WR);
        return;
    }
    if (memmem(bytes, (size_t)got, MARKER, strlen(MARKER)) || memmem(bytes, (size_t)got, "SLUICE", 6))
        self->seen_plain = true;
    for (uint64_t i = 0, at = self->carried[0]; i < (uint64_t)got && way == 0; i++, at++)
        if (at >= self->spoil_at && at - self->spoil_at < SPOILED)
            bytes[i] ^= 0x10;
    self->carried[way] += (uint64_t)got;
    for (ssize_t sent = 0; sent < got;) {
        ssize_t now = send(to, bytes + sent, (size_t)(got - sent), MSG_NOSIGNAL); /* blocks not: little is under way */
        if (now < 0)
            return;
        sent += now;
    }
}

static bool relay_step(struct relay *self)
{
    if (self->near < 0) {
        self->near = accept4(self->listener, NULL, NULL, 0);
        if (self->near < 0)
            return true;
        struct sockaddr_in to = {.sin_family = AF_INET, .sin_addr = {htonl(INADDR_LOOPBACK)}};
        to.sin_port = htons((uint16_t)atoi(strrchr(self->target, ':') + 1));
        self->far = socket(AF_INET, SOCK_STREAM, 0);
        cr_assert_eq(connect(self->far, (struct sockaddr *)&to, sizeof(to)), 0);
    }
    carry(self, self->near, self->far, 0);
    carry(self, self->far, self->near, 1);
    return true;
}

static void relay_close(struct relay *self)
{
    close(self->listener);
    close(self->near);
    close(self->far);
}

static bool marker_passes_in_the_clear(struct fabric_tls *server_tls, struct fabric_tls *client_tls)
{
    struct peer server = {0}, client = {0};
    struct relay relay;
    create(&server, FABRIC_ROLE_NODE, server_tls);
    create(&client, FABRIC_ROLE_NODE, client_tls);
    relay_open(&relay, peer_listen(&server, "tcp"));
    peer_connect(&client, relay.address);
    POLL_UNTIL(&client, &server, (relay_step(&relay), client.ups == 1 && server.ups == 1));
    cr_assert_eq(peer_send(&client, MARKER, sizeof(MARKER)), SLUICE_OK);
    cr_assert_eq(peer_send(&server, MARKER, sizeof(MARKER)), SLUICE_OK);
    POLL_UNTIL(&client, &server, (relay_step(&relay), client.messages == 1 && server.messages == 1));
    peer_destroy(&client);
    peer_destroy(&server);
    relay_close(&relay);
    return relay.seen_plain;
}

Test(tls, nothing_can_be_read_on_the_way)
{
    cr_assert(marker_passes_in_the_clear(NULL, NULL), "the relay would see it");
    cr_expect_not(marker_passes_in_the_clear(our_tls(), our_tls()));
}

Test(tls, a_byte_changed_on_the_way_ends_the_link_and_is_never_delivered)
{
    struct random random;
    uint64_t seed = random_os();
    cr_log_info("seed %lu", seed);
    random_seed(&random, seed);
    for (unsigned round = 0; round < 20; round++) {
        struct peer server = {0}, client = {0};
        struct relay relay;
        create(&server, FABRIC_ROLE_NODE, our_tls());
        create(&client, FABRIC_ROLE_NODE, our_tls());
        relay_open(&relay, peer_listen(&server, "tcp"));
        peer_connect(&client, relay.address);
        POLL_UNTIL(&client, &server, (relay_step(&relay), client.ups == 1 && server.ups == 1));
        relay.spoil_at = relay.carried[0] + random_below(&random, 300);
        char message[300] = MARKER;
        /* As much as the largest record holds, since it may be the length that is spoiled. */
        for (unsigned i = 0; i < 100; i++)
            cr_assert_eq(peer_send(&client, message, sizeof(message)), SLUICE_OK);
        POLL_UNTIL(&client, &server, (relay_step(&relay), server.downs == 1));
        cr_assert_eq(server.messages, 0);
        cr_assert_eq(server.reason, FABRIC_DOWN_CLOSED);
        peer_destroy(&client);
        peer_destroy(&server);
        relay_close(&relay);
    }
}

/* Bytes that are no TLS at any point of the handshake, from somebody who connected. */
Test(tls, garbage_at_any_point_of_the_handshake_closes_its_connection_alone)
{
    struct peer server = {0}, healthy = {0};
    struct random random;
    uint64_t seed = random_os();
    cr_log_info("seed %lu", seed);
    random_seed(&random, seed);
    create(&server, FABRIC_ROLE_NODE, our_tls());
    create(&healthy, FABRIC_ROLE_NODE, our_tls());
    const char *address = peer_listen(&server, "tcp");
    peer_connect(&healthy, address);
    POLL_UNTIL(&healthy, &server, healthy.ups == 1 && server.ups == 1);
    for (unsigned round = 0; round < 40; round++) {
        struct peer client = {0};
        struct relay relay;
        create(&client, FABRIC_ROLE_NODE, our_tls());
        relay_open(&relay, address);
        relay.spoil_at = random_below(&random, 900); /* hello, certificate, finished, and what comes behind them */
        peer_connect(&client, relay.address);
        unsigned ups = server.ups;
        POLL_UNTIL(&client, &server, (relay_step(&relay), client.downs == 1 || server.ups > ups));
        cr_expect(client.downs == 1 || relay.carried[0] <= relay.spoil_at, "byte %lu was spoiled, but went through",
                  relay.spoil_at);
        peer_destroy(&client);
        relay_close(&relay);
    }
    unsigned messages = server.messages;
    cr_assert_eq(peer_send(&healthy, "moo", 3), SLUICE_OK);
    POLL_UNTIL(&healthy, &server, server.messages == messages + 1);
    cr_expect_eq(healthy.downs, 0);
    peer_destroy(&healthy);
    peer_destroy(&server);
}

/* --- for as long as a link lasts --- */

Test(tls, keys_change_under_a_load_in_both_directions_and_no_byte_is_lost)
{
    struct peer left = {0}, right = {0};
    static uint8_t data[100000];
    fabric__records_per_key = 3;
    create(&left, FABRIC_ROLE_NODE, our_tls());
    create(&right, FABRIC_ROLE_NODE, our_tls());
    peer_connect(&left, peer_listen(&right, "tcp"));
    POLL_UNTIL(&left, &right, left.ups == 1 && right.ups == 1);
    for (unsigned i = 0; i < 300; i++) {
        cr_assert_eq(peer_send(&left, data, 1 + i * 331), SLUICE_OK);
        cr_assert_eq(peer_send(&right, data, 1 + i * 331), SLUICE_OK);
    }
    POLL_UNTIL(&left, &right, left.messages == 300 && right.messages == 300);
    cr_expect_eq(left.bytes, 300 + UINT64_C(331) * 299 * 150);
    cr_expect_eq(right.bytes, left.bytes);
    cr_expect_eq(left.downs + right.downs, 0);
    cr_expect_gt(fabric__session_keys(left.link->tcp.session), 100);
    cr_expect_gt(fabric__session_keys(right.link->tcp.session), 100);
    peer_destroy(&left);
    peer_destroy(&right);
}

/* --- files --- */

static void files_refused(const char *ca, const char *certificate, const char *key, const char *expected)
{
    char error[256] = "";
    struct fabric_tls *tls;
    cr_expect_eq(fabric_tls_create(ca, certificate, key, &tls, error, sizeof(error)), SLUICE_INVALID);
    cr_expect_not_null(strstr(error, expected), "\"%s\" was expected in: %s", expected, error);
    cr_expect_null(tls);
}

Test(tls, files_that_can_not_be_used_are_named_with_what_was_expected)
{
    char text[32], error[256];
    const char *ca = certificate_authority(AUTHORITY_OURS);
    struct certificate own = certificate_make((struct certificate_options){0}),
                       other = certificate_make((struct certificate_options){0});
    struct fabric_tls *tls;
    cr_expect_eq(fabric_tls_create(NULL, NULL, NULL, &tls, error, sizeof(error)), SLUICE_OK);
    cr_expect_null(tls);
    files_refused(NULL, own.path, own.key_path, "without the CA");
    files_refused(ca, NULL, own.key_path, "without the certificate");
    files_refused(ca, own.path, NULL, "without the key");
    files_refused("/nowhere/ca.pem", own.path, own.key_path, "/nowhere/ca.pem");
    files_refused(ca, "/nowhere/cert.pem", own.key_path, "No such file");
    files_refused(ca, own.path, certificate_file("no key at all\n", text), "without a password");
    files_refused(ca, own.path, other.key_path, "the PEM key of the certificate");
    files_refused(certificate_file("nothing\n", text), own.path, own.key_path, "PEM certificates were expected");
}

Test(tls, a_certificate_that_its_own_authority_refuses_is_warned_of_at_the_start)
{
    watch_log();
    fabric_tls_destroy(tls_of(certificate_authority(AUTHORITY_OURS), (struct certificate_options){0}));
    cr_expect_not(logged("will refuse"));
    fabric_tls_destroy(tls_of(certificate_authority(AUTHORITY_OURS), (struct certificate_options){.expired = true}));
    cr_expect(logged("peers with the same CA will refuse the certificate in"));
    cr_expect(logged("has expired"));
}

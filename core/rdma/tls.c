#include <errno.h>
#include <openssl/bio.h>
#include <openssl/err.h>
#include <openssl/ssl.h>
#include <openssl/x509v3.h>
#include <pthread.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>

#include "core/base/log.h"
#include "core/base/panic.h"
#include "core/rdma/fabric.h"
#include "core/rdma/fabric__tls.h"

#define RECORD_BYTES      ((size_t)SSL3_RT_MAX_PLAIN_LENGTH)
#define READ_BUFFER_BYTES ((size_t)64 << 10) /* several records with one system call; given back while idle */
#define ERROR_BYTES       200

struct fabric_tls {
    atomic_uint refs;
    SSL_CTX *context;
};

struct fabric__session {
    struct fabric_tls *tls;
    SSL *ssl;
    int fd;
    uint32_t records; /* sealed with the key in use */
    uint64_t keys;
    char error[ERROR_BYTES];
};

/* 2^23 full records of AES-GCM leave the margin that RFC 8446 asks for three times over. */
uint32_t fabric__records_per_key = 1u << 23;

/* --- the socket, as OpenSSL sees it: its own would raise SIGPIPE --- */

static int bio_write(BIO *bio, const char *data, int size)
{
    const struct fabric__session *self = BIO_get_data(bio);
    BIO_clear_retry_flags(bio);
    ssize_t sent = send(self->fd, data, (size_t)size, MSG_NOSIGNAL | MSG_DONTWAIT);
    if (sent < 0 && (errno == EAGAIN || errno == EINTR))
        BIO_set_retry_write(bio);
    return (int)sent;
}

static int bio_read(BIO *bio, char *data, int size)
{
    const struct fabric__session *self = BIO_get_data(bio);
    BIO_clear_retry_flags(bio);
    ssize_t got = recv(self->fd, data, (size_t)size, MSG_DONTWAIT);
    if (got < 0 && (errno == EAGAIN || errno == EINTR))
        BIO_set_retry_read(bio);
    if (got == 0)
        BIO_set_flags(bio, BIO_FLAGS_IN_EOF);
    return (int)got;
}

static long bio_control(BIO *bio, int command, long number, void *pointer)
{
    (void)number;
    (void)pointer;
    if (command == BIO_CTRL_EOF)
        return BIO_test_flags(bio, BIO_FLAGS_IN_EOF) != 0;
    return command == BIO_CTRL_FLUSH;
}

static BIO_METHOD *bio_method;
static void make_method(void)
{
    bio_method = BIO_meth_new(BIO_get_new_index() | BIO_TYPE_SOURCE_SINK, "fabric socket");
    if (bio_method && (!BIO_meth_set_write(bio_method, bio_write) || !BIO_meth_set_read(bio_method, bio_read) ||
                       !BIO_meth_set_ctrl(bio_method, bio_control))) {
        BIO_meth_free(bio_method);
        bio_method = NULL;
    }
}

/* --- certificates --- */

/* OpenSSL would ask a terminal. */
static int no_password(char *data, int size, int writing, void *arg)
{
    (void)data;
    (void)size;
    (void)writing;
    (void)arg;
    return 0;
}

/* The first of what went wrong, which the rest follows from. */
static const char *first_reason(void)
{
    unsigned long code = ERR_peek_error();
    if (ERR_SYSTEM_ERROR(code))
        return strerror(ERR_GET_REASON(code));
    const char *reason = ERR_reason_error_string(code);
    return reason ? reason : "an unknown reason";
}

/* A certificate that its own CA does not accept will be refused by everybody; better known now. But while a CA is being
 * replaced that may be as it should be, so it is no error. */
static void look_at_own(SSL_CTX *context, const char *path)
{
    X509_STORE_CTX *check = X509_STORE_CTX_new();
    X509 *own = SSL_CTX_get0_certificate(context);
    STACK_OF(X509) *chain = NULL;
    (void)SSL_CTX_get0_chain_certs(context, &chain);
    if (check && own && X509_STORE_CTX_init(check, SSL_CTX_get_cert_store(context), own, chain) == 1 &&
        X509_verify_cert(check) != 1)
        LOG_WARN("fabric", "peers with the same CA will refuse the certificate in %s: %s", path,
                 X509_verify_cert_error_string(X509_STORE_CTX_get_error(check)));
    X509_STORE_CTX_free(check);
    ERR_clear_error();
}

static enum sluice_status load(SSL_CTX *context, const char *ca, const char *certificate, const char *key, char *error,
                               size_t error_size)
{
    if (SSL_CTX_load_verify_file(context, ca) != 1) {
        (void)snprintf(error, error_size, "the TLS CA %s: PEM certificates were expected; came: %s", ca,
                       first_reason());
        return SLUICE_INVALID;
    }
    if (SSL_CTX_use_certificate_chain_file(context, certificate) != 1) {
        (void)snprintf(error, error_size,
                       "the TLS certificate %s: a PEM certificate and its chain were expected; came: %s", certificate,
                       first_reason());
        return SLUICE_INVALID;
    }
    if (SSL_CTX_use_PrivateKey_file(context, key, SSL_FILETYPE_PEM) != 1) {
        (void)snprintf(error, error_size,
                       "the TLS key %s: the PEM key of the certificate %s, without a password, was expected; came: %s",
                       key, certificate, first_reason());
        return SLUICE_INVALID;
    }
    look_at_own(context, certificate);
    return SLUICE_OK;
}

static bool configure(SSL_CTX *context)
{
    SSL_CTX_set_default_passwd_cb(context, no_password);
    SSL_CTX_set_verify(context, SSL_VERIFY_PEER | SSL_VERIFY_FAIL_IF_NO_PEER_CERT, NULL);
    SSL_CTX_set_mode(context, SSL_MODE_ENABLE_PARTIAL_WRITE | SSL_MODE_ACCEPT_MOVING_WRITE_BUFFER |
                                  SSL_MODE_RELEASE_BUFFERS | SSL_MODE_NO_AUTO_CHAIN);
    /* A link is set up once and lasts: nothing to resume, and a session ticket is one more secret. */
    (void)SSL_CTX_set_session_cache_mode(context, SSL_SESS_CACHE_OFF);
    (void)SSL_CTX_set_options(context, SSL_OP_NO_TICKET);
    SSL_CTX_set_read_ahead(context, 1);
    SSL_CTX_set_default_read_buffer_len(context, READ_BUFFER_BYTES);
    return SSL_CTX_set_num_tickets(context, 0) == 1 && SSL_CTX_set_min_proto_version(context, TLS1_3_VERSION) == 1 &&
           SSL_CTX_set_max_proto_version(context, TLS1_3_VERSION) == 1;
}

enum sluice_status fabric_tls_create(const char *ca, const char *certificate, const char *key, struct fabric_tls **out,
                                     char *error, size_t error_size)
{
    static pthread_once_t once = PTHREAD_ONCE_INIT;
    *out = NULL;
    if (!ca && !certificate && !key)
        return SLUICE_OK;
    if (!ca || !certificate || !key) {
        (void)snprintf(error, error_size,
                       "for TLS a CA, a certificate and its key were expected; came without %s: give all three or none",
                       !ca            ? "the CA"
                       : !certificate ? "the certificate"
                                      : "the key");
        return SLUICE_INVALID;
    }
    (void)pthread_once(&once, make_method);
    ERR_clear_error();
    enum sluice_status status = SLUICE_MEMORY;
    struct fabric_tls *self = malloc(sizeof(*self));
    SSL_CTX *context = SSL_CTX_new(TLS_method());
    if (!self || !context || !bio_method || !configure(context))
        (void)snprintf(error, error_size, "out of memory, or this OpenSSL has no TLS 1.3");
    else
        status = load(context, ca, certificate, key, error, error_size);
    ERR_clear_error();
    if (status != SLUICE_OK) {
        SSL_CTX_free(context);
        free(self);
        return status;
    }
    atomic_init(&self->refs, 1);
    self->context = context;
    *out = self;
    return SLUICE_OK;
}

struct fabric_tls *fabric__tls_ref(struct fabric_tls *self)
{
    if (self)
        (void)atomic_fetch_add_explicit(&self->refs, 1, memory_order_relaxed);
    return self;
}

void fabric_tls_destroy(struct fabric_tls *self)
{
    if (!self || atomic_fetch_sub_explicit(&self->refs, 1, memory_order_acq_rel) != 1)
        return;
    SSL_CTX_free(self->context);
    free(self);
}

/* --- sessions --- */

struct fabric__session *fabric__session_create(struct fabric_tls *tls, int fd, bool accepting)
{
    struct fabric__session *self = calloc(1, sizeof(*self));
    BIO *bio = BIO_new(bio_method);
    SSL *ssl = SSL_new(tls->context);
    if (!self || !bio || !ssl) {
        SSL_free(ssl);
        BIO_free(bio);
        free(self);
        return NULL;
    }
    *self = (struct fabric__session){.tls = fabric__tls_ref(tls), .ssl = ssl, .fd = fd};
    BIO_set_data(bio, self);
    BIO_set_init(bio, 1);
    SSL_set_bio(ssl, bio, bio);
    if (accepting)
        SSL_set_accept_state(ssl);
    else
        SSL_set_connect_state(ssl);
    return self;
}

void fabric__session_destroy(struct fabric__session *self)
{
    if (!self)
        return;
    SSL_free(self->ssl);
    fabric_tls_destroy(self->tls);
    free(self);
}

static bool said(unsigned long code, const char *word)
{
    const char *reason = ERR_reason_error_string(code);
    return reason && strstr(reason, word);
}

/* Words for a person who set up two machines, of which one does not like the other. */
static void explain(struct fabric__session *self)
{
    unsigned long code = ERR_peek_last_error();
    long verified = SSL_get_verify_result(self->ssl);
    int reason = ERR_GET_REASON(code);
    if (ERR_SYSTEM_ERROR(code))
        (void)snprintf(self->error, sizeof(self->error), "%s", strerror(reason));
    else if (reason == SSL_R_PEER_DID_NOT_RETURN_A_CERTIFICATE)
        (void)snprintf(self->error, sizeof(self->error), "a TLS certificate was expected, none came");
    else if (reason == SSL_R_CERTIFICATE_VERIFY_FAILED)
        (void)snprintf(self->error, sizeof(self->error), "the peer's TLS certificate is not accepted: %s",
                       X509_verify_cert_error_string(verified));
    else if (reason == SSL_R_UNSUPPORTED_PROTOCOL || reason == SSL_R_TLSV1_ALERT_PROTOCOL_VERSION)
        (void)snprintf(self->error, sizeof(self->error), "TLS 1.3 was expected, came an older one");
    else if (said(code, "alert") && (said(code, "certificate") || said(code, "unknown ca")))
        (void)snprintf(self->error, sizeof(self->error), "the peer does not accept our TLS certificate: %s",
                       first_reason());
    else
        (void)snprintf(self->error, sizeof(self->error), "TLS: %s", first_reason());
}

/* What a call came to that did not succeed. 0: the peer has closed. */
static ssize_t failed(struct fabric__session *self, int result, int system_error)
{
    switch (SSL_get_error(self->ssl, result)) {
    case SSL_ERROR_WANT_READ:
    case SSL_ERROR_WANT_WRITE:
        errno = EAGAIN;
        return -1;
    case SSL_ERROR_ZERO_RETURN:
        return 0;
    case SSL_ERROR_SYSCALL:
        errno = system_error ? system_error : ECONNRESET;
        (void)snprintf(self->error, sizeof(self->error), "%s", strerror(errno));
        return -1;
    default:
        /* A connection that ends without TLS's own farewell is as much a hint as any other end. */
        if (ERR_GET_REASON(ERR_peek_last_error()) == SSL_R_UNEXPECTED_EOF_WHILE_READING)
            return 0;
        explain(self);
        errno = EPROTO;
        return -1;
    }
}

enum fabric__shake fabric__session_shake(struct fabric__session *self)
{
    ERR_clear_error();
    errno = 0;
    int result = SSL_do_handshake(self->ssl);
    if (result == 1)
        return SHAKE__DONE;
    ssize_t left = failed(self, result, errno);
    if (left < 0 && errno == EAGAIN)
        return SHAKE__AGAIN;
    if (left == 0 || errno == ECONNRESET || errno == EPIPE)
        (void)snprintf(self->error, sizeof(self->error),
                       "the peer closed the connection during the TLS handshake: does it expect TLS?");
    return SHAKE__FAILED;
}

ssize_t fabric__session_read(struct fabric__session *self, void *data, size_t size)
{
    size_t got = 0;
    ERR_clear_error();
    errno = 0;
    int result = SSL_read_ex(self->ssl, data, size, &got);
    return result == 1 ? (ssize_t)got : failed(self, result, errno);
}

/* The next record's bytes: in place where a piece is long enough, else gathered, since a record costs a system call. */
static size_t next_record(const struct iovec *vectors, size_t count, size_t skip, uint8_t *room, const uint8_t **data)
{
    size_t gathered = 0;
    for (size_t i = 0; i < count && gathered < RECORD_BYTES; i++) {
        if (skip >= vectors[i].iov_len) {
            skip -= vectors[i].iov_len;
            continue;
        }
        const uint8_t *from = (const uint8_t *)vectors[i].iov_base + skip;
        size_t left = vectors[i].iov_len - skip;
        skip = 0;
        if (gathered == 0 && left >= RECORD_BYTES) {
            *data = from;
            return RECORD_BYTES;
        }
        size_t take = left < RECORD_BYTES - gathered ? left : RECORD_BYTES - gathered;
        memcpy(room + gathered, from, take);
        gathered += take;
    }
    *data = room;
    return gathered;
}

static void count_record(struct fabric__session *self)
{
    if (++self->records < fabric__records_per_key)
        return;
    /* The peer's own direction is its own business, so it is not asked to change too. */
    if (SSL_key_update(self->ssl, SSL_KEY_UPDATE_NOT_REQUESTED) != 1)
        return;
    self->records = 0;
    self->keys++;
}

uint64_t fabric__session_keys(const struct fabric__session *self)
{
    return self->keys + (SSL_get_key_update_type(self->ssl) == SSL_KEY_UPDATE_NONE); /* the last one counts once used */
}

ssize_t fabric__session_write(struct fabric__session *self, const struct iovec *vectors, size_t count)
{
    uint8_t room[SSL3_RT_MAX_PLAIN_LENGTH];
    size_t total = 0;
    for (;;) {
        const uint8_t *data;
        size_t size = next_record(vectors, count, total, room, &data), sent = 0;
        if (size == 0)
            return (ssize_t)total;
        ERR_clear_error();
        errno = 0;
        int result = SSL_write_ex(self->ssl, data, size, &sent);
        if (result != 1) {
            ssize_t left = failed(self, result, errno);
            if (left < 0 && errno == EAGAIN && total > 0)
                return (ssize_t)total;
            if (left == 0)
                errno = EPIPE;
            return -1;
        }
        total += sent;
        count_record(self);
    }
}

const char *fabric__session_error(const struct fabric__session *self)
{
    return self->error;
}

bool fabric__session_may_serve(const struct fabric__session *self)
{
    X509 *peer = SSL_get0_peer_certificate(self->ssl);
    return peer && X509_check_purpose(peer, X509_PURPOSE_SSL_SERVER, 0) == 1;
}

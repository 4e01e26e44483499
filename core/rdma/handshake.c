/* Who are you? The accepted side waits for a hello, checks it, and answers with its own and a verdict; the connecting
 * side checks that and sends its verdict in turn. So both know that both have agreed before LINK_UP, and a stranger
 * learns nothing. */
#include <ctype.h>
#include <stdio.h>
#include <string.h>

#include "core/base/crc.h"
#include "core/base/panic.h"
#include "core/rdma/fabric__provider.h"

#define CRC_BYTES_HELLO offsetof(struct fabric__hello, crc)

uint32_t fabric__ring_bytes(const struct fabric *self, uint32_t peer_role)
{
    const struct fabric_options *options = &self->options;
    if (options->ring_bytes)
        return options->ring_bytes;
    bool nodes = options->identity.role == FABRIC_ROLE_NODE && peer_role == FABRIC_ROLE_NODE;
    return nodes ? FABRIC__RING_BYTES_NODE : FABRIC__RING_BYTES_CLIENT;
}

void fabric__hello_make(const struct fabric_link *link, struct fabric__hello *out)
{
    const struct fabric_options *options = &link->fabric->options;
    *out = (struct fabric__hello){
        .magic = FABRIC__MAGIC_HELLO,
        .version = FABRIC__VERSION,
        .version_min = FABRIC__VERSION_MIN,
        .size = sizeof(*out),
        .role = options->identity.role,
        .node = options->identity.node,
        .incarnation = options->identity.incarnation,
        .features = options->identity.features,
        .ring_bytes = link->ring.size,
        .message_bytes_max = options->message_bytes_max,
    };
    memcpy(out->cluster, options->identity.cluster, sizeof(out->cluster));
    link->provider->hello_add(link, out);
    out->crc = crc32c(out, CRC_BYTES_HELLO);
}

static void cluster_text(const uint8_t cluster[16], char out[33])
{
    for (int i = 0; i < 16; i++)
        (void)snprintf(out + 2 * i, 3, "%02x", cluster[i]);
}

static bool all_zero(const uint8_t cluster[16])
{
    uint8_t any = 0;
    for (int i = 0; i < 16; i++)
        any |= cluster[i];
    return any == 0;
}

static bool cluster_check(const struct fabric_identity *own, const struct fabric__hello *hello,
                          char text[FABRIC__TEXT_BYTES])
{
    if (memcmp(own->cluster, hello->cluster, sizeof(own->cluster)) == 0)
        return true;
    if (hello->role == FABRIC_ROLE_CLIENT && all_zero(hello->cluster))
        return true;
    if (own->role == FABRIC_ROLE_CLIENT && all_zero(own->cluster))
        return true;
    char expected[33], came[33];
    cluster_text(own->cluster, expected);
    cluster_text(hello->cluster, came);
    (void)snprintf(text, FABRIC__TEXT_BYTES,
                   "expected cluster %s, came %s: a wrong address, or a process left over from another cluster",
                   expected, came);
    return false;
}

bool fabric__hello_check(const struct fabric *self, const struct fabric__hello *hello, char text[FABRIC__TEXT_BYTES])
{
    if (hello->magic != FABRIC__MAGIC_HELLO || hello->crc != crc32c(hello, CRC_BYTES_HELLO) ||
        hello->size != sizeof(*hello)) {
        char came[48];
        fabric__describe((const uint8_t *)hello, 8, came, sizeof(came));
        (void)snprintf(text, FABRIC__TEXT_BYTES, "expected a Sluice handshake, came something that begins with \"%s\"",
                       came);
        return false;
    }
    if (hello->version < FABRIC__VERSION_MIN || hello->version_min > FABRIC__VERSION) {
        (void)snprintf(text, FABRIC__TEXT_BYTES,
                       "expected fabric protocol %u to %u, came %u to %u: upgrade the older side", FABRIC__VERSION_MIN,
                       FABRIC__VERSION, hello->version_min, hello->version);
        return false;
    }
    if (hello->role != FABRIC_ROLE_NODE && hello->role != FABRIC_ROLE_CLIENT) {
        (void)snprintf(text, FABRIC__TEXT_BYTES, "expected a node (1) or a client (2), came role %u", hello->role);
        return false;
    }
    if (!ring__size_valid(hello->ring_bytes)) {
        (void)snprintf(text, FABRIC__TEXT_BYTES, "expected a ring of a power of two from %u to %u bytes, came %u",
                       RING__BYTES_MIN, RING__BYTES_MAX, hello->ring_bytes);
        return false;
    }
    return cluster_check(&self->options.identity, hello, text);
}

static void take(struct fabric_link *link, const struct fabric__hello *hello)
{
    link->peer = (struct fabric_identity){
        .role = hello->role,
        .node = hello->node,
        .incarnation = hello->incarnation,
        .features = hello->features & link->fabric->options.identity.features,
    };
    memcpy(link->peer.cluster, hello->cluster, sizeof(link->peer.cluster));
    link->peer_message_max = hello->message_bytes_max;
    ring__writer_init(&link->writer, hello->ring_bytes);
}

void fabric__verdict_make(const char *text, struct fabric__verdict *out)
{
    *out = (struct fabric__verdict){.magic = FABRIC__MAGIC_VERDICT, .status = text ? SLUICE_UNPROCESSABLE : SLUICE_OK};
    if (text)
        (void)snprintf(out->text, sizeof(out->text), "%s", text);
    out->crc = crc32c(out->text, sizeof(out->text));
}

bool fabric__own_ring(struct fabric_link *link, uint32_t peer_role)
{
    if (ring__memory_create(fabric__ring_bytes(link->fabric, peer_role), &link->ring) != SLUICE_OK)
        return false;
    ring__reader_init(&link->reader, &link->ring, link->fabric->options.message_bytes_max);
    return true;
}

void fabric__refuse(struct fabric_link *link, const char *text)
{
    if (link->provider->send_verdict(link, text) != SLUICE_OK)
        fabric__fail(link, FABRIC_DOWN_CLOSED, "%s (and it could not be told)", text);
    else
        fabric__fail(link, FABRIC_DOWN_REFUSED, "%s", text);
}

static void send_hello(struct fabric_link *link)
{
    struct fabric__hello hello;
    fabric__hello_make(link, &hello);
    if (link->provider->send_hello(link, &hello) != SLUICE_OK)
        fabric__fail(link, FABRIC_DOWN_CLOSED, "%s closed the connection during the handshake", link->name);
}

static void accept_peer(struct fabric_link *link)
{
    if (link->provider->send_verdict(link, NULL) != SLUICE_OK)
        fabric__fail(link, FABRIC_DOWN_CLOSED, "%s closed the connection during the handshake", link->name);
}

void fabric__greet(struct fabric_link *link)
{
    /* Who connects from a node connects to a node; a client's links get the smaller ring. */
    if (!fabric__own_ring(link, FABRIC_ROLE_NODE) || !link->provider->ready(link)) {
        fabric__fail(link, FABRIC_DOWN_CLOSED, "no memory or descriptors for a further link");
        return;
    }
    fabric__set_state(link, LINK__HELLO);
    send_hello(link);
}

void fabric__on_hello(struct fabric_link *link, const struct fabric__hello *hello)
{
    char text[FABRIC__TEXT_BYTES];
    if (link->state != LINK__HELLO) {
        fabric__refuse(link, "a second hello came");
        return;
    }
    if (!fabric__hello_check(link->fabric, hello, text)) {
        fabric__refuse(link, text);
        return;
    }
    take(link, hello);
    if (link->provider->adopt(link, hello) != SLUICE_OK) {
        fabric__refuse(link,
                       "what came with the handshake is not what the hello says, or there is no memory to map it");
        return;
    }
    if (link->accepted) {
        if (!fabric__own_ring(link, hello->role) || !link->provider->ready(link)) {
            fabric__refuse(link, "no memory or descriptors for a further link");
            return;
        }
        send_hello(link);
        if (link->state == LINK__HELLO)
            accept_peer(link);
    }
    if (link->state == LINK__HELLO)
        fabric__set_state(link, LINK__VERDICT);
}

void fabric__on_verdict(struct fabric_link *link, const struct fabric__verdict *verdict)
{
    if (verdict->magic != FABRIC__MAGIC_VERDICT || verdict->crc != crc32c(verdict->text, sizeof(verdict->text))) {
        fabric__fail(link, FABRIC_DOWN_PROTOCOL, "the handshake's verdict is damaged");
        return;
    }
    if (verdict->status != SLUICE_OK) {
        char text[FABRIC__TEXT_BYTES];
        size_t size = strnlen(verdict->text, sizeof(verdict->text) - 1);
        fabric__describe((const uint8_t *)verdict->text, size, text, sizeof(text));
        fabric__fail(link, FABRIC_DOWN_REFUSED, "refused by the peer: %s", text);
        return;
    }
    if (link->state != LINK__VERDICT) {
        fabric__fail(link, FABRIC_DOWN_PROTOCOL, "a verdict came before the hello");
        return;
    }
    if (!link->accepted)
        accept_peer(link);
    if (link->state == LINK__VERDICT)
        fabric__set_state(link, LINK__ANSWERED);
}

void fabric__handshake_expired(struct fabric_link *link)
{
    fabric__fail(link, FABRIC_DOWN_CLOSED, "%s within %u ms",
                 link->state == LINK__OPENING ? "could not be reached" : "the handshake did not end",
                 link->fabric->options.connect_timeout_ms);
}

void fabric__describe(const uint8_t *data, size_t size, char *out, size_t out_size)
{
    size_t at = 0;
    for (size_t i = 0; i < size && at + 5 <= out_size; i++) {
        if (isprint(data[i]) && data[i] != '\\')
            out[at++] = (char)data[i];
        else
            at += (size_t)snprintf(out + at, out_size - at, "\\x%02x", data[i]);
    }
    out[at] = 0;
}

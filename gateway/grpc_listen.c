/* How gRPC may be reached: the same rule as HTTP's for its own address, and the same certificate. */
#include <stdio.h>
#include <string.h>

#include "gateway/grpc__.h"
#include "gateway/http__.h"

/* gRPC itself also takes paths, names and ranges of ports: here an address is an address. */
static bool address_of(const char *text, struct rpc_listen *out, bool *loopback)
{
    const char *host;
    size_t size;
    uint16_t port;
    if (!parse_host(text, strlen(text), &host, &size, &port))
        return false;
    const char *end = host + size + (host[size] == ']');
    if (end[0] != ':' || end[1] == '\0')
        return false;
    if (size == strlen("localhost") && strncasecmp(host, "localhost", size) == 0) {
        host = "127.0.0.1"; /* whatever the host's tables make of the name */
        size = strlen(host);
    }
    *loopback = parse_host_is_loopback(host, size);
    const char *format = memchr(host, ':', size) != NULL ? "[%.*s]:%u" : "%.*s:%u";
    int length = snprintf(out->address, sizeof(out->address), format, (int)size, host, port);
    return parse_host_is_address(host, size) && length > 0 && (size_t)length < sizeof(out->address);
}

enum sluice_status rpc__listen(const struct gateway *gateway, const char *address, struct rpc_listen *out, char *error,
                               size_t error_size)
{
    bool loopback;
    *out = (struct rpc_listen){.certificate = gateway->tls_certificate,
                               .key = gateway->tls_key,
                               .memory_max = (size_t)gateway->options.memory_max};
    if (!address_of(address, out, &loopback)) {
        snprintf(error, error_size,
                 "\"%s\" is no address for gRPC: expected HOST:PORT, HOST an IP address or localhost", address);
        return SLUICE_INVALID;
    }
    if (loopback || gateway->options.insecure || (!auth_is_open(gateway->auth) && gateway->tls_key != NULL))
        return SLUICE_OK;
    snprintf(error, error_size,
             "gRPC on %s can be reached from other machines: give %s, or listen on 127.0.0.1, or take the risk with "
             "--insecure",
             address, auth_is_open(gateway->auth) ? "--tokens FILE" : "--tls-certificate and --tls-key");
    return SLUICE_INVALID;
}

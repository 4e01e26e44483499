/* /healthz and /readyz for probes, on a port of their own and a thread that sleeps until somebody asks. */
#include <arpa/inet.h>
#include <microhttpd.h>
#include <netdb.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "core/node/node__.h"

static enum MHD_Result answer(void *arg, struct MHD_Connection *connection, const char *url, const char *method,
                              const char *version, const char *upload, size_t *upload_size, void **context)
{
    struct node *self = arg;
    const char *text = "not found: this port answers /healthz and /readyz\n";
    unsigned status = MHD_HTTP_NOT_FOUND;
    (void)version;
    (void)upload;
    (void)upload_size;
    (void)context;
    if (strcmp(method, "GET") != 0 && strcmp(method, "HEAD") != 0) {
        text = "only GET and HEAD are offered here\n";
        status = MHD_HTTP_METHOD_NOT_ALLOWED;
    } else if (strcmp(url, "/healthz") == 0) {
        text = "ok\n";
        status = MHD_HTTP_OK;
    } else if (strcmp(url, "/readyz") == 0) {
        bool ready = node_ready(self);
        text = ready ? "ready\n" : "not ready: the cluster map or a leader is missing\n";
        status = ready ? MHD_HTTP_OK : MHD_HTTP_SERVICE_UNAVAILABLE;
    }
    struct MHD_Response *response =
        MHD_create_response_from_buffer(strlen(text), (void *)(uintptr_t)text, MHD_RESPMEM_PERSISTENT);
    if (response == NULL)
        return MHD_NO;
    MHD_add_response_header(response, "Content-Type", "text/plain");
    enum MHD_Result result = MHD_queue_response(connection, status, response);
    MHD_destroy_response(response);
    return result;
}

enum sluice_status health__start(struct node *self, char *error, size_t error_size)
{
    const char *address = self->options.health_address;
    if (address == NULL)
        return SLUICE_OK;
    const char *colon = strrchr(address, ':');
    char host[256];
    if (colon == NULL || colon == address || (size_t)(colon - address) >= sizeof(host)) {
        snprintf(error, error_size, "the health address is written HOST:PORT, like 0.0.0.0:7080; came: %s", address);
        return SLUICE_INVALID;
    }
    snprintf(host, sizeof(host), "%.*s", (int)(colon - address), address);
    const struct addrinfo hints = {.ai_family = AF_INET, .ai_socktype = SOCK_STREAM, .ai_flags = AI_PASSIVE};
    struct addrinfo *found = NULL;
    int failed = getaddrinfo(host, colon + 1, &hints, &found);
    if (failed != 0) {
        snprintf(error, error_size, "the health address %s cannot be resolved: %s", address, gai_strerror(failed));
        return SLUICE_INVALID;
    }
    self->health = MHD_start_daemon(MHD_USE_EPOLL_INTERNAL_THREAD, 0, NULL, NULL, answer, self, MHD_OPTION_SOCK_ADDR,
                                    found->ai_addr, MHD_OPTION_CONNECTION_TIMEOUT, 10u, MHD_OPTION_CONNECTION_LIMIT,
                                    64u, MHD_OPTION_END);
    freeaddrinfo(found);
    if (self->health == NULL) {
        snprintf(error, error_size, "cannot listen on the health address %s; is the port taken?", address);
        return SLUICE_IO;
    }
    return SLUICE_OK;
}

void health__stop(struct node *self)
{
    if (self->health != NULL)
        MHD_stop_daemon(self->health);
    self->health = NULL;
}

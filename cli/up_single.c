/* One node and the gateway in this process. */
#include <poll.h>
#include <pthread.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <sys/signalfd.h>
#include <unistd.h>

#include "cli/up.h"
#include "core/base/clock.h"
#include "core/base/log.h"
#include "core/node/node.h"
#include "gateway/gateway.h"

#define READY_POLL_MS  50
#define READY_WAIT_MAX (30 * NS_PER_S)

static void *run_gateway(void *arg)
{
    gateway_run(arg);
    return NULL;
}

/* Until a signal, or until the node has to stop. */
static int serve(const struct up *self, const struct node *node)
{
    sigset_t signals;
    sigemptyset(&signals);
    sigaddset(&signals, SIGINT);
    sigaddset(&signals, SIGTERM);
    int fd = signalfd(-1, &signals, SFD_CLOEXEC);
    if (fd < 0) {
        cli_complain(&self->common, "signals cannot be waited for");
        return CLI_ERROR;
    }
    struct pollfd watched[2] = {{.fd = fd, .events = POLLIN}, {.fd = node_failed_fd(node), .events = POLLIN}};
    uint64_t started = clock_monotonic_ns();
    bool greeted = false;
    int code = CLI_OK;
    for (;;) {
        int ready = poll(watched, 2, greeted ? -1 : READY_POLL_MS);
        if (ready > 0 && watched[1].revents != 0) {
            cli_complain(&self->common, "the node had to stop: %s", node_error(node));
            code = CLI_ERROR;
        }
        if (ready > 0)
            break;
        if (greeted)
            continue;
        if (node_ready(node) && up_ready(self)) {
            printf("Sluice is running: one node and the gateway in this process (pid %ld).\n\n", (long)getpid());
            up_greet(self);
            greeted = true;
        } else if (clock_monotonic_ns() - started > READY_WAIT_MAX) {
            cli_complain(&self->common, "the node is not ready after 30 seconds; its words are above");
            code = CLI_ERROR;
            break;
        }
    }
    close(fd);
    return code;
}

static int with_gateway(const struct up *self, struct node *node, const char *address)
{
    const struct gateway_options options = {.listen = self->http,
                                            .grpc_listen = self->grpc,
                                            .nodes = &address,
                                            .node_count = 1,
                                            .tokens_path = self->tokens,
                                            .tls_certificate_path = self->certificate,
                                            .tls_key_path = self->key,
                                            .insecure = self->insecure};
    struct gateway *gateway = NULL;
    char error[512];
    pthread_t thread;
    int code = CLI_ERROR;
    if (gateway_create(&options, &gateway, error, sizeof(error)) != SLUICE_OK) {
        cli_complain(&self->common, "%s", error);
        return CLI_ERROR;
    }
    if (node_start(node) != SLUICE_OK) {
        cli_complain(&self->common, "the node's threads could not be started");
    } else {
        if (pthread_create(&thread, NULL, run_gateway, gateway) != 0) {
            cli_complain(&self->common, "the gateway's thread could not be started");
        } else {
            code = serve(self, node);
            gateway_stop(gateway);
            pthread_join(thread, NULL);
        }
        node_stop(node);
    }
    gateway_destroy(gateway);
    return code;
}

int up_single(struct up *self)
{
    char address[UP_ADDRESS_BYTES], error[512];
    const char *listen = address;
    char *data = up_path(self, "node1");
    up_address(self, 1, address);
    const struct node_options options = {.size = sizeof(options),
                                         .id = 1,
                                         .data_path = data,
                                         .cluster_name = self->cluster,
                                         .listen = &listen,
                                         .listen_count = 1,
                                         .allow_inprocess = true};
    struct node *node = NULL;
    int code = CLI_ERROR;
    log_set_level((enum log_level)log_level_parse(self->log_level != NULL ? self->log_level : "warn"));
    if (node_create(&options, &node, error, sizeof(error)) != SLUICE_OK) {
        cli_complain(&self->common, "%s", error);
    } else {
        code = with_gateway(self, node, listen);
        node_destroy(node);
    }
    free(data);
    return code;
}

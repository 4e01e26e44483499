/* How the gateway and the cluster are. */
#include <string.h>

#include "gateway/grpc.h"
#include "gateway/http__.h"

/* Compiled in, so that the description always is of this program. */
__asm__(".section .rodata\n"
        ".global openapi__text\n"
        ".type openapi__text, @object\n"
        "openapi__text:\n"
        ".incbin \"openapi.yaml\"\n"
        "openapi__end:\n"
        ".byte 0\n"
        ".balign 8\n"
        ".global openapi__size\n"
        ".type openapi__size, @object\n"
        "openapi__size:\n"
        ".quad openapi__end - openapi__text\n"
        ".previous\n");

bool status__check(struct request *request)
{
    (void)request;
    return true; /* any token will do */
}

static void on_cluster(void *arg, const struct sluice_answer *answer)
{
    struct request *request = arg;
    if (answer->status == SLUICE_OK)
        reply__json_text(request, 200, answer->json);
    else
        reply__answer_problem(request, answer);
}

void status__cluster(struct request *request)
{
    sluice_cluster(request->gateway->client, &request->call, on_cluster, request);
}

void status__health(struct request *request)
{
    static const char text[] = "{\"status\":\"ok\"}";
    reply__static(request, 200, "application/json", text, sizeof(text) - 1);
}

void status__ready(struct request *request)
{
    static const char text[] = "{\"status\":\"ready\"}";
    if (!request->gateway->closing && sluice_ready(request->gateway->client))
        reply__static(request, 200, "application/json", text, sizeof(text) - 1);
    else
        reply__problem(request, SLUICE_UNAVAILABLE,
                       "no majority of the nodes is connected; look at the nodes' logs and at --nodes");
}

void status__metrics(struct request *request)
{
    struct gateway *gateway = request->gateway;
    struct emit text = {0};
    struct sluice_figures figures = {0};
    sluice_figures(gateway->client, &figures);
    metrics_emit(&gateway->metrics, &figures, gateway->requests, gateway->memory, sluice_ready(gateway->client), &text);
    if (gateway->grpc != NULL)
        gateway_grpc_metrics(gateway->grpc, &text);
    reply__response(request, 200, reply__json_response(&text, "text/plain; version=0.0.4"));
}

void status__openapi(struct request *request)
{
    reply__static(request, 200, "application/yaml", openapi__text, openapi__size);
}

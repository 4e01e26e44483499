/* What is offered where. openapi.yaml says the same at length. */
#include <string.h>

#include "gateway/http__.h"

static const char *const none[] = {NULL};
static const char *const put_parameters[] = {"ack", NULL};
static const char *const get_parameters[] = {"version", "at", "clock", "consistency", NULL};
static const char *const list_parameters[] = {"prefix", "delimiter", "limit", "cursor", "at", NULL};
static const char *const history_parameters[] = {"from", "to", "clock", "limit", "order", "cursor", "data", NULL};
static const char *const batch_parameters[] = {"ack", NULL};
static const char *const watch_parameters[] = {"key", "prefix", "glob", "regex", "from", "data", NULL};
static const char *const delete_pool_parameters[] = {"force", NULL};
static const char *const remove_node_parameters[] = {"force", NULL};
static const char *const upload_parameters[] = {"name", NULL};

/* The longer path first where one begins with another. */
static const struct route routes[] = {
    {METRICS_OBJECT,
     "/v1/objects/",
     TAIL_KEY,
     NULL,
     {{METHOD_GET, BODY_NONE, get_parameters, false, object__check_get, object__get},
      {METHOD_PUT, BODY_VALUE, put_parameters, false, object__check_put, object__put},
      {METHOD_DELETE, BODY_NONE, put_parameters, false, object__check_delete, object__delete}}},
    {METRICS_LIST,
     "/v1/objects",
     TAIL_NONE,
     NULL,
     {{METHOD_GET, BODY_NONE, list_parameters, false, list__check, list__run}}},
    {METRICS_HISTORY,
     "/v1/history/",
     TAIL_KEY,
     NULL,
     {{METHOD_GET, BODY_NONE, history_parameters, true, history__check, history__run}}},
    {METRICS_SNAPSHOT,
     "/v1/snapshot",
     TAIL_NONE,
     NULL,
     {{METHOD_POST, BODY_JSON, none, false, many__check, snapshot__run}}},
    {METRICS_BATCH,
     "/v1/batch",
     TAIL_NONE,
     NULL,
     {{METHOD_POST, BODY_BATCH, batch_parameters, false, many__check, batch__run}}},
    {METRICS_WATCH,
     "/v1/watch",
     TAIL_NONE,
     NULL,
     {{METHOD_GET, BODY_NONE, watch_parameters, true, watch__check, watch__run}}},
    {METRICS_POOL,
     "/v1/pools/",
     TAIL_POOL,
     NULL,
     {{METHOD_GET, BODY_NONE, none, false, pool__check_read, pool__get},
      {METHOD_PUT, BODY_JSON, none, false, pool__check_write, pool__put},
      {METHOD_DELETE, BODY_NONE, delete_pool_parameters, false, pool__check_write, pool__delete}}},
    {METRICS_POOLS, "/v1/pools", TAIL_NONE, NULL, {{METHOD_GET, BODY_NONE, none, false, pool__check_read, pool__get}}},
    {METRICS_LAMBDA_ENABLE,
     "/v1/lambdas/",
     TAIL_LAMBDA,
     "/enable",
     {{METHOD_POST, BODY_NONE, none, false, lambda__check, lambda__enable}}},
    {METRICS_LAMBDA_DISABLE,
     "/v1/lambdas/",
     TAIL_LAMBDA,
     "/disable",
     {{METHOD_POST, BODY_NONE, none, false, lambda__check, lambda__disable}}},
    {METRICS_LAMBDA_LOG,
     "/v1/lambdas/",
     TAIL_LAMBDA,
     "/log",
     {{METHOD_GET, BODY_NONE, none, true, lambda__check, lambda__log}}},
    {METRICS_LAMBDA,
     "/v1/lambdas/",
     TAIL_LAMBDA,
     NULL,
     {{METHOD_GET, BODY_NONE, none, false, lambda__check, lambda__get},
      {METHOD_DELETE, BODY_NONE, none, false, lambda__check, lambda__delete}}},
    {METRICS_LAMBDAS,
     "/v1/lambdas",
     TAIL_NONE,
     NULL,
     {{METHOD_GET, BODY_NONE, none, false, lambda__check, lambda__get},
      {METHOD_POST, BODY_LAMBDA, upload_parameters, false, lambda__check_upload, lambda__upload}}},
    {METRICS_NODE_REPLACE,
     "/v1/cluster/nodes/",
     TAIL_NODE,
     "/replace",
     {{METHOD_POST, BODY_JSON, none, false, nodes__check, nodes__replace}}},
    {METRICS_NODE,
     "/v1/cluster/nodes/",
     TAIL_NODE,
     NULL,
     {{METHOD_DELETE, BODY_NONE, remove_node_parameters, false, nodes__check, nodes__remove}}},
    {METRICS_NODES,
     "/v1/cluster/nodes",
     TAIL_NONE,
     NULL,
     {{METHOD_POST, BODY_JSON, none, false, nodes__check, nodes__add}}},
    {METRICS_TRANSFER,
     "/v1/cluster/transfer",
     TAIL_NONE,
     NULL,
     {{METHOD_POST, BODY_JSON, none, false, nodes__check, nodes__transfer}}},
    {METRICS_CLUSTER,
     "/v1/cluster",
     TAIL_NONE,
     NULL,
     {{METHOD_GET, BODY_NONE, none, false, status__check, status__cluster}}},
    {METRICS_HEALTH, "/healthz", TAIL_NONE, NULL, {{METHOD_GET, BODY_NONE, none, false, NULL, status__health}}},
    {METRICS_READY, "/readyz", TAIL_NONE, NULL, {{METHOD_GET, BODY_NONE, none, false, NULL, status__ready}}},
    {METRICS_METRICS,
     "/metrics",
     TAIL_NONE,
     NULL,
     {{METHOD_GET, BODY_NONE, none, false, status__check, status__metrics}}},
    {METRICS_OPENAPI, "/openapi.yaml", TAIL_NONE, NULL, {{METHOD_GET, BODY_NONE, none, false, NULL, status__openapi}}},
};

const struct route *route__match(const char *path, size_t size, const char **tail, size_t *tail_size)
{
    for (size_t i = 0; i < sizeof(routes) / sizeof(routes[0]); i++) {
        const struct route *route = &routes[i];
        size_t length = strlen(route->path), suffix = route->suffix != NULL ? strlen(route->suffix) : 0;
        if (size < length + suffix || memcmp(route->path, path, length) != 0)
            continue;
        if (route->tail == TAIL_NONE && size != length)
            continue;
        if (suffix > 0 && (size == length + suffix || memcmp(path + size - suffix, route->suffix, suffix) != 0))
            continue;
        *tail = path + length;
        *tail_size = size - length - suffix;
        if ((route->tail == TAIL_LAMBDA || route->tail == TAIL_NODE) && memchr(*tail, '/', *tail_size) != NULL)
            continue;
        return route;
    }
    return NULL;
}

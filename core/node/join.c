/* The first start of a node that is added to a running cluster: as a client it asks the members to take it in, and
 * learns which cluster that is and where its nodes are. */
#include <jansson.h>
#include <poll.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "api/sluice.h"
#include "core/node/node__.h"

#define JOIN_NS       (30 * NS_PER_S)
#define STARTS_UNTOLD 1000u

struct answer {
    bool done;
    enum sluice_status status;
    char detail[400];
    json_t *json;
};

static void answered(void *arg, const struct sluice_answer *answer)
{
    struct answer *self = arg;
    self->done = true;
    self->status = answer->status;
    snprintf(self->detail, sizeof(self->detail), "%s", answer->detail == NULL ? "" : answer->detail);
    self->json = answer->json == NULL ? NULL : json_loads(answer->json, 0, NULL);
}

static void wait_for(struct sluice_client *client, const struct answer *answer)
{
    for (sluice_process(client); !answer->done; sluice_process(client)) {
        struct pollfd watched = {.fd = sluice_fd(client), .events = POLLIN};
        uint64_t timeout = sluice_timeout_ns(client);
        if (timeout > 100 * NS_PER_MS)
            timeout = 100 * NS_PER_MS;
        const struct timespec limit = {.tv_nsec = (long)timeout};
        if (sluice_arm(client))
            (void)ppoll(&watched, 1, &limit, NULL);
    }
}

/* Where the others can reach this node: what --peer says of it, or else what it listens on. */
static enum sluice_status own_addresses(struct node *self, char *error, size_t error_size)
{
    struct node__member *own = members__find(self, self->options.id);
    for (size_t i = 0; own->address_count == 0 && i < self->options.listen_count; i++) {
        const char *address = self->options.listen[i];
        size_t size = strlen(address);
        bool anywhere = strstr(address, ":0.0.0.0:") != NULL || strstr(address, ":[::]:") != NULL;
        if (anywhere || (size > 2 && strcmp(address + size - 2, ":0") == 0)) {
            snprintf(error, error_size,
                     "the others cannot reach this node at %s: say with --advertise tcp:HOST:PORT where they can",
                     address);
            return SLUICE_INVALID;
        }
    }
    for (size_t i = 0; own->address_count == 0 && i < self->options.listen_count && i < NODE_ADDRESSES_MAX; i++)
        if (members__add_address(own, self->options.listen[i]) != SLUICE_OK)
            return SLUICE_MEMORY;
    return SLUICE_OK;
}

static char *request(const struct node__member *own)
{
    json_t *addresses = json_array();
    for (size_t i = 0; i < own->address_count; i++)
        json_array_append_new(addresses, json_string(own->addresses[i]));
    json_t *document = json_pack("{s:i, s:o, s:[i, i]}", "node", (int)own->id, "addresses", addresses, "levels",
                                 (int)MAP_LEVEL_MIN, (int)MAP_LEVEL);
    char *text = document == NULL ? NULL : json_dumps(document, JSON_COMPACT);
    json_decref(document);
    return text;
}

static enum sluice_status learn_node(struct node *self, const json_t *node)
{
    json_int_t id = json_integer_value(json_object_get(node, "id"));
    const char *incarnation = json_string_value(json_object_get(node, "incarnation"));
    const char *membership = json_string_value(json_object_get(node, "membership"));
    if (id < 1 || id >= PAIRS_NODES_MAX || (membership != NULL && strcmp(membership, "gone") == 0))
        return SLUICE_OK;
    struct node__member *member = members__make(self, (uint16_t)id);
    if (member == NULL)
        return SLUICE_MEMORY;
    if (member->id == self->options.id) {
        /* A number that was in use before: its count of starts goes on, past those that the map was never told of. */
        self->identity.incarnation = incarnation == NULL ? 0 : strtoull(incarnation, NULL, 10);
        if (self->identity.incarnation > 0)
            self->identity.incarnation += STARTS_UNTOLD;
        return SLUICE_OK;
    }
    size_t i;
    const json_t *address;
    json_array_foreach(json_object_get(node, "addresses"), i, address)
    {
        if (json_is_string(address) && members__add_address(member, json_string_value(address)) != SLUICE_OK)
            return SLUICE_MEMORY;
    }
    return SLUICE_OK;
}

static enum sluice_status learn(struct node *self, const json_t *cluster)
{
    const char *hex = json_string_value(json_object_get(cluster, "cluster"));
    enum sluice_status status = SLUICE_OK;
    size_t i;
    const json_t *node;
    self->identity.joined = (uint64_t)json_integer_value(json_object_get(cluster, "map_epoch"));
    if (hex == NULL || strlen(hex) != 32)
        return SLUICE_INVALID;
    for (size_t k = 0; k < 16; k++) {
        unsigned value = 0;
        if (sscanf(hex + 2 * k, "%2x", &value) != 1)
            return SLUICE_INVALID;
        self->identity.cluster[k] = (uint8_t)value;
    }
    json_array_foreach(json_object_get(cluster, "nodes"), i, node)
    {
        if (status == SLUICE_OK)
            status = learn_node(self, node);
    }
    return status;
}

enum sluice_status join__ask(struct node *self, char *error, size_t error_size)
{
    char why[256] = "";
    const struct sluice_options options = {
        .size = sizeof(options),
        .nodes = self->options.join,
        .node_count = self->options.join_count,
        .tls = {self->options.tls_ca, self->options.tls_certificate, self->options.tls_key},
        .error = why,
        .error_size = sizeof(why),
    };
    const struct sluice_call call = {.timeout_ms = (uint32_t)(JOIN_NS / NS_PER_MS), .admin = true};
    struct sluice_client *client = NULL;
    struct answer added = {0}, seen = {0};
    enum sluice_status status = own_addresses(self, error, error_size);
    if (status != SLUICE_OK)
        return status;
    char *text = request(members__find(self, self->options.id));
    if (text == NULL)
        return SLUICE_MEMORY;
    status = sluice_open(&options, &client);
    if (status != SLUICE_OK) {
        snprintf(error, error_size, "the cluster to join cannot be asked: %s", why);
        goto out;
    }
    LOG_INFO("node", "asking %s to take this node in", self->options.join[0]);
    sluice_node_change(client, &call, "node_add", text, answered, &added);
    wait_for(client, &added);
    status = added.status;
    if (status == SLUICE_OK) {
        sluice_cluster(client, &call, answered, &seen);
        wait_for(client, &seen);
        status = seen.status == SLUICE_OK ? learn(self, seen.json) : seen.status;
    }
    if (status != SLUICE_OK)
        snprintf(error, error_size, "the cluster at %s does not take this node in: %s", self->options.join[0],
                 added.status != SLUICE_OK ? added.detail : seen.detail);
    sluice_close(client);
    json_decref(added.json);
    json_decref(seen.json);
out:
    free(text);
    if (status == SLUICE_OK)
        data__keep_peers(self);
    return status;
}

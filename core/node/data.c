/* The data directory. It belongs to one node of one cluster for ever; its file node.json says which. */
#include <errno.h>
#include <fcntl.h>
#include <jansson.h>
#include <openssl/evp.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/file.h>
#include <sys/stat.h>
#include <unistd.h>

#include "core/node/node__.h"

char *data__path(const struct node *self, const char *name)
{
    char *path = NULL;
    return asprintf(&path, "%s/%s", self->options.data_path, name) < 0 ? NULL : path;
}

static enum sluice_status make_directory(const char *path, char *error, size_t error_size)
{
    char *copy = strdup(path);
    if (copy == NULL)
        return SLUICE_MEMORY;
    for (char *at = copy + 1;; at++) {
        char was = *at;
        if (was != '/' && was != '\0')
            continue;
        *at = '\0';
        if (mkdir(copy, 0750) != 0 && errno != EEXIST) {
            snprintf(error, error_size, "cannot create the data directory %s: %s; name another one with --data", copy,
                     strerror(errno));
            free(copy);
            return SLUICE_IO;
        }
        *at = was;
        if (was == '\0')
            break;
    }
    free(copy);
    return SLUICE_OK;
}

static enum sluice_status lock_directory(struct node *self, char *error, size_t error_size)
{
    char *path = data__path(self, "lock");
    if (path == NULL)
        return SLUICE_MEMORY;
    int fd = open(path, O_RDWR | O_CREAT | O_CLOEXEC, 0640);
    free(path);
    if (fd < 0) {
        snprintf(error, error_size, "cannot open a file in %s: %s; check its owner and rights", self->options.data_path,
                 strerror(errno));
        return SLUICE_IO;
    }
    if (flock(fd, LOCK_EX | LOCK_NB) != 0) {
        snprintf(error, error_size,
                 "another process uses the data directory %s; stop it or name another one with --data",
                 self->options.data_path);
        close(fd);
        return SLUICE_CONFLICT;
    }
    self->identity.lock_fd = fd;
    return SLUICE_OK;
}

/* A name alone would let two clusters of the same name meet; so the members' addresses, or for one node a random
 * number, go in too. */
static enum sluice_status name_cluster(struct node *self)
{
    unsigned char digest[EVP_MAX_MD_SIZE];
    unsigned int size = 0;
    EVP_MD_CTX *context = EVP_MD_CTX_new();
    const char *name = self->options.cluster_name == NULL ? "sluice" : self->options.cluster_name;
    if (context == NULL)
        return SLUICE_MEMORY;
    int good = EVP_DigestInit_ex(context, EVP_sha256(), NULL) && EVP_DigestUpdate(context, name, strlen(name) + 1);
    for (size_t i = 0; good && i < self->member_count; i++) {
        good = EVP_DigestUpdate(context, &self->members[i].id, sizeof(self->members[i].id));
        for (size_t k = 0; good && k < self->members[i].address_count; k++)
            good = EVP_DigestUpdate(context, self->members[i].addresses[k], strlen(self->members[i].addresses[k]) + 1);
    }
    if (good && self->member_count == 1) {
        uint64_t salt = random_os();
        good = EVP_DigestUpdate(context, &salt, sizeof(salt));
    }
    good = good && EVP_DigestFinal_ex(context, digest, &size);
    EVP_MD_CTX_free(context);
    if (!good)
        return SLUICE_INTERNAL;
    memcpy(self->identity.cluster, digest, sizeof(self->identity.cluster));
    return SLUICE_OK;
}

static void to_hex(const uint8_t cluster[16], char out[33])
{
    for (int i = 0; i < 16; i++)
        snprintf(out + 2 * i, 3, "%02x", cluster[i]);
}

static bool from_hex(const char *text, uint8_t cluster[16])
{
    if (text == NULL || strlen(text) != 32 || strspn(text, "0123456789abcdef") != 32)
        return false;
    for (int i = 0; i < 16; i++) {
        unsigned value = 0;
        sscanf(text + 2 * i, "%2x", &value);
        cluster[i] = (uint8_t)value;
    }
    return true;
}

/* Written beside the old one, made durable, then renamed over it. */
static enum sluice_status write_identity(struct node *self, const char *path, char *error, size_t error_size)
{
    char hex[33];
    char *temporary = data__path(self, "node.json.new");
    json_t *members = json_array(), *document = NULL;
    enum sluice_status status = SLUICE_MEMORY;
    char *text = NULL;
    to_hex(self->identity.cluster, hex);
    for (size_t i = 0; i < self->identity.founder_count; i++)
        json_array_append_new(members, json_integer(self->identity.founders[i]));
    document = json_pack("{s:i, s:s, s:i, s:I, s:o}", "format", (int)self->identity.format, "cluster", hex, "node",
                         self->identity.id, "starts", (json_int_t)self->identity.incarnation, "members", members);
    json_t *peers = self->identity.peers == NULL ? NULL : json_loads(self->identity.peers, 0, NULL);
    if (document != NULL && peers != NULL)
        json_object_set(document, "peers", peers);
    if (document != NULL && self->identity.joined != 0)
        json_object_set_new(document, "joined", json_integer((json_int_t)self->identity.joined));
    json_decref(peers);
    if (document != NULL)
        text = json_dumps(document, JSON_INDENT(2) | JSON_SORT_KEYS);
    if (temporary == NULL || text == NULL)
        goto out;
    status = SLUICE_IO;
    int fd = open(temporary, O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0640);
    if (fd >= 0) {
        size_t size = strlen(text);
        bool good = write(fd, text, size) == (ssize_t)size && fsync(fd) == 0;
        good = close(fd) == 0 && good;
        int directory = open(self->options.data_path, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
        if (good && rename(temporary, path) == 0 && directory >= 0 && fsync(directory) == 0)
            status = SLUICE_OK;
        if (directory >= 0)
            close(directory);
    }
    if (status != SLUICE_OK)
        snprintf(error, error_size, "cannot write %s: %s", path, strerror(errno));
out:
    json_decref(document);
    free(text);
    free(temporary);
    return status;
}

/* Whom the first start named; a node that joined has none before it followed a map, and knows from its peers where the
 * others are. */
static enum sluice_status read_members(struct node *self, const json_t *members, const json_t *peers)
{
    size_t count = json_array_size(members), k;
    const char *name;
    json_t *addresses;
    const json_t *address;
    if ((count == 0 && peers == NULL) || count > NODE_FOUNDERS_MAX)
        return SLUICE_CORRUPT;
    for (size_t i = 0; i < count; i++) {
        json_int_t id = json_integer_value(json_array_get(members, i));
        if (id < 1 || id >= PAIRS_NODES_MAX)
            return SLUICE_CORRUPT;
        self->identity.founders[i] = (uint16_t)id;
    }
    self->identity.founder_count = count;
    if (peers == NULL)
        return SLUICE_OK;
    self->identity.peers = json_dumps(peers, JSON_COMPACT | JSON_SORT_KEYS);
    if (self->identity.peers == NULL)
        return SLUICE_MEMORY;
    json_object_foreach((json_t *)(uintptr_t)peers, name, addresses)
    {
        int number = atoi(name);
        if (number < 1 || number >= PAIRS_NODES_MAX)
            return SLUICE_CORRUPT;
        struct node__member *member = members__make(self, (uint16_t)number);
        if (member == NULL)
            return SLUICE_MEMORY;
        if (member->address_count > 0)
            continue; /* the options say where it is by now */
        json_array_foreach(addresses, k, address)
        {
            if (json_is_string(address) && members__add_address(member, json_string_value(address)) != SLUICE_OK)
                return SLUICE_MEMORY;
        }
    }
    return SLUICE_OK;
}

static enum sluice_status read_identity(struct node *self, const char *path, char *error, size_t error_size)
{
    json_error_t where;
    json_t *document = json_load_file(path, 0, &where);
    if (document == NULL) {
        snprintf(error, error_size, "%s is damaged: %s; restore it, or start this node with an empty data directory",
                 path, where.text);
        return SLUICE_CORRUPT;
    }
    enum sluice_status status = SLUICE_CORRUPT;
    json_int_t format = json_integer_value(json_object_get(document, "format"));
    json_int_t id = json_integer_value(json_object_get(document, "node"));
    if (format < 1 || format > (json_int_t)release_formats_latest()->node) {
        snprintf(error, error_size,
                 "%s has format %lld, this program reads formats up to %u; use the release that wrote it", path,
                 (long long)format, release_formats_latest()->node);
        status = SLUICE_VERSION;
    } else if (id != self->options.id) {
        snprintf(error, error_size,
                 "the data directory %s belongs to node %lld, this is node %u; name this node's own with --data",
                 self->options.data_path, (long long)id, self->options.id);
        status = SLUICE_CONFLICT;
    } else if (!from_hex(json_string_value(json_object_get(document, "cluster")), self->identity.cluster) ||
               read_members(self, json_object_get(document, "members"), json_object_get(document, "peers")) !=
                   SLUICE_OK) {
        snprintf(error, error_size, "%s is damaged: its cluster or members make no sense; restore it", path);
    } else {
        self->identity.format = (uint32_t)format;
        self->identity.incarnation = (uint64_t)json_integer_value(json_object_get(document, "starts"));
        self->identity.joined = (uint64_t)json_integer_value(json_object_get(document, "joined"));
        status = SLUICE_OK;
    }
    json_decref(document);
    return status;
}

/* The first start of a cluster: its members are those that the options name. */
static enum sluice_status found(struct node *self, char *error, size_t error_size)
{
    if (self->member_count > NODE_FOUNDERS_MAX) {
        snprintf(error, error_size,
                 "a cluster begins with at most %d nodes; %zu were given as peers. Start it with fewer, and let the "
                 "others --join",
                 NODE_FOUNDERS_MAX, self->member_count);
        return SLUICE_INVALID;
    }
    for (size_t i = 0; i < self->member_count; i++)
        self->identity.founders[i] = self->members[i].id;
    self->identity.founder_count = self->member_count;
    return name_cluster(self);
}

enum sluice_status data__open(struct node *self, char *error, size_t error_size)
{
    self->identity.lock_fd = -1;
    self->identity.id = self->options.id;
    self->identity.format = release_formats_at(0)->node;
    enum sluice_status status = make_directory(self->options.data_path, error, error_size);
    if (status == SLUICE_OK)
        status = lock_directory(self, error, error_size);
    if (status != SLUICE_OK)
        return status;
    char *path = data__path(self, "node.json");
    if (path == NULL)
        return SLUICE_MEMORY;
    if (access(path, F_OK) == 0) {
        status = read_identity(self, path, error, error_size);
    } else {
        char *log = data__path(self, "log");
        if (log == NULL) {
            free(path);
            return SLUICE_MEMORY;
        }
        if (access(log, F_OK) == 0) {
            snprintf(error, error_size, "%s holds a log but no node.json that says whose; restore that file",
                     self->options.data_path);
            status = SLUICE_CORRUPT;
        }
        free(log);
        if (status == SLUICE_OK)
            status = self->options.join_count > 0 ? join__ask(self, error, error_size) : found(self, error, error_size);
    }
    if (status == SLUICE_OK) {
        self->identity.incarnation++;
        status = write_identity(self, path, error, error_size);
    }
    free(path);
    return status;
}

static json_t *peers_document(const struct node *self)
{
    json_t *peers = json_object();
    for (size_t i = 0; i < self->member_count; i++) {
        const struct node__member *member = &self->members[i];
        char id[8];
        json_t *addresses = json_array();
        for (size_t k = 0; k < member->address_count; k++)
            json_array_append_new(addresses, json_string(member->addresses[k]));
        snprintf(id, sizeof(id), "%u", member->id);
        if (member->known && member->id != self->options.id)
            json_object_set_new(peers, id, addresses);
        else
            json_decref(addresses);
    }
    return peers;
}

void data__keep_peers(struct node *self)
{
    char error[256] = "out of memory";
    json_t *peers = peers_document(self);
    char *text = peers == NULL ? NULL : json_dumps(peers, JSON_COMPACT | JSON_SORT_KEYS);
    char *path = data__path(self, "node.json");
    json_decref(peers);
    enum sluice_status status = text == NULL || path == NULL ? SLUICE_MEMORY : SLUICE_OK;
    if (status == SLUICE_OK && (self->identity.peers == NULL || strcmp(self->identity.peers, text) != 0)) {
        free(self->identity.peers);
        self->identity.peers = text;
        text = NULL;
        status = write_identity(self, path, error, sizeof(error));
    }
    /* Not fatal: the file as it was is whole, and names peers that knew the others a moment ago. */
    if (status != SLUICE_OK)
        LOG_WARN("node", "where the other nodes are could not be kept: %s", error);
    free(text);
    free(path);
}

enum sluice_status data__keep_founders(struct node *self, uint64_t founders)
{
    char error[256];
    if (self->identity.founder_count > 0)
        return SLUICE_OK;
    if (self->identity.joined == 0)
        self->identity.joined = 1; /* it joined when that was not noted yet */
    for (uint16_t node = 1; node < PAIRS_NODES_MAX && self->identity.founder_count < NODE_FOUNDERS_MAX; node++)
        if ((founders >> node & 1) != 0)
            self->identity.founders[self->identity.founder_count++] = node;
    char *path = data__path(self, "node.json");
    enum sluice_status status = path == NULL ? SLUICE_MEMORY : write_identity(self, path, error, sizeof(error));
    free(path);
    return status;
}

enum sluice_status data__use_format(struct node *self, uint32_t format)
{
    char error[256];
    if (format <= self->identity.format)
        return SLUICE_OK;
    char *path = data__path(self, "node.json");
    if (path == NULL)
        return SLUICE_MEMORY;
    self->identity.format = format;
    enum sluice_status status = write_identity(self, path, error, sizeof(error));
    if (status != SLUICE_OK)
        LOG_ERROR("node", "%s", error);
    free(path);
    return status;
}

void data__close(struct node *self)
{
    free(self->identity.peers);
    self->identity.peers = NULL;
    if (self->identity.lock_fd >= 0)
        close(self->identity.lock_fd);
    self->identity.lock_fd = -1;
}

#include "core/cluster/cluster.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "core/base/log.h"
#include "core/base/panic.h"
#include "core/cluster/changes.h"

/* The map's text is a fact of the map group, cut to what one fact may hold. */
#define PIECE_BYTES (60u << 10)
#define PIECES_MAX  256u

struct cluster {
    struct map *map;
    char *text;
    uint32_t pieces; /* facts that the text takes up */
};

struct gathering {
    char *pieces[PIECES_MAX];
    size_t sizes[PIECES_MAX];
    enum sluice_status status;
};

static void gather(void *arg, struct slice name, struct slice value)
{
    struct gathering *gathering = arg;
    const uint8_t *bytes = name.data;
    if (name.size != 3 || bytes[0] != 'M')
        return;
    unsigned piece = (unsigned)bytes[1] << 8 | bytes[2];
    if (piece >= PIECES_MAX || gathering->pieces[piece] != NULL) {
        gathering->status = SLUICE_CORRUPT;
        return;
    }
    gathering->pieces[piece] = malloc(value.size + 1);
    if (gathering->pieces[piece] == NULL) {
        gathering->status = SLUICE_MEMORY;
        return;
    }
    memcpy(gathering->pieces[piece], value.data, value.size);
    gathering->sizes[piece] = value.size;
}

static enum sluice_status load(struct cluster *self, struct versions *versions)
{
    struct gathering gathering = {.status = SLUICE_OK};
    struct bytes text = {0};
    enum sluice_status status = versions_facts(versions, gather, &gathering);
    if (status == SLUICE_OK)
        status = gathering.status;
    for (uint32_t i = 0; i < PIECES_MAX && gathering.pieces[i] != NULL; i++) {
        if (status == SLUICE_OK)
            status = bytes_append(&text, gathering.pieces[i], gathering.sizes[i]);
        self->pieces = i + 1;
    }
    if (status == SLUICE_OK && text.size > 0) {
        char error[256];
        status = map_parse((const char *)text.data, text.size, &self->map, error);
        if (status != SLUICE_OK)
            LOG_ERROR("cluster", "the stored cluster map cannot be read: %s", error);
        self->text = status == SLUICE_OK ? strndup((const char *)text.data, text.size) : NULL;
        if (status == SLUICE_OK && self->text == NULL)
            status = SLUICE_MEMORY;
    }
    for (uint32_t i = 0; i < PIECES_MAX; i++)
        free(gathering.pieces[i]);
    bytes_free(&text);
    return status;
}

enum sluice_status cluster_create(struct versions *versions, struct cluster **out)
{
    struct cluster *self = calloc(1, sizeof(*self));
    if (self == NULL)
        return SLUICE_MEMORY;
    enum sluice_status status = load(self, versions);
    if (status != SLUICE_OK) {
        cluster_destroy(self);
        return status;
    }
    *out = self;
    return SLUICE_OK;
}

void cluster_destroy(struct cluster *self)
{
    if (self->map != NULL)
        map_destroy(self->map);
    free(self->text);
    free(self);
}

const struct map *cluster_map(const struct cluster *self)
{
    return self->map;
}

const char *cluster_map_text(const struct cluster *self)
{
    return self->text;
}

/* The entry goes into the log's history with the map that it leads to, in one step. */
static enum sluice_status keep(struct cluster *self, const struct entry *entry, struct versions *versions,
                               const char *text)
{
    struct versions_fact facts[PIECES_MAX];
    uint8_t names[PIECES_MAX][3];
    uint32_t count = 0;
    size_t size = text == NULL ? 0 : strlen(text);
    uint32_t pieces = (uint32_t)((size + PIECE_BYTES - 1) / PIECE_BYTES);
    ASSERT(pieces <= PIECES_MAX); /* change_apply refuses larger maps */
    if (text != NULL) {
        for (uint32_t i = 0; i < pieces || i < self->pieces; i++, count++) {
            names[i][0] = 'M';
            names[i][1] = (uint8_t)(i >> 8);
            names[i][2] = (uint8_t)i;
            size_t from = (size_t)i * PIECE_BYTES;
            size_t length = from >= size ? 0 : size - from < PIECE_BYTES ? size - from : PIECE_BYTES;
            facts[count] =
                (struct versions_fact){.name = {names[i], 3}, .value = {length == 0 ? NULL : text + from, length}};
        }
        self->pieces = pieces;
    }
    return versions_apply(versions, entry, NULL, 0, facts, count);
}

enum sluice_status cluster_apply(struct cluster *self, const struct entry *entry, struct versions *versions,
                                 struct machine_outcome *outcome, char **reply)
{
    *outcome = (struct machine_outcome){
        .status = SLUICE_OK, .revision = entry->index, .time = entry->time, .detail = "success"};
    *reply = NULL;
    struct change change = {.map = self->map, .time = entry->time};
    enum sluice_status status = SLUICE_OK;
    if (entry->kind == ENTRY_MAP && entry->body != NULL) {
        status = change_apply(&change, (const char *)entry->body->data, entry->body->size);
        outcome->status = change.outcome;
        if (change.outcome != SLUICE_OK)
            *reply = strdup(change.words);
        else
            *reply = change.reply;
    }
    if (status == SLUICE_OK)
        status = keep(self, entry, versions, change.text);
    if (status == SLUICE_OK && change.text != NULL) {
        if (self->map != NULL)
            map_destroy(self->map);
        free(self->text);
        self->map = change.result;
        self->text = change.text;
        return SLUICE_OK;
    }
    if (change.result != NULL)
        map_destroy(change.result);
    free(change.text);
    return status;
}

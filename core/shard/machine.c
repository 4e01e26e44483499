#include "core/shard/machine__.h"

#include <stdlib.h>
#include <string.h>

#include "core/base/text.h"

bool machine_prefix_closed(const struct machine *self, const char *key, size_t size)
{
    for (size_t i = 0; i < self->closed_count; i++)
        if (text_prefix_holds(self->closed[i], strlen(self->closed[i]), key, size))
            return true;
    return false;
}

uint64_t machine_cursor(const struct machine *self, const char *lambda, size_t size)
{
    const struct cursor *cursor = NULL;
    HASH_FIND(hh, self->cursors, lambda, size, cursor);
    return cursor == NULL ? 0 : cursor->revision;
}

enum sluice_status machine__cursor_set(struct machine *self, const char *name, size_t size, uint64_t revision)
{
    struct cursor *cursor = NULL;
    HASH_FIND(hh, self->cursors, name, size, cursor);
    if (cursor == NULL) {
        cursor = calloc(1, sizeof(*cursor) + size + 1);
        if (cursor == NULL)
            return SLUICE_MEMORY;
        memcpy(cursor->name, name, size);
        cursor->size = size;
        HASH_ADD_KEYPTR(hh, self->cursors, cursor->name, size, cursor);
    }
    if (revision > cursor->revision)
        cursor->revision = revision;
    return SLUICE_OK;
}

/* A condition that fails leaves its reason in the outcome. */
static bool condition_holds(const struct wire_operation *operation, const struct version *latest, uint32_t number,
                            struct machine_outcome *outcome)
{
    bool live = latest->version != 0 && (latest->flags & VERSION_TOMBSTONE) == 0;
    const char *why = NULL;
    enum sluice_status status = SLUICE_CONDITION_FAILED;
    if ((operation->flags & WIRE_IF_VERSION) && (!live || latest->version != operation->if_version))
        why = "If-Match names a version that is not the latest one; read the object again";
    else if ((operation->flags & WIRE_IF_PRESENT) && !live)
        why = "If-Match: * asks for an object that is there; it is not";
    else if ((operation->flags & WIRE_IF_ABSENT) && live)
        why = "If-None-Match: * asks that nothing is there; an object is";
    else if (operation->kind == WIRE_DELETE && !live) {
        status = latest->version != 0 ? SLUICE_DELETED : SLUICE_NOT_FOUND;
        why = latest->version != 0 ? "the object is deleted already" : "there is no such object";
    }
    if (why == NULL)
        return true;
    outcome->status = status;
    outcome->operation = number;
    outcome->version = latest->version;
    outcome->detail = why;
    return false;
}

struct version machine_version(const struct wire_operation_view *view, const struct entry *entry, uint32_t operation,
                               uint64_t version)
{
    const struct wire_operation *asked = view->operation;
    return (struct version){
        .key = view->key,
        .key_size = asked->key_size,
        .content_type = view->content_type,
        .content_type_size = asked->content_type_size,
        .value = view->value,
        .value_size = asked->kind == WIRE_DELETE ? 0 : asked->value_size,
        .flags = asked->kind == WIRE_DELETE ? VERSION_TOMBSTONE : 0,
        .version = version,
        .revision = entry->index,
        .time = entry->time,
        .object_time = (asked->flags & WIRE_OBJECT_TIME) ? asked->object_time : entry->time,
        .operation = operation,
    };
}

/* Evaluates all operations against the state before the entry; fills `made` where every one of them may happen. */
static enum sluice_status write_prepare(struct machine *self, const struct entry *entry,
                                        const struct wire_command *command, struct version *made,
                                        struct machine_outcome *outcome)
{
    struct wire_operation_view view;
    size_t offset = 0;
    uint32_t number = 0;
    while (wire_operation_next(command, &offset, &view)) {
        const struct wire_operation *operation = view.operation;
        if (machine_prefix_closed(self, view.key, operation->key_size)) {
            outcome->status = SLUICE_STALE_MAP;
            outcome->detail = "the key belongs to another pool by now; fetch the cluster map";
            return SLUICE_OK;
        }
        struct version latest = {0};
        enum sluice_status status =
            versions_latest(self->versions, (struct slice){view.key, operation->key_size}, false, &latest);
        if (status != SLUICE_OK && status != SLUICE_NOT_FOUND)
            return status;
        if (status == SLUICE_NOT_FOUND)
            latest = (struct version){0};
        bool holds = condition_holds(operation, &latest, number, outcome);
        made[number] = machine_version(&view, entry, number, latest.version + 1);
        version_release(&latest);
        if (!holds)
            return SLUICE_OK;
        number++;
    }
    return SLUICE_OK;
}

static enum sluice_status closed_fact(struct machine *self, struct facts *facts)
{
    for (size_t i = 0; i < self->closed_count; i++) {
        enum sluice_status status = bytes_append(&facts->text, self->closed[i], strlen(self->closed[i]) + 1);
        if (status != SLUICE_OK)
            return status;
    }
    memcpy(facts->names[facts->count], "P", 1);
    facts->items[facts->count] =
        (struct versions_fact){.name = {facts->names[facts->count], 1}, .value = {facts->text.data, facts->text.size}};
    facts->count++;
    return SLUICE_OK;
}

enum sluice_status machine__closed_add(struct machine *self, const char *prefix, size_t size)
{
    char **grown = realloc(self->closed, (self->closed_count + 1) * sizeof(*grown));
    if (grown == NULL)
        return SLUICE_MEMORY;
    self->closed = grown;
    char *copy = strndup(prefix, size);
    if (copy == NULL)
        return SLUICE_MEMORY;
    self->closed[self->closed_count++] = copy;
    return SLUICE_OK;
}

static size_t closed_find(const struct machine *self, const char *prefix, size_t size)
{
    for (size_t i = 0; i < self->closed_count; i++)
        if (strlen(self->closed[i]) == size && memcmp(self->closed[i], prefix, size) == 0)
            return i;
    return SIZE_MAX;
}

static enum sluice_status apply_prefix(struct machine *self, const struct wire_command *command, struct facts *facts,
                                       struct machine_outcome *outcome)
{
    struct wire_operation_view view;
    size_t offset = 0;
    if (!wire_operation_next(command, &offset, &view))
        return SLUICE_OK;
    size_t at = closed_find(self, view.key, view.operation->key_size);
    enum sluice_status status = SLUICE_OK;
    if (command->kind == WIRE_COMMAND_CLOSE_PREFIX && at == SIZE_MAX) {
        uint64_t count = 0;
        status = versions_count(self->versions, (struct slice){view.key, view.operation->key_size}, UINT64_MAX, &count);
        if (status != SLUICE_OK)
            return status;
        if (count != 0) {
            outcome->status = SLUICE_CONFLICT;
            outcome->version = count;
            outcome->detail = "the enclosing pool holds versions under that prefix";
            return SLUICE_OK;
        }
        status = machine__closed_add(self, view.key, view.operation->key_size);
    } else if (command->kind == WIRE_COMMAND_OPEN_PREFIX && at != SIZE_MAX) {
        free(self->closed[at]);
        self->closed[at] = self->closed[--self->closed_count];
    } else {
        return SLUICE_OK;
    }
    return status != SLUICE_OK ? status : closed_fact(self, facts);
}

static enum sluice_status apply_cursor(struct machine *self, const struct wire_command *command, struct facts *facts,
                                       struct machine_outcome *outcome)
{
    struct wire_operation_view view;
    size_t offset = 0;
    if (!wire_operation_next(command, &offset, &view))
        return SLUICE_OK;
    if (view.operation->key_size > MACHINE_LAMBDA_BYTES_MAX) {
        outcome->status = SLUICE_INVALID;
        outcome->detail = "the name of a lambda is at most 48 bytes long";
        return SLUICE_OK;
    }
    enum sluice_status status =
        machine__cursor_set(self, view.key, view.operation->key_size, view.operation->if_version);
    if (status != SLUICE_OK)
        return status;
    facts->revision = machine_cursor(self, view.key, view.operation->key_size);
    status = bytes_printf(&facts->text, "L%.*s", (int)view.operation->key_size, view.key);
    if (status != SLUICE_OK)
        return status;
    facts->items[facts->count++] = (struct versions_fact){.name = {facts->text.data, facts->text.size},
                                                          .value = {&facts->revision, sizeof(facts->revision)}};
    return SLUICE_OK;
}

static enum sluice_status apply_write(struct machine *self, const struct entry *entry,
                                      const struct wire_command *command, struct version **made, uint32_t *made_count,
                                      struct facts *facts, struct machine_outcome *outcome)
{
    if (answers__replay(self, command, outcome))
        return SLUICE_OK;
    if (command->deadline != 0 && entry->time > command->deadline) {
        outcome->status = SLUICE_DEADLINE;
        outcome->detail = "the deadline passed before the write was ordered; it was not applied";
        return SLUICE_OK;
    }
    if (answers__full(self, command)) {
        outcome->status = SLUICE_BUSY;
        outcome->detail = "the shard remembers as many answers as it may; nothing was applied, try again later";
        return SLUICE_OK;
    }
    if (command->kind == WIRE_COMMAND_WRITE) {
        *made = calloc(command->operation_count, sizeof(**made));
        if (*made == NULL)
            return SLUICE_MEMORY;
        enum sluice_status status = write_prepare(self, entry, command, *made, outcome);
        if (status != SLUICE_OK)
            return status;
        if (outcome->status == SLUICE_OK)
            *made_count = command->operation_count;
    } else if (command->kind == WIRE_COMMAND_CURSOR) {
        enum sluice_status status = apply_cursor(self, command, facts, outcome);
        if (status != SLUICE_OK)
            return status;
    } else {
        enum sluice_status status = apply_prefix(self, command, facts, outcome);
        if (status != SLUICE_OK)
            return status;
    }
    return answers__keep(self, command, facts, outcome);
}

enum sluice_status machine_apply(struct machine *self, const struct entry *entry, struct machine_outcome *outcome)
{
    *outcome = (struct machine_outcome){
        .status = SLUICE_OK, .revision = entry->index, .time = entry->time, .detail = "success"};
    struct facts facts = {.count = 0};
    struct version *made = NULL;
    uint32_t made_count = 0;
    enum sluice_status status = SLUICE_OK;
    if (entry->kind == ENTRY_COMMAND) {
        const struct wire_command *command = NULL;
        const char *why = NULL;
        ASSERT(entry->body != NULL);
        /* The leader checked it before it proposed; damage since then would have failed the checksum. */
        status = wire_command_read(entry->body->data, entry->body->size, &command, &why);
        if (status == SLUICE_OK) {
            status = apply_write(self, entry, command, &made, &made_count, &facts, outcome);
            if (status == SLUICE_OK && command->client != 0)
                status = answers__advance(self, &facts, command, entry->time);
            if (status == SLUICE_OK)
                answers__expire(self, &facts, entry->time);
        } else {
            outcome->status = SLUICE_INVALID;
            outcome->detail = why;
            status = SLUICE_OK;
        }
    }
    if (status == SLUICE_OK)
        status = versions_apply(self->versions, entry, made, made_count, facts.items, facts.count);
    bytes_free(&facts.text);
    free(made);
    return status;
}

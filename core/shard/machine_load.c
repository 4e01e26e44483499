/* The state machine as the store holds it: facts, read at start. */
#include <stdlib.h>
#include <string.h>

#include "core/shard/machine__.h"

/* Answers come back from the store in the order of their names; log order is restored by revision. */
struct loading {
    struct machine *self;
    struct answer **answers;
    size_t count, capacity;
    enum sluice_status status;
};

static void load_answer(struct loading *loading, const uint8_t *name, struct slice value)
{
    if (value.size != sizeof(struct answer_fact)) {
        loading->status = SLUICE_CORRUPT;
        return;
    }
    if (loading->count == loading->capacity) {
        size_t capacity = loading->capacity == 0 ? 1024 : loading->capacity * 2;
        struct answer **grown = realloc(loading->answers, capacity * sizeof(*grown));
        if (grown == NULL) {
            loading->status = SLUICE_MEMORY;
            return;
        }
        loading->answers = grown;
        loading->capacity = capacity;
    }
    struct answer_fact fact;
    memcpy(&fact, value.data, sizeof(fact));
    struct answer *answer = calloc(1, sizeof(*answer));
    if (answer == NULL) {
        loading->status = SLUICE_MEMORY;
        return;
    }
    memcpy(answer->name, name, 17);
    answer->status = fact.status;
    answer->operation = fact.operation;
    answer->version = fact.version;
    answer->revision = fact.revision;
    answer->time = fact.time;
    answer->digest = fact.digest;
    loading->answers[loading->count++] = answer;
}

static void load_session(struct loading *loading, const uint8_t *name, struct slice value)
{
    struct session_fact fact;
    uint64_t client;
    memcpy(&client, name + 1, 8);
    struct session *session = answers__session(loading->self, client);
    if (session == NULL || value.size != sizeof(fact)) {
        loading->status = session == NULL ? SLUICE_MEMORY : SLUICE_CORRUPT;
        return;
    }
    memcpy(&fact, value.data, sizeof(fact));
    session->watermark = fact.watermark;
    session->time = fact.time;
}

static void load_closed(struct loading *loading, struct slice value)
{
    const char *text = value.data;
    size_t at = 0;
    while (at < value.size && loading->status == SLUICE_OK) {
        size_t size = strnlen(text + at, value.size - at);
        loading->status = machine__closed_add(loading->self, text + at, size);
        at += size + 1;
    }
}

static void load_fact(void *arg, struct slice name, struct slice value)
{
    struct loading *loading = arg;
    const uint8_t *bytes = name.data;
    if (loading->status != SLUICE_OK || name.size == 0)
        return;
    if ((bytes[0] == 'c' || bytes[0] == 'i') && name.size == 17) {
        load_answer(loading, bytes, value);
    } else if (bytes[0] == 'w' && name.size == 9) {
        load_session(loading, bytes, value);
    } else if (bytes[0] == 'P') {
        load_closed(loading, value);
    } else if (bytes[0] == 'L' && value.size == sizeof(uint64_t)) {
        uint64_t revision;
        memcpy(&revision, value.data, sizeof(revision));
        loading->status = machine__cursor_set(loading->self, (const char *)bytes + 1, name.size - 1, revision);
    }
}

static int answer_order(const void *a, const void *b)
{
    const struct answer *left = *(struct answer *const *)a, *right = *(struct answer *const *)b;
    return left->revision < right->revision ? -1 : left->revision > right->revision;
}

static int session_order(struct session *a, struct session *b)
{
    return a->time < b->time ? -1 : a->time > b->time;
}

/* Facts come in the order of their names; sessions expire in the order of their times. */
static void order_sessions(struct machine *self)
{
    HASH_SORT(self->sessions, session_order);
    self->idlest = self->busiest = NULL;
    struct session *session, *next;
    HASH_ITER(hh, self->sessions, session, next)
    {
        answers__session_append(self, session);
    }
}

enum sluice_status machine_create(struct versions *versions, struct machine **out)
{
    struct machine *self = calloc(1, sizeof(*self));
    if (self == NULL)
        return SLUICE_MEMORY;
    self->versions = versions;
    struct loading loading = {.self = self, .status = SLUICE_OK};
    enum sluice_status status = versions_facts(versions, load_fact, &loading);
    if (status == SLUICE_OK)
        status = loading.status;
    if (loading.count > 0)
        qsort(loading.answers, loading.count, sizeof(*loading.answers), answer_order);
    for (size_t i = 0; i < loading.count; i++) {
        if (status == SLUICE_OK)
            status = answers__link(self, loading.answers[i]);
        else
            free(loading.answers[i]);
    }
    free(loading.answers);
    order_sessions(self);
    if (status != SLUICE_OK) {
        machine_destroy(self);
        return status;
    }
    *out = self;
    return SLUICE_OK;
}

void machine_destroy(struct machine *self)
{
    if (self == NULL)
        return;
    struct answer *answer, *next_answer;
    HASH_ITER(hh, self->answers, answer, next_answer)
    {
        HASH_DEL(self->answers, answer);
        free(answer);
    }
    struct session *session, *next_session;
    HASH_ITER(hh, self->sessions, session, next_session)
    {
        HASH_DEL(self->sessions, session);
        free(session);
    }
    struct cursor *cursor, *next_cursor;
    HASH_ITER(hh, self->cursors, cursor, next_cursor)
    {
        HASH_DEL(self->cursors, cursor);
        free(cursor);
    }
    for (size_t i = 0; i < self->closed_count; i++)
        free(self->closed[i]);
    free(self->closed);
    free(self);
}

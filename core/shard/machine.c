#include "core/shard/machine.h"

#include <stdlib.h>
#include <string.h>

#include "core/base/panic.h"
#include "core/base/text.h"

#include <uthash.h>

/* An answer that may be asked for again: by (client, sequence) or by Idempotency-Key. */
struct answer {
    uint8_t name[17]; /* 'c' client sequence, or 'i' digest: the fact's name and the hash key */
    uint32_t status;
    uint32_t operation;
    uint64_t version;
    uint64_t revision;
    uint64_t time;
    uint64_t digest;
    struct answer *older, *newer;  /* all answers, in log order */
    struct answer *next_of_client; /* a client's answers, in log order */
    UT_hash_handle hh;
};

/* What is known of a client: its answers that it has not confirmed, and up to where it has. A request below the
 * watermark was answered before: it is a late double, and must not be applied again now that its answer is forgotten.
 */
struct session {
    uint64_t client;
    uint64_t watermark;
    uint64_t time; /* of its latest entry */
    struct answer *first, *last;
    struct session *older, *newer; /* all sessions, by time */
    UT_hash_handle hh;
};

/* The frozen value of a session's fact. */
struct session_fact {
    uint64_t watermark;
    uint64_t time;
};
_Static_assert(sizeof(struct session_fact) == 16, "frozen layout");

struct cursor {
    uint64_t revision;
    UT_hash_handle hh;
    size_t size;
    char name[];
};

struct machine {
    struct versions *versions;
    struct answer *answers;
    struct session *sessions;
    struct cursor *cursors;
    struct answer *oldest, *newest;
    struct session *idlest, *busiest;
    uint32_t keyed_count, answer_count, session_count;
    char **closed;
    size_t closed_count;
};

/* The frozen value of an answer's fact. */
struct answer_fact {
    uint32_t status;
    uint32_t operation;
    uint64_t version;
    uint64_t revision;
    uint64_t time;
    uint64_t digest;
};
_Static_assert(sizeof(struct answer_fact) == 40, "frozen layout");

/* Facts that one entry changes, gathered before they go to the store with it. */
#define FACTS_MAX 40
struct facts {
    struct versions_fact items[FACTS_MAX];
    uint32_t count;
    uint8_t names[FACTS_MAX][24];
    struct answer_fact values[4];
    uint32_t value_count;
    struct session_fact session;
    uint64_t revision;
    struct bytes text;
};

static void answer_name_client(uint8_t name[17], uint64_t client, uint64_t sequence)
{
    name[0] = 'c';
    memcpy(name + 1, &client, 8);
    memcpy(name + 9, &sequence, 8);
}

static struct answer *answer_find(const struct machine *self, const uint8_t name[17])
{
    struct answer *found = NULL;
    HASH_FIND(hh, self->answers, name, 17, found);
    return found;
}

static struct session *session_find(const struct machine *self, uint64_t client)
{
    struct session *session = NULL;
    HASH_FIND(hh, self->sessions, &client, sizeof(client), session);
    return session;
}

static void session_unlink(struct machine *self, struct session *session)
{
    *(session->older != NULL ? &session->older->newer : &self->idlest) = session->newer;
    *(session->newer != NULL ? &session->newer->older : &self->busiest) = session->older;
}

static void session_append(struct machine *self, struct session *session)
{
    session->older = self->busiest;
    session->newer = NULL;
    *(self->busiest != NULL ? &self->busiest->newer : &self->idlest) = session;
    self->busiest = session;
}

static struct session *session_make(struct machine *self, uint64_t client)
{
    struct session *session = session_find(self, client);
    if (session != NULL)
        return session;
    session = calloc(1, sizeof(*session));
    if (session == NULL)
        return NULL;
    session->client = client;
    session_append(self, session);
    self->session_count++;
    HASH_ADD(hh, self->sessions, client, sizeof(client), session);
    return session;
}

static enum sluice_status answer_link(struct machine *self, struct answer *answer)
{
    if (answer->name[0] == 'c') {
        uint64_t client;
        memcpy(&client, answer->name + 1, 8);
        struct session *session = session_make(self, client);
        if (session == NULL)
            return SLUICE_MEMORY;
        if (session->last != NULL)
            session->last->next_of_client = answer;
        else
            session->first = answer;
        session->last = answer;
        self->answer_count++;
    } else {
        self->keyed_count++;
    }
    answer->older = self->newest;
    if (self->newest != NULL)
        self->newest->newer = answer;
    else
        self->oldest = answer;
    self->newest = answer;
    HASH_ADD(hh, self->answers, name, 17, answer);
    return SLUICE_OK;
}

/* Takes the answer out of everything but its session's list, whose head it is when it belongs to one. */
static void answer_drop(struct machine *self, struct answer *answer)
{
    if (answer->name[0] == 'c') {
        uint64_t client;
        memcpy(&client, answer->name + 1, 8);
        struct session *session = session_find(self, client);
        ASSERT(session != NULL && session->first == answer);
        session->first = answer->next_of_client;
        if (session->first == NULL)
            session->last = NULL;
        self->answer_count--;
    } else {
        self->keyed_count--;
    }
    if (answer->older != NULL)
        answer->older->newer = answer->newer;
    else
        self->oldest = answer->newer;
    if (answer->newer != NULL)
        answer->newer->older = answer->older;
    else
        self->newest = answer->older;
    HASH_DEL(self->answers, answer);
    free(answer);
}

static void facts_forget(struct facts *facts, const uint8_t *name, size_t size)
{
    ASSERT(facts->count < FACTS_MAX);
    memcpy(facts->names[facts->count], name, size);
    facts->items[facts->count] = (struct versions_fact){.name = {facts->names[facts->count], size}};
    facts->count++;
}

static enum sluice_status answer_keep(struct machine *self, struct facts *facts, const uint8_t name[17],
                                      const struct machine_outcome *outcome, uint64_t digest)
{
    struct answer *answer = calloc(1, sizeof(*answer));
    if (answer == NULL)
        return SLUICE_MEMORY;
    memcpy(answer->name, name, 17);
    answer->status = outcome->status;
    answer->operation = outcome->operation;
    answer->version = outcome->version;
    answer->revision = outcome->revision;
    answer->time = outcome->time;
    answer->digest = digest;
    enum sluice_status status = answer_link(self, answer);
    if (status != SLUICE_OK) {
        free(answer);
        return status;
    }
    struct answer_fact *value = &facts->values[facts->value_count++];
    *value = (struct answer_fact){.status = answer->status,
                                  .operation = answer->operation,
                                  .version = answer->version,
                                  .revision = answer->revision,
                                  .time = answer->time,
                                  .digest = digest};
    memcpy(facts->names[facts->count], name, 17);
    facts->items[facts->count] =
        (struct versions_fact){.name = {facts->names[facts->count], 17}, .value = {value, sizeof(*value)}};
    facts->count++;
    return SLUICE_OK;
}

static void session_fact_name(uint8_t name[9], uint64_t client)
{
    name[0] = 'w';
    memcpy(name + 1, &client, 8);
}

/* Forgets what the client has confirmed; a bounded number at a time, so that no entry pays for many. */
static enum sluice_status session_advance(struct machine *self, struct facts *facts, const struct wire_command *command,
                                          uint64_t now)
{
    struct session *session = session_make(self, command->client);
    if (session == NULL)
        return SLUICE_MEMORY;
    session->time = now;
    session_unlink(self, session);
    session_append(self, session);
    if (command->watermark > session->watermark)
        session->watermark = command->watermark;
    for (int i = 0; i < 12 && session->first != NULL; i++) {
        struct answer *first = session->first;
        uint64_t sequence;
        memcpy(&sequence, first->name + 9, 8);
        if (sequence >= session->watermark)
            break;
        facts_forget(facts, first->name, 17);
        answer_drop(self, first);
    }
    facts->session = (struct session_fact){.watermark = session->watermark, .time = now};
    session_fact_name(facts->names[facts->count], session->client);
    facts->items[facts->count] = (struct versions_fact){.name = {facts->names[facts->count], 9},
                                                        .value = {&facts->session, sizeof(facts->session)}};
    facts->count++;
    return SLUICE_OK;
}

/* Forgets what is too old for anybody to ask for. */
static void expire(struct machine *self, struct facts *facts, uint64_t now)
{
    for (int i = 0; i < 12 && self->oldest != NULL && self->oldest->time + MACHINE_ANSWER_KEPT_NS < now; i++) {
        facts_forget(facts, self->oldest->name, 17);
        answer_drop(self, self->oldest);
    }
    for (int i = 0; i < 4 && self->idlest != NULL && self->idlest->first == NULL &&
                    self->idlest->time + MACHINE_ANSWER_KEPT_NS < now;
         i++) {
        struct session *session = self->idlest;
        uint8_t name[9];
        session_fact_name(name, session->client);
        facts_forget(facts, name, 9);
        session_unlink(self, session);
        HASH_DEL(self->sessions, session);
        free(session);
        self->session_count--;
    }
}

static void outcome_from_answer(const struct answer *answer, struct machine_outcome *outcome)
{
    outcome->status = (enum sluice_status)answer->status;
    outcome->operation = answer->operation;
    outcome->version = answer->version;
    outcome->revision = answer->revision;
    outcome->time = answer->time;
    outcome->replayed = true;
    outcome->detail = sluice_status_text(outcome->status);
}

static bool idempotent(const struct wire_command *command)
{
    static const uint8_t none[16];
    return memcmp(command->idempotency, none, sizeof(none)) != 0;
}

/* Was this very request answered before? Fills the outcome then. */
static bool replay(struct machine *self, const struct wire_command *command, struct machine_outcome *outcome)
{
    uint8_t name[17];
    if (command->client != 0) {
        answer_name_client(name, command->client, command->sequence);
        const struct answer *answer = answer_find(self, name);
        if (answer != NULL) {
            outcome_from_answer(answer, outcome);
            return true;
        }
        const struct session *session = session_find(self, command->client);
        if (session != NULL && command->sequence < session->watermark) {
            outcome->status = SLUICE_OUTCOME_UNKNOWN;
            outcome->detail =
                "this request was answered before, and its sender has confirmed that; it was not applied again";
            return true;
        }
    }
    if (!idempotent(command))
        return false;
    name[0] = 'i';
    memcpy(name + 1, command->idempotency, 16);
    const struct answer *answer = answer_find(self, name);
    if (answer == NULL)
        return false;
    outcome_from_answer(answer, outcome);
    if (answer->digest != command->request_digest) {
        outcome->status = SLUICE_IDEMPOTENCY_MISMATCH;
        outcome->replayed = false;
        outcome->detail =
            "this Idempotency-Key was used for a request with another body, conditions or query; use a new key";
    }
    return true;
}

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

static enum sluice_status cursor_set(struct machine *self, const char *name, size_t size, uint64_t revision)
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
        made[number] = (struct version){
            .key = view.key,
            .key_size = operation->key_size,
            .content_type = view.content_type,
            .content_type_size = operation->content_type_size,
            .value = view.value,
            .value_size = operation->kind == WIRE_DELETE ? 0 : operation->value_size,
            .flags = operation->kind == WIRE_DELETE ? VERSION_TOMBSTONE : 0,
            .version = latest.version + 1,
            .revision = entry->index,
            .time = entry->time,
            .object_time = (operation->flags & WIRE_OBJECT_TIME) ? operation->object_time : entry->time,
            .operation = number,
        };
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

static enum sluice_status closed_add(struct machine *self, const char *prefix, size_t size)
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
        status = closed_add(self, view.key, view.operation->key_size);
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
    enum sluice_status status = cursor_set(self, view.key, view.operation->key_size, view.operation->if_version);
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

static bool over_limits(const struct machine *self, const struct wire_command *command)
{
    return (command->client != 0 &&
            (self->answer_count >= MACHINE_ANSWERS_MAX || self->session_count >= MACHINE_SESSIONS_MAX)) ||
           (idempotent(command) && self->keyed_count >= MACHINE_IDEMPOTENCY_MAX);
}

static enum sluice_status answers_keep(struct machine *self, const struct wire_command *command, struct facts *facts,
                                       const struct machine_outcome *outcome)
{
    /* What the client will send again elsewhere or later under the same name must not be answered from memory. */
    if (outcome->status == SLUICE_STALE_MAP || outcome->status == SLUICE_BUSY || outcome->status == SLUICE_DEADLINE ||
        outcome->status == SLUICE_IDEMPOTENCY_MISMATCH)
        return SLUICE_OK;
    uint8_t name[17];
    enum sluice_status status = SLUICE_OK;
    if (command->client != 0) {
        answer_name_client(name, command->client, command->sequence);
        status = answer_keep(self, facts, name, outcome, 0);
    }
    if (status == SLUICE_OK && idempotent(command)) {
        name[0] = 'i';
        memcpy(name + 1, command->idempotency, 16);
        status = answer_keep(self, facts, name, outcome, command->request_digest);
    }
    return status;
}

static enum sluice_status apply_write(struct machine *self, const struct entry *entry,
                                      const struct wire_command *command, struct version **made, uint32_t *made_count,
                                      struct facts *facts, struct machine_outcome *outcome)
{
    if (replay(self, command, outcome))
        return SLUICE_OK;
    if (command->deadline != 0 && entry->time > command->deadline) {
        outcome->status = SLUICE_DEADLINE;
        outcome->detail = "the deadline passed before the write was ordered; it was not applied";
        return SLUICE_OK;
    }
    if (over_limits(self, command)) {
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
    return answers_keep(self, command, facts, outcome);
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
                status = session_advance(self, &facts, command, entry->time);
            if (status == SLUICE_OK)
                expire(self, &facts, entry->time);
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
    struct session *session = session_make(loading->self, client);
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
        loading->status = closed_add(loading->self, text + at, size);
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
        loading->status = cursor_set(loading->self, (const char *)bytes + 1, name.size - 1, revision);
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
        session_append(self, session);
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
            status = answer_link(self, loading.answers[i]);
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

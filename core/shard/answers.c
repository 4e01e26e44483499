/* Answers that may be asked for again: exactly once, across retries and leaders. */
#include <stdlib.h>
#include <string.h>

#include "core/shard/machine__.h"

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

void answers__session_append(struct machine *self, struct session *session)
{
    session->older = self->busiest;
    session->newer = NULL;
    *(self->busiest != NULL ? &self->busiest->newer : &self->idlest) = session;
    self->busiest = session;
}

struct session *answers__session(struct machine *self, uint64_t client)
{
    struct session *session = session_find(self, client);
    if (session != NULL)
        return session;
    session = calloc(1, sizeof(*session));
    if (session == NULL)
        return NULL;
    session->client = client;
    answers__session_append(self, session);
    self->session_count++;
    HASH_ADD(hh, self->sessions, client, sizeof(client), session);
    return session;
}

enum sluice_status answers__link(struct machine *self, struct answer *answer)
{
    if (answer->name[0] == 'c') {
        uint64_t client;
        memcpy(&client, answer->name + 1, 8);
        struct session *session = answers__session(self, client);
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
    enum sluice_status status = answers__link(self, answer);
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
enum sluice_status answers__advance(struct machine *self, struct facts *facts, const struct wire_command *command,
                                    uint64_t now)
{
    struct session *session = answers__session(self, command->client);
    if (session == NULL)
        return SLUICE_MEMORY;
    session->time = now;
    session_unlink(self, session);
    answers__session_append(self, session);
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
void answers__expire(struct machine *self, struct facts *facts, uint64_t now)
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
bool answers__replay(const struct machine *self, const struct wire_command *command, struct machine_outcome *outcome)
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

bool machine_answered(const struct machine *self, const struct wire_command *command)
{
    struct machine_outcome outcome;
    return answers__replay(self, command, &outcome);
}

bool answers__full(const struct machine *self, const struct wire_command *command)
{
    return (command->client != 0 &&
            (self->answer_count >= MACHINE_ANSWERS_MAX || self->session_count >= MACHINE_SESSIONS_MAX)) ||
           (idempotent(command) && self->keyed_count >= MACHINE_IDEMPOTENCY_MAX);
}

enum sluice_status answers__keep(struct machine *self, const struct wire_command *command, struct facts *facts,
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

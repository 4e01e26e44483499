/* Concurrent users of a cluster under faults, who write down what they did and what they were told.
 *
 * load run HISTORY SEED CLIENTS RATE SECONDS-A-KEY GATEWAY…      until SIGTERM; one line of JSON for each operation
 * load probe TIMES KEY CLIENTS GATEWAY…                           until SIGTERM; puts to one key as fast as they are
 * answered load verify CONNECTIONS GATEWAY [TRIES]                         KEY VERSION NAME a line on standard input
 *
 * run: puts, conditional puts, deletes, gets and gets at a time, through all gateways. A client whose gateway fails
 * goes to the next one. Half of the writes carry an Idempotency-Key, and are repeated with it until their outcome is
 * known or ten seconds have passed. A history's line is as tests/check/README.md says, with fields for people behind
 * it. probe: a line "START END STATUS SHARD" for each put, in nanoseconds of CLOCK_MONOTONIC. verify: reads each
 * version with consistency=stable through a gateway that reaches one replica alone; NAME is the value's name, or - for
 * a tombstone. Prints what differs, then how many agree and how many differ. */
#include <pthread.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

#include "tests/chaos/load.h"

#define CLIENTS_MAX  256
#define GATEWAYS_MAX 8
#define KEYS         24u
#define VALUE_MAX    6000u
#define PATIENCE_NS  10000000000u
#define TIMEOUT_MS   4000u /* of one attempt; Sluice-Timeout is a second shorter */
#define NAME_BYTES   48

enum kind { PUT, PUT_IF, PUT_ABSENT, DELETE, GET, GET_AT, KINDS };
static const char *const kind_names[KINDS] = {"put", "put-if", "put-absent", "delete", "get", "get-at"};

struct operation {
    enum kind kind;
    unsigned client;
    uint64_t number, start, end, condition, at;
    char key[NAME_BYTES], name[NAME_BYTES], idempotency[NAME_BYTES];
    unsigned attempts;
    bool maybe; /* an attempt's outcome is unknown */
};

static struct {
    const char *gateways[GATEWAYS_MAX];
    unsigned gateway_count, client_count;
    uint64_t seed, began_ns, seconds_a_key;
    double rate;
    FILE *history;
    pthread_mutex_t lock;                /* of what follows, and of standard input and output */
    uint64_t versions[KEYS], period;     /* last seen; what conditions are made of */
    uint64_t latest_time_ns, unexpected; /* platform time; answers that no user should get */
    uint64_t good, bad;
    const char *probe_key;
    uint64_t pause_ns;
    int tries; /* of reading one version from a replica that may lag */
} load = {.lock = PTHREAD_MUTEX_INITIALIZER, .tries = 20};

static volatile sig_atomic_t stopping;

static void stop(int sign)
{
    (void)sign;
    stopping = 1;
}

struct client {
    pthread_t thread;
    unsigned number, gateway;
    uint64_t random;
    struct http http[GATEWAYS_MAX];
    char request[VALUE_MAX + 1024];
};

static uint64_t random_below(struct client *self, uint64_t bound)
{
    self->random ^= self->random >> 12;
    self->random ^= self->random << 25;
    self->random ^= self->random >> 27;
    return bound == 0 ? 0 : (self->random * 0x2545f4914f6cdd1du >> 16) % bound;
}

/* --- Values that name themselves --- */

/* "NAME …", filled up to a size that follows from the name, so that a reader sees a value that was torn or mixed. */
static size_t value_of(const char *name, char *out)
{
    uint64_t hash = 14695981039346656037u;
    for (const char *at = name; *at != '\0'; at++)
        hash = (hash ^ (unsigned char)*at) * 1099511628211u;
    size_t size = strlen(name),
           whole = hash % 16 == 0 ? 2000 + (size_t)(hash >> 8) % 3000 : 60 + (size_t)(hash >> 8) % 200;
    memcpy(out, name, size);
    out[size] = ' ';
    memset(out + size + 1, 'a' + (int)(hash % 26), whole - size - 1);
    return whole;
}

static bool value_is(const char *body, size_t size, char *name)
{
    char expected[VALUE_MAX];
    const char *space = memchr(body, ' ', size);
    if (space == NULL || space == body || space - body >= NAME_BYTES)
        return false;
    memcpy(name, body, (size_t)(space - body));
    name[space - body] = '\0';
    return value_of(name, expected) == size && memcmp(expected, body, size) == 0;
}

/* --- One operation --- */

static size_t write_request(struct client *self, const struct operation *operation)
{
    static const char *const methods[KINDS] = {"PUT", "PUT", "PUT", "DELETE", "GET", "GET"};
    char value[VALUE_MAX], query[64] = "";
    size_t size = operation->kind <= PUT_ABSENT ? value_of(operation->name, value) : 0;
    if (operation->kind == GET_AT)
        snprintf(query, sizeof(query), "?at=%llu", (unsigned long long)operation->at);
    int at =
        snprintf(self->request, sizeof(self->request),
                 "%s /v1/objects/%s%s HTTP/1.1\r\nHost: 127.0.0.1\r\nSluice-Timeout: %ums\r\nContent-Length: %zu\r\n",
                 methods[operation->kind], operation->key, query, TIMEOUT_MS - 1000, size);
    char *end = self->request + at;
    if (operation->kind == PUT_IF)
        end += sprintf(end, "If-Match: \"%llu\"\r\n", (unsigned long long)operation->condition);
    if (operation->kind == PUT_ABSENT)
        end += sprintf(end, "If-None-Match: *\r\n");
    if (operation->idempotency[0] != '\0')
        end += sprintf(end, "Idempotency-Key: %s\r\n", operation->idempotency);
    end += sprintf(end, "\r\n");
    memcpy(end, value, size);
    return (size_t)(end - self->request) + size;
}

static void unexpected(const struct operation *operation, const struct answer *answer)
{
    pthread_mutex_lock(&load.lock);
    if (load.unexpected++ < 20)
        printf("unexpected: %s %s: %d %s: %.*s\n", kind_names[operation->kind], operation->key, answer->status,
               answer->code, (int)(answer->body_size < 200 ? answer->body_size : 200), answer->body);
    pthread_mutex_unlock(&load.lock);
}

static void learn(const struct operation *operation, const struct answer *answer)
{
    unsigned key = (unsigned)strtoul(strrchr(operation->key, 'k') + 1, NULL, 10);
    uint64_t period = strtoull(strchr(operation->key, '/') + 1, NULL, 10);
    pthread_mutex_lock(&load.lock);
    if (period == load.period && operation->kind != GET_AT && answer->has_version)
        load.versions[key] = answer->version;
    if (answer->time_ns > load.latest_time_ns)
        load.latest_time_ns = answer->time_ns;
    pthread_mutex_unlock(&load.lock);
}

/* A line of the history, as tests/check reads it. The only place that knows the format. */
static void record(const struct operation *operation, const char *outcome, const struct answer *answer, bool seen,
                   bool deleted, const char *value)
{
    char line[600];
    int at = snprintf(line, sizeof(line),
                      "{\"client\":%u,\"key\":\"%s\",\"kind\":\"%s\",\"start\":%llu,\"end\":%llu,\"outcome\":\"%s\"",
                      operation->client, operation->key, kind_names[operation->kind],
                      (unsigned long long)operation->start, (unsigned long long)operation->end, outcome);
    char *end = line + at;
    if (value[0] != '\0')
        end += sprintf(end, ",\"value\":\"%s\"", value);
    if (seen)
        end += sprintf(end, ",\"version\":%llu", (unsigned long long)answer->version);
    if (deleted)
        end += sprintf(end, ",\"deleted\":true");
    if (operation->kind == PUT_IF)
        end += sprintf(end, ",\"condition\":%llu", (unsigned long long)operation->condition);
    if (operation->kind == GET_AT)
        end += sprintf(end, ",\"at\":%llu", (unsigned long long)operation->at);
    if (answer->time_ns != 0 && seen)
        end += sprintf(end, ",\"time\":%llu", (unsigned long long)answer->time_ns);
    if (answer->shard != UINT64_MAX)
        end += sprintf(end, ",\"shard\":%llu,\"revision\":%llu", (unsigned long long)answer->shard,
                       (unsigned long long)answer->revision);
    end += sprintf(end, ",\"status\":%d,\"attempts\":%u}\n", answer->status, operation->attempts);
    fwrite(line, 1, (size_t)(end - line), load.history);
}

/* True: the operation is at its end, and written down. */
static bool judge_read(const struct operation *operation, const struct answer *answer)
{
    char name[NAME_BYTES] = "";
    if (answer->status == 200) {
        if (value_is(answer->body, answer->body_size, name) && answer->has_version)
            record(operation, "ok", answer, true, false, name);
        else
            unexpected(operation, answer);
        learn(operation, answer);
    } else if (answer->status == 404) {
        record(operation, "ok", answer, true, strcmp(answer->code, "deleted") == 0, "");
    } else if (answer->status != 0 && answer->status != 503 && answer->status != 504) {
        unexpected(operation, answer);
    }
    return true; /* one that was not answered had no effect */
}

static bool judge_write(struct operation *operation, const struct answer *answer)
{
    bool repeats = operation->idempotency[0] != '\0' && operation->end - operation->start < PATIENCE_NS && !stopping;
    switch (answer->status) {
    case 200:
    case 201:
        record(operation, "ok", answer, true, false, operation->name);
        learn(operation, answer);
        return true;
    case 404:
    case 412:
        /* With a key, an answer to a repeated write is the answer to the first one that was applied. */
        record(operation, "failed-not-applied", answer, answer->has_version || answer->status == 404,
               answer->has_version && !answer->has_tag, operation->name);
        learn(operation, answer);
        return true;
    case 429:
    case 503:
    case 507:
        if (repeats)
            return false;
        record(operation, operation->maybe ? "unknown" : "failed-not-applied", answer, false, false, operation->name);
        return true;
    default:
        unexpected(operation, answer);
        /* fall through */
    case 0:
    case 504:
        operation->maybe = true;
        if (repeats)
            return false;
        record(operation, "unknown", answer, false, false, operation->name);
        return true;
    }
}

static void sleep_ns(uint64_t ns)
{
    struct timespec time = {.tv_sec = (time_t)(ns / 1000000000u), .tv_nsec = (long)(ns % 1000000000u)};
    nanosleep(&time, NULL);
}

static void carry_out(struct client *self, struct operation *operation)
{
    struct answer answer;
    bool ended = false;
    operation->start = http_now_ns();
    while (!ended) {
        size_t size = write_request(self, operation);
        operation->attempts++;
        http_exchange(&self->http[self->gateway], self->request, size,
                      operation->kind >= GET || operation->idempotency[0] != '\0', &answer);
        operation->end = http_now_ns();
        ended = operation->kind >= GET ? judge_read(operation, &answer) : judge_write(operation, &answer);
        if (answer.status == 0 || answer.status == 503 || answer.status == 504)
            self->gateway = (self->gateway + 1) % load.gateway_count;
        if (answer.status == 0 || answer.status >= 500 || answer.status == 429)
            sleep_ns(20000000u + random_below(self, 30000000u));
    }
}

/* --- Users --- */

static void draw(struct client *self, uint64_t number, struct operation *operation)
{
    static const unsigned char shares[KINDS] = {40, 12, 5, 6, 27, 10};
    uint64_t share = random_below(self, 100), key = random_below(self, KEYS);
    uint64_t period = (http_now_ns() - load.began_ns) / 1000000000u / load.seconds_a_key;
    *operation = (struct operation){.client = self->number, .number = number};
    while (share >= shares[operation->kind])
        share -= shares[operation->kind++];
    snprintf(operation->key, sizeof(operation->key), "chaos/%llu/k%llu", (unsigned long long)period,
             (unsigned long long)key);
    if (operation->kind <= PUT_ABSENT)
        snprintf(operation->name, sizeof(operation->name), "c%u-%llu", self->number, (unsigned long long)number);
    if (operation->kind <= DELETE && random_below(self, 2) == 0)
        snprintf(operation->idempotency, sizeof(operation->idempotency), "%llu-%u-%llu", (unsigned long long)load.seed,
                 self->number, (unsigned long long)number);
    pthread_mutex_lock(&load.lock);
    if (period != load.period) {
        memset(load.versions, 0, sizeof(load.versions));
        load.period = period;
    }
    operation->condition = load.versions[key] == 0 ? 1 : load.versions[key];
    operation->at = load.latest_time_ns;
    pthread_mutex_unlock(&load.lock);
    if (operation->kind == GET_AT && operation->at == 0)
        operation->kind = GET;
    operation->at -= operation->at == 0 ? 0 : random_below(self, 2000000000u);
}

static void *user(void *arg)
{
    struct client *self = arg;
    uint64_t interval_ns = (uint64_t)(1e9 * load.client_count / load.rate), next_ns = http_now_ns();
    struct operation operation;
    for (uint64_t number = 1; !stopping; number++) {
        draw(self, number, &operation);
        carry_out(self, &operation);
        uint64_t now = http_now_ns();
        next_ns += interval_ns / 2 + random_below(self, interval_ns);
        /* What an outage has held up is not made up for by a burst. */
        if (next_ns < now)
            next_ns = now;
        sleep_ns(next_ns - now);
    }
    return NULL;
}

static void *prober(void *arg)
{
    struct client *self = arg;
    struct answer answer;
    struct operation operation = {.kind = PUT, .client = self->number};
    /* One client has the key as it is: it is the one whose shard is known. */
    if (self->number == 0)
        snprintf(operation.key, sizeof(operation.key), "%s", load.probe_key);
    else
        snprintf(operation.key, sizeof(operation.key), "%s-%u", load.probe_key, self->number);
    for (uint64_t number = 1; !stopping; number++) {
        snprintf(operation.name, sizeof(operation.name), "p%u-%llu", self->number, (unsigned long long)number);
        size_t size = write_request(self, &operation);
        uint64_t start = http_now_ns();
        http_exchange(&self->http[self->gateway], self->request, size, false, &answer);
        pthread_mutex_lock(&load.lock);
        fprintf(load.history, "%llu %llu %d %lld\n", (unsigned long long)start, (unsigned long long)http_now_ns(),
                answer.status, (long long)answer.shard);
        pthread_mutex_unlock(&load.lock);
        sleep_ns(load.pause_ns);
    }
    return NULL;
}

/* --- Accounting --- */

static void check_version(struct client *self, const char *key, unsigned long long version, const char *name)
{
    struct answer answer;
    char found[NAME_BYTES] = "";
    bool agrees = false;
    for (int i = 0; i < load.tries && !agrees; i++) {
        int size = snprintf(self->request, sizeof(self->request),
                            "GET /v1/objects/%s?version=%llu&consistency=stable HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n",
                            key, version);
        http_exchange(&self->http[0], self->request, (size_t)size, true, &answer);
        agrees = strcmp(name, "-") == 0 ? answer.status == 404 && strcmp(answer.code, "deleted") == 0
                                        : answer.status == 200 && value_is(answer.body, answer.body_size, found) &&
                                              strcmp(found, name) == 0;
        /* A replica that has not heard of the end yet will; a wrong value stays wrong. */
        if (!agrees && answer.status == 200)
            break;
        if (!agrees && i + 1 < load.tries)
            sleep_ns(250000000);
    }
    pthread_mutex_lock(&load.lock);
    load.good += agrees;
    load.bad += !agrees;
    if (!agrees && load.bad <= 10)
        printf("lost or wrong: %s version %llu is %s here: %d %s %s\n", key, version, name, answer.status, answer.code,
               found);
    pthread_mutex_unlock(&load.lock);
}

static void *verifier(void *arg)
{
    struct client *self = arg;
    char line[256], key[NAME_BYTES], name[NAME_BYTES];
    unsigned long long version;
    for (;;) {
        pthread_mutex_lock(&load.lock);
        bool more = load.bad < 100 && fgets(line, sizeof(line), stdin) != NULL;
        pthread_mutex_unlock(&load.lock);
        if (!more || sscanf(line, "%47s %llu %47s", key, &version, name) != 3)
            return NULL;
        check_version(self, key, version, name);
    }
}

/* --- Start --- */

static int run_all(void *(*body)(void *), unsigned count, unsigned timeout_ms)
{
    struct client *clients = calloc(count, sizeof(*clients));
    if (clients == NULL)
        return 1;
    load.client_count = count;
    for (unsigned i = 0; i < count; i++) {
        struct client *self = &clients[i];
        self->number = i;
        self->gateway = i % load.gateway_count;
        self->random = (load.seed * 0x9e3779b97f4a7c15u + i * 0xbf58476d1ce4e5b9u) | 1;
        for (unsigned j = 0; j < load.gateway_count; j++)
            if (!http_init(&self->http[j], load.gateways[j], timeout_ms)) {
                fprintf(stderr, "load: HOST:PORT in numbers was expected; came: %s\n", load.gateways[j]);
                return 64;
            }
        if (pthread_create(&self->thread, NULL, body, self) != 0)
            return 1;
    }
    for (unsigned i = 0; i < count; i++) {
        pthread_join(clients[i].thread, NULL);
        for (unsigned j = 0; j < load.gateway_count; j++)
            http_close(&clients[i].http[j]);
    }
    free(clients);
    return 0;
}

static unsigned take_gateways(char **arguments)
{
    for (; *arguments != NULL && load.gateway_count < GATEWAYS_MAX; arguments++)
        load.gateways[load.gateway_count++] = *arguments;
    return load.gateway_count;
}

static unsigned count_of(const char *text)
{
    unsigned long count = strtoul(text, NULL, 10);
    return count < 1 ? 1 : count > CLIENTS_MAX ? CLIENTS_MAX : (unsigned)count;
}

int main(int argc, char **argv)
{
    int status = 64;
    setvbuf(stdout, NULL, _IOLBF, 0);
    signal(SIGTERM, stop);
    load.began_ns = http_now_ns();
    if (argc >= 8 && strcmp(argv[1], "run") == 0 && take_gateways(argv + 7) > 0) {
        load.seed = strtoull(argv[3], NULL, 10);
        load.rate = strtod(argv[5], NULL);
        load.seconds_a_key = strtoull(argv[6], NULL, 10);
        load.history = fopen(argv[2], "w");
        if (load.history == NULL || load.rate <= 0 || load.seconds_a_key == 0)
            return 64;
        status = run_all(user, count_of(argv[4]), TIMEOUT_MS);
        if (fclose(load.history) != 0)
            status = 1;
        printf("unexpected answers: %llu\n", (unsigned long long)load.unexpected);
    } else if (argc >= 7 && strcmp(argv[1], "probe") == 0 && take_gateways(argv + 6) > 0) {
        load.probe_key = argv[3];
        load.pause_ns = strtoull(argv[5], NULL, 10) * 1000u;
        load.history = fopen(argv[2], "w");
        if (load.history == NULL)
            return 64;
        status = run_all(prober, count_of(argv[4]), TIMEOUT_MS);
        if (fclose(load.history) != 0)
            status = 1;
    } else if ((argc == 4 || argc == 5) && strcmp(argv[1], "verify") == 0) {
        load.gateways[load.gateway_count++] = argv[3];
        if (argc == 5)
            load.tries = (int)count_of(argv[4]);
        status = run_all(verifier, count_of(argv[2]), TIMEOUT_MS);
        printf("%llu agree, %llu differ\n", (unsigned long long)load.good, (unsigned long long)load.bad);
        status = status != 0 || load.bad > 0;
    } else {
        fputs("usage: load run|probe|verify … (see the head of tests/chaos/load.c)\n", stderr);
    }
    return status;
}

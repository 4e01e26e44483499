/* A closed-loop load through libsluice.
 *
 * core_load put|get|stable DEPTH SECONDS VALUE-BYTES PREFIX ADDRESS…
 * DEPTH calls are kept in flight over 1,000 keys below PREFIX. Prints one JSON object: calls a second, latency
 * percentiles in microseconds, failures. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "api/sluice.h"

#define SAMPLES_MAX (8u << 20)
#define KEYS        1000u

struct slot {
    uint64_t started_ns;
    uint64_t number;
};

static struct {
    struct sluice_client *client;
    struct sluice_value *value;
    const char *prefix;
    const char *kind;
    uint32_t size, depth, running;
    uint64_t ends_ns;
    uint32_t *samples;
    size_t sample_count;
    uint64_t failed;
    char failure[256];
} load;

static uint64_t now_ns(void)
{
    struct timespec now;
    clock_gettime(CLOCK_MONOTONIC, &now);
    return (uint64_t)now.tv_sec * 1000000000u + (uint64_t)now.tv_nsec;
}

static void done(void *arg, const struct sluice_answer *answer);

static void start(struct slot *slot)
{
    char key[256];
    int size = snprintf(key, sizeof(key), "%s%06llu", load.prefix, (unsigned long long)(slot->number % KEYS));
    slot->started_ns = now_ns();
    if (strcmp(load.kind, "put") == 0) {
        const struct sluice_operation operation = {.kind = SLUICE_PUT,
                                                   .key = key,
                                                   .key_size = (size_t)size,
                                                   .content_type = "application/octet-stream",
                                                   .content_type_size = 24,
                                                   .value = load.value,
                                                   .data_size = load.size};
        const struct sluice_write request = {.operations = &operation, .operation_count = 1};
        sluice_write(load.client, &request, done, slot);
    } else {
        const struct sluice_get request = {
            .key = key, .key_size = (size_t)size, .stable = strcmp(load.kind, "stable") == 0};
        sluice_get(load.client, &request, done, slot);
    }
}

static void done(void *arg, const struct sluice_answer *answer)
{
    struct slot *slot = arg;
    uint64_t now = now_ns();
    uint64_t taken = now - slot->started_ns;
    if (load.sample_count < SAMPLES_MAX)
        load.samples[load.sample_count++] = taken > UINT32_MAX ? UINT32_MAX : (uint32_t)taken;
    if (answer->status != SLUICE_OK && load.failed++ == 0)
        snprintf(load.failure, sizeof(load.failure), "%s: %s", sluice_status_code(answer->status), answer->detail);
    slot->number += load.depth;
    if (now < load.ends_ns)
        start(slot);
    else
        load.running--;
}

static int by_size(const void *a, const void *b)
{
    uint32_t left = *(const uint32_t *)a, right = *(const uint32_t *)b;
    return left < right ? -1 : left > right;
}

static double percentile(double part)
{
    return load.sample_count == 0 ? 0 : load.samples[(size_t)((double)(load.sample_count - 1) * part)] / 1000.0;
}

int main(int argc, char **argv)
{
    if (argc < 7) {
        fprintf(stderr, "core_load put|get|stable DEPTH SECONDS VALUE-BYTES PREFIX ADDRESS…\n");
        return 64;
    }
    const struct sluice_options options = {
        .size = sizeof(options), .nodes = (const char *const *)&argv[6], .node_count = (size_t)(argc - 6)};
    load.kind = argv[1];
    load.depth = (uint32_t)strtoul(argv[2], NULL, 10);
    load.size = (uint32_t)strtoul(argv[4], NULL, 10);
    load.prefix = argv[5];
    load.value = sluice_value_create(load.size);
    load.samples = malloc(SAMPLES_MAX * sizeof(*load.samples));
    struct slot *slots = calloc(load.depth, sizeof(*slots));
    if (load.value == NULL || load.samples == NULL || slots == NULL ||
        sluice_open(&options, &load.client) != SLUICE_OK) {
        fprintf(stderr, "core_load: cannot start\n");
        return 1;
    }
    for (uint32_t i = 0; i < load.size; i++)
        sluice_value_data(load.value)[i] = (uint8_t)('a' + (i * 7 + i / 64) % 26);
    bool never = false;
    for (int i = 0; i < 500 && !sluice_ready(load.client); i++)
        (void)sluice_wait(load.client, &never, 10);
    uint64_t started = now_ns();
    load.ends_ns = started + (uint64_t)(atof(argv[3]) * 1e9);
    load.running = load.depth;
    for (uint32_t i = 0; i < load.depth; i++) {
        slots[i].number = i;
        start(&slots[i]);
    }
    while (load.running > 0)
        (void)sluice_wait(load.client, &never, 10);
    double taken = (double)(now_ns() - started) / 1e9;
    qsort(load.samples, load.sample_count, sizeof(*load.samples), by_size);
    printf("{\"rate\":%.1f,\"p50_us\":%.1f,\"p90_us\":%.1f,\"p99_us\":%.1f,\"max_us\":%.1f,\"count\":%zu,\"failed\":%"
           "llu}\n",
           (double)load.sample_count / taken, percentile(0.5), percentile(0.9), percentile(0.99), percentile(1.0),
           load.sample_count, (unsigned long long)load.failed);
    if (load.failed > 0)
        fprintf(stderr, "core_load: the first failure was %s\n", load.failure);
    sluice_close(load.client);
    sluice_value_unref(load.value);
    free(load.samples);
    free(slots);
    return load.failed == 0 ? 0 : 2;
}

/* What a message costs: round trips (p50, p99) and messages a second over each provider, between two processes.
 * Usage: fabric_bench [rounds] [bytes] [pin]; `pin` puts the two processes on cores 0 and 1, `pin1` both on core 0. */
#include <sched.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <sys/wait.h>
#include <unistd.h>

#include "core/base/clock.h"
#include "core/base/panic.h"
#include "core/rdma/fabric.h"

#define WINDOW_MAX       64u
#define WINDOW_BYTES_MAX (64u << 20)
#define WAIT_NS          (100 * NS_PER_MS)

struct bench {
    struct fabric *fabric;
    struct fabric_link *link;
    uint64_t received, bytes;
    bool up, down, echo;
};

static void pin(const char *how, size_t which)
{
    if (!how || strncmp(how, "pin", 3) != 0)
        return;
    cpu_set_t cores;
    CPU_ZERO(&cores);
    CPU_SET(strcmp(how, "pin1") == 0 ? 0 : which, &cores);
    if (sched_setaffinity(0, sizeof(cores), &cores) != 0)
        perror("sched_setaffinity");
}

static void on_event(void *arg, const struct fabric_event *event)
{
    struct bench *bench = arg;
    if (event->type == FABRIC_LINK_UP) {
        bench->link = event->link;
        bench->up = true;
    } else if (event->type == FABRIC_LINK_DOWN) {
        bench->down = true;
        if (!bench->echo)
            fprintf(stderr, "link down: %s\n", event->text);
    } else if (event->type == FABRIC_MESSAGE) {
        bench->received++;
        bench->bytes += event->size;
        struct slice part = {event->data, event->size};
        if (bench->echo && fabric_send(event->link, &part, 1, NULL, 0, 0) != SLUICE_OK)
            PANIC("the echo could not be sent");
    }
}

static struct fabric *create(uint32_t role)
{
    struct fabric_options options = {
        .size = sizeof(options), .identity = {.role = role}, .spin_ns = UINT32_MAX, .ring_bytes = 1u << 20};
    struct fabric *fabric;
    if (fabric_create(&options, &fabric) != SLUICE_OK)
        PANIC("no fabric");
    return fabric;
}

static void serve(const char *address, int ready, const char *how)
{
    pin(how, 1);
    struct bench bench = {.echo = true, .fabric = create(FABRIC_ROLE_NODE)};
    char error[256];
    if (fabric_listen(bench.fabric, address, error, sizeof(error)) != SLUICE_OK)
        PANIC("%s", error);
    const char *bound = fabric_listen_address(bench.fabric, 0);
    if (write(ready, bound, strlen(bound) + 1) < 0)
        PANIC("pipe");
    while (!bench.down) {
        if (fabric_poll(bench.fabric, 256, on_event, &bench) == 0)
            fabric_wait(bench.fabric, WAIT_NS);
    }
    fabric_destroy(bench.fabric);
}

static void step(struct bench *bench)
{
    if (fabric_poll(bench->fabric, 256, on_event, bench) == 0)
        fabric_wait(bench->fabric, WAIT_NS);
    if (bench->down)
        exit(1);
}

static int compare(const void *left, const void *right)
{
    uint64_t a = *(const uint64_t *)left, b = *(const uint64_t *)right;
    return (a > b) - (a < b);
}

static double cpu_seconds(void)
{
    struct rusage usage;
    (void)getrusage(RUSAGE_SELF, &usage);
    return (double)(usage.ru_utime.tv_sec + usage.ru_stime.tv_sec) +
           1e-6 * (double)(usage.ru_utime.tv_usec + usage.ru_stime.tv_usec);
}

static void measure(struct bench *bench, const char *name, uint64_t rounds, uint32_t size)
{
    uint8_t *data = calloc(1, size);
    uint64_t *times = calloc(rounds, sizeof(*times));
    ASSERT(data && times);
    struct slice part = {data, size};
    uint32_t window = WINDOW_BYTES_MAX / size < WINDOW_MAX ? WINDOW_BYTES_MAX / size : WINDOW_MAX;
    double cpu = cpu_seconds();
    for (uint64_t i = 0; i < rounds; i++) {
        uint64_t start = clock_monotonic_ns(), want = bench->received + 1;
        if (fabric_send(bench->link, &part, 1, NULL, 0, 0) != SLUICE_OK)
            PANIC("send");
        fabric_flush(bench->fabric);
        while (bench->received < want)
            step(bench);
        times[i] = clock_monotonic_ns() - start;
    }
    cpu = cpu_seconds() - cpu;
    qsort(times, rounds, sizeof(*times), compare);
    uint64_t start = clock_monotonic_ns(), sent = 0, first = bench->received, total = 10 * rounds;
    while (bench->received - first < total) {
        while (sent < total && sent - (bench->received - first) < window) {
            if (fabric_send(bench->link, &part, 1, NULL, 0, 0) != SLUICE_OK)
                PANIC("send");
            sent++;
        }
        step(bench);
    }
    double seconds = 1e-9 * (double)(clock_monotonic_ns() - start);
    printf("%s %u bytes: round trip p50 %.2f us, p99 %.2f us, cpu %.2f us each; %u in flight: %.0f messages/s there "
           "and back\n",
           name, size, 1e-3 * (double)times[rounds / 2], 1e-3 * (double)times[rounds * 99 / 100],
           1e6 * cpu / (double)rounds, window, (double)total / seconds);
    free(data);
    free(times);
}

static void run(const char *name, const char *address, uint64_t rounds, uint32_t size, const char *how)
{
    int ready[2];
    char bound[256] = "";
    if (pipe(ready) != 0)
        PANIC("pipe");
    fflush(stdout);
    pid_t child = fork();
    if (child == 0) {
        serve(address, ready[1], how);
        _exit(0);
    }
    if (child < 0 || read(ready[0], bound, sizeof(bound) - 1) <= 0)
        PANIC("the echo process did not start");
    pin(how, 0);
    struct bench bench = {.fabric = create(FABRIC_ROLE_CLIENT)};
    if (fabric_connect(bench.fabric, bound, NULL, &bench.link) != SLUICE_OK)
        PANIC("connect");
    while (!bench.up)
        step(&bench);
    measure(&bench, name, rounds, size);
    fabric_destroy(bench.fabric);
    (void)waitpid(child, NULL, 0);
    close(ready[0]);
    close(ready[1]);
}

int main(int argc, char **argv)
{
    uint64_t rounds = argc > 1 ? strtoull(argv[1], NULL, 10) : 20000;
    uint32_t size = argc > 2 ? (uint32_t)strtoul(argv[2], NULL, 10) : 64;
    const char *how = argc > 3 ? argv[3] : NULL;
    if (rounds == 0 || size == 0 || size > (64u << 20)) {
        fprintf(stderr, "usage: %s [rounds] [bytes, 1 to 67108864] [pin|pin1]\n", argv[0]);
        return 2;
    }
    char name[64];
    (void)snprintf(name, sizeof(name), "shm:fabric-bench-%d", (int)getpid());
    run("shm", name, rounds, size, how);
    run("tcp", "tcp:127.0.0.1:0", rounds, size, how);
    return 0;
}

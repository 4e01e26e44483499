/* Bad weather for a network namespace: takes packets from an NFQUEUE, and lets them go late, out of order, or not at
 * all.
 *
 * weather QUEUE SEED DELAY-MS JITTER-MS LOSS-PERMILLE REORDER-PERMILLE
 *
 * A rule sends packets here (iptables -I INPUT -j NFQUEUE --queue-num QUEUE --queue-bypass). Each waits for the delay
 * and a part of the jitter, in the order in which it came, except those that are drawn to overtake: they don't wait.
 * Prints "ready" once the queue is bound. At SIGTERM what is held goes on at once, and one line counts what was done.
 */
#include <arpa/inet.h>
#include <errno.h>
#include <linux/netfilter.h>
#include <poll.h>
#include <signal.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/signalfd.h>
#include <sys/socket.h>
#include <time.h>
#include <unistd.h>

#include <libnetfilter_queue/libnetfilter_queue.h>

#define HELD_MAX 16384u /* packets; what comes beyond is dropped, as by any full queue */

/* In order of release: a ring, as those that overtake are never held. */
static struct {
    struct {
        uint64_t release_ns;
        uint32_t id;
    } held[HELD_MAX];
    uint32_t first, count;
    uint64_t delay_ns, jitter_ns, random;
    unsigned loss_permille, reorder_permille;
    uint64_t passed, lost, overtaken;
} weather;

static uint64_t now_ns(void)
{
    struct timespec now;
    clock_gettime(CLOCK_MONOTONIC, &now);
    return (uint64_t)now.tv_sec * 1000000000u + (uint64_t)now.tv_nsec;
}

/* xorshift64*: Vigna, "An experimental exploration of Marsaglia's xorshift generators" (2016). */
static uint64_t random_below(uint64_t bound)
{
    weather.random ^= weather.random >> 12;
    weather.random ^= weather.random << 25;
    weather.random ^= weather.random >> 27;
    return bound == 0 ? 0 : (weather.random * 0x2545f4914f6cdd1du >> 16) % bound;
}

static void let_go(struct nfq_q_handle *queue, uint64_t until_ns)
{
    while (weather.count > 0 && weather.held[weather.first].release_ns <= until_ns) {
        nfq_set_verdict(queue, weather.held[weather.first].id, NF_ACCEPT, 0, NULL);
        weather.first = (weather.first + 1) % HELD_MAX;
        weather.count--;
        weather.passed++;
    }
}

static int packet_came(struct nfq_q_handle *queue, struct nfgenmsg *message, struct nfq_data *data, void *arg)
{
    (void)message;
    (void)arg;
    const struct nfqnl_msg_packet_hdr *header = nfq_get_msg_packet_hdr(data);
    if (header == NULL)
        return 0;
    uint32_t id = ntohl(header->packet_id);
    if (weather.count == HELD_MAX || random_below(1000) < weather.loss_permille) {
        weather.lost++;
        return nfq_set_verdict(queue, id, NF_DROP, 0, NULL);
    }
    if (weather.count > 0 && random_below(1000) < weather.reorder_permille) {
        weather.overtaken++;
        return nfq_set_verdict(queue, id, NF_ACCEPT, 0, NULL);
    }
    uint64_t release_ns = now_ns() + weather.delay_ns + random_below(weather.jitter_ns);
    uint32_t last = (weather.first + weather.count + HELD_MAX - 1) % HELD_MAX;
    if (weather.count > 0 && release_ns < weather.held[last].release_ns)
        release_ns = weather.held[last].release_ns;
    uint32_t at = (weather.first + weather.count) % HELD_MAX;
    weather.held[at].release_ns = release_ns;
    weather.held[at].id = id;
    weather.count++;
    return 0;
}

static int wait_ms(void)
{
    if (weather.count == 0)
        return -1;
    uint64_t now = now_ns(), release = weather.held[weather.first].release_ns;
    return release <= now ? 0 : (int)((release - now) / 1000000u + 1);
}

static int serve(struct nfq_handle *netlink, struct nfq_q_handle *queue, int signals)
{
    static char buffer[1 << 16] __attribute__((aligned(8)));
    struct pollfd watched[2] = {{.fd = nfq_fd(netlink), .events = POLLIN}, {.fd = signals, .events = POLLIN}};
    for (;;) {
        if (poll(watched, 2, wait_ms()) < 0 && errno != EINTR)
            return 1;
        if (watched[1].revents != 0)
            return 0;
        if (watched[0].revents != 0) {
            ssize_t size = recv(watched[0].fd, buffer, sizeof(buffer), MSG_DONTWAIT);
            if (size > 0)
                nfq_handle_packet(netlink, buffer, (int)size);
            /* The socket's buffer was full: the kernel has dropped packets, which is weather too. */
            else if (size < 0 && errno != EAGAIN && errno != EINTR && errno != ENOBUFS)
                return 1;
        }
        let_go(queue, now_ns());
    }
}

int main(int argc, char **argv)
{
    if (argc != 7) {
        fputs("usage: weather QUEUE SEED DELAY-MS JITTER-MS LOSS-PERMILLE REORDER-PERMILLE\n", stderr);
        return 64;
    }
    weather.random = strtoull(argv[2], NULL, 10) | 1;
    weather.delay_ns = strtoull(argv[3], NULL, 10) * 1000000u;
    weather.jitter_ns = strtoull(argv[4], NULL, 10) * 1000000u;
    weather.loss_permille = (unsigned)strtoul(argv[5], NULL, 10);
    weather.reorder_permille = (unsigned)strtoul(argv[6], NULL, 10);
    sigset_t signals;
    sigemptyset(&signals);
    sigaddset(&signals, SIGTERM);
    sigprocmask(SIG_BLOCK, &signals, NULL);
    int signal_fd = signalfd(-1, &signals, SFD_CLOEXEC);
    struct nfq_handle *netlink = nfq_open();
    struct nfq_q_handle *queue =
        netlink == NULL ? NULL : nfq_create_queue(netlink, (uint16_t)strtoul(argv[1], NULL, 10), packet_came, NULL);
    if (signal_fd < 0 || queue == NULL || nfq_set_mode(queue, NFQNL_COPY_META, 0) < 0 ||
        nfq_set_queue_maxlen(queue, HELD_MAX) < 0) {
        fprintf(stderr, "weather: the queue cannot be bound: %s\n", strerror(errno));
        return 1;
    }
    puts("ready");
    fflush(stdout);
    int status = serve(netlink, queue, signal_fd);
    let_go(queue, UINT64_MAX);
    printf("%llu passed, %llu lost, %llu overtook\n", (unsigned long long)weather.passed,
           (unsigned long long)weather.lost, (unsigned long long)weather.overtaken);
    nfq_destroy_queue(queue);
    nfq_close(netlink);
    return status;
}

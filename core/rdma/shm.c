/* Processes of one host. A unix socket is where they meet, exchange descriptors, and learn of each other's end;
 * messages go through memory alone, with one write to an eventfd when the receiver sleeps. */
#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/un.h>
#include <unistd.h>

#include "core/base/clock.h"
#include "core/base/log.h"
#include "core/base/panic.h"
#include "core/rdma/shm__memory.h"

#ifndef SO_PEERPIDFD
#define SO_PEERPIDFD 77
#endif

#define RETRY_NS (5 * NS_PER_MS)
/* Between the closing of a process's sockets and the proof of its death lie microseconds, seldom more. */
#define LINGER_NS          (250 * NS_PER_MS)
#define CONTROLS_PER_VISIT 64
#define BACKLOG            4096

/* What goes over the socket once the link is up. */
enum control_kind { CONTROL_GRANT = 1, CONTROL_REVOKE = 2, CONTROL_BYE = 3 };
struct control {
    uint64_t magic;
    uint32_t kind;
    uint32_t unused;
    uint64_t key;
    uint64_t size;
};
_Static_assert(sizeof(struct control) == 32, "frozen layout");
#define CONTROL_MAGIC UINT64_C(0x3143454349554c53) /* "SLUICEC1" */

static void init(struct fabric_link *link)
{
    link->shm = (struct fabric__shm){.wake_fd = -1, .pidfd = -1, .came = {-1, -1, -1}};
    link->shm.peer.fd = -1;
    link->shm.pidfd_source = (struct fabric__source){SOURCE_PIDFD, link};
}

static void close_fd(int *fd)
{
    if (*fd >= 0)
        (void)close(*fd);
    *fd = -1;
}

/* --- addresses --- */

/* A name with a slash is a path; any other lives in the abstract namespace, where nothing is left behind. */
static bool address_of(const char *name, struct sockaddr_un *out, socklen_t *size)
{
    static const char prefix[] = "sluice/";
    *out = (struct sockaddr_un){.sun_family = AF_UNIX};
    size_t length = strlen(name);
    if (length == 0)
        return false;
    if (strchr(name, '/')) {
        if (length >= sizeof(out->sun_path))
            return false;
        memcpy(out->sun_path, name, length);
        *size = (socklen_t)(offsetof(struct sockaddr_un, sun_path) + length + 1);
        return true;
    }
    if (1 + sizeof(prefix) - 1 + length > sizeof(out->sun_path))
        return false;
    memcpy(out->sun_path + 1, prefix, sizeof(prefix) - 1);
    memcpy(out->sun_path + sizeof(prefix), name, length);
    *size = (socklen_t)(offsetof(struct sockaddr_un, sun_path) + sizeof(prefix) + length);
    return true;
}

static int open_socket(void)
{
    return socket(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
}

/* A socket file that nobody listens on any more is a leftover of a process that was killed. */
static void remove_leftover(const struct sockaddr_un *address, socklen_t size)
{
    struct stat info;
    if (address->sun_path[0] == 0 || lstat(address->sun_path, &info) != 0 || !S_ISSOCK(info.st_mode))
        return;
    int fd = open_socket();
    if (fd < 0)
        return;
    if (connect(fd, (const struct sockaddr *)address, size) != 0 && errno == ECONNREFUSED)
        (void)unlink(address->sun_path);
    (void)close(fd);
}

static enum sluice_status shm_listen(struct fabric__listener *listener, const char *rest, char *error,
                                     size_t error_size)
{
    struct sockaddr_un address;
    if (!address_of(rest, &address, &listener->bound_size)) {
        (void)snprintf(error, error_size,
                       "expected shm:NAME with a name of 1 to 100 bytes, or a path that short, got \"shm:%s\"", rest);
        return SLUICE_INVALID;
    }
    listener->fd = open_socket();
    if (listener->fd < 0) {
        (void)snprintf(error, error_size, "no socket could be opened: %s", strerror(errno));
        return SLUICE_IO;
    }
    remove_leftover(&address, listener->bound_size);
    if (bind(listener->fd, (const struct sockaddr *)&address, listener->bound_size) != 0 ||
        listen(listener->fd, BACKLOG) != 0) {
        (void)snprintf(error, error_size, "can't listen on shm:%s: %s%s", rest, strerror(errno),
                       errno == EADDRINUSE ? "; is another process with this name running?" : "");
        close_fd(&listener->fd);
        return SLUICE_IO;
    }
    memcpy(&listener->bound, &address, sizeof(address));
    (void)snprintf(listener->address, sizeof(listener->address), "shm:%s", rest);
    return SLUICE_OK;
}

static void shm_unlisten(struct fabric__listener *listener)
{
    const struct sockaddr_un *address = (const struct sockaddr_un *)(const void *)&listener->bound;
    close_fd(&listener->fd);
    if (address->sun_path[0] != 0)
        (void)unlink(address->sun_path);
}

/* --- who is there --- */

/* Checks who is at the other end and gets hold of the process itself, so that its end can be proved. */
static bool know_peer(struct fabric_link *link)
{
    struct fabric__shm *shm = &link->shm;
    struct ucred peer;
    socklen_t size = sizeof(peer);
    if (getsockopt(link->fd, SOL_SOCKET, SO_PEERCRED, &peer, &size) != 0) {
        fabric__fail(link, FABRIC_DOWN_CLOSED, "the kernel does not say who is there: %s", strerror(errno));
        return false;
    }
    if (link->accepted)
        (void)snprintf(link->name, sizeof(link->name), "process %d over shm", (int)peer.pid);
    uid_t own = geteuid();
    /* Shared memory is shared trust: whoever can stop and read us anyhow may share it. Root connects to whom it likes.
     */
    if (peer.uid != own && peer.uid != 0 && (link->accepted || own != 0)) {
        char text[FABRIC__TEXT_BYTES];
        (void)snprintf(text, sizeof(text),
                       "expected a process of user %u or root, came user %u: use a tcp: address instead", (unsigned)own,
                       (unsigned)peer.uid);
        fabric__refuse(link, text);
        return false;
    }
    if (peer.pid == getpid())
        return true; /* both ends live and die together */
    size = sizeof(shm->pidfd);
    if (getsockopt(link->fd, SOL_SOCKET, SO_PEERPIDFD, &shm->pidfd, &size) != 0)
        shm->pidfd = -1;
    if (shm->pidfd < 0 && errno == ENOPROTOOPT) {
        /* Before Linux 6.5: the number might have been given to another process since, but not while our peer still
         * holds its socket. */
        struct pollfd alive = {.fd = link->fd, .events = POLLRDHUP};
        shm->pidfd = peer.pid > 0 ? (int)syscall(SYS_pidfd_open, peer.pid, 0) : -1;
        if (shm->pidfd >= 0 && poll(&alive, 1, 0) != 0)
            close_fd(&shm->pidfd);
    }
    if (shm->pidfd >= 0 &&
        fabric__epoll_add(link->fabric, shm->pidfd, EPOLLIN | EPOLLET, &shm->pidfd_source) != SLUICE_OK)
        close_fd(&shm->pidfd);
    if (shm->pidfd < 0)
        LOG_INFO("fabric", "%s: the kernel gives no hold on its process, so its death can be guessed, not proved",
                 link->name);
    return true;
}

static enum sluice_status shm_accept(struct fabric__listener *listener)
{
    struct fabric *self = listener->fabric;
    int fd = accept4(listener->fd, NULL, NULL, SOCK_CLOEXEC | SOCK_NONBLOCK);
    if (fd < 0)
        return errno == EAGAIN                                         ? SLUICE_AGAIN
               : errno == EMFILE || errno == ENFILE || errno == ENOMEM ? SLUICE_MEMORY
                                                                       : SLUICE_OK;
    struct fabric_link *link = fabric__link_create(self, &fabric__shm_provider, true);
    if (!link) {
        (void)close(fd);
        return SLUICE_MEMORY;
    }
    link->fd = fd;
    if (fabric__epoll_add(self, fd, EPOLLIN | EPOLLRDHUP | EPOLLET, &link->source) != SLUICE_OK) {
        fabric_link_close(link);
        return SLUICE_MEMORY;
    }
    link->flags |= LINK__READABLE;
    fabric__activate(link);
    (void)know_peer(link);
    return SLUICE_OK;
}

/* Connecting to a unix socket is done at once or not at all; a full backlog is tried again. */
static void try_connect(struct fabric_link *link)
{
    const char *rest = link->name + strlen(fabric__shm_provider.scheme);
    struct sockaddr_un address;
    socklen_t size;
    bool valid = address_of(rest, &address, &size);
    ASSERT(valid);
    if (connect(link->fd, (const struct sockaddr *)&address, size) != 0) {
        if (errno == EAGAIN || errno == EINTR) {
            fabric__set_timer(link, clock_monotonic_ns() + RETRY_NS);
            return;
        }
        fabric__fail(link, FABRIC_DOWN_REFUSED, "can't connect to %s: %s%s", link->name, strerror(errno),
                     errno == ECONNREFUSED || errno == ENOENT ? "; is it running on this host?" : "");
        return;
    }
    fabric__set_timer(link, link->deadline);
    if (fabric__epoll_add(link->fabric, link->fd, EPOLLIN | EPOLLRDHUP | EPOLLET, &link->source) != SLUICE_OK) {
        fabric__fail(link, FABRIC_DOWN_REFUSED, "the kernel refuses to watch a further socket");
        return;
    }
    if (know_peer(link))
        fabric__greet(link);
}

static enum sluice_status shm_connect(struct fabric_link *link, const char *rest)
{
    struct sockaddr_un address;
    socklen_t size;
    if (!address_of(rest, &address, &size))
        return SLUICE_INVALID;
    link->fd = open_socket();
    if (link->fd < 0)
        return SLUICE_IO;
    try_connect(link);
    return SLUICE_OK;
}

/* --- the socket --- */

static enum sluice_status send_packet(struct fabric_link *link, const void *data, size_t size, const int *fds,
                                      unsigned fd_count)
{
    union {
        char bytes[CMSG_SPACE(3 * sizeof(int))];
        struct cmsghdr align;
    } control = {0};
    struct iovec iov = {.iov_base = (void *)(uintptr_t)data, .iov_len = size};
    struct msghdr message = {.msg_iov = &iov, .msg_iovlen = 1};
    if (fd_count) {
        message.msg_control = control.bytes;
        message.msg_controllen = CMSG_SPACE(fd_count * sizeof(int));
        struct cmsghdr *header = CMSG_FIRSTHDR(&message);
        header->cmsg_level = SOL_SOCKET;
        header->cmsg_type = SCM_RIGHTS;
        header->cmsg_len = CMSG_LEN(fd_count * sizeof(int));
        memcpy(CMSG_DATA(header), fds, fd_count * sizeof(int));
    }
    ssize_t sent;
    do
        sent = sendmsg(link->fd, &message, MSG_NOSIGNAL | MSG_DONTWAIT);
    while (sent < 0 && errno == EINTR);
    if (sent == (ssize_t)size)
        return SLUICE_OK;
    return errno == EAGAIN ? SLUICE_AGAIN : SLUICE_CLOSED;
}

static void hello_add(const struct fabric_link *link, struct fabric__hello *hello)
{
    hello->slot = link->shm.slot;
}

static bool shm_ready(struct fabric_link *link)
{
    return shm__slot_take(link);
}

static enum sluice_status send_hello(struct fabric_link *link, const struct fabric__hello *hello)
{
    int fds[3] = {link->ring.fd, link->fabric->bell_fd, link->fabric->wake_fd};
    enum sluice_status status = send_packet(link, hello, sizeof(*hello), fds, 3);
    close_fd(&link->ring.fd); /* the mapping is enough for us */
    return status;
}

static enum sluice_status send_verdict(struct fabric_link *link, const char *text)
{
    struct fabric__verdict verdict;
    fabric__verdict_make(text, &verdict);
    return send_packet(link, &verdict, sizeof(verdict), NULL, 0);
}

/* What we write to when the peer sleeps must neither block nor raise a signal. */
static bool is_eventfd(int fd)
{
    char path[32], name[32];
    (void)snprintf(path, sizeof(path), "/proc/self/fd/%d", fd);
    ssize_t size = readlink(path, name, sizeof(name) - 1);
    if (size < 0)
        return false;
    name[size] = 0;
    int flags = fcntl(fd, F_GETFL);
    return strcmp(name, "anon_inode:[eventfd]") == 0 && flags >= 0 && (flags & O_NONBLOCK);
}

static enum sluice_status adopt(struct fabric_link *link, const struct fabric__hello *hello)
{
    struct fabric__shm *shm = &link->shm;
    if (!is_eventfd(shm->came[2]) || hello->slot >= FABRIC__SLOTS_MAX ||
        !ring__sealed(shm->came[1], FABRIC__BELL_BYTES))
        return SLUICE_CORRUPT;
    enum sluice_status status = ring__memory_open(shm->came[0], hello->ring_bytes, &shm->peer);
    if (status != SLUICE_OK)
        return status;
    void *memory = mmap(NULL, FABRIC__BELL_BYTES, PROT_READ | PROT_WRITE, MAP_SHARED, shm->came[1], 0);
    if (memory == MAP_FAILED)
        return SLUICE_MEMORY;
    (void)madvise(memory, FABRIC__BELL_BYTES, MADV_DONTFORK);
    shm->bell = memory;
    shm->peer_slot = hello->slot;
    shm->wake_fd = shm->came[2];
    shm->came[2] = -1;
    close_fd(&shm->came[0]);
    close_fd(&shm->came[1]);
    return SLUICE_OK;
}

static void on_control(struct fabric_link *link, const struct control *control, int fd)
{
    struct fabric__window **at;
    switch (control->kind) {
    case CONTROL_GRANT:
        if (shm__window_open(link, control->key, control->size, fd) != SLUICE_OK)
            fabric__fail(link, FABRIC_DOWN_PROTOCOL, "a region was granted that can't be mapped");
        return;
    case CONTROL_REVOKE:
        at = shm__window(link, control->key);
        if (*at)
            shm__window_close(at);
        return;
    case CONTROL_BYE:
        fabric__fail(link, FABRIC_DOWN_CLOSED, "the peer closed the link");
        return;
    default:
        fabric__fail(link, FABRIC_DOWN_PROTOCOL, "a control message of an unknown kind %u came", control->kind);
    }
}

/* The peer's end of the socket is gone. Its process may be going too, and then its death is worth the wait of a moment.
 */
static void on_hang_up(struct fabric_link *link)
{
    if (link->state < LINK__ANSWERED) {
        fabric__fail(link, FABRIC_DOWN_CLOSED, "%s closed the connection during the handshake", link->name);
        return;
    }
    if (link->shm.pidfd < 0) {
        fabric__fail(link, FABRIC_DOWN_CLOSED, "the peer closed its socket");
        return;
    }
    struct pollfd proof = {.fd = link->shm.pidfd, .events = POLLIN};
    if (poll(&proof, 1, 0) > 0) {
        link->flags |= LINK__DEAD;
        return;
    }
    if (link->state < LINK__LINGER) {
        fabric__set_state(link, LINK__LINGER);
        fabric__drop_pending(link);
        fabric__set_timer(link, clock_monotonic_ns() + LINGER_NS);
    }
}

static void on_packet(struct fabric_link *link, const uint8_t *data, size_t size, int fds[3], unsigned fd_count)
{
    uint64_t magic = 0;
    if (size >= sizeof(magic))
        memcpy(&magic, data, sizeof(magic));
    if (magic == CONTROL_MAGIC && size == sizeof(struct control) && link->state >= LINK__VERDICT) {
        struct control control;
        memcpy(&control, data, sizeof(control));
        on_control(link, &control, fd_count == 1 ? fds[0] : -1);
    } else if (magic == FABRIC__MAGIC_VERDICT && size == sizeof(struct fabric__verdict) &&
               link->state < LINK__ANSWERED) {
        struct fabric__verdict verdict;
        memcpy(&verdict, data, sizeof(verdict));
        fabric__on_verdict(link, &verdict);
    } else if (magic == FABRIC__MAGIC_HELLO && size == sizeof(struct fabric__hello) && link->state < LINK__ANSWERED) {
        struct fabric__hello hello;
        memcpy(&hello, data, sizeof(hello));
        for (unsigned i = 0; fd_count == 3 && i < 3; i++) {
            close_fd(&link->shm.came[i]);
            link->shm.came[i] = fds[i];
            fds[i] = -1;
        }
        fabric__on_hello(link, &hello);
    } else {
        char text[64];
        fabric__describe(data, size < 12 ? size : 12, text, sizeof(text));
        fabric__fail(link, FABRIC_DOWN_PROTOCOL,
                     "expected a Sluice handshake or control message, came %zu bytes that begin with \"%s\"", size,
                     text);
    }
}

/* False: nothing more to read now. */
static bool read_packet(struct fabric_link *link)
{
    uint8_t data[sizeof(struct fabric__verdict) + 1];
    union {
        char bytes[CMSG_SPACE(3 * sizeof(int))];
        struct cmsghdr align;
    } control;
    struct iovec iov = {.iov_base = data, .iov_len = sizeof(data)};
    struct msghdr message = {
        .msg_iov = &iov, .msg_iovlen = 1, .msg_control = control.bytes, .msg_controllen = sizeof(control.bytes)};
    ssize_t size = recvmsg(link->fd, &message, MSG_DONTWAIT | MSG_CMSG_CLOEXEC);
    if (size < 0 && errno == EINTR)
        return true;
    if (size < 0 && errno == EAGAIN)
        return false;
    int fds[3] = {-1, -1, -1};
    unsigned count = 0;
    if (size >= 0) {
        for (struct cmsghdr *at = CMSG_FIRSTHDR(&message); at; at = CMSG_NXTHDR(&message, at)) {
            if (at->cmsg_level != SOL_SOCKET || at->cmsg_type != SCM_RIGHTS)
                continue;
            count = (unsigned)((at->cmsg_len - CMSG_LEN(0)) / sizeof(int));
            ASSERT(count <= 3); /* the kernel drops what does not fit, and says so in msg_flags */
            memcpy(fds, CMSG_DATA(at), count * sizeof(int));
        }
    }
    if (size <= 0)
        on_hang_up(link);
    else
        on_packet(link, data, (size_t)size, fds, count);
    for (unsigned i = 0; i < 3; i++)
        close_fd(&fds[i]);
    return size > 0;
}

static void read_packets(struct fabric_link *link)
{
    for (int i = 0; link->fd >= 0 && read_packet(link); i++) {
        /* What follows the handshake, even its end, comes after LINK_UP. */
        if (i == CONTROLS_PER_VISIT || link->state == LINK__ANSWERED) {
            link->flags |= LINK__READABLE;
            return;
        }
    }
}

static void on_timer(struct fabric_link *link)
{
    if (link->state == LINK__LINGER)
        fabric__fail(link, FABRIC_DOWN_CLOSED, "the peer closed its socket without a word");
    else if (link->state == LINK__OPENING && clock_monotonic_ns() < link->deadline)
        try_connect(link);
    else if (link->state < LINK__ANSWERED)
        fabric__handshake_expired(link);
}

static bool shm_work(const struct fabric_link *link)
{
    (void)link;
    return false;
}

static void shm_service(struct fabric_link *link)
{
    unsigned flags = link->flags;
    link->flags = 0;
    if (flags & LINK__READABLE)
        read_packets(link);
    if (link->state == LINK__ANSWERED) {
        link->flags |= flags & LINK__DEAD;
        shm__attend(link);
        return;
    }
    if ((flags | link->flags) & LINK__DEAD) {
        link->flags &= ~(unsigned)LINK__DEAD;
        fabric__fail(link, FABRIC_DOWN_DEAD, "the peer's process has ended");
    }
    if (flags & LINK__TIMER)
        on_timer(link);
}

/* --- regions --- */

static enum sluice_status shm_permit(struct fabric_region *region, struct fabric_link *link,
                                     struct fabric__grant *grant)
{
    struct control control = {.magic = CONTROL_MAGIC, .kind = CONTROL_GRANT, .key = grant->key, .size = region->size};
    enum sluice_status status = send_packet(link, &control, sizeof(control), &region->fd, 1);
    if (status == SLUICE_OK)
        region->ever_mapped = true;
    return status;
}

static enum sluice_status shm_revoke(struct fabric_region *region, struct fabric_link *link,
                                     struct fabric__grant *grant)
{
    /* A correct peer unmaps it; no other can be made to. */
    (void)region;
    struct control control = {.magic = CONTROL_MAGIC, .kind = CONTROL_REVOKE, .key = grant->key};
    if (link->fd >= 0)
        (void)!send_packet(link, &control, sizeof(control), NULL, 0);
    return SLUICE_UNPROCESSABLE;
}

static enum sluice_status shm_write(struct fabric_link *link, uint64_t key, uint64_t offset, const void *data,
                                    uint32_t size, unsigned flags, uint64_t cookie)
{
    /* The key came through the ring; the descriptor was sent before it, over the socket. */
    if (!*shm__window(link, key))
        read_packets(link);
    struct fabric__window *window = *shm__window(link, key);
    if (link->state != LINK__UP)
        return SLUICE_CLOSED;
    return window ? shm__write(link, window, offset, data, size, flags, cookie) : SLUICE_FORBIDDEN;
}

static uint64_t shm_backlog(const struct fabric_link *link)
{
    (void)link;
    return 0;
}

/* --- the end --- */

static void shm_close(struct fabric_link *link)
{
    struct fabric__shm *shm = &link->shm;
    if (link->fd >= 0) {
        struct control bye = {.magic = CONTROL_MAGIC, .kind = CONTROL_BYE};
        if (link->shm.peer.control)
            (void)!send_packet(link, &bye, sizeof(bye), NULL, 0);
    }
    close_fd(&link->fd);
    close_fd(&shm->pidfd);
    shm__slot_give_back(link);
    while (shm->windows)
        shm__window_close(&shm->windows);
    for (unsigned i = 0; i < 3; i++)
        close_fd(&shm->came[i]);
}

static void shm_release(struct fabric_link *link)
{
    struct fabric__shm *shm = &link->shm;
    ring__memory_close(&shm->peer);
    if (shm->bell)
        (void)munmap(shm->bell, FABRIC__BELL_BYTES);
    shm->bell = NULL;
    close_fd(&shm->wake_fd);
}

static void discard(struct fabric *self)
{
    (void)self;
}

const struct fabric__provider fabric__shm_provider = {
    .scheme = "shm:",
    .asks_kernel = false,
    .init = init,
    .discard = discard,
    .listen = shm_listen,
    .accept = shm_accept,
    .unlisten = shm_unlisten,
    .connect = shm_connect,
    .work = shm_work,
    .rest = shm__rest,
    .service = shm_service,
    .hello_add = hello_add,
    .send_hello = send_hello,
    .send_verdict = send_verdict,
    .ready = shm_ready,
    .adopt = adopt,
    .place = shm__place,
    .place_whole = shm__place_whole,
    .publish = shm__publish,
    .credit = shm__credit,
    .backlog = shm_backlog,
    .permit = shm_permit,
    .revoke = shm_revoke,
    .write = shm_write,
    .close = shm_close,
    .release = shm_release,
};

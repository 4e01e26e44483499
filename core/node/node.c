#include "core/node/node.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/eventfd.h>
#include <sys/prctl.h>
#include <time.h>
#include <unistd.h>

#include "core/node/node__.h"

#define POLL_BUDGET    512u
#define TASKS_MAX      4096u
#define SPACE_EVERY_NS NS_PER_S
#define READY_EVERY_NS (500 * NS_PER_MS)
#define READY_SOON_NS  (10 * NS_PER_MS)
#define WAIT_LOOK_NS   100000
/* A clean stop waits so long for others to take the lead, and looks so often whether they have. */
#define HAND_OVER_NS        (NS_PER_S / 2)
#define HAND_OVER_LOOK_NS   (2 * NS_PER_MS)
#define HAND_OVER_LINGER_NS (30 * NS_PER_MS)

/* ---- Options ---- */

static char *copy_text(const char *text)
{
    return text == NULL ? NULL : strdup(text);
}

static enum sluice_status copy_list(const char *const *list, size_t count, const char *const **out)
{
    const char **copy = calloc(count + 1, sizeof(*copy));
    if (copy == NULL)
        return SLUICE_MEMORY;
    *out = copy;
    for (size_t i = 0; i < count; i++)
        if ((copy[i] = strdup(list[i])) == NULL)
            return SLUICE_MEMORY;
    return SLUICE_OK;
}

static void free_options(struct node_options *options)
{
    for (size_t i = 0; options->listen != NULL && i < options->listen_count; i++)
        free((char *)(uintptr_t)options->listen[i]);
    for (size_t i = 0; options->peers != NULL && i < options->peer_count; i++)
        free((char *)(uintptr_t)options->peers[i]);
    for (size_t i = 0; options->join != NULL && i < options->join_count; i++)
        free((char *)(uintptr_t)options->join[i]);
    free((void *)(uintptr_t)options->join);
    free((void *)(uintptr_t)options->listen);
    free((void *)(uintptr_t)options->peers);
    free((char *)(uintptr_t)options->data_path);
    free((char *)(uintptr_t)options->cluster_name);
    free((char *)(uintptr_t)options->health_address);
    free((char *)(uintptr_t)options->advertise);
    free((char *)(uintptr_t)options->tls_ca);
    free((char *)(uintptr_t)options->tls_certificate);
    free((char *)(uintptr_t)options->tls_key);
}

static enum sluice_status copy_options(struct node *self, const struct node_options *options)
{
    struct node_options given = {0};
    memcpy(&given, options, options->size < sizeof(given) ? options->size : sizeof(given));
    self->options = given;
    self->options.listen = self->options.peers = self->options.join = NULL;
    self->options.data_path = copy_text(given.data_path);
    self->options.cluster_name = copy_text(given.cluster_name);
    self->options.health_address = copy_text(given.health_address);
    self->options.advertise = copy_text(given.advertise);
    self->options.tls_ca = copy_text(given.tls_ca);
    self->options.tls_certificate = copy_text(given.tls_certificate);
    self->options.tls_key = copy_text(given.tls_key);
    if (self->options.data_path == NULL)
        return SLUICE_MEMORY;
    enum sluice_status status = copy_list(given.listen, given.listen_count, &self->options.listen);
    if (status == SLUICE_OK)
        status = copy_list(given.peers, given.peer_count, &self->options.peers);
    if (status == SLUICE_OK)
        status = copy_list(given.join, given.join_count, &self->options.join);
    if (self->options.free_percent_min == 0)
        self->options.free_percent_min = 5;
    if (self->options.segment_bytes == 0)
        self->options.segment_bytes = 64u << 20;
    if (self->options.cache_bytes == 0)
        self->options.cache_bytes = 256u << 20;
    if (self->options.volatile_bytes == 0)
        self->options.volatile_bytes = 1u << 30;
    long processors = sysconf(_SC_NPROCESSORS_ONLN);
    if (self->options.catch_up_rate == 0)
        self->options.catch_up_rate = (uint64_t)(processors > 0 ? processors : 1) * (8u << 20);
    return status;
}

static int member_order(const void *a, const void *b)
{
    const struct node__member *left = a, *right = b;
    return left->id - right->id;
}

static bool is_address(const char *text)
{
    return strncmp(text, "shm:", 4) == 0 || strncmp(text, "tcp:", 4) == 0;
}

/* "2=shm:NAME". NULL: it is not. */
static const char *split_peer(const char *text, unsigned long *id)
{
    char *end = NULL;
    *id = strtoul(text, &end, 10);
    return end != text && *end == '=' && *id >= 1 && *id < PAIRS_NODES_MAX && is_address(end + 1) ? end + 1 : NULL;
}

/* Who is given peers and is none of them did not begin the cluster with them: it joins them. So all nodes that there
 * will ever be can be started with the same list. */
static enum sluice_status join_peers(struct node *self)
{
    const char *addresses[NODE_FOUNDERS_MAX * NODE_ADDRESSES_MAX];
    size_t count = 0;
    for (size_t i = 0; i < self->options.peer_count; i++) {
        unsigned long id;
        const char *address = split_peer(self->options.peers[i], &id);
        if (id == self->options.id)
            return SLUICE_OK;
        if (address != NULL && count < sizeof(addresses) / sizeof(addresses[0]))
            addresses[count++] = address;
    }
    if (self->options.join_count > 0 || count == 0)
        return SLUICE_OK;
    free((void *)(uintptr_t)self->options.join);
    self->options.join = NULL;
    self->options.join_count = count;
    return copy_list(addresses, count, &self->options.join);
}

/* The members in the order of their numbers, so that every node has the same list. */
static enum sluice_status parse_peers(struct node *self, char *error, size_t error_size)
{
    enum sluice_status joins = join_peers(self);
    if (joins != SLUICE_OK)
        return joins;
    for (size_t i = 0; i < self->options.peer_count; i++) {
        const char *text = self->options.peers[i];
        unsigned long id;
        const char *address = split_peer(text, &id);
        if (address == NULL) {
            snprintf(error, error_size,
                     "a peer is written ID=ADDRESS with an ID from 1 to %d and an ADDRESS like shm:NAME or "
                     "tcp:HOST:PORT; came: %s",
                     PAIRS_NODES_MAX - 1, text);
            return SLUICE_INVALID;
        }
        if (self->options.join_count > 0 && id != self->options.id)
            continue; /* the members of the cluster say who they are */
        struct node__member *member = members__make(self, (uint16_t)id);
        if (member == NULL)
            return SLUICE_MEMORY;
        if (member->address_count == NODE_ADDRESSES_MAX) {
            snprintf(error, error_size, "node %lu has more than %d addresses", id, NODE_ADDRESSES_MAX);
            return SLUICE_INVALID;
        }
        enum sluice_status status = members__add_address(member, address);
        if (status != SLUICE_OK)
            return status;
    }
    struct node__member *own = members__make(self, self->options.id);
    if (own == NULL)
        return SLUICE_MEMORY;
    if (own->address_count == 0 && self->options.advertise != NULL) {
        enum sluice_status status = members__add_address(own, self->options.advertise);
        if (status != SLUICE_OK)
            return status;
    }
    qsort(self->members, self->member_count, sizeof(self->members[0]), member_order);
    return SLUICE_OK;
}

static enum sluice_status check_options(struct node *self, char *error, size_t error_size)
{
    if (self->options.id < 1 || self->options.id >= PAIRS_NODES_MAX) {
        snprintf(error, error_size, "a node's number lies between 1 and %d; came: %u (set --id)", PAIRS_NODES_MAX - 1,
                 self->options.id);
        return SLUICE_INVALID;
    }
    if (self->options.listen_count == 0) {
        snprintf(error, error_size,
                 "a node needs an address to listen on, like shm:NAME or tcp:HOST:PORT (set --listen)");
        return SLUICE_INVALID;
    }
    if (self->options.advertise != NULL && !is_address(self->options.advertise)) {
        snprintf(error, error_size, "others reach a node at an address like tcp:HOST:PORT or shm:NAME; came: %s",
                 self->options.advertise);
        return SLUICE_INVALID;
    }
    if (self->options.free_percent_min > 90) {
        snprintf(error, error_size, "the least free disk is a percentage up to 90; came: %u",
                 self->options.free_percent_min);
        return SLUICE_INVALID;
    }
    return parse_peers(self, error, error_size);
}

/* ---- What the host asks for ---- */

static uint64_t env_monotonic(void *arg)
{
    (void)arg;
    return clock_monotonic_ns();
}

static uint64_t env_realtime(void *arg)
{
    (void)arg;
    return clock_realtime_ns();
}

static enum sluice_status env_persist(void *arg, const struct wal_record *record)
{
    struct node *self = arg;
    return wal_append(self->wal, record);
}

static uint64_t env_persist_submit(void *arg)
{
    struct node *self = arg;
    return wal_submit(self->wal);
}

static enum sluice_status env_persist_wait(void *arg)
{
    struct node *self = arg;
    enum sluice_status error = SLUICE_OK;
    uint64_t ticket = wal_submit(self->wal);
    while (wal_completed(self->wal, &error) < ticket && error == SLUICE_OK && !wal_full(self->wal))
        nanosleep(&(struct timespec){.tv_nsec = WAIT_LOOK_NS}, NULL);
    return error != SLUICE_OK || ticket <= wal_completed(self->wal, &error) ? error : SLUICE_STORAGE_FULL;
}

static bool env_storage_full(void *arg)
{
    const struct node *self = arg;
    return self->storage_full;
}

void node__fail(void *arg, enum sluice_status status, const char *what)
{
    struct node *self = arg;
    if (self->failed)
        return;
    self->failed = true;
    snprintf(self->error, sizeof(self->error), "%s: %s; the node stops so that nothing false is said", what,
             sluice_status_text(status));
    LOG_ERROR("node", "%s", self->error);
    atomic_store(&self->stopping, true);
}

bool node__post(struct node *self, void (*run)(struct node *node, void *arg), void *arg)
{
    struct node__task *task = malloc(sizeof(*task));
    if (task == NULL)
        return false;
    *task = (struct node__task){.run = run, .arg = arg};
    if (queue_push(self->tasks, task))
        return true;
    free(task);
    return false;
}

/* ---- Opening ---- */

struct recovery {
    struct node *node;
    enum sluice_status status;
};

static void replay(void *arg, const struct wal_record *record)
{
    struct recovery *recovery = arg;
    if (recovery->status == SLUICE_OK)
        recovery->status = host_recover(recovery->node->host, record);
}

static void damaged(void *arg, const struct wal_damage *damage)
{
    (void)arg;
    LOG_ERROR("node",
              "the log is damaged (segment %llu, offset %llu: %s): this node's replicas have no vote until their peers "
              "have made them whole",
              (unsigned long long)damage->segment, (unsigned long long)damage->offset, damage->what);
}

static enum sluice_status open_host(struct node *self)
{
    const struct host_options options = {
        .pairs = {.node = self->options.id,
                  .incarnation = self->identity.incarnation,
                  .lease_ns = 60 * NS_PER_MS,
                  .beat_ns = 20 * NS_PER_MS,
                  .idle_lease_ns = 300 * NS_PER_MS,
                  .idle_beat_ns = 100 * NS_PER_MS,
                  .idle_after_ns = NS_PER_S,
                  .drift_ppm = 1000,
                  .ceiling_ahead_ns = 250 * NS_PER_MS},
        .seed = random_os(),
        .store = self->store,
        .hot_bytes_max = self->options.cache_bytes / CLUSTER_ROOT_SHARDS,
        .volatile_bytes_max = self->options.volatile_bytes / 4,
        .catch_up_rate = self->options.catch_up_rate,
    };
    const struct host_env env = {
        .arg = self,
        .monotonic_ns = env_monotonic,
        .realtime_ns = env_realtime,
        .send_peer = links__send_peer,
        .send_client = links__send_client,
        .client_pending = links__client_pending,
        .persist = env_persist,
        .persist_submit = env_persist_submit,
        .persist_wait = env_persist_wait,
        .owns = groups__owns,
        .storage_full = env_storage_full,
        .map_apply = groups__map_apply,
        .control = control__request,
        .role = lambdas__role,
        .caught_up = groups__caught_up,
        .members = groups__members_changed,
        .installed = groups__installed,
        .fatal = node__fail,
    };
    return host_create(&options, &env, &self->host);
}

static enum sluice_status open_disk(struct node *self, char *error, size_t error_size)
{
    char *store_path = data__path(self, "store"), *log_path = data__path(self, "log");
    struct recovery recovery = {.node = self};
    enum sluice_status status = SLUICE_MEMORY;
    if (store_path == NULL || log_path == NULL)
        goto out;
    /* Who is alone has nobody to be repaired by: there damage is an error that says so. */
    bool alone = self->member_count < 2, set_aside = false;
    const struct store_options store = {.path = store_path, .set_aside = alone ? NULL : &set_aside};
    status = store_open(&store, &self->store, error, error_size);
    if (status != SLUICE_OK)
        goto out;
    struct wal_options log = {
        .thread = true, .damaged = alone ? NULL : damaged, .known = !store_empty(self->store), .lost = set_aside};
    status = wal_device_open_directory(log_path, self->options.segment_bytes, &log.device, error, error_size);
    if (status != SLUICE_OK)
        goto out;
    status = open_host(self);
    if (status != SLUICE_OK) {
        log.device.close(log.device.context);
        goto out;
    }
    status = wal_open(&log, replay, &recovery, &self->wal, error, error_size);
    if (status == SLUICE_OK && recovery.status != SLUICE_OK) {
        snprintf(error, error_size, "the log in %s cannot be replayed: %s", log_path,
                 sluice_status_text(recovery.status));
        status = recovery.status;
    }
    if (status == SLUICE_OK)
        status = store_settle(self->store);
out:
    free(log_path);
    free(store_path);
    return status;
}

static enum sluice_status open_fabric(struct node *self, char *error, size_t error_size)
{
    struct fabric_options options = {
        .size = sizeof(options),
        .identity = {.role = FABRIC_ROLE_NODE, .node = self->options.id, .incarnation = self->identity.incarnation},
        .spin_ns = UINT32_MAX,
    };
    memcpy(options.identity.cluster, self->identity.cluster, sizeof(options.identity.cluster));
    const struct node_options *given = &self->options;
    enum sluice_status status =
        fabric_tls_create(given->tls_ca, given->tls_certificate, given->tls_key, &options.tls, error, error_size);
    if (status != SLUICE_OK)
        return status;
    status = fabric_create(&options, &self->fabric);
    fabric_tls_destroy(options.tls);
    if (status != SLUICE_OK) {
        snprintf(error, error_size, "the fabric cannot be opened: %s", sluice_status_text(status));
        return status;
    }
    for (size_t i = 0; i < self->options.listen_count; i++) {
        status = fabric_listen(self->fabric, self->options.listen[i], error, error_size);
        if (status != SLUICE_OK)
            return status;
    }
    const int watched[] = {wal_fd(self->wal), store_fd(self->store), queue_fd(self->tasks)};
    for (size_t i = 0; i < sizeof(watched) / sizeof(watched[0]) && status == SLUICE_OK; i++)
        status = fabric_watch(self->fabric, watched[i]);
    if (status != SLUICE_OK)
        snprintf(error, error_size, "the fabric cannot watch a descriptor: %s", sluice_status_text(status));
    return status;
}

static void look_at_space(struct node *self, uint64_t now)
{
    if (now < self->space_at_ns)
        return;
    self->space_at_ns = now + SPACE_EVERY_NS;
    uint64_t total, free_bytes = store_free_bytes(self->options.data_path, &total);
    if (total == 0)
        return;
    self->free_bytes = free_bytes;
    self->total_bytes = total;
    bool full = wal_full(self->wal) || store_full(self->store) ||
                self->free_bytes < self->total_bytes / 100 * self->options.free_percent_min;
    if (full != self->storage_full)
        LOG_WARN("node",
                 full ? "less than %u%% of the disk is free: this node is read-only until there is room"
                      : "more than %u%% of the disk is free again: this node takes writes",
                 self->options.free_percent_min);
    self->storage_full = full;
}

enum sluice_status node_create(const struct node_options *options, struct node **out, char *error, size_t error_size)
{
    struct node *self = calloc(1, sizeof(*self));
    snprintf(error, error_size, "out of memory");
    if (self == NULL)
        return SLUICE_MEMORY;
    self->failed_fd = -1;
    self->identity.lock_fd = -1;
    self->started_ns = clock_monotonic_ns();
    enum sluice_status status = copy_options(self, options);
    if (status == SLUICE_OK)
        status = check_options(self, error, error_size);
    if (status == SLUICE_OK)
        status = data__open(self, error, error_size);
    if (status == SLUICE_OK)
        status = queue_create(TASKS_MAX, &self->tasks);
    if (status == SLUICE_OK && (self->failed_fd = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK)) < 0)
        status = SLUICE_IO;
    if (status == SLUICE_OK)
        status = open_disk(self, error, error_size);
    if (status == SLUICE_OK)
        status = open_fabric(self, error, error_size);
    if (status == SLUICE_OK)
        status = lambdas__create(self, error, error_size);
    if (status == SLUICE_OK) {
        look_at_space(self, self->started_ns);
        host_start(self->host);
        for (size_t i = 0; i < self->member_count; i++)
            host_peer_add(self->host, self->members[i].id);
        status = groups__open(self, error, error_size);
    }
    if (status == SLUICE_OK)
        status = health__start(self, error, error_size);
    if (status != SLUICE_OK) {
        node_destroy(self);
        return status;
    }
    *out = self;
    return SLUICE_OK;
}

/* ---- The reactor ---- */

static void store_news_of(void *arg, uint32_t group, uint64_t indexed, uint64_t durable)
{
    struct node *self = arg;
    host_indexed(self->host, group, indexed);
    if (durable != 0)
        wal_release(self->wal, group, durable);
}

static void look_at_disk(struct node *self)
{
    enum sluice_status error = SLUICE_OK;
    uint64_t ticket = wal_completed(self->wal, &error);
    if (error != SLUICE_OK) {
        node__fail(self, error, "a write to the log failed");
        return;
    }
    if (ticket != self->ticket) {
        self->ticket = ticket;
        host_persisted(self->host, ticket);
    }
    error = store_poll(self->store, store_news_of, self);
    if (error != SLUICE_OK) {
        node__fail(self, error, "the store failed");
        return;
    }
    bool wanted = wal_wants_flush(self->wal);
    if (wanted && !self->wal_flush_asked)
        store_flush(self->store);
    self->wal_flush_asked = wanted;
}

static void run_tasks(struct node *self)
{
    struct node__task *task;
    while ((task = queue_pop(self->tasks)) != NULL) {
        task->run(self, task->arg);
        free(task);
    }
}

static void round_once(struct node *self)
{
    uint64_t now = clock_monotonic_ns();
    fabric_poll(self->fabric, POLL_BUDGET, links__event, self);
    look_at_disk(self);
    run_tasks(self);
    links__dial(self, now);
    look_at_space(self, now);
    host_tick(self->host);
    participant_tick(self->participant, !atomic_load(&self->handing_over));
    host_flush(self->host);
    participant_follow(self->participant);
    lambdas__round(self);
    links__close_marked(self);
    fabric_flush(self->fabric);
}

static bool alone(const struct node *self)
{
    for (size_t i = 0; i < self->member_count; i++)
        if (self->members[i].link != NULL)
            return false;
    return true;
}

/* A clean stop: others take the lead first, so that nobody waits for an election. */
static void hand_over(struct node *self)
{
    if (!atomic_load(&self->handing_over))
        return;
    uint64_t now = clock_monotonic_ns();
    if (self->hand_over_until_ns == 0) {
        self->hand_over_until_ns = now + HAND_OVER_NS;
        host_transfer_all(self->host);
    }
    /* The last words have to go out, and clients are told who leads now instead of losing their link. */
    if (!self->handed_over && participant_led_nothing(self->participant)) {
        self->handed_over = true;
        self->hand_over_until_ns = now + (alone(self) ? 0 : HAND_OVER_LINGER_NS);
    }
    if (now >= self->hand_over_until_ns)
        atomic_store(&self->stopping, true);
}

/* Looks at every group, so not in each round; while it is not ready it is looked at more often. */
static void look_whether_ready(struct node *self)
{
    uint64_t now = clock_monotonic_ns();
    if (now < self->ready_at_ns)
        return;
    bool ready = participant_ready(self->participant);
    atomic_store(&self->ready, ready);
    self->ready_at_ns = now + (ready ? READY_EVERY_NS : READY_SOON_NS);
}

static uint64_t sleep_ns(const struct node *self)
{
    uint64_t now = clock_monotonic_ns();
    uint64_t next = host_next_ns(self->host);
    uint64_t dial = links__next_ns(self);
    next = dial < next ? dial : next;
    next = self->space_at_ns < next ? self->space_at_ns : next;
    next = self->ready_at_ns < next ? self->ready_at_ns : next;
    uint64_t part = participant_next_ns(self->participant);
    next = part < next ? part : next;
    if (self->hand_over_until_ns != 0 && now + HAND_OVER_LOOK_NS < next)
        next = now + HAND_OVER_LOOK_NS;
    return next <= now ? 0 : next - now;
}

static void *reactor(void *arg)
{
    struct node *self = arg;
    prctl(PR_SET_NAME, "reactor");
    while (!atomic_load(&self->stopping)) {
        round_once(self);
        hand_over(self);
        look_whether_ready(self);
        uint64_t timeout = sleep_ns(self);
        if (timeout > 0 && queue_prepare_sleep(self->tasks))
            fabric_wait(self->fabric, timeout);
        queue_awake(self->tasks);
    }
    atomic_store(&self->gone, true);
    if (self->failed) {
        uint64_t one = 1;
        ssize_t written = write(self->failed_fd, &one, sizeof(one));
        (void)written;
    }
    return NULL;
}

enum sluice_status node_start(struct node *self)
{
    enum sluice_status status = lambdas__start(self);
    if (status != SLUICE_OK)
        return status;
    if (pthread_create(&self->thread, NULL, reactor, self) != 0)
        return SLUICE_MEMORY;
    self->thread_started = true;
    return SLUICE_OK;
}

static void nothing(struct node *self, void *arg)
{
    (void)self;
    (void)arg;
}

void node_stop(struct node *self)
{
    /* Lambdas first: their last effects and cursors still need the reactor. */
    lambdas__stop(self);
    atomic_store(&self->handing_over, true);
    if (!self->thread_started)
        atomic_store(&self->stopping, true);
    if (self->thread_started) {
        (void)node__post(self, nothing, NULL);
        pthread_join(self->thread, NULL);
        self->thread_started = false;
    }
}

void node_destroy(struct node *self)
{
    if (self == NULL)
        return;
    if (self->thread_started)
        node_stop(self);
    health__stop(self);
    lambdas__destroy(self);
    if (self->fabric != NULL)
        fabric_destroy(self->fabric);
    if (self->wal != NULL)
        wal_close(self->wal);
    host_destroy(self->host);
    participant_destroy(self->participant);
    if (self->store != NULL)
        store_close(self->store);
    while (self->subscribers != NULL) {
        struct node__subscriber *next = self->subscribers->next;
        free(self->subscribers);
        self->subscribers = next;
    }
    if (self->tasks != NULL) {
        struct node__task *task;
        while ((task = queue_pop(self->tasks)) != NULL)
            free(task);
        queue_destroy(self->tasks);
    }
    if (self->failed_fd >= 0)
        close(self->failed_fd);
    data__close(self);
    members__free(self);
    free_options(&self->options);
    free(self);
}

int node_failed_fd(const struct node *self)
{
    return self->failed_fd;
}

const char *node_error(const struct node *self)
{
    return self->error;
}

const char *node_address(const struct node *self, unsigned index)
{
    return fabric_listen_address(self->fabric, index);
}

bool node_ready(const struct node *self)
{
    return atomic_load(&self->ready);
}

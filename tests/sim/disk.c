#include <stdlib.h>
#include <string.h>

#include "tests/sim/sim.h"

/* ---- A list of records: what a crash leaves is what was written, and some first part of what was being written ----
 */

static void list_add(struct sim_disk *disk, const struct wal_record *record)
{
    if (disk->gathering == NULL)
        disk->gathering = calloc(1, sizeof(*disk->gathering));
    struct sim_batch *batch = disk->gathering;
    ASSERT(batch != NULL);
    if (batch->count == batch->capacity) {
        batch->capacity = batch->capacity == 0 ? 16 : batch->capacity * 2;
        batch->records = realloc(batch->records, batch->capacity * sizeof(*batch->records));
        ASSERT(batch->records != NULL);
    }
    batch->records[batch->count] = *record;
    if (record->entry.body != NULL)
        buf_ref(record->entry.body);
    batch->count++;
}

static void list_keep(struct sim_disk *disk, const struct wal_record *record)
{
    if (disk->record_count == disk->record_capacity) {
        disk->record_capacity = disk->record_capacity == 0 ? 256 : disk->record_capacity * 2;
        disk->records = realloc(disk->records, disk->record_capacity * sizeof(*disk->records));
        ASSERT(disk->records != NULL);
    }
    disk->records[disk->record_count++] = *record;
}

static void list_finish(struct sim_disk *disk, size_t kept)
{
    struct sim_batch *batch = disk->writing;
    for (size_t i = 0; i < batch->count; i++)
        if (i < kept)
            list_keep(disk, &batch->records[i]);
        else
            buf_unref(batch->records[i].entry.body);
    disk->writing = batch->next;
    if (disk->writing == NULL)
        disk->writing_tail = &disk->writing;
    free(batch->records);
    free(batch);
}

static uint64_t list_submit(struct sim_disk *disk)
{
    struct sim_batch *batch = disk->gathering;
    if (batch == NULL)
        return 0;
    disk->gathering = NULL;
    batch->ticket = ++disk->tickets;
    *disk->writing_tail = batch;
    disk->writing_tail = &batch->next;
    return batch->ticket;
}

static void list_crash(struct sim_disk *disk)
{
    bool cut = false;
    while (disk->writing != NULL) {
        size_t kept = cut                            ? 0
                      : random_below(&sim.random, 2) ? SIZE_MAX
                                                     : random_below(&sim.random, disk->writing->count + 1);
        cut = kept != SIZE_MAX;
        list_finish(disk, kept);
    }
    struct sim_batch *batch = disk->gathering;
    for (size_t i = 0; batch != NULL && i < batch->count; i++)
        buf_unref(batch->records[i].entry.body);
    if (batch != NULL)
        free(batch->records);
    free(batch);
    disk->gathering = NULL;
}

/* ---- Either kind: a write begins, is done, and is told; a crash may come between any two of them ---- */

static void start_write(struct sim_node *node);

static void told(struct sim_event *event)
{
    struct sim_node *node = event->arg;
    if (node->up && node->incarnation == event->c) {
        if (sim_node_hold(node, event))
            return;
        if (node->crash_point == SIM_CRASH_AFTER_WRITE && sim_crash(node)) {
            free(event);
            return;
        }
        host_persisted(node->host, event->size);
        sim_node_round(node);
    }
    free(event);
}

/* 0: the process stopped. */
static uint64_t write_all(struct sim_node *node, uint64_t ticket)
{
    struct sim_disk *disk = &node->disk;
    if (disk->wal == NULL) {
        while (disk->writing != NULL && disk->writing->ticket <= ticket)
            list_finish(disk, SIZE_MAX);
        return ticket;
    }
    enum sluice_status error;
    wal_flush(disk->wal);
    ticket = wal_completed(disk->wal, &error);
    if (error == SLUICE_OK)
        return ticket;
    /* As the node does: it stops, and says so. */
    if (disk->broken && sim_crash(node))
        return 0;
    sim_fail("node %u's log can't go on: %s", node->id, sluice_status_text(error));
}

static void written(struct sim_event *event)
{
    struct sim_node *node = event->arg;
    if (node->up && node->incarnation == event->c) {
        if (sim_node_hold(node, event))
            return;
        bool ends = node->crash_point == SIM_CRASH_IN_WRITE && sim_crash(node);
        uint64_t ticket = ends ? 0 : write_all(node, event->size);
        if (ticket == 0) {
            free(event);
            return;
        }
        node->disk.busy = false;
        if (node->disk.tickets > ticket)
            start_write(node);
        struct sim_event *next = sim_after(random_below(&sim.random, 20 * NS_PER_US), told, node);
        next->c = node->incarnation;
        next->size = ticket;
    }
    free(event);
}

static void start_write(struct sim_node *node)
{
    uint64_t most = sim_fault(sim.faults.stall) ? NS_PER_S : sim.faults.disk_ns_max;
    struct sim_event *event = sim_after(50 * NS_PER_US + random_below(&sim.random, most), written, node);
    event->c = node->incarnation;
    event->size = node->disk.tickets; /* one group commit takes along all that waits */
    node->disk.busy = true;
}

enum sluice_status sim_disk_persist(void *arg, const struct wal_record *record)
{
    struct sim_disk *disk = &((struct sim_node *)arg)->disk;
    if (disk->wal != NULL)
        return wal_append(disk->wal, record);
    list_add(disk, record);
    return SLUICE_OK;
}

enum sluice_status sim_disk_wait(void *arg)
{
    struct sim_disk *disk = &((struct sim_node *)arg)->disk;
    enum sluice_status error = SLUICE_OK;
    if (disk->wal == NULL) {
        while (disk->writing != NULL)
            list_finish(disk, SIZE_MAX);
        return SLUICE_OK;
    }
    wal_flush(disk->wal);
    (void)wal_completed(disk->wal, &error);
    return error;
}

uint64_t sim_disk_submit(void *arg)
{
    struct sim_node *node = arg;
    struct sim_disk *disk = &node->disk;
    uint64_t before = disk->tickets, ticket;
    if (disk->wal != NULL)
        ticket = disk->tickets = wal_submit(disk->wal);
    else
        ticket = list_submit(disk);
    if (!disk->busy && disk->tickets > before)
        start_write(node);
    return ticket;
}

/* What is applied is in the store by and by; the log may forget it. */
void sim_disk_release(struct sim_node *node)
{
    for (uint32_t group = 0; node->disk.wal != NULL && group <= sim.group_count; group++) {
        const struct replica *replica = host__replica(node->host, group);
        if (replica == NULL || replica->memory_only)
            continue;
        uint64_t applied = versions_applied(replica->versions, NULL);
        sim_store_durable(node, group, applied);
        wal_release(node->disk.wal, group, applied);
    }
}

/* ---- Start and end of a process ---- */

static void replay(void *arg, const struct wal_record *record)
{
    struct sim_node *node = arg;
    if (host_recover(node->host, record) != SLUICE_OK)
        sim_fail("node %u cannot recover", node->id);
}

static void digest(void *arg, const struct wal_record *record)
{
    uint64_t *sum = arg;
    const uint64_t words[] = {record->type,        record->group,      record->epoch,      record->ballot,
                              record->entry.index, record->entry.time, record->entry.kind, record->entry.body_crc};
    for (size_t i = 0; i < sizeof(words) / sizeof(words[0]); i++)
        *sum = (*sum ^ words[i]) * UINT64_C(0x9E3779B97F4A7C15);
}

/* What the log of a copy of the disk says; false: it says that it is damaged. */
static bool read_log(const struct sim_disk *disk, bool damage, uint64_t *sum)
{
    struct sim_disk copy;
    struct wal *wal = NULL;
    char error[256] = "";
    *sum = 0;
    sim_device_copy(disk, &copy);
    if (damage && sim_device_damage(&copy) == SIM_LIE_NONE) {
        sim_device_free(&copy);
        return false;
    }
    sim.totals.damaged += damage;
    const struct wal_options options = {.device = sim_device(&copy)};
    enum sluice_status status = wal_open(&options, digest, sum, &wal, error, sizeof(error));
    if (status != SLUICE_OK && status != SLUICE_CORRUPT && status != SLUICE_IO)
        sim_fail("a damaged log is neither read nor found damaged: %s (%s)", sluice_status_text(status), error);
    copy.dead = true;
    wal_close(wal);
    sim_device_free(&copy);
    return status == SLUICE_OK;
}

/* Had the disk lied about one write, the log would have found it: it says so, or nothing that counts is missing. */
static void check_damage(const struct sim_node *node)
{
    uint64_t whole, damaged;
    if (!read_log(&node->disk, false, &whole))
        sim_fail("node %u's log is damaged, and nothing damaged it", node->id);
    if (read_log(&node->disk, true, &damaged) && damaged != whole)
        sim_fail("node %u's log was damaged, and opens without a word", node->id);
}

static void found(void *arg, const struct wal_damage *damage)
{
    const struct sim_node *node = arg;
    sim_say("node %u finds segment %llu damaged at %llu: %s", node->id, (unsigned long long)damage->segment,
            (unsigned long long)damage->offset, damage->what);
}

static void lie(struct sim_node *node)
{
    static const char *const kinds[] = {"",
                                        "has flipped bits",
                                        "has lost a write",
                                        "has misdirected a write",
                                        "can't be read in one place",
                                        "has lost a segment"};
    enum sim_lie kind = sim_device_damage(&node->disk);
    if (kind == SIM_LIE_NONE)
        return;
    node->disk.lied = true;
    for (uint32_t group = 0; group <= sim.group_count; group++) {
        node->unsound[group] = true; /* it may be a while until the group is opened, and finds out */
        if (random_below(&sim.random, 2) == 0)
            sim_strike(group, 40 * NS_PER_MS);
    }
    sim.totals.flipped += kind == SIM_FLIPPED;
    sim.totals.lost_writes += kind == SIM_LOST;
    sim.totals.misdirected += kind == SIM_MISDIRECTED;
    sim.totals.bad_sectors += kind == SIM_UNREADABLE;
    sim.totals.lost_segments += kind == SIM_MISSING;
    sim_say("the disk of node %u %s", node->id, kinds[kind]);
}

bool sim_disk_lost(void *arg, uint32_t group)
{
    const struct sim_disk *disk = &((const struct sim_node *)arg)->disk;
    return disk->wal != NULL && wal_lost(disk->wal, group);
}

enum sluice_status sim_disk_mend(void *arg, uint32_t group, uint64_t epoch)
{
    sim.totals.lost_replicas++;
    return wal_mend(((struct sim_node *)arg)->disk.wal, group, epoch);
}

void sim_disk_open(struct sim_node *node)
{
    struct sim_disk *disk = &node->disk;
    disk->busy = disk->dead = disk->tear = disk->broken = false;
    if (!sim.real_log) {
        disk->writing_tail = &disk->writing;
        for (size_t i = 0; i < disk->record_count; i++)
            replay(node, &disk->records[i]);
        return;
    }
    if (!disk->lied && random_chance(&sim.random, sim.faults.damage))
        check_damage(node);
    if (sim_fault(sim.faults.lie) && sim_may_lie(node))
        lie(node);
    const struct wal_options options = {.device = sim_device(disk), .damaged = disk->lied ? found : NULL};
    char error[256] = "";
    disk->tickets = 0;
    if (wal_open(&options, replay, node, &disk->wal, error, sizeof(error)) != SLUICE_OK)
        sim_fail("node %u cannot open its log: %s", node->id, error);
}

void sim_disk_crash(struct sim_node *node)
{
    struct sim_disk *disk = &node->disk;
    if (disk->wal == NULL) {
        list_crash(disk);
        return;
    }
    /* What was handed over may be on the disk, in part, or not at all; nothing more gets there. */
    if (disk->busy && random_below(&sim.random, 3) != 0) {
        disk->tear = random_below(&sim.random, 3) != 0;
        wal_flush(disk->wal);
    }
    disk->dead = true;
    wal_close(disk->wal);
    disk->wal = NULL;
}

void sim_disk_wipe(struct sim_node *node)
{
    struct sim_disk *disk = &node->disk;
    for (size_t i = 0; i < disk->record_count; i++)
        buf_unref(disk->records[i].entry.body);
    disk->record_count = 0;
    disk->lied = false;
    sim_device_wipe(disk);
}

void sim_disk_free(struct sim_node *node)
{
    struct sim_disk *disk = &node->disk;
    for (size_t i = 0; i < disk->record_count; i++)
        buf_unref(disk->records[i].entry.body);
    free(disk->records);
    sim_device_free(disk);
}

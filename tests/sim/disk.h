/* Disks that crash, tear, stall, fail and lie. A run has one of two kinds: a list of records, which is fast, or the
 * real log over a simulated device. */
#ifndef TESTS_SIM_DISK_H
#define TESTS_SIM_DISK_H

#include "core/shard/host.h"
#include "core/versions/wal.h"

#define SIM_SECTOR_BYTES 512u
#define SIM_SEGMENTS_MAX 4096u

struct sim_node;

/* One group commit on its way to the disk (a list of records). */
struct sim_batch {
    struct sim_batch *next;
    uint64_t ticket;
    struct wal_record *records;
    size_t count, capacity;
};

/* A write that was done and acknowledged, in the order of writing. */
struct sim_written {
    uint64_t number, offset;
    uint32_t size;
};

struct sim_segment {
    uint64_t number, size;
    uint8_t *bytes;
    uint64_t bad_offset; /* these can't be read, until they are written again */
    uint32_t bad_size;
};

struct sim_disk {
    /* A list of records: what is durable, in order, and what is on its way. */
    struct wal_record *records;
    size_t record_count, record_capacity;
    struct sim_batch *gathering, *writing, **writing_tail;
    uint64_t tickets;
    /* The real log, while the process lives, over segments that outlive it. */
    struct wal *wal;
    struct sim_segment *segments;
    uint32_t segment_count;
    struct sim_written *written;
    size_t written_count, written_capacity;
    bool lied;   /* at some time */
    bool busy;   /* a write is under way */
    bool dead;   /* the process has ended: nothing reaches the disk any more */
    bool broken; /* a write has failed */
    bool tear;   /* the next write is the last, and leaves some of its sectors */
};

/* Replays what the disk holds to the node's host. */
void sim_disk_open(struct sim_node *node);
/* For the host. */
enum sluice_status sim_disk_persist(void *arg, const struct wal_record *record);
uint64_t sim_disk_submit(void *arg);
/* What was handed over is durable. */
enum sluice_status sim_disk_wait(void *arg);
/* The store takes what is applied; the log may forget it. */
void sim_disk_release(struct sim_node *node);
/* The log may have lost something of the group; and that its replica knows. */
bool sim_disk_lost(void *arg, uint32_t group);
enum sluice_status sim_disk_mend(void *arg, uint32_t group, uint64_t epoch);
/* A new, empty disk; no process uses it. */
void sim_disk_wipe(struct sim_node *node);
/* The process has ended; of what was on its way some part may have reached the disk. */
void sim_disk_crash(struct sim_node *node);
void sim_disk_free(struct sim_node *node);

/* device.c */
struct wal_device sim_device(struct sim_disk *disk);
void sim_device_free(struct sim_disk *disk);
/* The disk lied: of one write that it had acknowledged bits have flipped, or it was lost, or went elsewhere, or can't
 * be read any more; or a whole segment has gone. Never of the last one: that can't be told from a torn one, and only a
 * leader that remembers could tell. */
enum sim_lie {
    SIM_LIE_NONE /* there was nothing to damage */,
    SIM_FLIPPED,
    SIM_LOST,
    SIM_MISDIRECTED,
    SIM_UNREADABLE,
    SIM_MISSING
};
enum sim_lie sim_device_damage(struct sim_disk *disk);
void sim_device_copy(const struct sim_disk *disk, struct sim_disk *out);
/* Takes all bytes away: a new disk. */
void sim_device_wipe(struct sim_disk *disk);

#endif

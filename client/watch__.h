/* Between the files of watches: watch.c (their life), feed.c (one shard's stream), position.c (cursors). */
#ifndef CLIENT_WATCH___H
#define CLIENT_WATCH___H

#include "client/client__.h"

#define WATCH_CURSOR_BYTES 512u /* at most, as text */
#define WATCH_PAYLOAD_MAX  376u /* what fits in, as bytes */
#define WATCH_LISTED_MAX   32u
_Static_assert(TOKEN_TEXT_BYTES(WATCH_PAYLOAD_MAX) <= WATCH_CURSOR_BYTES, "users keep it");

/* Where a shard goes on. */
struct watch_position {
    uint32_t shard;
    uint32_t operation; /* the next one of `revision` */
    uint64_t epoch;
    uint64_t revision;
};
/* Everything up to `time`, and of the shards that are listed everything up to their position. */
struct watch_cursor {
    uint64_t time;
    size_t count;
    struct watch_position positions[WATCH_LISTED_MAX];
};
/* False: it does not fit into WATCH_CURSOR_BYTES. `out` holds as many and one more. */
bool position__write(const struct watch_cursor *cursor, char *out) SLUICE_MUST_CHECK;
bool position__read(const char *text, struct watch_cursor *out) SLUICE_MUST_CHECK;

/* One shard's stream, or one node's of a lambda's log. */
struct feed {
    struct sluice_watch *watch;
    struct ask ask;
    struct wire_query *query; /* NULL for a log */
    uint32_t shard;
    uint64_t epoch; /* as the map said when it began; 0 unknown */
    /* How far the stream has come: from here it is taken up again. */
    uint64_t received_revision; /* 0: nothing received yet */
    uint32_t received_next;     /* operation */
    uint64_t received_time;     /* of the operation before that; UINT64_MAX where nobody knows */
    uint64_t received_closed;
    /* How far the user has come. */
    uint64_t revision;
    uint32_t next;
    uint64_t time;
    uint64_t closed;
    bool acknowledged; /* the node has said that it reads for us */
    bool halted;       /* waits until the user reads on, or for a moment */
    bool missing;      /* a log: the node knows no such lambda */
};

/* What came while the user did not read. */
struct chunk {
    struct list link;
    struct feed *feed;
    size_t size, offset;
    uint64_t time; /* of progress (size 0), or of a log's line */
    uint8_t bytes[] __attribute__((aligned(8)));
};

struct sluice_watch {
    struct list link; /* client->watches */
    struct sluice_client *client;
    sluice_watch_handler handler;
    void *arg;
    int kind;
    char *pattern;
    size_t pattern_size;
    struct slice prefix; /* what all matching keys begin with; points into `compiled` or `pattern` */
    struct pattern *compiled;
    bool log; /* of a lambda, whose name is `pattern` */
    bool values, admin;
    uint32_t progress_ms;
    uint64_t buffer_bytes_max;
    struct watch_cursor from; /* where it begins; time 0: not known yet */
    struct cut cut;
    bool cutting, begun, ready, paused;
    bool stopped;  /* by the user, within the handler: freed when that returns */
    bool ended;    /* END was said */
    unsigned busy; /* handlers that are running */
    struct feed **feeds;
    size_t feed_count;
    uint64_t closed; /* all shards have seen everything up to here */
    struct list chunks;
    uint64_t chunk_bytes;
    struct timer progress; /* says progress when it is due */
    struct timer again;    /* goes on with what was put off */
    char cursor[WATCH_CURSOR_BYTES + 1];
};

/* All that call the handler return false when the watch is gone by then. */
bool watch__say(struct sluice_watch *self, const struct sluice_watch_event *event) SLUICE_MUST_CHECK;
void watch__end(struct sluice_watch *self, enum sluice_status status, const char *detail);
/* The cursor after all that was handed over; NULL where it cannot be said. */
const char *watch__cursor(struct sluice_watch *self);
/* A feed has been acknowledged: perhaps the last one. */
bool watch__acknowledged(struct sluice_watch *self) SLUICE_MUST_CHECK;
void watch__closed_moved(struct sluice_watch *self);
/* Of a lambda's log: does the map have the lambda? */
bool watch__lambda_known(const struct sluice_watch *self);
/* Takes in a new map: streams for new shards, none for those that are gone. May end the watch. */
void watch__follow(struct sluice_watch *self);

struct feed *feed__create(struct sluice_watch *watch, uint32_t shard, uint64_t epoch);
struct feed *feed__create_log(struct sluice_watch *watch, uint16_t node);
void feed__start(struct feed *self);
void feed__destroy(struct feed *self);
void feed__remove(struct feed *self);
/* Hands over what was put off, until the user pauses again. */
bool feed__drain(struct sluice_watch *watch) SLUICE_MUST_CHECK;

#endif

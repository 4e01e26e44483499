/* libsluice without a cluster: one shard in memory, and faults on request. It defines what api/sluice.h declares, so
 * that it takes the library's place when linking. The store's half is the gateway's thread's; the functions here are
 * the test's, and any thread may call them. */
#ifndef TESTS_FAKE_SLUICE_H
#define TESTS_FAKE_SLUICE_H

#include "api/sluice.h"

/* Everything forgotten, no faults. */
void fake_reset(void);
/* The next `count` calls fail with it, unapplied. */
void fake_fail(enum sluice_status status, unsigned count, uint32_t retry_after_ms);
/* Calls that come after this are not answered until it is undone. */
void fake_hold(bool hold);
/* Calls that are waiting now. */
unsigned fake_waiting(void);
void fake_set_ready(bool ready);
/* Watches stay silent: not even READY. */
void fake_mute_watches(bool mute);
/* All watches end with this status. */
void fake_end_watches(enum sluice_status status);
/* Cursors and versions below this revision are gone. */
void fake_forget(uint64_t revision);
/* A new epoch of the shard, with nothing in it. */
void fake_next_epoch(void);
unsigned fake_watch_count(void);
unsigned fake_paused_count(void);
unsigned fake_call_count(void);
/* What the last write said of itself. */
void fake_last_write(char idempotency_key[256], char subject[64], bool *ack_delivered, bool *admin);
/* A write from elsewhere. */
void fake_put(const char *key, const void *data, size_t size);
/* Values that are referenced by anybody. */
long fake_values(void);

#endif

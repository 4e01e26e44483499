/* A store for one lambda in the test's own process: versions of objects in memory, effects applied at once when a run
 * succeeds. */
#ifndef TEST_LAMBDAS_HOST_H
#define TEST_LAMBDAS_HOST_H

#include <stdbool.h>
#include <stddef.h>

#include "api/sluice_lambda.h"

struct stage;

/* Loads build/…/lambdas/NAME.so and initialises it; NULL where it refused, with its words in stage_error. */
struct stage *stage_open(const char *name, const char *config);
const char *stage_error(void);
void stage_close(struct stage *self);

/* Stores a further version of `key` (NULL value: a tombstone) and calls the lambda if it watches it; the callback's
 * result (0 where none ran). */
int stage_put(struct stage *self, const char *key, const void *value, size_t size);
/* The newest version that a lambda put, NULL if none; `version` counts from 1. */
const char *stage_get(struct stage *self, const char *key, size_t *size, uint64_t *version);
bool stage_deleted(struct stage *self, const char *key);
long stage_counter(struct stage *self, const char *name);
/* The last line logged, or the words of the last failure. */
const char *stage_line(struct stage *self);
/* The next so many reads fail with this. */
void stage_reads_fail(struct stage *self, int result, unsigned times);

/* A JPEG image with a gray ground and, if `size` is not 0, a bright square; noise of ±`noise` levels. Heap. */
unsigned char *picture(unsigned width, unsigned height, unsigned x, unsigned y, unsigned square, unsigned noise,
                       unsigned long *bytes);

#endif

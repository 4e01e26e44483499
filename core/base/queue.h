/* A bounded multi-producer, single-consumer queue of pointers with an eventfd doorbell. It is how every other thread
 * reaches a reactor. */
#ifndef BASE_QUEUE_H
#define BASE_QUEUE_H

#include <stdbool.h>
#include <stdint.h>

#include "api/sluice_status.h"

struct queue;

/* `capacity` is rounded up to a power of two. */
enum sluice_status queue_create(uint32_t capacity, struct queue **out) SLUICE_MUST_CHECK;
/* The queue must be empty or its remaining items owned elsewhere. */
void queue_destroy(struct queue *self);
/* Any thread. False when full. Rings the eventfd only when the consumer announced that it sleeps. */
bool queue_push(struct queue *self, void *item);
/* Consumer only. NULL when empty. */
void *queue_pop(struct queue *self);
/* Readable when an item was pushed after queue_prepare_sleep. Consumer only. */
int queue_fd(const struct queue *self);
/* Consumer only: announces sleep; returns false if an item is there already (do not sleep). After waking, call
 * queue_awake, which drains the eventfd. */
bool queue_prepare_sleep(struct queue *self);
void queue_awake(struct queue *self);

#endif

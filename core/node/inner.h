/* A client of the cluster inside the node, for code on other threads (lambdas): blocking calls, carried out by a thread
 * of its own. */
#ifndef NODE_INNER_H
#define NODE_INNER_H

#include <pthread.h>
#include <stdbool.h>

#include "api/sluice.h"

struct inner;

/* One call: started on the client's thread, waited for on the caller's. */
struct inner_call {
    void (*start)(struct sluice_client *client, struct inner_call *call);
    void *arg;
    bool done;
    pthread_mutex_t lock;
    pthread_cond_t changed;
};

enum sluice_status inner_create(const char *const *addresses, size_t count, const struct sluice_tls *tls,
                                struct inner **out) SLUICE_MUST_CHECK;
/* Calls under way are answered; no new ones may come. */
void inner_destroy(struct inner *self);
/* Runs `start` on the client's thread and waits until inner_done(call). Any thread but that one. False: the client is
 * stopping, nothing was started. */
bool inner_run(struct inner *self, void (*start)(struct sluice_client *client, struct inner_call *call), void *arg);
/* From a callback on the client's thread. */
void inner_done(struct inner_call *call);

#endif

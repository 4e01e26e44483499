/* What the core node asks of libsluice beyond its public face: writes under an identity of their own, and cursors of
 * lambdas. The same rules as in api/sluice.h hold. */
#ifndef CLIENT_CLIENT_H
#define CLIENT_CLIENT_H

#include "api/sluice.h"

/* sluice_write under the identity (client_id, sequence) instead of the client's own: who repeats it under the same
 * identity, in whatever process, has it applied once. Everything of the identity below `watermark` is forgotten. */
void sluice__write_as(struct sluice_client *client, const struct sluice_write *request, uint64_t client_id,
                      uint64_t sequence, uint64_t watermark, sluice_done done, void *arg);

/* Notes in the shard's log that the lambda has handled the shard's events up to `revision`. It moves forward only. */
void sluice__cursor(struct sluice_client *client, const char *lambda_name, uint32_t shard, uint64_t revision,
                    sluice_done done, void *arg);

#endif

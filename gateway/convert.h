/* Between the messages of api/proto/sluice.proto and libsluice: requests are checked on the way in, answers become
 * packed messages on the way out. Pure; any thread. */
#ifndef GATEWAY_CONVERT_H
#define GATEWAY_CONVERT_H

#include "api/proto/sluice.pb-c.h"
#include "api/sluice.h"
#include "core/base/buf.h"
#include "gateway/grpc__.h"

#define CONVERT_OPERATIONS_MAX  1024
#define CONVERT_NAMES_MAX       10000      /* keys and prefixes of a snapshot */
#define CONVERT_WATCH_VALUE_MAX (1u << 20) /* larger values are left out of watch events */

/* Requests. NULL, or a static sentence that says what is wrong. What `out` points to is borrowed from the request. The
 * call, the subject and the value (`data_size` bytes, NULL: none) are the caller's to fill. */
const char *convert_put(const Sluice__V1__PutRequest *in, struct sluice_operation *operation, struct sluice_write *out);
const char *convert_delete(const Sluice__V1__DeleteRequest *in, struct sluice_operation *operation,
                           struct sluice_write *out);
/* `operations` has room for in->n_operations, which the caller has found to be at most CONVERT_OPERATIONS_MAX. */
const char *convert_batch(const Sluice__V1__BatchRequest *in, struct sluice_operation *operations,
                          struct sluice_write *out);
const char *convert_get(const Sluice__V1__GetRequest *in, struct sluice_get *out);
const char *convert_list(const Sluice__V1__ListRequest *in, struct sluice_list *out);
const char *convert_history(const Sluice__V1__HistoryRequest *in, struct sluice_history *out);
/* Fills keys, key_sizes, prefixes and prefix_sizes, which have room for what the request holds. */
const char *convert_snapshot(const Sluice__V1__SnapshotRequest *in, const char **keys, size_t *key_sizes,
                             const char **prefixes, size_t *prefix_sizes, struct sluice_snapshot *out);
const char *convert_watch(const Sluice__V1__WatchRequest *in, struct sluice_watch_options *out);

/* Answers, packed. MEMORY, or INTERNAL where an object is missing. The value of a single object is referenced, not
 * copied. `absent_before`: the request's condition says so. */
enum sluice_status convert_written(const struct sluice_answer *answer, bool absent_before,
                                   struct bytes *out) SLUICE_MUST_CHECK;
enum sluice_status convert_batch_answer(const struct sluice_answer *answer, const Sluice__V1__BatchRequest *request,
                                        struct bytes *out) SLUICE_MUST_CHECK;
enum sluice_status convert_object(const struct sluice_object *object, struct rpc_message *out) SLUICE_MUST_CHECK;
enum sluice_status convert_list_answer(const struct sluice_answer *answer, struct bytes *out) SLUICE_MUST_CHECK;
enum sluice_status convert_snapshot_answer(const struct sluice_answer *answer, struct bytes *out) SLUICE_MUST_CHECK;
/* PUT, DELETE and PROGRESS. `values`: they were asked for. */
enum sluice_status convert_watch_event(const struct sluice_watch_event *event, bool values,
                                       struct rpc_message *out) SLUICE_MUST_CHECK;

#endif

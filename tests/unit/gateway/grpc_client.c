#include "tests/unit/gateway/grpc_client.h"

#include <grpc/byte_buffer.h>
#include <grpc/byte_buffer_reader.h>
#include <grpc/grpc.h>
#include <grpc/grpc_security.h>
#include <grpc/support/time.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "core/base/panic.h"
#include "gateway/protowire.h"

#define WAIT_S 60

struct grpc_client {
    grpc_channel *channel;
    const char *authorization;
};

struct grpc_stream {
    grpc_call *call;
    grpc_completion_queue *queue;
    grpc_metadata_array headers, trailers;
    grpc_metadata authorization;
    grpc_status_code status;
    grpc_slice detail;
    bool has_headers;
};

static grpc_arg integer(const char *key, int value)
{
    return (grpc_arg){.type = GRPC_ARG_INTEGER, .key = (char *)(uintptr_t)key, .value.integer = value};
}

struct grpc_client *grpc_client_open(uint16_t port, bool small_window)
{
    struct grpc_client *self = calloc(1, sizeof(*self));
    char target[32];
    ASSERT(self != NULL);
    grpc_init();
    snprintf(target, sizeof(target), "127.0.0.1:%u", port);
    grpc_arg list[] = {integer(GRPC_ARG_USE_LOCAL_SUBCHANNEL_POOL, 1), integer(GRPC_ARG_MAX_RECEIVE_MESSAGE_LENGTH, -1),
                       integer(GRPC_ARG_HTTP2_BDP_PROBE, !small_window),
                       integer(GRPC_ARG_HTTP2_STREAM_LOOKAHEAD_BYTES, 65536)};
    grpc_channel_args arguments = {small_window ? 4 : 3, list};
    grpc_channel_credentials *credentials = grpc_insecure_credentials_create();
    self->channel = grpc_channel_create(target, credentials, &arguments);
    grpc_channel_credentials_release(credentials);
    return self;
}

void grpc_client_close(struct grpc_client *self)
{
    grpc_channel_destroy(self->channel);
    free(self);
    grpc_shutdown_blocking();
}

void grpc_client_authorize(struct grpc_client *self, const char *value)
{
    self->authorization = value;
}

/* One batch, waited for. */
static bool batch(struct grpc_stream *self, const grpc_op *operations, size_t count)
{
    grpc_call_error error = grpc_call_start_batch(self->call, operations, count, self, NULL);
    if (error != GRPC_CALL_OK)
        PANIC("batch: %s", grpc_call_error_to_string(error));
    gpr_timespec deadline = gpr_time_add(gpr_now(GPR_CLOCK_MONOTONIC), gpr_time_from_seconds(WAIT_S, GPR_TIMESPAN));
    grpc_event event = grpc_completion_queue_pluck(self->queue, self, deadline, NULL);
    ASSERT(event.type == GRPC_OP_COMPLETE);
    return event.success != 0;
}

struct grpc_stream *grpc_stream_open(struct grpc_client *client, const char *method, uint32_t timeout_ms)
{
    struct grpc_stream *self = calloc(1, sizeof(*self));
    ASSERT(self != NULL);
    gpr_timespec deadline = gpr_inf_future(GPR_CLOCK_MONOTONIC);
    if (timeout_ms > 0)
        deadline = gpr_time_add(gpr_now(GPR_CLOCK_MONOTONIC), gpr_time_from_millis(timeout_ms, GPR_TIMESPAN));
    self->queue = grpc_completion_queue_create_for_pluck(NULL);
    grpc_slice name = grpc_slice_from_copied_string(method);
    self->call = grpc_channel_create_call(client->channel, NULL, 0, self->queue, name, NULL, deadline, NULL);
    grpc_slice_unref(name);
    grpc_metadata_array_init(&self->headers);
    grpc_metadata_array_init(&self->trailers);
    grpc_op operation = {.op = GRPC_OP_SEND_INITIAL_METADATA, .flags = GRPC_INITIAL_METADATA_WAIT_FOR_READY};
    if (client->authorization != NULL) {
        self->authorization.key = grpc_slice_from_static_string("authorization");
        self->authorization.value = grpc_slice_from_copied_string(client->authorization);
        operation.data.send_initial_metadata.count = 1;
        operation.data.send_initial_metadata.metadata = &self->authorization;
    }
    (void)batch(self, &operation, 1);
    return self;
}

void grpc_stream_write(struct grpc_stream *self, const ProtobufCMessage *message)
{
    struct bytes packed = {0};
    ASSERT(protowire_append(&packed, message) == SLUICE_OK);
    grpc_slice slice = grpc_slice_from_copied_buffer((const char *)packed.data, packed.size);
    grpc_byte_buffer *buffer = grpc_raw_byte_buffer_create(&slice, 1);
    grpc_op operation = {.op = GRPC_OP_SEND_MESSAGE, .data.send_message.send_message = buffer};
    (void)batch(self, &operation, 1);
    grpc_byte_buffer_destroy(buffer);
    grpc_slice_unref(slice);
    bytes_free(&packed);
}

void grpc_stream_write_end(struct grpc_stream *self)
{
    grpc_op operation = {.op = GRPC_OP_SEND_CLOSE_FROM_CLIENT};
    (void)batch(self, &operation, 1);
}

bool grpc_stream_headers(struct grpc_stream *self)
{
    grpc_op operation = {.op = GRPC_OP_RECV_INITIAL_METADATA,
                         .data.recv_initial_metadata.recv_initial_metadata = &self->headers};
    if (self->has_headers)
        return true;
    self->has_headers = true;
    return batch(self, &operation, 1);
}

bool grpc_stream_read(struct grpc_stream *self, struct bytes *message)
{
    grpc_byte_buffer *buffer = NULL;
    grpc_op operation = {.op = GRPC_OP_RECV_MESSAGE, .data.recv_message.recv_message = &buffer};
    (void)grpc_stream_headers(self);
    message->size = 0;
    if (!batch(self, &operation, 1) || buffer == NULL)
        return false;
    grpc_byte_buffer_reader reader;
    ASSERT(grpc_byte_buffer_reader_init(&reader, buffer));
    grpc_slice all = grpc_byte_buffer_reader_readall(&reader);
    ASSERT(bytes_append(message, GRPC_SLICE_START_PTR(all), GRPC_SLICE_LENGTH(all)) == SLUICE_OK);
    grpc_slice_unref(all);
    grpc_byte_buffer_reader_destroy(&reader);
    grpc_byte_buffer_destroy(buffer);
    return true;
}

void grpc_stream_cancel(struct grpc_stream *self)
{
    grpc_call_cancel(self->call, NULL);
}

static void copy(char *out, size_t out_size, grpc_slice slice)
{
    snprintf(out, out_size, "%.*s", (int)GRPC_SLICE_LENGTH(slice), (const char *)GRPC_SLICE_START_PTR(slice));
}

static void trailers_read(const grpc_metadata_array *array, struct grpc_result *out)
{
    const struct {
        const char *name;
        char *out;
        size_t size;
    } known[] = {{"sluice-code", out->code, sizeof(out->code)},
                 {"sluice-version", out->version, sizeof(out->version)},
                 {"grpc-retry-pushback-ms", out->pushback, sizeof(out->pushback)},
                 {"sluice-detail-bin", out->json, sizeof(out->json)}};
    for (size_t i = 0; i < array->count; i++)
        for (size_t j = 0; j < sizeof(known) / sizeof(known[0]); j++)
            if (grpc_slice_str_cmp(array->metadata[i].key, known[j].name) == 0)
                copy(known[j].out, known[j].size, array->metadata[i].value);
}

int grpc_stream_close(struct grpc_stream *self, struct grpc_result *result)
{
    grpc_op operation = {.op = GRPC_OP_RECV_STATUS_ON_CLIENT,
                         .data.recv_status_on_client = {.trailing_metadata = &self->trailers,
                                                        .status = &self->status,
                                                        .status_details = &self->detail}};
    (void)grpc_stream_headers(self);
    (void)batch(self, &operation, 1);
    int status = (int)self->status;
    if (result != NULL) {
        *result = (struct grpc_result){.status = status};
        copy(result->detail, sizeof(result->detail), self->detail);
        trailers_read(&self->trailers, result);
    }
    grpc_slice_unref(self->detail);
    if (self->authorization.value.refcount != NULL)
        grpc_slice_unref(self->authorization.value);
    grpc_metadata_array_destroy(&self->headers);
    grpc_metadata_array_destroy(&self->trailers);
    grpc_call_unref(self->call);
    grpc_completion_queue_shutdown(self->queue);
    grpc_completion_queue_destroy(self->queue);
    free(self);
    return status;
}

int grpc_client_call(struct grpc_client *self, const char *method, const ProtobufCMessage *request, uint32_t timeout_ms,
                     struct bytes *reply, struct grpc_result *result)
{
    struct grpc_stream *stream = grpc_stream_open(self, method, timeout_ms);
    struct bytes ignored = {0};
    grpc_stream_write(stream, request);
    grpc_stream_write_end(stream);
    (void)grpc_stream_read(stream, reply != NULL ? reply : &ignored);
    bytes_free(&ignored);
    return grpc_stream_close(stream, result);
}

/* A client over gRPC's C core, for tests of the gateway in one process. Any thread; one thread a call. */
#ifndef TESTS_GRPC_CLIENT_H
#define TESTS_GRPC_CLIENT_H

#include <protobuf-c/protobuf-c.h>
#include <stdbool.h>
#include <stdint.h>

#include "core/base/buf.h"

struct grpc_client;
struct grpc_stream;

/* How a call ended. */
struct grpc_result {
    int status; /* gRPC's code */
    char detail[512];
    char code[64]; /* trailers; empty: not there */
    char version[32];
    char pushback[32];
    char json[512];
};

/* `small_window`: the server may send little before it is read. */
struct grpc_client *grpc_client_open(uint16_t port, bool small_window);
void grpc_client_close(struct grpc_client *self);
/* Metadata `authorization` of all further calls; NULL: none. Borrowed. */
void grpc_client_authorize(struct grpc_client *self, const char *value);

/* A request message of its own, and a reply into `reply` (free it). Returns the status. */
int grpc_client_call(struct grpc_client *self, const char *method, const ProtobufCMessage *request, uint32_t timeout_ms,
                     struct bytes *reply, struct grpc_result *result);

/* Any number of messages both ways. */
struct grpc_stream *grpc_stream_open(struct grpc_client *self, const char *method, uint32_t timeout_ms);
void grpc_stream_write(struct grpc_stream *self, const ProtobufCMessage *message);
void grpc_stream_write_end(struct grpc_stream *self);
/* Waits until the server's headers are there; false where the call ended before. */
bool grpc_stream_headers(struct grpc_stream *self);
/* Waits for a message; false at the end. */
bool grpc_stream_read(struct grpc_stream *self, struct bytes *message);
void grpc_stream_cancel(struct grpc_stream *self);
/* Waits for the end, and frees. */
int grpc_stream_close(struct grpc_stream *self, struct grpc_result *result);

#endif

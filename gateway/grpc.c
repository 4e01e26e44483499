/* The transport: the only file that knows gRPC's C core. One thread takes completions; sends may start in the loop's
 * thread too. See grpc__.h for the life of a call.
 *
 * A call is freed by its last reference. One is its owner's, given back by rpc_finish; one is gRPC's, given back when
 * the stream is closed and no batch is under way; one is that of the list of calls that the loop must attend to. */
#include <grpc/byte_buffer.h>
#include <grpc/grpc.h>
#include <grpc/grpc_security.h>
#include <grpc/slice.h>
#include <grpc/support/alloc.h>
#include <grpc/support/log.h>
#include <grpc/support/time.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "core/base/clock.h"
#include "core/base/log.h"
#include "core/base/panic.h"
#include "core/base/text.h"
#include "gateway/grpc.h"
#include "gateway/grpc__.h"
#include "gateway/protowire.h"

/* Calls of one method that may arrive before the thread has taken one: more wait inside gRPC. */
#define SLOTS_PER_METHOD 4
#define SLOTS_MAX        (RPC_METHODS_MAX * SLOTS_PER_METHOD)

#define CALLS_MAX          16384
#define STREAMS_MAX        4096               /* of one connection */
#define RECEIVE_BYTES_MAX  ((int)(65u << 20)) /* a value, and some room for a clear refusal of a larger one */
#define METADATA_BYTES_MAX (16 << 10)
#define MEMORY_BYTES_MIN   ((size_t)16 << 20) /* for what connections themselves need */

/* What a completion belongs to. */
struct tag {
    void (*done)(struct tag *self, bool ok);
};
#define OWNER(tag, type, member) ((type *)(void *)((char *)(tag)-offsetof(type, member)))

struct slot {
    struct tag tag;
    struct gateway_grpc *server;
    const struct rpc_method *method; /* NULL: what no method is registered for */
    struct rpc_figures *figures;
    void *registered;
    grpc_call *call;
    gpr_timespec deadline;
    grpc_metadata_array metadata;
    grpc_byte_buffer *payload;
    grpc_call_details details;
};

struct gateway_grpc {
    struct rpc_shared shared;
    grpc_server *server;
    grpc_completion_queue *queue;
    pthread_t thread;
    bool has_thread;
    struct tag stopped;
    int port;
    atomic_uint refs; /* the gateway's, each call's, the posted job's */
    atomic_uint calls;
    struct slot slots[SLOTS_MAX];
    size_t slot_count;
};

struct outgoing { /* a message that waits for its turn */
    struct outgoing *next;
    grpc_byte_buffer *buffer;
    size_t size;
};

struct call {
    struct rpc rpc;
    struct gateway_grpc *server;
    atomic_uint refs;
    struct tag closed_tag, received_tag, sent_tag;
    int was_cancelled;

    /* The completion-queue thread's. */
    grpc_byte_buffer *incoming;
    bool receive_waits; /* until what was sent has left */
    bool handed;        /* the loop owns it from here */

    pthread_mutex_t lock;
    /* Under `lock`. */
    grpc_call *call; /* NULL: gRPC is done with it */
    unsigned batches;
    bool closed;  /* the client is gone, or has been told the end */
    bool broken;  /* a send failed */
    bool sending; /* at most one at a time */
    bool open_wanted, opened;
    bool status_sent;
    bool blocked; /* rpc_send has said that there is no room */
    struct outgoing *first, *last;
    struct outgoing *in_flight;
    size_t backlog;
    grpc_status_code status;
    grpc_slice detail;
    grpc_metadata trailers[RPC_TRAILERS_MAX];
    size_t trailer_count;
};

static struct call *call_of(struct rpc *rpc)
{
    return OWNER(rpc, struct call, rpc);
}

/* --- Lifetimes ---------------------------------------------------------------------------------------------------*/

void rpc__shared_ref(struct rpc_shared *self)
{
    atomic_fetch_add(&OWNER(self, struct gateway_grpc, shared)->refs, 1);
}

void rpc__shared_unref(struct rpc_shared *shared)
{
    struct gateway_grpc *self = OWNER(shared, struct gateway_grpc, shared);
    if (atomic_fetch_sub(&self->refs, 1) != 1)
        return;
    pthread_mutex_destroy(&shared->lock);
    free(self);
}

static void outgoing_free(struct outgoing *self)
{
    if (self == NULL)
        return;
    grpc_byte_buffer_destroy(self->buffer);
    free(self);
}

void rpc__ref(struct rpc *self)
{
    atomic_fetch_add(&call_of(self)->refs, 1);
}

void rpc__unref(struct rpc *rpc)
{
    struct call *self = call_of(rpc);
    if (atomic_fetch_sub(&self->refs, 1) != 1)
        return;
    struct gateway_grpc *server = self->server;
    ASSERT(self->call == NULL && rpc->over);
    if (self->rpc.state != NULL)
        self->rpc.method->release(self->rpc.state);
    rpc__request_free(rpc);
    pthread_mutex_destroy(&self->lock);
    free(self);
    atomic_fetch_sub(&server->calls, 1);
    rpc__shared_unref(&server->shared);
}

/* Lock held. True once: when the stream has ended and nothing of gRPC's is under way any more. The caller detaches. */
static bool take_finished(struct call *self, grpc_call **out)
{
    if (self->call == NULL || !self->closed || self->batches > 0)
        return false;
    *out = self->call;
    self->call = NULL; /* from here on nobody makes or sends anything of gRPC's for it */
    return true;
}

static void queue_free(struct call *self)
{
    for (struct outgoing *next; self->first != NULL; self->first = next) {
        next = self->first->next;
        outgoing_free(self->first);
    }
    self->last = NULL;
}

/* The call itself may live on until the store has answered, also beyond gRPC's own shutdown. */
static void detach(struct call *self, grpc_call *call)
{
    queue_free(self);
    for (size_t i = 0; i < self->trailer_count; i++)
        grpc_slice_unref(self->trailers[i].value);
    grpc_slice_unref(self->detail);
    grpc_call_unref(call);
    rpc__unref(&self->rpc);
}

/* --- Sending -----------------------------------------------------------------------------------------------------*/

static void batch_start(struct call *self, const grpc_op *operations, size_t count, struct tag *tag)
{
    self->batches++;
    grpc_call_error error = grpc_call_start_batch(self->call, operations, count, tag, NULL);
    if (error != GRPC_CALL_OK)
        PANIC("gRPC refused a batch: %s", grpc_call_error_to_string(error));
}

/* Lock held. Starts the next send where one is due: at most one message at a time, so that a client that does not read
 * holds one message in gRPC and its backlog here. */
static void advance(struct call *self)
{
    grpc_op operations[3];
    size_t count = 0;
    if (self->call == NULL || self->sending)
        return;
    if (self->closed || self->broken) {
        queue_free(self);
        self->backlog = 0;
        return;
    }
    memset(operations, 0, sizeof(operations));
    if (!self->opened && (self->open_wanted || self->first != NULL || self->rpc.over)) {
        operations[count++].op = GRPC_OP_SEND_INITIAL_METADATA;
        self->opened = true;
    }
    if (self->first != NULL) {
        self->in_flight = self->first;
        self->first = self->first->next;
        if (self->first == NULL)
            self->last = NULL;
        operations[count].op = GRPC_OP_SEND_MESSAGE;
        operations[count++].data.send_message.send_message = self->in_flight->buffer;
    }
    if (self->rpc.over && self->first == NULL && !self->status_sent) {
        grpc_op *operation = &operations[count++];
        operation->op = GRPC_OP_SEND_STATUS_FROM_SERVER;
        operation->data.send_status_from_server.status = self->status;
        operation->data.send_status_from_server.status_details = &self->detail;
        operation->data.send_status_from_server.trailing_metadata_count = self->trailer_count;
        operation->data.send_status_from_server.trailing_metadata = self->trailers;
        self->status_sent = true;
    }
    if (count == 0)
        return;
    self->sending = true;
    batch_start(self, operations, count, &self->sent_tag);
}

static void value_unref(void *value)
{
    sluice_value_unref(value);
}

/* Takes the message. NULL: no memory. */
static struct outgoing *outgoing_create(struct rpc_message *message)
{
    struct outgoing *self = malloc(sizeof(*self));
    if (self == NULL) {
        rpc_message_free(message);
        return NULL;
    }
    grpc_slice slices[2];
    size_t count = 0;
    *self = (struct outgoing){.size = message->head.size + message->data_size};
    if (message->head.size > 0)
        slices[count++] = grpc_slice_new(message->head.data, message->head.size, free);
    else
        bytes_free(&message->head);
    if (message->value != NULL)
        slices[count++] = grpc_slice_new_with_user_data((void *)(uintptr_t)message->data, message->data_size,
                                                        value_unref, message->value);
    self->buffer = grpc_raw_byte_buffer_create(slices, count);
    for (size_t i = 0; i < count; i++)
        grpc_slice_unref(slices[i]);
    *message = (struct rpc_message){0};
    return self;
}

/* Lock held. */
static void enqueue(struct call *self, struct rpc_message *message)
{
    if (self->call == NULL || self->closed || self->broken) {
        rpc_message_free(message);
        return;
    }
    struct outgoing *outgoing = outgoing_create(message);
    if (outgoing == NULL) {
        self->broken = true; /* a stream with a hole is worse than none */
        grpc_call_cancel_with_status(self->call, GRPC_STATUS_RESOURCE_EXHAUSTED, "no memory for a reply", NULL);
        return;
    }
    if (self->last != NULL)
        self->last->next = outgoing;
    else
        self->first = outgoing;
    self->last = outgoing;
    self->backlog += outgoing->size;
}

void rpc_open(struct rpc *rpc)
{
    struct call *self = call_of(rpc);
    pthread_mutex_lock(&self->lock);
    self->open_wanted = true;
    advance(self);
    pthread_mutex_unlock(&self->lock);
}

bool rpc_send(struct rpc *rpc, struct rpc_message *message)
{
    struct call *self = call_of(rpc);
    pthread_mutex_lock(&self->lock);
    ASSERT(!self->rpc.over);
    enqueue(self, message);
    advance(self);
    self->blocked = self->backlog > RPC_BACKLOG_BYTES_MAX;
    bool room = !self->blocked;
    pthread_mutex_unlock(&self->lock);
    return room;
}

/* Lock held, call not NULL. */
static void outcome_keep(struct call *self, const struct rpc_outcome *outcome)
{
    struct rpc_trailer trailers[RPC_TRAILERS_MAX];
    self->status = (grpc_status_code)sluice_status_grpc(outcome->status);
    if (outcome->status == SLUICE_OK)
        return;
    const char *detail;
    size_t size = rpc__detail(outcome, &detail);
    self->detail = grpc_slice_from_copied_buffer(detail, size);
    self->trailer_count = rpc__trailers(outcome, trailers);
    for (size_t i = 0; i < self->trailer_count; i++) {
        self->trailers[i].key = grpc_slice_from_static_string(trailers[i].name);
        self->trailers[i].value = grpc_slice_from_copied_string(trailers[i].value);
    }
}

void rpc_finish(struct rpc *rpc, const struct rpc_outcome *outcome, struct rpc_message *message)
{
    struct call *self = call_of(rpc);
    pthread_mutex_lock(&self->lock);
    ASSERT(!self->rpc.over);
    if (message != NULL)
        enqueue(self, message);
    if (self->call != NULL)
        outcome_keep(self, outcome);
    self->rpc.over = true;
    advance(self);
    pthread_mutex_unlock(&self->lock);
    atomic_fetch_add_explicit(&rpc->figures->ended[sluice_status_grpc(outcome->status)], 1, memory_order_relaxed);
    rpc__unlink(rpc);
    rpc__unref(&self->rpc);
}

static void receive_next(struct call *self);

static void sent_done(struct tag *tag, bool ok)
{
    struct call *self = OWNER(tag, struct call, sent_tag);
    grpc_call *finished;
    pthread_mutex_lock(&self->lock);
    self->batches--;
    self->sending = false;
    if (self->in_flight != NULL)
        self->backlog -= self->in_flight->size;
    outgoing_free(self->in_flight);
    self->in_flight = NULL;
    self->broken |= !ok;
    advance(self);
    bool ready = self->blocked && !self->rpc.over && self->backlog <= RPC_BACKLOG_BYTES_MAX / 2;
    if (ready)
        self->blocked = false;
    bool receive = self->receive_waits && self->backlog == 0 && !self->rpc.over;
    bool detachable = take_finished(self, &finished);
    pthread_mutex_unlock(&self->lock);
    if (ready && self->handed)
        rpc__attend(&self->rpc, RPC_ATTEND_READY);
    if (receive)
        receive_next(self);
    if (detachable)
        detach(self, finished);
}

/* --- Receiving ---------------------------------------------------------------------------------------------------*/

static void closed_done(struct tag *tag, bool ok)
{
    struct call *self = OWNER(tag, struct call, closed_tag);
    (void)ok; /* this operation always succeeds */
    grpc_call *finished;
    pthread_mutex_lock(&self->lock);
    self->batches--;
    self->closed = true;
    advance(self);
    bool tell = self->handed && !self->rpc.over;
    bool detachable = take_finished(self, &finished);
    pthread_mutex_unlock(&self->lock);
    if (tell)
        rpc__attend(&self->rpc, RPC_ATTEND_GONE);
    if (detachable)
        detach(self, finished);
}

/* The request is complete: the loop takes over. */
static void hand_over(struct call *self)
{
    pthread_mutex_lock(&self->lock);
    bool closed = self->closed;
    pthread_mutex_unlock(&self->lock);
    if (closed) {
        rpc_fail(&self->rpc, SLUICE_UNAVAILABLE, "the client has given the call up");
        return;
    }
    if (self->rpc.deadline_ns <= clock_monotonic_ns()) {
        rpc_fail(&self->rpc, SLUICE_DEADLINE,
                 "the deadline had passed before the request was here; nothing was applied");
        return;
    }
    self->handed = true;
    rpc__attend(&self->rpc, RPC_ATTEND_START);
}

/* Unpacks `incoming` into the rpc. On failure the call is finished. */
static bool decode(struct call *self)
{
    const grpc_slice_buffer *buffer = &self->incoming->data.raw.slice_buffer;
    const char *why = NULL;
    enum sluice_status status = SLUICE_OK;
    struct slice few[8] = {{0}}, *pieces = few;
    if (buffer->count > sizeof(few) / sizeof(few[0]))
        pieces = malloc(buffer->count * sizeof(*pieces));
    for (size_t i = 0; i < buffer->count && pieces != NULL; i++)
        pieces[i] = (struct slice){GRPC_SLICE_START_PTR(buffer->slices[i]), GRPC_SLICE_LENGTH(buffer->slices[i])};
    if (pieces == NULL) {
        status = SLUICE_MEMORY;
    } else if (self->incoming->data.raw.compression != GRPC_COMPRESS_NONE) {
        status = SLUICE_METHOD_NOT_ALLOWED;
        why = "compressed messages are not taken here";
    } else {
        status = rpc__decode(&self->rpc, pieces, buffer->count, &why);
    }
    if (pieces != few)
        free(pieces);
    grpc_byte_buffer_destroy(self->incoming);
    self->incoming = NULL;
    if (status != SLUICE_OK)
        rpc_fail(&self->rpc, status, why);
    return status == SLUICE_OK;
}

static void receive_next(struct call *self)
{
    grpc_op operation = {.op = GRPC_OP_RECV_MESSAGE, .data.recv_message.recv_message = &self->incoming};
    self->receive_waits = false;
    pthread_mutex_lock(&self->lock);
    bool open = self->call != NULL && !self->closed;
    if (open)
        batch_start(self, &operation, 1, &self->received_tag);
    pthread_mutex_unlock(&self->lock);
    if (!open)
        rpc_fail(&self->rpc, SLUICE_UNAVAILABLE, "the client has given the call up");
}

/* One message of a stream, in `incoming`. */
static void stream_message(struct call *self)
{
    const char *why = NULL;
    if (!decode(self))
        return;
    enum sluice_status status = self->rpc.method->received(&self->rpc, &why);
    if (status != SLUICE_OK) {
        rpc_fail(&self->rpc, status, why);
        return;
    }
    /* A client that sends without reading waits, rather than what it is owed here. */
    pthread_mutex_lock(&self->lock);
    self->receive_waits = self->backlog > 0 && !self->closed && !self->broken;
    bool waits = self->receive_waits;
    pthread_mutex_unlock(&self->lock);
    if (!waits)
        receive_next(self);
}

static void received_done(struct tag *tag, bool ok)
{
    struct call *self = OWNER(tag, struct call, received_tag);
    grpc_call *finished;
    /* What a failed call leaves must not be taken for the end of its stream. */
    if (!ok || (self->incoming == NULL && grpc_call_failed_before_recv_message(self->call)))
        rpc_fail(&self->rpc, SLUICE_UNAVAILABLE, "the client has given the call up");
    else if (self->incoming != NULL)
        stream_message(self);
    else if (self->rpc.method->start != NULL)
        hand_over(self);
    else
        rpc_finish(&self->rpc, &(struct rpc_outcome){.status = SLUICE_OK}, NULL);
    pthread_mutex_lock(&self->lock);
    self->batches--;
    bool detachable = take_finished(self, &finished);
    pthread_mutex_unlock(&self->lock);
    if (detachable)
        detach(self, finished);
}

static struct slice borrow(const grpc_slice *slice)
{
    return (struct slice){GRPC_SLICE_START_PTR(*slice), GRPC_SLICE_LENGTH(*slice)};
}

static void deadline_read(struct call *self, gpr_timespec deadline)
{
    self->rpc.deadline_ns = UINT64_MAX;
    if (gpr_time_cmp(deadline, gpr_inf_future(deadline.clock_type)) == 0)
        return;
    gpr_timespec left = gpr_time_sub(deadline, gpr_now(deadline.clock_type));
    int64_t left_ms = gpr_time_to_millis(left);
    self->rpc.deadline_ns = clock_monotonic_ns() + (left_ms > 0 ? (uint64_t)left_ms * NS_PER_MS : 0);
}

static void call_begin(struct call *self, const struct slot *slot)
{
    grpc_op operation = {.op = GRPC_OP_RECV_CLOSE_ON_SERVER,
                         .data.recv_close_on_server.cancelled = &self->was_cancelled};
    pthread_mutex_lock(&self->lock);
    batch_start(self, &operation, 1, &self->closed_tag);
    pthread_mutex_unlock(&self->lock);

    const struct rpc_method *method = self->rpc.method;
    const char *why = NULL;
    enum sluice_status status;
    deadline_read(self, slot->deadline);
    for (size_t i = 0; i < slot->metadata.count; i++)
        rpc__metadata(&self->rpc, borrow(&slot->metadata.metadata[i].key), borrow(&slot->metadata.metadata[i].value));
    if (method == NULL) {
        char detail[256];
        snprintf(detail, sizeof(detail), "there is no method %.*s", (int)GRPC_SLICE_LENGTH(slot->details.method),
                 (const char *)GRPC_SLICE_START_PTR(slot->details.method));
        rpc_fail(&self->rpc, SLUICE_METHOD_NOT_ALLOWED, detail);
    } else if (atomic_load(&self->server->calls) > CALLS_MAX) {
        rpc_fail(&self->rpc, SLUICE_BUSY, "too many calls are under way; nothing was applied");
    } else if ((status = rpc__admit(&self->rpc, &why)) != SLUICE_OK) {
        rpc_fail(&self->rpc, status, why);
    } else if (method->takes_stream) {
        receive_next(self);
    } else if (self->incoming == NULL) {
        rpc_fail(&self->rpc, SLUICE_INVALID, "the request message is missing");
    } else if (decode(self)) {
        hand_over(self);
    }
    if (self->incoming != NULL && !(method != NULL && method->takes_stream)) {
        grpc_byte_buffer_destroy(self->incoming); /* refused before it was looked at */
        self->incoming = NULL;
    }
}

/* Takes the slot's call and payload. */
static void call_create(struct slot *slot)
{
    struct gateway_grpc *server = slot->server;
    struct call *self = calloc(1, sizeof(*self));
    if (self == NULL) {
        grpc_byte_buffer_destroy(slot->payload);
        grpc_call_unref(slot->call); /* cancels it */
        return;
    }
    self->rpc = (struct rpc){.method = slot->method, .shared = &server->shared, .figures = slot->figures};
    self->server = server;
    self->call = slot->call;
    self->incoming = slot->payload;
    self->closed_tag.done = closed_done;
    self->received_tag.done = received_done;
    self->sent_tag.done = sent_done;
    self->detail = grpc_empty_slice();
    atomic_init(&self->refs, 2); /* its owner's and gRPC's */
    pthread_mutex_init(&self->lock, NULL);
    atomic_fetch_add(&server->refs, 1);
    atomic_fetch_add(&server->calls, 1);
    call_begin(self, slot);
}

/* --- The server --------------------------------------------------------------------------------------------------*/

static void slot_request(struct slot *self)
{
    struct gateway_grpc *server = self->server;
    self->call = NULL;
    self->payload = NULL;
    self->metadata.count = 0;
    grpc_call_error error;
    if (self->method != NULL)
        error = grpc_server_request_registered_call(server->server, self->registered, &self->call, &self->deadline,
                                                    &self->metadata, self->method->takes_stream ? NULL : &self->payload,
                                                    server->queue, server->queue, &self->tag);
    else
        error = grpc_server_request_call(server->server, &self->call, &self->details, &self->metadata, server->queue,
                                         server->queue, &self->tag);
    if (error != GRPC_CALL_OK)
        PANIC("gRPC refused to wait for calls: %s", grpc_call_error_to_string(error));
}

static void slot_done(struct tag *tag, bool ok)
{
    struct slot *self = OWNER(tag, struct slot, tag);
    if (!ok)
        return; /* the server stops */
    if (self->method == NULL)
        self->deadline = self->details.deadline;
    call_create(self);
    if (self->method == NULL) {
        grpc_call_details_destroy(&self->details);
        grpc_call_details_init(&self->details);
    }
    slot_request(self);
}

static void stopped_done(struct tag *tag, bool ok)
{
    struct gateway_grpc *self = OWNER(tag, struct gateway_grpc, stopped);
    (void)ok;
    grpc_completion_queue_shutdown(self->queue);
}

static void *completions(void *arg)
{
    struct gateway_grpc *self = arg;
    pthread_setname_np(pthread_self(), "grpc");
    for (;;) {
        grpc_event event = grpc_completion_queue_next(self->queue, gpr_inf_future(GPR_CLOCK_REALTIME), NULL);
        if (event.type == GRPC_QUEUE_SHUTDOWN)
            return NULL;
        struct tag *tag = event.tag;
        tag->done(tag, event.success != 0);
    }
}

static grpc_arg integer(const char *key, int value)
{
    return (grpc_arg){.type = GRPC_ARG_INTEGER, .key = (char *)(uintptr_t)key, .value.integer = value};
}

static grpc_server *server_create(size_t memory_max)
{
    /* Messages of which a part has come count too: where there is no room left, gRPC gives up some that come. */
    grpc_resource_quota *quota = grpc_resource_quota_create("sluice");
    grpc_resource_quota_resize(quota, memory_max < MEMORY_BYTES_MIN ? MEMORY_BYTES_MIN : memory_max);
    grpc_arg arguments[] = {
        {.type = GRPC_ARG_POINTER,
         .key = (char *)(uintptr_t)GRPC_ARG_RESOURCE_QUOTA,
         .value.pointer = {quota, grpc_resource_quota_arg_vtable()}},
        integer(GRPC_ARG_MAX_RECEIVE_MESSAGE_LENGTH, RECEIVE_BYTES_MAX),
        integer(GRPC_ARG_MAX_SEND_MESSAGE_LENGTH, -1),
        integer(GRPC_ARG_MAX_CONCURRENT_STREAMS, STREAMS_MAX),
        integer(GRPC_ARG_MAX_METADATA_SIZE, METADATA_BYTES_MAX),
        /* A second gateway on the same port is a mistake to report, not to share calls with. */
        integer(GRPC_ARG_ALLOW_REUSEPORT, 0),
        /* Nothing bounds what a small compressed message grows to, so none is taken. */
        integer(GRPC_COMPRESSION_CHANNEL_ENABLED_ALGORITHMS_BITSET, 1 << GRPC_COMPRESS_NONE),
        integer(GRPC_ARG_ENABLE_PER_MESSAGE_DECOMPRESSION, 0),
        integer(GRPC_ARG_ENABLE_PER_MESSAGE_COMPRESSION, 0),
        /* Bookkeeping that nobody reads. */
        integer(GRPC_ARG_ENABLE_CHANNELZ, 0),
        integer(GRPC_ARG_MAX_CHANNEL_TRACE_EVENT_MEMORY_PER_NODE, 0),
    };
    grpc_channel_args all = {.num_args = sizeof(arguments) / sizeof(arguments[0]), .args = arguments};
    grpc_server *server = grpc_server_create(&all, NULL);
    grpc_resource_quota_unref(quota);
    return server;
}

static void slots_create(struct gateway_grpc *self, const struct rpc_method *method)
{
    void *registered = NULL;
    ASSERT(self->shared.figures_count < RPC_METHODS_MAX);
    struct rpc_figures *figures = &self->shared.figures[self->shared.figures_count++];
    figures->path = method != NULL ? method->path : "other";
    if (method != NULL) {
        registered = grpc_server_register_method(
            self->server, method->path, NULL,
            method->takes_stream ? GRPC_SRM_PAYLOAD_NONE : GRPC_SRM_PAYLOAD_READ_INITIAL_BYTE_BUFFER, 0);
        ASSERT(registered != NULL);
    }
    for (size_t i = 0; i < SLOTS_PER_METHOD; i++) {
        ASSERT(self->slot_count < SLOTS_MAX);
        struct slot *slot = &self->slots[self->slot_count++];
        *slot = (struct slot){
            .tag.done = slot_done, .server = self, .method = method, .figures = figures, .registered = registered};
        grpc_metadata_array_init(&slot->metadata);
        grpc_call_details_init(&slot->details);
    }
}

static void methods_create(struct gateway_grpc *self)
{
    static const struct {
        const struct rpc_method *methods;
        const size_t *count;
    } tables[] = {{rpc_store_methods, &rpc_store_method_count},
                  {rpc_history_methods, &rpc_history_method_count},
                  {rpc_watch_methods, &rpc_watch_method_count},
                  {rpc_control_methods, &rpc_control_method_count},
                  {rpc_public_methods, &rpc_public_method_count}};
    for (size_t i = 0; i < sizeof(tables) / sizeof(tables[0]); i++)
        for (size_t j = 0; j < *tables[i].count; j++)
            slots_create(self, &tables[i].methods[j]);
    slots_create(self, NULL);
}

/* gRPC's own words go where all others go. */
static void log_line(gpr_log_func_args *line)
{
    enum log_level level = line->severity == GPR_LOG_SEVERITY_ERROR  ? LOG_LEVEL_WARN
                           : line->severity == GPR_LOG_SEVERITY_INFO ? LOG_LEVEL_INFO
                                                                     : LOG_LEVEL_DEBUG;
    log_write(level, "grpc", "%s", line->message);
}

static void core_free(struct gateway_grpc *self)
{
    for (size_t i = 0; i < self->slot_count; i++) {
        grpc_metadata_array_destroy(&self->slots[i].metadata);
        grpc_call_details_destroy(&self->slots[i].details);
    }
    grpc_server_destroy(self->server);
    grpc_completion_queue_destroy(self->queue);
    /* Blocking, so that nothing of gRPC's runs while the process ends. */
    grpc_shutdown_blocking();
    rpc__shared_unref(&self->shared);
}

static void shut_down(struct gateway_grpc *self)
{
    if (!self->shared.stopping)
        grpc_server_shutdown_and_notify(self->server, self->queue, &self->stopped);
    self->shared.stopping = true;
}

void gateway_grpc_drain(struct gateway_grpc *self)
{
    shut_down(self);
    rpc__gone_all(&self->shared);
}

void gateway_grpc_metrics(const struct gateway_grpc *self, struct emit *out)
{
    rpc__metrics(&self->shared, atomic_load(&self->calls), out);
}

bool gateway_grpc_idle(const struct gateway_grpc *self)
{
    return atomic_load(&self->calls) == 0;
}

/* Also of one that could not start. */
void gateway_grpc_stop(struct gateway_grpc *self)
{
    gateway_grpc_drain(self);
    grpc_server_cancel_all_calls(self->server);
    if (self->has_thread)
        pthread_join(self->thread, NULL);
    else
        completions(self);
    core_free(self);
}

static int listen_on(struct gateway_grpc *self, const struct rpc_listen *how)
{
    grpc_ssl_pem_key_cert_pair pair = {.private_key = how->key, .cert_chain = how->certificate};
    grpc_server_credentials *credentials =
        how->key == NULL
            ? grpc_insecure_server_credentials_create()
            : grpc_ssl_server_credentials_create_ex(NULL, &pair, 1, GRPC_SSL_DONT_REQUEST_CLIENT_CERTIFICATE, NULL);
    int port = credentials != NULL ? grpc_server_add_http2_port(self->server, how->address, credentials) : 0;
    grpc_server_credentials_release(credentials);
    return port;
}

enum sluice_status gateway_grpc_start(struct gateway *gateway, const char *address, struct gateway_grpc **out,
                                      char *error, size_t error_size)
{
    struct rpc_listen how;
    enum sluice_status status = rpc__listen(gateway, address, &how, error, error_size);
    if (status != SLUICE_OK)
        return status;
    struct gateway_grpc *self = calloc(1, sizeof(*self));
    if (self == NULL) {
        snprintf(error, error_size, "no memory for gRPC");
        return SLUICE_MEMORY;
    }
    self->shared.gateway = gateway;
    self->shared.auth = gateway__auth(gateway);
    self->shared.memory_max = how.memory_max;
    self->shared.value_bytes_max = (size_t)gateway__value_bytes_max(gateway);
    pthread_mutex_init(&self->shared.lock, NULL);
    atomic_init(&self->refs, 1);
    self->stopped.done = stopped_done;
    gpr_set_log_function(log_line);
    grpc_init();
    self->server = server_create(how.memory_max);
    self->queue = grpc_completion_queue_create_for_next(NULL);
    grpc_server_register_completion_queue(self->server, self->queue, NULL);
    methods_create(self);
    self->port = listen_on(self, &how);
    grpc_server_start(self->server);
    if (self->port <= 0) {
        snprintf(error, error_size, "gRPC cannot listen on %s: %s", address,
                 how.key != NULL ? "is the port taken, or the certificate not the key's?" : "is the port taken?");
        goto fail;
    }
    int failure = pthread_create(&self->thread, NULL, completions, self);
    if (failure != 0) {
        snprintf(error, error_size, "gRPC's thread cannot be started: %s", strerror(failure));
        goto fail;
    }
    self->has_thread = true;
    for (size_t i = 0; i < self->slot_count; i++)
        slot_request(&self->slots[i]);
    LOG_INFO("gateway", "serving gRPC%s on %s port=%d", how.key != NULL ? " with TLS" : "", address, self->port);
    *out = self;
    return SLUICE_OK;

fail:
    gateway_grpc_stop(self);
    return SLUICE_IO;
}

uint16_t gateway_grpc_port(const struct gateway_grpc *self)
{
    return (uint16_t)self->port;
}

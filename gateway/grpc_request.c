/* What comes with a call, and what goes back besides replies: metadata, messages, statuses. */
#include <stdio.h>
#include <string.h>

#include "core/base/clock.h"
#include "core/base/panic.h"
#include "gateway/grpc__.h"
#include "gateway/protowire.h"

#define DETAIL_BYTES_MAX 1024
#define DETAIL_JSON_MAX  4096

static bool equals(struct slice name, const char *text)
{
    return name.size == strlen(text) && memcmp(name.data, text, name.size) == 0;
}

void rpc__metadata(struct rpc *self, struct slice name, struct slice value)
{
    if (equals(name, "authorization")) {
        self->authorization = value;
    } else if (equals(name, "sluice-after")) {
        if (!clock_parse(value.data, value.size, &self->after_ns))
            self->metadata_error = "the metadata `sluice-after` is a time: RFC 3339 or nanoseconds since 1970";
        else if (self->after_ns > clock_realtime_ns() + HLC_AHEAD_MAX_NS)
            self->metadata_error = "the metadata `sluice-after` lies in the future";
    }
}

enum sluice_status rpc__admit(struct rpc *self, const char **why)
{
    const struct rpc_method *method = self->method;
    enum sluice_status status = SLUICE_OK;
    if (!method->public)
        status =
            auth_login(self->shared->auth, self->authorization.data, self->authorization.size, &self->subject, why);
    if (status == SLUICE_OK && method->role != 0)
        status = auth_everything(self->subject, method->role, why);
    if (status == SLUICE_OK && self->metadata_error != NULL) {
        *why = self->metadata_error;
        status = SLUICE_INVALID;
    }
    self->authorization = (struct slice){NULL, 0};
    return status;
}

static void message_free(struct rpc *self)
{
    protobuf_c_message_free_unpacked(self->request, NULL);
    sluice_value_unref(self->value);
    self->request = NULL;
    self->value = NULL;
    self->value_size = 0;
}

static void held_free(struct rpc *self)
{
    atomic_fetch_sub(&self->shared->held_bytes, self->held_bytes);
    self->held_bytes = 0;
}

void rpc__request_free(struct rpc *self)
{
    message_free(self);
    held_free(self);
}

enum sluice_status rpc__decode(struct rpc *self, const struct slice *pieces, size_t count, const char **why)
{
    const struct rpc_method *method = self->method;
    struct protowire_parts parts;
    size_t size = 0;
    for (size_t i = 0; i < count; i++)
        size += pieces[i].size;
    message_free(self);
    /* What a stream is made of piles up until its end, unless each message is answered by itself. */
    if (method->start == NULL)
        held_free(self);
    self->held_bytes += size;
    if (atomic_fetch_add(&self->shared->held_bytes, size) + size > self->shared->memory_max) {
        *why = "requests that are under way hold too much memory; nothing was applied";
        return SLUICE_BUSY;
    }
    enum sluice_status status = protowire_split(pieces, count, method->value_field, method->request_bytes_max,
                                                self->shared->value_bytes_max, &parts, why);
    if (status == SLUICE_TOO_LARGE) {
        snprintf(self->limits, sizeof(self->limits), "%s: a value has at most %zu bytes, all else %zu", *why,
                 self->shared->value_bytes_max, method->request_bytes_max);
        *why = self->limits;
    }
    if (status != SLUICE_OK)
        return status;
    self->value = parts.value;
    self->value_size = parts.value_size;
    status = protowire_unpack(method->request, parts.rest.data, parts.rest.size, &self->request, why);
    bytes_free(&parts.rest);
    return status;
}

size_t rpc__detail(const struct rpc_outcome *outcome, const char **out)
{
    *out = outcome->detail != NULL ? outcome->detail : sluice_status_text(outcome->status);
    size_t size = strnlen(*out, DETAIL_BYTES_MAX);
    /* The first bytes of a character that was cut in two go too. */
    while (size > 0 && (*out)[size] != '\0' && ((*out)[size] & 0xc0) == 0x80)
        size--;
    return size;
}

static const char *number(struct rpc_trailer *trailer, uint64_t value)
{
    snprintf(trailer->number, sizeof(trailer->number), "%llu", (unsigned long long)value);
    return trailer->number;
}

size_t rpc__trailers(const struct rpc_outcome *outcome, struct rpc_trailer out[RPC_TRAILERS_MAX])
{
    size_t count = 0;
    out[count++] = (struct rpc_trailer){.name = "sluice-code", .value = sluice_status_code(outcome->status)};
    if (outcome->version != 0) {
        out[count].name = "sluice-version";
        out[count].value = number(&out[count], outcome->version);
        count++;
    }
    if (outcome->retry_after_ms != 0) {
        out[count].name = "grpc-retry-pushback-ms";
        out[count].value = number(&out[count], outcome->retry_after_ms);
        count++;
    }
    /* Clients refuse headers that are large in all. */
    if (outcome->json != NULL && strnlen(outcome->json, DETAIL_JSON_MAX + 1) <= DETAIL_JSON_MAX)
        out[count++] = (struct rpc_trailer){.name = "sluice-detail-bin", .value = outcome->json};
    ASSERT(count <= RPC_TRAILERS_MAX);
    return count;
}

static void emit_line(struct emit *out, const char *name, const char *path, unsigned code, uint64_t value)
{
    emit_text(out, name);
    if (path != NULL) {
        emit_text(out, "{method=\"");
        emit_text(out, path[0] == '/' ? path + 1 : path);
        emit_text(out, "\",code=\"");
        emit_u64(out, code);
        emit_text(out, "\"}");
    }
    emit_char(out, ' ');
    emit_u64(out, value);
    emit_char(out, '\n');
}

void rpc__metrics(const struct rpc_shared *shared, unsigned calls, struct emit *out)
{
    emit_text(out, "# HELP sluice_grpc_calls_total Calls ended, by method and gRPC's code.\n"
                   "# TYPE sluice_grpc_calls_total counter\n");
    for (size_t i = 0; i < shared->figures_count; i++)
        for (unsigned code = 0; code < RPC_CODES; code++) {
            uint64_t count = atomic_load_explicit(&shared->figures[i].ended[code], memory_order_relaxed);
            if (count > 0)
                emit_line(out, "sluice_grpc_calls_total", shared->figures[i].path, code, count);
        }
    emit_text(out, "# HELP sluice_grpc_in_flight Calls under way, streams included.\n"
                   "# TYPE sluice_grpc_in_flight gauge\n");
    emit_line(out, "sluice_grpc_in_flight", NULL, 0, calls);
    emit_text(out, "# HELP sluice_grpc_memory_bytes Requests under way.\n"
                   "# TYPE sluice_grpc_memory_bytes gauge\n");
    emit_line(out, "sluice_grpc_memory_bytes", NULL, 0, atomic_load(&shared->held_bytes));
}

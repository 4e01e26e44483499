/* The parser of event streams. */
#include <stdlib.h>
#include <string.h>

#include "cli/http.h"

#define SSE_LINE_BYTES_MAX (64u << 20) /* a value of 1 MiB in base64 is far below */

static bool equals(const struct bytes *line, size_t length, const char *name)
{
    return length == strlen(name) && memcmp(line->data, name, length) == 0;
}

static void assign(struct bytes *to, const uint8_t *data, size_t size)
{
    to->size = 0;
    cli_must_status(bytes_append(to, data, size));
}

static void dispatch(struct sse_parser *self)
{
    if (self->has_data) {
        struct http_event event = {.type = self->type.size > 0 ? cli_text(&self->type) : "message",
                                   .id = cli_text(&self->id),
                                   .data = cli_text(&self->data),
                                   .data_size = self->data.size};
        self->stopped = !self->on_event(self->arg, &event);
    }
    self->type.size = 0;
    self->data.size = 0;
    self->has_data = false;
}

static void set_retry(struct sse_parser *self, const uint8_t *value, size_t size)
{
    uint32_t retry = 0;
    for (size_t i = 0; i < size; i++) {
        if (value[i] < '0' || value[i] > '9' || retry > 100000)
            return;
        retry = retry * 10 + (uint32_t)(value[i] - '0');
    }
    if (size > 0)
        self->retry_ms = retry;
}

static void take_line(struct sse_parser *self)
{
    struct bytes *line = &self->line;
    if (line->size == 0) {
        dispatch(self);
        return;
    }
    const uint8_t *colon = memchr(line->data, ':', line->size);
    size_t name = colon != NULL ? (size_t)(colon - line->data) : line->size;
    size_t begin = colon == NULL ? name : name + 1;
    if (begin < line->size && line->data[begin] == ' ')
        begin++;
    const uint8_t *value = line->data + begin;
    size_t size = line->size - begin;
    if (equals(line, name, "event")) {
        assign(&self->type, value, size);
    } else if (equals(line, name, "data")) {
        if (self->has_data)
            cli_must_status(bytes_append(&self->data, "\n", 1));
        cli_must_status(bytes_append(&self->data, value, size));
        self->has_data = true;
    } else if (equals(line, name, "id")) {
        if (memchr(value, '\0', size) == NULL)
            assign(&self->id, value, size);
    } else if (equals(line, name, "retry")) {
        set_retry(self, value, size);
    }
    line->size = 0;
}

bool sse_feed(struct sse_parser *self, const char *data, size_t size)
{
    for (size_t i = 0; i < size && !self->stopped;) {
        if (data[i] == '\n' && self->after_cr) { /* CR LF is one end of a line, also when a piece ends between them */
            self->after_cr = false;
            i++;
            continue;
        }
        self->after_cr = false;
        size_t end = i;
        while (end < size && data[end] != '\n' && data[end] != '\r')
            end++;
        if (self->line.size + (end - i) > SSE_LINE_BYTES_MAX)
            return false;
        cli_must_status(bytes_append(&self->line, data + i, end - i));
        i = end;
        if (end == size)
            break;
        self->after_cr = data[end] == '\r';
        i++;
        if (!self->begun && self->line.size >= 3 && memcmp(self->line.data, "\xef\xbb\xbf", 3) == 0) {
            memmove(self->line.data, self->line.data + 3, self->line.size - 3);
            self->line.size -= 3;
        }
        self->begun = true;
        take_line(self);
    }
    return !self->stopped;
}

void sse_reset(struct sse_parser *self)
{
    self->line.size = 0;
    self->type.size = 0;
    self->data.size = 0;
    self->has_data = false;
    self->after_cr = false;
    self->begun = false;
    self->stopped = false;
}

void sse_free(struct sse_parser *self)
{
    bytes_free(&self->line);
    bytes_free(&self->type);
    bytes_free(&self->data);
    bytes_free(&self->id);
}

/* Says when something moves before a camera: compares each JPEG frame with the one before it, read from the store as it
 * was at the frame's time, and puts what changed.
 *
 *     cc -O2 -shared -fPIC -I. -o motion.so lambdas/motion/motion.c -ljpeg -ljansson
 *
 * Config (all optional): "watch", a glob of keys ("farm/gate/camera"); "output", the key for events ("motion" beside
 * the frame); "threshold", the share of pixels that must change (0.002); "contrast", by how much of 255 a pixel must
 * (24).
 *
 * An event: {"share":0.031,"box":{"x":96,"y":160,"width":64,"height":128},"width":768,"height":576,
 *            "frame":{"key":"farm/gate/camera","version":7,"revision":19,"time_ns":"…","object_time_ns":"…"}}
 * The box is in pixels of the full frame. */
#include "api/sluice_lambda.h"

#include <jansson.h>

#include "lambdas/kit/jpeg.h"

#define WIDTH_MIN      160u /* frames are compared at about this width: noise averages out, and it is quick */
#define FRAMES_BACK    3u   /* a damaged frame is passed over */
#define NEIGHBOURS_MIN 3u   /* a lone changed pixel is noise */
#define KEY_BYTES      1025u

const uint32_t sluice_lambda_abi = SLUICE_LAMBDA_ABI;

struct motion {
    const struct sluice_host *host;
    char output[KEY_BYTES]; /* empty: beside the frame */
    double threshold;
    unsigned contrast;
};

struct change {
    uint32_t pixels;
    uint32_t left, top, right, bottom; /* inclusive, in decoded pixels */
};

static int differs(const uint8_t *a, const uint8_t *b, size_t at, unsigned contrast)
{
    int difference = (int)a[at] - (int)b[at];
    return (unsigned)(difference < 0 ? -difference : difference) > contrast;
}

/* Counts pixels that changed together with some of their eight neighbours. Borders are left out. */
static struct change compare(const struct kit_image *now, const struct kit_image *before, unsigned contrast)
{
    struct change change = {.left = now->width, .top = now->height};
    for (uint32_t y = 1; y + 1 < now->height; y++) {
        for (uint32_t x = 1; x + 1 < now->width; x++) {
            size_t at = (size_t)y * now->width + x;
            if (!differs(now->pixels, before->pixels, at, contrast))
                continue;
            unsigned neighbours = 0;
            for (size_t row = at - now->width; row <= at + now->width; row += now->width)
                for (size_t each = row - 1; each <= row + 1; each++)
                    neighbours += each != at && differs(now->pixels, before->pixels, each, contrast);
            if (neighbours < NEIGHBOURS_MIN)
                continue;
            change.pixels++;
            change.left = x < change.left ? x : change.left;
            change.right = x > change.right ? x : change.right;
            change.top = y < change.top ? y : change.top;
            change.bottom = y > change.bottom ? y : change.bottom;
        }
    }
    return change;
}

/* Where the event goes; 0 if the frame's key is that place itself. */
static int output_key(const struct motion *self, const char *frame, char out[KEY_BYTES])
{
    if (self->output[0] != '\0') {
        snprintf(out, KEY_BYTES, "%s", self->output);
    } else {
        const char *slash = strrchr(frame, '/');
        int folder = slash == NULL ? 0 : (int)(slash - frame) + 1;
        if (snprintf(out, KEY_BYTES, "%.*smotion", folder, frame) >= (int)KEY_BYTES)
            return 0;
    }
    return strcmp(out, frame) != 0;
}

static int put_event(const struct motion *self, struct sluice_context *context, const char *key,
                     const struct sluice_lambda_object *frame, const struct kit_image *image,
                     const struct change *change, double share)
{
    /* From decoded pixels to those of the full frame. */
    const double across = (double)image->full_width / image->width, down = (double)image->full_height / image->height;
    const unsigned left = (unsigned)(change->left * across), top = (unsigned)(change->top * down);
    const unsigned width = (unsigned)((change->right + 1) * across) - left;
    const unsigned height = (unsigned)((change->bottom + 1) * down) - top;
    char time[24], object_time[24];
    snprintf(time, sizeof(time), "%llu", (unsigned long long)frame->time_ns);
    snprintf(object_time, sizeof(object_time), "%llu", (unsigned long long)frame->object_time_ns);
    json_t *event =
        json_pack("{s:f, s:{s:i, s:i, s:i, s:i}, s:i, s:i, s:{s:s, s:I, s:I, s:s, s:s}}", "share", share, "box", "x",
                  (int)left, "y", (int)top, "width", (int)width, "height", (int)height, "width", (int)image->full_width,
                  "height", (int)image->full_height, "frame", "key", frame->key, "version", (json_int_t)frame->version,
                  "revision", (json_int_t)frame->revision, "time_ns", time, "object_time_ns", object_time);
    char *text = event == NULL ? NULL : json_dumps(event, JSON_COMPACT | JSON_REAL_PRECISION(6));
    int result =
        text == NULL ? SLUICE_LAMBDA_MEMORY : self->host->put(context, key, text, strlen(text), "application/json");
    free(text);
    json_decref(event);
    if (result != 0)
        self->host->fail(context, "the event can't be put as %s (%d)", key, result);
    return result;
}

/* The newest good frame before this one. 1: found; 0: there is none; below 0: the store can't say now. */
static int frame_before(const struct motion *self, struct sluice_context *context,
                        const struct sluice_lambda_object *frame, struct kit_image *out)
{
    for (uint64_t back = 1; back <= FRAMES_BACK && back < frame->version; back++) {
        struct sluice_lambda_object before;
        int result = self->host->get_version(context, frame->key, frame->version - back, &before);
        if (result == SLUICE_LAMBDA_NOT_FOUND || result == SLUICE_LAMBDA_GONE)
            return 0; /* deleted in between, or no longer kept: a new beginning */
        if (result != 0) {
            self->host->fail(context, "version %llu of %s can't be read (%d)",
                             (unsigned long long)(frame->version - back), frame->key, result);
            return result;
        }
        enum kit_jpeg_result decoded = kit_jpeg_decode(before.value, before.size, WIDTH_MIN, 1, out);
        if (decoded == KIT_JPEG_OK)
            return 1;
        if (decoded == KIT_JPEG_MEMORY)
            return SLUICE_LAMBDA_MEMORY;
    }
    return 0;
}

static int look(struct sluice_context *context, const struct sluice_event *event, void *closure)
{
    const struct motion *self = closure;
    const struct sluice_host *host = self->host;
    const struct sluice_lambda_object *frame = &event->object;
    struct kit_image now, before;
    char key[KEY_BYTES];
    if (frame->deleted || !output_key(self, frame->key, key))
        return 0;
    host->counter(context, "frames", 1);
    enum kit_jpeg_result decoded = kit_jpeg_decode(frame->value, frame->size, WIDTH_MIN, 1, &now);
    if (decoded == KIT_JPEG_MEMORY) {
        host->fail(context, "no memory for a frame of %u x %u", now.full_width, now.full_height);
        return SLUICE_LAMBDA_MEMORY;
    }
    if (decoded != KIT_JPEG_OK) {
        /* Trying again would not mend it. */
        host->counter(context, decoded == KIT_JPEG_NOT ? "not_jpeg" : "damaged", 1);
        host->log(context, "%s version %llu is %s: %s", frame->key, (unsigned long long)frame->version,
                  decoded == KIT_JPEG_NOT ? "no JPEG image" : "damaged", now.error);
        return 0;
    }
    int result = frame_before(self, context, frame, &before);
    if (result <= 0) {
        if (result == 0)
            host->counter(context, "first", 1);
        free(now.pixels);
        return result;
    }
    result = 0;
    if (now.width != before.width || now.height != before.height) {
        host->counter(context, "resized", 1);
    } else {
        struct change change = compare(&now, &before, self->contrast);
        double share = (double)change.pixels / ((double)now.width * now.height);
        if (change.pixels > 0 && share >= self->threshold) {
            host->counter(context, "motion", 1);
            result = put_event(self, context, key, frame, &now, &change, share);
        }
    }
    free(before.pixels);
    free(now.pixels);
    return result;
}

/* A config field within bounds; 0 where it is not. */
static int read_number(const struct sluice_host *host, const json_t *config, const char *name, double low, double high,
                       double *out)
{
    const json_t *value = json_object_get(config, name);
    if (value == NULL)
        return 1;
    *out = json_number_value(value);
    if (json_is_number(value) && *out >= low && *out <= high)
        return 1;
    host->error(host, "config: \"%s\" is a number from %g to %g", name, low, high);
    return 0;
}

int sluice_lambda_initialize(const struct sluice_host *host, const char *config_json, void **state)
{
    json_error_t error;
    double contrast = 24;
    int result = 1;
    json_t *config = json_loads(config_json, 0, &error);
    struct motion *self = calloc(1, sizeof(*self));
    if (self == NULL || !json_is_object(config)) {
        host->error(host, "config is no JSON object: %s", config == NULL ? error.text : "something else");
        goto fail;
    }
    const json_t *watch = json_object_get(config, "watch"), *output = json_object_get(config, "output");
    if ((watch != NULL && !json_is_string(watch)) || (output != NULL && !json_is_string(output)) ||
        json_string_length(output) >= KEY_BYTES) {
        host->error(host, "config: \"watch\" is a glob, \"output\" a key");
        goto fail;
    }
    self->host = host;
    self->threshold = 0.002;
    snprintf(self->output, sizeof(self->output), "%s", output == NULL ? "" : json_string_value(output));
    if (!read_number(host, config, "threshold", 0, 1, &self->threshold) ||
        !read_number(host, config, "contrast", 1, 255, &contrast))
        goto fail;
    self->contrast = (unsigned)contrast;
    result = host->watch(host, SLUICE_GLOB, watch == NULL ? "farm/gate/camera" : json_string_value(watch), look, self);
    if (result != 0)
        goto fail;
    *state = self;
    json_decref(config);
    return 0;

fail:
    free(self);
    json_decref(config);
    return result;
}

void sluice_lambda_shutdown(void *state)
{
    free(state);
}

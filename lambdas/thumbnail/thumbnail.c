/* Keeps a small picture of each JPEG image below farm/: that of farm/cow2716 is thumbs/farm/cow2716, and goes when the
 * image goes.
 *
 *     cc -O2 -shared -fPIC -I. -o thumbnail.so lambdas/thumbnail/thumbnail.c -ljpeg -ljansson
 *
 * Config (all optional): "watch", a glob of keys (all below farm/); "into", the folder for thumbnails ("thumbs");
 * "width", in pixels (160). */
#include "api/sluice_lambda.h"

#include <jansson.h>
#include <stdbool.h>

#include "lambdas/kit/jpeg.h"

#define KEY_BYTES 1025u
#define QUALITY   75

const uint32_t sluice_lambda_abi = SLUICE_LAMBDA_ABI;

struct thumbnail {
    const struct sluice_host *host;
    char into[KEY_BYTES]; /* without a slash at its end */
    uint32_t width;
};

/* Averages down to at most `width` pixels across; libjpeg has done the most of it. */
static int shrink(struct kit_image *image, uint32_t width)
{
    if (image->width <= width)
        return 1;
    uint32_t height = (uint32_t)((uint64_t)image->height * width / image->width);
    height = height == 0 ? 1 : height;
    uint8_t *pixels = malloc((size_t)width * height * 3);
    if (pixels == NULL)
        return 0;
    for (uint32_t y = 0; y < height; y++) {
        uint32_t top = (uint32_t)((uint64_t)y * image->height / height);
        uint32_t bottom = (uint32_t)((uint64_t)(y + 1) * image->height / height);
        for (uint32_t x = 0; x < width; x++) {
            uint32_t left = (uint32_t)((uint64_t)x * image->width / width);
            uint32_t right = (uint32_t)((uint64_t)(x + 1) * image->width / width);
            uint32_t sums[3] = {0}, count = (bottom - top) * (right - left);
            for (uint32_t row = top; row < bottom; row++)
                for (uint32_t column = left; column < right; column++)
                    for (unsigned channel = 0; channel < 3; channel++)
                        sums[channel] += image->pixels[((size_t)row * image->width + column) * 3 + channel];
            for (unsigned channel = 0; channel < 3; channel++)
                pixels[((size_t)y * width + x) * 3 + channel] = (uint8_t)(sums[channel] / count);
        }
    }
    free(image->pixels);
    image->pixels = pixels;
    image->width = width;
    image->height = height;
    return 1;
}

/* A JPEG image on the heap; false when memory is out. */
static bool encode(const struct kit_image *image, unsigned char **out, unsigned long *size)
{
    struct jpeg_compress_struct info;
    struct kit_jpeg_errors errors;
    char words[JMSG_LENGTH_MAX];
    memset(&info, 0, sizeof(info));
    kit_jpeg_errors_init(&errors, words);
    info.err = &errors.manager;
    if (setjmp(errors.out) != 0) {
        jpeg_destroy_compress(&info);
        return false;
    }
    jpeg_create_compress(&info);
    jpeg_mem_dest(&info, out, size);
    info.image_width = image->width;
    info.image_height = image->height;
    info.input_components = 3;
    info.in_color_space = JCS_RGB;
    jpeg_set_defaults(&info);
    jpeg_set_quality(&info, QUALITY, TRUE);
    jpeg_start_compress(&info, TRUE);
    while (info.next_scanline < info.image_height) {
        JSAMPROW line = image->pixels + (size_t)info.next_scanline * image->width * 3;
        jpeg_write_scanlines(&info, &line, 1);
    }
    jpeg_finish_compress(&info);
    jpeg_destroy_compress(&info);
    return true;
}

/* A deleted object leaves no thumbnail behind, if it had one: its last version says whether it was an image. */
static int tidy(const struct thumbnail *self, struct sluice_context *context, const struct sluice_lambda_object *gone,
                const char *key)
{
    struct sluice_lambda_object last;
    int result = self->host->get_version(context, gone->key, gone->version - 1, &last);
    if (result == SLUICE_LAMBDA_NOT_FOUND || result == SLUICE_LAMBDA_GONE)
        return 0;
    if (result == 0 && (last.size < 3 || memcmp(last.value, "\xff\xd8\xff", 3) != 0))
        return 0;
    return result == 0 ? self->host->remove(context, key) : result;
}

static int make(struct sluice_context *context, const struct sluice_event *event, void *closure)
{
    const struct thumbnail *self = closure;
    const struct sluice_host *host = self->host;
    const struct sluice_lambda_object *object = &event->object;
    size_t into = strlen(self->into);
    char key[KEY_BYTES];
    /* Its own pictures are not watched by default, but a config may. */
    if (strncmp(object->key, self->into, into) == 0 && object->key[into] == '/')
        return 0;
    if (snprintf(key, sizeof(key), "%s/%s", self->into, object->key) >= (int)sizeof(key)) {
        host->counter(context, "key_too_long", 1);
        return 0;
    }
    if (object->deleted)
        return tidy(self, context, object, key);
    struct kit_image image;
    enum kit_jpeg_result decoded = kit_jpeg_decode(object->value, object->size, self->width, 0, &image);
    if (decoded == KIT_JPEG_NOT) {
        host->counter(context, "not_jpeg", 1);
        return 0;
    }
    if (decoded == KIT_JPEG_DAMAGED) {
        host->counter(context, "damaged", 1);
        host->log(context, "%s version %llu is damaged: %s", object->key, (unsigned long long)object->version,
                  image.error);
        return 0;
    }
    unsigned long size = 0;
    unsigned char *bytes = NULL;
    int result = SLUICE_LAMBDA_MEMORY;
    if (decoded == KIT_JPEG_OK && shrink(&image, self->width) && encode(&image, &bytes, &size)) {
        result = host->put(context, key, bytes, size, "image/jpeg");
        host->counter(context, "thumbnails", 1);
    } else {
        host->fail(context, "no memory for an image of %u x %u", image.full_width, image.full_height);
    }
    free(bytes);
    free(image.pixels);
    return result;
}

int sluice_lambda_initialize(const struct sluice_host *host, const char *config_json, void **state)
{
    json_error_t error;
    int result = 1;
    json_t *config = json_loads(config_json, 0, &error);
    struct thumbnail *self = calloc(1, sizeof(*self));
    if (self == NULL || !json_is_object(config)) {
        host->error(host, "config is no JSON object: %s", config == NULL ? error.text : "something else");
        goto fail;
    }
    const json_t *watch = json_object_get(config, "watch"), *into = json_object_get(config, "into");
    const json_t *width = json_object_get(config, "width");
    const char *folder = into == NULL ? "thumbs" : json_string_value(into);
    json_int_t pixels = width == NULL ? 160 : json_integer_value(width);
    if ((watch != NULL && !json_is_string(watch)) || folder == NULL || folder[0] == '\0' || strlen(folder) > 512 ||
        folder[strlen(folder) - 1] == '/' || pixels < 8 || pixels > 4096) {
        host->error(
            host,
            "config: \"watch\" is a glob, \"into\" a folder without a slash at its end, \"width\" is from 8 to 4096");
        goto fail;
    }
    self->host = host;
    self->width = (uint32_t)pixels;
    snprintf(self->into, sizeof(self->into), "%s", folder);
    result = host->watch(host, SLUICE_GLOB, watch == NULL ? "farm/**" : json_string_value(watch), make, self);
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

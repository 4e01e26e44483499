/* Decoding JPEG images in a lambda: small, in grayscale or colour, and safe with damaged ones. For one source file a
 * lambda: all is static.
 *
 * libjpeg ends the process on an error unless it is told otherwise, and memory goes with what an image claims to be;
 * both are seen to here. */
#ifndef LAMBDA_KIT_JPEG_H
#define LAMBDA_KIT_JPEG_H

#include <setjmp.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <jpeglib.h>

#define KIT_JPEG_PIXELS_MAX (64u << 20) /* an image that claims more is refused */
#define KIT_JPEG_SCANS_MAX  100

enum kit_jpeg_result { KIT_JPEG_OK, KIT_JPEG_NOT, KIT_JPEG_DAMAGED, KIT_JPEG_MEMORY };

struct kit_image {
    uint8_t *pixels;        /* width × height × channels; free it */
    uint32_t width, height; /* as decoded */
    uint32_t channels;      /* 1 gray, 3 RGB */
    uint32_t full_width, full_height;
    char error[JMSG_LENGTH_MAX];
};

struct kit_jpeg_errors {
    struct jpeg_error_mgr manager; /* first: libjpeg hands out a pointer to it */
    jmp_buf out;
    char *words;
};

static inline void kit_jpeg_fail(j_common_ptr info)
{
    struct kit_jpeg_errors *self = (struct kit_jpeg_errors *)(void *)info->err;
    self->manager.format_message(info, self->words);
    longjmp(self->out, 1);
}

static inline void kit_jpeg_silent(j_common_ptr info)
{
    (void)info;
}

/* A warning means bytes that libjpeg had to invent: the image is damaged, the first message says how. */
static inline void kit_jpeg_warned(j_common_ptr info, int level)
{
    struct kit_jpeg_errors *self = (struct kit_jpeg_errors *)(void *)info->err;
    if (level < 0 && self->manager.num_warnings++ == 0)
        self->manager.format_message(info, self->words);
}

/* A few bytes of a progressive image can ask for the work of thousands of scans. */
static inline void kit_jpeg_progress(j_common_ptr info)
{
    struct kit_jpeg_errors *self = (struct kit_jpeg_errors *)(void *)info->err;
    int scan = ((j_decompress_ptr)(void *)info)->input_scan_number;
    if (scan <= KIT_JPEG_SCANS_MAX)
        return;
    snprintf(self->words, JMSG_LENGTH_MAX, "it has more than %d scans", KIT_JPEG_SCANS_MAX);
    longjmp(self->out, 1);
}

static inline void kit_jpeg_errors_init(struct kit_jpeg_errors *self, char *words)
{
    jpeg_std_error(&self->manager);
    self->manager.error_exit = kit_jpeg_fail;
    self->manager.output_message = kit_jpeg_silent;
    self->manager.emit_message = kit_jpeg_warned;
    self->words = words;
    words[0] = '\0';
}

/* The smallest of libjpeg's scales (eighths) that keeps at least `width_min` pixels, or the whole. */
static inline unsigned kit_jpeg_eighths(uint32_t width, uint32_t width_min)
{
    unsigned eighths = 1;
    while (eighths < 8 && (uint64_t)width * eighths / 8 < width_min)
        eighths++;
    return eighths;
}

/* Decodes `data`, scaled down while at least `width_min` pixels stay. On anything but OK nothing is to be freed, and
 * image->error says why. */
static inline enum kit_jpeg_result kit_jpeg_decode(const void *data, uint64_t size, uint32_t width_min, int gray,
                                                   struct kit_image *image)
{
    struct jpeg_decompress_struct info;
    struct kit_jpeg_errors errors;
    struct jpeg_progress_mgr progress = {.progress_monitor = kit_jpeg_progress};
    uint8_t *volatile pixels = NULL; /* volatile: set between setjmp and longjmp */
    memset(image, 0, sizeof(*image));
    if (size < 4 || memcmp(data, "\xff\xd8\xff", 3) != 0) {
        snprintf(image->error, sizeof(image->error), "it does not begin like a JPEG image");
        return KIT_JPEG_NOT;
    }
    memset(&info, 0, sizeof(info));
    kit_jpeg_errors_init(&errors, image->error);
    info.err = &errors.manager;
    if (setjmp(errors.out) != 0)
        goto fail;
    jpeg_create_decompress(&info);
    info.progress = &progress;
    jpeg_mem_src(&info, data, (unsigned long)size);
    jpeg_read_header(&info, TRUE);
    image->full_width = info.image_width;
    image->full_height = info.image_height;
    if ((uint64_t)info.image_width * info.image_height > KIT_JPEG_PIXELS_MAX) {
        snprintf(image->error, sizeof(image->error), "it claims to have %u x %u pixels", info.image_width,
                 info.image_height);
        goto fail;
    }
    info.out_color_space = gray ? JCS_GRAYSCALE : JCS_RGB;
    info.scale_num = kit_jpeg_eighths(info.image_width, width_min);
    info.scale_denom = 8;
    info.dct_method = JDCT_IFAST;
    jpeg_start_decompress(&info);
    image->width = info.output_width;
    image->height = info.output_height;
    image->channels = (uint32_t)info.output_components;
    const size_t row = (size_t)image->width * image->channels;
    pixels = malloc(row * image->height);
    if (pixels == NULL) {
        jpeg_destroy_decompress(&info);
        return KIT_JPEG_MEMORY;
    }
    while (info.output_scanline < info.output_height) {
        JSAMPROW line = pixels + row * info.output_scanline;
        jpeg_read_scanlines(&info, &line, 1);
    }
    jpeg_finish_decompress(&info);
    if (errors.manager.num_warnings > 0)
        goto fail;
    jpeg_destroy_decompress(&info);
    image->pixels = pixels;
    return KIT_JPEG_OK;

fail:
    jpeg_destroy_decompress(&info);
    free(pixels);
    return KIT_JPEG_DAMAGED;
}

#endif

#include <criterion/criterion.h>
#include <jansson.h>
#include <stdlib.h>
#include <string.h>

#include "host.h"

#define CAMERA "farm/gate/camera"
#define MOTION "farm/gate/motion"

static int frame(struct stage *stage, unsigned width, unsigned x, unsigned y, unsigned square, unsigned noise)
{
    unsigned long size;
    unsigned char *bytes = picture(width, width * 3 / 4, x, y, square, noise, &size);
    int result = stage_put(stage, CAMERA, bytes, size);
    free(bytes);
    return result;
}

/* How many events there are. */
static uint64_t events(struct stage *stage)
{
    size_t size;
    uint64_t version = 0;
    (void)stage_get(stage, MOTION, &size, &version);
    return version;
}

static json_t *event_of(struct stage *stage)
{
    size_t size;
    uint64_t version;
    const char *text = stage_get(stage, MOTION, &size, &version);
    cr_assert_not_null(text);
    json_t *event = json_loadb(text, size, 0, NULL);
    cr_assert_not_null(event, "%s", text);
    return event;
}

Test(motion, a_still_picture_moves_nothing_even_with_noise)
{
    struct stage *stage = stage_open("motion", "{}");
    for (int i = 0; i < 20; i++)
        cr_assert_eq(frame(stage, 768, 100, 100, 80, 8), 0);
    cr_assert_eq(events(stage), 0u);
    cr_assert_eq(stage_counter(stage, "frames"), 20);
    cr_assert_eq(stage_counter(stage, "first"), 1);
    stage_close(stage);
}

Test(motion, what_moves_is_put_with_its_box_in_the_full_frame)
{
    struct stage *stage = stage_open("motion", "{}");
    cr_assert_eq(frame(stage, 768, 200, 120, 96, 4), 0);
    cr_assert_eq(frame(stage, 768, 296, 120, 96, 4), 0);
    cr_assert_eq(events(stage), 1u);
    json_t *event = event_of(stage);
    int x, y, width, height, full_width, full_height;
    double share;
    const char *key, *time;
    json_int_t version;
    cr_assert_eq(json_unpack(event, "{s:F, s:{s:i, s:i, s:i, s:i}, s:i, s:i, s:{s:s, s:I, s:s}}", "share", &share,
                             "box", "x", &x, "y", &y, "width", &width, "height", &height, "width", &full_width,
                             "height", &full_height, "frame", "key", &key, "version", &version, "time_ns", &time),
                 0);
    /* The square left 200…296 and came to 296…392. */
    cr_assert(abs(x - 200) <= 12 && abs(y - 120) <= 12, "%d,%d", x, y);
    cr_assert(abs(width - 192) <= 20 && abs(height - 96) <= 20, "%d x %d", width, height);
    cr_assert(full_width == 768 && full_height == 576);
    cr_assert_float_eq(share, 2.0 * 96 * 96 / (768.0 * 576), 0.012);
    cr_assert_str_eq(key, CAMERA);
    cr_assert_eq(version, 2);
    cr_assert_str_eq(time, "1002");
    json_decref(event);
    stage_close(stage);
}

Test(motion, a_damaged_frame_is_passed_over)
{
    struct stage *stage = stage_open("motion", "{}");
    cr_assert_eq(frame(stage, 768, 200, 120, 96, 0), 0);
    unsigned long size;
    unsigned char *bytes = picture(768, 576, 200, 120, 96, 0, &size);
    cr_assert_eq(stage_put(stage, CAMERA, bytes, size / 2), 0, "cut off");
    cr_assert_eq(stage_counter(stage, "damaged"), 1);
    cr_assert_not_null(strstr(stage_line(stage), "farm/gate/camera version 2 is damaged"), "%s", stage_line(stage));
    memset(bytes + size / 3, 0xff, size / 3);
    cr_assert_eq(stage_put(stage, CAMERA, bytes, size), 0, "overwritten");
    cr_assert_eq(stage_counter(stage, "damaged"), 2);
    cr_assert_eq(events(stage), 0u);
    cr_assert_eq(frame(stage, 768, 300, 120, 96, 0), 0);
    cr_assert_eq(events(stage), 1u, "the good frame before them counts");
    free(bytes);
    stage_close(stage);
}

Test(motion, damage_anywhere_does_no_harm)
{
    struct stage *stage = stage_open("motion", "{}");
    unsigned long size;
    unsigned char *bytes = picture(96, 72, 20, 20, 30, 4, &size), *copy = malloc(size);
    srand(7);
    for (int round = 0; round < 400; round++) {
        memcpy(copy, bytes, size);
        unsigned long kept = round % 2 ? size : 1 + (unsigned long)rand() % size;
        for (int i = 0; i < 3 && round % 3; i++)
            copy[(unsigned long)rand() % kept] = (unsigned char)rand();
        cr_assert_eq(stage_put(stage, CAMERA, copy, kept), 0);
    }
    cr_assert_eq(stage_counter(stage, "frames"), 400);
    cr_assert_gt(stage_counter(stage, "damaged"), 100);
    free(copy);
    free(bytes);
    stage_close(stage);
}

Test(motion, what_is_no_image_is_said_and_not_failed)
{
    struct stage *stage = stage_open("motion", "{}");
    cr_assert_eq(stage_put(stage, CAMERA, "moo", 3), 0);
    cr_assert_eq(stage_put(stage, CAMERA, "", 0), 0);
    cr_assert_eq(stage_counter(stage, "not_jpeg"), 2);
    cr_assert_not_null(strstr(stage_line(stage), "is no JPEG image"));
    /* A head that claims 65,500 × 65,500 pixels. */
    unsigned long size;
    unsigned char *bytes = picture(64, 64, 0, 0, 0, 0, &size);
    for (unsigned long i = 0; i + 8 < size; i++) {
        if (bytes[i] == 0xff && bytes[i + 1] == 0xc0) {
            memcpy(bytes + i + 5, "\xff\xdc\xff\xdc", 4);
            break;
        }
    }
    cr_assert_eq(stage_put(stage, CAMERA, bytes, size), 0);
    cr_assert_not_null(strstr(stage_line(stage), "it claims to have 65500 x 65500 pixels"), "%s", stage_line(stage));
    free(bytes);
    stage_close(stage);
}

Test(motion, a_deletion_or_another_size_is_a_new_beginning)
{
    struct stage *stage = stage_open("motion", "{}");
    cr_assert_eq(frame(stage, 768, 100, 100, 90, 0), 0);
    cr_assert_eq(stage_put(stage, CAMERA, NULL, 0), 0);
    cr_assert_eq(frame(stage, 768, 400, 100, 90, 0), 0);
    cr_assert_eq(stage_counter(stage, "first"), 2);
    cr_assert_eq(frame(stage, 640, 100, 100, 90, 0), 0);
    cr_assert_eq(stage_counter(stage, "resized") + (long)events(stage), 1 + (long)events(stage));
    cr_assert_eq(events(stage), 0u);
    stage_close(stage);
}

Test(motion, a_store_that_cannot_answer_fails_the_run)
{
    struct stage *stage = stage_open("motion", "{}");
    cr_assert_eq(frame(stage, 768, 100, 100, 90, 0), 0);
    stage_reads_fail(stage, SLUICE_LAMBDA_UNAVAILABLE, 1);
    cr_assert_neq(frame(stage, 768, 300, 100, 90, 0), 0, "it is tried again later");
    cr_assert_not_null(strstr(stage_line(stage), "version 1 of farm/gate/camera can't be read"));
    stage_close(stage);
}

Test(motion, the_config_says_where_and_how_much)
{
    struct stage *stage = stage_open("motion", "{\"watch\":\"farm/*/camera\",\"output\":\"alarms/motion\","
                                               "\"threshold\":0.5}");
    cr_assert_eq(frame(stage, 768, 0, 0, 100, 0), 0);
    cr_assert_eq(frame(stage, 768, 300, 0, 100, 0), 0);
    size_t size;
    uint64_t version;
    cr_assert_null(stage_get(stage, "alarms/motion", &size, &version), "below the threshold");
    cr_assert_eq(frame(stage, 768, 0, 0, 768, 0), 0);
    cr_assert_not_null(stage_get(stage, "alarms/motion", &size, &version));
    stage_close(stage);

    static const struct {
        const char *config, *words;
    } bad[] = {
        {"", "no JSON object"},
        {"[]", "no JSON object"},
        {"{\"threshold\":2}", "\"threshold\" is a number from 0 to 1"},
        {"{\"contrast\":\"much\"}", "\"contrast\" is a number from 1 to 255"},
        {"{\"watch\":1}", "\"watch\" is a glob"},
    };
    for (size_t i = 0; i < sizeof(bad) / sizeof(bad[0]); i++) {
        cr_assert_null(stage_open("motion", bad[i].config), "%s", bad[i].config);
        cr_assert_not_null(strstr(stage_error(), bad[i].words), "%s: %s", bad[i].config, stage_error());
    }
}

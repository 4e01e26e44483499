#include <criterion/criterion.h>
#include <stdlib.h>
#include <string.h>

#include "host.h"

Test(hello, greets_and_takes_its_greeting_back)
{
    struct stage *stage = stage_open("hello", "{}");
    size_t size;
    uint64_t version;
    cr_assert_eq(stage_put(stage, "hello/you", "world", 5), 0);
    cr_assert_str_eq(stage_get(stage, "greetings/you", &size, &version), "Hello, world!\n");
    cr_assert_eq(stage_put(stage, "elsewhere/you", "world", 5), 0);
    cr_assert_eq(version, 1u);
    cr_assert_eq(stage_put(stage, "hello/you", NULL, 0), 0);
    cr_assert(stage_deleted(stage, "greetings/you"));
    stage_close(stage);
}

static unsigned width_of(const char *jpeg, size_t size)
{
    for (size_t i = 0; i + 8 < size; i++)
        if ((unsigned char)jpeg[i] == 0xff && (unsigned char)jpeg[i + 1] == 0xc0)
            return (unsigned)(unsigned char)jpeg[i + 7] << 8 | (unsigned char)jpeg[i + 8];
    return 0;
}

Test(thumbnail, an_image_gets_a_small_one_that_goes_with_it)
{
    struct stage *stage = stage_open("thumbnail", "{}");
    unsigned long bytes;
    unsigned char *image = picture(1000, 750, 100, 100, 200, 5, &bytes);
    size_t size;
    uint64_t version;
    cr_assert_eq(stage_put(stage, "farm/cow2716", image, bytes), 0);
    const char *thumbnail = stage_get(stage, "thumbs/farm/cow2716", &size, &version);
    cr_assert_not_null(thumbnail);
    cr_assert_eq(width_of(thumbnail, size), 160u);
    cr_assert_lt(size, bytes / 5);
    cr_assert_eq(stage_put(stage, "farm/cow2716", NULL, 0), 0);
    cr_assert(stage_deleted(stage, "thumbs/farm/cow2716"));
    /* A small one stays as it is. */
    free(image);
    image = picture(40, 30, 0, 0, 10, 0, &bytes);
    cr_assert_eq(stage_put(stage, "farm/calf", image, bytes), 0);
    thumbnail = stage_get(stage, "thumbs/farm/calf", &size, &version);
    cr_assert_eq(width_of(thumbnail, size), 40u);
    free(image);
    stage_close(stage);
}

Test(thumbnail, other_objects_are_left_alone)
{
    struct stage *stage = stage_open("thumbnail", "{\"watch\":\"*\",\"width\":64}");
    unsigned long bytes;
    unsigned char *image = picture(300, 200, 100, 100, 50, 5, &bytes);
    size_t size;
    uint64_t version;
    cr_assert_eq(stage_put(stage, "farm/notes", "moo", 3), 0);
    cr_assert_eq(stage_counter(stage, "not_jpeg"), 1);
    cr_assert_eq(stage_put(stage, "farm/notes", NULL, 0), 0);
    cr_assert_not(stage_deleted(stage, "thumbs/farm/notes"), "it had no thumbnail");
    cr_assert_eq(stage_put(stage, "farm/cut", image, bytes / 2), 0);
    cr_assert_eq(stage_counter(stage, "damaged"), 1);
    cr_assert_eq(stage_put(stage, "thumbs/farm/cow", image, bytes), 0);
    cr_assert_null(stage_get(stage, "thumbs/thumbs/farm/cow", &size, &version), "its own work does not wake it");
    free(image);
    stage_close(stage);
    cr_assert_null(stage_open("thumbnail", "{\"into\":\"thumbs/\"}"));
    cr_assert_not_null(strstr(stage_error(), "without a slash"));
}

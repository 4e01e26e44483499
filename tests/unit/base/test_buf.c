#include <criterion/criterion.h>
#include <pthread.h>
#include <string.h>

#include "core/base/buf.h"

static unsigned freed;
static void (*heap_free)(struct buf *self);

static void count_free(struct buf *self)
{
    freed++;
    heap_free(self);
}

static struct buf *counted(const char *text)
{
    struct buf *buf = buf_dup(text, (uint32_t)strlen(text));
    cr_assert_not_null(buf);
    heap_free = buf->free;
    buf->free = count_free;
    return buf;
}

Test(buf, is_freed_with_its_last_reference_and_not_before)
{
    struct buf *buf = counted("cow");
    cr_assert_eq(buf_ref(buf), buf);
    buf_unref(buf);
    cr_assert_eq(freed, 0);
    cr_assert_arr_eq(buf->data, "cow", 3);
    buf_unref(buf);
    cr_assert_eq(freed, 1);
    buf_unref(NULL);
}

Test(buf, bytes_are_aligned_and_may_be_none)
{
    struct buf *buf = buf_create(0);
    cr_assert_not_null(buf);
    cr_assert_eq(buf->size, 0);
    cr_assert_eq((uintptr_t)buf->data % 16, 0);
    buf_unref(buf);
    buf = buf_dup(NULL, 0);
    cr_assert_not_null(buf);
    buf_unref(buf);
}

static void *ref_and_unref(void *arg)
{
    for (int i = 0; i < 20000; i++) {
        struct buf *mine = buf_ref(arg);
        cr_assert_eq(mine->data[0], 'c');
        buf_unref(mine);
    }
    buf_unref(arg);
    return NULL;
}

Test(buf, threads_may_share_references)
{
    struct buf *buf = counted("cow");
    pthread_t threads[4];
    for (int i = 0; i < 4; i++)
        cr_assert_eq(pthread_create(&threads[i], NULL, ref_and_unref, buf_ref(buf)), 0);
    buf_unref(buf);
    for (int i = 0; i < 4; i++)
        pthread_join(threads[i], NULL);
    cr_assert_eq(freed, 1);
}

Test(bytes, grow_and_keep_what_was_appended)
{
    struct bytes bytes = {0};
    for (unsigned i = 0; i < 10000; i++) {
        uint8_t byte = (uint8_t)(i * 7);
        cr_assert_eq(bytes_append(&bytes, &byte, 1), SLUICE_OK);
    }
    cr_assert_eq(bytes.size, 10000);
    for (unsigned i = 0; i < 10000; i++)
        cr_assert_eq(bytes.data[i], (uint8_t)(i * 7));
    cr_assert_eq(bytes_append(&bytes, NULL, 0), SLUICE_OK);
    cr_assert_eq(bytes.size, 10000);
    bytes_free(&bytes);
    cr_assert_null(bytes.data);
    cr_assert_eq(bytes.size + bytes.capacity, 0);
}

Test(bytes, printf_appends_exactly_the_text_whatever_its_length)
{
    struct bytes bytes = {0};
    size_t size = 0;
    for (int width = 0; width < 300; width++) {
        cr_assert_eq(bytes_printf(&bytes, "%*d", width, 7), SLUICE_OK);
        size += width > 1 ? (size_t)width : 1;
        cr_assert_eq(bytes.size, size);
        cr_assert_eq(bytes.data[size - 1], '7');
    }
    bytes_free(&bytes);
}

Test(bytes, an_impossible_size_is_refused_and_changes_nothing)
{
    struct bytes bytes = {0};
    cr_assert_eq(bytes_append(&bytes, "cow", 3), SLUICE_OK);
    cr_assert_eq(bytes_reserve(&bytes, SIZE_MAX), SLUICE_MEMORY);
    cr_assert_eq(bytes_reserve(&bytes, SIZE_MAX - 2), SLUICE_MEMORY);
    cr_assert_eq(bytes_reserve(&bytes, PTRDIFF_MAX), SLUICE_MEMORY);
    cr_assert_eq(bytes.size, 3);
    cr_assert_arr_eq(bytes.data, "cow", 3);
    bytes_free(&bytes);
}

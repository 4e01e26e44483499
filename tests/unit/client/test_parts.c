/* Parts that stand alone: timers, opaque texts, positions of watches. */
#include "client/watch__.h"
#include "tests/unit/client/fake.h"

#define TIMERS 500

Test(timers, the_earliest_is_always_first)
{
    static struct timer timer[TIMERS];
    struct timers timers = {0};
    struct random random;
    uint64_t seed = random_os();
    fprintf(stderr, "seed %llu\n", (unsigned long long)seed);
    random_seed(&random, seed);
    for (int step = 0; step < 20000; step++) {
        struct timer *any = &timer[random_below(&random, TIMERS)];
        if (random_below(&random, 4) == 0)
            timer__stop(&timers, any);
        else
            timer__set(&timers, any, random_below(&random, 1000));
        if (step % 16 != 0)
            continue;
        uint64_t earliest = UINT64_MAX;
        for (int i = 0; i < TIMERS; i++)
            if (timer[i].armed && timer[i].at_ns < earliest)
                earliest = timer[i].at_ns;
        const struct timer *first = timer__first(&timers);
        cr_assert_eq(first == NULL ? UINT64_MAX : first->at_ns, earliest);
    }
    uint64_t last = 0;
    for (struct timer *first; (first = timer__first(&timers)) != NULL;) {
        cr_assert_geq(first->at_ns, last);
        last = first->at_ns;
        timer__stop(&timers, first);
        cr_assert_not(first->armed);
    }
    for (int i = 0; i < TIMERS; i++)
        cr_assert_not(timer[i].armed);
}

Test(timers, never_is_not_set)
{
    struct timer timer = {0};
    struct timers timers = {0};
    timer__set(&timers, &timer, CLIENT_NEVER);
    cr_assert_null(timer__first(&timers));
    timer__set(&timers, &timer, 5);
    timer__set(&timers, &timer, CLIENT_NEVER);
    cr_assert_null(timer__first(&timers));
}

Test(token, bytes_of_every_length_come_back_and_only_as_what_they_are)
{
    uint8_t bytes[64], back[64];
    size_t size;
    for (size_t i = 0; i < sizeof(bytes); i++)
        bytes[i] = (uint8_t)(i * 37 + 200);
    for (size_t length = 0; length <= sizeof(bytes); length++) {
        char *text = token__write(TOKEN_LIST, bytes, length);
        cr_assert_lt(strlen(text), TOKEN_TEXT_BYTES(length));
        cr_assert_eq(strspn(text, "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_"), strlen(text));
        cr_assert(token__read(TOKEN_LIST, text, back, sizeof(back), &size));
        cr_assert_eq(size, length);
        cr_assert_eq(memcmp(back, bytes, length), 0);
        cr_assert_not(token__read(TOKEN_HISTORY, text, back, sizeof(back), &size));
        if (length > 0)
            cr_assert_not(token__read(TOKEN_LIST, text, back, length - 1, &size), "more than there is room for");
        free(text);
    }
}

Test(token, every_bit_and_every_length_counts)
{
    uint8_t back[64];
    size_t size;
    char *text = token__write(TOKEN_WATCH, "some bytes of it", 16);
    size_t length = strlen(text);
    for (size_t i = 0; i < length; i++)
        for (int bit = 0; bit < 8; bit++) {
            text[i] = (char)(text[i] ^ (1 << bit));
            cr_assert_not(token__read(TOKEN_WATCH, text, back, sizeof(back), &size), "letter %zu bit %d", i, bit);
            text[i] = (char)(text[i] ^ (1 << bit));
        }
    for (size_t left = 0; left < length; left++) {
        char was = text[left];
        text[left] = '\0';
        cr_assert_not(token__read(TOKEN_WATCH, text, back, sizeof(back), &size));
        text[left] = was;
    }
    free(text);
    /* Far longer than any that we write. */
    char *endless = malloc(100001);
    memset(endless, 'A', 100000);
    endless[100000] = '\0';
    cr_assert_not(token__read(TOKEN_WATCH, endless, back, sizeof(back), &size));
    free(endless);
}

Test(position, thirty_two_shards_fit_into_512_bytes)
{
    struct watch_cursor cursor = {.time = UINT64_C(1795409485796820912), .count = WATCH_LISTED_MAX}, back;
    char text[WATCH_CURSOR_BYTES + 1];
    for (size_t i = 0; i < cursor.count; i++)
        cursor.positions[i] = (struct watch_position){
            .shard = (uint32_t)(1000 + i), .epoch = 120, .revision = 200000000 + i, .operation = (uint32_t)i % 3};
    cr_assert(position__write(&cursor, text));
    cr_assert_leq(strlen(text), 512);
    cr_assert(position__read(text, &back));
    cr_assert_eq(memcmp(&back, &cursor, sizeof(back)), 0);
}

Test(position, what_would_not_fit_is_said_so_and_never_cut_off)
{
    struct watch_cursor cursor = {.time = 1, .count = WATCH_LISTED_MAX}, back;
    char text[WATCH_CURSOR_BYTES + 1];
    for (size_t i = 0; i < cursor.count; i++)
        cursor.positions[i] = (struct watch_position){.shard = UINT32_MAX - (uint32_t)i,
                                                      .epoch = UINT64_MAX,
                                                      .revision = UINT64_MAX - 1,
                                                      .operation = WIRE_OPERATIONS_MAX};
    cr_assert_not(position__write(&cursor, text));
    cursor.count = 12;
    cr_assert(position__write(&cursor, text));
    cr_assert_leq(strlen(text), 512);
    cr_assert(position__read(text, &back));
    cr_assert_eq(back.count, 12);
    cr_assert_eq(back.positions[11].epoch, UINT64_MAX);
}

Test(position, texts_that_make_no_sense_are_refused)
{
    static const uint8_t cases[][16] = {
        {1, 0, 0, 0, 0, 0, 0, 0, 7, 1, 5},                   /* cut off within a position */
        {1, 0, 0, 0, 0, 0, 0, 0, 0, 1, 5, 0},                /* shard 0 */
        {1, 0, 0, 0, 0, 0, 0, 0, 7, 1, 0, 0},                /* revision 0 */
        {1, 0, 0, 0, 0, 0, 0, 0, 0x87, 0, 1, 5, 0},          /* longer than need be */
        {1, 0, 0, 0, 0, 0, 0, 0, 7, 1, 5, 0xff, 0xff, 0x7f}, /* an operation that no batch has */
        {0, 0, 0, 0, 0, 0, 0, 0},                            /* time 0 */
        {1, 0, 0, 0},
    };
    static const size_t sizes[] = {11, 12, 12, 13, 14, 8, 4};
    struct watch_cursor cursor;
    for (size_t i = 0; i < sizeof(sizes) / sizeof(sizes[0]); i++) {
        char *text = token__write(TOKEN_WATCH, cases[i], sizes[i]);
        cr_assert_not(position__read(text, &cursor), "case %zu", i);
        free(text);
    }
    static const uint8_t twice[] = {1, 0, 0, 0, 0, 0, 0, 0, 7, 1, 5, 0, 7, 1, 6, 0};
    char *text = token__write(TOKEN_WATCH, twice, sizeof(twice));
    cr_assert_not(position__read(text, &cursor), "a shard twice");
    free(text);
}

Test(list_of_items, items_leave_from_anywhere_and_move_together)
{
    struct list from, to, items[4];
    list__init(&from);
    for (int i = 0; i < 4; i++)
        list__append(&from, &items[i]);
    list__remove(&items[1]);
    list__remove(&items[1]);
    list__move(&from, &to);
    cr_assert(list__empty(&from));
    cr_assert_eq(to.next, &items[0]);
    cr_assert_eq(items[0].next, &items[2]);
    cr_assert_eq(to.prev, &items[3]);
    list__prepend(&to, &items[1]);
    cr_assert_eq(to.next, &items[1]);
    for (int i = 0; i < 4; i++)
        list__remove(&items[i]);
    cr_assert(list__empty(&to));
}

/* How values are coded for the wire and shown to people. */
#include <criterion/criterion.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "cli/cli.h"
#include "core/base/random.h"

static void encodes(const char *text, bool slashes, const char *wanted)
{
    struct bytes out = {0};
    cli_encode(&out, text, slashes);
    cr_assert_str_eq(cli_text(&out), wanted);
    bytes_free(&out);
}

Test(urls, all_but_unreserved_characters_are_encoded)
{
    encodes("farm/cow 2716", false, "farm/cow%202716");
    encodes("farm/cow", true, "farm%2Fcow");
    encodes("a+b&c=d?e#f%", true, "a%2Bb%26c%3Dd%3Fe%23f%25");
    encodes("K\xc3\xbche", false, "K%C3%BChe");
    encodes("A-z0_9.~", true, "A-z0_9.~");
}

Test(urls, queries_join_and_what_is_not_given_is_left_out)
{
    struct bytes url = {0};
    cli_key_path(&url, "/v1/objects/", "/farm/x");
    cli_query(&url, "at", NULL);
    cli_query(&url, "version", "3");
    cli_query(&url, "clock", "a b");
    cr_assert_str_eq(cli_text(&url), "/v1/objects/farm/x?version=3&clock=a%20b");
    bytes_free(&url);
}

Test(values, the_extension_tells_the_content_type)
{
    cr_assert_str_eq(cli_content_type("a/b.JPG"), "image/jpeg");
    cr_assert_str_eq(cli_content_type("notes.json"), "application/json");
    cr_assert_str_eq(cli_content_type("dir.json/file"), "application/octet-stream");
    cr_assert_str_eq(cli_content_type("none"), "application/octet-stream");
}

Test(values, base64_there_and_back_is_the_same)
{
    struct random dice;
    uint64_t seed = random_os();
    printf("seed %llu\n", (unsigned long long)seed);
    random_seed(&dice, seed);
    for (size_t size = 0; size < 200; size++) {
        uint8_t data[200];
        struct bytes text = {0}, back = {0};
        for (size_t i = 0; i < size; i++)
            data[i] = (uint8_t)random_next(&dice);
        cli_base64_encode(data, size, &text);
        cr_assert_eq(strlen(cli_text(&text)), (size + 2) / 3 * 4);
        cr_assert(cli_base64_decode(cli_text(&text), &back));
        cr_assert_eq(back.size, size);
        cr_assert(size == 0 || memcmp(back.data, data, size) == 0);
        bytes_free(&text);
        bytes_free(&back);
    }
}

Test(values, what_is_no_base64_is_refused)
{
    static const char *const wrong[] = {"a", "ab", "abc", "ab=c", "====", "ab!d", "abcd=", "ab d"};
    for (size_t i = 0; i < sizeof(wrong) / sizeof(wrong[0]); i++) {
        struct bytes out = {0};
        cr_assert_not(cli_base64_decode(wrong[i], &out), "%s was taken", wrong[i]);
        bytes_free(&out);
    }
}

Test(values, sizes_are_said_in_units_that_people_read)
{
    static const struct {
        uint64_t size;
        const char *text;
    } known[] = {{0, "0 B"},
                 {1023, "1023 B"},
                 {1024, "1.0 KiB"},
                 {1536, "1.5 KiB"},
                 {1048575, "1.0 MiB"},
                 {UINT64_C(5) << 30, "5.0 GiB"},
                 {UINT64_MAX, "16.0 EiB"}};
    for (size_t i = 0; i < sizeof(known) / sizeof(known[0]); i++) {
        char out[CLI_NUMBER_BYTES];
        cli_size_text(known[i].size, out);
        cr_assert_str_eq(out, known[i].text);
    }
}

Test(values, members_are_shown_whether_numbers_or_texts)
{
    char scratch[CLI_NUMBER_BYTES];
    json_t *object = json_pack("{s:s, s:i, s:b, s:n}", "a", "18446744073709551615", "b", 7, "c", 1, "d");
    cr_assert_str_eq(cli_member(object, "a", scratch), "18446744073709551615");
    cr_assert_str_eq(cli_member(object, "b", scratch), "7");
    cr_assert_str_eq(cli_member(object, "c", scratch), "yes");
    cr_assert_str_eq(cli_member(object, "d", scratch), "-");
    cr_assert_str_eq(cli_member(object, "e", scratch), "-");
    cli_member_size(object, "b", scratch);
    cr_assert_str_eq(scratch, "7 B");
    cli_member_size(object, "c", scratch);
    cr_assert_str_eq(scratch, "-");
    json_decref(object);
}

/* What is printed into a file, read back. */
static size_t printed(void (*print)(FILE *file), char *out, size_t size)
{
    FILE *file = tmpfile();
    cr_assert_not_null(file);
    print(file);
    rewind(file);
    size_t got = fread(out, 1, size - 1, file);
    out[got] = '\0';
    fclose(file);
    return got;
}

static void print_nasty(FILE *file)
{
    static const char text[] = "a\x1b[31mred\r\nb\tc\x7f";
    cli_print_text(file, text, sizeof(text) - 1);
}

Test(values, what_could_drive_a_terminal_is_taken_out)
{
    char out[64];
    printed(print_nasty, out, sizeof(out));
    cr_assert_str_eq(out, "a?[31mred?\nb\tc?");
}

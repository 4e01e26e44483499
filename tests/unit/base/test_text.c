#include <criterion/criterion.h>
#include <string.h>

#include "core/base/text.h"

Test(text, good_keys_are_taken)
{
    static const char *const keys[] = {
        "a",     "farm/cow2716", "...",      "a/...", ".a", "..a/b..", "a b", "K\xc3\xbche/\xf0\x9f\x90\x84",
        "a%2Fb", "_sluice/x",    "\xc2\xa0", "-",     "\\",
    };
    for (size_t i = 0; i < sizeof(keys) / sizeof(keys[0]); i++)
        cr_assert_null(text_key_error(keys[i], strlen(keys[i])), "%s: %s", keys[i],
                       text_key_error(keys[i], strlen(keys[i])));
}

Test(text, a_bad_key_is_refused_with_the_reason)
{
    static const struct {
        const char *key;
        const char *reason;
    } examples[] = {
        {"", "at least one byte"},  {"/a", "at most one slash"},
        {"/", "at most one slash"}, {"a/", "end with a slash"},
        {"a//b", "empty segment"},  {".", "\".\""},
        {"..", "\"..\""},           {"./a", "\".\""},
        {"a/../b", "\"..\""},       {"a/.", "\".\""},
        {"a/..", "\"..\""},         {"a\nb", "control"},
        {"a\x7f", "control"},       {"\x01", "control"},
        {"a\xc2\x85", "control"}, /* U+0085, next line */
        {"\xff", "UTF-8"},          {"a\xc3", "UTF-8"},
    };
    for (size_t i = 0; i < sizeof(examples) / sizeof(examples[0]); i++) {
        const char *error = text_key_error(examples[i].key, strlen(examples[i].key));
        cr_assert_not_null(error, "%s was taken", examples[i].key);
        cr_assert_not_null(strstr(error, examples[i].reason), "%s: %s", examples[i].key, error);
    }
    cr_assert_not_null(text_key_error("a\0b", 3));
}

Test(text, a_key_has_at_most_1024_bytes)
{
    char key[KEY_BYTES_MAX + 1];
    memset(key, 'k', sizeof(key));
    cr_assert_null(text_key_error(key, KEY_BYTES_MAX));
    cr_assert_not_null(text_key_error(key, KEY_BYTES_MAX + 1));
}

Test(text, utf8_takes_every_code_point_and_no_other_form)
{
    static const char *const good[] = {"",
                                       "a",
                                       "\xc2\x80",
                                       "\xdf\xbf",
                                       "\xe0\xa0\x80",
                                       "\xed\x9f\xbf",
                                       "\xee\x80\x80",
                                       "\xf0\x90\x80\x80",
                                       "\xf4\x8f\xbf\xbf"};
    static const char *const bad[] = {
        "\x80",             /* a continuation first */
        "\xc0\x80",         /* overlong */
        "\xc1\xbf",         /* overlong */
        "\xe0\x9f\xbf",     /* overlong */
        "\xf0\x8f\xbf\xbf", /* overlong */
        "\xed\xa0\x80",     /* surrogate */
        "\xed\xbf\xbf",     /* surrogate */
        "\xf4\x90\x80\x80", /* beyond U+10FFFF */
        "\xf5\x80\x80\x80",
        "\xfe",
        "\xc3(",
        "\xe2\x82",
        "\xe2\x82(",
        "\xf0\x9f\x90",
        "a\xff",
    };
    for (size_t i = 0; i < sizeof(good) / sizeof(good[0]); i++)
        cr_assert(text_utf8_valid(good[i], strlen(good[i])), "good %zu", i);
    for (size_t i = 0; i < sizeof(bad) / sizeof(bad[0]); i++)
        cr_assert_not(text_utf8_valid(bad[i], strlen(bad[i])), "bad %zu", i);
}

static bool holds(const char *prefix, const char *key)
{
    return text_prefix_holds(prefix, strlen(prefix), key, strlen(key));
}

Test(text, a_pool_holds_whole_segments)
{
    cr_assert(holds("", "anything"));
    cr_assert(holds("farm", "farm/cow"));
    cr_assert(holds("farm/barn", "farm/barn/cow/1"));
    cr_assert_not(holds("farm", "farmland/x"));
    cr_assert_not(holds("farm", "farm"));
    cr_assert_not(holds("farm", "far"));
    cr_assert_not(holds("farm", "barn/farm"));
    cr_assert_not(holds("farm/barn", "farm/bar"));
}

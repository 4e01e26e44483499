#include <criterion/criterion.h>
#include <string.h>

#include "gateway/parse.h"

static bool percent(const char *text, char out[64])
{
    size_t size = 0;
    bool good = parse_percent(text, strlen(text), out, &size);
    out[good ? size : 0] = '\0';
    return good;
}

Test(parse, percent_encoding_is_undone_once_and_a_plus_stays)
{
    char out[64];
    cr_expect(percent("farm%2Fcow+1%20a", out));
    cr_expect_str_eq(out, "farm/cow+1 a");
    cr_expect(percent("%252F", out));
    cr_expect_str_eq(out, "%2F");
    cr_expect(percent("%c3%A9", out));
    cr_expect_str_eq(out, "\xc3\xa9");
}

Test(parse, malformed_percent_encoding_is_refused)
{
    char out[64];
    const char *const bad[] = {"%", "a%2", "%zz", "%2", "%%41", "%00", "a%0"};
    for (size_t i = 0; i < sizeof(bad) / sizeof(bad[0]); i++)
        cr_expect_not(percent(bad[i], out), "%s", bad[i]);
}

static bool target(const char *text, struct parse_target *out)
{
    return parse_target(text, strlen(text), out);
}

Test(parse, targets_come_in_origin_and_in_absolute_form)
{
    struct parse_target out;
    cr_assert(target("/v1/objects/a?x=1?2", &out));
    cr_expect_eq(out.path_size, strlen("/v1/objects/a"));
    cr_expect(out.query_size == 5 && memcmp(out.query, "x=1?2", 5) == 0);
    cr_expect_null(out.authority);
    cr_assert(target("http://host:81/p", &out));
    cr_expect(out.authority_size == 7 && memcmp(out.authority, "host:81", 7) == 0);
    cr_expect_eq(out.path_size, 2);
    cr_assert(target("/?", &out));
    cr_expect(out.query != NULL && out.query_size == 0);
}

Test(parse, other_targets_are_refused)
{
    struct parse_target out;
    const char *const bad[] = {"", "*", "v1", "ftp://a/b", "http://host", "http://host?x", "host:80"};
    for (size_t i = 0; i < sizeof(bad) / sizeof(bad[0]); i++)
        cr_expect_not(target(bad[i], &out), "%s", bad[i]);
}

static enum sluice_status query(const char *text, struct parse_query *out, char error[160])
{
    static const char *const known[] = {"at", "limit", NULL};
    static char storage[256];
    return parse_query(text, strlen(text), known, storage, out, error, 160);
}

Test(parse, queries_are_split_and_decoded)
{
    struct parse_query out;
    char error[160];
    cr_assert_eq(query("at=2026-11-23T02%3A40:00+01:00&limit=7&", &out, error), SLUICE_OK);
    cr_assert_eq(out.count, 2);
    cr_expect_str_eq(parse_query_find(&out, "at")->value, "2026-11-23T02:40:00+01:00");
    cr_expect_str_eq(parse_query_find(&out, "limit")->value, "7");
    cr_assert_eq(query("limit", &out, error), SLUICE_OK);
    cr_expect_str_eq(parse_query_find(&out, "limit")->value, "");
    cr_assert_eq(query("", &out, error), SLUICE_OK);
    cr_expect_null(parse_query_find(&out, "at"));
}

Test(parse, a_parameter_that_is_unknown_or_double_or_badly_encoded_is_named)
{
    struct parse_query out;
    char error[160];
    cr_expect_eq(query("at=1&colour=red", &out, error), SLUICE_INVALID);
    cr_expect_not_null(strstr(error, "colour"));
    cr_expect_eq(query("at=1&at=1", &out, error), SLUICE_INVALID);
    cr_expect_not_null(strstr(error, "twice"));
    cr_expect_eq(query("limit=%f", &out, error), SLUICE_INVALID);
    cr_expect_not_null(strstr(error, "limit"));
    cr_expect_eq(query("=", &out, error), SLUICE_INVALID);
}

Test(parse, timeouts_have_a_unit_and_a_range)
{
    uint32_t ms = 0;
    cr_expect(parse_timeout("250ms", &ms) && ms == 250);
    cr_expect(parse_timeout("2s", &ms) && ms == 2000);
    cr_expect(parse_timeout("1.5s", &ms) && ms == 1500);
    cr_expect(parse_timeout("0.25s", &ms) && ms == 250);
    cr_expect(parse_timeout("1m", &ms) && ms == 60000);
    const char *const bad[] = {"",    "5",       "s",     "0ms", "61s",           "2m", "-1s",
                               "1.s", "1.2345s", "1e3ms", "1 s", "99999999999ms", "1sx"};
    for (size_t i = 0; i < sizeof(bad) / sizeof(bad[0]); i++)
        cr_expect_not(parse_timeout(bad[i], &ms), "%s", bad[i]);
}

Test(parse, entity_tags_are_lists_of_versions)
{
    struct parse_etags out;
    cr_assert(parse_etags("\"3\", W/\"4\" ,, \"2.7\",\"abc\"", &out));
    cr_assert_eq(out.count, 4);
    cr_expect(parse_etags_match(&out, 1, 3, false));
    cr_expect(parse_etags_match(&out, 0, 3, false), "a store that counts no epochs is in its first");
    cr_expect_not(parse_etags_match(&out, 2, 3, false));
    cr_expect_not(parse_etags_match(&out, 1, 4, false), "a weak tag is no match for a write");
    cr_expect(parse_etags_match(&out, 1, 4, true));
    cr_expect(parse_etags_match(&out, 2, 7, false));
    cr_expect_not(out.tags[3].ours);
    cr_assert(parse_etags(" * ", &out));
    cr_expect(out.any && parse_etags_match(&out, 9, 9, false));
    cr_assert(parse_etags("\"03\",\"0\",\"1.3\",\"0.3\",\"2.\",\".3\",\"3.3.3\",\"\"", &out));
    for (size_t i = 0; i < out.count; i++)
        cr_expect_not(out.tags[i].ours, "tag %zu", i);
}

Test(parse, malformed_entity_tags_are_refused)
{
    struct parse_etags out;
    const char *const bad[] = {"",        " ",        ",",  "3",       "\"3",   "\"3\" \"4\"",
                               "w/\"3\"", "*, \"3\"", "**", "\"a b\"", "\"3\"x"};
    for (size_t i = 0; i < sizeof(bad) / sizeof(bad[0]); i++)
        cr_expect_not(parse_etags(bad[i], &out), "%s", bad[i]);
    char many[33 * 5 + 1] = "";
    for (int i = 0; i < 33; i++)
        strcat(many, "\"1\",");
    cr_expect_not(parse_etags(many, &out), "more than 32 tags");
}

Test(parse, ranges_of_one_part)
{
    struct parse_range out;
    cr_assert(parse_range("bytes=0-99", &out));
    cr_expect(out.kind == PARSE_RANGE_FROM && out.first == 0 && out.last == 99);
    cr_assert(parse_range("bytes = 5- ", &out));
    cr_expect(out.kind == PARSE_RANGE_FROM && out.first == 5 && out.last == UINT64_MAX);
    cr_assert(parse_range("bytes=-7", &out));
    cr_expect(out.kind == PARSE_RANGE_SUFFIX && out.last == 7);
    cr_assert(parse_range("bytes=0-1,5-6", &out));
    cr_expect_eq(out.kind, PARSE_RANGE_NONE, "several parts: the whole");
    cr_assert(parse_range("lines=1-2", &out));
    cr_expect_eq(out.kind, PARSE_RANGE_NONE, "another unit: the whole");
    const char *const bad[] = {
        "bytes=", "bytes=-", "bytes=x", "bytes=5-2", "bytes=1-2x", "bytes=99999999999999999999999-", "bytes=--1"};
    for (size_t i = 0; i < sizeof(bad) / sizeof(bad[0]); i++)
        cr_expect_not(parse_range(bad[i], &out), "%s", bad[i]);
}

Test(parse, http_dates_in_all_three_forms)
{
    int64_t seconds;
    char text[PARSE_HTTP_DATE_BYTES];
    cr_expect(parse_http_date("Sun, 06 Nov 1994 08:49:37 GMT", &seconds) && seconds == 784111777);
    cr_expect(parse_http_date("Sunday, 06-Nov-94 08:49:37 GMT", &seconds) && seconds == 784111777);
    cr_expect(parse_http_date("Sun Nov  6 08:49:37 1994", &seconds) && seconds == 784111777);
    parse_http_date_format(784111777, text);
    cr_expect_str_eq(text, "Sun, 06 Nov 1994 08:49:37 GMT");
    parse_http_date_format(951782400, text);
    cr_expect_str_eq(text, "Tue, 29 Feb 2000 00:00:00 GMT");
    const char *const bad[] = {"",
                               "Sun",
                               "Sun, 06 Nov 1994 08:49:37 CET",
                               "Sun, 31 Feb 1994 08:49:37 GMT",
                               "Sun, 06 Nov 1994 24:49:37 GMT",
                               "Sun, 6 Nov 1994 08:49:37 GMT",
                               "1994-11-06T08:49:37Z"};
    for (size_t i = 0; i < sizeof(bad) / sizeof(bad[0]); i++)
        cr_expect_not(parse_http_date(bad[i], &seconds), "%s", bad[i]);
}

Test(parse, accept_names_a_type_with_a_quality)
{
    cr_expect(parse_accepts("text/html, multipart/mixed;q=0.5", "multipart/mixed"));
    cr_expect(parse_accepts("Application/X-NDJSON", "application/x-ndjson"));
    cr_expect_not(parse_accepts("multipart/mixed;q=0", "multipart/mixed"));
    cr_expect_not(parse_accepts("multipart/mixed; q=0.0", "multipart/mixed"));
    cr_expect_not(parse_accepts("*/*", "multipart/mixed"));
    cr_expect_not(parse_accepts(NULL, "multipart/mixed"));
}

static bool loopback(const char *text)
{
    return parse_host_is_loopback(text, strlen(text));
}

Test(parse, loopback_names_are_told_from_others)
{
    const char *const good[] = {"localhost", "LOCALHOST",   "localhost.", "a.localhost",
                                "127.0.0.1", "127.255.0.9", "::1"};
    const char *const bad[] = {"localhost.example",
                               "notlocalhost",
                               ".localhost",
                               "128.0.0.1",
                               "127.0.0.1.example",
                               "127.1",
                               "::2",
                               "",
                               "0.0.0.0"};
    for (size_t i = 0; i < sizeof(good) / sizeof(good[0]); i++)
        cr_expect(loopback(good[i]), "%s", good[i]);
    for (size_t i = 0; i < sizeof(bad) / sizeof(bad[0]); i++)
        cr_expect_not(loopback(bad[i]), "%s", bad[i]);
}

Test(parse, hosts_come_with_and_without_ports)
{
    const char *host;
    size_t size;
    uint16_t port;
    cr_expect(parse_host("[::1]:8080", 10, &host, &size, &port) && size == 3 && port == 8080);
    cr_expect(parse_host("a.example:81", 12, &host, &size, &port) && size == 9 && port == 81);
    cr_expect(parse_host("a", 1, &host, &size, &port) && size == 1 && port == 0);
    const char *const bad[] = {"", ":80", "[::1", "a:99999", "a:x", "a b", "a@b", "a/b"};
    for (size_t i = 0; i < sizeof(bad) / sizeof(bad[0]); i++)
        cr_expect_not(parse_host(bad[i], strlen(bad[i]), &host, &size, &port), "%s", bad[i]);
}

Test(parse, base64_has_one_spelling)
{
    uint8_t out[16];
    size_t size;
    cr_expect(parse_base64("", 0, out, &size) && size == 0);
    cr_expect(parse_base64("aGVsbG8=", 8, out, &size) && size == 5 && memcmp(out, "hello", 5) == 0);
    cr_expect(parse_base64("+/8=", 4, out, &size) && size == 2 && out[0] == 0xfb && out[1] == 0xff);
    const char *const bad[] = {"a", "ab", "abc", "a===", "ab=c", "aGVsbG9=", "aG\nV", "-_8=", "===="};
    for (size_t i = 0; i < sizeof(bad) / sizeof(bad[0]); i++)
        cr_expect_not(parse_base64(bad[i], strlen(bad[i]), out, &size), "%s", bad[i]);
}

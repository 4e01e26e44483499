/* One HTTP request at a time, repeated where that cannot do harm, and event streams that reconnect. */
#include "cli/http.h"

#include <stdlib.h>
#include <string.h>
#include <strings.h>
#include <sys/random.h>
#include <time.h>

#include "core/base/clock.h"

#define PAUSE_MS_FIRST   50u
#define PAUSE_MS_MAX     2000u
#define ERROR_BYTES_MAX  (1u << 20)
#define ANSWER_BYTES_MAX (UINT32_C(1) << 30)
#define SILENCE_SECONDS  15L /* without a byte, beyond the time that the request may take */
#define REQUEST_ID_BYTES 16

static CURL *handle;
static char curl_words[CURL_ERROR_SIZE];

static void release(void)
{
    curl_easy_cleanup(handle);
    curl_global_cleanup();
}

CURL *http_handle(void)
{
    if (handle == NULL) {
        if (curl_global_init(CURL_GLOBAL_DEFAULT) != CURLE_OK)
            cli_must(NULL);
        handle = cli_must(curl_easy_init());
        (void)atexit(release);
    }
    return handle;
}

/* --- the request ------------------------------------------------------------------------------------------------- */

void http_add(const struct cli_common *common, struct http_request *request, const char *name, const char *value)
{
    if (value == NULL)
        return;
    if (strpbrk(value, "\r\n") != NULL) {
        cli_complain(common, "a line feed cannot be sent in %s", name);
        exit(CLI_USAGE);
    }
    struct bytes line = {0};
    cli_must_status(bytes_printf(&line, "%s: %s", name, value));
    request->headers = cli_must(curl_slist_append(request->headers, cli_text(&line)));
    bytes_free(&line);
}

void http_add_idempotency(const struct cli_common *common, struct http_request *request, const char *given)
{
    char text[REQUEST_ID_BYTES * 2 + 1];
    uint8_t random[REQUEST_ID_BYTES];
    if (given == NULL) {
        if (getrandom(random, sizeof(random), 0) != (ssize_t)sizeof(random)) {
            cli_complain(common, "no random bytes could be had");
            exit(CLI_ERROR);
        }
        for (size_t i = 0; i < sizeof(random); i++)
            snprintf(text + 2 * i, 3, "%02x", random[i]);
        given = text;
    }
    http_add(common, request, "Idempotency-Key", given);
    request->repeatable = true;
}

struct transfer {
    const struct http_request *request;
    struct http_answer *answer;
};

static bool good(const struct http_answer *answer)
{
    return answer->status >= 200 && answer->status < 300;
}

static void clear(struct http_answer *answer)
{
    for (size_t i = 0; i < answer->header_count; i++)
        free(answer->headers[i]);
    answer->header_count = 0;
    answer->body.size = 0;
    answer->status = 0;
}

static size_t take_header(char *data, size_t one, size_t size, void *arg)
{
    struct http_answer *answer = ((struct transfer *)arg)->answer;
    (void)one;
    size_t length = size;
    while (length > 0 && (data[length - 1] == '\r' || data[length - 1] == '\n'))
        length--;
    if (length >= 5 && memcmp(data, "HTTP/", 5) == 0) /* the headers of "100 Continue" came before it */
        clear(answer);
    else if (length > 0 && answer->header_count < HTTP_HEADERS_MAX)
        answer->headers[answer->header_count++] = cli_must(strndup(data, length));
    return size;
}

static size_t take_body(char *data, size_t one, size_t size, void *arg)
{
    struct transfer *transfer = arg;
    struct http_answer *answer = transfer->answer;
    (void)one;
    curl_easy_getinfo(handle, CURLINFO_RESPONSE_CODE, &answer->status);
    if (good(answer) && transfer->request->sink != NULL) {
        answer->sunk = true;
        return transfer->request->sink(transfer->request->arg, data, size) ? size : CURL_WRITEFUNC_ERROR;
    }
    if (answer->body.size + size > (good(answer) ? ANSWER_BYTES_MAX : ERROR_BYTES_MAX))
        return CURL_WRITEFUNC_ERROR;
    cli_must_status(bytes_append(&answer->body, data, size));
    return size;
}

static bool loopback(const char *url)
{
    const char *host = strstr(url, "://") + 3;
    return strncmp(host, "127.", 4) == 0 || strncmp(host, "localhost", 9) == 0 || strncmp(host, "[::1]", 5) == 0;
}

static void set_body(CURL *curl, const struct http_request *request)
{
    if (request->mime != NULL) {
        curl_easy_setopt(curl, CURLOPT_MIMEPOST, request->mime);
    } else if (request->body != NULL) {
        curl_easy_setopt(curl, CURLOPT_POSTFIELDSIZE_LARGE, (curl_off_t)request->body_size);
        curl_easy_setopt(curl, CURLOPT_POSTFIELDS, request->body);
    } else if (strcmp(request->method, "HEAD") == 0) {
        curl_easy_setopt(curl, CURLOPT_NOBODY, 1L);
    }
    curl_easy_setopt(curl, CURLOPT_CUSTOMREQUEST, request->method);
}

static CURLcode perform(const struct cli_common *common, const struct http_request *request,
                        const struct curl_slist *headers, long silence_s, struct http_answer *answer)
{
    CURL *curl = http_handle();
    struct transfer transfer = {.request = request, .answer = answer};
    struct bytes url = {0};
    const char *token = getenv("SLUICE_TOKEN"), *trusted = getenv("SLUICE_CA");
    cli_must_status(bytes_printf(&url, "%s%s", common->url, request->path));
    clear(answer);
    curl_words[0] = '\0';
    curl_easy_reset(curl);
    curl_easy_setopt(curl, CURLOPT_URL, cli_text(&url));
    curl_easy_setopt(curl, CURLOPT_PATH_AS_IS, 1L);
    curl_easy_setopt(curl, CURLOPT_PROTOCOLS_STR, "http,https");
    curl_easy_setopt(curl, CURLOPT_NOSIGNAL, 1L);
    curl_easy_setopt(curl, CURLOPT_USERAGENT, "sluice/" CLI_RELEASE);
    curl_easy_setopt(curl, CURLOPT_ERRORBUFFER, curl_words);
    curl_easy_setopt(curl, CURLOPT_HTTPHEADER, headers);
    curl_easy_setopt(curl, CURLOPT_HEADERFUNCTION, take_header);
    curl_easy_setopt(curl, CURLOPT_HEADERDATA, &transfer);
    curl_easy_setopt(curl, CURLOPT_WRITEFUNCTION, take_body);
    curl_easy_setopt(curl, CURLOPT_WRITEDATA, &transfer);
    curl_easy_setopt(curl, CURLOPT_CONNECTTIMEOUT_MS, (long)common->timeout_ms);
    curl_easy_setopt(curl, CURLOPT_LOW_SPEED_LIMIT, 1L);
    curl_easy_setopt(curl, CURLOPT_LOW_SPEED_TIME, silence_s);
    if (loopback(common->url)) /* a proxy for the outside has no business with this host */
        curl_easy_setopt(curl, CURLOPT_NOPROXY, "*");
    if (trusted != NULL && *trusted != '\0')
        curl_easy_setopt(curl, CURLOPT_CAINFO, trusted);
    if (token != NULL && *token != '\0') {
        curl_easy_setopt(curl, CURLOPT_HTTPAUTH, CURLAUTH_BEARER);
        curl_easy_setopt(curl, CURLOPT_XOAUTH2_BEARER, token);
    }
    set_body(curl, request);
    CURLcode code = curl_easy_perform(curl);
    if (code != CURLE_COULDNT_CONNECT)
        curl_easy_getinfo(curl, CURLINFO_RESPONSE_CODE, &answer->status);
    bytes_free(&url);
    return code;
}

/* --- what came of it --------------------------------------------------------------------------------------------- */

static int exit_code(long status)
{
    switch (status) {
    case 404:
    case 410:
        return CLI_NOT_FOUND;
    case 412:
        return CLI_CONDITION;
    case 429:
    case 503:
    case 504:
        return CLI_UNAVAILABLE;
    default:
        return status >= 200 && status < 300 ? CLI_OK : CLI_ERROR;
    }
}

/* The server says in problem+json what was expected and what to do. */
static int complain_status(const struct cli_common *common, const struct http_request *request,
                           const struct http_answer *answer)
{
    json_error_t error;
    json_t *problem = json_loadb((const char *)answer->body.data, answer->body.size, 0, &error);
    const char *detail = json_string_value(json_object_get(problem, "detail"));
    const char *code = json_string_value(json_object_get(problem, "code"));
    if (detail == NULL)
        detail = json_string_value(json_object_get(problem, "title"));
    const char *what = request->what != NULL ? request->what : "", *colon = request->what != NULL ? ": " : "";
    if (detail != NULL && code != NULL)
        cli_complain(common, "%s%s%s (%s)", what, colon, detail, code);
    else
        cli_complain(common, "%s%s%s answered with HTTP status %ld", what, colon, common->url, answer->status);
    json_decref(problem);
    return exit_code(answer->status);
}

static const char *words_of(CURLcode code)
{
    return curl_words[0] != '\0' ? curl_words : curl_easy_strerror(code);
}

static int complain_transfer(const struct cli_common *common, CURLcode code)
{
    if (code == CURLE_COULDNT_CONNECT && loopback(common->url))
        cli_complain(common, "%s cannot be reached (%s); \"sluice up\" starts a store here, SLUICE_URL names another",
                     common->url, words_of(code));
    else
        cli_complain(common, "%s: %s", common->url, words_of(code));
    return code == CURLE_PEER_FAILED_VERIFICATION || code == CURLE_URL_MALFORMAT ? CLI_ERROR : CLI_UNAVAILABLE;
}

static struct curl_slist *with_timeout(const struct curl_slist *headers, uint64_t left_ms)
{
    char line[48];
    struct curl_slist *all = NULL;
    for (; headers != NULL; headers = headers->next)
        all = cli_must(curl_slist_append(all, headers->data));
    snprintf(line, sizeof(line), "Sluice-Timeout: %llums", (unsigned long long)left_ms);
    return cli_must(curl_slist_append(all, line));
}

static void pause_ms(uint64_t ms)
{
    struct timespec pause = {.tv_sec = (time_t)(ms / 1000), .tv_nsec = (long)(ms % 1000 * 1000000)};
    while (nanosleep(&pause, &pause) != 0)
        ;
}

/* May it be sent again? 429 and 503 mean that nothing was applied; otherwise only what can be repeated. */
static bool again(const struct http_request *request, const struct http_answer *answer, CURLcode code)
{
    if (answer->sunk)
        return false;
    if (code == CURLE_OK)
        return answer->status == 429 || answer->status == 503 || (answer->status == 504 && request->repeatable);
    return request->repeatable && (code == CURLE_GOT_NOTHING || code == CURLE_RECV_ERROR || code == CURLE_SEND_ERROR ||
                                   code == CURLE_PARTIAL_FILE);
}

/* Sends until there is an answer that stands, or the time has passed. */
static CURLcode send_until(const struct cli_common *common, struct http_request *request, struct http_answer *answer)
{
    uint64_t deadline = clock_monotonic_ns() + common->timeout_ms * NS_PER_MS, pause = PAUSE_MS_FIRST;
    for (uint64_t left_ms = common->timeout_ms;;) {
        struct curl_slist *headers = with_timeout(request->headers, left_ms);
        CURLcode code = perform(common, request, headers, (long)(common->timeout_ms / 1000) + SILENCE_SECONDS, answer);
        curl_slist_free_all(headers);
        const char *asked = http_header(answer, "Retry-After");
        uint64_t wait = asked != NULL && atoi(asked) > 0 ? (uint64_t)atoi(asked) * 1000 : pause;
        uint64_t now = clock_monotonic_ns();
        if (!again(request, answer, code) || now + wait * NS_PER_MS >= deadline)
            return code;
        pause_ms(wait);
        pause = pause * 2 < PAUSE_MS_MAX ? pause * 2 : PAUSE_MS_MAX;
        left_ms = (deadline - now) / NS_PER_MS - wait;
        if (left_ms == 0)
            return code;
    }
}

int http_call(const struct cli_common *common, struct http_request *request, struct http_answer *answer)
{
    if (strcmp(request->method, "GET") == 0 || strcmp(request->method, "HEAD") == 0)
        request->repeatable = true;
    CURLcode code = send_until(common, request, answer);
    int result = CLI_OK;
    if (code == CURLE_WRITE_ERROR && answer->sunk)
        result = CLI_ERROR; /* the sink has said why */
    else if (code != CURLE_OK)
        result = complain_transfer(common, code);
    else if (!good(answer))
        result = complain_status(common, request, answer);
    curl_slist_free_all(request->headers);
    request->headers = NULL;
    curl_mime_free(request->mime);
    request->mime = NULL;
    return result;
}

const char *http_header(const struct http_answer *answer, const char *name)
{
    size_t length = strlen(name);
    for (size_t i = 0; i < answer->header_count; i++) {
        const char *line = answer->headers[i];
        if (strncasecmp(line, name, length) == 0 && line[length] == ':')
            return line + length + 1 + strspn(line + length + 1, " \t");
    }
    return NULL;
}

json_t *http_json(const struct cli_common *common, struct http_answer *answer)
{
    json_error_t error;
    json_t *json = json_loadb((const char *)answer->body.data, answer->body.size, JSON_REJECT_DUPLICATES, &error);
    if (json == NULL)
        cli_complain(common, "%s did not answer with JSON (%s); is it a Sluice gateway?", common->url, error.text);
    return json;
}

void http_answer_free(struct http_answer *answer)
{
    clear(answer);
    bytes_free(&answer->body);
}

int http_get_json(const struct cli_common *common, const char *path, const char *what, json_t **out)
{
    struct http_request request = {.method = "GET", .path = path, .what = what};
    struct http_answer answer = {0};
    int code = http_call(common, &request, &answer);
    *out = NULL;
    if (code == CLI_OK) {
        *out = http_json(common, &answer);
        code = *out != NULL ? CLI_OK : CLI_ERROR;
    }
    http_answer_free(&answer);
    return code;
}

static size_t drop(char *data, size_t one, size_t size, void *arg)
{
    (void)data;
    (void)arg;
    return one * size;
}

bool http_probe(const struct cli_common *common, const char *path)
{
    CURL *curl = http_handle();
    struct bytes url = {0};
    long status = 0;
    cli_must_status(bytes_printf(&url, "%s%s", common->url, path));
    curl_easy_reset(curl);
    curl_easy_setopt(curl, CURLOPT_URL, cli_text(&url));
    curl_easy_setopt(curl, CURLOPT_NOSIGNAL, 1L);
    curl_easy_setopt(curl, CURLOPT_NOPROXY, "*");
    curl_easy_setopt(curl, CURLOPT_SSL_VERIFYPEER, 0L);
    curl_easy_setopt(curl, CURLOPT_SSL_VERIFYHOST, 0L);
    curl_easy_setopt(curl, CURLOPT_TIMEOUT_MS, 1000L);
    curl_easy_setopt(curl, CURLOPT_WRITEFUNCTION, drop);
    bool good = curl_easy_perform(curl) == CURLE_OK &&
                curl_easy_getinfo(curl, CURLINFO_RESPONSE_CODE, &status) == CURLE_OK && status == 200;
    bytes_free(&url);
    return good;
}

/* --- streams ----------------------------------------------------------------------------------------------------- */

/* Who is called, and a stream's own word that it has to end: an event "error" with problem+json. */
struct following {
    struct sse_parser parser;
    http_on_event on_event;
    void *arg;
    struct http_answer *answer;
    long failed; /* the status that it gave; 0: it has not */
};

static bool feed(void *arg, const char *data, size_t size)
{
    return sse_feed(arg, data, size);
}

static bool on_each(void *arg, const struct http_event *event)
{
    struct following *self = arg;
    if (strcmp(event->type, "error") != 0)
        return self->on_event(self->arg, event);
    json_error_t error;
    json_t *problem = json_loadb(event->data, event->data_size, 0, &error);
    long status = (long)json_integer_value(json_object_get(problem, "status"));
    json_decref(problem);
    self->failed = status >= 400 && status < 600 ? status : 500;
    self->answer->body.size = 0;
    cli_must_status(bytes_append(&self->answer->body, event->data, event->data_size));
    return false;
}

/* Connected once, a stream is followed through restarts of gateways and leaders; a refusal is final. */
static bool lost(const struct http_answer *answer, CURLcode code, bool connected)
{
    if (code != CURLE_OK)
        return connected && code != CURLE_WRITE_ERROR;
    return good(answer) || (connected && (answer->status == 429 || answer->status >= 500));
}

static void tell_lost(const struct cli_common *common, const struct sse_parser *parser,
                      const struct http_answer *answer, CURLcode code)
{
    char status[32];
    snprintf(status, sizeof(status), "HTTP status %ld", answer->status);
    const char *why = code != CURLE_OK ? words_of(code) : good(answer) ? "the server ended it" : status;
    cli_complain(common, "the connection was lost (%s); connecting again%s", why,
                 parser->id.size > 0 ? " from where it stopped" : "");
}

int http_follow(const struct cli_common *common, const char *path, const char *what, long silence_s,
                http_on_event on_event, void *arg)
{
    struct http_answer answer = {0};
    struct following self = {.on_event = on_event, .arg = arg, .answer = &answer};
    struct sse_parser *parser = &self.parser;
    uint64_t pause = PAUSE_MS_FIRST;
    bool connected = false, told = false;
    int result = CLI_OK;
    parser->on_event = on_each;
    parser->arg = &self;
    for (;;) {
        struct http_request request = {.method = "GET", .path = path, .what = what, .sink = feed, .arg = parser};
        http_add(common, &request, "Accept", "text/event-stream");
        if (parser->id.size > 0)
            http_add(common, &request, "Last-Event-ID", cli_text(&parser->id));
        answer.sunk = false;
        self.failed = 0;
        sse_reset(parser);
        CURLcode code = perform(common, &request, request.headers, silence_s, &answer);
        curl_slist_free_all(request.headers);
        if (parser->stopped && self.failed == 0)
            break;
        connected = connected || answer.sunk || good(&answer);
        if (self.failed != 0) { /* it was this side that hung up */
            code = CURLE_OK;
            answer.status = self.failed;
        }
        if (!lost(&answer, code, connected)) {
            result = code != CURLE_OK ? complain_transfer(common, code) : complain_status(common, &request, &answer);
            break;
        }
        if (answer.sunk && self.failed == 0) {
            pause = parser->retry_ms > 0 ? parser->retry_ms : PAUSE_MS_FIRST;
            told = false;
        }
        if (!told)
            tell_lost(common, parser, &answer, code);
        told = true;
        pause_ms(pause);
        pause = pause * 2 < PAUSE_MS_MAX ? pause * 2 : PAUSE_MS_MAX;
    }
    http_answer_free(&answer);
    sse_free(parser);
    return result;
}

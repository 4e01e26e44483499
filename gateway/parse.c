#include "gateway/parse.h"

#include <arpa/inet.h>
#include <stdio.h>
#include <string.h>
#include <strings.h>

static int hex_digit(char c)
{
    if (c >= '0' && c <= '9')
        return c - '0';
    c = (char)(c | 0x20);
    return c >= 'a' && c <= 'f' ? c - 'a' + 10 : -1;
}

bool parse_percent(const char *text, size_t size, char *out, size_t *out_size)
{
    size_t filled = 0;
    for (size_t i = 0; i < size; i++) {
        char c = text[i];
        if (c == '%') {
            if (size - i < 3)
                return false;
            int high = hex_digit(text[i + 1]), low = hex_digit(text[i + 2]);
            if (high < 0 || low < 0)
                return false;
            c = (char)(high << 4 | low);
            i += 2;
        }
        if (c == '\0')
            return false;
        out[filled++] = c;
    }
    *out_size = filled;
    return true;
}

bool parse_target(const char *text, size_t size, struct parse_target *out)
{
    *out = (struct parse_target){0};
    const char *end = text + size;
    if (size > 0 && text[0] != '/') {
        /* RFC 9112, 3.2.2: a server must accept the absolute form. */
        size_t scheme = size >= 7 && strncasecmp(text, "http://", 7) == 0    ? 7
                        : size >= 8 && strncasecmp(text, "https://", 8) == 0 ? 8
                                                                             : 0;
        if (scheme == 0)
            return false;
        out->authority = text + scheme;
        text += scheme;
        while (text < end && *text != '/' && *text != '?')
            text++;
        out->authority_size = (size_t)(text - out->authority);
    }
    out->path = text;
    const char *mark = memchr(text, '?', (size_t)(end - text));
    out->path_size = (size_t)((mark != NULL ? mark : end) - text);
    if (mark != NULL) {
        out->query = mark + 1;
        out->query_size = (size_t)(end - mark - 1);
    }
    return out->path_size > 0 && out->path[0] == '/';
}

static enum sluice_status take_parameter(const char *text, size_t size, const char *const *known, char **storage,
                                         struct parse_query *out, char *error, size_t error_size)
{
    const char *equals = memchr(text, '=', size);
    size_t name_size = equals != NULL ? (size_t)(equals - text) : size;
    const char *name = NULL;
    for (size_t i = 0; known[i] != NULL && name == NULL; i++) {
        if (strlen(known[i]) == name_size && memcmp(known[i], text, name_size) == 0)
            name = known[i];
    }
    if (name == NULL) {
        snprintf(error, error_size, "the query parameter \"%.*s\" is not known here",
                 (int)(name_size < 64 ? name_size : 64), text);
        return SLUICE_INVALID;
    }
    if (parse_query_find(out, name) != NULL) {
        snprintf(error, error_size, "the query parameter \"%s\" is given twice", name);
        return SLUICE_INVALID;
    }
    if (out->count == PARSE_PARAMETERS_MAX) {
        snprintf(error, error_size, "more than %d query parameters", PARSE_PARAMETERS_MAX);
        return SLUICE_INVALID;
    }
    size_t value_size = 0;
    if (equals != NULL && !parse_percent(equals + 1, size - name_size - 1, *storage, &value_size)) {
        snprintf(error, error_size,
                 "the query parameter \"%s\" is badly encoded: a percent sign is followed by two hex digits, not 00",
                 name);
        return SLUICE_INVALID;
    }
    out->parameters[out->count++] = (struct parse_parameter){name, *storage, value_size};
    (*storage)[value_size] = '\0';
    *storage += value_size + 1;
    return SLUICE_OK;
}

enum sluice_status parse_query(const char *text, size_t size, const char *const *known, char *storage,
                               struct parse_query *out, char *error, size_t error_size)
{
    out->count = 0;
    while (size > 0) {
        const char *ampersand = memchr(text, '&', size);
        size_t part = ampersand != NULL ? (size_t)(ampersand - text) : size;
        if (part > 0) {
            enum sluice_status status = take_parameter(text, part, known, &storage, out, error, error_size);
            if (status != SLUICE_OK)
                return status;
        }
        size_t used = part + (ampersand != NULL);
        text += used;
        size -= used;
    }
    return SLUICE_OK;
}

const struct parse_parameter *parse_query_find(const struct parse_query *self, const char *name)
{
    for (size_t i = 0; i < self->count; i++) {
        if (strcmp(self->parameters[i].name, name) == 0)
            return &self->parameters[i];
    }
    return NULL;
}

bool parse_u64(const char *text, size_t size, uint64_t *out)
{
    uint64_t value = 0;
    if (size == 0 || size > 20)
        return false;
    for (size_t i = 0; i < size; i++) {
        if (text[i] < '0' || text[i] > '9' || __builtin_mul_overflow(value, 10u, &value) ||
            __builtin_add_overflow(value, (uint64_t)(text[i] - '0'), &value))
            return false;
    }
    *out = value;
    return true;
}

bool parse_timeout(const char *text, uint32_t *out_ms)
{
    size_t size = strlen(text), digits = strspn(text, "0123456789");
    uint64_t whole, thousandths = 0, unit;
    if (digits > 9 || !parse_u64(text, digits, &whole))
        return false;
    const char *rest = text + digits;
    if (*rest == '.') {
        size_t decimals = strspn(++rest, "0123456789");
        if (decimals == 0 || decimals > 3)
            return false;
        for (size_t i = 0; i < 3; i++)
            thousandths = thousandths * 10 + (i < decimals ? (uint64_t)(rest[i] - '0') : 0);
        rest += decimals;
    }
    if (strcmp(rest, "ms") == 0)
        unit = 1;
    else if (strcmp(rest, "s") == 0)
        unit = 1000;
    else if (strcmp(rest, "m") == 0)
        unit = 60000;
    else
        return false;
    uint64_t ms = whole * unit + thousandths * unit / 1000;
    if (size > 32 || ms < 1 || ms > 60000)
        return false;
    *out_ms = (uint32_t)ms;
    return true;
}

static const char *skip_blank(const char *text)
{
    return text + strspn(text, " \t");
}

/* "7" or "2.7": no sign, no leading zero, so that one version has one tag. */
static bool own_tag(const char *text, size_t size, uint64_t *epoch, uint64_t *version)
{
    const char *dot = memchr(text, '.', size);
    size_t head = dot != NULL ? (size_t)(dot - text) : 0;
    const char *number = dot != NULL ? dot + 1 : text;
    size_t number_size = size - (size_t)(number - text);
    *epoch = 1;
    if (dot != NULL && (text[0] == '0' || !parse_u64(text, head, epoch) || *epoch < 2))
        return false;
    return number_size > 0 && number[0] != '0' && parse_u64(number, number_size, version);
}

bool parse_etags(const char *text, struct parse_etags *out)
{
    memset(out, 0, sizeof(*out));
    text = skip_blank(text);
    if (*text == '*') {
        out->any = true;
        return *skip_blank(text + 1) == '\0';
    }
    for (;;) {
        /* Empty list elements are allowed (RFC 9110, 5.6.1.2). */
        while (*text == ',')
            text = skip_blank(text + 1);
        if (*text == '\0')
            return out->count > 0;
        if (out->count == PARSE_ETAGS_MAX)
            return false;
        bool weak = text[0] == 'W' && text[1] == '/';
        text += weak ? 2 : 0;
        if (*text++ != '"')
            return false;
        const char *end = text;
        while ((unsigned char)*end >= 0x21 && *end != '"' && *end != 0x7f)
            end++;
        if (*end != '"')
            return false;
        out->tags[out->count].weak = weak;
        out->tags[out->count].ours =
            own_tag(text, (size_t)(end - text), &out->tags[out->count].epoch, &out->tags[out->count].version);
        out->count++;
        text = skip_blank(end + 1);
        if (*text != ',' && *text != '\0')
            return false;
    }
}

bool parse_etags_match(const struct parse_etags *self, uint64_t epoch, uint64_t version, bool weak)
{
    if (self->any)
        return true;
    for (size_t i = 0; i < self->count; i++) {
        if (self->tags[i].ours && (weak || !self->tags[i].weak) && self->tags[i].version == version &&
            self->tags[i].epoch == (epoch > 1 ? epoch : 1))
            return true;
    }
    return false;
}

bool parse_range(const char *text, struct parse_range *out)
{
    *out = (struct parse_range){.kind = PARSE_RANGE_NONE, .last = UINT64_MAX};
    text = skip_blank(text);
    if (strncasecmp(text, "bytes", 5) != 0 || *skip_blank(text + 5) != '=' || strchr(text, ',') != NULL)
        return true;
    text = skip_blank(skip_blank(text + 5) + 1);
    size_t head = strspn(text, "0123456789");
    const char *rest = text + head;
    if (*rest != '-')
        return false;
    size_t tail = strspn(++rest, "0123456789");
    if (*skip_blank(rest + tail) != '\0' || (head == 0 && tail == 0))
        return false;
    if (tail > 0 && !parse_u64(rest, tail, &out->last))
        return false;
    if (head == 0) {
        out->kind = PARSE_RANGE_SUFFIX;
        return true;
    }
    out->kind = PARSE_RANGE_FROM;
    return parse_u64(text, head, &out->first) && out->first <= out->last;
}

bool parse_accepts(const char *accept, const char *type)
{
    size_t type_size = strlen(type);
    while (accept != NULL && *accept != '\0') {
        accept += strspn(accept, " \t,");
        size_t part = strcspn(accept, ",");
        size_t name = strcspn(accept, " \t;,");
        if (name == type_size && strncasecmp(accept, type, name) == 0) {
            const char *quality = memmem(accept, part, "q=0", 3);
            return quality == NULL || strspn(quality + 3, ".0") != strcspn(quality + 3, " \t;,");
        }
        accept += part;
    }
    return false;
}

bool parse_media_type_is(const char *content_type, const char *type)
{
    if (content_type == NULL)
        return false;
    content_type = skip_blank(content_type);
    size_t size = strcspn(content_type, " \t;");
    return size == strlen(type) && strncasecmp(content_type, type, size) == 0;
}

bool parse_content_type_valid(const char *text, size_t size)
{
    if (size == 0 || size > 255 || memchr(text, '/', size) == NULL)
        return false;
    for (size_t i = 0; i < size; i++) {
        if (text[i] < 0x20 || text[i] > 0x7e)
            return false;
    }
    return true;
}

bool parse_host(const char *text, size_t size, const char **out_host, size_t *out_size, uint16_t *out_port)
{
    const char *end = text + size, *port = NULL;
    if (size > 0 && text[0] == '[') {
        const char *close = memchr(text, ']', size);
        if (close == NULL)
            return false;
        *out_host = text + 1;
        *out_size = (size_t)(close - text - 1);
        if (close + 1 < end) {
            if (close[1] != ':')
                return false;
            port = close + 2;
        }
    } else {
        const char *colon = memchr(text, ':', size);
        *out_host = text;
        *out_size = (size_t)((colon != NULL ? colon : end) - text);
        port = colon != NULL ? colon + 1 : NULL;
    }
    uint64_t number = 0;
    if (port != NULL && port < end && (!parse_u64(port, (size_t)(end - port), &number) || number > UINT16_MAX))
        return false;
    *out_port = (uint16_t)number;
    for (size_t i = 0; i < *out_size; i++) {
        char c = (*out_host)[i];
        if (c <= 0x20 || c >= 0x7f || strchr("/?#@\\\"<>", c) != NULL)
            return false;
    }
    return *out_size > 0 && *out_size <= 255;
}

bool parse_host_is_address(const char *host, size_t size)
{
    char text[INET6_ADDRSTRLEN + 1];
    struct in6_addr address;
    if (size >= sizeof(text))
        return false;
    memcpy(text, host, size);
    text[size] = '\0';
    return inet_pton(AF_INET, text, &address) == 1 || inet_pton(AF_INET6, text, &address) == 1;
}

bool parse_host_is_loopback(const char *host, size_t size)
{
    /* A dot at the end of a name changes nothing about where it leads. */
    if (size > 0 && host[size - 1] == '.')
        size--;
    static const char name[] = "localhost";
    size_t length = sizeof(name) - 1;
    if (size >= length && strncasecmp(host + size - length, name, length) == 0)
        return size == length || (size > length + 1 && host[size - length - 1] == '.');
    char text[INET6_ADDRSTRLEN + 1];
    struct in_addr four;
    struct in6_addr six;
    if (size >= sizeof(text))
        return false;
    memcpy(text, host, size);
    text[size] = '\0';
    if (inet_pton(AF_INET, text, &four) == 1)
        return (ntohl(four.s_addr) >> 24) == 127;
    return inet_pton(AF_INET6, text, &six) == 1 && IN6_IS_ADDR_LOOPBACK(&six);
}

static int base64_digit(char c)
{
    if (c >= 'A' && c <= 'Z')
        return c - 'A';
    if (c >= 'a' && c <= 'z')
        return c - 'a' + 26;
    if (c >= '0' && c <= '9')
        return c - '0' + 52;
    return c == '+' ? 62 : c == '/' ? 63 : -1;
}

bool parse_base64(const char *text, size_t size, uint8_t *out, size_t *out_size)
{
    if (size % 4 != 0)
        return false;
    size_t padding = size > 0 && text[size - 1] == '=' ? 1u + (text[size - 2] == '=') : 0;
    size_t filled = 0;
    for (size_t at = 0; at < size; at += 4) {
        size_t digits = at + 4 == size ? 4 - padding : 4;
        uint32_t bits = 0;
        for (size_t i = 0; i < 4; i++) {
            int digit = i < digits ? base64_digit(text[at + i]) : 0;
            if (digit < 0)
                return false;
            bits = bits << 6 | (uint32_t)digit;
        }
        /* Bits that no byte takes are zero, so that one value has one spelling. */
        if ((digits == 3 && (bits & 0xff) != 0) || (digits == 2 && (bits & 0xffff) != 0))
            return false;
        for (size_t i = 0; i + 1 < digits; i++)
            out[filled++] = (uint8_t)(bits >> (16 - 8 * i));
    }
    *out_size = filled;
    return true;
}

// The only file of the store that sees RE2. What is thrown inside stays inside.
#include "core/base/pattern.h"

#include <re2/re2.h>

#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <memory>
#include <new>
#include <string>

#define _Noreturn [[noreturn]]
extern "C" {
#include "core/base/panic.h"
#include "core/base/text.h"
}

namespace
{

enum { KIND_KEY = 1, KIND_PREFIX = 2, KIND_GLOB = 3, KIND_REGEX = 4 };

} // namespace

/* A key or prefix costs one allocation and no machinery: a hundred thousand of them may be watched. */
struct pattern {
    int kind; /* what it was reduced to: a glob without wildcards is a key, one that ends in its only `**` a prefix */
    bool captures; /* given as a regex */
    bool grouped;  /* which has a group */
    re2::RE2 *program;
    size_t prefix_size;
    char prefix[];
};

namespace
{

/* Where reading a glob stands, and what came of it. */
struct glob {
    const char *text;
    size_t size;
    size_t at;
    std::string regex;
    std::string literal; /* the text without its escapes, as long as `plain` */
    bool plain;          /* no wildcard so far */
    const char *wrong;
    size_t wrong_at;
};

size_t characters(const char *text, size_t size)
{
    size_t count = 0;
    for (size_t i = 0; i < size; i++)
        count += (static_cast<unsigned char>(text[i]) & 0xc0) != 0x80;
    return count;
}

/* One code point of checked UTF-8. */
uint32_t decode(const char *text, size_t *size)
{
    unsigned char first = static_cast<unsigned char>(text[0]);
    *size = first < 0x80 ? 1 : first < 0xe0 ? 2 : first < 0xf0 ? 3 : 4;
    uint32_t point = *size == 1 ? first : first & (0x7fu >> *size);
    for (size_t i = 1; i < *size; i++)
        point = point << 6 | (static_cast<unsigned char>(text[i]) & 0x3fu);
    return point;
}

void append_point(std::string *out, uint32_t point)
{
    char text[16];
    std::snprintf(text, sizeof(text), "\\x{%x}", point);
    *out += text;
}

void append_range(std::string *out, uint32_t low, uint32_t high)
{
    if (low > high)
        return;
    append_point(out, low);
    *out += '-';
    append_point(out, high);
}

bool glob_fail(struct glob *self, size_t at, const char *wrong)
{
    self->wrong = wrong;
    self->wrong_at = at;
    return false;
}

/* A member of a set, perhaps escaped. */
bool glob_set_member(struct glob *self, size_t open, uint32_t *out)
{
    if (self->at < self->size && self->text[self->at] == '\\')
        self->at++;
    if (self->at >= self->size)
        return glob_fail(self, open, "this [ has no ]");
    size_t size;
    *out = decode(self->text + self->at, &size);
    self->at += size;
    return true;
}

/* `at` is behind the `[`. A slash is never matched: ranges are split around it, and negated sets name it. */
bool glob_set(struct glob *self)
{
    size_t open = self->at - 1;
    bool negated = self->at < self->size && (self->text[self->at] == '!' || self->text[self->at] == '^');
    self->at += negated;
    std::string members;
    for (size_t first = self->at; self->at >= self->size || self->text[self->at] != ']' || self->at == first;) {
        size_t start = self->at;
        uint32_t low, high;
        if (!glob_set_member(self, open, &low))
            return false;
        high = low;
        if (self->at + 1 < self->size && self->text[self->at] == '-' && self->text[self->at + 1] != ']') {
            self->at++;
            if (!glob_set_member(self, open, &high))
                return false;
        }
        if (low > high)
            return glob_fail(self, start, "this range runs backwards");
        if (low <= '/' && high >= '/') {
            if (low < '/')
                append_range(&members, low, '/' - 1);
            append_range(&members, '/' + 1, high);
        } else {
            append_range(&members, low, high);
        }
    }
    self->at++;
    if (members.empty() && !negated)
        return glob_fail(self, open, "this set holds a slash alone, which no set matches");
    self->regex += negated ? "[^/" : "[";
    self->regex += members;
    self->regex += ']';
    return true;
}

/* `at` is on a `*`. */
void glob_star(struct glob *self)
{
    size_t start = self->at;
    while (self->at < self->size && self->text[self->at] == '*')
        self->at++;
    if (self->at - start == 1) {
        self->regex += "[^/]*";
        return;
    }
    bool begins_segment = start == 0 || self->text[start - 1] == '/';
    if (begins_segment && self->at < self->size && self->text[self->at] == '/') {
        self->at++;
        self->regex += "(?:.*/)?";
    } else {
        self->regex += ".*";
    }
}

bool glob_literal(struct glob *self)
{
    if (self->text[self->at] == '\\' && ++self->at == self->size)
        return glob_fail(self, self->at - 1, "this backslash has nothing behind it");
    size_t size;
    append_point(&self->regex, decode(self->text + self->at, &size));
    if (self->plain)
        self->literal.append(self->text + self->at, size);
    self->at += size;
    return true;
}

bool glob_translate(struct glob *self)
{
    while (self->at < self->size) {
        switch (self->text[self->at]) {
        case '*':
            self->plain = false;
            glob_star(self);
            break;
        case '?':
            self->plain = false;
            self->at++;
            self->regex += "[^/]";
            break;
        case '[':
            self->plain = false;
            self->at++;
            if (!glob_set(self))
                return false;
            break;
        default:
            if (!glob_literal(self))
                return false;
        }
    }
    return true;
}

RE2::Options options()
{
    RE2::Options out;
    out.set_log_errors(false);
    out.set_max_mem(PATTERN_MEMORY_MAX);
    out.set_dot_nl(true);
    return out;
}

/* RE2 names the fragment that it stumbles over, not its place. A parser reads from left to right, so the shortest
 * beginning that fails in the same way ends where the fragment ends. */
size_t fragment_end(const char *text, size_t size, const RE2 &whole, bool same_fragment)
{
    size_t low = 0, high = size;
    while (low < high) {
        size_t middle = low + (high - low) / 2;
        RE2 part(re2::StringPiece(text, middle), options());
        if (part.error_code() == whole.error_code() && (!same_fragment || part.error_arg() == whole.error_arg()))
            high = middle;
        else
            low = middle + 1;
    }
    return high;
}

void explain(const char *text, size_t size, const RE2 &program, char *error, size_t error_size)
{
    size_t at;
    switch (program.error_code()) {
    case RE2::ErrorPatternTooLarge:
        std::snprintf(error, error_size, "the regular expression is too complex: it needs more than %u KiB",
                      PATTERN_MEMORY_MAX >> 10);
        return;
    case RE2::ErrorMissingParen:
    case RE2::ErrorTrailingBackslash:
        std::snprintf(error, error_size, "bad regular expression at its end, character %zu: %s", characters(text, size),
                      program.error_code() == RE2::ErrorMissingParen ? "a ( has no )"
                                                                     : "a backslash with nothing behind it");
        return;
    case RE2::ErrorUnexpectedParen:
        at = fragment_end(text, size, program, false);
        std::snprintf(error, error_size, "bad regular expression at character %zu: this ) has no (",
                      characters(text, at - (at > 0)) + 1);
        return;
    default: {
        const std::string &fragment = program.error_arg();
        std::string message = program.error();
        at = fragment_end(text, size, program, true);
        at = at > fragment.size() ? at - fragment.size() : 0;
        std::snprintf(error, error_size, "bad regular expression at character %zu: %.200s", characters(text, at) + 1,
                      message.c_str());
    }
    }
}

struct pattern *allocate(int kind, const char *prefix, size_t prefix_size)
{
    auto *self = static_cast<struct pattern *>(std::calloc(1, sizeof(struct pattern) + prefix_size));
    if (!self)
        return nullptr;
    self->kind = kind;
    self->prefix_size = prefix_size;
    if (prefix_size)
        std::memcpy(self->prefix, prefix, prefix_size);
    return self;
}

/* A string between two others begins with what these have in common. */
std::string common_prefix(const RE2 &program)
{
    std::string low, high;
    if (!program.PossibleMatchRange(&low, &high, PATTERN_BYTES_MAX))
        return std::string();
    size_t size = 0;
    while (size < low.size() && size < high.size() && low[size] == high[size])
        size++;
    low.resize(size);
    return low;
}

/* Compiles `regex`; `text` is what the user wrote. */
enum sluice_status compile_program(int kind, const std::string &regex, const char *text, size_t size,
                                   struct pattern **out, char *error, size_t error_size)
{
    std::unique_ptr<RE2> program(new RE2(regex, options()));
    if (!program->ok()) {
        if (kind == KIND_REGEX)
            explain(text, size, *program, error, error_size);
        else
            std::snprintf(error, error_size, "the glob is too complex: it needs more than %u KiB",
                          PATTERN_MEMORY_MAX >> 10);
        return SLUICE_INVALID;
    }
    if (program->ProgramSize() > PATTERN_INSTRUCTIONS_MAX) {
        std::snprintf(error, error_size, "the %s is too complex: it compiles to %d instructions, %d are allowed",
                      kind == KIND_REGEX ? "regular expression" : "glob", program->ProgramSize(),
                      PATTERN_INSTRUCTIONS_MAX);
        return SLUICE_INVALID;
    }
    std::string prefix = common_prefix(*program);
    struct pattern *self = allocate(kind, prefix.data(), prefix.size());
    if (!self)
        return SLUICE_MEMORY;
    self->captures = kind == KIND_REGEX;
    self->grouped = program->NumberOfCapturingGroups() > 0;
    self->program = program.release();
    *out = self;
    return SLUICE_OK;
}

enum sluice_status compile_glob(const char *text, size_t size, struct pattern **out, char *error, size_t error_size)
{
    struct glob glob = {text, size, 0, std::string(), std::string(), true, nullptr, 0};
    if (!glob_translate(&glob)) {
        std::snprintf(error, error_size, "bad glob at character %zu: %s", characters(text, glob.wrong_at) + 1,
                      glob.wrong);
        return SLUICE_INVALID;
    }
    /* What needs no machinery gets none: no wildcard at all, or literal text and a final `**`. */
    int kind = KIND_GLOB;
    if (glob.plain)
        kind = KIND_KEY;
    else if (glob.regex.size() >= 2 && size >= 2 && !std::strncmp(text + size - 2, "**", 2)) {
        struct glob head = {text, size, 0, std::string(), std::string(), true, nullptr, 0};
        while (head.size > 0 && text[head.size - 1] == '*')
            head.size--;
        if (glob_translate(&head) && head.plain) {
            kind = KIND_PREFIX;
            glob.literal = head.literal;
        }
    }
    if (kind == KIND_GLOB)
        return compile_program(KIND_GLOB, glob.regex, text, size, out, error, error_size);
    *out = allocate(kind, glob.literal.data(), glob.literal.size());
    return *out ? SLUICE_OK : SLUICE_MEMORY;
}

enum sluice_status compile(int kind, const char *text, size_t size, struct pattern **out, char *error,
                           size_t error_size)
{
    if (kind < KIND_KEY || kind > KIND_REGEX) {
        std::snprintf(error, error_size, "a pattern is a key (1), prefix (2), glob (3) or regex (4), not %d", kind);
        return SLUICE_INVALID;
    }
    if (size > PATTERN_BYTES_MAX) {
        std::snprintf(error, error_size, "a pattern has at most %d bytes; this one has %zu", PATTERN_BYTES_MAX, size);
        return SLUICE_INVALID;
    }
    if (size == 0 && kind != KIND_PREFIX) {
        std::snprintf(error, error_size, "an empty pattern matches nothing");
        return SLUICE_INVALID;
    }
    /* A prefix may end within a character: it is compared as bytes. */
    if (kind != KIND_PREFIX && !text_utf8_valid(text, size)) {
        size_t at = size;
        while (!text_utf8_valid(text, at))
            at--;
        std::snprintf(error, error_size, "the pattern is not UTF-8 from character %zu on", characters(text, at) + 1);
        return SLUICE_INVALID;
    }
    if (kind == KIND_GLOB)
        return compile_glob(text, size, out, error, error_size);
    if (kind == KIND_REGEX)
        return compile_program(KIND_REGEX, std::string(text, size), text, size, out, error, error_size);
    *out = allocate(kind, text, size);
    return *out ? SLUICE_OK : SLUICE_MEMORY;
}

} // namespace

enum sluice_status pattern_compile(int kind, const char *text, size_t size, struct pattern **out, char *error,
                                   size_t error_size)
{
    *out = nullptr;
    enum sluice_status status = SLUICE_MEMORY;
    try {
        status = compile(kind, text, size, out, error, error_size);
    } catch (const std::bad_alloc &) {
    }
    if (status == SLUICE_MEMORY)
        std::snprintf(error, error_size, "%s", "no memory to compile the pattern");
    return status;
}

void pattern_destroy(struct pattern *self)
{
    if (!self)
        return;
    delete self->program;
    std::free(self);
}

bool pattern_match(const struct pattern *self, const char *key, size_t size)
{
    /* Most keys part here, before any machinery runs. */
    if (size < self->prefix_size || std::memcmp(key, self->prefix, self->prefix_size) != 0)
        return false;
    if (!self->program)
        return self->kind == KIND_PREFIX || size == self->prefix_size;
    try {
        return self->program->Match(re2::StringPiece(key, size), 0, size, RE2::ANCHOR_BOTH, nullptr, 0);
    } catch (const std::bad_alloc &) {
        /* Neither answer would be true, and a watch that misses silently breaks its promise. */
        PANIC("no memory to match a key against a pattern");
    }
}

const char *pattern_prefix(const struct pattern *self, size_t *size)
{
    *size = self->prefix_size;
    return self->prefix;
}

bool pattern_capture(const struct pattern *self, const char *key, size_t size, const char **out, size_t *out_size)
{
    ASSERT(self->captures);
    re2::StringPiece found[2];
    try {
        if (!self->program->Match(re2::StringPiece(key, size), 0, size, RE2::ANCHOR_BOTH, found, self->grouped ? 2 : 1))
            return false;
    } catch (const std::bad_alloc &) {
        PANIC("no memory to match a key against a pattern");
    }
    const re2::StringPiece &part = found[self->grouped];
    *out = part.data() ? part.data() : key;
    *out_size = part.size();
    return true;
}

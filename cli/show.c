/* How answers are shown, and values read and coded. */
#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "cli/cli.h"
#include "core/base/panic.h"

void cli_print_json(const json_t *json)
{
    if (json_dumpf(json, stdout, JSON_COMPACT | JSON_ENCODE_ANY) != 0)
        cli_must(NULL);
    putchar('\n');
}

void cli_print_text(FILE *file, const char *text, size_t size)
{
    for (size_t i = 0; i < size; i++) {
        unsigned char c = (unsigned char)text[i];
        putc((c < 0x20 && c != '\n' && c != '\t') || c == 0x7f ? '?' : c, file);
    }
}

const char *cli_member(const json_t *object, const char *name, char scratch[CLI_NUMBER_BYTES])
{
    const json_t *member = json_object_get(object, name);
    if (json_is_string(member))
        return json_string_value(member);
    if (json_is_integer(member)) {
        snprintf(scratch, CLI_NUMBER_BYTES, "%lld", (long long)json_integer_value(member));
        return scratch;
    }
    if (json_is_real(member)) {
        snprintf(scratch, CLI_NUMBER_BYTES, "%.3g", json_real_value(member));
        return scratch;
    }
    if (json_is_boolean(member))
        return json_is_true(member) ? "yes" : "no";
    return "-";
}

void cli_size_text(uint64_t size, char out[CLI_NUMBER_BYTES])
{
    static const char *const units[] = {"KiB", "MiB", "GiB", "TiB", "PiB", "EiB"};
    if (size < 1024) {
        snprintf(out, CLI_NUMBER_BYTES, "%llu B", (unsigned long long)size);
        return;
    }
    double value = (double)size / 1024;
    size_t unit = 0;
    for (; value >= 1023.95; unit++)
        value /= 1024;
    snprintf(out, CLI_NUMBER_BYTES, "%.1f %s", value, units[unit]);
}

void cli_member_size(const json_t *object, const char *name, char out[CLI_NUMBER_BYTES])
{
    char scratch[CLI_NUMBER_BYTES], *end = NULL;
    const char *text = cli_member(object, name, scratch);
    unsigned long long size = strtoull(text, &end, 10);
    if (*text < '0' || *text > '9' || *end != '\0')
        snprintf(out, CLI_NUMBER_BYTES, "-");
    else
        cli_size_text(size, out);
}

/* --- tables ------------------------------------------------------------------------------------------------------ */

void cli_table_cell(struct cli_table *self, const char *text)
{
    if (self->count == self->capacity) {
        self->capacity = self->capacity == 0 ? 64 : self->capacity * 2;
        self->cells = cli_must(reallocarray(self->cells, self->capacity, sizeof(*self->cells)));
    }
    self->cells[self->count++] = cli_must(strdup(text));
}

/* Columns on a screen, for UTF-8 of one column a character. */
static size_t width(const char *text)
{
    size_t columns = 0;
    for (; *text != '\0'; text++)
        columns += ((unsigned char)*text & 0xc0) != 0x80;
    return columns;
}

void cli_table_print(struct cli_table *self)
{
    ASSERT(self->columns > 0 && self->count % self->columns == 0);
    size_t *widest = cli_must(calloc(self->columns, sizeof(*widest)));
    for (size_t i = 0; i < self->count; i++)
        if (width(self->cells[i]) > widest[i % self->columns])
            widest[i % self->columns] = width(self->cells[i]);
    for (size_t i = 0; i < self->count; i++) {
        bool last = (i + 1) % self->columns == 0;
        cli_print_text(stdout, self->cells[i], strlen(self->cells[i]));
        if (last)
            putchar('\n');
        else
            printf("%*s", (int)(widest[i % self->columns] - width(self->cells[i]) + 2), "");
        free(self->cells[i]);
    }
    free(widest);
    free(self->cells);
    *self = (struct cli_table){.columns = self->columns};
}

/* --- values ------------------------------------------------------------------------------------------------------ */

static const char alphabet[] = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";

void cli_base64_encode(const void *data, size_t size, struct bytes *out)
{
    const uint8_t *in = data;
    for (size_t i = 0; i < size; i += 3) {
        size_t left = size - i;
        uint32_t word = (uint32_t)in[i] << 16 | (left > 1 ? (uint32_t)in[i + 1] << 8 : 0) | (left > 2 ? in[i + 2] : 0);
        char four[4] = {alphabet[word >> 18], alphabet[word >> 12 & 63], left > 1 ? alphabet[word >> 6 & 63] : '=',
                        left > 2 ? alphabet[word & 63] : '='};
        cli_must_status(bytes_append(out, four, sizeof(four)));
    }
}

bool cli_base64_decode(const char *text, struct bytes *out)
{
    size_t length = strlen(text);
    if (length % 4 != 0)
        return false;
    for (size_t i = 0; i < length; i += 4) {
        uint32_t word = 0;
        unsigned padding = 0;
        for (size_t k = 0; k < 4; k++) {
            const char *at = text[i + k] == '\0' ? NULL : strchr(alphabet, text[i + k]);
            if (text[i + k] == '=' && i + 4 == length && k >= 2)
                padding++;
            else if (at == NULL || padding > 0)
                return false;
            word = word << 6 | (at != NULL ? (uint32_t)(at - alphabet) : 0);
        }
        uint8_t three[3] = {(uint8_t)(word >> 16), (uint8_t)(word >> 8), (uint8_t)word};
        cli_must_status(bytes_append(out, three, 3 - padding));
    }
    return true;
}

bool cli_read_file(const struct cli_common *common, const char *path, struct bytes *out)
{
    FILE *file = strcmp(path, "-") == 0 ? stdin : fopen(path, "rb");
    if (file == NULL) {
        cli_complain(common, "%s cannot be read: %s", path, strerror(errno));
        return false;
    }
    bool good = true;
    for (size_t got = 1; got > 0;) {
        cli_must_status(bytes_reserve(out, 1u << 16));
        errno = 0;
        got = fread(out->data + out->size, 1, 1u << 16, file);
        out->size += got;
    }
    if (ferror(file)) {
        cli_complain(common, "%s cannot be read: %s", path, strerror(errno));
        good = false;
    }
    if (file != stdin)
        fclose(file);
    return good;
}

/* Histories in memory and as lines of JSON. */
#include <jansson.h>
#include <stdlib.h>
#include <string.h>
#include <uthash.h>

#include "tests/check/check__.h"

/* Numbers for names: of keys, and of each key's values. */
struct name {
    UT_hash_handle hh;
    uint64_t number;
    size_t size;
    char text[];
};

struct names {
    struct name *keys, *values;
    uint64_t value_count;
};

static uint64_t number_of(struct name **names, const char *text, size_t size, uint64_t next)
{
    struct name *name;
    HASH_FIND(hh, *names, text, size, name);
    if (name == NULL) {
        name = check__allocate(1, sizeof(*name) + size + 1);
        memcpy(name->text, text, size);
        name->size = size;
        name->number = next;
        HASH_ADD_KEYPTR(hh, *names, name->text, size, name);
    }
    return name->number;
}

static void free_names(struct name **names)
{
    struct name *name, *next;
    HASH_ITER(hh, *names, name, next)
    {
        HASH_DEL(*names, name);
        free(name);
    }
}

void check_history_init(struct check_history *self)
{
    *self = (struct check_history){0};
}

void check_history_free(struct check_history *self)
{
    struct names *names = self->names;
    if (names != NULL) {
        free_names(&names->keys);
        free_names(&names->values);
        free(names);
    }
    for (uint32_t i = 0; self->keys != NULL && i < self->key_count; i++)
        free(self->keys[i]);
    free(self->keys);
    free(self->operations);
    check_history_init(self);
}

void check_history_add(struct check_history *self, const struct check_operation *operation)
{
    if (self->count == self->capacity) {
        self->capacity = self->capacity == 0 ? 1024 : 2 * self->capacity;
        self->operations = realloc(self->operations, self->capacity * sizeof(*self->operations));
        ASSERT(self->operations != NULL);
    }
    self->operations[self->count++] = *operation;
}

static uint32_t key_number(struct check_history *self, const char *key)
{
    struct names *names = self->names;
    uint32_t number = (uint32_t)number_of(&names->keys, key, strlen(key), self->key_count);
    if (number == self->key_count) {
        self->keys = realloc(self->keys, (number + 1) * sizeof(*self->keys));
        ASSERT(self->keys != NULL);
        self->keys[number] = strdup(key);
        self->key_count++;
    }
    return number;
}

static uint64_t value_number(struct check_history *self, const char *value)
{
    struct names *names = self->names;
    uint64_t number = number_of(&names->values, value, strlen(value), names->value_count + 1);
    if (number > names->value_count)
        names->value_count = number;
    return number;
}

/* A whole number that is not negative, or absent. */
static bool number_field(json_t *object, const char *name, uint64_t *out, bool *present)
{
    const json_t *value = json_object_get(object, name);
    *present = value != NULL && !json_is_null(value);
    *out = 0;
    if (!*present)
        return true;
    if (!json_is_integer(value) || json_integer_value(value) < 0)
        return false;
    *out = (uint64_t)json_integer_value(value);
    return true;
}

static bool word_field(json_t *object, const char *name, const char *const *words, int count, int *out)
{
    const char *text = json_string_value(json_object_get(object, name));
    for (int i = 0; text != NULL && i < count; i++)
        if (strcmp(text, words[i]) == 0) {
            *out = i;
            return true;
        }
    return false;
}

/* NULL: taken; else what is wrong with it. */
static const char *take_line(struct check_history *self, json_t *object, uint64_t line)
{
    static const char *const kinds[] = {"put", "put-if", "put-absent", "delete", "get", "get-at"};
    static const char *const outcomes[] = {"ok", "failed-not-applied", "unknown"};
    struct check_operation operation = {.line = line};
    uint64_t client;
    bool has_client, has_start, has_end, has_version, has_condition, has_at, has_time;
    int kind = 0, outcome = 0;
    if (!json_is_object(object))
        return "not an object";
    if (!word_field(object, "kind", kinds, 6, &kind))
        return "\"kind\" is none of put, put-if, put-absent, delete, get, get-at";
    if (!word_field(object, "outcome", outcomes, 3, &outcome))
        return "\"outcome\" is none of ok, failed-not-applied, unknown";
    if (!number_field(object, "client", &client, &has_client) ||
        !number_field(object, "start", &operation.start, &has_start) ||
        !number_field(object, "end", &operation.end, &has_end) ||
        !number_field(object, "version", &operation.version, &has_version) ||
        !number_field(object, "condition", &operation.condition, &has_condition) ||
        !number_field(object, "at", &operation.at, &has_at) ||
        !number_field(object, "time", &operation.time, &has_time))
        return "\"client\", \"start\", \"end\", \"version\", \"condition\", \"at\" and \"time\" are whole numbers from "
               "0 on";
    operation.kind = (enum check_kind)kind;
    operation.outcome = (enum check_outcome)outcome;
    operation.client = (uint32_t)client;
    operation.seen = has_version && (operation.kind >= CHECK_GET || operation.outcome == CHECK_FAILED);
    operation.deleted = json_is_true(json_object_get(object, "deleted"));
    const char *key = json_string_value(json_object_get(object, "key"));
    const char *value = json_string_value(json_object_get(object, "value"));
    if (key == NULL)
        return "\"key\" is missing";
    if (!has_start || (!has_end && operation.outcome != CHECK_UNKNOWN))
        return "\"start\" is missing, or \"end\" is, which only an operation with an unknown outcome can lack";
    if (operation.kind <= CHECK_PUT_ABSENT && value == NULL)
        return "a put has a \"value\"";
    if (operation.kind == CHECK_PUT_IF && !has_condition)
        return "a put-if has a \"condition\"";
    if (operation.kind == CHECK_GET_AT && !has_at)
        return "a get-at has an \"at\"";
    if (operation.kind == CHECK_GET_AT && operation.outcome == CHECK_OK && !has_version)
        return "a get-at that was answered has a \"version\", 0 where nothing was there";
    operation.key = key_number(self, key);
    operation.value = value == NULL ? 0 : value_number(self, value);
    check_history_add(self, &operation);
    return NULL;
}

bool check_history_read(struct check_history *self, FILE *file, char *error, size_t error_size)
{
    char *text = NULL;
    size_t capacity = 0;
    ssize_t size;
    uint64_t line = 0;
    bool good = true;
    if (self->names == NULL)
        self->names = check__allocate(1, sizeof(struct names));
    while (good && (size = getline(&text, &capacity, file)) >= 0) {
        line++;
        if (strspn(text, " \t\r\n") == (size_t)size)
            continue;
        json_error_t json_error;
        json_t *object = json_loadb(text, (size_t)size, 0, &json_error);
        const char *wrong = object == NULL ? json_error.text : take_line(self, object, line);
        if (wrong != NULL) {
            snprintf(error, error_size, "line %llu: %s", (unsigned long long)line, wrong);
            good = false;
        }
        json_decref(object);
    }
    free(text);
    return good;
}

#include <dlfcn.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "core/base/text.h"
#include "core/lambda/lambda__.h"

static void words_set(struct lambda__library *self, const char *format, va_list arguments)
{
    vsnprintf(self->words, sizeof(self->words), format, arguments);
    for (char *at = self->words; *at != '\0'; at++)
        if ((unsigned char)*at < 0x20)
            *at = ' ';
}

static void words_print(struct lambda__library *self, const char *format, ...) __attribute__((format(printf, 2, 3)));
static void words_print(struct lambda__library *self, const char *format, ...)
{
    va_list arguments;
    va_start(arguments, format);
    words_set(self, format, arguments);
    va_end(arguments);
}

static int host_watch(const struct sluice_host *host, int kind, const char *text, sluice_callback callback,
                      void *closure)
{
    struct lambda__library *self = host->self;
    if (!self->initializing)
        return SLUICE_LAMBDA_INVALID;
    if (text == NULL || callback == NULL) {
        words_print(self, "watch %zu has no %s", self->watch_count + 1, text == NULL ? "pattern" : "callback");
        return SLUICE_LAMBDA_INVALID;
    }
    if (self->watch_count == LAMBDA_WATCHES_MAX) {
        words_print(self, "a lambda registers at most %u watches", LAMBDA_WATCHES_MAX);
        return SLUICE_LAMBDA_INVALID;
    }
    /* Keys may be given with a leading slash, which the store ignores. */
    if (kind != SLUICE_REGEX && text[0] == '/')
        text++;
    size_t size = strlen(text);
    struct lambda__watch watch = {.kind = kind, .callback = callback, .closure = closure};
    char error[256];
    enum sluice_status status = pattern_compile(kind, text, size, &watch.pattern, error, sizeof(error));
    if (status != SLUICE_OK) {
        words_print(self, "watch \"%.200s\": %s", text, error);
        return status == SLUICE_MEMORY ? SLUICE_LAMBDA_MEMORY : SLUICE_LAMBDA_INVALID;
    }
    if (!text_utf8_valid(text, size)) {
        pattern_destroy(watch.pattern);
        words_print(self, "watch %zu: a prefix is UTF-8", self->watch_count + 1);
        return SLUICE_LAMBDA_INVALID;
    }
    watch.text = strdup(text);
    if (watch.text == NULL) {
        pattern_destroy(watch.pattern);
        return SLUICE_LAMBDA_MEMORY;
    }
    self->watches[self->watch_count++] = watch;
    return 0;
}

static void host_error(const struct sluice_host *host, const char *format, ...)
{
    struct lambda__library *self = host->self;
    if (!self->initializing)
        return;
    va_list arguments;
    va_start(arguments, format);
    words_set(self, format, arguments);
    va_end(arguments);
}

/* The loader names the file by the path where it was put, which says nothing to whoever uploaded it. */
static void loader_words(const char *path, char *error, size_t error_size)
{
    const char *words = dlerror();
    if (words == NULL)
        words = "the loader refuses it and does not say why";
    size_t size = strlen(path);
    if (strncmp(words, path, size) == 0 && strncmp(words + size, ": ", 2) == 0)
        words += size + 2;
    snprintf(error, error_size, "%s", words);
}

enum sluice_status lambda__library_open(struct lambda__library *self, const char *path, char *error, size_t error_size)
{
    memset(self, 0, sizeof(*self));
    self->host = lambda__host_interface;
    self->host.self = self;
    self->host.watch = host_watch;
    self->host.error = host_error;
    self->handle = dlopen(path, RTLD_NOW | RTLD_LOCAL);
    if (self->handle == NULL) {
        loader_words(path, error, error_size);
        return SLUICE_UNPROCESSABLE;
    }
    void *initialize = dlsym(self->handle, "sluice_lambda_initialize");
    void *shutdown = dlsym(self->handle, "sluice_lambda_shutdown");
    const uint32_t *abi = dlsym(self->handle, "sluice_lambda_abi");
    if (initialize == NULL) {
        snprintf(error, error_size,
                 "it does not export sluice_lambda_initialize; define it as sluice_lambda.h declares it "
                 "(in C++ the header makes it extern \"C\")");
        goto fail;
    }
    if (abi != NULL && (*abi == 0 || *abi > SLUICE_LAMBDA_ABI)) {
        snprintf(error, error_size, "built for version %u of the lambda ABI, this node offers version %u", *abi,
                 SLUICE_LAMBDA_ABI);
        goto fail;
    }
    /* The one way from a data pointer to a function pointer that ISO C lets pass. */
    memcpy(&self->initialize, &initialize, sizeof(initialize));
    memcpy(&self->shutdown, &shutdown, sizeof(shutdown));
    return SLUICE_OK;

fail:
    dlclose(self->handle);
    self->handle = NULL;
    return SLUICE_UNPROCESSABLE;
}

enum sluice_status lambda__library_initialize(struct lambda__library *self, const char *config, char *error,
                                              size_t error_size)
{
    self->initializing = true;
    int result = self->initialize(&self->host, config, &self->state);
    self->initializing = false;
    if (result != 0) {
        if (self->words[0] != '\0')
            snprintf(error, error_size, "initialize refused: %s", self->words);
        else
            snprintf(error, error_size, "initialize returned %d and said nothing (host->error gives it words)", result);
        return SLUICE_UNPROCESSABLE;
    }
    self->initialized = true;
    if (self->watch_count == 0) {
        const char *words = self->words[0] == '\0' ? "nothing would ever run" : self->words;
        snprintf(error, error_size, "initialize registered no watch: %s", words);
        return SLUICE_UNPROCESSABLE;
    }
    return SLUICE_OK;
}

void lambda__library_close(struct lambda__library *self)
{
    if (self->initialized && self->shutdown != NULL)
        self->shutdown(self->state);
    self->initialized = false;
    for (size_t i = 0; i < self->watch_count; i++) {
        free(self->watches[i].text);
        pattern_destroy(self->watches[i].pattern);
    }
    self->watch_count = 0;
    if (self->handle != NULL)
        dlclose(self->handle);
    self->handle = NULL;
}

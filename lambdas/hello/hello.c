/* The smallest lambda that does something: answers each object put under hello/ with a greeting under greetings/.
 *
 *     cc -shared -fPIC -I. -o hello.so lambdas/hello/hello.c
 *     curl -F file=@hello.so 'http://127.0.0.1:8080/v1/lambdas?name=hello'
 *     curl -X PUT --data-binary world http://127.0.0.1:8080/v1/objects/hello/you
 *     curl http://127.0.0.1:8080/v1/objects/greetings/you
 */
#include "api/sluice_lambda.h"

#include <stdio.h>

const uint32_t sluice_lambda_abi = SLUICE_LAMBDA_ABI;

static int greet(struct sluice_context *context, const struct sluice_event *event, void *closure)
{
    const struct sluice_host *host = closure;
    const struct sluice_lambda_object *object = &event->object;
    char key[1100], text[256];
    snprintf(key, sizeof(key), "greetings/%s", object->key + sizeof("hello/") - 1);
    if (object->deleted)
        return host->remove(context, key);
    /* The value is bytes, not text: it has no NUL at its end. */
    int shown = object->size < 100 ? (int)object->size : 100;
    int size = snprintf(text, sizeof(text), "Hello, %.*s!\n", shown, (const char *)object->value);
    host->counter(context, "greetings", 1);
    host->log(context, "%s version %llu is greeted", object->key, (unsigned long long)object->version);
    return host->put(context, key, text, (uint64_t)size, "text/plain");
}

int sluice_lambda_initialize(const struct sluice_host *host, const char *config_json, void **state)
{
    (void)config_json;
    (void)state;
    return host->watch(host, SLUICE_PREFIX, "hello/", greet, (void *)(uintptr_t)host);
}

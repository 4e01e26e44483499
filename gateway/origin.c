/* Whose pages may call. A browser reaches loopback addresses from any web page, and a name of an attacker's can be made
 * to lead there (DNS rebinding), so a gateway without tokens looks at Host and Origin. */
#include <string.h>
#include <strings.h>

#include "gateway/http__.h"

static bool host_configured(const struct gateway *gateway, const char *host, size_t size)
{
    for (size_t i = 0; i < gateway->options.host_count; i++) {
        const char *name = gateway->options.hosts[i];
        if (strlen(name) == size && strncasecmp(name, host, size) == 0)
            return true;
    }
    return false;
}

/* Beyond loopback, without tokens, an address or a name without a dot is let in as well: neither is a public name that
 * somebody else could own. */
static bool host_allowed(const struct gateway *gateway, const char *host, size_t size)
{
    if (parse_host_is_loopback(host, size) || host_configured(gateway, host, size))
        return true;
    return !gateway->loopback && (parse_host_is_address(host, size) || memchr(host, '.', size) == NULL);
}

bool origin__allowed(const struct gateway *gateway, const char *origin)
{
    for (size_t i = 0; i < gateway->options.origin_count; i++) {
        if (strcasecmp(gateway->options.origins[i], origin) == 0)
            return true;
    }
    return false;
}

const char *origin__error(const struct gateway *gateway, const struct request *request)
{
    const struct headers *headers = &request->headers;
    const struct parse_target *target = &request->target;
    /* In absolute form the target names the host, whatever the header says (RFC 9112, 3.2.2). */
    const char *text = target->authority != NULL ? target->authority : headers->host;
    size_t text_size = target->authority != NULL ? target->authority_size : text != NULL ? strlen(text) : 0;
    if (!gateway->check_origin)
        return NULL;

    const char *host;
    size_t size;
    uint16_t port;
    /* Browsers always send Host; HTTP/1.0 knows none. */
    if (text == NULL ? !request->http_1_0
                     : !parse_host(text, text_size, &host, &size, &port) || !host_allowed(gateway, host, size))
        return "the header Host names neither a loopback address nor a configured host; if this name is meant to lead "
               "here, "
               "start the gateway with --allow-host NAME";
    if (headers->origin == NULL || origin__allowed(gateway, headers->origin))
        return NULL;
    const char *scheme = gateway->options.tls_key_path != NULL ? "https://" : "http://";
    size_t scheme_size = strlen(scheme);
    if (text != NULL && strncasecmp(headers->origin, scheme, scheme_size) == 0 &&
        strlen(headers->origin) == scheme_size + text_size &&
        strncasecmp(headers->origin + scheme_size, text, text_size) == 0)
        return NULL;
    return "web pages of another origin may not call; to allow this one, start the gateway with --allow-origin ORIGIN";
}

/* The data directory of `sluice up`: what was made there is found again at the next start. */
#include <arpa/inet.h>
#include <errno.h>
#include <fcntl.h>
#include <ini.h>
#include <netdb.h>
#include <stdarg.h>
#include <stdlib.h>
#include <string.h>
#include <sys/file.h>
#include <sys/random.h>
#include <sys/stat.h>
#include <unistd.h>

#include "cli/up.h"

#define SHM_NAME_MAX 100 /* of the fabric's addresses on one host */

char *up_path(const struct up *self, const char *format, ...)
{
    char *name = NULL, *path = NULL;
    va_list arguments;
    va_start(arguments, format);
    int length = vasprintf(&name, format, arguments);
    va_end(arguments);
    if (length < 0 || asprintf(&path, "%s/%s", self->path, name) < 0)
        cli_must(NULL);
    free(name);
    return path;
}

void up_address(const struct up *self, unsigned node, char out[UP_ADDRESS_BYTES])
{
    char *path = up_path(self, "node%u.sock", node);
    if (self->tcp)
        snprintf(out, UP_ADDRESS_BYTES, "tcp:127.0.0.1:%u", (unsigned)self->ports[node - 1]);
    else if (strlen(path) <= SHM_NAME_MAX && strchr(path, ',') == NULL) /* a comma ends an address in a list of them */
        snprintf(out, UP_ADDRESS_BYTES, "shm:%s", path);
    else
        snprintf(out, UP_ADDRESS_BYTES, "shm:%s-%u", self->cluster, node);
    free(path);
}

/* --- ports ------------------------------------------------------------------------------------------------------- */

/* A listening socket on the address, closed again at once; the port that it had, 0 on failure with errno. */
static uint16_t try_listen(const struct sockaddr *address, socklen_t size)
{
    struct sockaddr_storage bound;
    socklen_t bound_size = sizeof(bound);
    uint16_t port = 0;
    int one = 1, fd = socket(address->sa_family, SOCK_STREAM | SOCK_CLOEXEC, 0);
    if (fd < 0)
        return 0;
    (void)setsockopt(fd, SOL_SOCKET, SO_REUSEADDR, &one, sizeof(one));
    if (bind(fd, address, size) == 0 && listen(fd, 1) == 0 &&
        getsockname(fd, (struct sockaddr *)&bound, &bound_size) == 0)
        port = bound.ss_family == AF_INET6 ? ntohs(((struct sockaddr_in6 *)&bound)->sin6_port)
                                           : ntohs(((struct sockaddr_in *)&bound)->sin_port);
    int error = errno;
    close(fd);
    errno = error;
    return port;
}

static uint16_t loopback_port(uint16_t wanted)
{
    struct sockaddr_in address = {.sin_family = AF_INET, .sin_port = htons(wanted)};
    address.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
    return try_listen((const struct sockaddr *)&address, sizeof(address));
}

bool up_can_listen(const struct up *self, const char *option, const char *address)
{
    const struct addrinfo hints = {.ai_socktype = SOCK_STREAM, .ai_flags = AI_PASSIVE};
    struct addrinfo *found = NULL;
    const char *colon = strrchr(address, ':');
    char *host = cli_must(strndup(address, colon != NULL ? (size_t)(colon - address) : 0));
    size_t length = strlen(host);
    bool good = false;
    if (length > 2 && host[0] == '[' && host[length - 1] == ']') { /* [::1]:8080 */
        memmove(host, host + 1, length - 2);
        host[length - 2] = '\0';
    }
    if (colon == NULL || *host == '\0' || strtoul(colon + 1, NULL, 10) == 0 ||
        getaddrinfo(host, colon + 1, &hints, &found) != 0) {
        cli_complain(&self->common, "%s: ADDR:PORT was expected, like 127.0.0.1:8080; came: %s", option, address);
    } else {
        good = try_listen(found->ai_addr, found->ai_addrlen) != 0;
        if (!good)
            cli_complain(&self->common, "%s cannot be listened on: %s; choose another with %s", address,
                         strerror(errno), option);
    }
    if (found != NULL)
        freeaddrinfo(found);
    free(host);
    return good;
}

/* Ports of an earlier start are taken again where they are free; the nodes tell each other by the options they get. */
static bool pick_ports(struct up *self)
{
    for (unsigned i = 0; i < self->nodes; i++) {
        uint16_t port = self->ports[i] != 0 ? loopback_port(self->ports[i]) : 0;
        for (bool twice = port == 0; twice;) {
            port = loopback_port(0);
            if (port == 0) {
                cli_complain(&self->common, "no free port could be found on 127.0.0.1: %s", strerror(errno));
                return false;
            }
            twice = false;
            for (unsigned k = 0; k < i; k++)
                twice = twice || self->ports[k] == port;
        }
        self->ports[i] = port;
    }
    return true;
}

/* --- up.ini ------------------------------------------------------------------------------------------------------ */

struct layout {
    unsigned nodes;
    bool tcp, seen;
    char cluster[40];
    uint16_t ports[UP_NODES_MAX];
};

static int from_file(void *arg, const char *section, const char *name, const char *value)
{
    struct layout *layout = arg;
    (void)section;
    layout->seen = true;
    if (strcmp(name, "nodes") == 0) {
        layout->nodes = (unsigned)strtoul(value, NULL, 10);
        return layout->nodes >= 1 && layout->nodes <= UP_NODES_MAX;
    }
    if (strcmp(name, "fabric") == 0) {
        layout->tcp = strcmp(value, "tcp") == 0;
        return layout->tcp || strcmp(value, "shm") == 0;
    }
    if (strcmp(name, "cluster") == 0) {
        snprintf(layout->cluster, sizeof(layout->cluster), "%s", value);
        return layout->cluster[0] != '\0' && strlen(value) < sizeof(layout->cluster);
    }
    if (strcmp(name, "ports") != 0)
        return 0;
    char *end = NULL;
    for (unsigned i = 0; i < UP_NODES_MAX && *value != '\0'; i++, value = *end == ',' ? end + 1 : end) {
        unsigned long port = strtoul(value, &end, 10);
        if (end == value || port == 0 || port > 65535)
            return 0;
        layout->ports[i] = (uint16_t)port;
    }
    return *value == '\0';
}

static bool write_file(const struct up *self, const char *path)
{
    char *fresh = up_path(self, "up.ini.new");
    FILE *file = fopen(fresh, "w");
    bool good = file != NULL;
    if (good) {
        fprintf(file,
                "; Written by \"sluice up\": what lives in this directory.\nnodes = %u\nfabric = %s\ncluster = %s\n",
                self->nodes, self->tcp ? "tcp" : "shm", self->cluster);
        for (unsigned i = 0; self->tcp && i < self->nodes; i++)
            fprintf(file, "%s%u", i == 0 ? "ports = " : ",", (unsigned)self->ports[i]);
        fputs(self->tcp ? "\n" : "", file);
        good = fflush(file) == 0 && fsync(fileno(file)) == 0;
        good = fclose(file) == 0 && good && rename(fresh, path) == 0;
    }
    if (!good)
        cli_complain(&self->common, "%s cannot be written: %s", path, strerror(errno));
    free(fresh);
    return good;
}

static bool settle(struct up *self, const struct layout *layout)
{
    uint8_t random[8];
    if (layout->seen && (layout->nodes == 0 || layout->cluster[0] == '\0')) {
        cli_complain(&self->common, "%s/up.ini is incomplete; move the directory away, or name another with --data",
                     self->data);
        return false;
    }
    if (layout->seen && self->nodes != 0 && self->nodes != layout->nodes) {
        cli_complain(&self->common,
                     "%s holds a cluster of %u node%s; start it without --nodes, or name another directory with --data",
                     self->data, layout->nodes, layout->nodes == 1 ? "" : "s");
        return false;
    }
    memcpy(self->ports, layout->ports, sizeof(self->ports));
    if (layout->seen) {
        self->nodes = layout->nodes;
        memcpy(self->cluster, layout->cluster, sizeof(self->cluster));
        if (!self->fabric_set)
            self->tcp = layout->tcp;
        return true;
    }
    if (getrandom(random, sizeof(random), 0) != (ssize_t)sizeof(random)) {
        cli_complain(&self->common, "no random bytes could be had");
        return false;
    }
    snprintf(self->cluster, sizeof(self->cluster), "sluice-up-%02x%02x%02x%02x%02x%02x%02x%02x", random[0], random[1],
             random[2], random[3], random[4], random[5], random[6], random[7]);
    if (self->nodes == 0)
        self->nodes = 1;
    return true;
}

static bool lock(struct up *self)
{
    char *path = up_path(self, "up.lock");
    self->lock_fd = open(path, O_RDWR | O_CREAT | O_CLOEXEC, 0640);
    bool good = self->lock_fd >= 0 && flock(self->lock_fd, LOCK_EX | LOCK_NB) == 0;
    if (!good && errno == EWOULDBLOCK)
        cli_complain(&self->common, "another \"sluice up\" uses %s; end it, or name another directory with --data",
                     self->data);
    else if (!good)
        cli_complain(&self->common, "%s cannot be locked: %s", path, strerror(errno));
    free(path);
    return good;
}

/* Like mkdir -p. */
static bool make_directory(const char *path)
{
    char *copy = cli_must(strdup(path));
    bool good = true;
    for (char *at = copy + 1; good; at++) {
        char was = *at;
        if (was != '/' && was != '\0')
            continue;
        *at = '\0';
        good = mkdir(copy, 0750) == 0 || errno == EEXIST;
        *at = was;
        if (was == '\0')
            break;
    }
    free(copy);
    return good;
}

int up_layout_open(struct up *self)
{
    struct layout layout = {0};
    self->lock_fd = -1;
    if (*self->data == '\0' || !make_directory(self->data) || (self->path = realpath(self->data, NULL)) == NULL) {
        cli_complain(&self->common, "the data directory \"%s\" cannot be made: %s", self->data, strerror(errno));
        return CLI_ERROR;
    }
    if (!lock(self))
        return CLI_ERROR;
    char *path = up_path(self, "up.ini");
    int line = access(path, F_OK) == 0 ? ini_parse(path, from_file, &layout) : 0;
    bool good = line == 0;
    if (!good)
        cli_complain(&self->common, "%s cannot be understood%s; move it away, or name another directory with --data",
                     path, line < 0 ? "" : " (a line of it is damaged)");
    good = good && settle(self, &layout) && (!self->tcp || pick_ports(self)) && write_file(self, path);
    free(path);
    return good ? CLI_OK : CLI_ERROR;
}

void up_layout_close(struct up *self)
{
    if (self->lock_fd >= 0)
        close(self->lock_fd);
    free(self->path);
}

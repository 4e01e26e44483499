/* A store that is damaged beyond single entries is set aside, and an empty one takes its place, to be filled by the
 * peers. A mark in the new one says so until the caller has made that durable elsewhere. */
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>

#include "core/base/log.h"
#include "core/versions/store__.h"

#define MARK_ASIDE     "SET_ASIDE" /* in a new store: the one before it was set aside */
#define MARK_CONDEMNED "CONDEMNED" /* in a store: it was found damaged while it was used */
#define PATH_BYTES     4096

static bool join(char out[PATH_BYTES], const char *path, const char *rest)
{
    return snprintf(out, PATH_BYTES, "%s%s", path, rest) < PATH_BYTES;
}

/* Creates an empty file and makes it durable. */
static bool make_mark(const char *path, const char *name)
{
    char file[PATH_BYTES];
    if (!join(file, path, name))
        return false;
    int fd = open(file, O_WRONLY | O_CREAT | O_CLOEXEC, 0600);
    bool made = fd >= 0 && fsync(fd) == 0;
    if (fd >= 0)
        close(fd);
    fd = open(path, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    made = made && fd >= 0 && fsync(fd) == 0;
    if (fd >= 0)
        close(fd);
    return made;
}

static bool has_mark(const char *path, const char *name)
{
    char file[PATH_BYTES];
    return join(file, path, name) && access(file, F_OK) == 0;
}

bool store__condemned(const char *path)
{
    return has_mark(path, "/" MARK_CONDEMNED);
}

bool store__was_set_aside(const char *path)
{
    char fresh[PATH_BYTES];
    /* A process that ended between the two renames left the new store under its first name. */
    if (join(fresh, path, ".new") && access(path, F_OK) != 0 && has_mark(fresh, "/" MARK_ASIDE) &&
        rename(fresh, path) != 0)
        LOG_ERROR("store", "%s cannot be renamed to %s: %s", fresh, path, strerror(errno));
    return has_mark(path, "/" MARK_ASIDE);
}

enum sluice_status store__set_aside(const char *path, char *error, size_t error_size)
{
    char fresh[PATH_BYTES], aside[PATH_BYTES], name[64];
    struct timespec now;
    struct tm day;
    clock_gettime(CLOCK_REALTIME, &now);
    gmtime_r(&now.tv_sec, &day);
    size_t size = strftime(name, sizeof(name), ".damaged-%Y%m%dT%H%M%S", &day);
    snprintf(name + size, sizeof(name) - size, ".%06ldZ", now.tv_nsec / 1000);
    bool done = join(fresh, path, ".new") && join(aside, path, name) && (mkdir(fresh, 0700) == 0 || errno == EEXIST) &&
                make_mark(fresh, "/" MARK_ASIDE) && rename(path, aside) == 0 && rename(fresh, path) == 0;
    if (!done) {
        snprintf(error, error_size, "the damaged store in %s cannot be set aside: %s", path, strerror(errno));
        return SLUICE_IO;
    }
    LOG_ERROR("store",
              "the store was damaged and is set aside as %s; an empty one takes its place, to be filled by "
              "the peers",
              aside);
    return SLUICE_OK;
}

void store_condemn(struct store *self)
{
    if (self->cold.env == NULL && !make_mark(self->path, "/" MARK_CONDEMNED))
        LOG_ERROR("store", "that %s is damaged cannot be noted: %s", self->path, strerror(errno));
}

enum sluice_status store_settle(struct store *self)
{
    char file[PATH_BYTES];
    if (self->cold.env != NULL || !has_mark(self->path, "/" MARK_ASIDE))
        return SLUICE_OK;
    return join(file, self->path, "/" MARK_ASIDE) && unlink(file) == 0 ? SLUICE_OK : SLUICE_IO;
}

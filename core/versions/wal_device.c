/* Segments as files in a directory: written past the page cache, each write durable when it returns. */
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/file.h>
#include <sys/stat.h>
#include <unistd.h>

#include "core/base/log.h"
#include "core/base/panic.h"
#include "core/versions/memory.h"
#include "core/versions/wal_format.h"

#define NAME_FORMAT    "segment-%016" PRIx64
#define NAME_BYTES     40
#define TEMPORARY      "segment.new"
#define LOCK_NAME      "LOCK"
#define ZERO_BYTES     (1u << 20)
#define OPEN_FILES_MAX 64u

struct open_file {
    uint64_t number;
    int fd;
};

struct directory {
    uint64_t segment_bytes;
    int fd;
    int lock_fd;
    bool direct;           /* the file system takes O_DIRECT */
    pthread_mutex_t mutex; /* files: one thread writes while another one prepares segments */
    struct open_file files[OPEN_FILES_MAX];
    uint32_t file_count;
};

static void segment_name(uint64_t number, char out[NAME_BYTES])
{
    snprintf(out, NAME_BYTES, NAME_FORMAT, number);
}

static enum sluice_status failure(const char *what, uint64_t number)
{
    int error = errno;
    if (error == ENOSPC || error == EDQUOT)
        return SLUICE_STORAGE_FULL; /* the log says so once, and tries again */
    LOG_ERROR("wal", "%s segment %" PRIu64 ": %s", what, number, strerror(error));
    return error == ENOENT ? SLUICE_NOT_FOUND : SLUICE_IO;
}

static int open_segment(struct directory *self, uint64_t number)
{
    char name[NAME_BYTES];
    segment_name(number, name);
    int fd = -1;
    if (self->direct) {
        fd = openat(self->fd, name, O_RDWR | O_DIRECT | O_DSYNC | O_CLOEXEC);
        if (fd < 0 && errno == EINVAL) {
            LOG_WARN("wal", "this file system knows no O_DIRECT; writes go through the page cache");
            self->direct = false;
        }
    }
    if (!self->direct)
        fd = openat(self->fd, name, O_RDWR | O_DSYNC | O_CLOEXEC);
    /* A process that died may have left bytes that are readable but not on the medium yet. */
    if (fd >= 0 && fdatasync(fd) != 0) {
        close(fd);
        return -1;
    }
    return fd;
}

/* The descriptor stays valid while its segment exists: the caller is the one who would remove it, or its only writer.
 */
static int file_of(struct directory *self, uint64_t number)
{
    int fd = -1;
    pthread_mutex_lock(&self->mutex);
    for (uint32_t i = 0; i < self->file_count && fd < 0; i++)
        if (self->files[i].number == number)
            fd = self->files[i].fd;
    if (fd < 0) {
        fd = open_segment(self, number);
        if (fd >= 0 && self->file_count == OPEN_FILES_MAX) {
            close(self->files[0].fd);
            memmove(self->files, self->files + 1, (OPEN_FILES_MAX - 1) * sizeof(self->files[0]));
            self->file_count--;
        }
        if (fd >= 0)
            self->files[self->file_count++] = (struct open_file){.number = number, .fd = fd};
    }
    pthread_mutex_unlock(&self->mutex);
    return fd;
}

static void forget_file(struct directory *self, uint64_t number)
{
    pthread_mutex_lock(&self->mutex);
    for (uint32_t i = 0; i < self->file_count; i++)
        if (self->files[i].number == number) {
            close(self->files[i].fd);
            self->files[i] = self->files[--self->file_count];
            break;
        }
    pthread_mutex_unlock(&self->mutex);
}

static enum sluice_status device_list(void *context, uint64_t *numbers, uint32_t *count)
{
    struct directory *self = context;
    uint32_t room = *count, found = 0;
    int fd = openat(self->fd, ".", O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    DIR *directory = fd < 0 ? NULL : fdopendir(fd);
    if (directory == NULL) {
        enum sluice_status status = failure("listing the directory of", 0);
        if (fd >= 0)
            close(fd);
        return status;
    }
    struct dirent *entry;
    while ((entry = readdir(directory)) != NULL) {
        uint64_t number;
        char name[NAME_BYTES];
        if (sscanf(entry->d_name, "segment-%" SCNx64, &number) != 1)
            continue;
        segment_name(number, name);
        if (strcmp(name, entry->d_name) != 0)
            continue;
        if (found < room)
            numbers[found] = number;
        found++;
    }
    closedir(directory);
    *count = found;
    return SLUICE_OK;
}

static enum sluice_status device_size(void *context, uint64_t number, uint64_t *bytes)
{
    struct stat found;
    int fd = file_of(context, number);
    if (fd < 0 || fstat(fd, &found) != 0)
        return failure("opening", number);
    *bytes = (uint64_t)found.st_size;
    return SLUICE_OK;
}

/* Writes zeros once: blocks that were merely reserved would cost a commit of the file system's journal with each first
 * write. */
static bool fill_zero(int fd, uint64_t bytes)
{
    static const uint8_t zeros[1u << 16];
    for (uint64_t done = 0; done < bytes;) {
        size_t size = bytes - done < sizeof(zeros) ? (size_t)(bytes - done) : sizeof(zeros);
        ssize_t written = pwrite(fd, zeros, size, (off_t)done);
        if (written < 0 && errno == EINTR)
            continue;
        if (written <= 0)
            return false;
        done += (uint64_t)written;
    }
    return fdatasync(fd) == 0;
}

static enum sluice_status device_create(void *context, uint64_t number)
{
    struct directory *self = context;
    char name[NAME_BYTES];
    segment_name(number, name);
    int fd = openat(self->fd, TEMPORARY, O_RDWR | O_CREAT | O_TRUNC | O_CLOEXEC, 0600);
    if (fd < 0)
        return failure("creating", number);
    int reserved = posix_fallocate(fd, 0, (off_t)self->segment_bytes);
    if (reserved != 0)
        errno = reserved;
    bool filled = reserved == 0 && fill_zero(fd, self->segment_bytes);
    int error = errno;
    close(fd);
    errno = error;
    if (!filled || renameat(self->fd, TEMPORARY, self->fd, name) != 0 || fsync(self->fd) != 0) {
        enum sluice_status status = failure("preallocating", number);
        unlinkat(self->fd, TEMPORARY, 0);
        return status;
    }
    return SLUICE_OK;
}

static enum sluice_status device_recycle(void *context, uint64_t from, uint64_t to)
{
    struct directory *self = context;
    char old_name[NAME_BYTES], new_name[NAME_BYTES];
    segment_name(from, old_name);
    segment_name(to, new_name);
    forget_file(self, from);
    /* Batches name their segment: under its old name, after a power failure, they would not be found. */
    if (renameat(self->fd, old_name, self->fd, new_name) != 0 || fsync(self->fd) != 0)
        return failure("recycling", from);
    return SLUICE_OK;
}

static enum sluice_status device_remove(void *context, uint64_t number)
{
    struct directory *self = context;
    char name[NAME_BYTES];
    segment_name(number, name);
    forget_file(self, number);
    if (unlinkat(self->fd, name, 0) != 0 || fsync(self->fd) != 0)
        return failure("removing", number);
    return SLUICE_OK;
}

static enum sluice_status device_read(void *context, uint64_t number, uint64_t offset, void *data, uint32_t size)
{
    int fd = file_of(context, number);
    uint32_t done = 0;
    while (fd >= 0 && done < size) {
        ssize_t got = pread(fd, (uint8_t *)data + done, size - done, (off_t)(offset + done));
        if (got < 0 && errno == EINTR)
            continue;
        if (got < 0)
            return failure("reading", number);
        if (got == 0) {
            memset((uint8_t *)data + done, 0, size - done);
            break;
        }
        done += (uint32_t)got;
        /* The end of a file that was cut off within a block: a direct read goes no further. */
        if (done % WAL_BLOCK_BYTES != 0) {
            memset((uint8_t *)data + done, 0, size - done);
            break;
        }
    }
    return fd < 0 ? failure("opening", number) : SLUICE_OK;
}

static enum sluice_status device_write(void *context, uint64_t number, uint64_t offset, const void *data, uint32_t size)
{
    struct directory *self = context;
    int fd = file_of(self, number);
    uint32_t done = 0;
    if (fd < 0)
        return failure("opening", number);
    ASSERT(offset % WAL_BLOCK_BYTES == 0 && size % WAL_BLOCK_BYTES == 0);
    if (offset + size > self->segment_bytes) {
        int reserved = posix_fallocate(fd, (off_t)offset, size);
        if (reserved != 0) {
            errno = reserved;
            return failure("making longer", number);
        }
    }
    while (done < size) {
        ssize_t written = pwrite(fd, (const uint8_t *)data + done, size - done, (off_t)(offset + done));
        if (written < 0 && errno == EINTR)
            continue;
        if (written < WAL_BLOCK_BYTES) {
            /* Its room was reserved, so even "no space" is a failed write: it is not known what of it is there. */
            LOG_ERROR("wal", "writing segment %" PRIu64 ": %s", number, strerror(written < 0 ? errno : EIO));
            return SLUICE_IO;
        }
        /* A write that was cut short goes on at a block's start: what is written twice is the same. */
        done += (uint32_t)written - (uint32_t)written % WAL_BLOCK_BYTES;
    }
    return SLUICE_OK;
}

static void device_close(void *context)
{
    struct directory *self = context;
    for (uint32_t i = 0; i < self->file_count; i++)
        close(self->files[i].fd);
    close(self->lock_fd);
    close(self->fd);
    pthread_mutex_destroy(&self->mutex);
    free(self);
}

static enum sluice_status lock_directory(struct directory *self, const char *path, char *error, size_t error_size)
{
    self->lock_fd = openat(self->fd, LOCK_NAME, O_RDWR | O_CREAT | O_CLOEXEC, 0600);
    if (self->lock_fd < 0) {
        snprintf(error, error_size, "cannot write in %s: %s", path, strerror(errno));
        return SLUICE_IO;
    }
    if (flock(self->lock_fd, LOCK_EX | LOCK_NB) != 0) {
        snprintf(error, error_size, "another process uses the log in %s; stop it, or name another directory", path);
        close(self->lock_fd);
        return SLUICE_CONFLICT;
    }
    return SLUICE_OK;
}

enum sluice_status wal_device_open_directory(const char *path, uint64_t segment_bytes, struct wal_device *out,
                                             char *error, size_t error_size)
{
    if (segment_bytes == 0)
        segment_bytes = WAL_SEGMENT_BYTES;
    if (segment_bytes < WAL_SEGMENT_BYTES_MIN || segment_bytes % WAL_BLOCK_BYTES != 0) {
        snprintf(error, error_size, "a segment has at least %u bytes, in steps of %u; came: %" PRIu64,
                 WAL_SEGMENT_BYTES_MIN, WAL_BLOCK_BYTES, segment_bytes);
        return SLUICE_INVALID;
    }
    if (mkdir(path, 0700) != 0 && errno != EEXIST) {
        snprintf(error, error_size, "cannot create the directory %s: %s", path, strerror(errno));
        return SLUICE_IO;
    }
    int fd = open(path, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    if (fd < 0) {
        snprintf(error, error_size, "cannot open the directory %s: %s; name another one for the log", path,
                 strerror(errno));
        return SLUICE_IO;
    }
    struct directory *self = memory__allocate_zeroed(1, sizeof(*self));
    if (self == NULL) {
        close(fd);
        snprintf(error, error_size, "no memory for the log");
        return SLUICE_MEMORY;
    }
    self->segment_bytes = segment_bytes;
    self->fd = fd;
    self->direct = true;
    enum sluice_status status = lock_directory(self, path, error, error_size);
    if (status != SLUICE_OK) {
        close(fd);
        free(self);
        return status;
    }
    pthread_mutex_init(&self->mutex, NULL);
    unlinkat(fd, TEMPORARY, 0);
    *out = (struct wal_device){
        .context = self,
        .segment_bytes = segment_bytes,
        .list = device_list,
        .create = device_create,
        .recycle = device_recycle,
        .remove = device_remove,
        .read = device_read,
        .write = device_write,
        .close = device_close,
        .size = device_size,
    };
    return SLUICE_OK;
}

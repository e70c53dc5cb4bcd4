/* A library for LD_PRELOAD that stands between one program and the files of one directory. It can
 *
 *   end the program with SIGKILL before or after a chosen call, or in the middle of a write,
 *   make chosen calls fail with an error,
 *   write down every call that changes a file, in the order in which they took effect.
 *
 * COFFERD_SHIM names the control file (struct control below, mapped shared, so that the test may change its mind while the
 * program runs), COFFERD_SHIM_RECORD the file for the record. Only calls through the C library are seen: SQLite's all are.
 */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <pthread.h>
#include <signal.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

enum op { READ = 1, WRITE = 2, SYNC = 4, TRUNCATE = 8, UNLINK = 16, RENAME = 32, OPEN = 64, ALLOCATE = 128, MKDIR = 256 };
enum action { KILL_BEFORE = 1, KILL_AFTER = 2, TEAR = 3, FAIL = 4 };

struct control {
    uint32_t ops;     /* of enum op; 0: nothing is done */
    uint32_t action;  /* of enum action */
    uint32_t error;   /* errno of FAIL */
    uint32_t keep;    /* bytes that TEAR lets through, or a FAILing write with keep > 0 */
    uint64_t first;   /* the first call that is hit, counted from 1 */
    uint64_t times;   /* how many are; 0: all from there on */
    uint64_t seen;    /* calls that matched so far */
    uint64_t hits;
    char suffix[256]; /* how the paths end that are meant; empty: all below the directory */
    char directory[PATH_MAX];
};

struct entry {
    uint32_t op, path_length;
    uint64_t offset, length;
};

static struct control *control;
static int record = -1;
static pthread_mutex_t order = PTHREAD_MUTEX_INITIALIZER;

static void *next(const char *name) { return dlsym(RTLD_NEXT, name); }
#define REAL(name) \
    static __typeof__(name) *real; \
    if (!real) real = next(#name)

__attribute__((constructor)) static void begin(void) {
    const char *path = getenv("COFFERD_SHIM");
    int fd = path ? open(path, O_RDWR | O_CLOEXEC) : -1;
    if (fd < 0) return;
    void *mapped = mmap(NULL, sizeof(struct control), PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
    close(fd);
    if (mapped == MAP_FAILED) return;
    if ((path = getenv("COFFERD_SHIM_RECORD"))) record = open(path, O_WRONLY | O_APPEND | O_CLOEXEC);
    control = mapped;
}

/* The directory itself is meant too: syncing it is what makes names last. */
static int below(const char *path) {
    size_t length = strlen(control->directory);
    return length && !strncmp(path, control->directory, length) && (path[length] == '/' || !path[length]);
}

/* The path of an open file below the directory, or NULL. */
static const char *path_of(int fd, char *buffer) {
    char name[32];
    if (!control) return NULL;
    snprintf(name, sizeof name, "/proc/self/fd/%d", fd);
    ssize_t length = readlink(name, buffer, PATH_MAX - 1);
    if (length <= 0) return NULL;
    buffer[length] = 0;
    return below(buffer) ? buffer : NULL;
}

/* What is to be done with this call: 0 or an action. */
static int verdict(enum op op, const char *path) {
    size_t length, wanted = strlen(control->suffix);
    if (!(control->ops & op)) return 0;
    length = strlen(path);
    if (length < wanted || strcmp(path + length - wanted, control->suffix)) return 0;
    uint64_t number = __atomic_add_fetch(&control->seen, 1, __ATOMIC_SEQ_CST);
    if (number < control->first || (control->times && number >= control->first + control->times)) return 0;
    __atomic_add_fetch(&control->hits, 1, __ATOMIC_SEQ_CST);
    if (control->action == KILL_BEFORE) kill(getpid(), SIGKILL), pause();
    return (int)control->action;
}

static void after(int action) {
    if (action == KILL_AFTER || action == TEAR) kill(getpid(), SIGKILL), pause();
}

static void note(enum op op, const char *path, uint64_t offset, const void *data, uint64_t length) {
    struct entry entry = { op, (uint32_t)strlen(path), offset, length };
    REAL(write);
    if (record < 0) return;
    if (real(record, &entry, sizeof entry) < 0 || real(record, path, entry.path_length) < 0) abort();
    while (data && length) {
        ssize_t done = real(record, data, length);
        if (done < 0) abort();
        data = (const char *)data + done;
        length -= (uint64_t)done;
    }
}

/* `call` as the program meant it, between what is decided before and what is written down after. */
#define GUARDED(type, op, path, call, torn, noted) \
    int action = verdict(op, path); \
    if (action == FAIL && !control->keep) { errno = (int)control->error; return -1; } \
    if (action == TEAR || action == FAIL) { type cut = (torn); after(action); errno = (int)control->error; return cut > 0 ? cut : -1; } \
    int recording = record >= 0; \
    if (recording) pthread_mutex_lock(&order); \
    type result = (call); \
    int error = errno; \
    if (recording) { \
        if (result >= 0) noted; \
        pthread_mutex_unlock(&order); \
    } \
    after(action); \
    errno = error; \
    return result

static size_t cut_to(size_t length) { return length < control->keep ? length : control->keep; }

ssize_t pwrite64(int fd, const void *data, size_t length, off64_t offset) {
    REAL(pwrite64);
    char buffer[PATH_MAX];
    const char *path = path_of(fd, buffer);
    if (!path) return real(fd, data, length, offset);
    GUARDED(ssize_t, WRITE, path, real(fd, data, length, offset), real(fd, data, cut_to(length), offset),
            note(WRITE, path, (uint64_t)offset, data, (uint64_t)result));
}
ssize_t pwrite(int fd, const void *data, size_t length, off_t offset) { return pwrite64(fd, data, length, offset); }

ssize_t write(int fd, const void *data, size_t length) {
    REAL(write);
    char buffer[PATH_MAX];
    const char *path = path_of(fd, buffer);
    if (!path) return real(fd, data, length);
    off64_t offset = lseek64(fd, 0, SEEK_CUR);
    GUARDED(ssize_t, WRITE, path, real(fd, data, length), real(fd, data, cut_to(length)),
            note(WRITE, path, (uint64_t)offset, data, (uint64_t)result));
}

ssize_t pread64(int fd, void *data, size_t length, off64_t offset) {
    REAL(pread64);
    char buffer[PATH_MAX];
    const char *path = path_of(fd, buffer);
    if (!path) return real(fd, data, length, offset);
    GUARDED(ssize_t, READ, path, real(fd, data, length, offset), real(fd, data, cut_to(length), offset), (void)0);
}
ssize_t pread(int fd, void *data, size_t length, off_t offset) { return pread64(fd, data, length, offset); }

ssize_t read(int fd, void *data, size_t length) {
    REAL(read);
    char buffer[PATH_MAX];
    const char *path = path_of(fd, buffer);
    if (!path) return real(fd, data, length);
    GUARDED(ssize_t, READ, path, real(fd, data, length), real(fd, data, cut_to(length)), (void)0);
}

int fsync(int fd) {
    REAL(fsync);
    char buffer[PATH_MAX];
    const char *path = path_of(fd, buffer);
    if (!path) return real(fd);
    GUARDED(int, SYNC, path, real(fd), -1, note(SYNC, path, 0, NULL, 0));
}

int fdatasync(int fd) {
    REAL(fdatasync);
    char buffer[PATH_MAX];
    const char *path = path_of(fd, buffer);
    if (!path) return real(fd);
    GUARDED(int, SYNC, path, real(fd), -1, note(SYNC, path, 0, NULL, 0));
}

int ftruncate64(int fd, off64_t length) {
    REAL(ftruncate64);
    char buffer[PATH_MAX];
    const char *path = path_of(fd, buffer);
    if (!path) return real(fd, length);
    GUARDED(int, TRUNCATE, path, real(fd, length), -1, note(TRUNCATE, path, (uint64_t)length, NULL, 0));
}
int ftruncate(int fd, off_t length) { return ftruncate64(fd, length); }

int posix_fallocate64(int fd, off64_t offset, off64_t length) {
    REAL(posix_fallocate64);
    char buffer[PATH_MAX];
    const char *path = path_of(fd, buffer);
    if (!path) return real(fd, offset, length);
    if (verdict(ALLOCATE, path) == FAIL) return (int)control->error; /* this call returns its error */
    return real(fd, offset, length);
}
int posix_fallocate(int fd, off_t offset, off_t length) { return posix_fallocate64(fd, offset, length); }

int unlink(const char *path) {
    REAL(unlink);
    if (!control || !below(path)) return real(path);
    GUARDED(int, UNLINK, path, real(path), -1, note(UNLINK, path, 0, NULL, 0));
}

int mkdir(const char *path, mode_t mode) {
    REAL(mkdir);
    if (!control || !below(path)) return real(path, mode);
    GUARDED(int, MKDIR, path, real(path, mode), -1, note(MKDIR, path, 0, NULL, 0));
}

/* The record holds the new name as the data of the old one. */
int rename(const char *path, const char *to) {
    REAL(rename);
    if (!control || !below(path)) return real(path, to);
    GUARDED(int, RENAME, path, real(path, to), -1, note(RENAME, path, 0, to, strlen(to)));
}

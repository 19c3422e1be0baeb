/* Counts the calls that a process makes to the file system below one folder, and lets one of them fail, or be the last.
 *
 * Preloaded by every_call.py, which says through the functions at the end what is to happen. Calls outside of the folder,
 * and all calls while nothing is asked for, go through.
 */
#define _GNU_SOURCE
#include <dirent.h>
#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/file.h>
#include <sys/mman.h>
#include <sys/sendfile.h>
#include <sys/stat.h>
#include <unistd.h>

enum { KILL = -1, SHORT = -2 };
enum { MOST_HANDLES = 4096, MOST_CALLS = 100000 };

static char folder[4096];
static char watched[MOST_HANDLES]; /* handles of files below the folder */
static const char *names[MOST_CALLS];
static int armed, taken, at = -1, how;

#define REAL(name) ((__typeof__(&name))real(#name))

static void *real(const char *name) {
    void *found = dlsym(RTLD_NEXT, name);
    if (!found) abort();
    return found;
}

static int below(const char *path) {
    size_t length = strlen(folder);
    return armed && path && !strncmp(path, folder, length) && (path[length] == '/' || !path[length]);
}

static int ours(int handle) { return armed && handle >= 0 && handle < MOST_HANDLES && watched[handle]; }

static int inside(int place, const char *path) {
    return path && path[0] == '/' ? below(path) : ours(place);
}

static void watch(int handle, int yes) {
    if (handle >= 0 && handle < MOST_HANDLES) watched[handle] = yes;
}

/* Takes a step, and says whether it has to fail; 2 where it is to do half of its work. */
static int step(const char *name) {
    int mine = taken++;
    if (mine < MOST_CALLS) names[mine] = name;
    if (mine != at) return 0;
    if (how == KILL) {
        kill(getpid(), SIGKILL);
        pause();
    }
    if (how == SHORT) return !strcmp(name, "write") ? 2 : 0;
    errno = how;
    return 1;
}

#define OPENED(call, condition)                       \
    int yes = (condition);                            \
    if (yes && step("open")) return -1;               \
    int handle = (call);                              \
    if (armed || yes) watch(handle, yes);             \
    return handle

static int has_mode(int flags) { return (flags & O_CREAT) || (flags & O_TMPFILE) == O_TMPFILE; }

#define MODE                                          \
    mode_t mode = 0;                                  \
    if (has_mode(flags)) {                            \
        va_list rest;                                 \
        va_start(rest, flags);                        \
        mode = va_arg(rest, mode_t);                  \
        va_end(rest);                                 \
    }

int open(const char *path, int flags, ...) { MODE OPENED(REAL(open)(path, flags, mode), below(path)); }
int open64(const char *path, int flags, ...) { MODE OPENED(REAL(open64)(path, flags, mode), below(path)); }
int openat(int place, const char *path, int flags, ...) {
    MODE OPENED(REAL(openat)(place, path, flags, mode), inside(place, path));
}
int openat64(int place, const char *path, int flags, ...) {
    MODE OPENED(REAL(openat64)(place, path, flags, mode), inside(place, path));
}

int close(int handle) { /* what cannot be closed well is closed all the same */
    int yes = ours(handle), failed = yes && step("close"), why = errno;
    watch(handle, 0);
    int done = REAL(close)(handle);
    if (!failed) return done;
    errno = why;
    return -1;
}

#define ON(condition, name, type, declared, call)                     \
    type name declared {                                              \
        if ((condition) && step(#name)) return (type)-1;              \
        return REAL(name) call;                                       \
    }

ON(ours(handle), read, ssize_t, (int handle, void *to, size_t size), (handle, to, size))
ON(ours(handle), pread64, ssize_t, (int handle, void *to, size_t size, off64_t from), (handle, to, size, from))
ON(ours(handle), pwrite64, ssize_t, (int handle, const void *what, size_t size, off64_t to), (handle, what, size, to))
ON(ours(handle), ftruncate64, int, (int handle, off64_t size), (handle, size))
ON(ours(handle), flock, int, (int handle, int kind), (handle, kind))
ON(ours(handle), fchmod, int, (int handle, mode_t mode), (handle, mode))
ON(ours(handle), futimens, int, (int handle, const struct timespec times[2]), (handle, times))
ON(ours(handle), fstat64, int, (int handle, struct stat64 *said), (handle, said))
ON(below(path), stat64, int, (const char *path, struct stat64 *said), (path, said))
ON(below(path), lstat64, int, (const char *path, struct stat64 *said), (path, said))
ON(inside(place, path), fstatat64, int, (int place, const char *path, struct stat64 *said, int flags),
   (place, path, said, flags))
ON(inside(place, path), utimensat, int, (int place, const char *path, const struct timespec times[2], int flags),
   (place, path, times, flags))
ON(below(from) || below(to), rename, int, (const char *from, const char *to), (from, to))
ON(inside(one, from) || inside(two, to), renameat, int, (int one, const char *from, int two, const char *to),
   (one, from, two, to))
ON(below(to), link, int, (const char *from, const char *to), (from, to))
ON(below(path), unlink, int, (const char *path), (path))
ON(inside(place, path), unlinkat, int, (int place, const char *path, int flags), (place, path, flags))
ON(below(path), mkdir, int, (const char *path, mode_t mode), (path, mode))
ON(inside(place, path), mkdirat, int, (int place, const char *path, mode_t mode), (place, path, mode))
ON(below(path), rmdir, int, (const char *path), (path))
ON(below(path), access, int, (const char *path, int mode), (path, mode))
ON(ours(to) || ours(from), sendfile64, ssize_t, (int to, int from, off64_t *start, size_t size),
   (to, from, start, size))

ssize_t write(int handle, const void *what, size_t size) {
    int failed = ours(handle) ? step("write") : 0;
    if (failed == 1) return -1;
    return REAL(write)(handle, what, failed == 2 && size > 1 ? size / 2 : size);
}

int fsync(int handle) { /* nobody can tell that it does nothing, but for its time */
    if (!ours(handle)) return REAL(fsync)(handle);
    return step("fsync") ? -1 : 0;
}

void *mmap64(void *where, size_t size, int kind, int flags, int handle, off64_t from) {
    if (ours(handle) && step("mmap")) return MAP_FAILED;
    return REAL(mmap64)(where, size, kind, flags, handle, from);
}

DIR *opendir(const char *path) {
    if (below(path) && step("opendir")) return NULL;
    return REAL(opendir)(path);
}

DIR *fdopendir(int handle) {
    if (ours(handle) && step("opendir")) return NULL;
    return REAL(fdopendir)(handle);
}

/* For every_call.py. */
void faults_begin(const char *path, int number, int what) {
    snprintf(folder, sizeof folder, "%s", path);
    memset(watched, 0, sizeof watched);
    taken = 0;
    at = number;
    how = what;
    armed = 1;
}

int faults_end(void) {
    armed = 0;
    return taken;
}

const char *faults_name(int number) { return number >= 0 && number < taken && number < MOST_CALLS ? names[number] : ""; }

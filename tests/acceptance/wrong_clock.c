// A machine's wrong clock, for one process and those that it starts: preloaded, all that tells the time of day is
// CLOCK_OFFSET seconds off, times of files included, as on a machine of its own. What only measures durations (the
// monotonic clocks, and all waiting) is right. libfaketime 0.9.10 breaks sleeping and does not reach times of files.
#define _GNU_SOURCE
#include <dlfcn.h>
#include <stdlib.h>
#include <sys/stat.h>
#include <sys/time.h>
#include <sys/types.h>
#include <time.h>

#define REAL(name) static __typeof__(&name) real; if (!real) real = (__typeof__(&name))dlsym(RTLD_NEXT, #name)

static long offset(void) {
    static long seconds, known;
    if (!known) {
        const char *text = getenv("CLOCK_OFFSET");
        seconds = text ? atol(text) : 0;
        known = 1;
    }
    return seconds;
}

int clock_gettime(clockid_t clock, struct timespec *now) {
    REAL(clock_gettime);
    int failed = real(clock, now);
    if (!failed && (clock == CLOCK_REALTIME || clock == CLOCK_REALTIME_COARSE)) now->tv_sec += offset();
    return failed;
}

int gettimeofday(struct timeval *restrict now, void *restrict zone) {
    REAL(gettimeofday);
    int failed = real(now, zone);
    if (!failed) now->tv_sec += offset();
    return failed;
}

time_t time(time_t *into) {
    struct timespec now;
    clock_gettime(CLOCK_REALTIME, &now);
    if (into) *into = now.tv_sec;
    return now.tv_sec;
}

static int shifted(int failed, struct stat *found) {
    if (!failed) {
        found->st_atim.tv_sec += offset();
        found->st_mtim.tv_sec += offset();
        found->st_ctim.tv_sec += offset();
    }
    return failed;
}

#define STATS(plain, at, ofd, link, type)                                                                            \
    int plain(const char *restrict path, struct type *restrict found) {                                              \
        REAL(plain);                                                                                                 \
        return shifted(real(path, found), (struct stat *)found);                                                     \
    }                                                                                                                \
    int link(const char *restrict path, struct type *restrict found) {                                               \
        REAL(link);                                                                                                  \
        return shifted(real(path, found), (struct stat *)found);                                                     \
    }                                                                                                                \
    int ofd(int file, struct type *found) {                                                                          \
        REAL(ofd);                                                                                                   \
        return shifted(real(file, found), (struct stat *)found);                                                     \
    }                                                                                                                \
    int at(int directory, const char *restrict path, struct type *restrict found, int flags) {                       \
        REAL(at);                                                                                                    \
        return shifted(real(directory, path, found, flags), (struct stat *)found);                                   \
    }

// On 64-bit machines both are one structure.
STATS(stat, fstatat, fstat, lstat, stat)
STATS(stat64, fstatat64, fstat64, lstat64, stat64)

// By these names programs ask that were linked before glibc 2.33: uWSGI's wheel.
#define OLD_STATS(plain, ofd, link, type)                                                                            \
    int __x##plain(int, const char *path, struct type *found) { return plain(path, found); }                         \
    int __lx##plain(int, const char *path, struct type *found) { return link(path, found); }                         \
    int __fx##plain(int, int file, struct type *found) { return ofd(file, found); }

OLD_STATS(stat, fstat, lstat, stat)
OLD_STATS(stat64, fstat64, lstat64, stat64)

static const struct timespec *unshifted(const struct timespec given[2], struct timespec into[2]) {
    if (!given) return given;
    for (int i = 0; i < 2; i++) {
        into[i] = given[i];
        if (given[i].tv_nsec != UTIME_NOW && given[i].tv_nsec != UTIME_OMIT) into[i].tv_sec -= offset();
    }
    return into;
}

int utimensat(int directory, const char *path, const struct timespec given[2], int flags) {
    struct timespec into[2];
    REAL(utimensat);
    return real(directory, path, unshifted(given, into), flags);
}

int futimens(int file, const struct timespec given[2]) {
    struct timespec into[2];
    REAL(futimens);
    return real(file, unshifted(given, into));
}

/* LD_PRELOAD: another wall clock, NTP state, boot clock and boot id for one process and its children.
 *
 * FAKE_CLOCK names a file that is read at each call: "WALL BOOT NTP ID", where WALL and BOOT are
 * seconds to add to the wall and the boot clock (decimals allowed), NTP is 1 if the kernel is to
 * say that the clock is set, and ID is the boot id. The monotonic clock, by which threads wait,
 * stays true. libfaketime 0.9.10 does not: it breaks threaded Python.
 */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <fcntl.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <sys/time.h>
#include <sys/timex.h>
#include <time.h>
#include <unistd.h>

#define BILLION 1000000000LL
#define BOOT_ID "/proc/sys/kernel/random/boot_id"

struct fake { double wall, boot; int ntp; char id[64]; };

/* Plain system calls: whoever asks for the time may be inside the C library's own locks. */
static struct fake fake(void) {
    struct fake f = {0, 0, 0, ""};
    char text[256];
    const char *path = getenv("FAKE_CLOCK");
    int fd = path ? (int)syscall(SYS_openat, AT_FDCWD, path, O_RDONLY | O_CLOEXEC) : -1;
    if (fd < 0) return f;
    long n = syscall(SYS_read, fd, text, sizeof text - 1);
    syscall(SYS_close, fd);
    text[n > 0 ? n : 0] = 0;
    sscanf(text, "%lf %lf %d %63s", &f.wall, &f.boot, &f.ntp, f.id);
    return f;
}

static void add(struct timespec *t, double seconds) {
    long long ns = t->tv_sec * BILLION + t->tv_nsec + (long long)(seconds * 1e9);
    if (ns < 0) ns = 0;
    t->tv_sec = ns / BILLION;
    t->tv_nsec = ns % BILLION;
}

int clock_gettime(clockid_t id, struct timespec *t) {
    int failed = (int)syscall(SYS_clock_gettime, id, t);
    if (failed) return failed;
    if (id == CLOCK_REALTIME || id == CLOCK_REALTIME_COARSE || id == CLOCK_TAI) add(t, fake().wall);
    if (id == CLOCK_BOOTTIME) add(t, fake().boot);
    return 0;
}

int gettimeofday(struct timeval *restrict t, void *restrict zone) {
    struct timespec now;
    (void)zone;
    if (clock_gettime(CLOCK_REALTIME, &now)) return -1;
    t->tv_sec = now.tv_sec;
    t->tv_usec = now.tv_nsec / 1000;
    return 0;
}

time_t time(time_t *t) {
    struct timespec now;
    clock_gettime(CLOCK_REALTIME, &now);
    if (t) *t = now.tv_sec;
    return now.tv_sec;
}

int adjtimex(struct timex *t) {
    int (*real)(struct timex *) = (int (*)(struct timex *))dlsym(RTLD_NEXT, "adjtimex");
    int state = real(t);
    int ntp = fake().ntp;
    t->status = ntp ? t->status & ~STA_UNSYNC : t->status | STA_UNSYNC;
    return state < 0 ? state : ntp ? TIME_OK : TIME_ERROR;
}

/* A file in memory that says the boot id, or -1 if this is another file or no id is given. */
static int boot_id(const char *path) {
    if (strcmp(path, BOOT_ID)) return -1;
    struct fake f = fake();
    if (!f.id[0]) return -1;
    int fd = memfd_create("boot_id", MFD_CLOEXEC);
    if (fd < 0 || dprintf(fd, "%s\n", f.id) < 0) return -1;
    lseek(fd, 0, SEEK_SET);
    return fd;
}

#define OPEN(name)                                                         \
    int name(const char *path, int flags, ...) {                           \
        va_list more;                                                      \
        va_start(more, flags);                                             \
        int mode = flags & (O_CREAT | O_TMPFILE) ? va_arg(more, int) : 0;  \
        va_end(more);                                                      \
        int fd = boot_id(path);                                            \
        return fd < 0 ? openat(AT_FDCWD, path, flags, mode) : fd;          \
    }
OPEN(open)
OPEN(open64)

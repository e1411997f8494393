/* LD_PRELOAD: a disk that answers EIO, for the files below one directory.
 *
 * SICK_DISK names a file that is looked at with each call: while it is there, what is written or
 * synced below SICK_DIRECTORY fails; if it holds "all", what is read fails too. What the kernel
 * maps into memory (SQLite's index of its WAL) stays as it is.
 */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/syscall.h>
#include <unistd.h>

/* 0: well, 1: does not write, 2: does not read either. Plain system calls: they are not wrapped. */
static int sickness(void) {
    char text[8] = "";
    const char *path = getenv("SICK_DISK");
    int fd = path ? (int)syscall(SYS_openat, AT_FDCWD, path, O_RDONLY | O_CLOEXEC) : -1;
    if (fd < 0) return 0;
    long n = syscall(SYS_read, fd, text, sizeof text - 1);
    syscall(SYS_close, fd);
    return n >= 3 && !strncmp(text, "all", 3) ? 2 : 1;
}

static int fails(int fd, int reads) {
    char link[32], path[4096];
    const char *directory = getenv("SICK_DIRECTORY");
    if (!directory || sickness() < 1 + reads) return 0;
    snprintf(link, sizeof link, "/proc/self/fd/%d", fd);
    long n = syscall(SYS_readlinkat, AT_FDCWD, link, path, sizeof path - 1);
    path[n > 0 ? n : 0] = 0;
    if (strncmp(path, directory, strlen(directory))) return 0;
    errno = EIO;
    return 1;
}

#define WRAP(type, name, parameters, arguments, reads)         \
    type name parameters {                                     \
        static type(*real) parameters;                         \
        if (!real) *(void **)&real = dlsym(RTLD_NEXT, #name);  \
        return fails(fd, reads) ? -1 : real arguments;         \
    }
WRAP(ssize_t, pwrite, (int fd, const void *data, size_t n, off_t at), (fd, data, n, at), 0)
WRAP(ssize_t, pwrite64, (int fd, const void *data, size_t n, off64_t at), (fd, data, n, at), 0)
WRAP(ssize_t, write, (int fd, const void *data, size_t n), (fd, data, n), 0)
WRAP(int, fsync, (int fd), (fd), 0)
WRAP(int, fdatasync, (int fd), (fd), 0)
WRAP(int, ftruncate, (int fd, off_t size), (fd, size), 0)
WRAP(int, ftruncate64, (int fd, off64_t size), (fd, size), 0)
WRAP(ssize_t, pread, (int fd, void *data, size_t n, off_t at), (fd, data, n, at), 1)
WRAP(ssize_t, pread64, (int fd, void *data, size_t n, off64_t at), (fd, data, n, at), 1)
WRAP(ssize_t, read, (int fd, void *data, size_t n), (fd, data, n), 1)

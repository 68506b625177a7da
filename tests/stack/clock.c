/* A time of day that a test sets, for one program that is started with LD_PRELOAD: the clock that the
 * program reads, and what the kernel says of who keeps it. Every other clock is the machine's, so that
 * waiting takes as long as it does, and a certificate is judged by the right day.
 *
 * PICKET_TEST_CLOCK names a file of two 64-bit numbers, which the test may change at any time: by how
 * many nanoseconds the clock is off, and whether a time source keeps it. */
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/timex.h>
#include <time.h>
#include <unistd.h>

static volatile long long *said;

__attribute__((constructor)) static void begin(void)
{
    const char *path = getenv("PICKET_TEST_CLOCK");
    int file = path ? open(path, O_RDONLY | O_CLOEXEC) : -1;
    void *place = mmap(NULL, 16, PROT_READ, MAP_SHARED, file, 0);

    /* A test that would run by the right clock after all shows nothing. */
    if (place == MAP_FAILED)
        abort();
    said = place;
    close(file);
}

int clock_gettime(clockid_t clock, struct timespec *now)
{
    long long ns;
    int result = (int)syscall(SYS_clock_gettime, clock, now);

    if (result == 0 && clock == CLOCK_REALTIME && said) {
        ns = now->tv_sec * 1000000000LL + now->tv_nsec + said[0];
        now->tv_sec = ns / 1000000000LL;
        now->tv_nsec = ns % 1000000000LL;
    }
    return result;
}

int adjtimex(struct timex *state)
{
    if (state->modes != 0) {
        errno = EPERM;
        return -1;
    }
    memset(state, 0, sizeof *state);
    state->status = said && said[1] ? 0 : STA_UNSYNC;
    return said && said[1] ? TIME_OK : TIME_ERROR;
}

/* The mark of systemd-timesyncd, which a machine that runs tests may have. Without a path only the
 * kernel is asked whether it knows this call, and never of the working folder. */
int statx(int dir, const char *path, int flags, unsigned mask, struct statx *found)
{
    if (dir == AT_FDCWD && strcmp(path, "/run/systemd/timesync/synchronized") == 0) {
        errno = ENOENT;
        return -1;
    }
    return (int)syscall(SYS_statx, dir, path, flags, mask, found);
}

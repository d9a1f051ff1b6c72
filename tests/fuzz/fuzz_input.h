/*
 * Purpose: hands a fuzz target's bytes to code that opens files by path.
 * Owns:    anonymous files that live as long as the process, rewritten for every input.
 * Threads: one.
 * Errors:  a system that refuses ends the target: nothing can be tested then.
 * Limits:  none.
 */
#ifndef PHI_TESTS_FUZZ_INPUT_H
#define PHI_TESTS_FUZZ_INPUT_H

#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <unistd.h>

/* One anonymous file, and a path that opens it. Zeroed to begin with. */
typedef struct fuzz_slot {
    char path[64];
    int fd;
} fuzz_slot;

/* Makes the slot's file hold exactly these bytes and returns its path. */
static inline const char *fuzz_slot_set(fuzz_slot *slot, const void *data, size_t bytes)
{
    if (!slot->path[0]) {
        slot->fd = memfd_create("fuzz", MFD_CLOEXEC);
        (void)snprintf(slot->path, sizeof slot->path, "/proc/self/fd/%d", slot->fd);
    }
    if (slot->fd < 0 || ftruncate(slot->fd, 0) != 0 ||
        pwrite(slot->fd, data, bytes, 0) != (ssize_t)bytes) {
        abort();
    }
    return slot->path;
}

/* The same for targets that need one file only. */
static inline const char *fuzz_file(const void *data, size_t bytes)
{
    static fuzz_slot slot;
    return fuzz_slot_set(&slot, data, bytes);
}

#endif

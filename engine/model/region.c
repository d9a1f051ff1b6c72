#include "engine/model/region.h"

#include "base/assert.h"
#include "engine/kernels/machine.h"

#include <errno.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

/* Kernels before 5.14, and the headers of their time. */
#ifndef MADV_POPULATE_READ
#define MADV_POPULATE_READ 22
#endif

static phi_status map(uint64_t bytes, int protection, int flags, int fd, phi_region *out_region,
                      phi_err *err)
{
    PHI_ASSERT(bytes > 0);
    void *memory =
        bytes > SIZE_MAX ? MAP_FAILED : mmap(NULL, (size_t)bytes, protection, flags, fd, 0);
    if (memory == MAP_FAILED) {
        return phi_fail(err, PHI_E_NO_MEMORY, "not enough memory for %llu MB of weights",
                        (unsigned long long)(bytes >> 20));
    }
    *out_region = (phi_region){.memory = memory, .bytes = bytes, .is_file = fd >= 0};
    return PHI_OK;
}

phi_status phi_region_alloc(uint64_t bytes, phi_region *out_region, phi_err *err)
{
    phi_status status =
        map(bytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, out_region, err);
    if (!status) {
        /* Advice, before the first touch: what the system does not have costs speed only. */
        (void)phi_machine_interleave(out_region->memory, (size_t)bytes);
        (void)phi_machine_advise_huge(out_region->memory, (size_t)bytes);
    }
    return status;
}

phi_status phi_region_map(int fd, uint64_t bytes, phi_region *out_region, phi_err *err)
{
    PHI_ASSERT(fd >= 0);
    return map(bytes, PROT_READ, MAP_SHARED, fd, out_region, err);
}

void phi_region_release(phi_region *region)
{
    if (region && region->memory) {
        int failed = munmap(region->memory, (size_t)region->bytes);
        PHI_ASSERT(!failed);
        *region = (phi_region){0};
    }
}

/* Reads a range for the page cache's sake. */
static int read_through(int fd, uint64_t offset, uint64_t bytes)
{
    char block[16384];
    while (bytes > 0) {
        size_t want = bytes < sizeof block ? (size_t)bytes : sizeof block;
        ssize_t got = pread(fd, block, want, (off_t)offset);
        if (got <= 0) {
            return got < 0 ? errno : EIO;
        }
        offset += (uint64_t)got;
        bytes -= (uint64_t)got;
    }
    return 0;
}

phi_status phi_region_populate(const phi_region *region, int fd, uint64_t offset, uint64_t bytes,
                               phi_err *err)
{
    PHI_ASSERT(region->is_file && offset <= region->bytes && bytes <= region->bytes - offset);
    size_t page = (size_t)sysconf(_SC_PAGESIZE);
    size_t before = (size_t)(offset % page);
    char *from = (char *)region->memory + offset - before;
    int failed = madvise(from, (size_t)bytes + before, MADV_POPULATE_READ) == 0 ? 0 : errno;
    if (failed == EINVAL) {
        failed = read_through(fd, offset, bytes);
    }
    if (failed) {
        return phi_fail(err, PHI_E_IO, "cannot read the weights at offset %llu: %s",
                        (unsigned long long)offset, strerror(failed));
    }
    return PHI_OK;
}

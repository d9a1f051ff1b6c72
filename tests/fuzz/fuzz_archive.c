/* An uploaded .tar of any bytes: what is unpacked are plain files with plain names in the directory
 * that was given, no more bytes than the archive has; a refusal says why. Headers get their
 * checksums, or nothing would come past them. */
#include <dirent.h>
#include <fcntl.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/mem.h"
#include "fuzz_input.h"
#include "server/quantization/job_archive.h"

#define BLOCK 512U
/* Where a header has its checksum and the size of its data, in octal digits (POSIX ustar). */
#define SUM_AT 148U
#define SUM_BYTES 8U
#define SIZE_AT 124U
#define SIZE_BYTES 12U

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t bytes);
size_t LLVMFuzzerMutate(uint8_t *data, size_t bytes, size_t most);
size_t LLVMFuzzerCustomMutator(uint8_t *data, size_t bytes, size_t most, unsigned seed);

static void require(bool holds)
{
    if (!holds) {
        abort();
    }
}

/* ---- headers whose checksums hold ---- */

static void set_checksum(uint8_t *header)
{
    char digits[SUM_BYTES + 1];
    unsigned sum = 0;
    memset(header + SUM_AT, ' ', SUM_BYTES);
    for (size_t i = 0; i < BLOCK; i++) {
        sum += header[i];
    }
    (void)snprintf(digits, sizeof digits, "%06o", sum);
    memcpy(header + SUM_AT, digits, SUM_BYTES - 1);
}

static size_t data_bytes(const uint8_t *header)
{
    char digits[SIZE_BYTES + 1] = "";
    memcpy(digits, header + SIZE_AT, SIZE_BYTES);
    return strtoull(digits, NULL, 8);
}

size_t LLVMFuzzerCustomMutator(uint8_t *data, size_t bytes, size_t most, unsigned seed)
{
    bytes = LLVMFuzzerMutate(data, bytes, most);
    /* Some stay as they came. */
    if (seed % 16 == 0) {
        return bytes;
    }
    for (size_t at = 0; at < bytes && bytes - at >= BLOCK;) {
        size_t size = data_bytes(data + at);
        if (data[at]) {
            set_checksum(data + at);
        }
        at += BLOCK;
        size_t whole = size / BLOCK * BLOCK + (size % BLOCK ? BLOCK : 0);
        at += whole < bytes - at ? whole : 0;
    }
    return bytes;
}

/* ---- what is unpacked ---- */

static char dir[] = "/tmp/phid-fuzz-archive-XXXXXX";
static int dir_fd = -1;

static void remove_dir(void)
{
    (void)rmdir(dir);
}

static void open_dir(void)
{
    if (dir_fd < 0) {
        require(mkdtemp(dir) != NULL);
        require(atexit(remove_dir) == 0);
        dir_fd = open(dir, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
        require(dir_fd >= 0);
    }
}

/* Looks at each file and removes it. */
static size_t take_files(size_t bytes_max)
{
    size_t n = 0;
    uint64_t bytes = 0;
    DIR *list = fdopendir(openat(dir_fd, ".", O_RDONLY | O_DIRECTORY | O_CLOEXEC));
    require(list != NULL);
    for (struct dirent *entry; (entry = readdir(list));) {
        struct stat info;
        if (strcmp(entry->d_name, ".") == 0 || strcmp(entry->d_name, "..") == 0) {
            continue;
        }
        require(fstatat(dir_fd, entry->d_name, &info, AT_SYMLINK_NOFOLLOW) == 0);
        require(S_ISREG(info.st_mode) && info.st_nlink == 1);
        require(!strpbrk(entry->d_name, "\\\n\r\t"));
        bytes += (uint64_t)info.st_size;
        require(unlinkat(dir_fd, entry->d_name, 0) == 0);
        n++;
    }
    (void)closedir(list);
    require(bytes <= bytes_max);
    return n;
}

static bool on_progress(void *user, uint64_t bytes_done, uint64_t bytes_total)
{
    require(bytes_done <= bytes_total && bytes_total == *(const size_t *)user);
    return true;
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t bytes)
{
    static fuzz_slot slot;
    phi_err err = {0};
    size_t left_out = 0;
    size_t config_bytes = 0;
    open_dir();
    const char *path = fuzz_slot_set(&slot, data, bytes);
    phi_status status = phi_job_unpack(path, dir, on_progress, &bytes, &left_out, &err);
    size_t n = take_files(bytes);
    if (status) {
        require(err.code == status && err.message[0]);
        require(memchr(err.message, '\0', sizeof err.message) != NULL);
    } else {
        require(n > 0);
    }
    char *config = phi_job_archive_config(path, &config_bytes);
    require(config ? config_bytes > 0 && config_bytes <= bytes : config_bytes == 0);
    phi_free(config);
    return 0;
}

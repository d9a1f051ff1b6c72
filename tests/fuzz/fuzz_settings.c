/* A settings file of any bytes: errors are reported, each with its line, and nothing else happens.
 */
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <unistd.h>

#include "config/settings.h"

#define REPORT_BYTES_MAX (16U << 20)

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t bytes);

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t bytes)
{
    static int fd = -1;
    static char path[64];
    if (fd < 0) {
        fd = memfd_create("settings", MFD_CLOEXEC);
        (void)snprintf(path, sizeof path, "/proc/self/fd/%d", fd);
    }
    if (ftruncate(fd, 0) != 0 || pwrite(fd, data, bytes, 0) != (ssize_t)bytes) {
        abort();
    }
    phi_buf report;
    size_t errors = 0;
    phi_buf_init(&report, REPORT_BYTES_MAX);
    phi_status status = phi_settings_check_file(path, &report, &errors);
    if ((status == PHI_OK) != (errors == 0)) {
        abort();
    }
    phi_buf_done(&report);
    return 0;
}

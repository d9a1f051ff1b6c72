/*
 * Linux's own descriptions: proc(5) for /proc/meminfo and /proc/self/cgroup,
 * Documentation/admin-guide/cgroup-v2.rst for cpu.max and memory.max, cgroup-v1/ for the old names.
 */
#include "engine/kernels/machine.h"

#include "base/mem.h"

#include <inttypes.h>
#include <sched.h>
#include <stdbool.h>
#include <stdio.h>
#include <string.h>

#define TEXT_BYTES 8192
#define PATH_BYTES 4352

static bool read_text(const char *path, char text[TEXT_BYTES])
{
    FILE *file = fopen(path, "re");
    if (!file) {
        return false;
    }
    size_t n = fread(text, 1, TEXT_BYTES - 1, file);
    (void)fclose(file);
    text[n] = '\0';
    return n > 0;
}

static bool read_number(const char *dir, const char *name, uint64_t *out_value)
{
    char path[PATH_BYTES + 64];
    char text[TEXT_BYTES];
    (void)snprintf(path, sizeof path, "%s/%s", dir, name);
    return read_text(path, text) && sscanf(text, "%" SCNu64, out_value) == 1;
}

/* ---- control groups ---- */

/* Called for a group's directory and each one above it, up to the mount. */
typedef void (*group_fn)(const char *dir, void *arg);

static void walk_up(const char *mount, const char *group, group_fn fn, void *arg)
{
    char dir[PATH_BYTES];
    int n = snprintf(dir, sizeof dir, "%s%s", mount, strcmp(group, "/") == 0 ? "" : group);
    if (n < 0 || (size_t)n >= sizeof dir) {
        return;
    }
    size_t mount_bytes = strlen(mount);
    for (;;) {
        fn(dir, arg);
        char *slash = strrchr(dir, '/');
        if (strlen(dir) <= mount_bytes || !slash) {
            return;
        }
        *slash = '\0';
    }
}

/* True if the comma-separated `list` holds `name`. */
static bool list_has(const char *list, const char *name)
{
    size_t bytes = strlen(name);
    for (const char *at = list; at; at = strchr(at, ',')) {
        at += *at == ',';
        if (strncmp(at, name, bytes) == 0 && (at[bytes] == ',' || at[bytes] == '\0')) {
            return true;
        }
    }
    return false;
}

/* Walks the v2 group with `v2`, and the v1 group of `controller` with `v1`. A container may see its
 * group's path from outside while its own mount starts at the group: then only the mount exists. */
static void each_group(const char *controller, group_fn v1, group_fn v2, void *arg)
{
    char text[TEXT_BYTES];
    if (!read_text("/proc/self/cgroup", text)) {
        return;
    }
    char *rest = NULL;
    for (char *line = strtok_r(text, "\n", &rest); line; line = strtok_r(NULL, "\n", &rest)) {
        char *controllers = strchr(line, ':');
        char *group = controllers ? strchr(controllers + 1, ':') : NULL;
        if (!group) {
            continue;
        }
        *group++ = '\0';
        controllers++;
        if (controllers[0] == '\0') {
            walk_up("/sys/fs/cgroup", group, v2, arg);
        } else if (list_has(controllers, controller)) {
            char mount[64];
            (void)snprintf(mount, sizeof mount, "/sys/fs/cgroup/%s", controller);
            walk_up(mount, group, v1, arg);
        }
    }
}

/* ---- CPUs ---- */

static void lower_cpus(unsigned *cpus, uint64_t quota_us, uint64_t period_us)
{
    if (period_us > 0 && quota_us > 0) {
        uint64_t whole = quota_us / period_us + (quota_us % period_us != 0);
        *cpus = whole < *cpus ? (unsigned)whole : *cpus;
    }
}

static void cpu_quota_v2(const char *dir, void *arg)
{
    char path[PATH_BYTES + 16];
    char text[TEXT_BYTES];
    uint64_t quota_us;
    uint64_t period_us;
    (void)snprintf(path, sizeof path, "%s/cpu.max", dir);
    /* "max 100000" has no number in front: no quota. */
    if (read_text(path, text) && sscanf(text, "%" SCNu64 " %" SCNu64, &quota_us, &period_us) == 2) {
        lower_cpus(arg, quota_us, period_us);
    }
}

static void cpu_quota_v1(const char *dir, void *arg)
{
    uint64_t quota_us;
    uint64_t period_us;
    /* No quota is -1, which as an unsigned number is too large to lower anything. */
    if (read_number(dir, "cpu.cfs_quota_us", &quota_us) && quota_us <= INT64_MAX &&
        read_number(dir, "cpu.cfs_period_us", &period_us)) {
        lower_cpus(arg, quota_us, period_us);
    }
}

static unsigned affinity_cpus(void)
{
    /* The kernel refuses a mask that is too small for its CPUs: grow until it fits. */
    for (int cpus_max = 1024; cpus_max <= 1 << 16; cpus_max *= 2) {
        cpu_set_t *set = CPU_ALLOC((size_t)cpus_max);
        if (!set) {
            break;
        }
        size_t bytes = CPU_ALLOC_SIZE((size_t)cpus_max);
        CPU_ZERO_S(bytes, set);
        int n = sched_getaffinity(0, bytes, set) == 0 ? CPU_COUNT_S(bytes, set) : 0;
        CPU_FREE(set);
        if (n > 0) {
            return (unsigned)n;
        }
    }
    return 1;
}

unsigned phi_machine_cpus(void)
{
    unsigned cpus = affinity_cpus();
    each_group("cpu", cpu_quota_v1, cpu_quota_v2, &cpus);
    return cpus > 0 ? cpus : 1;
}

/* ---- memory ---- */

static void lower_memory(uint64_t *available, uint64_t max, uint64_t used, uint64_t reclaimable)
{
    used -= reclaimable < used ? reclaimable : used;
    uint64_t left = max > used ? max - used : 0;
    *available = left < *available ? left : *available;
}

/* File pages that nobody has used of late can go when memory is wanted. */
static uint64_t inactive_file_bytes(const char *dir, const char *key)
{
    char path[PATH_BYTES + 16];
    char text[TEXT_BYTES];
    uint64_t bytes = 0;
    (void)snprintf(path, sizeof path, "%s/memory.stat", dir);
    if (read_text(path, text)) {
        const char *at = strstr(text, key);
        if (at && sscanf(at + strlen(key), "%" SCNu64, &bytes) != 1) {
            bytes = 0;
        }
    }
    return bytes;
}

static void memory_left_v2(const char *dir, void *arg)
{
    uint64_t max;
    uint64_t used;
    if (read_number(dir, "memory.max", &max) && read_number(dir, "memory.current", &used)) {
        lower_memory(arg, max, used, inactive_file_bytes(dir, "\ninactive_file "));
    }
}

static void memory_left_v1(const char *dir, void *arg)
{
    uint64_t max;
    uint64_t used;
    if (read_number(dir, "memory.limit_in_bytes", &max) &&
        read_number(dir, "memory.usage_in_bytes", &used)) {
        lower_memory(arg, max, used, inactive_file_bytes(dir, "\ntotal_inactive_file "));
    }
}

uint64_t phi_machine_memory_available(void)
{
    char text[TEXT_BYTES];
    uint64_t available = UINT64_MAX;
    uint64_t kib;
    const char *at = read_text("/proc/meminfo", text) ? strstr(text, "MemAvailable:") : NULL;
    if (at && sscanf(at + strlen("MemAvailable:"), "%" SCNu64, &kib) == 1) {
        available = kib * 1024;
    }
    each_group("memory", memory_left_v1, memory_left_v2, &available);
    return available;
}

/*
 * Linux's own descriptions: proc(5) for /proc/meminfo and /proc/self/cgroup,
 * Documentation/admin-guide/cgroup-v2.rst for cpu.max and memory.max, cgroup-v1/ for the old names,
 * Documentation/admin-guide/cputopology.rst for thread_siblings_list, ABI/stable/sysfs-devices-node
 * for has_memory, mbind(2) for policies.
 */
#include "engine/kernels/machine.h"

#include "base/mem.h"

#include <inttypes.h>
#include <linux/mempolicy.h>
#include <sched.h>
#include <stdio.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <unistd.h>

#define TEXT_BYTES 8192
#define PATH_BYTES 4352
/* CPUs that are looked at: far more than a team can have threads. */
#define CPUS_MAX 4096U

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
static void each_group(const char *root, const char *controller, group_fn v1, group_fn v2,
                       void *arg)
{
    char text[TEXT_BYTES];
    char mount[PATH_BYTES];
    (void)snprintf(mount, sizeof mount, "%s/proc/self/cgroup", root);
    if (!read_text(mount, text)) {
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
            (void)snprintf(mount, sizeof mount, "%s/sys/fs/cgroup", root);
            walk_up(mount, group, v2, arg);
        } else if (list_has(controllers, controller)) {
            (void)snprintf(mount, sizeof mount, "%s/sys/fs/cgroup/%s", root, controller);
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

/* The numbers of the affinity mask's CPUs in rising order, as many as fit; their number. */
static size_t affinity_mask(uint16_t *out_mask, size_t n_max)
{
    size_t n = 0;
    /* The kernel refuses a mask that is too small for its CPUs: grow until it fits. */
    for (size_t cpus_max = 1024; cpus_max <= 1U << 16 && n == 0; cpus_max *= 2) {
        cpu_set_t *set = CPU_ALLOC(cpus_max);
        if (!set) {
            break;
        }
        size_t bytes = CPU_ALLOC_SIZE(cpus_max);
        CPU_ZERO_S(bytes, set);
        if (sched_getaffinity(0, bytes, set) == 0) {
            for (size_t cpu = 0; cpu < cpus_max && n < n_max; cpu++) {
                if (CPU_ISSET_S(cpu, bytes, set)) {
                    out_mask[n++] = (uint16_t)cpu;
                }
            }
        }
        CPU_FREE(set);
    }
    return n;
}

/* Reads "0-3,8" at *at into a range and moves on; false at the end or at what is no range. */
static bool next_range(const char **at, unsigned *out_first, unsigned *out_last)
{
    int used = 0;
    if (sscanf(*at, "%u%n", out_first, &used) != 1) {
        return false;
    }
    *at += used;
    *out_last = *out_first;
    if (**at == '-' && sscanf(*at, "-%u%n", out_last, &used) == 1) {
        *at += used;
    }
    *at += **at == ',';
    return true;
}

static bool mask_has(const uint16_t *mask, size_t n, unsigned cpu)
{
    size_t low = 0;
    size_t high = n;
    while (low < high) {
        size_t middle = (low + high) / 2;
        if (mask[middle] < cpu) {
            low = middle + 1;
        } else {
            high = middle;
        }
    }
    return low < n && mask[low] == cpu;
}

/* How many hardware threads of this CPU's core come before it in the mask. */
static unsigned rank_in_core(const char *root, const uint16_t *mask, size_t n, unsigned cpu)
{
    char path[PATH_BYTES];
    char text[TEXT_BYTES];
    unsigned rank = 0;
    (void)snprintf(path, sizeof path,
                   "%s/sys/devices/system/cpu/cpu%u/topology/thread_siblings_list", root, cpu);
    if (!read_text(path, text)) {
        return 0;
    }
    const char *at = text;
    for (unsigned first, last; next_range(&at, &first, &last);) {
        for (unsigned sibling = first; sibling <= last && sibling < cpu; sibling++) {
            rank += mask_has(mask, n, sibling);
        }
    }
    return rank;
}

void phi_machine_cpus_list_under(const char *root, const uint16_t *mask, size_t n,
                                 phi_machine_cpu_list *out_list)
{
    uint8_t ranks[CPUS_MAX];
    unsigned rank_max = 0;
    *out_list = (phi_machine_cpu_list){.n_cpus = (unsigned)n};
    n = n < CPUS_MAX ? n : CPUS_MAX;
    for (size_t i = 0; i < n; i++) {
        unsigned rank = rank_in_core(root, mask, n, mask[i]);
        ranks[i] = (uint8_t)(rank < UINT8_MAX ? rank : UINT8_MAX);
        rank_max = ranks[i] > rank_max ? ranks[i] : rank_max;
        out_list->n_cores += rank == 0;
    }
    size_t listed = 0;
    for (unsigned rank = 0; rank <= rank_max; rank++) {
        for (size_t i = 0; i < n && listed < PHI_LIMIT_TEAM_THREADS; i++) {
            if (ranks[i] == rank) {
                out_list->cpus[listed++] = mask[i];
            }
        }
    }
}

void phi_machine_cpus_list(phi_machine_cpu_list *out_list)
{
    uint16_t mask[CPUS_MAX];
    size_t n = affinity_mask(mask, CPUS_MAX);
    phi_machine_cpus_list_under("", mask, n, out_list);
}

unsigned phi_machine_cpus_under(const char *root, unsigned n_cores)
{
    unsigned cpus = n_cores;
    each_group(root, "cpu", cpu_quota_v1, cpu_quota_v2, &cpus);
    return cpus > 0 ? cpus : 1;
}

unsigned phi_machine_cpus(void)
{
    phi_machine_cpu_list list;
    phi_machine_cpus_list(&list);
    return phi_machine_cpus_under("", list.n_cores);
}

/* The value of a line "key<tabs>: value" of /proc/cpuinfo, or false. */
static bool cpuinfo_value(const char *text, const char *key, char *out_value, size_t bytes)
{
    const char *at = strstr(text, key);
    at = at ? strchr(at, ':') : NULL;
    if (!at) {
        return false;
    }
    at += 1 + strspn(at + 1, " ");
    (void)snprintf(out_value, bytes, "%.*s", (int)strcspn(at, "\n"), at);
    return out_value[0] != '\0';
}

void phi_machine_cpu_name(char *out_name, size_t bytes)
{
    char text[TEXT_BYTES];
    char implementer[16];
    char part[16];
    (void)snprintf(out_name, bytes, "unknown");
    if (!read_text("/proc/cpuinfo", text) || cpuinfo_value(text, "model name", out_name, bytes)) {
        return;
    }
    /* ARM systems give numbers alone. */
    if (cpuinfo_value(text, "CPU implementer", implementer, sizeof implementer) &&
        cpuinfo_value(text, "CPU part", part, sizeof part)) {
        (void)snprintf(out_name, bytes, "ARM implementer %s part %s", implementer, part);
    }
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

uint64_t phi_machine_memory_available_under(const char *root)
{
    char path[PATH_BYTES];
    char text[TEXT_BYTES];
    uint64_t available = UINT64_MAX;
    uint64_t kib;
    (void)snprintf(path, sizeof path, "%s/proc/meminfo", root);
    const char *at = read_text(path, text) ? strstr(text, "MemAvailable:") : NULL;
    if (at && sscanf(at + strlen("MemAvailable:"), "%" SCNu64, &kib) == 1) {
        available = kib * 1024;
    }
    each_group(root, "memory", memory_left_v1, memory_left_v2, &available);
    return available;
}

uint64_t phi_machine_memory_available(void)
{
    return phi_machine_memory_available_under("");
}

/* ---- nodes and pages ---- */

void phi_machine_nodes_under(const char *root, phi_machine_nodes *out_nodes)
{
    char path[PATH_BYTES];
    char text[TEXT_BYTES];
    *out_nodes = (phi_machine_nodes){0};
    (void)snprintf(path, sizeof path, "%s/sys/devices/system/node/has_memory", root);
    const char *at = read_text(path, text) ? text : "";
    for (unsigned first, last; next_range(&at, &first, &last);) {
        for (unsigned node = first; node <= last && node < PHI_MACHINE_NODE_WORDS * 64; node++) {
            uint64_t bit = 1ULL << node % 64;
            out_nodes->n_nodes += (out_nodes->mask[node / 64] & bit) == 0;
            out_nodes->mask[node / 64] |= bit;
        }
    }
    if (out_nodes->n_nodes == 0) {
        *out_nodes = (phi_machine_nodes){.n_nodes = 1, .mask = {1}};
    }
}

unsigned phi_machine_numa_nodes(void)
{
    phi_machine_nodes nodes;
    phi_machine_nodes_under("", &nodes);
    return nodes.n_nodes;
}

bool phi_machine_interleave_over(const phi_machine_nodes *nodes, void *memory, size_t bytes)
{
    uintptr_t page = (uintptr_t)sysconf(_SC_PAGESIZE);
    uintptr_t begin = (uintptr_t)memory & ~(page - 1);
    uintptr_t end = ((uintptr_t)memory + bytes + page - 1) & ~(page - 1);
    /* One bit more than there are: the kernel takes one off. It leaves out nodes that the cpuset
     * does not allow. */
    unsigned long mask_bits = PHI_MACHINE_NODE_WORDS * 64 + 1;
    return bytes > 0 &&
           syscall(SYS_mbind, begin, end - begin, MPOL_INTERLEAVE, nodes->mask, mask_bits, 0) == 0;
}

bool phi_machine_interleave(void *memory, size_t bytes)
{
    phi_machine_nodes nodes;
    phi_machine_nodes_under("", &nodes);
    return nodes.n_nodes > 1 && phi_machine_interleave_over(&nodes, memory, bytes);
}

bool phi_machine_advise_huge(void *memory, size_t bytes)
{
    uintptr_t page = (uintptr_t)sysconf(_SC_PAGESIZE);
    uintptr_t skipped = -(uintptr_t)memory & (page - 1);
    if (bytes < skipped + page) {
        return false;
    }
    size_t whole = (bytes - skipped) & ~(size_t)(page - 1);
    return madvise((char *)memory + skipped, whole, MADV_HUGEPAGE) == 0;
}

#include <limits.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <cmocka.h>

#include "engine/kernels/machine.h"

/* ---- a machine made of files ---- */

static char root[64];

static void make_dirs(char *path)
{
    for (char *slash = strchr(path + 1, '/'); slash; slash = strchr(slash + 1, '/')) {
        *slash = '\0';
        (void)mkdir(path, 0700);
        *slash = '/';
    }
}

static void put(const char *name, const char *text)
{
    char path[PATH_MAX];
    (void)snprintf(path, sizeof path, "%s%s", root, name);
    make_dirs(path);
    FILE *file = fopen(path, "w");
    assert_non_null(file);
    assert_true(fputs(text, file) >= 0);
    assert_int_equal(0, fclose(file));
}

static int new_root(void **state)
{
    (void)state;
    (void)snprintf(root, sizeof root, "/tmp/phid-test-machine-XXXXXX");
    return mkdtemp(root) ? 0 : -1;
}

static int remove_root(void **state)
{
    (void)state;
    char command[96];
    (void)snprintf(command, sizeof command, "rm -rf '%s'", root);
    return system(command);
}

/* Siblings of CPUs 0 to n-1: `threads` of them per core, numbered as most machines do (0 and n/2)
 * or, with `adjacent`, next to each other. */
static void put_siblings(unsigned n, unsigned threads, bool adjacent)
{
    for (unsigned cpu = 0; cpu < n; cpu++) {
        char name[96];
        char text[64];
        unsigned cores = n / threads;
        (void)snprintf(name, sizeof name,
                       "/sys/devices/system/cpu/cpu%u/topology/thread_siblings_list", cpu);
        if (adjacent) {
            unsigned first = cpu - cpu % threads;
            (void)snprintf(text, sizeof text, "%u-%u\n", first, first + threads - 1);
        } else {
            (void)snprintf(text, sizeof text, "%u,%u\n", cpu % cores, cpu % cores + cores);
        }
        put(name, text);
    }
}

static void check_list(const uint16_t *mask, size_t n, unsigned n_cores, const uint16_t *cpus)
{
    phi_machine_cpu_list list;
    phi_machine_cpus_list_under(root, mask, n, &list);
    assert_int_equal(n, list.n_cpus);
    assert_int_equal(n_cores, list.n_cores);
    assert_memory_equal(cpus, list.cpus, n * sizeof *cpus);
}

#define MASK(...)                                                                                  \
    (const uint16_t[])                                                                             \
    {                                                                                              \
        __VA_ARGS__                                                                                \
    }

/* ---- CPUs ---- */

static void test_cores(void **state)
{
    (void)state;
    /* Nothing can be read: every CPU is a core. */
    check_list(MASK(0, 1, 2, 3), 4, 4, MASK(0, 1, 2, 3));
    put_siblings(8, 2, false);
    check_list(MASK(0, 1, 2, 3, 4, 5, 6, 7), 8, 4, MASK(0, 1, 2, 3, 4, 5, 6, 7));
    /* A cpuset with both threads of cores 1 and 3 and one of core 2. */
    check_list(MASK(1, 3, 5, 6, 7), 5, 3, MASK(1, 3, 6, 5, 7));
    check_list(MASK(6), 1, 1, MASK(6));
    put_siblings(8, 2, true);
    check_list(MASK(0, 1, 2, 3, 4, 5, 6, 7), 8, 4, MASK(0, 2, 4, 6, 1, 3, 5, 7));
    check_list(MASK(1, 2, 3), 3, 2, MASK(1, 2, 3));
    put_siblings(8, 4, true);
    check_list(MASK(0, 1, 2, 3, 4, 5, 6, 7), 8, 2, MASK(0, 4, 1, 5, 2, 6, 3, 7));
}

static void test_many_cpus(void **state)
{
    (void)state;
    static uint16_t mask[600];
    phi_machine_cpu_list list;
    for (uint16_t i = 0; i < 600; i++) {
        mask[i] = i;
    }
    put_siblings(600, 2, false);
    phi_machine_cpus_list_under(root, mask, 600, &list);
    assert_int_equal(600, list.n_cpus);
    assert_int_equal(300, list.n_cores);
    assert_int_equal(PHI_LIMIT_TEAM_THREADS - 1, list.cpus[PHI_LIMIT_TEAM_THREADS - 1]);
}

static void test_quota_v2(void **state)
{
    (void)state;
    put("/proc/self/cgroup", "0::/pods/one\n");
    put("/sys/fs/cgroup/pods/one/cpu.max", "150000 100000\n");
    assert_int_equal(2, phi_machine_cpus_under(root, 64));
    assert_int_equal(1, phi_machine_cpus_under(root, 1));
    put("/sys/fs/cgroup/pods/one/cpu.max", "max 100000\n");
    assert_int_equal(64, phi_machine_cpus_under(root, 64));
    /* The group above limits too. */
    put("/sys/fs/cgroup/pods/cpu.max", "400000 100000\n");
    assert_int_equal(4, phi_machine_cpus_under(root, 64));
    put("/sys/fs/cgroup/pods/one/cpu.max", "20000 100000\n");
    assert_int_equal(1, phi_machine_cpus_under(root, 64));
    /* Inside a container the group's path is the one outside: only the mount is there. */
    put("/proc/self/cgroup", "0::/elsewhere/not/here\n");
    put("/sys/fs/cgroup/cpu.max", "300000 100000\n");
    assert_int_equal(3, phi_machine_cpus_under(root, 64));
}

static void test_quota_v1(void **state)
{
    (void)state;
    put("/proc/self/cgroup", "5:memory:/m\n4:cpu,cpuacct:/box\n1:name=systemd:/\n");
    put("/sys/fs/cgroup/cpu/box/cpu.cfs_quota_us", "150000\n");
    put("/sys/fs/cgroup/cpu/box/cpu.cfs_period_us", "100000\n");
    assert_int_equal(2, phi_machine_cpus_under(root, 64));
    put("/sys/fs/cgroup/cpu/box/cpu.cfs_quota_us", "-1\n");
    assert_int_equal(64, phi_machine_cpus_under(root, 64));
    assert_int_equal(1, phi_machine_cpus_under(root, 0));
}

static void test_this_machine(void **state)
{
    (void)state;
    phi_machine_cpu_list list;
    phi_machine_cpus_list(&list);
    assert_true(list.n_cores >= 1 && list.n_cores <= list.n_cpus);
    assert_true(phi_machine_cpus() >= 1 && phi_machine_cpus() <= list.n_cores);
    assert_true(phi_machine_numa_nodes() >= 1);
    /* Some memory is available, or this test would not run. */
    assert_true(phi_machine_memory_available() > 1U << 20);
}

/* ---- memory ---- */

static void test_memory_left(void **state)
{
    (void)state;
    assert_true(phi_machine_memory_available_under(root) == UINT64_MAX);
    put("/proc/meminfo", "MemTotal:  9000000 kB\nMemAvailable:    8000 kB\n");
    assert_int_equal(8000 * 1024, phi_machine_memory_available_under(root));
    put("/proc/self/cgroup", "0::/g\n");
    put("/sys/fs/cgroup/g/memory.max", "6000000\n");
    put("/sys/fs/cgroup/g/memory.current", "5000000\n");
    assert_int_equal(1000000, phi_machine_memory_available_under(root));
    put("/sys/fs/cgroup/g/memory.stat", "anon 1\ninactive_file 500000\n");
    assert_int_equal(1500000, phi_machine_memory_available_under(root));
    put("/sys/fs/cgroup/g/memory.max", "max\n");
    assert_int_equal(8000 * 1024, phi_machine_memory_available_under(root));
}

static void test_nodes(void **state)
{
    (void)state;
    phi_machine_nodes nodes;
    phi_machine_nodes_under(root, &nodes);
    assert_int_equal(1, nodes.n_nodes);
    assert_true(nodes.mask[0] == 1);
    put("/sys/devices/system/node/has_memory", "0-1,4,70\n");
    phi_machine_nodes_under(root, &nodes);
    assert_int_equal(4, nodes.n_nodes);
    assert_true(nodes.mask[0] == 0x13 && nodes.mask[1] == 1U << 6);
    put("/sys/devices/system/node/has_memory", "1000-4000000000\n");
    phi_machine_nodes_under(root, &nodes);
    assert_int_equal(24, nodes.n_nodes);
}

/* The kernel is asked what it was told, on the one node that every machine has. */
static void test_interleave(void **state)
{
    (void)state;
    enum { BYTES = 1 << 20, GET_OF_ADDRESS = 2, INTERLEAVE = 3 };
    const phi_machine_nodes nodes = {.n_nodes = 1, .mask = {1}};
    char *memory = mmap(NULL, BYTES, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    int policy = -1;
    assert_true(memory != MAP_FAILED);
    if (syscall(SYS_get_mempolicy, &policy, NULL, 0UL, memory, (unsigned long)GET_OF_ADDRESS)) {
        (void)munmap(memory, BYTES);
        skip(); /* a container may forbid it */
    }
    assert_int_equal(0, policy);
    if (phi_machine_numa_nodes() == 1) {
        assert_false(phi_machine_interleave(memory, BYTES));
    }
    assert_true(phi_machine_interleave_over(&nodes, memory + 100, BYTES / 2));
    assert_int_equal(
        0, syscall(SYS_get_mempolicy, &policy, NULL, 0UL, memory, (unsigned long)GET_OF_ADDRESS));
    assert_int_equal(INTERLEAVE, policy);
    assert_int_equal(0, syscall(SYS_get_mempolicy, &policy, NULL, 0UL, memory + BYTES - 1,
                                (unsigned long)GET_OF_ADDRESS));
    assert_int_equal(0, policy);
    assert_false(phi_machine_interleave_over(&nodes, memory, 0));
    memset(memory, 7, BYTES);
    assert_int_equal(7, memory[BYTES / 2]);
    assert_int_equal(0, munmap(memory, BYTES));
}

/* True if the mapping that begins at `memory` carries the flag for huge pages. */
static bool is_advised(const char *memory)
{
    FILE *file = fopen("/proc/self/smaps", "re");
    char line[512];
    char begin[32];
    bool here = false;
    bool advised = false;
    assert_non_null(file);
    (void)snprintf(begin, sizeof begin, "%lx-", (unsigned long)(uintptr_t)memory);
    while (fgets(line, sizeof line, file)) {
        here = here || strncmp(line, begin, strlen(begin)) == 0;
        if (here && strncmp(line, "VmFlags:", 8) == 0) {
            advised = strstr(line, " hg") != NULL;
            break;
        }
    }
    (void)fclose(file);
    return advised;
}

static void test_huge(void **state)
{
    (void)state;
    enum { BYTES = 8 << 20 };
    char *memory = mmap(NULL, BYTES, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    assert_true(memory != MAP_FAILED);
    assert_false(phi_machine_advise_huge(memory + 1, 100));
    assert_false(phi_machine_advise_huge(memory, 0));
    bool has_huge = access("/sys/kernel/mm/transparent_hugepage/enabled", F_OK) == 0;
    assert_int_equal(has_huge, phi_machine_advise_huge(memory + 1, BYTES - 1));
    /* The first page is not wholly ours: the mapping is split behind it. */
    size_t page = (size_t)sysconf(_SC_PAGESIZE);
    assert_int_equal(has_huge, is_advised(memory + page));
    memset(memory, 7, BYTES);
    assert_int_equal(7, memory[BYTES - 1]);
    assert_int_equal(0, munmap(memory, BYTES));
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_setup_teardown(test_cores, new_root, remove_root),
        cmocka_unit_test_setup_teardown(test_many_cpus, new_root, remove_root),
        cmocka_unit_test_setup_teardown(test_quota_v2, new_root, remove_root),
        cmocka_unit_test_setup_teardown(test_quota_v1, new_root, remove_root),
        cmocka_unit_test(test_this_machine),
        cmocka_unit_test_setup_teardown(test_memory_left, new_root, remove_root),
        cmocka_unit_test_setup_teardown(test_nodes, new_root, remove_root),
        cmocka_unit_test(test_interleave),
        cmocka_unit_test(test_huge),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}

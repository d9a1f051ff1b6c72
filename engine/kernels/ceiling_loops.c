#include "engine/kernels/ceiling_loops.h"

#include <stdbool.h>
#include <string.h>
#if defined(__x86_64__)
#include <cpuid.h>
#include <sys/syscall.h>
#include <unistd.h>
#elif defined(__aarch64__)
#include <asm/hwcap.h>
#include <sys/auxv.h>
#endif

/* Best first. */
typedef struct loops_entry {
    const phi_ceiling_loops *loops;
    bool (*can_run)(void);
} loops_entry;

#if defined(__x86_64__)

/* The compilers' run-time asks XGETBV too, so that a system that does not save the wide registers
 * counts as one without them. */
static bool has_avx2(void)
{
    return __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma");
}

static bool has_avx_vnni(void)
{
    unsigned eax;
    unsigned ebx;
    unsigned ecx;
    unsigned edx;
    return has_avx2() && __get_cpuid_count(7, 1, &eax, &ebx, &ecx, &edx) && (eax & (1U << 4));
}

static bool has_avx512_vnni(void)
{
    return __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") &&
           __builtin_cpu_supports("avx512vnni");
}

/* Linux gives a process the tiles' eight kilobytes of state only when it asks for them:
 * Documentation/arch/x86/xstate.rst. */
static bool may_use_tiles(void)
{
    enum { ARCH_REQ_XCOMP_PERM = 0x1023, XFEATURE_XTILEDATA = 18 };
    return syscall(SYS_arch_prctl, ARCH_REQ_XCOMP_PERM, XFEATURE_XTILEDATA) == 0;
}

static bool has_amx(void)
{
    /* CPUID 7.0: AMX-TILE and AMX-INT8. XCR0: the tiles' configuration and data. */
    const unsigned tile_bits = 3U << 24;
    const unsigned saved_bits = 3U << 17;
    unsigned eax;
    unsigned ebx;
    unsigned ecx;
    unsigned edx;
    if (!has_avx512_vnni() || !__get_cpuid_count(7, 0, &eax, &ebx, &ecx, &edx) ||
        (edx & tile_bits) != tile_bits) {
        return false;
    }
    __asm__("xgetbv" : "=a"(eax), "=d"(edx) : "c"(0));
    return (eax & saved_bits) == saved_bits && may_use_tiles();
}

static const loops_entry entries[] = {
    {&phi_ceiling_amx, has_amx},
    {&phi_ceiling_avx512_vnni, has_avx512_vnni},
    {&phi_ceiling_avx_vnni, has_avx_vnni},
    {&phi_ceiling_avx2, has_avx2},
};
#define N_ENTRIES (sizeof entries / sizeof entries[0])

#elif defined(__aarch64__)

static bool has_i8mm(void)
{
    return (getauxval(AT_HWCAP2) & HWCAP2_I8MM) != 0;
}

static bool has_dotprod(void)
{
    return (getauxval(AT_HWCAP) & HWCAP_ASIMDDP) != 0;
}

static const loops_entry entries[] = {
    {&phi_ceiling_neon_i8mm, has_i8mm},
    {&phi_ceiling_neon_dotprod, has_dotprod},
};
#define N_ENTRIES (sizeof entries / sizeof entries[0])

#else

static const loops_entry entries[1];
#define N_ENTRIES 0U

#endif

const phi_ceiling_loops *phi_ceiling_loops_find(const char *set)
{
    for (size_t i = 0; i < N_ENTRIES; i++) {
        if (strcmp(entries[i].loops->set, set) == 0) {
            return entries[i].can_run() ? entries[i].loops : NULL;
        }
    }
    return NULL;
}

size_t phi_ceiling_loops_available(const phi_ceiling_loops **out_list, size_t max)
{
    size_t n = 0;
    for (size_t i = 0; i < N_ENTRIES && n < max; i++) {
        if (entries[i].can_run()) {
            out_list[n++] = entries[i].loops;
        }
    }
    return n;
}

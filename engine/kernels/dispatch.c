#include "engine/kernels/kernels.h"

#include "base/assert.h"
#include "engine/kernels/sets.h"

#include <string.h>
#ifdef PHID_KERNELS_X86
#include <cpuid.h>
#include <sys/syscall.h>
#include <unistd.h>
#define SET_NAMES "amx, avx512-vnni, avx-vnni, avx2 and portable"
#elif defined(PHID_KERNELS_ARM64)
#include <asm/hwcap.h>
#include <sys/auxv.h>
#define SET_NAMES "neon-i8mm, neon-dotprod and portable"
#else
#define SET_NAMES "portable"
#endif

/* Best first; the portable set, which runs everywhere, is last. */
typedef struct set_entry {
    const phi_kernels *kernels;
    bool (*can_run)(void);
    const char *needs;
} set_entry;

static bool anywhere(void)
{
    return true;
}

#ifdef PHID_KERNELS_X86
static bool has_avx2(void)
{
    unsigned eax;
    unsigned ebx;
    unsigned ecx;
    unsigned edx;
    /* The compilers' run-time asks XGETBV too, so that a system that does not save the wide
     * registers counts as one without them. Not every compiler knows F16C by name. */
    return __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma") &&
           __get_cpuid(1, &eax, &ebx, &ecx, &edx) && (ecx & bit_F16C);
}

static bool has_avx_vnni(void)
{
    unsigned eax;
    unsigned ebx;
    unsigned ecx;
    unsigned edx;
    /* Nor does every compiler know AVX-VNNI: EAX bit 4 of leaf 7, subleaf 1. It needs no more of
     * the system than AVX2 does. */
    return has_avx2() && __get_cpuid_count(7, 1, &eax, &ebx, &ecx, &edx) && (eax & 1U << 4);
}

static bool has_avx512_vnni(void)
{
    return has_avx2() && __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") &&
           __builtin_cpu_supports("avx512dq") && __builtin_cpu_supports("avx512vl") &&
           __builtin_cpu_supports("avx512vnni");
}

/* Linux saves the tile registers only of processes that asked for it: Documentation/arch/x86/
 * xstate.rst. The permission is the process's, and asking again is harmless. */
static bool may_use_tiles(void)
{
    enum { REQUEST_PERMISSION = 0x1023, TILE_DATA = 18 };
    return syscall(SYS_arch_prctl, REQUEST_PERMISSION, TILE_DATA) == 0;
}

static bool has_amx(void)
{
    unsigned eax;
    unsigned ebx;
    unsigned ecx;
    unsigned edx;
    /* EDX bits 24 and 25 of leaf 7: AMX-TILE and AMX-INT8. */
    return has_avx512_vnni() && __get_cpuid_count(7, 0, &eax, &ebx, &ecx, &edx) &&
           (edx & 3U << 24) == 3U << 24 && may_use_tiles();
}
#elif defined(PHID_KERNELS_ARM64)
/* Linux: Documentation/arm64/elf_hwcaps.rst. */
static bool has_dotprod(void)
{
    return (getauxval(AT_HWCAP) & HWCAP_ASIMDDP) != 0;
}

static bool has_i8mm(void)
{
    return has_dotprod() && (getauxval(AT_HWCAP2) & HWCAP2_I8MM) != 0;
}
#endif

static const set_entry sets[] = {
#ifdef PHID_KERNELS_X86
    {&phi_kernels_amx, has_amx, "AMX-INT8, or Linux 5.16 to permit it"},
    {&phi_kernels_avx512_vnni, has_avx512_vnni, "AVX-512 F, BW, DQ, VL and VNNI"},
    {&phi_kernels_avx_vnni, has_avx_vnni, "AVX2, FMA, F16C and AVX-VNNI"},
    {&phi_kernels_avx2, has_avx2, "AVX2, FMA and F16C"},
#elif defined(PHID_KERNELS_ARM64)
    {&phi_kernels_neon_i8mm, has_i8mm, "ARMv8.6's int8 matrix multiplication (i8mm)"},
    {&phi_kernels_neon_dotprod, has_dotprod, "ARMv8.2's dot product (asimddp)"},
#endif
    {&phi_kernels_portable, anywhere, "nothing"},
};
#define N_SETS (sizeof sets / sizeof sets[0])

static phi_status select_named(const char *isa, const phi_kernels **out_kernels, phi_err *err)
{
    for (size_t i = 0; i < N_SETS; i++) {
        if (strcmp(isa, sets[i].kernels->name) != 0) {
            continue;
        }
        if (!sets[i].can_run()) {
            return phi_fail(err, PHI_E_UNSUPPORTED,
                            "the kernel set '%s' cannot run here: the CPU or the system lacks %s",
                            isa, sets[i].needs);
        }
        *out_kernels = sets[i].kernels;
        return PHI_OK;
    }
    return phi_fail(err, PHI_E_INVALID,
                    "there is no kernel set '%s' in this build; it has " SET_NAMES, isa);
}

phi_status phi_kernels_select(const char *isa, const phi_kernels **out_kernels, phi_err *err)
{
    if (isa && isa[0]) {
        return select_named(isa, out_kernels, err);
    }
    size_t n = phi_kernels_available(out_kernels, 1);
    PHI_ASSERT(n == 1);
    return PHI_OK;
}

size_t phi_kernels_available(const phi_kernels **out_list, size_t max)
{
    size_t n = 0;
    for (size_t i = 0; i < N_SETS && n < max; i++) {
        if (sets[i].can_run()) {
            out_list[n++] = sets[i].kernels;
        }
    }
    return n;
}

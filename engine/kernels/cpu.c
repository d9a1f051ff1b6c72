/*
 * Intel 64 and IA-32 Architectures Software Developer's Manual, CPUID and volume 1, chapter 13
 * (XCR0); Linux's Documentation/arch/x86/xstate.rst and Documentation/arch/arm64/elf_hwcaps.rst.
 */
#include "engine/kernels/cpu.h"

#if defined(__x86_64__) || defined(__i386__)
#include <cpuid.h>
#include <sys/syscall.h>
#include <unistd.h>

typedef struct leaf {
    unsigned eax;
    unsigned ebx;
    unsigned ecx;
    unsigned edx;
} leaf;

static leaf read_leaf(unsigned number, unsigned subleaf)
{
    leaf out = {0};
    if (!__get_cpuid_count(number, subleaf, &out.eax, &out.ebx, &out.ecx, &out.edx)) {
        return (leaf){0};
    }
    return out;
}

bool phi_cpu_has_avx2(void)
{
    /* The compilers' run-time asks XGETBV too, so that a system that does not save the wide
     * registers counts as one without them. Not every compiler knows F16C by name. */
    return __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma") &&
           (read_leaf(1, 0).ecx & bit_F16C) != 0;
}

bool phi_cpu_has_avx_vnni(void)
{
    /* Nor does every compiler know AVX-VNNI. It needs no more of the system than AVX2 does. */
    const unsigned avx_vnni = 1U << 4;
    return phi_cpu_has_avx2() && (read_leaf(7, 1).eax & avx_vnni) != 0;
}

bool phi_cpu_has_avx512_vnni(void)
{
    return phi_cpu_has_avx2() && __builtin_cpu_supports("avx512f") &&
           __builtin_cpu_supports("avx512bw") && __builtin_cpu_supports("avx512dq") &&
           __builtin_cpu_supports("avx512vl") && __builtin_cpu_supports("avx512vnni");
}

/* Linux saves the tile registers only of processes that asked for it. The permission is the
 * process's, and asking again is harmless. */
static bool may_use_tiles(void)
{
#ifdef SYS_arch_prctl
    enum { ARCH_REQ_XCOMP_PERM = 0x1023, XFEATURE_XTILEDATA = 18 };
    return syscall(SYS_arch_prctl, ARCH_REQ_XCOMP_PERM, XFEATURE_XTILEDATA) == 0;
#else
    return false;
#endif
}

bool phi_cpu_has_amx(void)
{
    const unsigned tiles = 3U << 24 | 1U << 22; /* AMX-TILE, AMX-INT8, AMX-BF16 */
    const unsigned avx512_bf16 = 1U << 5;
    const unsigned saved = 3U << 17; /* XCR0: the tiles' configuration and data */
    unsigned eax;
    unsigned edx;
    if (!phi_cpu_has_avx512_vnni() || (read_leaf(7, 0).edx & tiles) != tiles ||
        (read_leaf(7, 1).eax & avx512_bf16) == 0) {
        return false;
    }
    __asm__("xgetbv" : "=a"(eax), "=d"(edx) : "c"(0));
    return (eax & saved) == saved && may_use_tiles();
}

#elif defined(__aarch64__)
#include <asm/hwcap.h>
#include <sys/auxv.h>

bool phi_cpu_has_dotprod(void)
{
    return (getauxval(AT_HWCAP) & HWCAP_ASIMDDP) != 0;
}

bool phi_cpu_has_i8mm(void)
{
    return phi_cpu_has_dotprod() && (getauxval(AT_HWCAP2) & HWCAP2_I8MM) != 0;
}

#endif

#include "engine/kernels/kernels.h"

#include "base/assert.h"
#include "engine/kernels/cpu.h"
#include "engine/kernels/sets.h"

#include <string.h>
#ifdef PHID_KERNELS_X86
#define SET_NAMES "amx, avx512-vnni, avx-vnni, avx2 and portable"
#elif defined(PHID_KERNELS_ARM64)
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

static const set_entry sets[] = {
#ifdef PHID_KERNELS_X86
    {&phi_kernels_amx, phi_cpu_has_amx, "AMX-INT8 and AMX-BF16, or Linux 5.16 to permit them"},
    {&phi_kernels_avx512_vnni, phi_cpu_has_avx512_vnni, "AVX-512 F, BW, DQ, VL and VNNI"},
    {&phi_kernels_avx_vnni, phi_cpu_has_avx_vnni, "AVX2, FMA, F16C and AVX-VNNI"},
    {&phi_kernels_avx2, phi_cpu_has_avx2, "AVX2, FMA and F16C"},
#elif defined(PHID_KERNELS_ARM64)
    {&phi_kernels_neon_i8mm, phi_cpu_has_i8mm, "ARMv8.6's int8 matrix multiplication (i8mm)"},
    {&phi_kernels_neon_dotprod, phi_cpu_has_dotprod, "ARMv8.2's dot product (asimddp)"},
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

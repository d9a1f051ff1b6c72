/*
 * Purpose: which instruction sets this CPU has and the system lets this process use.
 * Owns:    nothing.
 * Threads: any.
 * Errors:  none: what cannot be asked for is not there.
 * Limits:  each function answers for the whole of what its kernel set needs.
 */
#ifndef PHI_ENGINE_KERNELS_CPU_H
#define PHI_ENGINE_KERNELS_CPU_H

#include <stdbool.h>

#if defined(__x86_64__) || defined(__i386__)
/* AVX2, FMA and F16C. */
bool phi_cpu_has_avx2(void);
/* And AVX-VNNI. */
bool phi_cpu_has_avx_vnni(void);
/* AVX2's, and AVX-512 F, BW, DQ, VL and VNNI. */
bool phi_cpu_has_avx512_vnni(void);
/* And AMX-TILE and AMX-INT8; asks Linux for the permission to use them. */
bool phi_cpu_has_amx(void);
#elif defined(__aarch64__)
/* ARMv8.2's dot product. */
bool phi_cpu_has_dotprod(void);
/* And ARMv8.6's int8 matrix multiplication. */
bool phi_cpu_has_i8mm(void);
#endif

#endif

/*
 * Purpose: the kernel sets that this build contains, for dispatch.c.
 * Owns:    nothing: the tables are constant.
 * Threads: any. Errors: none.
 * Limits:  a set other than the portable one may be called only where the CPU can run it.
 */
#ifndef PHI_ENGINE_KERNELS_SETS_H
#define PHI_ENGINE_KERNELS_SETS_H

#include "engine/kernels/kernels.h"

extern const phi_kernels phi_kernels_portable;
/* x86 builds only. */
extern const phi_kernels phi_kernels_avx2;        /* AVX2, FMA and F16C */
extern const phi_kernels phi_kernels_avx_vnni;    /* also AVX-VNNI */
extern const phi_kernels phi_kernels_avx512_vnni; /* AVX2's and AVX-512 F, BW, DQ, VL, VNNI */
extern const phi_kernels phi_kernels_amx;         /* also AMX-TILE and AMX-INT8 */
/* arm64 builds only. */
extern const phi_kernels phi_kernels_neon_dotprod; /* ARMv8.2's dot product */
extern const phi_kernels phi_kernels_neon_i8mm;    /* also ARMv8.6's int8 matrix multiplication */

#endif

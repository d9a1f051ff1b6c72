/*
 * Purpose: loops that do nothing but an instruction set's best multiply-adds, so that they show
 *          what the CPU can do at most; for ceiling.c.
 * Owns:    nothing: the tables are constant.
 * Threads: any: the loops touch registers alone.
 * Errors:  none.
 * Limits:  a table's loops may be called only where the CPU and the system can run its set, which
 *          phi_ceiling_loops_find sees to.
 *
 * A loop has more accumulators than an instruction's latency times what the CPU begins in a cycle,
 * and they all stay in registers: nothing but the arithmetic units limits it.
 */
#ifndef PHI_ENGINE_KERNELS_CEILING_LOOPS_H
#define PHI_ENGINE_KERNELS_CEILING_LOOPS_H

#include <stddef.h>
#include <stdint.h>

typedef struct phi_ceiling_loops {
    const char *set;       /* the kernel set whose instructions these are: "avx2" */
    const char *int8_name; /* what multiplies: "vpdpbusd zmm" */
    const char *fp32_name;
    uint64_t int8_ops; /* operations of one round; a multiply-add is two */
    uint64_t fp32_ops;
    /* What is returned keeps the compiler from leaving the work out. */
    int32_t (*int8_rounds)(uint32_t rounds);
    float (*fp32_rounds)(uint32_t rounds);
} phi_ceiling_loops;

/* The loops of a kernel set; NULL if it has none, or they cannot run here. */
const phi_ceiling_loops *phi_ceiling_loops_find(const char *set);
/* All that can run here, best first; for tests. */
size_t phi_ceiling_loops_available(const phi_ceiling_loops **out_list, size_t max);

/* x86 builds: where they can run is said in cpu.h. */
extern const phi_ceiling_loops phi_ceiling_avx2;
extern const phi_ceiling_loops phi_ceiling_avx_vnni;
extern const phi_ceiling_loops phi_ceiling_avx512_vnni;
extern const phi_ceiling_loops phi_ceiling_amx;
/* ARM builds. */
extern const phi_ceiling_loops phi_ceiling_neon_dotprod;
extern const phi_ceiling_loops phi_ceiling_neon_i8mm;

/* Loops that two sets share. */
float phi_ceiling_avx2_fp32(uint32_t rounds);
float phi_ceiling_avx512_fp32(uint32_t rounds);
float phi_ceiling_neon_fp32(uint32_t rounds);
/* Of a round of these: fused multiply-adds on all lanes of 12 vectors of 8, 16 and 4 floats. */
#define PHI_CEILING_AVX2_FP32_OPS (12U * 8U * 2U)
#define PHI_CEILING_AVX512_FP32_OPS (12U * 16U * 2U)
#define PHI_CEILING_NEON_FP32_OPS (12U * 4U * 2U)

#endif

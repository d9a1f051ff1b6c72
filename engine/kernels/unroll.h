/*
 * Purpose: asks the compiler to unroll a loop whose bounds are constants once it is inlined, so
 *          that its arrays become registers.
 * Owns:    nothing. Threads: any. Errors: none. Limits: none.
 */
#ifndef PHI_ENGINE_KERNELS_UNROLL_H
#define PHI_ENGINE_KERNELS_UNROLL_H

/* A function stamped out for constant arguments. */
#define PHI_STAMP static inline __attribute__((always_inline))

#ifdef __clang__
#define PHI_UNROLL _Pragma("clang loop unroll(full)")
#else
#define PHI_UNROLL _Pragma("GCC unroll 64")
#endif

#endif

/*
 * Purpose: asks the compiler to unroll a loop whose bounds are constants once it is inlined, so
 *          that its arrays become registers.
 * Owns:    nothing. Threads: any. Errors: none. Limits: none.
 */
#ifndef PHI_ENGINE_KERNELS_UNROLL_H
#define PHI_ENGINE_KERNELS_UNROLL_H

/* A function stamped out for constant arguments. */
#define PHI_STAMP static inline __attribute__((always_inline))

/* Sanitizers check every access of every copy: unrolled, the files would take minutes to compile.
 */
#if defined(__has_feature)
#if __has_feature(address_sanitizer) || __has_feature(thread_sanitizer)
#define PHI_SANITIZED 1
#endif
#elif defined(__SANITIZE_ADDRESS__) || defined(__SANITIZE_THREAD__)
#define PHI_SANITIZED 1
#endif

#if defined(PHI_SANITIZED)
#define PHI_UNROLL
#elif defined(__clang__)
#define PHI_UNROLL _Pragma("clang loop unroll(full)")
#else
#define PHI_UNROLL _Pragma("GCC unroll 64")
#endif

#endif

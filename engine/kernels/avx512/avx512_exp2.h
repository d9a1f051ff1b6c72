/*
 * Purpose: powers of two, as attention needs them.
 * Owns:    nothing. Threads: any. Errors: none.
 * Limits:  needs AVX-512 F and DQ. Only avx512/ and amx/ include this.
 */
#ifndef PHI_ENGINE_KERNELS_AVX512_EXP2_H
#define PHI_ENGINE_KERNELS_AVX512_EXP2_H

#include <immintrin.h>

/* 2^x for x <= 0 to 1e-7: the power of the nearest integer times a polynomial that interpolates 2^z
 * at Chebyshev's points of [-1/2, 1/2]. Below 2^-100 it is 0: such a weight changes no sum, and
 * products too small for a normal number would take the CPU a hundred times as long. NaN stays
 * NaN. */
static inline __m512 phi_avx512_exp2(__m512 x)
{
    __m512 lowest = _mm512_set1_ps(-100.0F);
    __mmask16 in_range = _mm512_cmp_ps_mask(x, lowest, _CMP_NLT_UQ);
    /* max gives its second argument back when one is NaN. */
    x = _mm512_max_ps(lowest, x);
    __m512 n = _mm512_roundscale_ps(x, _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC);
    __m512 z = _mm512_sub_ps(x, n);
    __m512 p = _mm512_set1_ps(0x1.444p-13F);
    p = _mm512_fmadd_ps(p, z, _mm512_set1_ps(0x1.5f48cp-10F));
    p = _mm512_fmadd_ps(p, z, _mm512_set1_ps(0x1.3b2a1cp-7F));
    p = _mm512_fmadd_ps(p, z, _mm512_set1_ps(0x1.c6aeccp-5F));
    p = _mm512_fmadd_ps(p, z, _mm512_set1_ps(0x1.ebfbep-3F));
    p = _mm512_fmadd_ps(p, z, _mm512_set1_ps(0x1.62e43p-1F));
    p = _mm512_fmadd_ps(p, z, _mm512_set1_ps(1.0F));
    return _mm512_maskz_scalef_ps(in_range, p, n);
}

#endif

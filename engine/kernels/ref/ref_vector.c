/* The portable vector functions, and the portable table. */
#include "engine/kernels/ref/ref.h"

#include "engine/kernels/sets.h"
#include "engine/tensor/half.h"

#include <math.h>

static void rms_norm(const float *x, const float *weight, size_t n, float eps, float *out)
{
    double squares = 0.0;
    for (size_t i = 0; i < n; i++) {
        squares += (double)x[i] * (double)x[i];
    }
    float inverse = (float)(1.0 / sqrt(squares / (double)n + (double)eps));
    for (size_t i = 0; i < n; i++) {
        out[i] = weight[i] * (x[i] * inverse);
    }
}

static void swiglu(const float *gate, const float *up, size_t n, float *out)
{
    for (size_t i = 0; i < n; i++) {
        out[i] = up[i] * (gate[i] / (1.0F + expf(-gate[i])));
    }
}

static void rope(float *x, const float *cos_row, const float *sin_row, size_t n_rot)
{
    size_t half = n_rot / 2;
    for (size_t i = 0; i < half; i++) {
        float a = x[i];
        float b = x[i + half];
        x[i] = a * cos_row[i] - b * sin_row[i];
        x[i + half] = b * cos_row[i] + a * sin_row[i];
    }
}

static void add(float *x, const float *y, size_t n)
{
    for (size_t i = 0; i < n; i++) {
        x[i] += y[i];
    }
}

static float dot_f32(const float *q, const float *k, size_t n)
{
    float sum = 0.0F;
    for (size_t i = 0; i < n; i++) {
        sum += q[i] * k[i];
    }
    return sum;
}

static float dot_f16(const float *q, const uint16_t *k, size_t n)
{
    float sum = 0.0F;
    for (size_t i = 0; i < n; i++) {
        sum += q[i] * phi_half_to_float(k[i]);
    }
    return sum;
}

static void axpy_f32(float a, const float *v, float *acc, size_t n)
{
    for (size_t i = 0; i < n; i++) {
        acc[i] += a * v[i];
    }
}

static void axpy_f16(float a, const uint16_t *v, float *acc, size_t n)
{
    for (size_t i = 0; i < n; i++) {
        acc[i] += a * phi_half_to_float(v[i]);
    }
}

static void scale(float a, float *acc, size_t n)
{
    for (size_t i = 0; i < n; i++) {
        acc[i] *= a;
    }
}

static void narrow_f16(const float *x, uint16_t *out, size_t n)
{
    for (size_t i = 0; i < n; i++) {
        out[i] = phi_half_of_float(x[i]);
    }
}

static float largest(const float *x, size_t n)
{
    float best = -INFINITY;
    for (size_t i = 0; i < n; i++) {
        best = x[i] > best ? x[i] : best;
    }
    return best;
}

static float exp_sum(float *x, size_t n, float shift)
{
    float sum = 0.0F;
    for (size_t i = 0; i < n; i++) {
        x[i] = expf(x[i] - shift);
        sum += x[i];
    }
    return sum;
}

const phi_kernels phi_kernels_portable = {
    .name = "portable",
    .act_tile = PHI_ACT_QUAD,
    .quantize_tile = phi_ref_quantize_tile,
    .rows_int = phi_ref_rows_int,
    .rows_float = phi_ref_rows_float,
    .rms_norm = rms_norm,
    .swiglu = swiglu,
    .rope = rope,
    .add = add,
    .dot_f32 = dot_f32,
    .dot_f16 = dot_f16,
    .axpy_f32 = axpy_f32,
    .axpy_f16 = axpy_f16,
    .scale = scale,
    .narrow_f16 = narrow_f16,
    .max = largest,
    .exp_sum = exp_sum,
};

/* The portable vector functions, and the portable table. */
#include "engine/kernels/ref/ref.h"

#include "engine/kernels/sets.h"

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

static void layer_norm(const float *x, const float *weight, const float *bias, size_t n, float eps,
                       float *out)
{
    double sum = 0.0;
    double squares = 0.0;
    for (size_t i = 0; i < n; i++) {
        sum += (double)x[i];
    }
    double mean = sum / (double)n;
    for (size_t i = 0; i < n; i++) {
        double off = (double)x[i] - mean;
        squares += off * off;
    }
    float middle = (float)mean;
    float inverse = (float)(1.0 / sqrt(squares / (double)n + (double)eps));
    for (size_t i = 0; i < n; i++) {
        out[i] = weight[i] * ((x[i] - middle) * inverse) + bias[i];
    }
}

static void gelu(const float *x, size_t n, float *out)
{
    for (size_t i = 0; i < n; i++) {
        float twice = x[i] * (PHI_GELU_LINEAR + PHI_GELU_CUBIC * (x[i] * x[i]));
        out[i] = x[i] / (1.0F + expf(-twice));
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

static void mix(float a, float *acc, float b, const float *v, size_t n)
{
    for (size_t i = 0; i < n; i++) {
        acc[i] = a * acc[i] + b * v[i];
    }
}

static void scale(float a, const float *x, float *out, size_t n)
{
    for (size_t i = 0; i < n; i++) {
        out[i] = a * x[i];
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
    .layer_norm = layer_norm,
    .gelu = gelu,
    .swiglu = swiglu,
    .rope = rope,
    .add = add,
    .mix = mix,
    .scale = scale,
    .kv_store = phi_ref_kv_store,
    .attend = phi_ref_attend,
    .max = largest,
    .exp_sum = exp_sum,
};

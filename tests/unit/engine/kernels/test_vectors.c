/* The vector functions of every set that can run here, against double precision. */
#include <float.h>
#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>

#include <cmocka.h>

#include "engine/kernels/kernels.h"
#include "random_weight.h"

#define N_MAX 131

static const phi_kernels *sets[8];
static size_t n_sets;
static float a[N_MAX];
static float b[N_MAX];
static float c[N_MAX];
static float out[N_MAX + 1];

/* Past the end of `out`: must never change. */
#define GUARD 12345.0F

static int find_sets(void **state)
{
    (void)state;
    n_sets = phi_kernels_available(sets, 8);
    return n_sets > 0 ? 0 : -1;
}

static void check(const phi_kernels *k, double got, double right, double size)
{
    double allowed = 8.0 * (double)FLT_EPSILON * size + 1e-37;
    if (!(fabs(got - right) <= allowed)) {
        fail_msg("%s: %.9g, %.9g is right (%g allowed)", k->name, got, right, allowed);
    }
}

static void fill(size_t n, float size)
{
    random_floats(a, n, size);
    random_floats(b, n, size);
    random_floats(c, n, size);
    out[n] = GUARD;
}

typedef void (*one_size_fn)(const phi_kernels *k, size_t n);

static void each_size(one_size_fn fn)
{
    random_seed(7);
    for (size_t s = 0; s < n_sets; s++) {
        for (size_t n = 1; n <= N_MAX; n++) {
            fill(n, 4.0F);
            fn(sets[s], n);
            assert_true(out[n] == GUARD);
        }
    }
}

static void rms_norm_size(const phi_kernels *k, size_t n)
{
    double squares = 0.0;
    for (size_t i = 0; i < n; i++) {
        squares += (double)a[i] * (double)a[i];
    }
    double inverse = 1.0 / sqrt(squares / (double)n + 1e-5);
    k->rms_norm(a, b, n, 1e-5F, out);
    for (size_t i = 0; i < n; i++) {
        double right = (double)b[i] * (double)a[i] * inverse;
        check(k, (double)out[i], right, fabs(right));
    }
}

/* Values far from zero, as a residual stream's may be: the mean is not left in. */
static void layer_norm_size(const phi_kernels *k, size_t n)
{
    double sum = 0.0;
    double squares = 0.0;
    for (size_t i = 0; i < n; i++) {
        a[i] += 50.0F;
        sum += (double)a[i];
    }
    double mean = sum / (double)n;
    for (size_t i = 0; i < n; i++) {
        squares += ((double)a[i] - mean) * ((double)a[i] - mean);
    }
    double inverse = 1.0 / sqrt(squares / (double)n + 1e-5);
    k->layer_norm(a, b, c, n, 1e-5F, out);
    for (size_t i = 0; i < n; i++) {
        double scaled = (double)b[i] * inverse;
        double right = scaled * ((double)a[i] - mean) + (double)c[i];
        /* The mean itself is a float when it is taken off. */
        check(k, (double)out[i], right, fabs(scaled) * 10.0 + fabs((double)c[i]));
    }
}

static double gelu_of(double x)
{
    return 0.5 * x * (1.0 + tanh(sqrt(2.0 / acos(-1.0)) * (x + 0.044715 * x * x * x)));
}

/* The error of exp's argument is one of its result, as many times over as the argument is large. */
static double gelu_size_of(double x)
{
    return fabs(gelu_of(x)) * (1.0 + fabs(x) + fabs(x * x * x) * 0.1) + 1e-30;
}

static void gelu_size(const phi_kernels *k, size_t n)
{
    k->gelu(a, n, out);
    for (size_t i = 0; i < n; i++) {
        check(k, (double)out[i], gelu_of((double)a[i]), gelu_size_of((double)a[i]));
    }
    memcpy(out, a, n * sizeof *a);
    k->gelu(out, n, out);
    for (size_t i = 0; i < n; i++) {
        check(k, (double)out[i], gelu_of((double)a[i]), gelu_size_of((double)a[i]));
    }
}

static void swiglu_size(const phi_kernels *k, size_t n)
{
    k->swiglu(a, b, n, out);
    for (size_t i = 0; i < n; i++) {
        double right = (double)b[i] * (double)a[i] / (1.0 + exp(-(double)a[i]));
        check(k, (double)out[i], right, fabs(right));
    }
}

static void add_size(const phi_kernels *k, size_t n)
{
    memcpy(out, a, n * sizeof *a);
    k->add(out, b, n);
    for (size_t i = 0; i < n; i++) {
        assert_true(out[i] == a[i] + b[i]);
    }
    k->scale(0.3F, out, out, n);
    for (size_t i = 0; i < n; i++) {
        assert_true(out[i] == 0.3F * (a[i] + b[i]));
    }
}

static void max_size(const phi_kernels *k, size_t n)
{
    float best = -INFINITY;
    for (size_t i = 0; i < n; i++) {
        best = fmaxf(best, a[i]);
    }
    assert_true(k->max(a, n) == best);
}

static void mix_size(const phi_kernels *k, size_t n)
{
    memcpy(out, a, n * sizeof *a);
    k->mix(-0.6F, out, 0.7F, b, n);
    for (size_t i = 0; i < n; i++) {
        double right = (double)-0.6F * (double)a[i] + (double)0.7F * (double)b[i];
        check(k, (double)out[i], right, fabs((double)a[i]) + fabs((double)b[i]));
    }
}

static void exp_sum_size(const phi_kernels *k, size_t n)
{
    double sum = 0.0;
    memcpy(out, a, n * sizeof *a);
    float got = k->exp_sum(out, n, 3.5F);
    for (size_t i = 0; i < n; i++) {
        double right = exp((double)(a[i] - 3.5F));
        check(k, (double)out[i], right, right);
        sum += right;
    }
    check(k, (double)got, sum, sum);
}

static void test_sizes(void **state)
{
    (void)state;
    each_size(rms_norm_size);
    each_size(layer_norm_size);
    each_size(gelu_size);
    each_size(swiglu_size);
    each_size(add_size);
    each_size(max_size);
    each_size(mix_size);
    each_size(exp_sum_size);
}

/* Two values worked out by hand: theta 10000, four rotary dimensions, position 3, then a dimension
 * that does not turn. */
static void test_rope(void **state)
{
    (void)state;
    const float cosine[] = {cosf(3.0F), cosf(0.03F)};
    const float sine[] = {sinf(3.0F), sinf(0.03F)};
    static const double right[] = {-1.41335252, 1.87911807, -2.82885748, 4.05819114, 5.0};
    for (size_t s = 0; s < n_sets; s++) {
        float x[] = {1.0F, 2.0F, 3.0F, 4.0F, 5.0F};
        sets[s]->rope(x, cosine, sine, 4);
        for (size_t i = 0; i < 5; i++) {
            check(sets[s], (double)x[i], right[i], 4.0);
        }
        /* Longer than a register, and not a whole number of them. */
        random_seed(8);
        float wide[52];
        float turned[52];
        float cos_row[26];
        float z[26];
        random_floats(wide, 52, 2.0F);
        memcpy(turned, wide, sizeof wide);
        for (size_t i = 0; i < 26; i++) {
            cos_row[i] = cosf((float)i);
            z[i] = sinf((float)i);
        }
        sets[s]->rope(turned, cos_row, z, 52);
        for (size_t i = 0; i < 26; i++) {
            check(sets[s], (double)turned[i],
                  (double)wide[i] * (double)cos_row[i] - (double)wide[i + 26] * (double)z[i], 4.0);
            check(sets[s], (double)turned[i + 26],
                  (double)wide[i + 26] * (double)cos_row[i] + (double)wide[i] * (double)z[i], 4.0);
        }
    }
}

/* Values worked out by hand, and the ends. */
static void test_gelu(void **state)
{
    (void)state;
    static const float x[] = {-1.0F, 0.5F, 2.0F, 0.0F, 1e30F, -1e20F, 60.0F, -60.0F};
    static const double right[] = {-0.158808, 0.345714, 1.9545977, 0.0, 1e30, 0.0, 60.0, 0.0};
    for (size_t s = 0; s < n_sets; s++) {
        float got[8];
        sets[s]->gelu(x, 8, got);
        for (size_t i = 0; i < 8; i++) {
            double allowed = 1e-6 + 1e-7 * fabs(right[i]);
            if (!(fabs((double)got[i] - right[i]) <= allowed)) {
                fail_msg("%s: gelu(%g) is %g", sets[s]->name, (double)x[i], (double)got[i]);
            }
        }
    }
}

/* A set that lacks a function would be found when a model needs it. */
static void test_slots(void **state)
{
    (void)state;
    for (size_t s = 0; s < n_sets; s++) {
        const phi_kernels *k = sets[s];
        assert_true(k->quantize_tile && k->rows_int && k->rows_float);
        assert_true(k->rms_norm && k->layer_norm && k->gelu && k->swiglu && k->rope);
        assert_true(k->add && k->mix && k->scale && k->max && k->exp_sum);
        assert_true(k->kv_store && k->attend);
    }
}

/* Far ends: exp falls to 0 and never below, infinities and NaN behave. */
static void test_extremes(void **state)
{
    (void)state;
    for (size_t s = 0; s < n_sets; s++) {
        const phi_kernels *k = sets[s];
        for (int i = 0; i <= 1800; i++) {
            float x[9];
            float right = expf(-(float)i * 0.05F);
            for (size_t j = 0; j < 9; j++) {
                x[j] = -(float)i * 0.05F;
            }
            (void)k->exp_sum(x, 9, 0.0F);
            check(k, (double)x[0], (double)right, (double)right + 1e-31);
            assert_true(x[8] == x[0]);
        }
        float tail[] = {-INFINITY, 0.0F, -1e30F, -200.0F};
        assert_true(k->exp_sum(tail, 4, 0.0F) == 1.0F);
        assert_true(tail[0] == 0.0F && tail[2] == 0.0F && tail[3] == 0.0F);
        float wide[9] = {0.0F, NAN};
        assert_true(isnan(k->exp_sum(wide, 9, 0.0F)));
        static const float gates[] = {100.0F, -100.0F, 30.0F, -30.0F, 0.0F, 1e30F, -1e20F, 1e-30F};
        static const float ups[] = {1.0F, 1.0F, 1.0F, 1.0F, 1.0F, 1.0F, 1.0F, 1.0F};
        float swished[8];
        k->swiglu(gates, ups, 8, swished);
        for (size_t i = 0; i < 8; i++) {
            double gate = (double)gates[i];
            check(k, (double)swished[i], gate / (1.0 + exp(-gate)),
                  fabs(gate) > 1e-20 ? 1e-9 + fmax(gate, 0.0) : 0.0);
        }
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_slots), cmocka_unit_test(test_sizes),    cmocka_unit_test(test_gelu),
        cmocka_unit_test(test_rope),  cmocka_unit_test(test_extremes),
    };
    return cmocka_run_group_tests(tests, find_sets, NULL);
}

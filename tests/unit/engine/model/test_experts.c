/* Routing by the reference's rule, and a layer of experts: against sums in double, and the same
 * bits alone, by one thread, and in a batch, by several. */
#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>

#include <cmocka.h>

#include "base/mem.h"
#include "engine/model/experts.h"
#include "random_weight.h"

#define E 64U
#define F 32U
#define N_EXPERT 5U
#define N_TOK 23U
#define N_PROMPT 9U

static phi_team *team;
static phi_team *single;
static phi_description description;
static phi_weight router;
static phi_weight gate;
static phi_weight up;
static phi_weight down;
static float x[N_TOK * E];

static int make_team(void **state)
{
    (void)state;
    phi_description_init(&description, PHI_ARCH_PHIMOE);
    description.n_embd = E;
    description.n_ffn = F;
    description.n_expert = N_EXPERT;
    random_seed(11);
    random_floats(x, N_TOK * E, 1.0F);
    return phi_team_create(3, &team, NULL) || phi_team_create(1, &single, NULL) ? -1 : 0;
}

static int drop_team(void **state)
{
    (void)state;
    phi_team_destroy(team);
    phi_team_destroy(single);
    return 0;
}

/* What transformers' sparsemixer gives for these scores and a jitter of 0.01. */
static void test_route(void **state)
{
    (void)state;
    static const struct {
        float scores[4];
        uint32_t expert[2];
        double weight[2];
    } cases[] = {
        {{1.0F, 2.0F, 0.5F, -1.0F}, {1, 0}, {1.0, 1.0}},
        {{2.0F, 1.99F, 1.97F, 0.1F}, {0, 1}, {0.337781, 0.505}},
        {{3.0F, 2.95F, 2.9F, 2.88F}, {0, 1}, {0.512497, 0.512497}},
        {{-0.5F, -0.505F, -0.52F, -3.0F}, {0, 1}, {0.50125, 1.0}},
        {{0.0F, 0.0F, 0.0F, 0.0F}, {0, 1}, {0.25, 1.0 / 3.0}},
    };
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        phi_route route = phi_experts_route(cases[i].scores, 4, 0.01F);
        for (size_t k = 0; k < 2; k++) {
            assert_int_equal(route.expert[k], cases[i].expert[k]);
            if (!(fabs((double)route.weight[k] - cases[i].weight[k]) <= 2e-5)) {
                fail_msg("case %zu: share %zu is %g", i, k, (double)route.weight[k]);
            }
        }
    }
}

static void run(const phi_compute *compute, const float *rows, uint32_t n, uint32_t n_prompt,
                float *out)
{
    phi_experts_scratch scratch;
    phi_matmul_scratch products;
    float work[3][N_TOK * F];
    assert_int_equal(PHI_OK, phi_experts_scratch_init(&scratch, &description, n, NULL));
    assert_int_equal(PHI_OK,
                     phi_matmul_scratch_init(
                         &products, &(phi_matmul_sizes){n, E, phi_team_size(compute->team)}, NULL));
    const phi_experts experts = {.description = &description,
                                 .router = &router,
                                 .gate = &gate,
                                 .up = &up,
                                 .down = &down,
                                 .n_tok = n,
                                 .n_prompt = n_prompt,
                                 .x = rows,
                                 .gate_rows = work[0],
                                 .up_rows = work[1],
                                 .ffn_rows = work[2],
                                 .out = out};
    phi_experts_run(compute, &experts, &scratch, &products);
    phi_matmul_scratch_done(&products);
    phi_experts_scratch_done(&scratch);
}

static double dot(const phi_weight *weight, uint32_t row, const double *in)
{
    float values[E];
    double sum = 0.0;
    phi_weight_row(weight, row, values);
    for (uint32_t k = 0; k < weight->cols; k++) {
        sum += (double)values[k] * in[k];
    }
    return sum;
}

/* One token, by the definition. */
static void reference(const float *row, double *out)
{
    double in[E];
    float scores[N_EXPERT];
    for (uint32_t k = 0; k < E; k++) {
        in[k] = (double)row[k];
        out[k] = 0.0;
    }
    for (uint32_t i = 0; i < N_EXPERT; i++) {
        scores[i] = (float)dot(&router, i, in);
    }
    phi_route route = phi_experts_route(scores, N_EXPERT, description.router_jitter);
    for (size_t k = 0; k < PHI_EXPERTS_USED; k++) {
        uint32_t expert = route.expert[k];
        double hidden[F];
        for (uint32_t i = 0; i < F; i++) {
            double g = dot(&gate, expert * F + i, in);
            hidden[i] = g / (1.0 + exp(-g)) * dot(&up, expert * F + i, in);
        }
        for (uint32_t i = 0; i < E; i++) {
            out[i] += (double)route.weight[k] * dot(&down, expert * E + i, hidden);
        }
    }
}

static void check_kind(const phi_compute *compute, const random_kind *kind, double allowed)
{
    static const random_kind f32 = {.name = "fp32", .kind = PHI_WEIGHT_FP32};
    float all[N_TOK * E];
    float alone[E];
    phi_compute with_one = *compute;
    with_one.team = single;
    random_weight(&router, &f32, N_EXPERT, E, 0.3F);
    random_weight(&gate, kind, N_EXPERT * F, E, 0.2F);
    random_weight(&up, kind, N_EXPERT * F, E, 0.2F);
    random_weight(&down, kind, N_EXPERT * E, F, 0.2F);
    /* The last ones as a prompt is. */
    run(compute, x, N_TOK, N_PROMPT, all);
    for (uint32_t t = 0; t < N_TOK; t++) {
        double right[E];
        double largest = 1e-3;
        run(&with_one, x + (size_t)t * E, 1, t >= N_TOK - N_PROMPT, alone);
        if (memcmp(alone, all + (size_t)t * E, sizeof alone) != 0) {
            fail_msg("%s, %s: token %u is not the same alone", compute->kernels->name, kind->name,
                     t);
        }
        reference(x + (size_t)t * E, right);
        for (uint32_t i = 0; i < E; i++) {
            largest = fmax(largest, fabs(right[i]));
        }
        for (uint32_t i = 0; i < E; i++) {
            double off = fabs((double)alone[i] - right[i]);
            if (!(off <= allowed * largest)) {
                fail_msg("%s, %s: token %u is off by %g of %g", compute->kernels->name, kind->name,
                         t, off, largest);
            }
        }
    }
    phi_weight_done(&router);
    phi_weight_done(&gate);
    phi_weight_done(&up);
    phi_weight_done(&down);
}

static void test_layer(void **state)
{
    (void)state;
    const phi_kernels *sets[8];
    size_t n_sets = phi_kernels_available(sets, 8);
    for (size_t s = 0; s < n_sets; s++) {
        const phi_compute compute = {
            .kernels = sets[s], .team = team, .priority = PHI_TEAM_INFERENCE};
        for (size_t i = 0; i < n_random_kinds; i++) {
            const random_kind *kind = &random_kinds[i];
            if (random_kind_fits(kind, E) && random_kind_fits(kind, F)) {
                /* Activations are rounded to 8 bits, twice. */
                check_kind(&compute, kind, kind->group ? 0.08 : 1e-5);
            }
        }
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_route),
        cmocka_unit_test(test_layer),
    };
    return cmocka_run_group_tests(tests, make_team, drop_team);
}

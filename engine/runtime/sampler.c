#include "engine/runtime/sampler.h"

#include "base/assert.h"
#include "base/hash.h"
#include "base/mem.h"

#include <float.h>
#include <inttypes.h>
#include <math.h>
#include <string.h>

#define BAN_BIAS (-100.0F)
#define REPETITION_PENALTY_MIN 0.01F
#define REPETITION_PENALTY_MAX 100.0F

struct phi_token_count {
    int32_t token; /* -1: the slot is empty */
    uint32_t in_answer;
};

void phi_sampling_defaults(phi_sampling *out_sampling)
{
    *out_sampling = (phi_sampling){
        .temperature = 1.0F,
        .top_p = 1.0F,
        .repetition_penalty = 1.0F,
    };
}

/* ---- parameters ---- */

typedef struct range {
    const char *name;
    float value;
    float min;
    float max;
    bool min_excluded;
} range;

static phi_status check_range(const range *r, phi_err *err)
{
    bool above = r->min_excluded ? r->value > r->min : r->value >= r->min;
    if (above && r->value <= r->max) {
        return PHI_OK;
    }
    return phi_fail_param(err, PHI_E_INVALID, r->name, "%s must be %s %g and at most %g, not %g",
                          r->name, r->min_excluded ? "greater than" : "at least", (double)r->min,
                          (double)r->max, (double)r->value);
}

static phi_status check_bias(const phi_sampling *s, uint32_t n_vocab, phi_err *err)
{
    if (s->n_logit_bias > PHI_LIMIT_LOGIT_BIAS) {
        return phi_fail_param(err, PHI_E_INVALID, "logit_bias",
                              "logit_bias has %zu entries; at most %u are allowed", s->n_logit_bias,
                              PHI_LIMIT_LOGIT_BIAS);
    }
    for (size_t i = 0; i < s->n_logit_bias; i++) {
        const phi_logit_bias *bias = &s->logit_bias[i];
        if (bias->token < 0 || (uint32_t)bias->token >= n_vocab) {
            return phi_fail_param(err, PHI_E_INVALID, "logit_bias",
                                  "logit_bias names token %" PRId32
                                  "; the model's tokens are 0 to %" PRIu32,
                                  bias->token, n_vocab - 1);
        }
        if (!(fabsf(bias->bias) <= 1000.0F)) {
            return phi_fail_param(err, PHI_E_INVALID, "logit_bias",
                                  "logit_bias of token %" PRId32 " is %g; -100 to 100 is meant",
                                  bias->token, (double)bias->bias);
        }
    }
    return PHI_OK;
}

phi_status phi_sampling_check(const phi_sampling *s, uint32_t n_vocab, phi_err *err)
{
    const range ranges[] = {
        {"temperature", s->temperature, 0.0F, 2.0F, false},
        {"top_p", s->top_p, 0.0F, 1.0F, true},
        {"min_p", s->min_p, 0.0F, 1.0F, false},
        {"presence_penalty", s->presence_penalty, -2.0F, 2.0F, false},
        {"frequency_penalty", s->frequency_penalty, -2.0F, 2.0F, false},
        {"repetition_penalty", s->repetition_penalty, REPETITION_PENALTY_MIN,
         REPETITION_PENALTY_MAX, false},
    };
    for (size_t i = 0; i < sizeof ranges / sizeof ranges[0]; i++) {
        phi_status status = check_range(&ranges[i], err);
        if (status) {
            return status;
        }
    }
    return check_bias(s, n_vocab, err);
}

/* ---- the tokens seen ---- */

static bool has_penalties(const phi_sampling *s)
{
    return s->presence_penalty != 0.0F || s->frequency_penalty != 0.0F ||
           s->repetition_penalty != 1.0F;
}

phi_status phi_sampler_init(phi_sampler *sampler, const phi_sampling *sampling,
                            uint32_t n_tokens_max, phi_err *err)
{
    *sampler = (phi_sampler){.params = *sampling, .seed = sampling->seed};
    sampler->params.logit_bias = NULL;
    if (!sampling->has_seed) {
        phi_random_bytes(&sampler->seed, sizeof sampler->seed);
    }
    if (sampling->n_logit_bias) {
        sampler->bias = phi_try_alloc(sampling->n_logit_bias * sizeof *sampler->bias);
        if (!sampler->bias) {
            goto no_memory;
        }
        memcpy(sampler->bias, sampling->logit_bias, sampling->n_logit_bias * sizeof *sampler->bias);
        sampler->params.logit_bias = sampler->bias;
    }
    if (has_penalties(sampling)) {
        /* Never more than half full. */
        uint64_t slots = 16;
        while (slots < 2 * (uint64_t)n_tokens_max) {
            slots *= 2;
        }
        sampler->n_slots = (uint32_t)slots;
        sampler->counts = phi_try_alloc((size_t)slots * sizeof *sampler->counts);
        if (!sampler->counts) {
            goto no_memory;
        }
        for (uint32_t i = 0; i < sampler->n_slots; i++) {
            sampler->counts[i] = (phi_token_count){.token = -1};
        }
    }
    return PHI_OK;
no_memory:
    phi_sampler_done(sampler);
    return phi_fail(err, PHI_E_NO_MEMORY, "no memory for the sampling state of a sequence");
}

void phi_sampler_done(phi_sampler *sampler)
{
    phi_free(sampler->bias);
    phi_free(sampler->counts);
    *sampler = (phi_sampler){0};
}

void phi_sampler_see(phi_sampler *sampler, int32_t token, bool in_answer)
{
    if (!sampler->counts) {
        return;
    }
    /* Knuth's multiplicative hash; linear probing. */
    uint32_t slot = ((uint32_t)token * 2654435761U) & (sampler->n_slots - 1);
    while (sampler->counts[slot].token != token && sampler->counts[slot].token != -1) {
        slot = (slot + 1) & (sampler->n_slots - 1);
    }
    sampler->counts[slot].token = token;
    sampler->counts[slot].in_answer += in_answer;
}

/* ---- scratch ---- */

static uint32_t blocks_of(uint32_t n_vocab)
{
    return (n_vocab + PHI_SAMPLER_BLOCK - 1) / PHI_SAMPLER_BLOCK;
}

phi_status phi_sampler_scratch_init(phi_sampler_scratch *scratch, uint32_t n_vocab, phi_err *err)
{
    uint32_t n_blocks = blocks_of(n_vocab);
    scratch->logits = phi_try_alloc(n_vocab * sizeof *scratch->logits);
    scratch->maxima = phi_try_alloc(n_blocks * sizeof *scratch->maxima);
    scratch->sums = phi_try_alloc(n_blocks * sizeof *scratch->sums);
    scratch->candidates = phi_try_alloc(n_vocab * sizeof *scratch->candidates);
    scratch->weights = phi_try_alloc(n_vocab * sizeof *scratch->weights);
    scratch->ids = phi_try_alloc(n_vocab * sizeof *scratch->ids);
    if (!scratch->logits || !scratch->maxima || !scratch->sums || !scratch->candidates ||
        !scratch->weights || !scratch->ids) {
        phi_sampler_scratch_done(scratch);
        return phi_fail(err, PHI_E_NO_MEMORY, "no memory to sample from %" PRIu32 " tokens",
                        n_vocab);
    }
    return PHI_OK;
}

void phi_sampler_scratch_done(phi_sampler_scratch *scratch)
{
    phi_free(scratch->logits);
    phi_free(scratch->maxima);
    phi_free(scratch->sums);
    phi_free(scratch->candidates);
    phi_free(scratch->weights);
    phi_free(scratch->ids);
    *scratch = (phi_sampler_scratch){0};
}

/* ---- steps 1 to 4 ---- */

static float clamp_finite(float value)
{
    return value > FLT_MAX ? FLT_MAX : value < -FLT_MAX ? -FLT_MAX : value;
}

static void apply_penalties(const phi_sampler *sampler, float *logits)
{
    const phi_sampling *s = &sampler->params;
    for (uint32_t i = 0; i < sampler->n_slots; i++) {
        const phi_token_count *seen = &sampler->counts[i];
        if (seen->token < 0 || logits[seen->token] == -INFINITY) {
            continue;
        }
        float l = logits[seen->token];
        l = l > 0.0F ? l / s->repetition_penalty : l * s->repetition_penalty;
        if (seen->in_answer) {
            l -= s->presence_penalty + s->frequency_penalty * (float)seen->in_answer;
        }
        logits[seen->token] = clamp_finite(l);
    }
}

static void apply_bias(const phi_sampler *sampler, float *logits)
{
    for (size_t i = 0; i < sampler->params.n_logit_bias; i++) {
        const phi_logit_bias *bias = &sampler->bias[i];
        float *l = &logits[bias->token];
        if (*l != -INFINITY) {
            *l = bias->bias <= BAN_BIAS ? -INFINITY : clamp_finite(*l + bias->bias);
        }
    }
}

/* Fills out [n_vocab]. */
static phi_status adjust(const phi_sampler *sampler, const phi_logits *logits, float *out,
                         phi_err *err)
{
    uint32_t broken = 0;
    for (uint32_t i = 0; i < logits->n_vocab; i++) {
        float l = logits->known[i] ? logits->values[i] : -INFINITY;
        /* False for NaN as well as for +infinity. */
        broken |= (uint32_t) !(l <= FLT_MAX);
        out[i] = l;
    }
    if (broken) {
        return phi_fail(err, PHI_E_INTERNAL,
                        "the model's output is not a number (NaN or infinite): its weights are "
                        "damaged or out of range");
    }
    if (sampler->counts) {
        apply_penalties(sampler, out);
    }
    apply_bias(sampler, out);
    return PHI_OK;
}

/* ---- cuts: choosing the largest without sorting ---- */

/* Order of floats as order of unsigned numbers; -0 and 0 are equal. */
static uint32_t key_of(float value)
{
    uint32_t bits;
    value += 0.0F;
    memcpy(&bits, &value, sizeof bits);
    return bits & 0x80000000U ? ~bits : bits | 0x80000000U;
}

static float value_of(uint32_t key)
{
    float value;
    uint32_t bits = key & 0x80000000U ? key & 0x7FFFFFFFU : ~key;
    memcpy(&value, &bits, sizeof value);
    return value;
}

/*
 * The key of the last that is kept when the fewest largest of n are whose weights add up to
 * `target`; `out_above`: what those weigh whose keys are larger. weights NULL: each weighs 1. A
 * radix search, 11 bits at a time: three passes whatever n is.
 */
static uint32_t find_cut(const float *logits, const float *weights, uint32_t n, double target,
                         double *out_above)
{
    static const struct {
        unsigned shift;
        unsigned bits;
    } digits[3] = {{21, 11}, {10, 11}, {0, 10}};
    double sums[1 << 11];
    uint32_t prefix = 0; /* the digits found so far, in place */
    uint32_t mask = 0;
    double above = 0.0; /* weight of keys larger than all with the prefix */
    for (int d = 0; d < 3; d++) {
        uint32_t size = 1U << digits[d].bits;
        memset(sums, 0, sizeof sums);
        for (uint32_t i = 0; i < n; i++) {
            uint32_t key = key_of(logits[i]);
            if ((key & mask) == prefix) {
                sums[(key >> digits[d].shift) & (size - 1)] += weights ? (double)weights[i] : 1.0;
            }
        }
        uint32_t found = size;
        for (uint32_t bin = size; bin-- > 0;) {
            if (sums[bin] > 0.0) {
                /* The smallest bin in use is the answer if rounding never reaches the target. */
                above += found < size ? sums[found] : 0.0;
                found = bin;
                if (above + sums[bin] >= target) {
                    break;
                }
            }
        }
        PHI_ASSERT(found < size);
        prefix |= found << digits[d].shift;
        mask |= (size - 1) << digits[d].shift;
    }
    *out_above = above;
    return prefix;
}

/* Keeps the fewest largest of n candidates whose weights add up to `target`, of equal ones those
 * that come first; returns how many. */
static uint32_t keep_largest(float *logits, uint32_t *ids, float *weights, uint32_t n,
                             double target)
{
    double reached;
    uint32_t cut = find_cut(logits, weights, n, target, &reached);
    uint32_t kept = 0;
    for (uint32_t i = 0; i < n; i++) {
        uint32_t key = key_of(logits[i]);
        if (key < cut || (key == cut && reached >= target)) {
            continue;
        }
        if (key == cut) {
            reached += weights ? (double)weights[i] : 1.0;
        }
        logits[kept] = logits[i];
        ids[kept] = ids[i];
        if (weights) {
            weights[kept] = weights[i];
        }
        kept++;
    }
    return kept;
}

/* ---- choosing ---- */

static uint64_t mix(uint64_t x)
{
    /* The finisher of splitmix64; Steele, Lea and Flood, OOPSLA 2014. */
    x ^= x >> 30;
    x *= 0xbf58476d1ce4e5b9ULL;
    x ^= x >> 27;
    x *= 0x94d049bb133111ebULL;
    return x ^ (x >> 31);
}

double phi_sampler_random(uint64_t seed, uint64_t place)
{
    uint64_t bits = mix(mix(seed + 0x9e3779b97f4a7c15ULL) + (place + 1) * 0x9e3779b97f4a7c15ULL);
    return (double)(bits >> 11) * 0x1p-53;
}

/* One choice being made. */
typedef struct choice {
    const phi_sampling *params;
    const phi_kernels *kernels;
    phi_sampler_scratch *scratch;
    uint32_t n_vocab;
    uint32_t n_blocks;
    float max; /* the largest logit */
} choice;

static uint32_t block_size(uint32_t n_vocab, uint32_t block)
{
    uint32_t left = n_vocab - block * PHI_SAMPLER_BLOCK;
    return left < PHI_SAMPLER_BLOCK ? left : PHI_SAMPLER_BLOCK;
}

static void find_maxima(choice *c)
{
    for (uint32_t b = 0; b < c->n_blocks; b++) {
        c->scratch->maxima[b] =
            c->kernels->max(c->scratch->logits + b * PHI_SAMPLER_BLOCK, block_size(c->n_vocab, b));
    }
    c->max = c->kernels->max(c->scratch->maxima, c->n_blocks);
}

static uint32_t first_of_largest(const choice *c)
{
    uint32_t block = 0;
    while (c->scratch->maxima[block] != c->max) {
        block++;
    }
    uint32_t i = block * PHI_SAMPLER_BLOCK;
    while (c->scratch->logits[i] != c->max) {
        i++;
    }
    return i;
}

/* Makes candidates of the logits that are not below `bound` and not taken out; returns how many. */
static uint32_t pack(const choice *c, float bound)
{
    phi_sampler_scratch *scratch = c->scratch;
    uint32_t n = 0;
    bound = bound > -FLT_MAX ? bound : -FLT_MAX;
    for (uint32_t b = 0; b < c->n_blocks; b++) {
        if (scratch->maxima[b] < bound) {
            continue;
        }
        uint32_t first = b * PHI_SAMPLER_BLOCK;
        uint32_t end = first + block_size(c->n_vocab, b);
        for (uint32_t i = first; i < end; i++) {
            /* Without a branch: what is written beyond n is written over. */
            scratch->candidates[n] = scratch->logits[i];
            scratch->ids[n] = i;
            n += scratch->logits[i] >= bound;
        }
    }
    return n;
}

/* Weights of the candidates; returns their sum. The likeliest of all weighs 1. */
static double weigh(const choice *c, uint32_t n)
{
    phi_sampler_scratch *scratch = c->scratch;
    double total = 0.0;
    for (uint32_t i = 0; i < n; i++) {
        scratch->weights[i] = (scratch->candidates[i] - c->max) / c->params->temperature;
    }
    for (uint32_t i = 0; i < n; i += PHI_SAMPLER_BLOCK) {
        total += (double)c->kernels->exp_sum(
            scratch->weights + i, n - i < PHI_SAMPLER_BLOCK ? n - i : PHI_SAMPLER_BLOCK, 0.0F);
    }
    return total;
}

/* The same of all logits, block by block. */
static double weigh_all(const choice *c)
{
    phi_sampler_scratch *scratch = c->scratch;
    double total = 0.0;
    for (uint32_t i = 0; i < c->n_vocab; i++) {
        scratch->weights[i] = (scratch->logits[i] - c->max) / c->params->temperature;
    }
    for (uint32_t b = 0; b < c->n_blocks; b++) {
        scratch->sums[b] = c->kernels->exp_sum(scratch->weights + b * PHI_SAMPLER_BLOCK,
                                               block_size(c->n_vocab, b), 0.0F);
        total += (double)scratch->sums[b];
    }
    return total;
}

/* Step 6. As many blocks as are kept have a logit that is not below the k-th largest maximum of a
 * block, so nothing below that is among the k largest. */
static uint32_t cut_by_count(const choice *c)
{
    phi_sampler_scratch *scratch = c->scratch;
    uint32_t k = c->params->top_k;
    float bound = -FLT_MAX;
    if (k < c->n_blocks) {
        double above;
        uint32_t key = find_cut(scratch->maxima, NULL, c->n_blocks, (double)k, &above);
        bound = value_of(key);
    }
    uint32_t n = pack(c, bound);
    if (k < n) {
        n = keep_largest(scratch->candidates, scratch->ids, NULL, n, (double)k);
    }
    return n;
}

/* Step 7 over all tokens: nearly always a few that are near the likeliest have the share, and only
 * they need to be looked at closely. */
static uint32_t cut_by_share(const choice *c)
{
    /* Logarithms of weights; the last takes all. */
    static const float depths[] = {-6.0F, -10.0F, -16.0F, -INFINITY};
    phi_sampler_scratch *scratch = c->scratch;
    double target = (double)c->params->top_p * weigh_all(c);
    uint32_t n = 0;
    for (size_t i = 0; i < sizeof depths / sizeof depths[0]; i++) {
        n = pack(c, c->max + c->params->temperature * depths[i]);
        if (weigh(c, n) >= target * (1.0 + 1e-6)) {
            break;
        }
    }
    return keep_largest(scratch->candidates, scratch->ids, scratch->weights, n, target);
}

/* Steps 8 and 9 on n weighed candidates. */
static uint32_t draw(const choice *c, uint32_t n, double random)
{
    float *weights = c->scratch->weights;
    double total = 0.0;
    for (uint32_t i = 0; i < n; i++) {
        /* The likeliest weighs 1. */
        weights[i] = weights[i] < c->params->min_p ? 0.0F : weights[i];
        total += (double)weights[i];
    }
    double left = random * total;
    uint32_t chosen = 0;
    for (uint32_t i = 0; i < n; i++) {
        if (weights[i] > 0.0F) {
            chosen = i;
            left -= (double)weights[i];
            if (left < 0.0) {
                break;
            }
        }
    }
    return c->scratch->ids[chosen];
}

/* Step 9 where nothing is cut: first the block, then the token in it. */
static uint32_t draw_from_all(const choice *c, double random)
{
    const phi_sampler_scratch *scratch = c->scratch;
    double left = random * weigh_all(c);
    uint32_t chosen = 0;
    for (uint32_t b = 0; b < c->n_blocks; b++) {
        if (!(scratch->sums[b] > 0.0F)) {
            continue;
        }
        chosen = b;
        if (left < (double)scratch->sums[b]) {
            break;
        }
        left -= (double)scratch->sums[b];
    }
    uint32_t first = chosen * PHI_SAMPLER_BLOCK;
    uint32_t end = first + block_size(c->n_vocab, chosen);
    for (uint32_t i = first; i < end; i++) {
        if (scratch->weights[i] > 0.0F) {
            chosen = i;
            left -= (double)scratch->weights[i];
            if (left < 0.0) {
                break;
            }
        }
    }
    return chosen;
}

/* Steps 6 to 9. */
static uint32_t choose(const choice *c, double random)
{
    const phi_sampling *s = c->params;
    if (s->top_k && s->top_k < c->n_vocab) {
        uint32_t n = cut_by_count(c);
        double total = weigh(c, n);
        if (s->top_p < 1.0F) {
            n = keep_largest(c->scratch->candidates, c->scratch->ids, c->scratch->weights, n,
                             (double)s->top_p * total);
        }
        return draw(c, n, random);
    }
    if (s->top_p < 1.0F) {
        return draw(c, cut_by_share(c), random);
    }
    if (s->min_p > 0.0F) {
        /* A little lower than the cut, which is by weights. */
        uint32_t n = pack(c, c->max + s->temperature * (logf(s->min_p) - 1e-3F));
        (void)weigh(c, n);
        return draw(c, n, random);
    }
    return draw_from_all(c, random);
}

phi_status phi_sampler_pick(const phi_sampler *sampler, phi_sampler_scratch *scratch,
                            const phi_logits *logits, uint64_t place, int32_t *out_token,
                            phi_err *err)
{
    phi_status status = adjust(sampler, logits, scratch->logits, err);
    if (status) {
        return status;
    }
    choice c = {.params = &sampler->params,
                .kernels = logits->kernels,
                .scratch = scratch,
                .n_vocab = logits->n_vocab,
                .n_blocks = blocks_of(logits->n_vocab)};
    find_maxima(&c);
    if (c.max == -INFINITY) {
        return phi_fail_param(err, PHI_E_INVALID, "logit_bias",
                              "logit_bias leaves no token to choose from");
    }
    if (sampler->params.temperature == 0.0F) {
        *out_token = (int32_t)first_of_largest(&c);
        return PHI_OK;
    }
    *out_token = (int32_t)choose(&c, phi_sampler_random(sampler->seed, place));
    return PHI_OK;
}

/* ---- log probabilities ---- */

static uint32_t insert_top(phi_token_logprob *top, uint32_t n, uint32_t n_max, int32_t token,
                           float logit)
{
    if (n == n_max && (n == 0 || logit <= top[n - 1].logprob)) {
        return n;
    }
    uint32_t at = n < n_max ? n++ : n - 1;
    while (at > 0 && top[at - 1].logprob < logit) {
        top[at] = top[at - 1];
        at--;
    }
    top[at] = (phi_token_logprob){.token = token, .logprob = logit};
    return n;
}

uint32_t phi_logprobs(const phi_logits *logits, int32_t token, uint32_t n_top, float *out_logprob,
                      phi_token_logprob *out_top)
{
    const phi_kernels *kernels = logits->kernels;
    const float *values = logits->values;
    float max = kernels->max(values, logits->n_vocab);
    double sum = 0.0;
    uint32_t n = 0;
    for (uint32_t first = 0; first < logits->n_vocab; first += PHI_SAMPLER_BLOCK) {
        float block[PHI_SAMPLER_BLOCK];
        uint32_t size = block_size(logits->n_vocab, first / PHI_SAMPLER_BLOCK);
        memcpy(block, values + first, size * sizeof *block);
        float best = kernels->max(block, size);
        sum += (double)kernels->exp_sum(block, size, max);
        if (n_top == 0 || (n == n_top && best <= out_top[n - 1].logprob)) {
            continue;
        }
        for (uint32_t i = first; i < first + size; i++) {
            if (logits->known[i]) {
                n = insert_top(out_top, n, n_top, (int32_t)i, values[i]);
            }
        }
    }
    double log_sum = log(sum) + (double)max;
    for (uint32_t i = 0; i < n; i++) {
        out_top[i].logprob = (float)((double)out_top[i].logprob - log_sum);
    }
    *out_logprob = (float)((double)values[token] - log_sum);
    return n;
}

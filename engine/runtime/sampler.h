/*
 * Purpose: the next token from a row of logits, and log probabilities.
 * Owns:    phi_sampler owns its copy of the parameters and the counts of the tokens seen;
 *          phi_sampler_scratch owns work memory for one thread.
 * Threads: a sampler belongs to one sequence; picks of different sequences may run at the same
 *          time, each with a scratch of its own.
 * Errors:  parameters out of range are PHI_E_INVALID and named; logits that are not numbers are
 *          PHI_E_INTERNAL. Picking allocates nothing.
 * Limits:  PHI_LIMIT_LOGIT_BIAS, PHI_LIMIT_TOP_LOGPROBS.
 *
 * Order of operations on the logits:
 *   1. ids that stand for nothing (padding rows of the vocabulary) are taken out
 *   2. repetition_penalty, over prompt and answer: l > 0 ? l / p : l * p (Keskar et al.,
 *      arXiv:1909.05858, as Hugging Face computes it)
 *   3. l -= presence_penalty * (count > 0) + frequency_penalty * count, over the answer (OpenAI)
 *   4. l += logit_bias; -100 or less takes the token out
 *   5. temperature 0: the largest, of equals the lowest id, and done. Else l /= temperature
 *   6. top_k: the k largest, of equals the lowest ids
 *   7. top_p: of what is left, the fewest most likely tokens whose share reaches top_p
 *   8. min_p: of what is left, tokens at least min_p times as likely as the likeliest
 *   9. one token at random by probability, the random number being a function of the seed and the
 *      token's place in the answer alone
 */
#ifndef PHI_ENGINE_RUNTIME_SAMPLER_H
#define PHI_ENGINE_RUNTIME_SAMPLER_H

#include "base/status.h"
#include "engine/kernels/kernels.h"
#include "engine/runtime/generation.h"

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

typedef struct phi_token_count phi_token_count;

typedef struct phi_sampler {
    phi_sampling params; /* logit_bias is our copy */
    phi_logit_bias *bias;
    uint64_t seed;
    phi_token_count *counts; /* hash table by token id; NULL without penalties */
    uint32_t n_slots;        /* a power of two */
} phi_sampler;

/* Checks the ranges; `n_vocab` bounds the tokens of logit_bias. */
phi_status phi_sampling_check(const phi_sampling *sampling, uint32_t n_vocab,
                              phi_err *err) PHI_MUST_CHECK;
/* `sampling` has been checked. At most `n_tokens_max` tokens will be shown to it. */
phi_status phi_sampler_init(phi_sampler *sampler, const phi_sampling *sampling,
                            uint32_t n_tokens_max, phi_err *err) PHI_MUST_CHECK;
void phi_sampler_done(phi_sampler *sampler);
/* Counts a token of the prompt, or of the answer. */
void phi_sampler_see(phi_sampler *sampler, int32_t token, bool in_answer);

typedef struct phi_sampler_scratch {
    float *logits;     /* [n_vocab] after steps 1 to 4 */
    float *maxima;     /* of its blocks of PHI_SAMPLER_BLOCK */
    float *sums;       /* of the weights of its blocks */
    float *candidates; /* [n_vocab] logits of what a cut may keep, in order of ids */
    float *weights;    /* [n_vocab] of all, or of the candidates */
    uint32_t *ids;     /* of the candidates */
} phi_sampler_scratch;

/* Logits that are looked at one by one only if the largest of them matters. */
#define PHI_SAMPLER_BLOCK 128U

phi_status phi_sampler_scratch_init(phi_sampler_scratch *scratch, uint32_t n_vocab,
                                    phi_err *err) PHI_MUST_CHECK;
void phi_sampler_scratch_done(phi_sampler_scratch *scratch);

/* A row of the model's output. `known[id]` is nonzero where the id stands for a token. */
typedef struct phi_logits {
    const phi_kernels *kernels; /* what to compute with */
    const float *values;
    const uint8_t *known;
    uint32_t n_vocab;
} phi_logits;

/* `place`: how many tokens of the answer came before. */
phi_status phi_sampler_pick(const phi_sampler *sampler, phi_sampler_scratch *scratch,
                            const phi_logits *logits, uint64_t place, int32_t *out_token,
                            phi_err *err) PHI_MUST_CHECK;

/* Natural log probabilities by the model alone: log-softmax over the whole row. `out_top` gets the
 * `n_top` likeliest known tokens, likeliest first, of equals the lowest id first; returns how many
 * there are. */
uint32_t phi_logprobs(const phi_logits *logits, int32_t token, uint32_t n_top, float *out_logprob,
                      phi_token_logprob *out_top);

/* The random number in [0, 1) that a seed gives for a place. */
double phi_sampler_random(uint64_t seed, uint64_t place);

#endif

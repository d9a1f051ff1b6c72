/*
 * Purpose: the request fields that chat and text completions share, checked and typed.
 * Owns:    phi_params owns its strings and arrays from parse to done.
 * Threads: [any]; plain data.
 * Errors:  PHI_E_INVALID or PHI_E_UNSUPPORTED with `param` set: what is wrong and what is right.
 * Limits:  config/limits.h, "generation"; OpenAI's ranges.
 *
 * Unknown fields are ignored. Fields that OpenAI knows and that would change the answer, but that
 * are not supported, are refused by name. A null is the same as an absent field.
 */
#ifndef PHI_SERVER_OPENAI_PARAMS_H
#define PHI_SERVER_OPENAI_PARAMS_H

#include "base/status.h"
#include "engine/engine.h"

#include <jansson.h>
#include <stdbool.h>
#include <stdint.h>

typedef enum phi_params_kind {
    PHI_PARAMS_CHAT,
    PHI_PARAMS_COMPLETION,
} phi_params_kind;

typedef struct phi_params {
    char *model;
    char *precision; /* NULL: not given */
    uint32_t n;
    uint32_t max_tokens; /* UINT32_MAX: as many as the context holds */
    phi_sampling sampling;
    phi_logit_bias *logit_bias; /* what sampling.logit_bias points to */
    char *stop[PHI_LIMIT_STOP_STRINGS];
    size_t n_stop;
    int top_logprobs; /* -1: no logprobs */
    bool stream;
    bool include_usage;
    bool echo;
    bool ignore_eos;
} phi_params;

phi_status phi_params_parse(const json_t *body, phi_params_kind kind, phi_params *out_params,
                            phi_err *err) PHI_MUST_CHECK;
void phi_params_done(phi_params *params);

#endif

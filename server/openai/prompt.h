/*
 * Purpose: OpenAI's `prompt` and `input`: a string, a list of strings, a list of token ids or a
 *          list of such lists, to token sequences.
 * Owns:    the caller owns what encode gives.
 * Threads: check [loop], encode [job].
 * Errors:  PHI_E_INVALID with the field and element named.
 * Limits:  PHI_LIMIT_CHOICES prompts, PHI_LIMIT_CONTEXT tokens each.
 */
#ifndef PHI_SERVER_OPENAI_PROMPT_H
#define PHI_SERVER_OPENAI_PROMPT_H

#include "base/status.h"
#include "engine/engine.h"

#include <jansson.h>
#include <stdint.h>

phi_status phi_prompt_check(const json_t *prompt, const char *field, phi_err *err) PHI_MUST_CHECK;
/* `prompt` has passed the check. An array of `*out_count` token lists, also on failure (free each
 * with phi_tokens_done and the array with phi_free). */
phi_status phi_prompt_encode(const phi_model *model, const json_t *prompt, phi_tokens **out_prompts,
                             uint32_t *out_count, phi_err *err) PHI_MUST_CHECK;

#endif

/*
 * Purpose: pieces of OpenAI's answer objects: usage, log probabilities, finish reasons.
 * Owns: nothing; each returns a fresh reference.
 * Threads: [loop]. Errors: none (out of memory ends the process, as in base/mem.h).
 * Limits: none.
 */
#ifndef PHI_SERVER_OPENAI_RENDER_H
#define PHI_SERVER_OPENAI_RENDER_H

#include "engine/engine.h"

#include <jansson.h>
#include <stddef.h>
#include <stdint.h>

json_t *phi_render_usage(uint64_t prompt_tokens, uint64_t cached_tokens,
                         uint64_t completion_tokens);
/* "stop" or "length". */
const char *phi_render_finish(phi_finish_reason reason);
/* JSON string of text that is valid UTF-8. */
json_t *phi_render_text(const char *text, size_t bytes);
/* One entry of choices[].logprobs.content: token, logprob, bytes, top_logprobs. */
json_t *phi_render_chat_logprob(const phi_model *model, const phi_generation_event *event);
/* An empty completions logprobs object, and one token appended to it. */
json_t *phi_render_completion_logprobs(void);
void phi_render_completion_logprob(json_t *logprobs, const phi_model *model,
                                   const phi_generation_event *event, uint64_t text_offset);
/* {"error": {...}} for an error event in a stream. */
json_t *phi_render_error(const char *type, const phi_err *err);

#endif

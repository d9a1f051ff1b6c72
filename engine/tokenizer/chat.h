/*
 * Purpose: messages to the prompt text that the model was trained on, by the checkpoint's own chat
 *          template (a subset of Jinja2, template.h).
 * Owns:    phi_chat_template owns the parsed template.
 * Threads: read-only after create: [any].
 * Errors:  a template outside the subset is PHI_E_UNSUPPORTED naming the construct and line; an
 *          error raised by the template (raise_exception) is PHI_E_INVALID with its text.
 * Limits:  PHI_LIMIT_TEMPLATE_*, PHI_LIMIT_CHAT_MESSAGES.
 *
 * What users wrote stays marked as untrusted through all of the template's operations, so that
 * text in a message can never become a control token.
 */
#ifndef PHI_ENGINE_TOKENIZER_CHAT_H
#define PHI_ENGINE_TOKENIZER_CHAT_H

#include "base/status.h"
#include "engine/tokenizer/tokenizer.h"

#include <stdbool.h>
#include <stddef.h>

typedef struct phi_chat_message {
    const char *role; /* system, developer, user, assistant, tool: checked by the caller */
    const char *content;
    size_t content_bytes;
    const char *tools; /* JSON text for a system message that offers tools, or NULL */
} phi_chat_message;

typedef struct phi_chat_template phi_chat_template;

/* From the tokenizer's template; when it has none, the one of the family that its control tokens
 * show (Phi-3, Phi-4, Phi-4-mini); PHI_E_UNSUPPORTED when they show none. */
phi_status phi_chat_template_create(const phi_tokenizer *tokenizer,
                                    phi_chat_template **out_template, phi_err *err) PHI_MUST_CHECK;
void phi_chat_template_destroy(phi_chat_template *chat);

/* Renders and encodes. `add_generation_prompt` opens the assistant's turn. A beginning-of-text
 * token is added iff the template wrote it or the tokenizer's files add it. */
phi_status phi_chat_encode(const phi_chat_template *chat, const phi_chat_message *messages,
                           size_t count, bool add_generation_prompt, phi_tokens *out_tokens,
                           phi_err *err) PHI_MUST_CHECK;
/* The rendered text alone, for tests and people. */
phi_status phi_chat_render(const phi_chat_template *chat, const phi_chat_message *messages,
                           size_t count, bool add_generation_prompt, phi_buf *out_text,
                           phi_err *err) PHI_MUST_CHECK;
/* Id of the token that ends an assistant's turn ("<|end|>", "<|im_end|>"); -1: none known. */
int32_t phi_chat_end_of_turn(const phi_chat_template *chat);

#endif

/*
 * Purpose: the English text that quality is measured on when the caller brings none.
 * Owns:    static text, written for this purpose; the joined text is the caller's.
 * Threads: any. Errors: none.
 * Limits:  about a thousand words: narration, instructions, dialogue, code, arithmetic.
 */
#ifndef PHI_ENGINE_QUANT_EVAL_TEXT_H
#define PHI_ENGINE_QUANT_EVAL_TEXT_H

/* The whole text, paragraphs set apart by blank lines; phi_free. */
char *phi_eval_text_make(void);

#endif

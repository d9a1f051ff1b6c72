/*
 * Purpose: a template's source cut into text, tags and the symbols inside tags.
 * Owns:    nothing; works on the source copy in the template's arena.
 * Threads: one.
 * Errors:  the first one is kept in `status` and written to `err`; symbols are then END.
 * Limits:  as template.h.
 */
#ifndef PHI_ENGINE_TOKENIZER_TEMPLATE_LEX_H
#define PHI_ENGINE_TOKENIZER_TEMPLATE_LEX_H

#include "engine/formats/arena.h"
#include "engine/tokenizer/template_internal.h"

typedef enum phi_symbol_kind {
    PHI_SYMBOL_END, /* of the tag, or of the source */
    PHI_SYMBOL_NAME,
    PHI_SYMBOL_STRING,
    PHI_SYMBOL_INT,
    PHI_SYMBOL_OPERATOR, /* one or two characters, in `text` */
} phi_symbol_kind;

typedef struct phi_symbol {
    phi_symbol_kind kind;
    unsigned line;
    const char *text; /* NUL-terminated */
    size_t bytes;
    int64_t integer;
} phi_symbol;

typedef struct phi_lexer {
    const char *source;
    size_t bytes;
    size_t at;
    unsigned line;
    bool line_start; /* the text so far ends with a newline, as far as stripping goes */
    char tag;        /* '%' or '{' while inside such a tag, else 0 */
    phi_symbol now;  /* the symbol being looked at */
    phi_arena *arena;
    phi_status status;
    phi_err *err;
} phi_lexer;

void phi_lexer_fail(phi_lexer *lexer, phi_status status, const char *fmt, ...)
    __attribute__((format(printf, 3, 4)));
/* The text up to the next tag, stripped as the tags around it say; then opens that tag (comments
 * count as tags without symbols) and returns its kind: '%', '{', '#', or 0 at the end. */
char phi_lexer_text(phi_lexer *lexer, const char **out_text, size_t *out_bytes);
/* Moves to the next symbol of the open tag; END closes the tag. */
void phi_lexer_advance(phi_lexer *lexer);
bool phi_lexer_is(const phi_lexer *lexer, const char *text); /* a name or operator */
/* Moves on when the symbol is `text`. */
bool phi_lexer_accept(phi_lexer *lexer, const char *text);
bool phi_lexer_expect(phi_lexer *lexer, const char *text);

#endif

/*
 * Purpose: what the parser, the evaluator and the built-ins of templates share. Not for others.
 * Owns:    nodes live in the template's arena.
 * Threads: as template.h.
 * Errors:  as template.h.
 * Limits:  as template.h.
 */
#ifndef PHI_ENGINE_TOKENIZER_TEMPLATE_INTERNAL_H
#define PHI_ENGINE_TOKENIZER_TEMPLATE_INTERNAL_H

#include "engine/tokenizer/template.h"

typedef enum phi_node_kind {
    /* statements */
    PHI_NODE_TEXT,   /* text */
    PHI_NODE_OUTPUT, /* a */
    PHI_NODE_IF,     /* a: list of BRANCH */
    PHI_NODE_BRANCH, /* a: condition or NULL (else), b: body */
    PHI_NODE_FOR,    /* text: name, a: iterable, b: body, c: body of else */
    PHI_NODE_SET,    /* text: name, a: value; name2: attribute or NULL */
    /* expressions */
    PHI_NODE_LITERAL,   /* literal */
    PHI_NODE_NAME,      /* text */
    PHI_NODE_LIST,      /* a: list of items */
    PHI_NODE_ATTRIBUTE, /* a, text */
    PHI_NODE_INDEX,     /* a, b */
    PHI_NODE_SLICE,     /* a, b: start or NULL, c: stop or NULL; reverse when op is '-' */
    PHI_NODE_CALL,      /* text: function or method, a: object or NULL, b: arguments */
    PHI_NODE_FILTER,    /* text: name, a: input, b: arguments */
    PHI_NODE_TEST,      /* text: name, a; op 'n': negated */
    PHI_NODE_NOT,       /* a */
    PHI_NODE_NEGATE,    /* a */
    PHI_NODE_BINARY,    /* op, a, b */
    PHI_NODE_CHOICE,    /* a: condition, b: then, c: else or NULL */
} phi_node_kind;

/* Operators of PHI_NODE_BINARY that are not their own character. */
enum {
    PHI_OP_EQ = 'e',
    PHI_OP_NE = '!',
    PHI_OP_LE = 'l',
    PHI_OP_GE = 'g',
    PHI_OP_IN = 'i',
    PHI_OP_NOT_IN = 'n',
    PHI_OP_AND = '&',
    PHI_OP_OR = '|',
};

typedef struct phi_node phi_node;

struct phi_node {
    phi_node_kind kind;
    char op;
    unsigned line;
    unsigned height;  /* of the expression below, so that evaluating it needs bounded stack */
    const char *text; /* NUL-terminated */
    size_t text_bytes;
    const char *name2; /* SET: attribute; argument: keyword, or NULL */
    phi_value literal;
    phi_node *a;
    phi_node *b;
    phi_node *c;
    phi_node *next; /* in lists of statements, branches, items, arguments */
};

struct phi_template {
    phi_arena arena;
    phi_node *body;
    char *trusted; /* marks for the template's own text, as many as the source has bytes */
};

/* Variables that a statement sees: the innermost scope first. */
typedef struct phi_scope {
    phi_dict *names;
    const struct phi_scope *outer;
} phi_scope;

typedef struct phi_render {
    phi_value_heap *heap;
    phi_marked *out;
    phi_err *err;
    uint64_t steps;
} phi_render;

#define PHI_ARGUMENTS_MAX 8

/* Evaluated arguments; keywords[i] is NULL for positional ones. */
typedef struct phi_arguments {
    phi_value values[PHI_ARGUMENTS_MAX];
    const char *keywords[PHI_ARGUMENTS_MAX];
    size_t count;
} phi_arguments;

bool phi_value_truth(const phi_value *value);
bool phi_value_equal(const phi_value *a, const phi_value *b);
const char *phi_value_kind_name(const phi_value *value);
phi_status phi_template_no_memory(const phi_render *render);
/* PHI_E_UNSUPPORTED at the node's line. */
phi_status phi_template_refuse(const phi_render *render, const phi_node *node, const char *fmt, ...)
    __attribute__((format(printf, 3, 4)));

/* template_builtin.c */
phi_status phi_template_call(phi_render *render, const phi_node *node, const phi_value *object,
                             const phi_arguments *arguments, phi_value *out);
phi_status phi_template_filter(phi_render *render, const phi_node *node, const phi_value *input,
                               const phi_arguments *arguments, phi_value *out);
phi_status phi_template_test(phi_render *render, const phi_node *node, const phi_value *input,
                             bool *out);
/* As str() does; lists and dictionaries are refused. */
phi_status phi_template_to_string(phi_render *render, const phi_node *node, const phi_value *value,
                                  phi_value *out);
phi_status phi_template_concat(phi_render *render, const phi_value *a, const phi_value *b,
                               phi_value *out);

#endif

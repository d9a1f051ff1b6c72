/*
 * Purpose: the part of Jinja2 that chat templates are written in.
 * Owns:    phi_template owns its parsed form; phi_value_heap the values of one rendering.
 * Threads: a template is read-only after parse: [any]; a heap belongs to one thread.
 * Errors:  what is outside the subset is PHI_E_UNSUPPORTED, naming the construct and its line;
 *          raise_exception is PHI_E_INVALID with its text; a runaway template is PHI_E_LIMIT.
 * Limits:  PHI_LIMIT_TEMPLATE_BYTES, _DEPTH, _STEPS; PHI_TEMPLATE_HEAP_BYTES.
 *
 * Statements: for (with loop.index, index0, first, last, length, revindex, revindex0, previtem,
 * nextitem), if/elif/else, set (names and attributes of a namespace), comments, white space control
 * ("-", "+"). Rendered as Hugging Face does: trim_blocks and lstrip_blocks on, one newline at the
 * end of the source dropped.
 * Expressions: literals, lists, names, x.y, x[y], slices, or, and, not, comparisons, in, is, +, -,
 * *, //, %, ~, x if y else z; the filters, tests, methods and functions of template_builtin.c.
 *
 * Every byte of every string carries a trust mark; operations keep the marks with their bytes.
 */
#ifndef PHI_ENGINE_TOKENIZER_TEMPLATE_H
#define PHI_ENGINE_TOKENIZER_TEMPLATE_H

#include "base/status.h"
#include "engine/formats/arena.h"
#include "engine/tokenizer/normalize.h"

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

/* Memory that the values of one rendering may take, in bytes: several copies of the longest text.
 */
#define PHI_TEMPLATE_HEAP_BYTES ((size_t)256 << 20)

typedef enum phi_value_kind {
    PHI_VALUE_UNDEFINED,
    PHI_VALUE_NONE,
    PHI_VALUE_BOOL,
    PHI_VALUE_INT,
    PHI_VALUE_STRING,
    PHI_VALUE_LIST,
    PHI_VALUE_DICT,
    PHI_VALUE_LOOP, /* the "loop" of a for statement */
} phi_value_kind;

typedef struct phi_value phi_value;
typedef struct phi_dict phi_dict;
typedef struct phi_loop phi_loop;

struct phi_value {
    phi_value_kind kind;
    union {
        bool boolean;
        int64_t integer;
        struct {
            const char *text;
            const char *trust; /* a mark for each byte */
            size_t bytes;
        } string;
        struct {
            const phi_value *items;
            size_t count;
        } list;
        phi_dict *dict;
        const phi_loop *loop;
    } as;
};

typedef struct phi_dict_entry {
    const char *key;
    size_t key_bytes;
    phi_value value;
} phi_dict_entry;

struct phi_dict {
    phi_dict_entry *entries;
    size_t count;
    size_t capacity;
    bool is_namespace; /* "set x.y = ..." may change it */
};

struct phi_loop {
    const phi_value *items;
    size_t count;
    size_t at;
};

typedef struct phi_value_heap {
    phi_arena arena;
    const char *marks[2]; /* runs of equal marks, shared by strings that have one kind only */
    size_t marks_bytes[2];
} phi_value_heap;

void phi_value_heap_init(phi_value_heap *heap);
void phi_value_heap_done(phi_value_heap *heap);

/* A view of `text`, all of it marked alike. False when out of memory, as for all of these. */
bool phi_value_string(phi_value_heap *heap, const char *text, size_t bytes, bool trusted,
                      phi_value *out);
phi_dict *phi_dict_create(phi_value_heap *heap);
/* `key` is a view. */
bool phi_dict_set(phi_value_heap *heap, phi_dict *dict, const char *key, size_t key_bytes,
                  const phi_value *value);
const phi_value *phi_dict_get(const phi_dict *dict, const char *key, size_t key_bytes);

typedef struct phi_template phi_template;

phi_status phi_template_parse(const char *source, size_t bytes, phi_template **out_template,
                              phi_err *err) PHI_MUST_CHECK;
void phi_template_destroy(phi_template *parsed);
/* Appends the rendering to `out`. `variables` are what the template sees by name. */
phi_status phi_template_render(const phi_template *parsed, phi_value_heap *heap,
                               const phi_dict *variables, phi_marked *out,
                               phi_err *err) PHI_MUST_CHECK;

#endif

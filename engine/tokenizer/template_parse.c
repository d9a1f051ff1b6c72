#include <string.h>

#include "base/mem.h"
#include "base/str.h"
#include "config/limits.h"
#include "engine/tokenizer/template_lex.h"

/* Levels of an expression tree: chains of "+" count one for each, so this is more than nesting. */
#define EXPRESSION_HEIGHT_MAX (4 * PHI_LIMIT_TEMPLATE_DEPTH)

/* Memory of a parsed template, in bytes: nodes are about a hundred bytes for each short symbol. */
#define TEMPLATE_ARENA_BYTES ((size_t)64 << 20)

typedef struct parser {
    phi_lexer lexer;
    phi_template *parsed;
    unsigned depth;
    const char *stop; /* name of the tag that ended a body; "" at the end of the source */
} parser;

static bool failed(const parser *self)
{
    return self->lexer.status != PHI_OK;
}

static phi_node *node_new(parser *self, phi_node_kind kind, phi_node *a, phi_node *b)
{
    phi_node *node = phi_arena_take(self->lexer.arena, sizeof *node);
    if (!node) {
        phi_lexer_fail(&self->lexer, PHI_E_LIMIT, "the template is too large");
        return NULL;
    }
    *node = (phi_node){.kind = kind, .line = self->lexer.now.line, .a = a, .b = b, .height = 1};
    if (a && a->height >= node->height) {
        node->height = a->height + 1;
    }
    if (b && b->height >= node->height) {
        node->height = b->height + 1;
    }
    if (node->height > EXPRESSION_HEIGHT_MAX) {
        phi_lexer_fail(&self->lexer, PHI_E_LIMIT, "an expression has more than %u levels",
                       EXPRESSION_HEIGHT_MAX);
        return NULL;
    }
    return node;
}

/* Raises `node` above another part of itself. */
static phi_node *add_part(parser *self, phi_node *node, phi_node **slot, phi_node *part)
{
    *slot = part;
    for (const phi_node *p = part; p; p = p->next) {
        if (p->height >= node->height) {
            node->height = p->height + 1;
        }
    }
    if (node->height > EXPRESSION_HEIGHT_MAX) {
        phi_lexer_fail(&self->lexer, PHI_E_LIMIT, "an expression has more than %u levels",
                       EXPRESSION_HEIGHT_MAX);
        return NULL;
    }
    return node;
}

static void set_text(phi_node *node, const phi_symbol *symbol)
{
    node->text = symbol->text;
    node->text_bytes = symbol->bytes;
}

static bool enter(parser *self)
{
    if (++self->depth > PHI_LIMIT_TEMPLATE_DEPTH) {
        phi_lexer_fail(&self->lexer, PHI_E_LIMIT, "nesting is deeper than %u",
                       PHI_LIMIT_TEMPLATE_DEPTH);
        return false;
    }
    return true;
}

static phi_node *refuse(parser *self, const char *what)
{
    phi_lexer_fail(&self->lexer, PHI_E_UNSUPPORTED, "%s is not supported", what);
    return NULL;
}

/* ---------------------------------------------------------------------------- expressions ---- */

static phi_node *parse_expression(parser *self);
static phi_node *parse_unary(parser *self);

static phi_node *parse_items(parser *self, const char *close)
{
    phi_node *first = NULL;
    phi_node **last = &first;
    while (!failed(self) && !phi_lexer_is(&self->lexer, close)) {
        const char *keyword = NULL;
        phi_lexer ahead = self->lexer;
        if (ahead.now.kind == PHI_SYMBOL_NAME) {
            phi_lexer_advance(&ahead);
            if (ahead.status == PHI_OK && phi_lexer_is(&ahead, "=")) {
                keyword = self->lexer.now.text;
                phi_lexer_advance(&ahead);
                self->lexer = ahead;
            }
        }
        phi_node *item = parse_expression(self);
        if (!item) {
            return NULL;
        }
        item->name2 = keyword;
        *last = item;
        last = &item->next;
        if (!phi_lexer_accept(&self->lexer, ",")) {
            break;
        }
    }
    phi_lexer_expect(&self->lexer, close);
    return first;
}

static phi_node *literal(parser *self, phi_value value)
{
    phi_node *node = node_new(self, PHI_NODE_LITERAL, NULL, NULL);
    if (node) {
        node->literal = value;
    }
    return node;
}

static phi_value string_value(const parser *self, const phi_symbol *symbol)
{
    return (phi_value){.kind = PHI_VALUE_STRING,
                       .as.string = {.text = symbol->text,
                                     .trust = self->parsed->trusted,
                                     .bytes = symbol->bytes}};
}

static phi_node *parse_name(parser *self)
{
    phi_symbol symbol = self->lexer.now;
    phi_lexer_advance(&self->lexer);
    static const struct {
        const char *name;
        phi_value value;
    } constants[] = {
        {"true", {.kind = PHI_VALUE_BOOL, .as.boolean = true}},
        {"True", {.kind = PHI_VALUE_BOOL, .as.boolean = true}},
        {"false", {.kind = PHI_VALUE_BOOL, .as.boolean = false}},
        {"False", {.kind = PHI_VALUE_BOOL, .as.boolean = false}},
        {"none", {.kind = PHI_VALUE_NONE}},
        {"None", {.kind = PHI_VALUE_NONE}},
    };
    for (size_t i = 0; i < sizeof constants / sizeof *constants; i++) {
        if (strcmp(symbol.text, constants[i].name) == 0) {
            return literal(self, constants[i].value);
        }
    }
    bool call = phi_lexer_accept(&self->lexer, "(");
    phi_node *arguments = call ? parse_items(self, ")") : NULL;
    phi_node *node = node_new(self, call ? PHI_NODE_CALL : PHI_NODE_NAME, NULL, NULL);
    if (!node || failed(self)) {
        return NULL;
    }
    set_text(node, &symbol);
    return add_part(self, node, &node->b, arguments);
}

static phi_node *parse_primary(parser *self)
{
    phi_symbol symbol = self->lexer.now;
    if (symbol.kind == PHI_SYMBOL_NAME) {
        return parse_name(self);
    }
    if (symbol.kind == PHI_SYMBOL_INT) {
        phi_lexer_advance(&self->lexer);
        return literal(self, (phi_value){.kind = PHI_VALUE_INT, .as.integer = symbol.integer});
    }
    if (symbol.kind == PHI_SYMBOL_STRING) {
        phi_lexer_advance(&self->lexer);
        if (self->lexer.now.kind == PHI_SYMBOL_STRING) {
            return refuse(self, "a string right after a string");
        }
        return literal(self, string_value(self, &symbol));
    }
    if (phi_lexer_accept(&self->lexer, "(")) {
        phi_node *inner = parse_expression(self);
        return phi_lexer_expect(&self->lexer, ")") ? inner : NULL;
    }
    if (phi_lexer_accept(&self->lexer, "[")) {
        phi_node *items = parse_items(self, "]");
        phi_node *node = failed(self) ? NULL : node_new(self, PHI_NODE_LIST, NULL, NULL);
        return node ? add_part(self, node, &node->a, items) : NULL;
    }
    phi_lexer_fail(&self->lexer, PHI_E_UNSUPPORTED, "an expression cannot have \"%.40s\" here",
                   symbol.kind == PHI_SYMBOL_END ? "the end of the tag" : symbol.text);
    return NULL;
}

/* x[y], x[y:z], x[y:], x[:z], x[::-1]; behind the bracket. */
static phi_node *parse_subscript(parser *self, phi_node *object)
{
    phi_lexer *lexer = &self->lexer;
    phi_node *start = phi_lexer_is(lexer, ":") ? NULL : parse_expression(self);
    if (failed(self)) {
        return NULL;
    }
    if (!phi_lexer_is(lexer, ":")) {
        phi_node *node = node_new(self, PHI_NODE_INDEX, object, start);
        return phi_lexer_expect(lexer, "]") ? node : NULL;
    }
    phi_node *node = node_new(self, PHI_NODE_SLICE, object, start);
    phi_lexer_advance(lexer);
    if (node && !phi_lexer_is(lexer, ":") && !phi_lexer_is(lexer, "]")) {
        phi_node *stop = parse_expression(self);
        node = stop ? add_part(self, node, &node->c, stop) : NULL;
    }
    if (node && phi_lexer_accept(lexer, ":") && !phi_lexer_is(lexer, "]")) {
        bool minus = phi_lexer_accept(lexer, "-");
        if (lexer->now.kind != PHI_SYMBOL_INT || lexer->now.integer != 1) {
            return refuse(self, "a slice with a step other than 1 and -1");
        }
        phi_lexer_advance(lexer);
        node->op = minus ? '-' : 0;
        if (minus && (node->b || node->c)) {
            return refuse(self, "a backward slice with bounds");
        }
    }
    return phi_lexer_expect(lexer, "]") ? node : NULL;
}

static phi_node *parse_member(parser *self, phi_node *object)
{
    phi_symbol name = self->lexer.now;
    if (name.kind != PHI_SYMBOL_NAME) {
        return refuse(self, "\".\" without a name behind it");
    }
    phi_lexer_advance(&self->lexer);
    bool call = phi_lexer_accept(&self->lexer, "(");
    phi_node *arguments = call ? parse_items(self, ")") : NULL;
    if (failed(self)) {
        return NULL;
    }
    phi_node *node = node_new(self, call ? PHI_NODE_CALL : PHI_NODE_ATTRIBUTE, object, NULL);
    if (node) {
        set_text(node, &name);
        node = add_part(self, node, &node->b, arguments);
    }
    return node;
}

static phi_node *parse_filter(parser *self, phi_node *input)
{
    phi_symbol name = self->lexer.now;
    if (name.kind != PHI_SYMBOL_NAME) {
        return refuse(self, "\"|\" without a filter's name");
    }
    phi_lexer_advance(&self->lexer);
    phi_node *arguments = phi_lexer_accept(&self->lexer, "(") ? parse_items(self, ")") : NULL;
    phi_node *node = failed(self) ? NULL : node_new(self, PHI_NODE_FILTER, input, NULL);
    if (node) {
        set_text(node, &name);
        node = add_part(self, node, &node->b, arguments);
    }
    return node;
}

static phi_node *parse_test(parser *self, phi_node *input)
{
    bool negated = phi_lexer_accept(&self->lexer, "not");
    phi_symbol name = self->lexer.now;
    if (name.kind != PHI_SYMBOL_NAME) {
        return refuse(self, "\"is\" without a test's name");
    }
    phi_lexer_advance(&self->lexer);
    if (phi_lexer_is(&self->lexer, "(")) {
        return refuse(self, "a test with arguments");
    }
    phi_node *node = node_new(self, PHI_NODE_TEST, input, NULL);
    if (node) {
        set_text(node, &name);
        node->op = negated ? 'n' : 0;
    }
    return node;
}

static phi_node *parse_postfix(parser *self)
{
    phi_node *node = parse_primary(self);
    while (node && !failed(self)) {
        if (phi_lexer_accept(&self->lexer, ".")) {
            node = parse_member(self, node);
        } else if (phi_lexer_accept(&self->lexer, "[")) {
            node = parse_subscript(self, node);
        } else if (phi_lexer_is(&self->lexer, "(")) {
            node = refuse(self, "a call of this expression");
        } else {
            break;
        }
    }
    return node;
}

static phi_node *parse_unary(parser *self)
{
    if (!enter(self)) {
        return NULL;
    }
    phi_node *node = NULL;
    if (phi_lexer_accept(&self->lexer, "-")) {
        phi_node *inner = parse_unary(self);
        node = inner ? node_new(self, PHI_NODE_NEGATE, inner, NULL) : NULL;
    } else {
        node = parse_postfix(self);
    }
    while (node && !failed(self)) {
        if (phi_lexer_accept(&self->lexer, "|")) {
            node = parse_filter(self, node);
        } else if (phi_lexer_accept(&self->lexer, "is")) {
            node = parse_test(self, node);
        } else {
            break;
        }
    }
    self->depth--;
    return failed(self) ? NULL : node;
}

typedef phi_node *(*level_fn)(parser *self);

typedef struct operator_name {
    const char *text;
    char op;
} operator_name;

/* Left-associative operators of one level; `names` ends with a NULL text. */
static phi_node *parse_level(parser *self, const operator_name *names, level_fn next)
{
    phi_node *left = next(self);
    while (left && !failed(self)) {
        const operator_name *name = names;
        while (name->text && !phi_lexer_is(&self->lexer, name->text)) {
            name++;
        }
        if (!name->text) {
            return left;
        }
        phi_lexer_advance(&self->lexer);
        phi_node *right = next(self);
        left = right ? node_new(self, PHI_NODE_BINARY, left, right) : NULL;
        if (left) {
            left->op = name->op;
        }
    }
    return failed(self) ? NULL : left;
}

static phi_node *parse_product(parser *self)
{
    static const operator_name names[] = {{"*", '*'}, {"//", '/'}, {"%", '%'}, {NULL, 0}};
    return parse_level(self, names, parse_unary);
}

static phi_node *parse_joined(parser *self)
{
    static const operator_name names[] = {{"~", '~'}, {NULL, 0}};
    return parse_level(self, names, parse_product);
}

static phi_node *parse_sum(parser *self)
{
    static const operator_name names[] = {{"+", '+'}, {"-", '-'}, {NULL, 0}};
    return parse_level(self, names, parse_joined);
}

/* "not in" is two names. */
static char comparison(parser *self)
{
    static const operator_name names[] = {
        {"==", PHI_OP_EQ}, {"!=", PHI_OP_NE}, {"<=", PHI_OP_LE}, {">=", PHI_OP_GE},
        {"<", '<'},        {">", '>'},        {"in", PHI_OP_IN},
    };
    for (size_t i = 0; i < sizeof names / sizeof *names; i++) {
        if (phi_lexer_accept(&self->lexer, names[i].text)) {
            return names[i].op;
        }
    }
    if (phi_lexer_is(&self->lexer, "not")) {
        phi_lexer_advance(&self->lexer);
        return phi_lexer_expect(&self->lexer, "in") ? PHI_OP_NOT_IN : 0;
    }
    return 0;
}

static phi_node *parse_comparison(parser *self)
{
    phi_node *left = parse_sum(self);
    char op = left ? comparison(self) : 0;
    if (!op) {
        return failed(self) ? NULL : left;
    }
    phi_node *right = parse_sum(self);
    phi_node *node = right ? node_new(self, PHI_NODE_BINARY, left, right) : NULL;
    if (node) {
        node->op = op;
        if (comparison(self)) {
            return refuse(self, "a chain of comparisons");
        }
    }
    return failed(self) ? NULL : node;
}

static phi_node *parse_not(parser *self)
{
    if (!phi_lexer_is(&self->lexer, "not")) {
        return parse_comparison(self);
    }
    if (!enter(self)) {
        return NULL;
    }
    phi_lexer_advance(&self->lexer);
    phi_node *inner = parse_not(self);
    self->depth--;
    return inner ? node_new(self, PHI_NODE_NOT, inner, NULL) : NULL;
}

static phi_node *parse_and(parser *self)
{
    static const operator_name names[] = {{"and", PHI_OP_AND}, {NULL, 0}};
    return parse_level(self, names, parse_not);
}

static phi_node *parse_or(parser *self)
{
    static const operator_name names[] = {{"or", PHI_OP_OR}, {NULL, 0}};
    return parse_level(self, names, parse_and);
}

static phi_node *parse_expression(parser *self)
{
    if (!enter(self)) {
        return NULL;
    }
    phi_node *value = parse_or(self);
    while (value && phi_lexer_accept(&self->lexer, "if")) {
        phi_node *condition = parse_or(self);
        phi_node *choice = condition ? node_new(self, PHI_NODE_CHOICE, condition, value) : NULL;
        phi_node *other = NULL;
        if (choice && phi_lexer_accept(&self->lexer, "else")) {
            other = parse_expression(self);
        }
        value = choice && !failed(self) ? add_part(self, choice, &choice->c, other) : NULL;
    }
    self->depth--;
    return failed(self) ? NULL : value;
}

/* ----------------------------------------------------------------------------- statements ---- */

static phi_node *parse_body(parser *self);

static bool end_of_tag(parser *self)
{
    if (!failed(self) && self->lexer.now.kind != PHI_SYMBOL_END) {
        phi_lexer_fail(&self->lexer, PHI_E_UNSUPPORTED, "\"%.40s\" is not supported here",
                       self->lexer.now.text);
    }
    return !failed(self);
}

static bool stopped_at(const parser *self, const char *name)
{
    return strcmp(self->stop, name) == 0;
}

static phi_node *parse_if(parser *self)
{
    phi_node *node = node_new(self, PHI_NODE_IF, NULL, NULL);
    phi_node **last = node ? &node->a : NULL;
    bool more = node != NULL;
    while (more) {
        /* The tag's name is behind; "else" has no condition. */
        bool otherwise = node->a && stopped_at(self, "else");
        phi_node *condition = otherwise ? NULL : parse_expression(self);
        if (!end_of_tag(self)) {
            return NULL;
        }
        phi_node *branch = node_new(self, PHI_NODE_BRANCH, NULL, NULL);
        if (!branch) {
            return NULL;
        }
        branch->a = condition;
        branch->b = parse_body(self);
        *last = branch;
        last = &branch->next;
        more =
            !failed(self) && !otherwise && (stopped_at(self, "elif") || stopped_at(self, "else"));
    }
    if (!failed(self) && !stopped_at(self, "endif")) {
        phi_lexer_fail(&self->lexer, PHI_E_FORMAT, "\"if\" is not closed by \"endif\"");
    }
    return end_of_tag(self) ? node : NULL;
}

static phi_node *parse_for(parser *self)
{
    phi_symbol name = self->lexer.now;
    if (name.kind != PHI_SYMBOL_NAME) {
        return refuse(self, "\"for\" without a name");
    }
    phi_lexer_advance(&self->lexer);
    if (phi_lexer_is(&self->lexer, ",")) {
        return refuse(self, "\"for\" with several names");
    }
    if (!phi_lexer_expect(&self->lexer, "in")) {
        return NULL;
    }
    /* Not parse_expression: a condition behind the list is a filter of the loop. */
    phi_node *list = parse_or(self);
    if (list && phi_lexer_is(&self->lexer, "if")) {
        return refuse(self, "\"for\" with a condition");
    }
    phi_node *node = list && end_of_tag(self) ? node_new(self, PHI_NODE_FOR, NULL, NULL) : NULL;
    if (!node) {
        return NULL;
    }
    set_text(node, &name);
    node->a = list;
    node->b = parse_body(self);
    if (!failed(self) && stopped_at(self, "else") && end_of_tag(self)) {
        node->c = parse_body(self);
    }
    if (!failed(self) && !stopped_at(self, "endfor")) {
        phi_lexer_fail(&self->lexer, PHI_E_FORMAT, "\"for\" is not closed by \"endfor\"");
    }
    return end_of_tag(self) ? node : NULL;
}

static phi_node *parse_set(parser *self)
{
    phi_symbol name = self->lexer.now;
    const char *attribute = NULL;
    if (name.kind != PHI_SYMBOL_NAME) {
        return refuse(self, "\"set\" without a name");
    }
    phi_lexer_advance(&self->lexer);
    if (phi_lexer_accept(&self->lexer, ".")) {
        attribute = self->lexer.now.text;
        phi_lexer_advance(&self->lexer);
    }
    if (!phi_lexer_accept(&self->lexer, "=")) {
        return refuse(self, "\"set\" of anything but \"name = value\"");
    }
    phi_node *value = parse_expression(self);
    phi_node *node = value && end_of_tag(self) ? node_new(self, PHI_NODE_SET, NULL, NULL) : NULL;
    if (node) {
        set_text(node, &name);
        node->name2 = attribute;
        node->a = value;
    }
    return node;
}

/* A block tag; NULL with `stop` set at one that ends or divides a body. */
static phi_node *parse_block(parser *self)
{
    static const char *const stops[] = {"elif", "else", "endif", "endfor"};
    if (failed(self)) {
        return NULL;
    }
    for (size_t i = 0; i < sizeof stops / sizeof *stops; i++) {
        if (phi_lexer_accept(&self->lexer, stops[i])) {
            self->stop = stops[i];
            return NULL;
        }
    }
    if (phi_lexer_accept(&self->lexer, "if")) {
        return parse_if(self);
    }
    if (phi_lexer_accept(&self->lexer, "for")) {
        return parse_for(self);
    }
    if (phi_lexer_accept(&self->lexer, "set")) {
        return parse_set(self);
    }
    phi_lexer_fail(&self->lexer, PHI_E_UNSUPPORTED, "the statement \"%.40s\" is not supported",
                   self->lexer.now.text);
    return NULL;
}

static phi_node *text_node(parser *self, const char *text, size_t bytes)
{
    phi_node *node = node_new(self, PHI_NODE_TEXT, NULL, NULL);
    if (node) {
        node->text = text;
        node->text_bytes = bytes;
    }
    return node;
}

static phi_node *parse_output(parser *self)
{
    phi_node *value = parse_expression(self);
    return value && end_of_tag(self) ? node_new(self, PHI_NODE_OUTPUT, value, NULL) : NULL;
}

/* Statements up to a tag that ends or divides a body. */
static phi_node *parse_body(parser *self)
{
    phi_node *first = NULL;
    phi_node **last = &first;
    if (!enter(self)) {
        return NULL;
    }
    for (;;) {
        const char *text = NULL;
        size_t bytes = 0;
        char tag = phi_lexer_text(&self->lexer, &text, &bytes);
        if (bytes && !failed(self)) {
            *last = text_node(self, text, bytes);
            last = *last ? &(*last)->next : last;
        }
        if (tag == 0 || failed(self)) {
            self->stop = "";
            break;
        }
        if (tag == '#') {
            continue;
        }
        self->stop = NULL;
        phi_node *node = tag == '{' ? parse_output(self) : parse_block(self);
        if (failed(self) || !node) {
            break;
        }
        *last = node;
        last = &node->next;
    }
    self->depth--;
    return failed(self) ? NULL : first;
}

/* Newlines become "\n" and the last one goes, as Jinja does by default. */
static size_t normalize_newlines(const char *source, size_t bytes, char *out)
{
    size_t count = 0;
    for (size_t i = 0; i < bytes; i++) {
        if (source[i] == '\r') {
            out[count++] = '\n';
            i += i + 1 < bytes && source[i + 1] == '\n';
        } else {
            out[count++] = source[i];
        }
    }
    return count && out[count - 1] == '\n' ? count - 1 : count;
}

phi_status phi_template_parse(const char *source, size_t bytes, phi_template **out_template,
                              phi_err *err)
{
    if (bytes > PHI_LIMIT_TEMPLATE_BYTES) {
        return phi_fail(err, PHI_E_LIMIT, "chat template: %zu bytes are more than %u", bytes,
                        PHI_LIMIT_TEMPLATE_BYTES);
    }
    if (!phi_utf8_valid(source, bytes) || memchr(source, '\0', bytes)) {
        return phi_fail(err, PHI_E_FORMAT, "chat template: the text is not valid UTF-8");
    }
    phi_template *parsed = phi_alloc_zero(1, sizeof *parsed);
    phi_arena_init(&parsed->arena, TEMPLATE_ARENA_BYTES);
    char *copy = phi_arena_take(&parsed->arena, bytes + 1);
    parsed->trusted = phi_arena_take(&parsed->arena, bytes + 8);
    if (!copy || !parsed->trusted) {
        phi_template_destroy(parsed);
        return phi_fail(err, PHI_E_NO_MEMORY, "chat template: not enough memory");
    }
    memset(parsed->trusted, 1, bytes + 8);
    parser self = {.parsed = parsed, .stop = ""};
    self.lexer = (phi_lexer){.source = copy,
                             .bytes = normalize_newlines(source, bytes, copy),
                             .line = 1,
                             .line_start = true,
                             .arena = &parsed->arena,
                             .err = err};
    parsed->body = parse_body(&self);
    if (!failed(&self) && *self.stop) {
        phi_lexer_fail(&self.lexer, PHI_E_FORMAT, "\"%s\" has no beginning", self.stop);
    }
    if (failed(&self)) {
        phi_template_destroy(parsed);
        return self.lexer.status;
    }
    *out_template = parsed;
    return PHI_OK;
}

void phi_template_destroy(phi_template *parsed)
{
    if (parsed) {
        phi_arena_done(&parsed->arena);
        phi_free(parsed);
    }
}

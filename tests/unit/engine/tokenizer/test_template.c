/*
 * The Jinja2 subset: expected texts are what jinja2 3.1 gives with trim_blocks and lstrip_blocks
 * on.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>

#include <cmocka.h>

#include "base/mem.h"
#include "engine/tokenizer/template.h"

static void put(phi_value_heap *heap, phi_dict *dict, const char *key, const char *text,
                bool trusted)
{
    phi_value value;
    assert_true(phi_value_string(heap, text, strlen(text), trusted, &value));
    assert_true(phi_dict_set(heap, dict, key, strlen(key), &value));
}

/* system "Be brief.", user " Hi ", assistant "Yo\n", user "x|y|z". */
static phi_dict *make_variables(phi_value_heap *heap, phi_value messages[4])
{
    static const char *const turns[][2] = {
        {"system", "Be brief."}, {"user", " Hi "}, {"assistant", "Yo\n"}, {"user", "x|y|z"}};
    for (size_t i = 0; i < 4; i++) {
        phi_dict *message = phi_dict_create(heap);
        put(heap, message, "role", turns[i][0], true);
        put(heap, message, "content", turns[i][1], false);
        messages[i] = (phi_value){.kind = PHI_VALUE_DICT, .as.dict = message};
    }
    phi_dict *variables = phi_dict_create(heap);
    phi_value list = {.kind = PHI_VALUE_LIST, .as.list = {.items = messages, .count = 4}};
    phi_value yes = {.kind = PHI_VALUE_BOOL, .as.boolean = true};
    assert_true(phi_dict_set(heap, variables, "messages", 8, &list));
    assert_true(phi_dict_set(heap, variables, "add_generation_prompt", 21, &yes));
    put(heap, variables, "bos_token", "<s>", true);
    put(heap, variables, "eos_token", "</s>", true);
    return variables;
}

static phi_status render(const char *source, phi_marked *out, phi_err *err)
{
    phi_template *parsed = NULL;
    phi_status status = phi_template_parse(source, strlen(source), &parsed, err);
    if (status != PHI_OK) {
        return status;
    }
    phi_value_heap heap;
    phi_value_heap_init(&heap);
    phi_value messages[4];
    phi_dict *variables = make_variables(&heap, messages);
    status = phi_template_render(parsed, &heap, variables, out, err);
    phi_value_heap_done(&heap);
    phi_template_destroy(parsed);
    return status;
}

typedef struct sample {
    const char *source;
    const char *want;
} sample;

static void assert_all(const sample *samples, size_t count)
{
    for (size_t i = 0; i < count; i++) {
        phi_marked out;
        phi_marked_init(&out);
        phi_err err = {.code = PHI_OK};
        if (render(samples[i].source, &out, &err) != PHI_OK) {
            fail_msg("%s: %s", samples[i].source, err.message);
        }
        if (strcmp(phi_buf_text(&out.text), samples[i].want) != 0) {
            fail_msg("%s\ngave \"%s\", not \"%s\"", samples[i].source, phi_buf_text(&out.text),
                     samples[i].want);
        }
        assert_int_equal(out.text.length_bytes, out.trust.length_bytes);
        phi_marked_done(&out);
    }
}

#define ASSERT_ALL(samples) assert_all(samples, sizeof(samples) / sizeof *(samples))

static void expressions(void **state)
{
    (void)state;
    static const sample samples[] = {
        {"{{ 'a' + 'b' ~ 3 }}", "ab3"},
        {"{{ 1 + 2 * 3 - -4 }}", "11"},
        {"{{ -7 // 2 }} {{ -7 % 3 }}", "-4 2"},
        {"{{ 'x' if 1 < 2 and not false else 'y' }}", "x"},
        {"{{ none }}|{{ true }}|{{ missing }}", "None|True|"},
        {"{{ messages[0].role }} {{ messages[-1]['content'] }} {{ messages[9] }}", "system x|y|z "},
        {"{{ messages[1:] | length }} {{ messages[:-1] | length }} {{ messages[1:3]|count }}",
         "3 3 2"},
        {"{{ messages[::-1][0].content }}", "x|y|z"},
        {"{{ 'h\xc3\xa9llo'[1] }} {{ 'h\xc3\xa9llo'[1:3] }} {{ 'h\xc3\xa9llo' | length }}",
         "\xc3\xa9 \xc3\xa9l 5"},
        {"{{ 'tools' in messages[0] }} {{ 'role' in messages[0] }} {{ 'y' not in 'xyz' }}",
         "False True False"},
        {"{{ messages[0].role in ['user', 'system'] }}", "True"},
        {"{{ messages[0]['tools'] is defined }} {{ none is none }} {{ 'a' is not string }}",
         "False True False"},
        {"[{{ messages[1].content | trim }}] [{{ ' a b '.strip() }}] [{{ 'xxax'.lstrip('x') }}]",
         "[Hi] [a b] [ax]"},
        {"{{ messages[3].content.split('|')[-1] }} {{ messages[3].content.split('|') | length }}",
         "z 3"},
        {"{{ 'abc'.startswith('ab') }} {{ 'abc'.endswith('x') }} {{ 'aBc'.upper() }}",
         "True False ABC"},
        {"{{ 'a-b-c'.replace('-', '+') }} {{ missing | default('d') }}", "a+b+c d"},
        {"{{ 'say \"hi\"\\n' | tojson }} {{ 3 | tojson }} {{ none | tojson }}",
         "\"say \\\"hi\\\"\\n\" 3 null"},
        {"{{ 'a' == 'a' }} {{ 1 != 2 }} {{ 'b' > 'a' }} {{ 2 <= 1 }}", "True True True False"},
        {"{{ 'in\\ttab\\u00e9' }} {{ \"it's\" }}", "in\ttab\xc3\xa9 it's"},
        {"{{ messages[0].get('role') }} {{ messages[0].get('x', 'none') }}", "system none"},
        {"{{ not messages }} {{ '' or 'b' }} {{ 'a' and 'b' }}", "False b b"},
    };
    ASSERT_ALL(samples);
}

static void statements(void **state)
{
    (void)state;
    static const sample samples[] = {
        {"{% for m in messages %}{{ loop.index }}{{ loop.index0 }}{% if not loop.last %},{% endif "
         "%}{% endfor %}",
         "10,21,32,43"},
        {"{% for m in messages %}{{ m.role[0] }}{{ loop.revindex }}{{ loop.first }} {% endfor %}",
         "s4True u3False a2False u1False "},
        {"{% for m in [] %}x{% else %}empty{% endfor %}", "empty"},
        {"{% if false %}a{% elif 1 == 1 %}b{% else %}c{% endif %}", "b"},
        {"{% set x = 'a' %}{% for m in messages %}{% set x = x + 'b' %}{% endfor %}{{ x }}", "a"},
        {"{% set ns = namespace(n=0) %}{% for m in messages %}{% set ns.n = ns.n + 1 %}{% endfor "
         "%}{{ ns.n }}",
         "4"},
        {"{% for m in messages %}{% for k in ['p', 'q'] %}{{ k }}{{ loop.length }}{% endfor %}{% "
         "endfor %}",
         "p2q2p2q2p2q2p2q2"},
    };
    ASSERT_ALL(samples);
}

static void white_space(void **state)
{
    (void)state;
    static const sample samples[] = {
        {"a\n{% if true %}\nb\n{% endif %}\nc", "a\nb\nc"},
        {"a\n   {% if true %}b{% endif %}   \nc", "a\nb   \nc"},
        {"a  {{- ' b ' -}}  c", "a b c"},
        {"a \n {%- if true -%} \n b \n {%- endif -%} \n c", "abc"},
        {"{# note #}\nx{#- tight -#}  y\n", "xy"},
        {"{{ 'a' }}\n{{ 'b' }}\n\n", "a\nb\n"},
        {"a\n  {%+ if true %}b{% endif %}", "a\n  b"},
        {"{% if true +%}\nx{% endif %}", "\nx"},
        {"one\r\ntwo\rthree\r\n", "one\ntwo\nthree"},
        {"   {% set x = 1 %}\n   y", "   y"},
    };
    ASSERT_ALL(samples);
}

static void marks_follow_bytes(void **state)
{
    (void)state;
    phi_marked out;
    phi_marked_init(&out);
    static const char source[] = "<{{ (messages[1].content + '!') | trim }}>{{ messages[3].content"
                                 ".replace('|', '+') }}{{ messages[1].content.strip() | tojson }}";
    assert_int_equal(render(source, &out, NULL), PHI_OK);
    assert_string_equal(phi_buf_text(&out.text), "<Hi !>x+y+z\"Hi\"");
    static const char want[] = "100011010101001";
    for (size_t i = 0; i < out.text.length_bytes; i++) {
        assert_int_equal(out.trust.data[i], want[i] == '1');
    }
    phi_marked_done(&out);
}

static void assert_refused(const char *source, phi_status want, const char *part)
{
    phi_marked out;
    phi_marked_init(&out);
    phi_err err = {.code = PHI_OK};
    phi_status status = render(source, &out, &err);
    if (status != want || !strstr(err.message, part)) {
        fail_msg("%s gave %s: %s", source, phi_status_name(status), err.message);
    }
    phi_marked_done(&out);
}

static void names_what_it_refuses(void **state)
{
    (void)state;
    assert_refused("x\n{% macro f() %}{% endmacro %}", PHI_E_UNSUPPORTED, "line 2");
    assert_refused("{% macro f() %}{% endmacro %}", PHI_E_UNSUPPORTED, "macro");
    assert_refused("{{ messages | map(attribute='x') }}", PHI_E_UNSUPPORTED, "map");
    assert_refused("\n\n{{ 'a'.title() }}", PHI_E_UNSUPPORTED, "line 3");
    assert_refused("{{ 1.5 }}", PHI_E_UNSUPPORTED, "numbers");
    assert_refused("{{ strftime_now('%d') }}", PHI_E_UNSUPPORTED, "strftime_now");
    assert_refused("{% for a, b in messages %}{% endfor %}", PHI_E_UNSUPPORTED, "names");
    assert_refused("{% if true %}", PHI_E_FORMAT, "endif");
    assert_refused("{% endfor %}", PHI_E_FORMAT, "endfor");
    assert_refused("{{ 'open", PHI_E_FORMAT, "not closed");
    assert_refused("{{ x", PHI_E_FORMAT, "not closed");
    assert_refused("{# open", PHI_E_FORMAT, "not closed");
    assert_refused("{{ missing.part }}", PHI_E_INVALID, "undefined");
    assert_refused("{{ raise_exception('roles must alternate') }}", PHI_E_INVALID,
                   "roles must alternate");
    assert_refused("{{ {'a': 1} }}", PHI_E_UNSUPPORTED, "{");
    assert_refused("{{ 'a' + 1 }}", PHI_E_UNSUPPORTED, "a string and a number");
    assert_refused("{{ 9223372036854775807 + 1 }}", PHI_E_INVALID, "line 1");
    assert_refused("{{ 1 // 0 }}", PHI_E_INVALID, "line 1");
}

/* `count` copies of `piece` between `head` and `tail`. */
static char *repeat(const char *head, const char *piece, size_t count, const char *tail)
{
    phi_buf text;
    phi_buf_init(&text, SIZE_MAX);
    phi_buf_append_str(&text, head);
    for (size_t i = 0; i < count; i++) {
        phi_buf_append_str(&text, piece);
    }
    phi_buf_append_str(&text, tail);
    return phi_buf_take(&text);
}

static void bounds_hostile_templates(void **state)
{
    (void)state;
    static const struct {
        const char *head;
        const char *piece;
        size_t count;
        const char *tail;
    } samples[] = {
        {"{{ ", "(", 5000, ""},       {"{{ ", "not ", 5000, "1 }}"},
        {"{{ ", "-", 5000, "1 }}"},   {"{{ 1", "+1", 5000, " }}"},
        {"{{ x", "[0]", 5000, " }}"}, {"{{ x", "|trim", 5000, " }}"},
        {"", "{% if 1 %}", 5000, ""}, {"", "{% for a in messages %}", 30, "{{ a }}"},
        {"{{ ", "[", 5000, ""},       {"{{ 1", " if 1 else 1", 5000, " }}"},
    };
    for (size_t i = 0; i < sizeof samples / sizeof *samples; i++) {
        char *source = repeat(samples[i].head, samples[i].piece, samples[i].count, samples[i].tail);
        phi_marked out;
        phi_marked_init(&out);
        assert_int_not_equal(render(source, &out, NULL), PHI_OK);
        phi_marked_done(&out);
        phi_free(source);
    }
    char *loops = repeat("", "{% for a in messages %}", 20, "{{ 'x' }}");
    char *closed = repeat(loops, "{% endfor %}", 20, "");
    assert_refused(closed, PHI_E_LIMIT, "steps");
    phi_free(loops);
    phi_free(closed);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(expressions),           cmocka_unit_test(statements),
        cmocka_unit_test(white_space),           cmocka_unit_test(marks_follow_bytes),
        cmocka_unit_test(names_what_it_refuses), cmocka_unit_test(bounds_hostile_templates),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}

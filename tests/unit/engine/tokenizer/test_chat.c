/*
 * The chat formats of the family: templates written here after the formats' descriptions, in the
 * constructs that the published ones use, and the built-in ones for files without a template.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>

#include <cmocka.h>

#include "base/mem.h"
#include "engine/tokenizer/chat.h"
#include "engine/tokenizer/tokenizer_internal.h"

/* A byte-level tokenizer whose vocabulary is "a" and the given control tokens. */
static phi_tokenizer *make_tokenizer(const char *const *controls, const char *chat_template)
{
    phi_buf json;
    phi_buf_init(&json, 1U << 16);
    phi_buf_append_str(&json, "{\"pre_tokenizer\":{\"type\":\"ByteLevel\"},"
                              "\"decoder\":{\"type\":\"ByteLevel\"},"
                              "\"model\":{\"type\":\"BPE\",\"vocab\":{\"a\":0},\"merges\":[]},"
                              "\"added_tokens\":[");
    for (int i = 0; controls[i]; i++) {
        phi_buf_printf(&json, "%s{\"id\":%d,\"content\":\"%s\",\"special\":true}", i ? "," : "",
                       i + 1, controls[i]);
    }
    phi_buf_append_str(&json, "]}");
    json_t *config =
        json_pack("{s:s,s:s?}", "eos_token", controls[0], "chat_template", chat_template);
    phi_err err = {.code = PHI_OK};
    phi_tokenizer *tokenizer = NULL;
    if (phi_tokenizer_load_json(json.data, json.length_bytes, config, "test", &tokenizer, &err) !=
        PHI_OK) {
        fail_msg("%s", err.message);
    }
    json_decref(config);
    phi_buf_done(&json);
    return tokenizer;
}

static const char *const phi_3_controls[] = {"<|endoftext|>", "<|user|>", "<|assistant|>",
                                             "<|system|>",    "<|end|>",  NULL};
static const char *const phi_4_controls[] = {"<|endoftext|>", "<|im_start|>", "<|im_sep|>",
                                             "<|im_end|>", NULL};
static const char *const phi_4_mini_controls[] = {
    "<|endoftext|>", "<|user|>", "<|assistant|>", "<|system|>", "<|end|>", "<|tool_call|>", NULL};

static const phi_chat_message conversation[] = {
    {.role = "system", .content = "Be kind.", .content_bytes = 8},
    {.role = "user", .content = "Hi", .content_bytes = 2},
    {.role = "assistant", .content = "Yo", .content_bytes = 2},
    {.role = "user", .content = "Bye", .content_bytes = 3},
};

static void assert_renders(const char *const *controls, const char *source, bool prompt,
                           const char *want)
{
    phi_tokenizer *tokenizer = make_tokenizer(controls, source);
    phi_err err = {.code = PHI_OK};
    phi_chat_template *chat = NULL;
    phi_buf text;
    phi_buf_init(&text, SIZE_MAX);
    if (phi_chat_template_create(tokenizer, &chat, &err) != PHI_OK ||
        phi_chat_render(chat, conversation, 4, prompt, &text, &err) != PHI_OK) {
        fail_msg("%s", err.message);
    }
    assert_string_equal(phi_buf_text(&text), want);
    assert_int_equal(
        phi_chat_end_of_turn(chat),
        phi_tokenizer_find(tokenizer, strstr(want, "<|im_end|>") ? "<|im_end|>" : "<|end|>"));
    phi_buf_done(&text);
    phi_chat_template_destroy(chat);
    phi_tokenizer_destroy(tokenizer);
}

#define PHI_3_TEXT                                                                                 \
    "<|system|>\nBe kind.<|end|>\n<|user|>\nHi<|end|>\n<|assistant|>\nYo<|end|>\n"                 \
    "<|user|>\nBye<|end|>\n"
#define PHI_4_TEXT                                                                                 \
    "<|im_start|>system<|im_sep|>Be kind.<|im_end|><|im_start|>user<|im_sep|>Hi<|im_end|>"         \
    "<|im_start|>assistant<|im_sep|>Yo<|im_end|><|im_start|>user<|im_sep|>Bye<|im_end|>"
#define PHI_4_MINI_TEXT                                                                            \
    "<|system|>Be kind.<|end|><|user|>Hi<|end|><|assistant|>Yo<|end|><|user|>Bye<|end|>"

static void built_in_formats(void **state)
{
    (void)state;
    assert_renders(phi_3_controls, NULL, true, PHI_3_TEXT "<|assistant|>\n");
    assert_renders(phi_3_controls, NULL, false, PHI_3_TEXT "<|endoftext|>");
    assert_renders(phi_4_controls, NULL, true, PHI_4_TEXT "<|im_start|>assistant<|im_sep|>");
    assert_renders(phi_4_controls, NULL, false, PHI_4_TEXT);
    assert_renders(phi_4_mini_controls, NULL, true, PHI_4_MINI_TEXT "<|assistant|>");
}

static void no_format_at_all(void **state)
{
    (void)state;
    static const char *const controls[] = {"<|endoftext|>", NULL};
    phi_tokenizer *tokenizer = make_tokenizer(controls, NULL);
    phi_chat_template *chat = NULL;
    phi_err err = {.code = PHI_OK};
    assert_int_equal(phi_chat_template_create(tokenizer, &chat, &err), PHI_E_UNSUPPORTED);
    assert_non_null(strstr(err.message, "chat template"));
    phi_tokenizer_destroy(tokenizer);
}

/* The first Phi-3-mini: begins with bos, drops the system message, always opens the answer. */
static void phi_3_first_revision(void **state)
{
    (void)state;
    assert_renders(phi_3_controls,
                   "{{ '<s>' }}{% for message in messages %}{% if (message['role'] == 'user') %}"
                   "{{'<|user|>' + '\n' + message['content'] + '<|end|>' + '\n' + '<|assistant|>' "
                   "+ '\n'}}{% elif (message['role'] == 'assistant') %}"
                   "{{message['content'] + '<|end|>' + '\n'}}{% endif %}{% endfor %}",
                   true,
                   "<s><|user|>\nHi<|end|>\n<|assistant|>\nYo<|end|>\n<|user|>\nBye<|end|>\n"
                   "<|assistant|>\n");
}

/* Phi-3-vision: nothing is appended without a generation prompt. */
static void phi_3_vision(void **state)
{
    (void)state;
    static const char source[] =
        "{% for message in messages %}{{'<|' + message['role'] + '|>' + '\n' + message['content'] "
        "+ '<|end|>\n' }}{% endfor %}{% if add_generation_prompt and messages[-1]['role'] != "
        "'assistant' %}{{- '<|assistant|>\n' -}}{% endif %}";
    assert_renders(phi_3_controls, source, false, PHI_3_TEXT);
    assert_renders(phi_3_controls, source, true, PHI_3_TEXT "<|assistant|>\n");
}

/* Phi-4-reasoning: a preamble of its own comes before what the user gave as system text. */
static void phi_4_reasoning(void **state)
{
    (void)state;
    assert_renders(
        phi_4_controls,
        "<|im_start|>system<|im_sep|>Think first, within <think> and </think>."
        "{% if messages[0]['role'] == 'system' %}{{ ' ' + messages[0]['content'] }}"
        "{% set rest = messages[1:] %}{% else %}{% set rest = messages %}{% endif %}<|im_end|>"
        "{% for message in rest %}{% if (message['role'] == 'user') %}"
        "{{ '<|im_start|>user<|im_sep|>' + message['content'] + '<|im_end|>' }}"
        "{% elif (message['role'] == 'assistant') %}{{'<|im_start|>assistant<|im_sep|>'}}"
        "{{ message['content'].split('</think>')[-1] }}{{ '<|im_end|>' }}{% endif %}{% endfor %}"
        "{% if add_generation_prompt %}{{ '<|im_start|>assistant<|im_sep|>' }}{% endif %}",
        true,
        "<|im_start|>system<|im_sep|>Think first, within <think> and </think>. Be kind.<|im_end|>"
        "<|im_start|>user<|im_sep|>Hi<|im_end|><|im_start|>assistant<|im_sep|>Yo<|im_end|>"
        "<|im_start|>user<|im_sep|>Bye<|im_end|><|im_start|>assistant<|im_sep|>");
}

/* Phi-4-mini-reasoning: one system segment is always there; system messages are appended to it. */
static void phi_4_mini_reasoning(void **state)
{
    (void)state;
    assert_renders(
        phi_4_mini_controls,
        "{{ '<|system|>Your name is Phi, an AI math expert developed by Microsoft.' }}"
        "{% for message in messages %}{% if message['role'] == 'system' %}"
        "{{ ' ' + message['content'] }}{% if 'tools' in message and message['tools'] is not none %}"
        "{{ '<|tool|>' + message['tools'] + '<|/tool|>' }}{% endif %}{% endif %}{% endfor %}"
        "{{ '<|end|>' }}{% for message in messages %}{% if message['role'] != 'system' %}"
        "{{ '<|' + message['role'] + '|>' + message['content'] + '<|end|>' }}{% endif %}"
        "{% endfor %}{% if add_generation_prompt %}{{ '<|assistant|>' }}{% else %}"
        "{{ eos_token }}{% endif %}",
        true,
        "<|system|>Your name is Phi, an AI math expert developed by Microsoft. Be kind.<|end|>"
        "<|user|>Hi<|end|><|assistant|>Yo<|end|><|user|>Bye<|end|><|assistant|>");
}

static void tools_and_refusals(void **state)
{
    (void)state;
    phi_tokenizer *tokenizer = make_tokenizer(phi_4_mini_controls, NULL);
    phi_chat_template *chat = NULL;
    assert_int_equal(phi_chat_template_create(tokenizer, &chat, NULL), PHI_OK);
    phi_chat_message messages[2] = {{.role = "system",
                                     .content = "S",
                                     .content_bytes = 1,
                                     .tools = "[{\"name\":\"f<|end|>\"}]"},
                                    {.role = "user", .content = "U\xff", .content_bytes = 2}};
    phi_buf text;
    phi_buf_init(&text, SIZE_MAX);
    phi_err err = {.code = PHI_OK};
    assert_int_equal(phi_chat_render(chat, messages, 2, true, &text, &err), PHI_E_INVALID);
    assert_string_equal(err.param, "messages");
    messages[1].content_bytes = 1;
    assert_int_equal(phi_chat_render(chat, messages, 2, true, &text, &err), PHI_OK);
    assert_string_equal(phi_buf_text(&text), "<|system|>S<|tool|>[{\"name\":\"f<|end|>\"}]<|/tool|>"
                                             "<|end|><|user|>U<|end|><|assistant|>");
    phi_buf_done(&text);
    phi_tokens tokens;
    phi_tokens_init(&tokens);
    assert_int_equal(phi_chat_encode(chat, messages, 2, true, &tokens, &err), PHI_OK);
    size_t ends = 0;
    for (size_t i = 0; i < tokens.count; i++) {
        ends += tokens.ids[i] == phi_chat_end_of_turn(chat);
    }
    assert_int_equal(ends, 2);
    phi_tokens_done(&tokens);
    phi_chat_template_destroy(chat);
    phi_tokenizer_destroy(tokenizer);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(built_in_formats),     cmocka_unit_test(no_format_at_all),
        cmocka_unit_test(phi_3_first_revision), cmocka_unit_test(phi_3_vision),
        cmocka_unit_test(phi_4_reasoning),      cmocka_unit_test(phi_4_mini_reasoning),
        cmocka_unit_test(tools_and_refusals),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}

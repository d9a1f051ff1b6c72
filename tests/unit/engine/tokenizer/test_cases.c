/*
 * Every published case of the five tokenizers in ../shared/data/tokenizers (or $PHID_SHARED_DIR):
 * ids, decoding, and decoding one id at a time. Skipped where that directory is absent.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>
#include <jansson.h>

#include "base/file.h"
#include "base/mem.h"
#include "base/str.h"
#include "engine/tokenizer/chat.h"
#include "engine/tokenizer/tokenizer.h"

static char *tokenizers_dir(void)
{
    const char *shared = getenv("PHID_SHARED_DIR");
    return shared ? phi_strfmt("%s/data/tokenizers", shared)
                  : phi_strfmt("%s/../shared/data/tokenizers", PHID_SOURCE_DIR);
}

static phi_tokenizer *open_named(const char *name, char **out_dir)
{
    char *root = tokenizers_dir();
    char *dir = phi_strfmt("%s/%s", root, name);
    phi_free(root);
    if (!phi_file_is_dir(dir)) {
        phi_free(dir);
        skip();
    }
    phi_err err = {.code = PHI_OK};
    phi_tokenizer *tokenizer = NULL;
    if (phi_tokenizer_open_dir(dir, &tokenizer, &err) != PHI_OK) {
        fail_msg("%s: %s", name, err.message);
    }
    *out_dir = dir;
    return tokenizer;
}

/* Calls `check` for each line of a JSON lines file; returns how many there were. */
static size_t each_line(const char *dir, const char *file, const phi_tokenizer *tokenizer,
                        void (*check)(const phi_tokenizer *, const json_t *))
{
    char *path = phi_strfmt("%s/%s", dir, file);
    char *text = NULL;
    size_t bytes = 0;
    size_t count = 0;
    if (phi_file_exists(path)) {
        assert_int_equal(phi_file_read_text(path, 1U << 24, &text, &bytes, NULL), PHI_OK);
        char *line = text;
        for (char *end; (end = strchr(line, '\n')) != NULL; line = end + 1) {
            json_t *json = json_loadb(line, (size_t)(end - line), JSON_ALLOW_NUL, NULL);
            assert_non_null(json);
            check(tokenizer, json);
            json_decref(json);
            count++;
        }
    }
    phi_free(text);
    phi_free(path);
    return count;
}

static void assert_ids(const json_t *want, const phi_tokens *got, const char *text)
{
    bool same = json_array_size(want) == got->count;
    for (size_t i = 0; same && i < got->count; i++) {
        same = json_integer_value(json_array_get(want, i)) == got->ids[i];
    }
    if (same) {
        return;
    }
    char *wanted = json_dumps(want, JSON_COMPACT);
    print_error("text %s\nwanted %s\ngot   ", text, wanted);
    for (size_t i = 0; i < got->count; i++) {
        print_error("%c%d", i ? ',' : '[', got->ids[i]);
    }
    print_error("]\n");
    free(wanted);
    fail();
}

/* Pushes ids one at a time: each output is whole characters, and together they are `whole`. */
static void assert_incremental(const phi_tokenizer *tokenizer, const phi_tokens *tokens,
                               const phi_buf *whole)
{
    phi_detokenizer detokenizer;
    phi_detokenizer_init(&detokenizer, tokenizer, false, false);
    phi_buf all;
    phi_buf_init(&all, SIZE_MAX);
    for (size_t i = 0; i <= tokens->count; i++) {
        size_t before = all.length_bytes;
        if (i < tokens->count) {
            assert_int_equal(phi_detokenizer_push(&detokenizer, tokens->ids[i], &all), PHI_OK);
        } else {
            assert_int_equal(phi_detokenizer_finish(&detokenizer, &all), PHI_OK);
        }
        assert_true(phi_utf8_valid(phi_buf_text(&all) + before, all.length_bytes - before));
    }
    assert_string_equal(phi_buf_text(&all), phi_buf_text(whole));
    phi_buf_done(&all);
}

/* Control tokens swallow white space or put some after themselves: no round trip there. */
static bool has_control(const phi_tokenizer *tokenizer, const phi_tokens *tokens)
{
    for (size_t i = 0; i < tokens->count; i++) {
        if (phi_tokenizer_is_special(tokenizer, tokens->ids[i]) ||
            strcmp(phi_tokenizer_piece(tokenizer, tokens->ids[i]), "</s>") == 0) {
            return true;
        }
    }
    return false;
}

static void check_case(const phi_tokenizer *tokenizer, const json_t *json)
{
    const json_t *text = json_object_get(json, "text");
    const char *bytes = json_string_value(text);
    phi_tokens tokens;
    phi_tokens_init(&tokens);
    phi_err err = {.code = PHI_OK};
    phi_encode_options options = {.mode = PHI_PARSE_SPECIAL, .add_bos = false};
    if (phi_tokenizer_encode(tokenizer, bytes, json_string_length(text), &options, &tokens, &err) !=
        PHI_OK) {
        fail_msg("%s", err.message);
    }
    assert_ids(json_object_get(json, "ids"), &tokens, bytes);
    phi_buf decoded;
    phi_buf_init(&decoded, SIZE_MAX);
    assert_int_equal(phi_tokenizer_decode(tokenizer, tokens.ids, tokens.count, false, &decoded),
                     PHI_OK);
    if (!has_control(tokenizer, &tokens)) {
        assert_int_equal(decoded.length_bytes, json_string_length(text));
        assert_memory_equal(phi_buf_text(&decoded), bytes, decoded.length_bytes);
    }
    assert_incremental(tokenizer, &tokens, &decoded);
    phi_buf_done(&decoded);
    phi_tokens_done(&tokens);
}

static phi_chat_message *read_messages(const json_t *list, size_t *out_count)
{
    size_t count = json_array_size(list);
    phi_chat_message *messages = phi_alloc_zero(count + 1, sizeof *messages);
    for (size_t i = 0; i < count; i++) {
        const json_t *message = json_array_get(list, i);
        const json_t *content = json_object_get(message, "content");
        messages[i] = (phi_chat_message){
            .role = json_string_value(json_object_get(message, "role")),
            .content = json_string_value(content),
            .content_bytes = json_string_length(content),
        };
    }
    *out_count = count;
    return messages;
}

/*
 * The rendered text is the reference's, and so are the ids of that text. The prompt's own ids are
 * the same too unless a message tries to write a control token, which then stays plain text.
 */
static void check_chat(const phi_tokenizer *tokenizer, const json_t *json)
{
    phi_err err = {.code = PHI_OK};
    phi_chat_template *chat = NULL;
    if (phi_chat_template_create(tokenizer, &chat, &err) != PHI_OK) {
        fail_msg("%s", err.message);
    }
    size_t count = 0;
    phi_chat_message *messages = read_messages(json_object_get(json, "messages"), &count);
    phi_buf text;
    phi_buf_init(&text, SIZE_MAX);
    if (phi_chat_render(chat, messages, count, true, &text, &err) != PHI_OK) {
        fail_msg("%s", err.message);
    }
    const char *want = json_string_value(json_object_get(json, "text"));
    assert_string_equal(phi_buf_text(&text), want);
    phi_tokens tokens;
    phi_tokens_init(&tokens);
    phi_encode_options options = {.mode = PHI_PARSE_SPECIAL};
    assert_int_equal(phi_tokenizer_encode(tokenizer, want, strlen(want), &options, &tokens, NULL),
                     PHI_OK);
    assert_ids(json_object_get(json, "ids"), &tokens, want);
    tokens.count = 0;
    assert_int_equal(phi_chat_encode(chat, messages, count, true, &tokens, NULL), PHI_OK);
    bool injects = strstr(want, "injected") && phi_tokenizer_find(tokenizer, "<|end|>") >= 0;
    if (injects) {
        assert_true(tokens.count > json_array_size(json_object_get(json, "ids")));
    } else {
        assert_ids(json_object_get(json, "ids"), &tokens, want);
    }
    phi_tokens_done(&tokens);
    phi_buf_done(&text);
    phi_free(messages);
    phi_chat_template_destroy(chat);
}

static void run_cases(const char *name)
{
    char *dir;
    phi_tokenizer *tokenizer = open_named(name, &dir);
    assert_true(each_line(dir, "cases.jsonl", tokenizer, check_case) > 30);
    bool chats = phi_tokenizer_chat_template(tokenizer) != NULL;
    assert_int_equal(each_line(dir, "chat.jsonl", tokenizer, check_chat), chats ? 4 : 0);
    phi_free(dir);
    phi_tokenizer_destroy(tokenizer);
}

static void phi_2_cases(void **state)
{
    (void)state;
    run_cases("phi-2");
}

static void phi_3_mini_cases(void **state)
{
    (void)state;
    run_cases("phi-3-mini");
}

static void phi_3_medium_cases(void **state)
{
    (void)state;
    run_cases("phi-3-medium");
}

static void phi_4_cases(void **state)
{
    (void)state;
    run_cases("phi-4");
}

static void phi_4_mini_cases(void **state)
{
    (void)state;
    run_cases("phi-4-mini");
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(phi_2_cases),        cmocka_unit_test(phi_3_mini_cases),
        cmocka_unit_test(phi_3_medium_cases), cmocka_unit_test(phi_4_cases),
        cmocka_unit_test(phi_4_mini_cases),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}

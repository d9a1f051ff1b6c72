#include "engine/tokenizer/chat.h"

#include <string.h>

#include "base/mem.h"
#include "base/str.h"
#include "config/limits.h"
#include "engine/tokenizer/template.h"
#include "engine/tokenizer/tokenizer_internal.h"

struct phi_chat_template {
    const phi_tokenizer *tokenizer;
    phi_template *parsed;
    const char *bos; /* views into the vocabulary; "" when there is no such token */
    const char *eos;
    int32_t end_of_turn;
};

/* For files without a template: the families' formats, told apart by their control tokens. */
#define PHI_3_TEMPLATE                                                                             \
    "{% for message in messages %}"                                                                \
    "{{ '<|' + message['role'] + '|>\\n' + message['content'] + '<|end|>\\n' }}"                   \
    "{% endfor %}"                                                                                 \
    "{% if add_generation_prompt %}{{ '<|assistant|>\\n' }}{% else %}{{ eos_token }}{% endif %}"
#define PHI_4_TEMPLATE                                                                             \
    "{% for message in messages %}"                                                                \
    "{{ '<|im_start|>' + message['role'] + '<|im_sep|>' + message['content'] + '<|im_end|>' }}"    \
    "{% endfor %}"                                                                                 \
    "{% if add_generation_prompt %}{{ '<|im_start|>assistant<|im_sep|>' }}{% endif %}"
#define PHI_4_MINI_TEMPLATE                                                                        \
    "{% for message in messages %}"                                                                \
    "{{ '<|' + message['role'] + '|>' + message['content'] }}"                                     \
    "{% if message['tools'] %}{{ '<|tool|>' + message['tools'] + '<|/tool|>' }}{% endif %}"        \
    "{{ '<|end|>' }}"                                                                              \
    "{% endfor %}"                                                                                 \
    "{% if add_generation_prompt %}{{ '<|assistant|>' }}{% else %}{{ eos_token }}{% endif %}"

static bool has(const phi_tokenizer *tokenizer, const char *piece)
{
    return phi_tokenizer_find(tokenizer, piece) >= 0;
}

static const char *family_template(const phi_tokenizer *tokenizer)
{
    if (has(tokenizer, "<|im_start|>") && has(tokenizer, "<|im_sep|>") &&
        has(tokenizer, "<|im_end|>")) {
        return PHI_4_TEMPLATE;
    }
    if (!has(tokenizer, "<|user|>") || !has(tokenizer, "<|assistant|>") ||
        !has(tokenizer, "<|end|>")) {
        return NULL;
    }
    return has(tokenizer, "<|tool_call|>") ? PHI_4_MINI_TEMPLATE : PHI_3_TEMPLATE;
}

static const char *piece_or_empty(const phi_tokenizer *tokenizer, int32_t id)
{
    const char *piece = phi_tokenizer_piece(tokenizer, id);
    return piece ? piece : "";
}

/* The one that the template writes, else the one that the vocabulary has. */
static int32_t find_end_of_turn(const phi_tokenizer *tokenizer, const char *source)
{
    static const char *const ends[] = {"<|end|>", "<|im_end|>"};
    for (int written = 1; written >= 0; written--) {
        for (size_t i = 0; i < sizeof ends / sizeof *ends; i++) {
            int32_t id = phi_tokenizer_find(tokenizer, ends[i]);
            if (id >= 0 && (!written || strstr(source, ends[i]))) {
                return id;
            }
        }
    }
    return -1;
}

phi_status phi_chat_template_create(const phi_tokenizer *tokenizer,
                                    phi_chat_template **out_template, phi_err *err)
{
    const char *source = phi_tokenizer_chat_template(tokenizer);
    source = source ? source : family_template(tokenizer);
    if (!source) {
        return phi_fail(err, PHI_E_UNSUPPORTED,
                        "the model has no chat template, nor the control tokens of Phi-3 or Phi-4; "
                        "it can complete text, not chat");
    }
    phi_template *parsed = NULL;
    phi_status status = phi_template_parse(source, strlen(source), &parsed, err);
    if (status != PHI_OK) {
        return status;
    }
    phi_chat_template *chat = phi_alloc_zero(1, sizeof *chat);
    chat->tokenizer = tokenizer;
    chat->parsed = parsed;
    chat->bos = piece_or_empty(tokenizer, tokenizer->bos_id);
    chat->eos = piece_or_empty(tokenizer, tokenizer->eos_id);
    chat->end_of_turn = find_end_of_turn(tokenizer, source);
    *out_template = chat;
    return PHI_OK;
}

void phi_chat_template_destroy(phi_chat_template *chat)
{
    if (chat) {
        phi_template_destroy(chat->parsed);
        phi_free(chat);
    }
}

int32_t phi_chat_end_of_turn(const phi_chat_template *chat)
{
    return chat->end_of_turn;
}

/* A role becomes part of a control token's text in some templates: only plain words may. */
static bool is_plain_word(const char *text)
{
    size_t bytes = strlen(text);
    return bytes > 0 && strspn(text, "abcdefghijklmnopqrstuvwxyz_") == bytes;
}

static bool put_string(phi_value_heap *heap, phi_dict *dict, const char *key, const char *text,
                       size_t bytes, bool trusted)
{
    phi_value value;
    return phi_value_string(heap, text, bytes, trusted, &value) &&
           phi_dict_set(heap, dict, key, strlen(key), &value);
}

static bool put_message(phi_value_heap *heap, const phi_chat_message *message, phi_value *out)
{
    phi_dict *dict = phi_dict_create(heap);
    if (!dict || !put_string(heap, dict, "role", message->role, strlen(message->role),
                             is_plain_word(message->role))) {
        return false;
    }
    const char *content = message->content ? message->content : "";
    if (!put_string(heap, dict, "content", content, message->content_bytes, false)) {
        return false;
    }
    *out = (phi_value){.kind = PHI_VALUE_DICT, .as.dict = dict};
    return !message->tools ||
           put_string(heap, dict, "tools", message->tools, strlen(message->tools), false);
}

/* What Hugging Face gives to a template. */
static phi_dict *make_variables(const phi_chat_template *chat, phi_value_heap *heap,
                                const phi_chat_message *messages, size_t count,
                                bool add_generation_prompt)
{
    phi_dict *variables = phi_dict_create(heap);
    phi_value *items = phi_arena_take(&heap->arena, (count + 1) * sizeof *items);
    if (!variables || !items) {
        return NULL;
    }
    for (size_t i = 0; i < count; i++) {
        if (!put_message(heap, &messages[i], &items[i])) {
            return NULL;
        }
    }
    phi_value list = {.kind = PHI_VALUE_LIST, .as.list = {.items = items, .count = count}};
    phi_value prompt = {.kind = PHI_VALUE_BOOL, .as.boolean = add_generation_prompt};
    phi_value none = {.kind = PHI_VALUE_NONE};
    bool done = phi_dict_set(heap, variables, "messages", 8, &list) &&
                phi_dict_set(heap, variables, "add_generation_prompt", 21, &prompt) &&
                phi_dict_set(heap, variables, "tools", 5, &none) &&
                phi_dict_set(heap, variables, "documents", 9, &none) &&
                put_string(heap, variables, "bos_token", chat->bos, strlen(chat->bos), true) &&
                put_string(heap, variables, "eos_token", chat->eos, strlen(chat->eos), true);
    return done ? variables : NULL;
}

static phi_status check_messages(const phi_chat_message *messages, size_t count, phi_err *err)
{
    if (count > PHI_LIMIT_CHAT_MESSAGES) {
        return phi_fail_param(err, PHI_E_LIMIT, "messages", "at most %u messages, not %zu",
                              PHI_LIMIT_CHAT_MESSAGES, count);
    }
    for (size_t i = 0; i < count; i++) {
        if (!phi_utf8_valid(messages[i].content ? messages[i].content : "",
                            messages[i].content_bytes)) {
            return phi_fail_param(err, PHI_E_INVALID, "messages",
                                  "messages[%zu].content is not valid UTF-8", i);
        }
    }
    return PHI_OK;
}

static phi_status render(const phi_chat_template *chat, const phi_chat_message *messages,
                         size_t count, bool add_generation_prompt, phi_marked *out, phi_err *err)
{
    phi_status status = check_messages(messages, count, err);
    if (status != PHI_OK) {
        return status;
    }
    phi_value_heap heap;
    phi_value_heap_init(&heap);
    const phi_dict *variables = make_variables(chat, &heap, messages, count, add_generation_prompt);
    if (variables) {
        status = phi_template_render(chat->parsed, &heap, variables, out, err);
    } else {
        status = phi_fail(err, PHI_E_NO_MEMORY, "not enough memory for %zu messages", count);
    }
    phi_value_heap_done(&heap);
    return status;
}

phi_status phi_chat_render(const phi_chat_template *chat, const phi_chat_message *messages,
                           size_t count, bool add_generation_prompt, phi_buf *out_text,
                           phi_err *err)
{
    phi_marked text;
    phi_marked_init(&text);
    phi_status status = render(chat, messages, count, add_generation_prompt, &text, err);
    if (status == PHI_OK) {
        status = phi_buf_append(out_text, phi_buf_text(&text.text), text.text.length_bytes);
    }
    phi_marked_done(&text);
    return status;
}

/* Most templates leave the beginning-of-text token to the tokenizer; some write it. */
static phi_status append_with_bos(const phi_tokenizer *tokenizer, const phi_tokens *ids,
                                  phi_tokens *out_tokens, phi_err *err)
{
    bool written = ids->count && tokenizer->prefix_count && ids->ids[0] == tokenizer->prefix[0];
    size_t before = out_tokens->count;
    phi_status status = PHI_OK;
    if (tokenizer->adds_bos && !written) {
        status = phi_tokens_append(out_tokens, tokenizer->prefix, tokenizer->prefix_count);
    }
    if (status == PHI_OK) {
        status = phi_tokens_append(out_tokens, ids->ids, ids->count);
    }
    if (status != PHI_OK) {
        out_tokens->count = before;
        phi_fail(err, status, "not enough memory for %zu tokens", ids->count);
    }
    return status;
}

phi_status phi_chat_encode(const phi_chat_template *chat, const phi_chat_message *messages,
                           size_t count, bool add_generation_prompt, phi_tokens *out_tokens,
                           phi_err *err)
{
    const phi_tokenizer *tokenizer = chat->tokenizer;
    phi_marked text;
    phi_tokens ids;
    phi_marked_init(&text);
    phi_tokens_init(&ids);
    phi_status status = render(chat, messages, count, add_generation_prompt, &text, err);
    if (status == PHI_OK) {
        status = phi_tokenizer_encode_marked(tokenizer, phi_buf_text(&text.text),
                                             phi_buf_text(&text.trust), text.text.length_bytes,
                                             &ids, err);
    }
    if (status == PHI_OK) {
        status = append_with_bos(tokenizer, &ids, out_tokens, err);
    }
    phi_tokens_done(&ids);
    phi_marked_done(&text);
    return status;
}

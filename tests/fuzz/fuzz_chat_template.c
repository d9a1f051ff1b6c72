/*
 * Chat templates from foreign hands. The messages are made of a character that the template itself
 * cannot write, so wherever it shows up in the rendering it must still be marked as untrusted.
 */
#include <stddef.h>
#include <stdint.h>
#include <string.h>

#include "base/assert.h"
#include "engine/tokenizer/template.h"

#define MARK '\x02'

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static void put(phi_value_heap *heap, phi_dict *dict, const char *key, const char *text,
                bool trusted)
{
    phi_value value;
    PHI_ASSERT(phi_value_string(heap, text, strlen(text), trusted, &value));
    PHI_ASSERT(phi_dict_set(heap, dict, key, strlen(key), &value));
}

static void render(const phi_template *parsed)
{
    static const char *const roles[] = {"system", "user", "assistant"};
    phi_value_heap heap;
    phi_value_heap_init(&heap);
    phi_value messages[3];
    for (size_t i = 0; i < 3; i++) {
        phi_dict *message = phi_dict_create(&heap);
        put(&heap, message, "role", roles[i], true);
        put(&heap, message, "content", " \x02\x02 \x02\n", false);
        messages[i] = (phi_value){.kind = PHI_VALUE_DICT, .as.dict = message};
    }
    phi_dict *variables = phi_dict_create(&heap);
    phi_value list = {.kind = PHI_VALUE_LIST, .as.list = {.items = messages, .count = 3}};
    phi_value yes = {.kind = PHI_VALUE_BOOL, .as.boolean = true};
    PHI_ASSERT(phi_dict_set(&heap, variables, "messages", 8, &list));
    PHI_ASSERT(phi_dict_set(&heap, variables, "add_generation_prompt", 21, &yes));
    put(&heap, variables, "bos_token", "<s>", true);
    put(&heap, variables, "eos_token", "</s>", true);
    phi_marked out;
    phi_marked_init(&out);
    phi_err err = {.code = PHI_OK};
    (void)!phi_template_render(parsed, &heap, variables, &out, &err);
    if (!phi_marked_failed(&out)) {
        PHI_ASSERT(out.text.length_bytes == out.trust.length_bytes);
        for (size_t i = 0; i < out.text.length_bytes; i++) {
            PHI_ASSERT(out.text.data[i] != MARK || out.trust.data[i] == 0);
        }
    }
    phi_marked_done(&out);
    phi_value_heap_done(&heap);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    /* A backslash could spell the mark. */
    if (memchr(data, MARK, size) || memchr(data, '\\', size)) {
        return 0;
    }
    phi_err err = {.code = PHI_OK};
    phi_template *parsed = NULL;
    if (phi_template_parse((const char *)data, size, &parsed, &err) == PHI_OK) {
        render(parsed);
        phi_template_destroy(parsed);
    }
    return 0;
}

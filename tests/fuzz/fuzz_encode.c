/*
 * Texts from users: plain encoding never yields a control token, decoding gives the text back, and
 * decoding one id at a time gives whole characters that add up to the same.
 */
#include <stddef.h>
#include <stdint.h>
#include <string.h>

#include "base/assert.h"
#include "base/str.h"
#include "engine/tokenizer/tokenizer_internal.h"
#include "tests/unit/engine/tokenizer/tiny.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static phi_tokenizer *load(void (*tiny)(phi_buf *))
{
    phi_buf json;
    phi_buf_init(&json, 1U << 20);
    tiny(&json);
    phi_tokenizer *tokenizer = NULL;
    phi_status status =
        phi_tokenizer_load_json(json.data, json.length_bytes, NULL, "tiny", &tokenizer, NULL);
    PHI_ASSERT(status == PHI_OK);
    phi_buf_done(&json);
    return tokenizer;
}

static void check_incremental(const phi_tokenizer *tokenizer, const phi_tokens *tokens,
                              const phi_buf *whole)
{
    phi_detokenizer detokenizer;
    phi_detokenizer_init(&detokenizer, tokenizer, false, false);
    phi_buf all;
    phi_buf_init(&all, SIZE_MAX);
    for (size_t i = 0; i <= tokens->count; i++) {
        size_t before = all.length_bytes;
        phi_status status = i < tokens->count
                                ? phi_detokenizer_push(&detokenizer, tokens->ids[i], &all)
                                : phi_detokenizer_finish(&detokenizer, &all);
        PHI_ASSERT(status == PHI_OK);
        PHI_ASSERT(phi_utf8_valid(phi_buf_text(&all) + before, all.length_bytes - before));
    }
    PHI_ASSERT(all.length_bytes == whole->length_bytes);
    PHI_ASSERT(memcmp(phi_buf_text(&all), phi_buf_text(whole), all.length_bytes) == 0);
    phi_buf_done(&all);
}

static void check(const phi_tokenizer *tokenizer, const char *text, size_t bytes,
                  phi_parse_mode mode)
{
    phi_tokens tokens;
    phi_tokens_init(&tokens);
    phi_encode_options options = {.mode = mode};
    phi_status status = phi_tokenizer_encode(tokenizer, text, bytes, &options, &tokens, NULL);
    PHI_ASSERT((status == PHI_OK) == phi_utf8_valid(text, bytes));
    if (status == PHI_OK) {
        phi_buf whole;
        phi_buf_init(&whole, SIZE_MAX);
        status = phi_tokenizer_decode(tokenizer, tokens.ids, tokens.count, false, &whole);
        PHI_ASSERT(status == PHI_OK);
        for (size_t i = 0; i < tokens.count; i++) {
            PHI_ASSERT(mode == PHI_PARSE_SPECIAL ||
                       !phi_tokenizer_is_special(tokenizer, tokens.ids[i]));
        }
        /* U+2581 itself comes back as a space from a SentencePiece vocabulary. */
        bool marks = memmem(text, bytes, PHI_METASPACE, PHI_METASPACE_BYTES) != NULL;
        if (mode == PHI_PARSE_PLAIN && !marks) {
            PHI_ASSERT(whole.length_bytes == bytes);
            PHI_ASSERT(memcmp(phi_buf_text(&whole), text, bytes) == 0);
        }
        check_incremental(tokenizer, &tokens, &whole);
        phi_buf_done(&whole);
    }
    phi_tokens_done(&tokens);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    static phi_tokenizer *byte_level;
    static phi_tokenizer *sentencepiece;
    if (!byte_level) {
        byte_level = load(tiny_byte_level);
        sentencepiece = load(tiny_sentencepiece);
    }
    const char *text = size ? (const char *)data : "";
    check(byte_level, text, size, PHI_PARSE_PLAIN);
    check(byte_level, text, size, PHI_PARSE_SPECIAL);
    check(sentencepiece, text, size, PHI_PARSE_PLAIN);
    check(sentencepiece, text, size, PHI_PARSE_SPECIAL);
    return 0;
}

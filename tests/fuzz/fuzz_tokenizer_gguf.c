/* A vocabulary in a GGUF file from foreign hands: whatever loads must also encode and decode. */
#include <stddef.h>
#include <stdint.h>
#include <string.h>

#include "base/assert.h"
#include "engine/tokenizer/tokenizer_internal.h"
#include "fuzz_input.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t bytes);

static void use(const phi_tokenizer *tokenizer)
{
    static const char text[] = " abc aab <s> w\xc3\xb6rld 123 \xf0\x9f\x98\x80\xe2\x96\x81x";
    phi_err err = {.code = PHI_OK};
    phi_tokens tokens;
    phi_tokens_init(&tokens);
    phi_encode_options options = {.mode = PHI_PARSE_SPECIAL, .add_bos = true};
    if (phi_tokenizer_encode(tokenizer, text, sizeof text - 1, &options, &tokens, &err) == PHI_OK) {
        phi_buf out;
        phi_buf_init(&out, 1U << 20);
        phi_status status = phi_tokenizer_decode(tokenizer, tokens.ids, tokens.count, false, &out);
        PHI_ASSERT(status == PHI_OK || status == PHI_E_LIMIT);
        phi_buf_done(&out);
    }
    phi_tokens_done(&tokens);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t bytes)
{
    phi_gguf *gguf = NULL;
    phi_tokenizer *tokenizer = NULL;
    phi_err err = {.code = PHI_OK};
    if (phi_gguf_open(fuzz_file(data, bytes), &gguf, &err) != PHI_OK) {
        return 0;
    }
    if (phi_tokenizer_open_gguf(gguf, &tokenizer, &err) == PHI_OK) {
        use(tokenizer);
        phi_tokenizer_destroy(tokenizer);
    }
    phi_gguf_close(gguf);
    return 0;
}

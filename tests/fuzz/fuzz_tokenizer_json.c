/* tokenizer.json from foreign hands: whatever loads must also encode and decode. */
#include <stddef.h>
#include <stdint.h>
#include <string.h>

#include "base/assert.h"
#include "engine/tokenizer/tokenizer_internal.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    static const char text[] =
        " hello <|user|>\n w\xc3\xb6rld 123 <s> \xf0\x9f\x98\x80\xe2\x96\x81x";
    phi_err err = {.code = PHI_OK};
    phi_tokenizer *tokenizer = NULL;
    if (phi_tokenizer_load_json((const char *)data, size, NULL, "fuzz", &tokenizer, &err) !=
        PHI_OK) {
        return 0;
    }
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
    phi_tokenizer_destroy(tokenizer);
    return 0;
}

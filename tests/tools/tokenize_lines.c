/*
 * Reads texts separated by NUL bytes from standard input and prints the ids of each on a line of
 * its own: what the comparison with the Python package feeds on.
 *
 *   tokenize_lines DIR|FILE.gguf [--plain] [--decode]
 *
 * With --plain control tokens are ordinary text. With --decode a line is the text, as hexadecimal
 * digits, that the ids decode to.
 */
#include <stdio.h>
#include <string.h>

#include "base/mem.h"
#include "engine/formats/gguf.h"
#include "engine/tokenizer/tokenizer.h"

static int fail(const phi_err *err)
{
    fprintf(stderr, "tokenize_lines: %s\n", err->message);
    return 1;
}

static void print_text(const phi_buf *text)
{
    for (size_t i = 0; i < text->length_bytes; i++) {
        printf("%02x", (unsigned)(unsigned char)text->data[i]);
    }
    putchar('\n');
}

static void print_ids(const phi_tokens *tokens)
{
    for (size_t i = 0; i < tokens->count; i++) {
        printf(i ? " %d" : "%d", tokens->ids[i]);
    }
    putchar('\n');
}

static phi_status answer(const phi_tokenizer *tokenizer, const char *text, size_t bytes,
                         phi_parse_mode mode, bool decode, phi_err *err)
{
    phi_tokens tokens;
    phi_tokens_init(&tokens);
    phi_encode_options options = {.mode = mode};
    phi_status status = phi_tokenizer_encode(tokenizer, text, bytes, &options, &tokens, err);
    if (status == PHI_OK && decode) {
        phi_buf out;
        phi_buf_init(&out, SIZE_MAX);
        status = phi_tokenizer_decode(tokenizer, tokens.ids, tokens.count, true, &out);
        print_text(&out);
        phi_buf_done(&out);
    } else if (status == PHI_OK) {
        print_ids(&tokens);
    }
    phi_tokens_done(&tokens);
    return status;
}

static phi_status answer_all(const phi_tokenizer *tokenizer, phi_parse_mode mode, bool decode,
                             phi_err *err)
{
    phi_buf input;
    phi_buf_init(&input, SIZE_MAX);
    char part[65536];
    size_t got;
    while ((got = fread(part, 1, sizeof part, stdin)) > 0) {
        phi_buf_append(&input, part, got);
    }
    phi_status status = PHI_OK;
    size_t begin = 0;
    for (size_t i = 0; status == PHI_OK && i < input.length_bytes; i++) {
        if (input.data[i] == '\0') {
            status = answer(tokenizer, input.data + begin, i - begin, mode, decode, err);
            begin = i + 1;
        }
    }
    phi_buf_done(&input);
    return status;
}

int main(int argc, char **argv)
{
    phi_err err = {.code = PHI_OK};
    phi_tokenizer *tokenizer = NULL;
    phi_gguf *gguf = NULL;
    phi_parse_mode mode = PHI_PARSE_SPECIAL;
    bool decode = false;
    if (argc < 2) {
        fprintf(stderr, "usage: tokenize_lines DIR|FILE.gguf [--plain] [--decode]\n");
        return 2;
    }
    for (int i = 2; i < argc; i++) {
        mode = strcmp(argv[i], "--plain") == 0 ? PHI_PARSE_PLAIN : mode;
        decode = decode || strcmp(argv[i], "--decode") == 0;
    }
    phi_status status = PHI_OK;
    if (phi_file_is_dir(argv[1])) {
        status = phi_tokenizer_open_dir(argv[1], &tokenizer, &err);
    } else {
        status = phi_gguf_open(argv[1], &gguf, &err);
        if (status == PHI_OK) {
            status = phi_tokenizer_open_gguf(gguf, &tokenizer, &err);
        }
    }
    if (status == PHI_OK) {
        status = answer_all(tokenizer, mode, decode, &err);
    }
    phi_tokenizer_destroy(tokenizer);
    phi_gguf_close(gguf);
    return status == PHI_OK ? 0 : fail(&err);
}

/*
 * A tokenizer alone, in another shape, for tests that need no weights:
 *
 *   tokenizer_folder DIR OUT.gguf N_VOCAB NAME   a GGUF of nothing but the vocabulary
 *   tokenizer_folder FILE.gguf OUT               the files of a Hugging Face folder
 */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/file.h"
#include "engine/formats/gguf.h"
#include "engine/tokenizer/tokenizer.h"

static phi_status write_gguf(const char *dir, const char *out, uint32_t n_vocab, const char *name,
                             phi_err *err)
{
    phi_tokenizer *tokenizer = NULL;
    phi_gguf_writer *writer = NULL;
    phi_status status = phi_tokenizer_open_dir(dir, &tokenizer, err);
    status = status ? status : phi_gguf_writer_create(out, &writer, err);
    if (!status) {
        phi_gguf_put_string(writer, "general.name", name, strlen(name));
        status = phi_tokenizer_put_gguf(tokenizer, n_vocab, writer, err);
        status = status ? status : phi_gguf_write_header(writer, err);
        if (status) {
            phi_gguf_writer_abort(writer);
        } else {
            status = phi_gguf_writer_commit(writer, err);
        }
    }
    phi_tokenizer_destroy(tokenizer);
    return status;
}

static phi_status write_folder(const char *path, const char *out, phi_err *err)
{
    phi_gguf *gguf = NULL;
    phi_tokenizer *tokenizer = NULL;
    phi_status status = phi_gguf_open(path, &gguf, err);
    status = status ? status : phi_tokenizer_open_gguf(gguf, &tokenizer, err);
    status = status ? status : phi_file_make_dirs(out, err);
    status = status ? status : phi_tokenizer_write_folder(tokenizer, 4096, out, err);
    phi_tokenizer_destroy(tokenizer);
    phi_gguf_close(gguf);
    return status;
}

int main(int argc, char **argv)
{
    phi_err err = {.code = PHI_OK};
    if (argc != 3 && argc != 5) {
        (void)fprintf(stderr, "tokenizer_folder: DIR OUT.gguf N_VOCAB NAME, or FILE.gguf OUT\n");
        return 2;
    }
    phi_status status = argc == 5 ? write_gguf(argv[1], argv[2],
                                               (uint32_t)strtoul(argv[3], NULL, 10), argv[4], &err)
                                  : write_folder(argv[1], argv[2], &err);
    if (status) {
        (void)fprintf(stderr, "tokenizer_folder: %s\n", err.message);
    }
    return status ? 1 : 0;
}

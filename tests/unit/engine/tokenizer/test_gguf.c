/*
 * Vocabularies inside GGUF files: llama.cpp's own vocabulary-only file of Phi-3, and what
 * phi_tokenizer_put_gguf writes, read back by the arrays alone and by tokenizer.huggingface.json.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include <cmocka.h>
#include <jansson.h>

#include "base/file.h"
#include "base/mem.h"
#include "base/str.h"
#include "engine/formats/gguf.h"
#include "engine/tokenizer/tokenizer.h"
#include "engine/tokenizer/vocab.h"

static char *shared_path(const char *name)
{
    const char *shared = getenv("PHID_SHARED_DIR");
    char *path = shared ? phi_strfmt("%s/data/tokenizers/%s", shared, name)
                        : phi_strfmt("%s/../shared/data/tokenizers/%s", PHID_SOURCE_DIR, name);
    if (!phi_file_exists(path)) {
        phi_free(path);
        skip();
    }
    return path;
}

static phi_tokenizer *open_dir(const char *path)
{
    phi_err err = {.code = PHI_OK};
    phi_tokenizer *tokenizer = NULL;
    if (phi_tokenizer_open_dir(path, &tokenizer, &err) != PHI_OK) {
        fail_msg("%s", err.message);
    }
    return tokenizer;
}

static phi_tokenizer *open_gguf(const char *path)
{
    phi_err err = {.code = PHI_OK};
    phi_gguf *gguf = NULL;
    phi_tokenizer *tokenizer = NULL;
    if (phi_gguf_open(path, &gguf, &err) != PHI_OK ||
        phi_tokenizer_open_gguf(gguf, &tokenizer, &err) != PHI_OK) {
        fail_msg("%s", err.message);
    }
    phi_gguf_close(gguf);
    return tokenizer;
}

static void assert_same_ids(const phi_tokenizer *a, const phi_tokenizer *b, const char *text,
                            phi_parse_mode mode)
{
    phi_encode_options options = {.mode = mode};
    phi_tokens left;
    phi_tokens right;
    phi_tokens_init(&left);
    phi_tokens_init(&right);
    assert_int_equal(phi_tokenizer_encode(a, text, strlen(text), &options, &left, NULL), PHI_OK);
    assert_int_equal(phi_tokenizer_encode(b, text, strlen(text), &options, &right, NULL), PHI_OK);
    bool same = left.count == right.count &&
                (!left.count || memcmp(left.ids, right.ids, left.count * sizeof *left.ids) == 0);
    if (!same) {
        fail_msg("different ids for \"%s\"", text);
    }
    phi_tokens_done(&left);
    phi_tokens_done(&right);
}

static const char *const texts[] = {
    "Hello world",
    " Hello, y'all! How are you \xf0\x9f\x98\x81 ?\xe6\x88\x91\xe6\x83\xb3",
    "    spaces   and\ttabs\n\n  lines\r\n",
    "<|user|>\nHello there<|end|>\n<|assistant|>\n",
    "3 + 4 = 7, 1234567",
    "int main(void) { return 0; }\n",
    "\xd0\x9f\xd1\x80\xd0\xb8\xd0\xb2\xd0\xb5\xd1\x82 \xe0\xa4\xa8\xe0\xa4\xae\xe0\xa4\xb8",
    "aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa",
};

static void same_texts(const phi_tokenizer *a, const phi_tokenizer *b)
{
    for (size_t i = 0; i < sizeof texts / sizeof *texts; i++) {
        assert_same_ids(a, b, texts[i], PHI_PARSE_SPECIAL);
        assert_same_ids(a, b, texts[i], PHI_PARSE_PLAIN);
    }
}

static bool has(const char *dir, const char *name)
{
    char *path = phi_strfmt("%s/%s", dir, name);
    bool found = phi_file_exists(path);
    phi_free(path);
    return found;
}

/* The folder written of a tokenizer reads back as that tokenizer. */
static void assert_folder(const phi_tokenizer *tokenizer, bool sentencepiece)
{
    char dir[] = "/tmp/phid-test-tokenizer-XXXXXX";
    phi_err err = {.code = PHI_OK};
    assert_non_null(mkdtemp(dir));
    if (phi_tokenizer_write_folder(tokenizer, 4096, dir, &err) != PHI_OK) {
        fail_msg("%s", err.message);
    }
    assert_true(has(dir, "special_tokens_map.json"));
    assert_int_equal(has(dir, "tokenizer.model"), sentencepiece);
    phi_tokenizer *again = open_dir(dir);
    same_texts(tokenizer, again);
    uint32_t size = phi_tokenizer_vocab_size(tokenizer);
    for (int32_t id = 0; id < (int32_t)size; id++) {
        assert_int_equal(phi_tokenizer_is_special(tokenizer, id),
                         phi_tokenizer_is_special(again, id));
        if (phi_tokenizer_is_known(tokenizer, id)) {
            assert_string_equal(phi_tokenizer_piece(tokenizer, id), phi_tokenizer_piece(again, id));
        } else {
            assert_false(phi_tokenizer_is_known(again, id));
        }
    }
    assert_int_equal(phi_tokenizer_bos(tokenizer), phi_tokenizer_bos(again));
    assert_int_equal(phi_tokenizer_eos(tokenizer), phi_tokenizer_eos(again));
    assert_int_equal(phi_tokenizer_adds_bos(tokenizer), phi_tokenizer_adds_bos(again));
    const char *chat = phi_tokenizer_chat_template(tokenizer);
    if (chat) {
        assert_string_equal(phi_tokenizer_chat_template(again), chat);
    }
    phi_tokenizer_destroy(again);
    assert_int_equal(phi_file_remove_tree(dir, &err), PHI_OK);
}

/* A file of the reference's own and the tokenizer.json of the same model give the same ids. */
static void reads_llama_cpp_vocabulary(void **state)
{
    (void)state;
    char *gguf_path = shared_path("ggml-vocab-phi-3.gguf");
    char *dir = shared_path("phi-3-mini");
    phi_tokenizer *from_gguf = open_gguf(gguf_path);
    phi_tokenizer *from_json = open_dir(dir);
    same_texts(from_gguf, from_json);
    assert_int_equal(phi_tokenizer_find(from_gguf, "<|end|>"), 32007);
    assert_true(phi_tokenizer_is_special(from_gguf, 32007));
    assert_false(phi_tokenizer_is_known(from_gguf, 32050));
    assert_int_equal(phi_tokenizer_bos(from_gguf), 1);
    assert_true(phi_tokenizer_adds_bos(from_gguf));
    assert_folder(from_gguf, true);
    phi_tokenizer_destroy(from_gguf);
    phi_tokenizer_destroy(from_json);
    phi_free(gguf_path);
    phi_free(dir);
}

/* Writes `tokenizer` to a fresh file whose path it returns. */
static char *write_gguf(const phi_tokenizer *tokenizer, uint32_t n_vocab, const char *name)
{
    char *path = phi_strdup("/tmp/phid-test-tokenizer-XXXXXX");
    int fd = mkstemp(path);
    assert_true(fd >= 0);
    close(fd);
    phi_err err = {.code = PHI_OK};
    phi_gguf_writer *writer = NULL;
    assert_int_equal(phi_gguf_writer_create(path, &writer, &err), PHI_OK);
    phi_gguf_put_string(writer, "general.name", name, strlen(name));
    if (phi_tokenizer_put_gguf(tokenizer, n_vocab, writer, &err) != PHI_OK ||
        phi_gguf_write_header(writer, &err) != PHI_OK) {
        fail_msg("%s", err.message);
    }
    if (phi_gguf_writer_commit(writer, &err) != PHI_OK) {
        fail_msg("%s", err.message);
    }
    return path;
}

/* Copies every key of a GGUF but tokenizer.huggingface.json, so that only the arrays are left. */
static char *without_json(const char *path)
{
    phi_gguf *gguf = NULL;
    assert_int_equal(phi_gguf_open(path, &gguf, NULL), PHI_OK);
    char *copy = phi_strdup("/tmp/phid-test-tokenizer-XXXXXX");
    int fd = mkstemp(copy);
    assert_true(fd >= 0);
    close(fd);
    phi_gguf_writer *writer = NULL;
    assert_int_equal(phi_gguf_writer_create(copy, &writer, NULL), PHI_OK);
    for (size_t i = 0; i < phi_gguf_value_count(gguf); i++) {
        const phi_gguf_value *value = phi_gguf_value_at(gguf, i);
        if (strcmp(value->key, "tokenizer.huggingface.json") == 0 ||
            strcmp(value->key, "general.alignment") == 0) {
            continue;
        }
        if (value->type == PHI_GGUF_STRING) {
            phi_gguf_put_string(writer, value->key, value->as.string.text, value->as.string.bytes);
        } else if (value->type == PHI_GGUF_U32) {
            phi_gguf_put_u32(writer, value->key, (uint32_t)value->as.u64);
        } else if (value->type == PHI_GGUF_BOOL) {
            phi_gguf_put_bool(writer, value->key, value->as.u64 != 0);
        } else if (value->element_type == PHI_GGUF_STRING) {
            phi_gguf_put_strings(writer, value->key, value->as.strings, value->count);
        } else if (value->element_type == PHI_GGUF_I32) {
            phi_gguf_put_i32s(writer, value->key, value->as.numbers, value->count);
        } else {
            assert_int_equal(value->element_type, PHI_GGUF_F32);
            phi_gguf_put_f32s(writer, value->key, value->as.numbers, value->count);
        }
    }
    assert_int_equal(phi_gguf_write_header(writer, NULL), PHI_OK);
    assert_int_equal(phi_gguf_writer_commit(writer, NULL), PHI_OK);
    phi_gguf_close(gguf);
    return copy;
}

static void assert_round_trip(const char *dir, uint32_t n_vocab, const char *name,
                              bool arrays_strip)
{
    phi_tokenizer *source = open_dir(dir);
    char *path = write_gguf(source, n_vocab, name);
    phi_tokenizer *whole = open_gguf(path);
    same_texts(source, whole);
    assert_int_equal(phi_tokenizer_bos(whole), phi_tokenizer_bos(source));
    assert_int_equal(phi_tokenizer_eos(whole), phi_tokenizer_eos(source));
    assert_int_equal(phi_tokenizer_adds_bos(whole), phi_tokenizer_adds_bos(source));
    const char *chat = phi_tokenizer_chat_template(source);
    if (chat) {
        assert_string_equal(phi_tokenizer_chat_template(whole), chat);
    }
    char *bare = without_json(path);
    phi_tokenizer *arrays = open_gguf(bare);
    for (size_t i = 0; i < sizeof texts / sizeof *texts; i++) {
        assert_same_ids(source, arrays, texts[i], PHI_PARSE_PLAIN);
        if (arrays_strip) {
            assert_same_ids(source, arrays, texts[i], PHI_PARSE_SPECIAL);
        }
    }
    bool sentencepiece = strstr(name, "Phi-3") != NULL;
    assert_folder(whole, sentencepiece);
    assert_folder(arrays, sentencepiece);
    if (n_vocab > phi_tokenizer_vocab_size(source)) {
        assert_false(phi_tokenizer_is_known(arrays, (int32_t)n_vocab - 1));
    }
    phi_tokenizer_destroy(source);
    phi_tokenizer_destroy(whole);
    phi_tokenizer_destroy(arrays);
    unlink(path);
    unlink(bare);
    phi_free(path);
    phi_free(bare);
}

static void round_trip_of_sample(void **state)
{
    (void)state;
    /* The arrays have no field for swallowing white space, except by a Phi-3 name. */
    assert_round_trip(PHID_SOURCE_DIR "/models/phi-sample", 1088, "phi-3 sample", true);
    assert_round_trip(PHID_SOURCE_DIR "/models/phi-sample", 1024, "sample", false);
}

static void round_trip_of_phi_3(void **state)
{
    (void)state;
    char *dir = shared_path("phi-3-mini");
    assert_round_trip(dir, 32064, "Phi-3-mini", true);
    phi_free(dir);
}

static void round_trip_of_phi_4(void **state)
{
    (void)state;
    char *dir = shared_path("phi-4");
    assert_round_trip(dir, 100352, "phi-4", false);
    phi_free(dir);
}

static void round_trip_of_phi_4_mini(void **state)
{
    (void)state;
    char *dir = shared_path("phi-4-mini");
    assert_round_trip(dir, 200064, "phi-4-mini", false);
    phi_free(dir);
}

static void refuses_too_few_rows(void **state)
{
    (void)state;
    phi_tokenizer *source = open_dir(PHID_SOURCE_DIR "/models/phi-sample");
    phi_gguf_writer *writer = NULL;
    assert_int_equal(phi_gguf_writer_create("/tmp/phid-test-tokenizer-none", &writer, NULL),
                     PHI_OK);
    phi_err err = {.code = PHI_OK};
    assert_int_equal(phi_tokenizer_put_gguf(source, 1000, writer, &err), PHI_E_INVALID);
    assert_non_null(strstr(err.message, "1000"));
    phi_gguf_writer_abort(writer);
    phi_tokenizer_destroy(source);
}

/* A piece's text is counted in bytes in one place and ended by a NUL in another: it may hold none.
 */
static void refuses_a_nul_in_a_piece(void **state)
{
    (void)state;
    const phi_gguf_string pieces[] = {{"<unk>", 5}, {"\xe2\x96\x81", 3}, {"a\0bc", 4}};
    const int32_t types[] = {2, 1, 1};
    const float scores[] = {0.0F, -1.0F, -2.0F};
    char *path = phi_strdup("/tmp/phid-test-tokenizer-XXXXXX");
    int fd = mkstemp(path);
    assert_true(fd >= 0);
    close(fd);
    phi_err err = {.code = PHI_OK};
    phi_gguf_writer *writer = NULL;
    assert_int_equal(phi_gguf_writer_create(path, &writer, &err), PHI_OK);
    phi_gguf_put_string(writer, "tokenizer.ggml.model", "llama", 5);
    phi_gguf_put_strings(writer, "tokenizer.ggml.tokens", pieces, 3);
    phi_gguf_put_f32s(writer, "tokenizer.ggml.scores", scores, 3);
    phi_gguf_put_i32s(writer, "tokenizer.ggml.token_type", types, 3);
    assert_int_equal(phi_gguf_write_header(writer, &err), PHI_OK);
    assert_int_equal(phi_gguf_writer_commit(writer, &err), PHI_OK);

    phi_gguf *gguf = NULL;
    phi_tokenizer *tokenizer = NULL;
    assert_int_equal(phi_gguf_open(path, &gguf, &err), PHI_OK);
    assert_int_equal(phi_tokenizer_open_gguf(gguf, &tokenizer, &err), PHI_E_FORMAT);
    assert_non_null(strstr(err.message, "token 2"));
    assert_non_null(strstr(err.message, "NUL"));
    phi_gguf_close(gguf);
    (void)unlink(path);
    phi_free(path);
}

/* A vocabulary of llama.cpp's kind "default" with an added token behind a gap, and one that is
 * shown in answers. */
static void folder_of_gaps(void **state)
{
    (void)state;
    phi_gguf_string pieces[264];
    int32_t types[264];
    char spelt[256][4];
    for (unsigned byte = 0; byte < 256; byte++) {
        /* GPT-2's letters of the bytes, in the order of the bytes. */
        uint32_t letter = byte;
        if (byte <= 0x20) {
            letter = 0x100 + byte;
        } else if (byte >= 0x7f && byte <= 0xa0) {
            letter = 0x121 + (byte - 0x7f);
        } else if (byte == 0xad) {
            letter = 0x143;
        }
        int bytes = phi_utf8_encode(letter, spelt[byte]);
        pieces[byte] = (phi_gguf_string){spelt[byte], (size_t)bytes};
        types[byte] = PHI_TOKEN_NORMAL;
    }
    static const char *const more[] = {"ab",       "<|end|>", "[PAD258]", "[PAD259]",
                                       "<|user|>", "  \t",    "[PAD262]", "<|x|>"};
    static const int32_t kinds[] = {1, 3, 5, 5, 3, 4, 5, 3};
    for (size_t i = 0; i < 8; i++) {
        pieces[256 + i] = (phi_gguf_string){more[i], strlen(more[i])};
        types[256 + i] = kinds[i];
    }
    const phi_gguf_string merges[] = {{"a b", 3}};
    char path[] = "/tmp/phid-test-tokenizer-XXXXXX";
    int fd = mkstemp(path);
    assert_true(fd >= 0);
    close(fd);
    phi_gguf_writer *writer = NULL;
    assert_int_equal(phi_gguf_writer_create(path, &writer, NULL), PHI_OK);
    phi_gguf_put_string(writer, "tokenizer.ggml.model", "gpt2", 4);
    phi_gguf_put_string(writer, "tokenizer.ggml.pre", "default", 7);
    phi_gguf_put_strings(writer, "tokenizer.ggml.tokens", pieces, 264);
    phi_gguf_put_i32s(writer, "tokenizer.ggml.token_type", types, 264);
    phi_gguf_put_strings(writer, "tokenizer.ggml.merges", merges, 1);
    phi_gguf_put_u32(writer, "tokenizer.ggml.bos_token_id", 260);
    phi_gguf_put_bool(writer, "tokenizer.ggml.add_bos_token", true);
    assert_int_equal(phi_gguf_write_header(writer, NULL), PHI_OK);
    assert_int_equal(phi_gguf_writer_commit(writer, NULL), PHI_OK);
    phi_tokenizer *tokenizer = open_gguf(path);
    assert_int_equal(phi_tokenizer_find(tokenizer, "<|x|>"), 263);
    assert_true(phi_tokenizer_adds_bos(tokenizer));
    assert_folder(tokenizer, false);
    phi_tokenizer_destroy(tokenizer);
    (void)unlink(path);
}

/* All of a..ab..bc..c: each is two others in as many ways as it has places to be cut at. */
static void refuses_too_many_ways(void **state)
{
    (void)state;
    enum { MOST = 44, COUNT = (MOST + 1) * (MOST + 1) * (MOST + 1) - 1, BYTES = 3 * MOST };
    phi_gguf_string *pieces = phi_alloc_zero(COUNT, sizeof *pieces);
    float *scores = phi_alloc_zero(COUNT, sizeof *scores);
    char(*texts_of)[BYTES] = phi_alloc_zero(COUNT, sizeof *texts_of);
    for (size_t i = 0; i < COUNT; i++) {
        size_t left = i + 1;
        pieces[i].text = texts_of[i];
        for (char letter = 'a'; letter <= 'c'; letter++, left /= MOST + 1) {
            memset(texts_of[i] + pieces[i].bytes, letter, left % (MOST + 1));
            pieces[i].bytes += left % (MOST + 1);
        }
    }
    char *path = phi_strdup("/tmp/phid-test-tokenizer-XXXXXX");
    int fd = mkstemp(path);
    assert_true(fd >= 0);
    close(fd);
    phi_err err = {.code = PHI_OK};
    phi_gguf_writer *writer = NULL;
    assert_int_equal(phi_gguf_writer_create(path, &writer, &err), PHI_OK);
    phi_gguf_put_string(writer, "tokenizer.ggml.model", "llama", 5);
    phi_gguf_put_strings(writer, "tokenizer.ggml.tokens", pieces, COUNT);
    phi_gguf_put_f32s(writer, "tokenizer.ggml.scores", scores, COUNT);
    assert_int_equal(phi_gguf_write_header(writer, &err), PHI_OK);
    assert_int_equal(phi_gguf_writer_commit(writer, &err), PHI_OK);
    phi_gguf *gguf = NULL;
    phi_tokenizer *tokenizer = NULL;
    assert_int_equal(phi_gguf_open(path, &gguf, &err), PHI_OK);
    assert_int_equal(phi_tokenizer_open_gguf(gguf, &tokenizer, &err), PHI_E_LIMIT);
    assert_non_null(strstr(err.message, "more than 4194304 ways"));
    phi_gguf_close(gguf);
    (void)unlink(path);
    phi_free(path);
    phi_free(pieces);
    phi_free(scores);
    phi_free(texts_of);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(reads_llama_cpp_vocabulary), cmocka_unit_test(round_trip_of_sample),
        cmocka_unit_test(round_trip_of_phi_3),        cmocka_unit_test(round_trip_of_phi_4),
        cmocka_unit_test(round_trip_of_phi_4_mini),   cmocka_unit_test(refuses_too_few_rows),
        cmocka_unit_test(refuses_a_nul_in_a_piece),   cmocka_unit_test(folder_of_gaps),
        cmocka_unit_test(refuses_too_many_ways),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}

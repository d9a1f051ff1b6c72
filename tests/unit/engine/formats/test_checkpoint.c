/* Checkpoints: one list of canonical tensors over both formats, fused or separate, whole or in
 * shards; and each way in which a file can fail to be a phi3 model is named. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cmocka.h>

#include <jansson.h>

#include "base/mem.h"
#include "engine/formats/checkpoint.h"
#include "engine/formats/gguf_config.h"
#include "engine/formats/tensor_rows.h"
#include "fixture.h"
#include "torch_fixture.h"

static fixture f;
static fixture_model model;

static int setup(void **state)
{
    (void)state;
    fixture_init(&f);
    return 0;
}

static int teardown(void **state)
{
    (void)state;
    fixture_done(&f);
    return 0;
}

static void write_dir(const char *config)
{
    (void)fixture_write_text(&f, "config.json", config);
    (void)fixture_write_model(&f, "model.safetensors", &model, 0, model.count);
}

static phi_checkpoint *open_ok(const char *path)
{
    phi_checkpoint *checkpoint = NULL;
    phi_err err = {0};
    if (phi_checkpoint_open(path, &checkpoint, &err) != PHI_OK) {
        fail_msg("%s", err.message);
    }
    return checkpoint;
}

static void expect(const char *path, phi_status right, const char *says)
{
    phi_checkpoint *checkpoint = NULL;
    phi_err err = {0};
    phi_status status = phi_checkpoint_open(path, &checkpoint, &err);
    if (status != right || !strstr(err.message, says)) {
        fail_msg("wanted %s \"%s\", got %s \"%s\"", phi_status_name(right), says,
                 phi_status_name(status), err.message);
    }
}

/* All rows of a tensor must be those of the model's tensors named, one after another. */
static void check_rows(const phi_checkpoint *checkpoint, const char *name, const char *first, ...)
{
    const phi_tensor *tensor = phi_checkpoint_find(checkpoint, name);
    assert_non_null(tensor);
    assert_int_equal(tensor->bytes % tensor->rows, 0);
    va_list names;
    va_start(names, first);
    uint32_t row = 0;
    for (const char *piece = first; piece; piece = va_arg(names, const char *)) {
        const fixture_tensor *source = fixture_find(&model, piece);
        uint64_t rows = source->n_dims == 2 ? source->dims[0] : 1;
        for (uint64_t i = 0; i < rows; i++, row++) {
            float out[64];
            uint8_t scratch[256];
            phi_err err;
            assert_int_equal(
                phi_checkpoint_read_rows_f32(checkpoint, tensor, row, 1, scratch, out, &err),
                PHI_OK);
            for (uint32_t j = 0; j < tensor->cols; j++) {
                assert_true(out[j] == fixture_value(source->seed, i * tensor->cols + j));
            }
        }
    }
    va_end(names);
    assert_int_equal(row, tensor->rows);
}

static void check_order(const phi_checkpoint *checkpoint)
{
    static const char *const names[] = {
        "token_embd.weight",        "blk.0.attn_norm.weight", "blk.0.attn_qkv.weight",
        "blk.0.attn_output.weight", "blk.0.ffn_norm.weight",  "blk.0.ffn_up.weight",
        "blk.0.ffn_down.weight",    "blk.1.attn_norm.weight", "blk.1.attn_qkv.weight",
        "blk.1.attn_output.weight", "blk.1.ffn_norm.weight",  "blk.1.ffn_up.weight",
        "blk.1.ffn_down.weight",    "output_norm.weight",     "output.weight",
    };
    assert_int_equal(phi_checkpoint_count(checkpoint), 15);
    uint64_t bytes = 0;
    for (size_t i = 0; i < 15; i++) {
        assert_string_equal(phi_checkpoint_at(checkpoint, i)->name, names[i]);
        bytes += phi_checkpoint_at(checkpoint, i)->bytes;
    }
    assert_int_equal(phi_checkpoint_bytes(checkpoint), bytes);
}

static void test_fused(void **state)
{
    (void)state;
    static const phi_dtype dtypes[] = {PHI_DTYPE_F32, PHI_DTYPE_F16, PHI_DTYPE_BF16};
    for (int i = 0; i < 3; i++) {
        fixture_tiny_hf(&model, dtypes[i], false);
        fixture_add(&model, "model.layers.0.self_attn.rotary_emb.inv_freq", PHI_DTYPE_F32, 0, 4);
        write_dir("{" TINY_CONFIG "}");
        phi_checkpoint *checkpoint = open_ok(f.dir);
        check_order(checkpoint);
        check_rows(checkpoint, "blk.1.attn_qkv.weight", "model.layers.1.self_attn.qkv_proj.weight",
                   NULL);
        check_rows(checkpoint, "blk.0.ffn_down.weight", "model.layers.0.mlp.down_proj.weight",
                   NULL);
        check_rows(checkpoint, "output_norm.weight", "model.norm.weight", NULL);
        assert_int_equal(phi_checkpoint_at(checkpoint, 0)->dtype, dtypes[i]);
        assert_string_equal(phi_checkpoint_format(checkpoint), "safetensors");
        assert_string_equal(phi_checkpoint_dir(checkpoint), f.dir);
        assert_null(phi_checkpoint_gguf(checkpoint));
        assert_null(phi_checkpoint_find(checkpoint, "blk.2.ffn_up.weight"));
        phi_checkpoint_close(checkpoint);
    }
}

static void test_separate(void **state)
{
    (void)state;
    fixture_tiny_hf(&model, PHI_DTYPE_F16, true);
    write_dir("{" TINY_CONFIG "}");
    phi_checkpoint *checkpoint = open_ok(f.dir);
    check_order(checkpoint);
    check_rows(checkpoint, "blk.0.attn_qkv.weight", "model.layers.0.self_attn.q_proj.weight",
               "model.layers.0.self_attn.k_proj.weight", "model.layers.0.self_attn.v_proj.weight",
               NULL);
    check_rows(checkpoint, "blk.1.ffn_up.weight", "model.layers.1.mlp.gate_proj.weight",
               "model.layers.1.mlp.up_proj.weight", NULL);
    /* A read across all three pieces gives what row by row gives. */
    const phi_tensor *qkv = phi_checkpoint_find(checkpoint, "blk.0.attn_qkv.weight");
    assert_int_equal(qkv->n_pieces, 3);
    uint8_t all[64 * 64];
    uint8_t one[64];
    phi_err err;
    /* Advice: what was let go is still there to be read. */
    phi_checkpoint_forget_rows(qkv, 50);
    assert_int_equal(phi_checkpoint_read_rows(checkpoint, qkv, 30, 20, all, &err), PHI_OK);
    for (uint32_t i = 0; i < 20; i++) {
        assert_int_equal(phi_checkpoint_read_rows(checkpoint, qkv, 30 + i, 1, one, &err), PHI_OK);
        assert_memory_equal(all + i * 64, one, 64);
    }
    assert_int_equal(phi_checkpoint_read_rows(checkpoint, qkv, 64, 0, all, &err), PHI_OK);
    phi_checkpoint_close(checkpoint);
}

/* Pieces of one part may be of different types: each row is read as what it is. */
static void test_mixed(void **state)
{
    (void)state;
    fixture_tiny_hf(&model, PHI_DTYPE_F16, true);
    fixture_find(&model, "model.layers.0.self_attn.k_proj.weight")->dtype = PHI_DTYPE_F32;
    fixture_find(&model, "model.layers.0.self_attn.v_proj.weight")->dtype = PHI_DTYPE_BF16;
    write_dir("{" TINY_CONFIG "}");
    phi_checkpoint *checkpoint = open_ok(f.dir);
    check_order(checkpoint);
    check_rows(checkpoint, "blk.0.attn_qkv.weight", "model.layers.0.self_attn.q_proj.weight",
               "model.layers.0.self_attn.k_proj.weight", "model.layers.0.self_attn.v_proj.weight",
               NULL);
    const phi_tensor *qkv = phi_checkpoint_find(checkpoint, "blk.0.attn_qkv.weight");
    assert_int_equal(qkv->bytes, 32 * 64 + 16 * 128 + 16 * 64);
    assert_int_equal(phi_tensor_form(qkv).kind, PHI_WEIGHT_FP32);
    /* A read across all three gives what row by row gives. */
    uint8_t stored[20 * 128];
    float all[20 * 32];
    float one[32];
    assert_int_equal(phi_checkpoint_read_rows_f32(checkpoint, qkv, 30, 20, stored, all, NULL),
                     PHI_OK);
    for (uint32_t i = 0; i < 20; i++) {
        assert_int_equal(
            phi_checkpoint_read_rows_f32(checkpoint, qkv, 30 + i, 1, stored, one, NULL), PHI_OK);
        assert_memory_equal(all + i * 32, one, sizeof one);
    }
    phi_checkpoint_close(checkpoint);
}

static void test_tied(void **state)
{
    (void)state;
    fixture_tiny_hf(&model, PHI_DTYPE_F16, false);
    write_dir("{" TINY_CONFIG ",\"tie_word_embeddings\":true}");
    phi_checkpoint *checkpoint = open_ok(f.dir);
    assert_null(phi_checkpoint_find(checkpoint, "output.weight"));
    assert_int_equal(phi_checkpoint_count(checkpoint), 14);
    phi_checkpoint_close(checkpoint);
    fixture_drop(&model, "lm_head.weight");
    write_dir("{" TINY_CONFIG ",\"tie_word_embeddings\":true}");
    phi_checkpoint_close(open_ok(f.dir));
    write_dir("{" TINY_CONFIG "}");
    expect(f.dir, PHI_E_FORMAT, "\"lm_head.weight\" is missing");
}

static void write_index(const char *first_file, const char *moved)
{
    phi_buf text;
    phi_buf_init(&text, 1U << 16);
    (void)phi_buf_append_str(&text, "{\"metadata\":{\"total_size\":1},\"weight_map\":{");
    for (size_t i = 0; i < model.count; i++) {
        const char *name = model.tensors[i].name;
        bool second = i >= model.count / 2 || strcmp(name, moved) == 0;
        (void)phi_buf_printf(&text, "%s\"%s\":\"%s\"", i ? "," : "", name,
                             second ? "model-00002-of-00002.safetensors" : first_file);
    }
    (void)phi_buf_append_str(&text, "}}");
    (void)fixture_write_text(&f, "model.safetensors.index.json", phi_buf_text(&text));
    phi_buf_done(&text);
}

#define FIRST "model-00001-of-00002.safetensors"
#define SECOND "model-00002-of-00002.safetensors"

static void test_shards(void **state)
{
    (void)state;
    fixture_tiny_hf(&model, PHI_DTYPE_F16, true);
    (void)fixture_write_text(&f, "config.json", "{" TINY_CONFIG "}");
    fixture_remove(&f, "model.safetensors");
    expect(f.dir, PHI_E_NOT_FOUND, "no weights: model.safetensors or pytorch_model.bin");
    (void)fixture_write_text(&f, "pytorch_model.bin", "");
    expect(f.dir, PHI_E_FORMAT, "pytorch_model.bin is not a file that torch.save wrote");
    write_index(FIRST, "");
    expect(f.dir, PHI_E_NOT_FOUND, FIRST);
    (void)fixture_write_model(&f, FIRST, &model, 0, model.count / 2);
    (void)fixture_write_model(&f, SECOND, &model, model.count / 2, model.count);
    phi_checkpoint *checkpoint = open_ok(f.dir);
    check_order(checkpoint);
    check_rows(checkpoint, "blk.1.attn_qkv.weight", "model.layers.1.self_attn.q_proj.weight",
               "model.layers.1.self_attn.k_proj.weight", "model.layers.1.self_attn.v_proj.weight",
               NULL);
    phi_checkpoint_close(checkpoint);
    static const char *const outside[] = {
        "../x.safetensors", "/etc/passwd", "a/b.safetensors",   "..", "",
        ".hidden",          "a\\\\b",      "model..safetensors"};
    for (size_t i = 0; i < sizeof outside / sizeof *outside; i++) {
        write_index(outside[i], "");
        expect(f.dir, PHI_E_FORMAT, "the name of a file in the same directory is right");
    }
    write_index(FIRST, "model.embed_tokens.weight");
    expect(f.dir, PHI_E_FORMAT, "\"model.embed_tokens.weight\" is said to be in");
    write_index(FIRST, "");
    (void)fixture_write_model(&f, SECOND, &model, model.count / 2 - 1, model.count);
    expect(f.dir, PHI_E_FORMAT, "is in more than one file");
    (void)fixture_write_text(&f, "model.safetensors.index.json", "{\"weight_map\":[]}");
    expect(f.dir, PHI_E_FORMAT, "\"weight_map\"");
    (void)fixture_write_text(&f, "model.safetensors.index.json", "{\"weight_map\":{\"a\":1}}");
    expect(f.dir, PHI_E_FORMAT, "not a string");
    (void)fixture_write_text(&f, "model.safetensors.index.json", "{\"weight_map\":");
    expect(f.dir, PHI_E_FORMAT, "not valid JSON");
    fixture_remove(&f, "model.safetensors.index.json");
    fixture_remove(&f, "pytorch_model.bin");
}

static void expect_pytorch(phi_dtype dtype)
{
    phi_checkpoint *checkpoint = open_ok(f.dir);
    check_order(checkpoint);
    check_rows(checkpoint, "blk.0.attn_qkv.weight", "model.layers.0.self_attn.q_proj.weight",
               "model.layers.0.self_attn.k_proj.weight", "model.layers.0.self_attn.v_proj.weight",
               NULL);
    check_rows(checkpoint, "output.weight", "lm_head.weight", NULL);
    assert_int_equal(phi_checkpoint_at(checkpoint, 0)->dtype, dtype);
    assert_string_equal(phi_checkpoint_format(checkpoint), "pytorch");
    phi_checkpoint_close(checkpoint);
}

static void test_pytorch(void **state)
{
    (void)state;
    static const phi_dtype dtypes[] = {PHI_DTYPE_F32, PHI_DTYPE_F16, PHI_DTYPE_BF16};
    (void)fixture_write_text(&f, "config.json", "{" TINY_CONFIG "}");
    fixture_remove(&f, "model.safetensors");
    for (int i = 0; i < 6; i++) {
        fixture_tiny_hf(&model, dtypes[i / 2], true);
        (void)fixture_write_torch(&f, "pytorch_model.bin", &model, 0, model.count, i & 1);
        expect_pytorch(dtypes[i / 2]);
    }
    fixture_remove(&f, "pytorch_model.bin");
    phi_buf text;
    phi_buf_init(&text, 1U << 16);
    (void)phi_buf_append_str(&text, "{\"weight_map\":{");
    for (size_t i = 0; i < model.count; i++) {
        (void)phi_buf_printf(&text, "%s\"%s\":\"pytorch_model-%d.bin\"", i ? "," : "",
                             model.tensors[i].name, i < 5 ? 1 : 2);
    }
    (void)phi_buf_append_str(&text, "}}");
    (void)fixture_write_text(&f, "pytorch_model.bin.index.json", phi_buf_text(&text));
    phi_buf_done(&text);
    expect(f.dir, PHI_E_NOT_FOUND, "pytorch_model-1.bin");
    (void)fixture_write_torch(&f, "pytorch_model-1.bin", &model, 0, 5, true);
    (void)fixture_write_torch(&f, "pytorch_model-2.bin", &model, 5, model.count, false);
    expect_pytorch(PHI_DTYPE_BF16);
    (void)fixture_write_torch(&f, "pytorch_model-2.bin", &model, 4, model.count, false);
    expect(f.dir, PHI_E_FORMAT, "in more than one file, in pytorch_model-2.bin too");
    (void)fixture_write_torch(&f, "pytorch_model-2.bin", &model, 6, model.count, false);
    expect(f.dir, PHI_E_FORMAT, "pytorch_model.bin.index.json: tensor");
    /* Safetensors beside them win, right or wrong. */
    (void)fixture_write_text(&f, "model.safetensors", "");
    expect(f.dir, PHI_E_FORMAT, "model.safetensors");
    fixture_remove(&f, "model.safetensors");
    fixture_remove(&f, "pytorch_model.bin.index.json");
    fixture_remove(&f, "pytorch_model-1.bin");
    expect(fixture_path(&f, "pytorch_model-2.bin"), PHI_E_FORMAT, "name the folder");
    fixture_remove(&f, "pytorch_model-2.bin");
}

static void test_other_frameworks(void **state)
{
    (void)state;
    static const char *const names[] = {"saved_model.pb", "tf_model.h5", "model.ckpt.index",
                                        "model.ckpt-5.ckpt.data-00000-of-00001", "model.keras"};
    fixture_remove(&f, "model.safetensors");
    for (int config = 0; config < 2; config++) {
        if (config) {
            (void)fixture_write_text(&f, "config.json", "{" TINY_CONFIG "}");
        } else {
            fixture_remove(&f, "config.json");
        }
        for (size_t i = 0; i < sizeof names / sizeof *names; i++) {
            (void)fixture_write_text(&f, names[i], "x");
            expect(f.dir, PHI_E_UNSUPPORTED, names[i]);
            expect(f.dir, PHI_E_UNSUPPORTED, "Phi was never published for TensorFlow");
            expect(fixture_path(&f, names[i]), PHI_E_UNSUPPORTED, "use the safetensors");
            fixture_remove(&f, names[i]);
        }
        (void)fixture_write_text(&f, "flax_model.msgpack", "x");
        expect(f.dir, PHI_E_UNSUPPORTED, "Flax");
        fixture_remove(&f, "flax_model.msgpack");
    }
    /* Beside files that can be read they do not matter. */
    fixture_tiny_hf(&model, PHI_DTYPE_F16, false);
    write_dir("{" TINY_CONFIG "}");
    (void)fixture_write_text(&f, "tf_model.h5", "x");
    phi_checkpoint_close(open_ok(f.dir));
    fixture_remove(&f, "tf_model.h5");
}

static void test_wrong_tensors(void **state)
{
    (void)state;
    const char *up = "model.layers.1.mlp.gate_up_proj.weight";
    fixture_tiny_hf(&model, PHI_DTYPE_F16, false);
    fixture_drop(&model, up);
    write_dir("{" TINY_CONFIG "}");
    expect(f.dir, PHI_E_FORMAT, "\"model.layers.1.mlp.gate_up_proj.weight\" is missing");
    fixture_tiny_hf(&model, PHI_DTYPE_F16, false);
    fixture_find(&model, up)->dims[0] = 64;
    write_dir("{" TINY_CONFIG "}");
    expect(f.dir, PHI_E_FORMAT, "gate_up_proj.weight\" has shape [64, 32]; [128, 32] is right");
    fixture_tiny_hf(&model, PHI_DTYPE_F16, false);
    fixture_find(&model, "model.norm.weight")->dims[0] = 31;
    write_dir("{" TINY_CONFIG "}");
    expect(f.dir, PHI_E_FORMAT, "\"model.norm.weight\" has shape [31]; [32] is right");
    fixture_tiny_hf(&model, PHI_DTYPE_F16, true);
    fixture_drop(&model, "model.layers.0.self_attn.v_proj.weight");
    write_dir("{" TINY_CONFIG "}");
    expect(f.dir, PHI_E_FORMAT, "\"model.layers.0.self_attn.v_proj.weight\" is missing");
    fixture_tiny_hf(&model, PHI_DTYPE_F16, false);
    fixture_add(&model, "model.layers.1.self_attn.o_proj.bias", PHI_DTYPE_F16, 0, 32);
    write_dir("{" TINY_CONFIG "}");
    expect(f.dir, PHI_E_UNSUPPORTED, "\"model.layers.1.self_attn.o_proj.bias\" is not supported");
}

static void test_wrong_paths(void **state)
{
    (void)state;
    fixture_remove(&f, "config.json");
    expect(f.dir, PHI_E_NOT_FOUND, "config.json");
    expect(fixture_path(&f, "nothing-here"), PHI_E_NOT_FOUND, "nothing-here");
    expect(fixture_write_text(&f, "x.gguf", "GG"), PHI_E_FORMAT, "neither a GGUF file");
    expect(fixture_write_text(&f, "x.gguf", "PK\x03\x04zip"), PHI_E_FORMAT, "neither a GGUF file");
    expect(fixture_write_text(&f, "x.gguf", "GGUF"), PHI_E_FORMAT, "ends early");
    expect("/dev/null", PHI_E_INVALID, "not a regular file");
    fixture_tiny_hf(&model, PHI_DTYPE_F16, false);
    write_dir("{" TINY_CONFIG "}");
    char *path = phi_strdup(fixture_path(&f, "model.safetensors"));
    assert_int_equal(truncate(path, 4000), 0);
    expect(f.dir, PHI_E_FORMAT, "model.safetensors");
    phi_free(path);
}

/* A file that shrinks after it was opened is an error of the read, by name. */
static void test_cut_after_open(void **state)
{
    (void)state;
    fixture_tiny_hf(&model, PHI_DTYPE_F16, false);
    write_dir("{" TINY_CONFIG "}");
    phi_checkpoint *checkpoint = open_ok(f.dir);
    assert_int_equal(truncate(fixture_path(&f, "model.safetensors"), 100), 0);
    uint8_t row[128];
    phi_err err;
    assert_int_equal(
        phi_checkpoint_read_rows(checkpoint, phi_checkpoint_at(checkpoint, 0), 0, 1, row, &err),
        PHI_E_FORMAT);
    assert_non_null(strstr(err.message, "token_embd.weight"));
    phi_checkpoint_close(checkpoint);
}

/* Writes all tensors of a checkpoint into a GGUF, norms in F32 as llama.cpp wants them. */
static void write_gguf(const phi_checkpoint *source, const phi_description *d, const char *path)
{
    phi_gguf_writer *writer;
    phi_err err = {0};
    assert_int_equal(phi_gguf_writer_create(path, &writer, &err), PHI_OK);
    phi_checkpoint_put_description(writer, d);
    phi_gguf_declare_rope_factors(writer, d);
    for (size_t i = 0; i < phi_checkpoint_count(source); i++) {
        const phi_tensor *tensor = phi_checkpoint_at(source, i);
        const uint64_t dims[2] = {tensor->n_dims == 2 ? tensor->rows : tensor->cols, tensor->cols};
        phi_gguf_declare_tensor(writer, tensor->name,
                                tensor->n_dims == 1 ? PHI_DTYPE_F32 : tensor->dtype, tensor->n_dims,
                                dims);
    }
    if (phi_gguf_write_header(writer, &err) != PHI_OK) {
        fail_msg("%s", err.message);
    }
    assert_int_equal(phi_gguf_write_rope_factors(writer, d, &err), PHI_OK);
    for (size_t i = 0; i < phi_checkpoint_count(source); i++) {
        const phi_tensor *tensor = phi_checkpoint_at(source, i);
        for (uint32_t row = 0; row < tensor->rows; row++) {
            float wide[64];
            uint8_t raw[256];
            assert_int_equal(phi_checkpoint_read_rows_f32(source, tensor, row, 1, raw, wide, &err),
                             PHI_OK);
            bool vector = tensor->n_dims == 1;
            size_t bytes = vector ? tensor->cols * sizeof(float) : tensor->bytes / tensor->rows;
            assert_int_equal(
                phi_gguf_write_data(writer, vector ? (const void *)wide : raw, bytes, &err),
                PHI_OK);
        }
    }
    assert_int_equal(phi_gguf_writer_commit(writer, &err), PHI_OK);
}

static const char long_rope_config[] =
    "{" TINY_CONFIG ",\"original_max_position_embeddings\":64,\"rope_scaling\":{\"type\":\"su\","
    "\"short_factor\":[1.0,1.5,2,2.5],\"long_factor\":[4,5,6,7]},\"sliding_window\":17,"
    "\"_name_or_path\":\"somebody/tiny-phi3\"}";

static void test_gguf_round_trip(void **state)
{
    (void)state;
    for (int variant = 0; variant < 4; variant++) {
        fixture_tiny_hf(&model, PHI_DTYPE_F16, variant & 1);
        write_dir(variant & 2 ? long_rope_config : "{" TINY_CONFIG "}");
        (void)fixture_write_text(&f, "generation_config.json", "{\"eos_token_id\":[5,2,7]}");
        phi_checkpoint *source = open_ok(f.dir);
        char *path = phi_strdup(fixture_path(&f, "tiny.gguf"));
        const phi_description *d = phi_checkpoint_description(source);
        write_gguf(source, d, path);
        phi_checkpoint *copy = open_ok(path);
        phi_description back = *phi_checkpoint_description(copy);
        assert_int_equal(back.n_eos, 3);
        /* The tokenizer's keys carry these, and this file has no tokenizer. */
        assert_int_equal(back.bos_id, -1);
        back.bos_id = d->bos_id;
        assert_memory_equal(&back, d, sizeof back);
        check_order(copy);
        for (size_t i = 0; i < 15; i++) {
            const phi_tensor *a = phi_checkpoint_at(source, i);
            const phi_tensor *b = phi_checkpoint_at(copy, i);
            for (uint32_t row = 0; row < a->rows; row++) {
                float left[64];
                float right[64];
                uint8_t raw[256];
                phi_err err;
                assert_int_equal(phi_checkpoint_read_rows_f32(source, a, row, 1, raw, left, &err),
                                 PHI_OK);
                assert_int_equal(phi_checkpoint_read_rows_f32(copy, b, row, 1, raw, right, &err),
                                 PHI_OK);
                assert_memory_equal(left, right, a->cols * sizeof(float));
            }
        }
        assert_string_equal(phi_checkpoint_format(copy), "gguf");
        assert_null(phi_checkpoint_dir(copy));
        assert_non_null(phi_checkpoint_gguf(copy));
        phi_checkpoint_close(copy);
        phi_checkpoint_close(source);
        phi_free(path);
        fixture_remove(&f, "generation_config.json");
    }
}

/* A GGUF of F32 tensors; every number of one is its place in the list. Rows 0: a vector. */
typedef struct shape {
    const char *name;
    uint64_t rows;
    uint64_t cols;
} shape;

/* Into a file that the caller frees the path of. Of experts' matrices n_expert are stacked. */
static char *write_gguf_of(const phi_description *d, const shape *parts, size_t n,
                           uint32_t n_expert)
{
    phi_gguf_writer *writer;
    phi_err err;
    char *path = phi_strdup(fixture_path(&f, "split.gguf"));
    assert_int_equal(phi_gguf_writer_create(path, &writer, &err), PHI_OK);
    phi_checkpoint_put_description(writer, d);
    for (size_t i = 0; i < n; i++) {
        const uint64_t dims[2] = {parts[i].rows ? parts[i].rows : parts[i].cols, parts[i].cols};
        if (strstr(parts[i].name, "_exps.")) {
            const uint64_t stacked[3] = {n_expert, parts[i].rows / n_expert, parts[i].cols};
            phi_gguf_declare_tensor(writer, parts[i].name, PHI_DTYPE_F32, 3, stacked);
            continue;
        }
        phi_gguf_declare_tensor(writer, parts[i].name, PHI_DTYPE_F32, parts[i].rows ? 2 : 1, dims);
    }
    assert_int_equal(phi_gguf_write_header(writer, &err), PHI_OK);
    for (size_t i = 0; i < n; i++) {
        for (uint64_t j = 0; j < (parts[i].rows ? parts[i].rows : 1) * parts[i].cols; j++) {
            float value = (float)i;
            assert_int_equal(phi_gguf_write_data(writer, &value, sizeof value, &err), PHI_OK);
        }
    }
    assert_int_equal(phi_gguf_writer_commit(writer, &err), PHI_OK);
    return path;
}

static phi_checkpoint *open_gguf_of(const phi_description *d, const shape *parts, size_t n,
                                    uint32_t n_expert)
{
    char *path = write_gguf_of(d, parts, n, n_expert);
    phi_checkpoint *checkpoint = open_ok(path);
    phi_free(path);
    return checkpoint;
}

/* A GGUF with separate attn_q, attn_k, attn_v and ffn_gate, ffn_up. */
static void test_gguf_separate(void **state)
{
    (void)state;
    static const shape parts[] = {
        {"token_embd.weight", 96, 32},        {"output_norm.weight", 0, 32},
        {"blk.0.attn_norm.weight", 0, 32},    {"blk.0.attn_q.weight", 32, 32},
        {"blk.0.attn_k.weight", 16, 32},      {"blk.0.attn_v.weight", 16, 32},
        {"blk.0.attn_output.weight", 32, 32}, {"blk.0.ffn_norm.weight", 0, 32},
        {"blk.0.ffn_gate.weight", 64, 32},    {"blk.0.ffn_up.weight", 64, 32},
        {"blk.0.ffn_down.weight", 32, 64},
    };
    phi_description d;
    phi_err err;
    fixture_tiny_description(&d);
    d.n_layer = 1;
    phi_checkpoint *checkpoint = open_gguf_of(&d, parts, sizeof parts / sizeof *parts, 0);
    assert_true(phi_checkpoint_description(checkpoint)->tied_head);
    static const struct {
        const char *name;
        uint32_t row;
        float value;
    } probes[] = {
        {"blk.0.attn_qkv.weight", 31, 3}, {"blk.0.attn_qkv.weight", 32, 4},
        {"blk.0.attn_qkv.weight", 63, 5}, {"blk.0.ffn_up.weight", 63, 8},
        {"blk.0.ffn_up.weight", 64, 9},
    };
    for (size_t i = 0; i < sizeof probes / sizeof *probes; i++) {
        float row[32];
        const phi_tensor *tensor = phi_checkpoint_find(checkpoint, probes[i].name);
        assert_int_equal(phi_checkpoint_read_rows(checkpoint, tensor, probes[i].row, 1, row, &err),
                         PHI_OK);
        assert_true(row[0] == probes[i].value && row[31] == probes[i].value);
    }
    phi_checkpoint_close(checkpoint);
}

/* phi2, whose biases are apart too: they make one vector. Its description comes back whole. */
static void test_gguf_phi2(void **state)
{
    (void)state;
    static const shape parts[] = {
        {"token_embd.weight", 96, 32},
        {"output_norm.weight", 0, 32},
        {"output_norm.bias", 0, 32},
        {"output.weight", 96, 32},
        {"output.bias", 0, 96},
        {"blk.0.attn_norm.weight", 0, 32},
        {"blk.0.attn_norm.bias", 0, 32},
        {"blk.0.attn_q.weight", 32, 32},
        {"blk.0.attn_k.weight", 16, 32},
        {"blk.0.attn_v.weight", 16, 32},
        {"blk.0.attn_q.bias", 0, 32},
        {"blk.0.attn_k.bias", 0, 16},
        {"blk.0.attn_v.bias", 0, 16},
        {"blk.0.attn_output.weight", 32, 32},
        {"blk.0.attn_output.bias", 0, 32},
        {"blk.0.ffn_up.weight", 64, 32},
        {"blk.0.ffn_up.bias", 0, 64},
        {"blk.0.ffn_down.weight", 32, 64},
        {"blk.0.ffn_down.bias", 0, 32},
    };
    phi_description d;
    phi_description tiny;
    phi_err err;
    fixture_tiny_description(&tiny);
    phi_description_init(&d, PHI_ARCH_PHI2);
    d.n_layer = 1;
    d.n_embd = tiny.n_embd;
    d.n_head = tiny.n_head;
    d.n_head_kv = tiny.n_head_kv;
    d.head_dim = tiny.head_dim;
    d.n_ffn = tiny.n_ffn;
    d.n_vocab = tiny.n_vocab;
    d.n_rot = 4;
    d.n_ctx_original = d.n_ctx;
    d.norm_eps = 1e-6F;
    phi_checkpoint *checkpoint = open_gguf_of(&d, parts, sizeof parts / sizeof *parts, 0);
    assert_memory_equal(phi_checkpoint_description(checkpoint), &d, sizeof d);
    const phi_tensor *bias = phi_checkpoint_find(checkpoint, "blk.0.attn_qkv.bias");
    float scratch[64];
    float row[64];
    assert_non_null(bias);
    assert_int_equal(bias->n_dims, 1);
    assert_int_equal(bias->rows, 1);
    assert_int_equal(bias->cols, 64);
    assert_int_equal(bias->bytes, 64 * sizeof(float));
    assert_int_equal(phi_checkpoint_read_rows_f32(checkpoint, bias, 0, 1, scratch, row, &err),
                     PHI_OK);
    assert_true(row[0] == 10.0F && row[31] == 10.0F && row[32] == 11.0F && row[63] == 12.0F);
    const phi_tensor *up = phi_checkpoint_find(checkpoint, "blk.0.ffn_up.weight");
    assert_int_equal(up->rows, 64);
    assert_int_equal(up->n_pieces, 1);
    phi_checkpoint_close(checkpoint);
}

/* phimoe, whose experts GGUF stacks in a third dimension: one matrix, the experts one below the
 * other. What only phimoe has comes back. */
static void test_gguf_phimoe(void **state)
{
    (void)state;
    static const shape parts[] = {
        {"token_embd.weight", 96, 32},        {"output_norm.weight", 0, 32},
        {"output_norm.bias", 0, 32},          {"output.weight", 96, 32},
        {"blk.0.attn_norm.weight", 0, 32},    {"blk.0.attn_norm.bias", 0, 32},
        {"blk.0.attn_qkv.weight", 64, 32},    {"blk.0.attn_output.weight", 32, 32},
        {"blk.0.ffn_norm.weight", 0, 32},     {"blk.0.ffn_norm.bias", 0, 32},
        {"blk.0.ffn_gate_inp.weight", 3, 32}, {"blk.0.ffn_gate_exps.weight", 48, 32},
        {"blk.0.ffn_up_exps.weight", 48, 32}, {"blk.0.ffn_down_exps.weight", 96, 16},
    };
    phi_description d;
    phi_description tiny;
    phi_err err;
    fixture_tiny_description(&tiny);
    phi_description_init(&d, PHI_ARCH_PHIMOE);
    d.n_layer = 1;
    d.n_embd = tiny.n_embd;
    d.n_head = tiny.n_head;
    d.n_head_kv = tiny.n_head_kv;
    d.head_dim = tiny.head_dim;
    d.n_ffn = 16;
    d.n_vocab = tiny.n_vocab;
    d.n_rot = d.head_dim;
    d.n_ctx_original = d.n_ctx;
    d.n_expert = 3;
    d.router_jitter = 0.25F;
    d.rope_attn_factor_long = 1.5F;
    phi_checkpoint *checkpoint = open_gguf_of(&d, parts, sizeof parts / sizeof *parts, d.n_expert);
    assert_memory_equal(phi_checkpoint_description(checkpoint), &d, sizeof d);
    const phi_tensor *down = phi_checkpoint_find(checkpoint, "blk.0.ffn_down_exps.weight");
    float row[16];
    assert_non_null(down);
    assert_int_equal(down->n_dims, 3);
    assert_int_equal(down->n_stacked, 3);
    assert_int_equal(down->rows, 96);
    assert_int_equal(down->cols, 16);
    assert_int_equal(phi_checkpoint_read_rows(checkpoint, down, 95, 1, row, &err), PHI_OK);
    assert_true(row[0] == 13.0F && row[15] == 13.0F);
    phi_checkpoint_close(checkpoint);
    /* As many numbers, cut up otherwise. */
    char *path = write_gguf_of(&d, parts, sizeof parts / sizeof *parts, 6);
    assert_int_equal(phi_checkpoint_open(path, &checkpoint, &err), PHI_E_FORMAT);
    assert_non_null(strstr(err.message, "tensor \"blk.0.ffn_gate_exps.weight\" has shape "
                                        "[6, 8, 32]; [3, 16, 32] is right"));
    phi_free(path);
    /* One by one, as files had them before they were stacked. */
    enum { STACKED = sizeof parts / sizeof *parts - 1 };
    shape apart[STACKED + 3];
    memcpy(apart, parts, STACKED * sizeof *parts);
    apart[STACKED] = (shape){"blk.0.ffn_down.0.weight", 32, 16};
    apart[STACKED + 1] = (shape){"blk.0.ffn_down.1.weight", 32, 16};
    apart[STACKED + 2] = (shape){"blk.0.ffn_down.2.weight", 32, 16};
    checkpoint = open_gguf_of(&d, apart, STACKED + 3, d.n_expert);
    down = phi_checkpoint_find(checkpoint, "blk.0.ffn_down_exps.weight");
    assert_non_null(down);
    assert_int_equal(down->rows, 96);
    assert_int_equal(phi_checkpoint_read_rows(checkpoint, down, 63, 1, row, &err), PHI_OK);
    assert_true(row[0] == 14.0F && row[15] == 14.0F);
    phi_checkpoint_close(checkpoint);
    path = write_gguf_of(&d, apart, STACKED + 2, d.n_expert);
    assert_int_equal(phi_checkpoint_open(path, &checkpoint, &err), PHI_E_FORMAT);
    assert_non_null(strstr(err.message, "tensor \"blk.0.ffn_down.2.weight\" is missing"));
    phi_free(path);
}

static void test_out_of_memory(void **state)
{
    (void)state;
    fixture_tiny_hf(&model, PHI_DTYPE_F16, true);
    write_dir(long_rope_config);
    (void)fixture_write_text(&f, "generation_config.json", "{\"eos_token_id\":[5,2,7]}");
    phi_checkpoint *source = open_ok(f.dir);
    char *gguf_path = phi_strdup(fixture_path(&f, "tiny.gguf"));
    write_gguf(source, phi_checkpoint_description(source), gguf_path);
    phi_checkpoint_close(source);
    json_set_alloc_funcs(phi_try_alloc, phi_free);
    const char *const paths[] = {f.dir, gguf_path};
    for (int i = 0; i < 2; i++) {
        uint64_t before = phi_mem_allocations();
        phi_checkpoint_close(open_ok(paths[i]));
        int total = (int)(phi_mem_allocations() - before);
        int failures = 0;
        for (int n = 0; n < total; n++) {
            phi_checkpoint *checkpoint;
            phi_err err;
            phi_mem_fail_after(n);
            phi_status status = phi_checkpoint_open(paths[i], &checkpoint, &err);
            phi_mem_fail_after(-1);
            if (status == PHI_OK) {
                check_order(checkpoint);
                phi_checkpoint_close(checkpoint);
            }
            failures += status != PHI_OK;
        }
        assert_true(failures >= 8);
    }
    phi_free(gguf_path);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_fused),
        cmocka_unit_test(test_separate),
        cmocka_unit_test(test_mixed),
        cmocka_unit_test(test_tied),
        cmocka_unit_test(test_shards),
        cmocka_unit_test(test_pytorch),
        cmocka_unit_test(test_other_frameworks),
        cmocka_unit_test(test_wrong_tensors),
        cmocka_unit_test(test_wrong_paths),
        cmocka_unit_test(test_cut_after_open),
        cmocka_unit_test(test_gguf_round_trip),
        cmocka_unit_test(test_gguf_separate),
        cmocka_unit_test(test_gguf_phi2),
        cmocka_unit_test(test_gguf_phimoe),
        cmocka_unit_test(test_out_of_memory),
    };
    return cmocka_run_group_tests(tests, setup, teardown);
}

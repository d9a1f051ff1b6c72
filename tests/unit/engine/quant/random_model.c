#include "random_model.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <string.h>

#include <cmocka.h>

#include "base/buf.h"
#include "base/mem.h"
#include "base/str.h"
#include "engine/tensor/half.h"

const random_model RANDOM_MODEL_SMALL = {
    .n_layer = 2,
    .n_embd = 128,
    .n_head = 4,
    .n_head_kv = 2,
    .n_ffn = 192,
    .n_vocab = 288,
    .dtype = PHI_DTYPE_F32,
};

float random_unit(uint64_t *state)
{
    *state ^= *state >> 12;
    *state ^= *state << 25;
    *state ^= *state >> 27;
    return (float)((*state * 2685821657736338717ULL) >> 40) * 0x1p-24F;
}

float random_normal(uint64_t *state)
{
    float sum = -6.0F;
    for (int i = 0; i < 12; i++) {
        sum += random_unit(state);
    }
    return sum;
}

/* A tensor to be: norms are ones, near enough; matrices normal with deviation 1 / sqrt(cols). */
typedef struct planned {
    char name[96];
    uint32_t rows; /* 0: a vector */
    uint32_t cols;
} planned;

static size_t plan(const random_model *m, planned *list)
{
    size_t n = 0;
    uint32_t head_dim = m->n_embd / m->n_head;
    list[n++] = (planned){"model.embed_tokens.weight", m->n_vocab, m->n_embd};
    for (uint32_t layer = 0; layer < m->n_layer; layer++) {
        const struct {
            const char *name;
            uint32_t rows;
            uint32_t cols;
        } parts[] = {
            {"input_layernorm", 0, m->n_embd},
            {"self_attn.qkv_proj", (m->n_head + 2 * m->n_head_kv) * head_dim, m->n_embd},
            {"self_attn.o_proj", m->n_embd, m->n_embd},
            {"post_attention_layernorm", 0, m->n_embd},
            {"mlp.gate_up_proj", 2 * m->n_ffn, m->n_embd},
            {"mlp.down_proj", m->n_embd, m->n_ffn},
        };
        for (size_t i = 0; i < sizeof parts / sizeof parts[0]; i++, n++) {
            list[n] = (planned){.rows = parts[i].rows, .cols = parts[i].cols};
            (void)snprintf(list[n].name, sizeof list[n].name, "model.layers.%u.%s.weight", layer,
                           parts[i].name);
        }
    }
    list[n++] = (planned){"model.norm.weight", 0, m->n_embd};
    if (!m->tied) {
        list[n++] = (planned){"lm_head.weight", m->n_vocab, m->n_embd};
    }
    return n;
}

static const char *dtype_name(phi_dtype dtype)
{
    return phi_dtype_get(dtype)->name;
}

static void write_row(FILE *file, phi_dtype dtype, const float *row, uint32_t cols)
{
    if (dtype == PHI_DTYPE_F32) {
        assert_int_equal(fwrite(row, sizeof *row, cols, file), cols);
        return;
    }
    uint16_t *narrow = phi_alloc(cols * sizeof *narrow);
    for (uint32_t i = 0; i < cols; i++) {
        narrow[i] = dtype == PHI_DTYPE_F16 ? phi_half_of_float(row[i]) : phi_bf16_of_float(row[i]);
    }
    assert_int_equal(fwrite(narrow, sizeof *narrow, cols, file), cols);
    phi_free(narrow);
}

static void write_tensor(FILE *file, const random_model *m, const planned *tensor, uint64_t *state)
{
    float *row = phi_alloc(tensor->cols * sizeof *row);
    float deviation = 1.0F;
    while (deviation * deviation * (float)tensor->cols > 1.0F) {
        deviation *= 0.5F;
    }
    /* Embeddings of unit size, so that the layers have something to work on. */
    bool embedding = strcmp(tensor->name, "model.embed_tokens.weight") == 0;
    deviation = embedding && !m->tied ? 1.0F : deviation;
    for (uint32_t r = 0; r < (tensor->rows ? tensor->rows : 1); r++) {
        for (uint32_t i = 0; i < tensor->cols; i++) {
            float z = random_normal(state);
            row[i] = tensor->rows ? deviation * z : 1.0F + 0.1F * z;
        }
        if (r == 0 && m->odd_tensor && strcmp(m->odd_tensor, tensor->name) == 0) {
            row[5] = m->odd_value;
        }
        write_row(file, m->dtype, row, tensor->cols);
    }
    phi_free(row);
}

static void write_weights(fixture *f, const random_model *m)
{
    planned *list = phi_alloc_zero(4 + 6 * (size_t)m->n_layer, sizeof *list);
    size_t count = plan(m, list);
    phi_buf header;
    phi_buf_init(&header, 1 << 20);
    uint64_t offset = 0;
    uint32_t element_bytes = phi_dtype_get(m->dtype)->block_bytes;
    for (size_t i = 0; i < count; i++) {
        uint64_t rows = list[i].rows ? list[i].rows : 1;
        uint64_t end = offset + rows * list[i].cols * element_bytes;
        (void)phi_buf_printf(&header, "%s\"%s\":{\"dtype\":\"%s\",\"shape\":[", i ? "," : "{",
                             list[i].name, dtype_name(m->dtype));
        if (list[i].rows) {
            (void)phi_buf_printf(&header, "%u,", list[i].rows);
        }
        (void)phi_buf_printf(&header, "%u],\"data_offsets\":[%llu,%llu]}", list[i].cols,
                             (unsigned long long)offset, (unsigned long long)end);
        offset = end;
    }
    (void)phi_buf_append_char(&header, '}');
    while (header.length_bytes % 8 != 0) {
        (void)phi_buf_append_char(&header, ' ');
    }
    assert_false(phi_buf_failed(&header));
    FILE *file = fopen(fixture_path(f, "model.safetensors"), "wb");
    assert_non_null(file);
    uint64_t header_bytes = header.length_bytes;
    assert_int_equal(fwrite(&header_bytes, sizeof header_bytes, 1, file), 1);
    assert_int_equal(fwrite(header.data, 1, header.length_bytes, file), header.length_bytes);
    uint64_t state = 88172645463325252ULL;
    for (size_t i = 0; i < count; i++) {
        write_tensor(file, m, &list[i], &state);
    }
    assert_int_equal(fclose(file), 0);
    phi_buf_done(&header);
    phi_free(list);
}

/* Byte-level BPE of the 256 bytes without a merge. Printable bytes stand for themselves, all
 * others for code points from 256 on, as in GPT-2's vocabulary. */
static void write_tokenizer(fixture *f)
{
    phi_buf json;
    phi_buf_init(&json, 1 << 20);
    (void)phi_buf_append_str(
        &json, "{\"version\":\"1.0\",\"truncation\":null,\"padding\":null,\"added_tokens\":["
               "{\"id\":256,\"content\":\"<|endoftext|>\",\"single_word\":false,\"lstrip\":false,"
               "\"rstrip\":false,\"normalized\":false,\"special\":true}],\"normalizer\":null,"
               "\"pre_tokenizer\":{\"type\":\"ByteLevel\",\"add_prefix_space\":false,"
               "\"trim_offsets\":true,\"use_regex\":true},\"post_processor\":null,"
               "\"decoder\":{\"type\":\"ByteLevel\",\"add_prefix_space\":false,"
               "\"trim_offsets\":true,\"use_regex\":true},\"model\":{\"type\":\"BPE\","
               "\"dropout\":null,\"unk_token\":null,\"continuing_subword_prefix\":null,"
               "\"end_of_word_suffix\":null,\"fuse_unk\":false,\"byte_fallback\":false,"
               "\"vocab\":{");
    uint32_t next = 256;
    for (uint32_t byte = 0; byte < 256; byte++) {
        bool printable = (byte >= 33 && byte <= 126) || (byte >= 161 && byte != 173);
        char utf8[4];
        int length = phi_utf8_encode(printable ? byte : next++, utf8);
        (void)phi_buf_printf(&json, "%s\"%s%.*s\":%u", byte ? "," : "",
                             byte == '"' || byte == '\\' ? "\\" : "", length, utf8, byte);
    }
    (void)phi_buf_append_str(&json, "},\"merges\":[]}}");
    assert_false(phi_buf_failed(&json));
    (void)fixture_write(f, "tokenizer.json", json.data, json.length_bytes);
    (void)fixture_write_text(f, "tokenizer_config.json",
                             "{\"tokenizer_class\":\"GPT2Tokenizer\",\"bos_token\":"
                             "\"<|endoftext|>\",\"eos_token\":\"<|endoftext|>\"}");
    phi_buf_done(&json);
}

static void append_factors(phi_buf *json, const char *name, uint32_t count, double base)
{
    (void)phi_buf_printf(json, ",\"%s\":[", name);
    for (uint32_t i = 0; i < count; i++) {
        (void)phi_buf_printf(json, "%s%g", i ? "," : "", base + 0.0625 * i);
    }
    (void)phi_buf_append_char(json, ']');
}

static void write_config(fixture *f, const random_model *m)
{
    phi_buf json;
    phi_buf_init(&json, 1 << 16);
    (void)phi_buf_printf(
        &json,
        "{\"architectures\":[\"Phi3ForCausalLM\"],\"model_type\":\"phi3\",\"hidden_size\":%u,"
        "\"num_hidden_layers\":%u,\"num_attention_heads\":%u,\"num_key_value_heads\":%u,"
        "\"intermediate_size\":%u,\"vocab_size\":%u,\"max_position_embeddings\":%u,"
        "\"original_max_position_embeddings\":256,\"rms_norm_eps\":1e-5,\"rope_theta\":10000.0,"
        "\"hidden_act\":\"silu\",\"bos_token_id\":256,\"eos_token_id\":256,"
        "\"tie_word_embeddings\":%s,\"rope_scaling\":",
        m->n_embd, m->n_layer, m->n_head, m->n_head_kv, m->n_ffn, m->n_vocab,
        m->long_rope ? 1024U : 256U, m->tied ? "true" : "false");
    if (m->long_rope) {
        uint32_t count = m->n_embd / m->n_head / 2;
        (void)phi_buf_append_str(&json, "{\"type\":\"longrope\"");
        append_factors(&json, "short_factor", count, 1.0);
        append_factors(&json, "long_factor", count, 2.0);
        (void)phi_buf_append_str(&json, "}}");
    } else {
        (void)phi_buf_append_str(&json, "null}");
    }
    assert_false(phi_buf_failed(&json));
    (void)fixture_write(f, "config.json", json.data, json.length_bytes);
    phi_buf_done(&json);
}

void random_model_write(fixture *f, const random_model *model)
{
    write_config(f, model);
    write_weights(f, model);
    if (!model->without_tokenizer) {
        write_tokenizer(f);
    }
}

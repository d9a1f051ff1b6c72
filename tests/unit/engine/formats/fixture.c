#include "fixture.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include <dirent.h>

#include <cmocka.h>

#include "base/mem.h"
#include "engine/tensor/half.h"

void fixture_init(fixture *f)
{
    const char *base = getenv("TMPDIR");
    int length = snprintf(f->dir, sizeof f->dir, "%s/phid-test-XXXXXX", base ? base : "/tmp");
    if (length < 0 || (size_t)length >= sizeof f->dir) {
        (void)snprintf(f->dir, sizeof f->dir, "/tmp/phid-test-XXXXXX");
    }
    assert_non_null(mkdtemp(f->dir));
}

const char *fixture_path(fixture *f, const char *name)
{
    (void)snprintf(f->path, sizeof f->path, "%s/%s", f->dir, name);
    return f->path;
}

void fixture_remove(fixture *f, const char *name)
{
    (void)unlink(fixture_path(f, name));
}

void fixture_done(fixture *f)
{
    DIR *dir = opendir(f->dir);
    assert_non_null(dir);
    for (struct dirent *entry = readdir(dir); entry; entry = readdir(dir)) {
        (void)unlinkat(dirfd(dir), entry->d_name, 0);
    }
    (void)closedir(dir);
    assert_int_equal(rmdir(f->dir), 0);
}

const char *fixture_write(fixture *f, const char *name, const void *data, size_t bytes)
{
    FILE *file = fopen(fixture_path(f, name), "wb");
    assert_non_null(file);
    assert_int_equal(fwrite(data, 1, bytes, file), bytes);
    assert_int_equal(fclose(file), 0);
    return f->path;
}

const char *fixture_write_text(fixture *f, const char *name, const char *text)
{
    return fixture_write(f, name, text, strlen(text));
}

void put_u32(phi_buf *buf, uint32_t value)
{
    assert_int_equal(phi_buf_append(buf, &value, sizeof value), PHI_OK);
}

void put_u64(phi_buf *buf, uint64_t value)
{
    assert_int_equal(phi_buf_append(buf, &value, sizeof value), PHI_OK);
}

void put_string(phi_buf *buf, const char *text)
{
    put_u64(buf, strlen(text));
    assert_int_equal(phi_buf_append(buf, text, strlen(text)), PHI_OK);
}

const char *fixture_safetensors(fixture *f, const char *name, const char *header, size_t data_bytes)
{
    phi_buf buf;
    phi_buf_init(&buf, 1U << 24);
    put_string(&buf, header);
    for (size_t i = 0; i < data_bytes; i++) {
        assert_int_equal(phi_buf_append_char(&buf, (char)i), PHI_OK);
    }
    const char *path = fixture_write(f, name, buf.data, buf.length_bytes);
    phi_buf_done(&buf);
    return path;
}

float fixture_value(uint32_t seed, uint64_t index)
{
    uint64_t mixed = (index + 1) * 2654435761U + seed * 40503U;
    return (float)((int)(mixed >> 8 & 127) - 64) / 32.0F;
}

fixture_tensor *fixture_find(fixture_model *model, const char *name)
{
    for (size_t i = 0; i < model->count; i++) {
        if (strcmp(model->tensors[i].name, name) == 0) {
            return &model->tensors[i];
        }
    }
    fail_msg("no tensor %s", name);
    return NULL;
}

void fixture_add(fixture_model *model, const char *name, phi_dtype dtype, uint64_t rows,
                 uint64_t cols)
{
    assert_true(model->count < FIXTURE_TENSORS_MAX);
    fixture_tensor *tensor = &model->tensors[model->count];
    *tensor = (fixture_tensor){.dtype = dtype, .seed = (uint32_t)model->count};
    (void)snprintf(tensor->name, sizeof tensor->name, "%s", name);
    tensor->n_dims = rows ? 2 : 1;
    tensor->dims[0] = rows ? rows : cols;
    tensor->dims[1] = rows ? cols : 0;
    model->count++;
}

void fixture_drop(fixture_model *model, const char *name)
{
    fixture_tensor *dropped = fixture_find(model, name);
    *dropped = model->tensors[--model->count];
}

static uint64_t elements_of(const fixture_tensor *tensor)
{
    return tensor->n_dims == 2 ? tensor->dims[0] * tensor->dims[1] : tensor->dims[0];
}

static void append_value(phi_buf *data, phi_dtype dtype, float value)
{
    uint16_t small = dtype == PHI_DTYPE_F16 ? phi_half_of_float(value) : phi_bf16_of_float(value);
    phi_status status = dtype == PHI_DTYPE_F32 ? phi_buf_append(data, &value, sizeof value)
                                               : phi_buf_append(data, &small, sizeof small);
    assert_int_equal(status, PHI_OK);
}

const char *fixture_write_model(fixture *f, const char *name, const fixture_model *model,
                                size_t from, size_t to)
{
    phi_buf header;
    phi_buf data;
    phi_buf file;
    phi_buf_init(&header, 1U << 20);
    phi_buf_init(&data, 1U << 24);
    phi_buf_init(&file, 1U << 25);
    (void)phi_buf_append_str(&header, "{\"__metadata__\":{\"format\":\"pt\"}");
    for (size_t i = from; i < to; i++) {
        const fixture_tensor *tensor = &model->tensors[i];
        size_t begin = data.length_bytes;
        for (uint64_t j = 0; j < elements_of(tensor); j++) {
            append_value(&data, tensor->dtype, fixture_value(tensor->seed, j));
        }
        (void)phi_buf_printf(&header, ",\"%s\":{\"dtype\":\"%s\",\"shape\":[%llu", tensor->name,
                             phi_dtype_get(tensor->dtype)->name,
                             (unsigned long long)tensor->dims[0]);
        if (tensor->n_dims == 2) {
            (void)phi_buf_printf(&header, ",%llu", (unsigned long long)tensor->dims[1]);
        }
        (void)phi_buf_printf(&header, "],\"data_offsets\":[%zu,%zu]}", begin, data.length_bytes);
    }
    (void)phi_buf_append_str(&header, "}");
    put_string(&file, phi_buf_text(&header));
    (void)phi_buf_append(&file, data.data, data.length_bytes);
    const char *path = fixture_write(f, name, file.data, file.length_bytes);
    phi_buf_done(&header);
    phi_buf_done(&data);
    phi_buf_done(&file);
    return path;
}

static void add_layer(fixture_model *model, phi_dtype dtype, int layer, bool split)
{
    static const struct {
        const char *name;
        int when; /* 0: always; 1: fused; 2: split */
        uint64_t rows;
        uint64_t cols;
    } parts[] = {
        {"input_layernorm.weight", 0, 0, 32},          {"self_attn.qkv_proj.weight", 1, 64, 32},
        {"self_attn.q_proj.weight", 2, 32, 32},        {"self_attn.k_proj.weight", 2, 16, 32},
        {"self_attn.v_proj.weight", 2, 16, 32},        {"self_attn.o_proj.weight", 0, 32, 32},
        {"post_attention_layernorm.weight", 0, 0, 32}, {"mlp.gate_up_proj.weight", 1, 128, 32},
        {"mlp.gate_proj.weight", 2, 64, 32},           {"mlp.up_proj.weight", 2, 64, 32},
        {"mlp.down_proj.weight", 0, 32, 64},
    };
    for (size_t i = 0; i < sizeof parts / sizeof *parts; i++) {
        if (parts[i].when == 0 || (parts[i].when == 2) == split) {
            char name[96];
            (void)snprintf(name, sizeof name, "model.layers.%d.%s", layer, parts[i].name);
            fixture_add(model, name, dtype, parts[i].rows, parts[i].cols);
        }
    }
}

void fixture_tiny_hf(fixture_model *model, phi_dtype dtype, bool split)
{
    model->count = 0;
    fixture_add(model, "model.embed_tokens.weight", dtype, 96, 32);
    add_layer(model, dtype, 0, split);
    add_layer(model, dtype, 1, split);
    fixture_add(model, "model.norm.weight", dtype, 0, 32);
    fixture_add(model, "lm_head.weight", dtype, 96, 32);
}

void fixture_tiny_description(phi_description *out)
{
    *out = (phi_description){
        .arch = PHI_ARCH_PHI3,
        .n_layer = 2,
        .n_embd = 32,
        .n_head = 4,
        .n_head_kv = 2,
        .head_dim = 8,
        .n_ffn = 64,
        .n_vocab = 96,
        .n_ctx = 128,
        .norm_eps = 1e-5F,
        .n_rot = 8,
        .rope_theta = 10000.0F,
        .n_ctx_original = 128,
        .rope_attn_factor = 1.0F,
        .bos_id = 1,
        .pad_id = -1,
        .unk_id = -1,
        .n_eos = 1,
        .eos_ids = {2},
    };
}

/* GGUF keys to a description: what may be absent, and each wrong key or tensor by name. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <string.h>

#include <cmocka.h>

#include "base/mem.h"
#include "engine/formats/checkpoint.h"
#include "engine/formats/gguf_config.h"
#include "fixture.h"

static fixture f;

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

/* One value of a file: a u32, unless it is a float or a text. */
typedef struct entry {
    const char *key;
    uint32_t number;
    float real;
    const char *text;
} entry;

static const entry least[] = {
    {"general.architecture", 0, 0, "phi3"},
    {"phi3.context_length", 128, 0, NULL},
    {"phi3.embedding_length", 32, 0, NULL},
    {"phi3.block_count", 2, 0, NULL},
    {"phi3.feed_forward_length", 64, 0, NULL},
    {"phi3.attention.head_count", 4, 0, NULL},
    {"phi3.attention.layer_norm_rms_epsilon", 0, 1e-6F, NULL},
    {"phi3.vocab_size", 96, 0, NULL},
};
#define N_LEAST (sizeof least / sizeof *least)

static void put_entry(phi_gguf_writer *writer, const entry *e)
{
    if (e->text) {
        phi_gguf_put_string(writer, e->key, e->text, strlen(e->text));
    } else if (e->real != 0.0F) {
        phi_gguf_put_f32(writer, e->key, e->real);
    } else {
        phi_gguf_put_u32(writer, e->key, e->number);
    }
}

/* A file of the least keys, `change` replacing the one of its name or added, and 1-D tensors of
 * `n_factors` numbers under the names given. */
static phi_gguf *build(const entry *change, const char *const *tensors, uint64_t n_factors)
{
    phi_gguf_writer *writer;
    phi_gguf *gguf;
    phi_err err;
    const char *path = fixture_path(&f, "c.gguf");
    assert_int_equal(phi_gguf_writer_create(path, &writer, &err), PHI_OK);
    bool replaced = !change;
    for (size_t i = 0; i < N_LEAST; i++) {
        bool same = change && strcmp(change->key, least[i].key) == 0;
        put_entry(writer, same ? change : &least[i]);
        replaced = replaced || same;
    }
    if (!replaced) {
        put_entry(writer, change);
    }
    size_t n_tensors = 0;
    for (; tensors && tensors[n_tensors]; n_tensors++) {
        phi_gguf_declare_tensor(writer, tensors[n_tensors], PHI_DTYPE_F32, 1, &n_factors);
    }
    assert_int_equal(phi_gguf_write_header(writer, &err), PHI_OK);
    for (uint64_t i = 0; i < n_tensors * n_factors; i++) {
        float value = 1.0F + (float)i;
        assert_int_equal(phi_gguf_write_data(writer, &value, sizeof value, &err), PHI_OK);
    }
    assert_int_equal(phi_gguf_writer_commit(writer, &err), PHI_OK);
    assert_int_equal(phi_gguf_open(path, &gguf, &err), PHI_OK);
    return gguf;
}

static phi_description read_ok(phi_gguf *gguf)
{
    phi_description d;
    phi_err err = {0};
    if (phi_gguf_config_read(gguf, &d, &err) != PHI_OK) {
        fail_msg("%s", err.message);
    }
    phi_gguf_close(gguf);
    return d;
}

static void expect(phi_gguf *gguf, phi_status right, const char *says)
{
    phi_description d;
    phi_err err = {0};
    phi_status status = phi_gguf_config_read(gguf, &d, &err);
    if (status != right || !strstr(err.message, says) || !strstr(err.message, "c.gguf")) {
        fail_msg("wanted %s \"%s\", got %s \"%s\"", phi_status_name(right), says,
                 phi_status_name(status), err.message);
    }
    phi_gguf_close(gguf);
}

static void test_least(void **state)
{
    (void)state;
    phi_description d = read_ok(build(NULL, NULL, 0));
    assert_int_equal(d.n_head_kv, 4);
    assert_int_equal(d.head_dim, 8);
    assert_int_equal(d.n_rot, 8);
    assert_int_equal(d.window, 0);
    assert_int_equal(d.n_ctx_original, 128);
    assert_int_equal(d.rope, PHI_ROPE_PLAIN);
    assert_true(d.rope_theta == 10000.0F && d.rope_attn_factor == 1.0F && d.norm_eps == 1e-6F);
    assert_true(d.tied_head);
    assert_int_equal(d.bos_id, -1);
    assert_string_equal(d.name, "");
    const entry name = {"general.name", 0, 0, "Phi 3 tiny"};
    d = read_ok(build(&name, NULL, 0));
    assert_string_equal(d.name, "Phi 3 tiny");
    const entry eos = {"tokenizer.ggml.eos_token_id", 7, 0, NULL};
    d = read_ok(build(&eos, NULL, 0));
    assert_int_equal(d.n_eos, 1);
    assert_int_equal(d.eos_ids[0], 7);
}

static void test_long_rope(void **state)
{
    (void)state;
    static const char *const both[] = {"rope_factors_long.weight", "rope_factors_short.weight",
                                       NULL};
    static const char *const one[] = {"rope_factors_short.weight", NULL};
    phi_description d = read_ok(build(NULL, both, 4));
    assert_int_equal(d.rope, PHI_ROPE_LONG);
    assert_true(d.rope_long[0] == 1.0F && d.rope_long[3] == 4.0F);
    assert_true(d.rope_short[0] == 5.0F && d.rope_short[3] == 8.0F);
    expect(build(NULL, one, 4), PHI_E_FORMAT, "\"rope_factors_long.weight\" is missing");
    expect(build(NULL, both, 5), PHI_E_FORMAT, "\"rope_factors_long.weight\" must hold 4 F32");
}

static void test_wrong_keys(void **state)
{
    (void)state;
    static const struct {
        entry change;
        phi_status status;
        const char *says;
    } rows[] = {
        {{"general.architecture", 0, 0, "llama"}, PHI_E_UNSUPPORTED, "\"llama\" is not supported"},
        {{"general.architecture", 3, 0, NULL}, PHI_E_FORMAT, "general.architecture"},
        {{"split.count", 3, 0, NULL}, PHI_E_UNSUPPORTED, "one of 3 parts"},
        {{"phi3.block_count", 0, 0, "two"}, PHI_E_FORMAT, "\"phi3.block_count\" must be"},
        {{"phi3.block_count", 0, 0, NULL}, PHI_E_FORMAT, "block_count"},
        {{"phi3.block_count", 100000, 0, NULL}, PHI_E_FORMAT, "block_count"},
        {{"phi3.context_length", 0, 0.5F, NULL}, PHI_E_FORMAT, "phi3.context_length"},
        {{"phi3.attention.head_count", 0, 0, NULL}, PHI_E_FORMAT, "phi3.attention.head_count"},
        {{"phi3.attention.head_count", 5, 0, NULL}, PHI_E_FORMAT, "not a multiple of"},
        {{"phi3.attention.head_count_kv", 3, 0, NULL}, PHI_E_FORMAT, "num_key_value_heads"},
        {{"phi3.attention.layer_norm_rms_epsilon", 0, -1.0F, NULL},
         PHI_E_FORMAT,
         "layer_norm_rms_epsilon"},
        {{"phi3.rope.freq_base", 10000, 0, NULL}, PHI_E_FORMAT, "phi3.rope.freq_base"},
        {{"phi3.rope.dimension_count", 7, 0, NULL}, PHI_E_FORMAT, "rope.dimension_count"},
        {{"phi3.rope.dimension_count", 10, 0, NULL}, PHI_E_FORMAT, "rope.dimension_count"},
        {{"phi3.rope.scaling.type", 0, 0, "linear"}, PHI_E_UNSUPPORTED, "\"linear\""},
        {{"phi3.rope.scaling.factor", 0, 4.0F, NULL}, PHI_E_UNSUPPORTED, "linear scaling"},
        {{"phi3.attention.value_length", 16, 0, NULL}, PHI_E_UNSUPPORTED, "value_length"},
        {{"tokenizer.ggml.bos_token_id", 96, 0, NULL}, PHI_E_FORMAT, "bos_token_id"},
        {{"tokenizer.ggml.bos_token_id", UINT32_MAX, 0, NULL}, PHI_E_FORMAT, "is 4294967295"},
        {{"tokenizer.ggml.eos_token_id", 96, 0, NULL}, PHI_E_FORMAT, "eos_token_id"},
        {{"phid.eos_token_ids", 1, 0, NULL}, PHI_E_FORMAT, "phid.eos_token_ids"},
        {{"phi3.vocab_size", 0, 0, NULL}, PHI_E_FORMAT, "vocab_size"},
    };
    for (size_t i = 0; i < sizeof rows / sizeof *rows; i++) {
        expect(build(&rows[i].change, NULL, 0), rows[i].status, rows[i].says);
    }
}

static void test_missing_keys(void **state)
{
    (void)state;
    for (size_t skip_index = 0; skip_index + 1 < N_LEAST; skip_index++) {
        phi_gguf_writer *writer;
        phi_gguf *gguf;
        phi_err err;
        const char *path = fixture_path(&f, "c.gguf");
        assert_int_equal(phi_gguf_writer_create(path, &writer, &err), PHI_OK);
        for (size_t i = 0; i < N_LEAST; i++) {
            if (i != skip_index) {
                put_entry(writer, &least[i]);
            }
        }
        assert_int_equal(phi_gguf_write_header(writer, &err), PHI_OK);
        assert_int_equal(phi_gguf_writer_commit(writer, &err), PHI_OK);
        assert_int_equal(phi_gguf_open(path, &gguf, &err), PHI_OK);
        expect(gguf, PHI_E_FORMAT, least[skip_index].key);
    }
}

/* What put_description writes, config_read reads: every field, unusual head size included. */
static void test_put_and_read(void **state)
{
    (void)state;
    phi_description d;
    fixture_tiny_description(&d);
    d.bos_id = -1;
    d.head_dim = 16;
    d.n_rot = 12;
    d.window = 33;
    d.n_ctx_original = 64;
    d.rope_attn_factor = 1.25F;
    d.rope_theta = 250000.0F;
    d.rope = PHI_ROPE_LONG;
    d.tied_head = true;
    for (uint32_t i = 0; i < d.n_rot / 2; i++) {
        d.rope_short[i] = 1.0F + (float)i / 8;
        d.rope_long[i] = 2.0F + (float)i;
    }
    phi_description_add_eos(&d, 9);
    phi_description_add_eos(&d, 2);
    assert_int_equal(d.n_eos, 2);
    (void)snprintf(d.name, sizeof d.name, "tiny");
    phi_gguf_writer *writer;
    phi_gguf *gguf;
    phi_err err;
    const char *path = fixture_path(&f, "c.gguf");
    assert_int_equal(phi_gguf_writer_create(path, &writer, &err), PHI_OK);
    phi_checkpoint_put_description(writer, &d);
    phi_gguf_declare_rope_factors(writer, &d);
    assert_int_equal(phi_gguf_write_header(writer, &err), PHI_OK);
    assert_int_equal(phi_gguf_write_rope_factors(writer, &d, &err), PHI_OK);
    assert_int_equal(phi_gguf_writer_commit(writer, &err), PHI_OK);
    assert_int_equal(phi_gguf_open(path, &gguf, &err), PHI_OK);
    phi_description back = read_ok(gguf);
    assert_memory_equal(&back, &d, sizeof d);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_least),        cmocka_unit_test(test_long_rope),
        cmocka_unit_test(test_wrong_keys),   cmocka_unit_test(test_missing_keys),
        cmocka_unit_test(test_put_and_read),
    };
    return cmocka_run_group_tests(tests, setup, teardown);
}

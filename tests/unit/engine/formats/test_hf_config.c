/* config.json: the published models' values give the right description; each wrong field is named.
 * Field values: the config.json files that Microsoft publishes with these models. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <string.h>

#include <cmocka.h>

#include <jansson.h>

#include "base/buf.h"
#include "base/mem.h"
#include "engine/formats/hf_config.h"
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

static phi_status read_text(const char *config, phi_description *out, phi_err *err)
{
    *err = (phi_err){0};
    (void)fixture_write_text(&f, "config.json", config);
    return phi_hf_config_read(f.dir, out, err);
}

static phi_description read_ok(const char *config)
{
    phi_description d;
    phi_err err;
    if (read_text(config, &d, &err) != PHI_OK) {
        fail_msg("%s", err.message);
    }
    return d;
}

static void put_list(phi_buf *text, const char *name, const double *values, size_t count)
{
    (void)phi_buf_printf(text, "\"%s\":[", name);
    for (size_t i = 0; i < count; i++) {
        (void)phi_buf_printf(text, "%s%.10g", i ? "," : "", values[i]);
    }
    (void)phi_buf_append_str(text, "]");
}

static void test_phi3_mini_4k(void **state)
{
    (void)state;
    (void)fixture_write_text(&f, "generation_config.json",
                             "{\"_from_model_config\":true,\"bos_token_id\":1,\"eos_token_id\":"
                             "[32000,32001,32007],\"pad_token_id\":32000}");
    phi_description d = read_ok(
        "{\"_name_or_path\":\"Phi-3-mini-4k-instruct\",\"architectures\":[\"Phi3ForCausalLM\"],"
        "\"attention_bias\":false,\"attention_dropout\":0.0,\"auto_map\":{\"AutoConfig\":\"x\"},"
        "\"bos_token_id\":1,\"embd_pdrop\":0.0,\"eos_token_id\":32000,\"hidden_act\":\"silu\","
        "\"hidden_size\":3072,\"initializer_range\":0.02,\"intermediate_size\":8192,"
        "\"max_position_embeddings\":4096,\"model_type\":\"phi3\",\"num_attention_heads\":32,"
        "\"num_hidden_layers\":32,\"num_key_value_heads\":32,"
        "\"original_max_position_embeddings\":4096,\"pad_token_id\":32000,\"resid_pdrop\":0.0,"
        "\"rms_norm_eps\":1e-05,\"rope_scaling\":null,\"rope_theta\":10000.0,"
        "\"sliding_window\":2047,\"tie_word_embeddings\":false,\"torch_dtype\":\"bfloat16\","
        "\"use_cache\":true,\"vocab_size\":32064}");
    fixture_remove(&f, "generation_config.json");
    assert_string_equal(d.name, "Phi-3-mini-4k-instruct");
    assert_int_equal(d.n_embd, 3072);
    assert_int_equal(d.n_layer, 32);
    assert_int_equal(d.n_head, 32);
    assert_int_equal(d.n_head_kv, 32);
    assert_int_equal(d.head_dim, 96);
    assert_int_equal(d.n_rot, 96);
    assert_int_equal(d.n_ffn, 8192);
    assert_int_equal(d.n_vocab, 32064);
    assert_int_equal(d.n_ctx, 4096);
    assert_int_equal(d.window, 2047);
    assert_int_equal(d.rope, PHI_ROPE_PLAIN);
    assert_true(d.rope_theta == 10000.0F && d.norm_eps == 1e-5F && d.rope_attn_factor == 1.0F);
    assert_false(d.tied_head);
    assert_int_equal(d.bos_id, 1);
    assert_int_equal(d.pad_id, 32000);
    assert_int_equal(d.unk_id, -1);
    assert_int_equal(d.n_eos, 3);
    assert_int_equal(d.eos_ids[0], 32000);
    assert_int_equal(d.eos_ids[1], 32001);
    assert_int_equal(d.eos_ids[2], 32007);
}

static const double long_factors[48] = {
    1,           1.118320672, 1.250641126, 1.398617824, 1.564103225, 1.74916897,  1.956131817,
    2.187582649, 2.446418898, 2.735880826, 3.059592084, 3.421605075, 3.826451687, 4.279200023,
    4.785517845, 5.351743533, 5.984965424, 6.693110555, 7.485043894, 8.370679318, 9.36110372,
    10.4687158,  11.70738129, 13.09260651, 14.64173252, 16.37415215, 18.31155283, 20.47818807,
    22.90118105, 25.61086418, 28.64115884, 32.03,       32.1,        32.13,       32.23,
    32.6,        32.61,       32.64,       32.66,       32.7,        32.71,       32.93,
    32.97,       33.28,       33.49,       33.5,        44.16,       47.77};

/* Phi-4-mini in the three spellings of its rotary settings that transformers has had. */
static void put_phi4_mini(phi_buf *text, int spelling)
{
    static const char *const kinds[] = {"\"type\":\"longrope\"", "\"type\":\"su\"",
                                        "\"rope_type\":\"longrope\""};
    double ones[48];
    for (size_t i = 0; i < 48; i++) {
        ones[i] = 1.0;
    }
    phi_buf_init(text, 1U << 16);
    (void)phi_buf_append_str(
        text, "{\"architectures\":[\"Phi3ForCausalLM\"],\"attention_bias\":false,"
              "\"mlp_bias\":false,\"lm_head_bias\":false,\"bos_token_id\":199999,"
              "\"eos_token_id\":199999,\"full_attn_mod\":1,\"hidden_act\":\"silu\","
              "\"hidden_size\":3072,\"intermediate_size\":8192,\"interpolate_factor\":1,"
              "\"max_position_embeddings\":131072,\"model_type\":\"phi3\","
              "\"num_attention_heads\":24,\"num_hidden_layers\":32,\"num_key_value_heads\":8,"
              "\"pad_token_id\":199999,\"rms_norm_eps\":1e-05,\"sliding_window\":262144,"
              "\"tie_word_embeddings\":true,\"vocab_size\":200064,");
    (void)phi_buf_append_str(text, spelling == 2 ? "\"rope_scaling\":null,\"rope_parameters\":{"
                                                   "\"partial_rotary_factor\":0.75,"
                                                   "\"rope_theta\":10000.0,"
                                                   "\"original_max_position_embeddings\":4096,"
                                                 : "\"original_max_position_embeddings\":4096,"
                                                   "\"partial_rotary_factor\":0.75,"
                                                   "\"rope_theta\":10000.0,\"rope_scaling\":{");
    put_list(text, "long_factor", long_factors, 48);
    (void)phi_buf_append_char(text, ',');
    put_list(text, "short_factor", ones, 48);
    (void)phi_buf_printf(text, ",%s}}", kinds[spelling]);
    assert_false(phi_buf_failed(text));
}

static void test_phi4_mini(void **state)
{
    (void)state;
    (void)fixture_write_text(&f, "generation_config.json",
                             "{\"eos_token_id\":[200020,199999],\"pad_token_id\":199999}");
    for (int spelling = 0; spelling < 3; spelling++) {
        phi_buf text;
        put_phi4_mini(&text, spelling);
        phi_description d = read_ok(phi_buf_text(&text));
        phi_buf_done(&text);
        assert_int_equal(d.n_head, 24);
        assert_int_equal(d.n_head_kv, 8);
        assert_int_equal(d.head_dim, 128);
        assert_int_equal(d.n_rot, 96);
        assert_int_equal(d.rope, PHI_ROPE_LONG);
        assert_int_equal(d.n_ctx, 131072);
        assert_int_equal(d.n_ctx_original, 4096);
        assert_true(d.rope_attn_factor == 1.1902380714238083F);
        assert_true(d.rope_short[47] == 1.0F && d.rope_long[47] == 47.77F);
        assert_true(d.rope_long[1] == 1.118320672F && d.rope_long[48] == 0.0F);
        assert_true(d.tied_head);
        assert_int_equal(d.window, 262144);
        assert_int_equal(d.n_eos, 2);
        assert_int_equal(d.eos_ids[0], 199999);
        assert_int_equal(d.eos_ids[1], 200020);
    }
    fixture_remove(&f, "generation_config.json");
}

static void test_phi4(void **state)
{
    (void)state;
    phi_description d = read_ok(
        "{\"architectures\":[\"Phi3ForCausalLM\"],\"bos_token_id\":100257,\"eos_token_id\":100257,"
        "\"hidden_act\":\"silu\",\"hidden_size\":5120,\"intermediate_size\":17920,"
        "\"max_position_embeddings\":16384,\"model_type\":\"phi3\",\"num_attention_heads\":40,"
        "\"num_hidden_layers\":40,\"num_key_value_heads\":10,"
        "\"original_max_position_embeddings\":16384,\"pad_token_id\":100257,"
        "\"rms_norm_eps\":1e-05,\"rope_scaling\":null,\"rope_theta\":250000,"
        "\"sliding_window\":null,\"tie_word_embeddings\":false,\"vocab_size\":100352}");
    assert_int_equal(d.head_dim, 128);
    assert_int_equal(d.n_rot, 128);
    assert_int_equal(d.n_head_kv, 10);
    assert_int_equal(d.window, 0);
    assert_int_equal(d.n_ctx, 16384);
    assert_true(d.rope_theta == 250000.0F);
}

static void test_defaults_and_overrides(void **state)
{
    (void)state;
    phi_description tiny;
    fixture_tiny_description(&tiny);
    phi_description d = read_ok("{" TINY_CONFIG "}");
    assert_memory_equal(&d, &tiny, sizeof d);
    d = read_ok("{\"model_type\":\"phi3\",\"hidden_size\":32,\"num_hidden_layers\":1,"
                "\"num_attention_heads\":4,\"intermediate_size\":64,\"vocab_size\":96,"
                "\"head_dim\":16,\"partial_rotary_factor\":0.4,\"pad_token_id\":-1}");
    assert_int_equal(d.n_head_kv, 4);
    assert_int_equal(d.head_dim, 16);
    assert_int_equal(d.n_rot, 6);
    assert_int_equal(d.n_ctx, 4096);
    assert_int_equal(d.n_eos, 0);
    assert_int_equal(d.pad_id, -1);
    d = read_ok("{" TINY_CONFIG ",\"rope_scaling\":{\"rope_type\":\"default\"}}");
    assert_int_equal(d.rope, PHI_ROPE_PLAIN);
    d = read_ok("{" TINY_CONFIG ",\"rope_scaling\":{\"type\":\"yarn\",\"attention_factor\":1.5,"
                "\"original_max_position_embeddings\":32,\"short_factor\":[1,1,1,1],"
                "\"long_factor\":[2,2,2,2]}}");
    assert_int_equal(d.rope, PHI_ROPE_LONG);
    assert_int_equal(d.n_ctx_original, 32);
    assert_true(d.rope_attn_factor == 1.5F);
    /* Not longer than the original context: no factor. And without one stated, 4096. */
    d = read_ok("{" TINY_CONFIG ",\"rope_scaling\":{\"type\":\"su\",\"short_factor\":[1,1,1,1],"
                "\"long_factor\":[2,2,2,2]}}");
    assert_true(d.rope_attn_factor == 1.0F);
    assert_int_equal(d.n_ctx_original, 4096);
}

/* config.json of microsoft/phi-2, as it was published. */
static void test_phi2(void **state)
{
    (void)state;
    phi_description d = read_ok(
        "{\"_name_or_path\":\"microsoft/phi-2\",\"architectures\":[\"PhiForCausalLM\"],"
        "\"attention_dropout\":0.0,\"bos_token_id\":50256,\"embd_pdrop\":0.0,"
        "\"eos_token_id\":50256,\"hidden_act\":\"gelu_new\",\"hidden_size\":2560,"
        "\"initializer_range\":0.02,\"intermediate_size\":10240,\"layer_norm_eps\":1e-05,"
        "\"max_position_embeddings\":2048,\"model_type\":\"phi\",\"num_attention_heads\":32,"
        "\"num_hidden_layers\":32,\"num_key_value_heads\":32,\"partial_rotary_factor\":0.4,"
        "\"qk_layernorm\":false,\"resid_pdrop\":0.1,\"rope_scaling\":null,\"rope_theta\":10000.0,"
        "\"tie_word_embeddings\":false,\"torch_dtype\":\"float16\",\"vocab_size\":51200}");
    assert_int_equal(d.arch, PHI_ARCH_PHI2);
    assert_string_equal(phi_arch_name(d.arch), "phi2");
    assert_int_equal(d.head_dim, 80);
    assert_int_equal(d.n_rot, 32);
    assert_int_equal(d.norm, PHI_NORM_LAYER);
    assert_int_equal(d.ffn, PHI_FFN_GELU);
    assert_true(d.is_parallel && d.attn_bias && d.head_bias && !d.tied_head);
    /* PhiConfig's defaults. */
    d = read_ok("{\"model_type\":\"phi\",\"hidden_size\":32,\"num_hidden_layers\":1,"
                "\"num_attention_heads\":2,\"intermediate_size\":64,\"vocab_size\":96}");
    assert_int_equal(d.n_rot, 8);
    assert_int_equal(d.n_ctx, 2048);
}

/* The fields of microsoft/Phi-3.5-MoE-instruct's config.json, with shorter heads. */
static void test_phimoe(void **state)
{
    (void)state;
    phi_description d = read_ok(
        "{\"architectures\":[\"PhiMoEForCausalLM\"],\"attention_bias\":true,"
        "\"bos_token_id\":1,\"eos_token_id\":32000,\"hidden_act\":\"silu\",\"hidden_size\":64,"
        "\"input_jitter_noise\":0.01,\"intermediate_size\":6400,\"lm_head_bias\":true,"
        "\"max_position_embeddings\":131072,\"model_type\":\"phimoe\",\"num_attention_heads\":8,"
        "\"num_experts_per_tok\":2,\"num_hidden_layers\":32,\"num_key_value_heads\":2,"
        "\"num_local_experts\":16,\"original_max_position_embeddings\":4096,"
        "\"rms_norm_eps\":1e-05,\"rope_scaling\":{\"long_factor\":[4,3,2,1],"
        "\"long_mscale\":1.243163121016122,\"original_max_position_embeddings\":4096,"
        "\"short_factor\":[1,1,1,1],\"short_mscale\":1.25,\"type\":\"longrope\"},"
        "\"rope_theta\":10000.0,\"router_jitter_noise\":0.02,\"sliding_window\":131072,"
        "\"tie_word_embeddings\":false,\"vocab_size\":32064}");
    assert_int_equal(d.arch, PHI_ARCH_PHIMOE);
    assert_int_equal(d.ffn, PHI_FFN_EXPERTS);
    assert_int_equal(d.norm, PHI_NORM_LAYER);
    assert_int_equal(d.n_expert, 16);
    assert_true(d.router_jitter == 0.02F);
    assert_true(d.attn_bias && d.head_bias && !d.is_parallel);
    assert_true(d.rope_attn_factor == 1.25F);
    assert_true(d.rope_attn_factor_long == 1.243163121016122F);
    /* PhimoeConfig's defaults. */
    d = read_ok("{\"model_type\":\"phimoe\",\"hidden_size\":32,\"num_hidden_layers\":1,"
                "\"num_attention_heads\":2,\"intermediate_size\":64,\"vocab_size\":96}");
    assert_int_equal(d.n_expert, 16);
    assert_true(d.rope_theta == 1000000.0F);
    assert_true(d.router_jitter == 0.01F);
    assert_true(!d.attn_bias && !d.head_bias);
}

#define NO_EOS                                                                                     \
    "\"model_type\":\"phi3\",\"hidden_size\":32,\"num_hidden_layers\":2,"                          \
    "\"num_attention_heads\":4,\"intermediate_size\":64,\"vocab_size\":96"
#define PHI2                                                                                       \
    "\"model_type\":\"phi\",\"hidden_size\":32,\"num_hidden_layers\":2,"                           \
    "\"num_attention_heads\":4,\"intermediate_size\":64,\"vocab_size\":96"
#define PHIMOE                                                                                     \
    "\"model_type\":\"phimoe\",\"hidden_size\":32,\"num_hidden_layers\":2,"                        \
    "\"num_attention_heads\":4,\"vocab_size\":96"
#define ROPE(body) "{" TINY_CONFIG ",\"rope_scaling\":{" body "}}"

static const struct {
    const char *config;
    phi_status status;
    const char *says;
} wrongs[] = {
    {"", PHI_E_FORMAT, "not valid JSON"},
    {"[]", PHI_E_FORMAT, "does not hold a JSON object"},
    {"{\"vocab_size\":NaN}", PHI_E_FORMAT, "not valid JSON"},
    {"{\"a\":1,\"a\":2}", PHI_E_FORMAT, "duplicate"},
    {"{}", PHI_E_FORMAT, "neither \"architectures\" nor \"model_type\""},
    {"{\"architectures\":\"Phi3ForCausalLM\"}", PHI_E_FORMAT, "must be a list"},
    {"{\"architectures\":[3]}", PHI_E_FORMAT, "list of strings"},
    {"{\"architectures\":[\"LlamaForCausalLM\"],\"model_type\":\"llama\"}", PHI_E_UNSUPPORTED,
     "\"LlamaForCausalLM\" (model_type \"llama\") is not supported; supported: Phi3ForCausalLM"},
    {"{\"architectures\":[\"PhiForCausalLM\"],\"model_type\":\"phi3\"}", PHI_E_UNSUPPORTED,
     "\"PhiForCausalLM\""},
    {"{\"architectures\":[\"Phi3ForCausalLM\"],\"model_type\":\"phi\"}", PHI_E_UNSUPPORTED,
     "\"phi\""},
    {"{\"model_type\":\"gpt2\"}", PHI_E_UNSUPPORTED, "\"gpt2\""},
    {"{\"model_type\":7}", PHI_E_FORMAT, "\"model_type\" must be a string"},
    {"{\"model_type\":\"phi3\"}", PHI_E_FORMAT, "\"hidden_size\" is missing"},
    {"{\"model_type\":\"phi3\",\"hidden_size\":null}", PHI_E_FORMAT, "\"hidden_size\" is missing"},
    {"{" NO_EOS ",\"attention_bias\":true}", PHI_E_UNSUPPORTED, "\"attention_bias\""},
    {"{" NO_EOS ",\"mlp_bias\":1}", PHI_E_FORMAT, "\"mlp_bias\" must be true or false"},
    {"{" NO_EOS ",\"hidden_act\":\"gelu\"}", PHI_E_UNSUPPORTED, "\"gelu\""},
    {"{" NO_EOS ",\"head_dim\":0}", PHI_E_FORMAT, "\"head_dim\""},
    {"{" NO_EOS ",\"head_dim\":-8}", PHI_E_FORMAT, "\"head_dim\""},
    {"{" NO_EOS ",\"head_dim\":8.0}", PHI_E_FORMAT, "\"head_dim\""},
    {"{" NO_EOS ",\"head_dim\":\"8\"}", PHI_E_FORMAT, "\"head_dim\""},
    {"{" NO_EOS ",\"head_dim\":99999999999999999999}", PHI_E_FORMAT, "not valid JSON"},
    {"{" NO_EOS ",\"head_dim\":4294967304}", PHI_E_FORMAT, "\"head_dim\""},
    {"{" NO_EOS ",\"num_key_value_heads\":3}", PHI_E_FORMAT, "num_key_value_heads"},
    {"{" NO_EOS ",\"sliding_window\":0}", PHI_E_FORMAT, "\"sliding_window\""},
    {"{" NO_EOS ",\"sliding_window\":\"all\"}", PHI_E_FORMAT, "\"sliding_window\""},
    {"{" NO_EOS ",\"rms_norm_eps\":0}", PHI_E_FORMAT, "\"rms_norm_eps\""},
    {"{" NO_EOS ",\"rms_norm_eps\":-1e-5}", PHI_E_FORMAT, "\"rms_norm_eps\""},
    {"{" NO_EOS ",\"rms_norm_eps\":1e-300}", PHI_E_FORMAT, "\"rms_norm_eps\""},
    {"{" NO_EOS ",\"rms_norm_eps\":1e300}", PHI_E_FORMAT, "\"rms_norm_eps\""},
    {"{" NO_EOS ",\"rope_theta\":\"x\"}", PHI_E_FORMAT, "\"rope_theta\""},
    {"{" NO_EOS ",\"tie_word_embeddings\":0}", PHI_E_FORMAT, "\"tie_word_embeddings\""},
    {"{" NO_EOS ",\"max_position_embeddings\":2000000}", PHI_E_FORMAT,
     "\"max_position_embeddings\""},
    {"{" NO_EOS ",\"partial_rotary_factor\":1.5}", PHI_E_FORMAT, "\"partial_rotary_factor\""},
    {"{" NO_EOS ",\"partial_rotary_factor\":0.4}", PHI_E_FORMAT, "leaves 3 of 8"},
    {"{" NO_EOS ",\"partial_rotary_factor\":0.01}", PHI_E_FORMAT, "leaves 0 of 8"},
    {"{" NO_EOS ",\"eos_token_id\":96}", PHI_E_FORMAT, "\"eos_token_id\""},
    {"{" NO_EOS ",\"eos_token_id\":-1}", PHI_E_FORMAT, "\"eos_token_id\""},
    {"{" NO_EOS ",\"eos_token_id\":[1,\"x\"]}", PHI_E_FORMAT, "\"eos_token_id\""},
    {"{" NO_EOS ",\"bos_token_id\":1.5}", PHI_E_FORMAT, "\"bos_token_id\""},
    {"{" NO_EOS ",\"bos_token_id\":96}", PHI_E_FORMAT, "bos_token_id is 96"},
    {"{" NO_EOS ",\"eos_token_id\":[1,1,1,1,1,1,1,1,1,1,1,1,1,1,1,1,1,1,1,1,1,1,1,1,1,1,1,1,1,1,"
     "1,1,1]}",
     PHI_E_LIMIT, "more than 32 ids"},
    {"{\"model_type\":\"phi3\",\"hidden_size\":33,\"num_hidden_layers\":2,"
     "\"num_attention_heads\":4,\"intermediate_size\":64,\"vocab_size\":96}",
     PHI_E_FORMAT, "not a multiple of \"num_attention_heads\""},
    {"{" TINY_CONFIG ",\"rope_scaling\":[1]}", PHI_E_FORMAT, "\"rope_scaling\" must be an object"},
    {ROPE(""), PHI_E_FORMAT, "rope_scaling.rope_type"},
    {ROPE("\"type\":4"), PHI_E_FORMAT, "\"rope_scaling.type\" must be a string"},
    {ROPE("\"type\":\"linear\",\"factor\":2"), PHI_E_UNSUPPORTED, "\"linear\""},
    {ROPE("\"type\":\"su\",\"short_factor\":[1,1,1,1]"), PHI_E_FORMAT, "rope_scaling.long_factor"},
    {ROPE("\"type\":\"su\",\"short_factor\":[1,1,1],\"long_factor\":[1,1,1,1]"), PHI_E_FORMAT,
     "\"rope_scaling.short_factor\" must be a list of 4"},
    {ROPE("\"type\":\"su\",\"short_factor\":[1,1,0,1],\"long_factor\":[1,1,1,1]"), PHI_E_FORMAT,
     "element 2 of field \"rope_scaling.short_factor\""},
    {ROPE("\"type\":\"su\",\"short_factor\":[1,1,1,1],\"long_factor\":[1,1,1,\"1\"]"), PHI_E_FORMAT,
     "element 3 of field \"rope_scaling.long_factor\""},
    {ROPE("\"type\":\"su\",\"short_factor\":[1,1,1,1],\"long_factor\":[1,1,1,1],"
          "\"attention_factor\":-1"),
     PHI_E_FORMAT, "attention_factor"},
    {ROPE("\"type\":\"su\",\"short_factor\":[1,1,1,1],\"long_factor\":[1,1,1,1],"
          "\"long_mscale\":1.2"),
     PHI_E_UNSUPPORTED, "long_mscale"},
    {"{" PHIMOE ",\"intermediate_size\":64,\"num_experts_per_tok\":1}", PHI_E_UNSUPPORTED,
     "SparseMixer takes 2"},
    {"{" PHIMOE ",\"intermediate_size\":64,\"num_local_experts\":33}", PHI_E_FORMAT,
     "\"num_local_experts\""},
    {"{" PHIMOE ",\"intermediate_size\":64,\"num_local_experts\":1}", PHI_E_FORMAT,
     "num_local_experts (expert_count) is 1"},
    {"{" PHIMOE ",\"intermediate_size\":72}", PHI_E_UNSUPPORTED, "multiples of 16"},
    {"{\"model_type\":\"phi-msft\",\"architectures\":[\"PhiForCausalLM\"],\"n_embd\":32}",
     PHI_E_UNSUPPORTED, "\"phi-msft\" is Phi's former layout"},
    {"{\"model_type\":\"mixformer-sequential\"}", PHI_E_UNSUPPORTED,
     "convert_phi_weights_to_hf.py"},
    {"{" PHI2 ",\"qk_layernorm\":true}", PHI_E_UNSUPPORTED, "\"qk_layernorm\" is true"},
    {"{" PHI2 ",\"hidden_act\":\"gelu\"}", PHI_E_UNSUPPORTED, "supported: \"gelu_new\""},
    {"{" PHI2 ",\"layer_norm_eps\":0}", PHI_E_FORMAT, "\"layer_norm_eps\""},
};

static void test_wrong_fields(void **state)
{
    (void)state;
    for (size_t i = 0; i < sizeof wrongs / sizeof *wrongs; i++) {
        phi_description d;
        phi_err err;
        phi_status status = read_text(wrongs[i].config, &d, &err);
        if (status != wrongs[i].status || !strstr(err.message, wrongs[i].says)) {
            fail_msg("%s: %s \"%s\"", wrongs[i].config, phi_status_name(status), err.message);
        }
        assert_non_null(strstr(err.message, "config.json"));
    }
}

/* Heads whose size no field states, and rotary factors for all of it. */
static void test_large_heads(void **state)
{
    (void)state;
    enum { FACTORS = 4096 };
    static double ones[FACTORS];
    phi_description d;
    phi_err err;
    phi_buf text;
    for (size_t i = 0; i < FACTORS; i++) {
        ones[i] = 1.0;
    }
    phi_buf_init(&text, 1U << 20);
    (void)phi_buf_append_str(&text,
                             "{\"model_type\":\"phi3\",\"hidden_size\":32768,"
                             "\"num_hidden_layers\":1,\"num_attention_heads\":4,"
                             "\"intermediate_size\":64,\"vocab_size\":96,\"rope_scaling\":{");
    put_list(&text, "short_factor", ones, FACTORS);
    (void)phi_buf_append_char(&text, ',');
    put_list(&text, "long_factor", ones, FACTORS);
    (void)phi_buf_append_str(&text, ",\"type\":\"longrope\"}}");
    assert_int_equal(read_text(phi_buf_text(&text), &d, &err), PHI_E_LIMIT);
    assert_non_null(strstr(err.message, "makes heads of 8192; at most 1024"));
    phi_buf_done(&text);
}

static void test_wrong_generation_config(void **state)
{
    (void)state;
    phi_description d;
    phi_err err;
    (void)fixture_write_text(&f, "generation_config.json", "{\"eos_token_id\":[2,96]}");
    assert_int_equal(read_text("{" TINY_CONFIG "}", &d, &err), PHI_E_FORMAT);
    assert_non_null(strstr(err.message, "generation_config.json: field \"eos_token_id\""));
    (void)fixture_write_text(&f, "generation_config.json",
                             "{\"pad_token_id\":3,\"bos_token_id\":9}");
    d = read_ok("{" TINY_CONFIG "}");
    assert_int_equal(d.pad_id, 3);
    assert_int_equal(d.bos_id, 1);
    fixture_remove(&f, "generation_config.json");
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_phi3_mini_4k), cmocka_unit_test(test_phi4_mini),
        cmocka_unit_test(test_phimoe),       cmocka_unit_test(test_phi2),
        cmocka_unit_test(test_phi4),         cmocka_unit_test(test_defaults_and_overrides),
        cmocka_unit_test(test_wrong_fields), cmocka_unit_test(test_wrong_generation_config),
        cmocka_unit_test(test_large_heads),
    };
    return cmocka_run_group_tests(tests, setup, teardown);
}

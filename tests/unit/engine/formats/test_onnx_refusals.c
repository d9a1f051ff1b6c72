/* A folder of ONNX Runtime GenAI, written here byte by byte: a graph that is no Phi decoder is
 * refused by the node that is in the way, and so is every lie about where values lie. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

#include <cmocka.h>

#include "base/mem.h"
#include "onnx_model.h"

typedef struct refusal {
    onnx_spec spec;
    const char *named;
} refusal;

static void check_refusals(const refusal *cases, size_t count)
{
    for (size_t i = 0; i < count; i++) {
        phi_err err = {.message = "accepted"};
        phi_status status = open_spec(&cases[i].spec, &err);
        if (status != PHI_E_UNSUPPORTED || !strstr(err.message, cases[i].named)) {
            fail_msg("%s: %d, %s", cases[i].spec.lie, status, err.message);
        }
    }
}

static void test_other_graphs(void **state)
{
    (void)state;
    static const refusal cases[] = {
        {{.bits = 32, .lie = "a bias"}, "\"biased\" (Add)"},
        {{.bits = 32, .lie = "an operator at the end"}, "\"tanh\" (Tanh)"},
        {{.bits = 32, .lie = "a stray node"}, "\"stray\" (Softmax)"},
        {{.bits = 32, .lie = "another activation"}, "(Mul) multiplies nothing that is silu"},
        {{.bits = 32, .lie = "another residual"}, "residual stream"},
        {{.bits = 32, .lie = "another epsilon"}, "\"0.in_norm\""},
        {{.bits = 32, .lie = "another scale"}, "scale 1"},
        {{.bits = 32, .lie = "a soft cap"}, "softcap 30"},
        {{.bits = 32, .lie = "no rotary embedding"}, "do_rotary 0"},
        {{.bits = 32, .lie = "interleaved angles"}, "rotary_interleaved 1"},
        {{.bits = 32, .lie = "an attention sink"}, "\"sink\""},
        {{.bits = 32, .lie = "an operator among positions"}, "\"odd\" (MatMul)"},
        {{.bits = 32, .apart = true, .lie = "keys of something else"}, "norm that the queries"},
        {{.bits = 32, .fused_up = true, .lie = "halves the other way round"}, "(Split)"},
        {{.bits = 4, .lie = "codes of 3 bits"}, "3 bits"},
        {{.bits = 4, .lie = "a block of 0"}, "block_size"},
        {{.bits = 4, .qdq = 1, .lie = "blocks of outputs"}, "(DequantizeLinear)"},
        {{.bits = 4, .qdq = 1, .by_row = true, .lie = "a scale for each input"}, "each output"},
        {{.bits = 8, .qdq = 1, .by_row = true, .lie = "a scale too many"}, "97 scales"},
        {{.bits = 8, .integers = true, .one = true, .lie = "activations without scale"}, "(Mul)"},
        {{.bits = 4, .lie = "weights packed for a GPU"}, "weight_prepacked"},
        {{.bits = 32, .lie = "a table of zeros"}, "rising angles"},
        {{.bits = 32, .lie = "two tables in one"}, "do not rise evenly"},
        {{.bits = 32, .long_rope = true, .lie = "sines without a choice"},
         "another way than its sines"},
        {{.bits = 32, .long_rope = true, .lie = "sines by another length"},
         "another way than its sines"},
        {{.bits = 32, .lie = "operators of its own"}, "operators of its own"},
        {{.bits = 32, .lie = "a sparse tensor"}, "sparse"},
    };
    check_refusals(cases, sizeof cases / sizeof *cases);
}

static void test_other_graphs_of_phi2(void **state)
{
    (void)state;
    static const refusal cases[] = {
        {{.bits = 32, .phi2 = true, .lie = "a norm without bias"},
         "\"final\" (SkipLayerNormalization) has no bias"},
        {{.bits = 32, .phi2 = true, .lie = "a norm of a biased sum"}, "an input 4 (\"unknown\")"},
        {{.bits = 32, .phi2 = true, .lie = "an RMS norm among others"},
         "\"1.in_norm\" (SkipSimplifiedLayerNormalization) stands where a Phi decoder has a "
         "LayerNorm"},
        {{.bits = 32, .phi2 = true, .lie = "a product without bias"},
         "\"1.fc1\" (MatMul) stands where a Phi decoder has a product"},
        {{.bits = 32, .phi2 = true, .lie = "another activation"}, "\"1.gelu\" (Relu)"},
        {{.bits = 32, .phi2 = true, .lie = "gelu of another form"}, "\"1.gelu\" (Gelu)"},
        {{.bits = 32, .phi2 = true, .lie = "gelu without a form"}, "approximate \"tanh\""},
        {{.bits = 32, .phi2 = true, .lie = "two feed-forwards"},
         "\"1.sum\" (Add) is no sum of attention and feed-forward"},
        {{.bits = 32, .phi2 = true, .lie = "attention alone"}, "the sum of attention"},
        {{.bits = 32, .phi2 = true, .lie = "another norm's feed-forward"},
         "the norm that the attention is made of"},
        {{.bits = 32, .phi2 = true, .apart = true, .lie = "keys of something else"},
         "norm that the queries"},
        {{.bits = 32, .phi2 = true, .lie = "another epsilon"}, "\"0.in_norm\""},
        {{.bits = 32, .phi2 = true, .lie = "an operator at the end"}, "\"tanh\" (Tanh)"},
        {{.bits = 32, .phi2 = true, .lie = "a stray node"}, "\"stray\" (Softmax)"},
    };
    (void)fixture_write_text(&now.files, "genai_config.json", GENAI_OF("phi"));
    check_refusals(cases, sizeof cases / sizeof *cases);
    (void)fixture_write_text(&now.files, "genai_config.json", GENAI);
}

static void test_lies(void **state)
{
    (void)state;
    static const struct {
        onnx_spec spec;
        phi_status status;
    } cases[] = {
        {{.bits = 32, .lie = "a location above"}, PHI_E_FORMAT},
        {{.bits = 32, .lie = "an absolute location"}, PHI_E_FORMAT},
        {{.bits = 32, .lie = "a location inside"}, PHI_E_FORMAT},
        {{.bits = 32, .lie = "a link"}, PHI_E_FORMAT},
        {{.bits = 32, .lie = "a missing file"}, PHI_E_NOT_FOUND},
        {{.bits = 32, .lie = "an offset past the end"}, PHI_E_FORMAT},
        {{.bits = 32, .lie = "an offset in words"}, PHI_E_FORMAT},
        {{.bits = 32, .lie = "a wrong length"}, PHI_E_FORMAT},
        {{.bits = 32, .inside = true, .lie = "raw data that is short"}, PHI_E_FORMAT},
        {{.bits = 32, .lie = "a negative dimension"}, PHI_E_FORMAT},
        {{.bits = 32, .lie = "dimensions that overflow"}, PHI_E_FORMAT},
        {{.bits = 32, .lie = "too many dimensions"}, PHI_E_LIMIT},
        {{.bits = 32, .lie = "a name twice"}, PHI_E_FORMAT},
        {{.bits = 32, .lie = "half a file"}, PHI_E_FORMAT},
        {{.bits = 4, .lie = "a small head"}, PHI_E_FORMAT},
        {{.bits = 8,
          .integers = true,
          .by_row = true,
          .zeros = true,
          .listed = true,
          .lie = "a zero point too few"},
         PHI_E_FORMAT},
        {{.bits = 8,
          .integers = true,
          .one = true,
          .zeros = true,
          .listed = true,
          .lie = "a large zero point"},
         PHI_E_FORMAT},
    };
    char link[160];
    (void)snprintf(link, sizeof link, "%s/link", now.files.dir);
    assert_int_equal(symlink("/etc/hostname", link), 0);
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        phi_err err = {.message = "accepted"};
        phi_status status = open_spec(&cases[i].spec, &err);
        if (status != cases[i].status || !strstr(err.message, "model.onnx")) {
            fail_msg("%s: %d, %s", cases[i].spec.lie, status, err.message);
        }
    }
    assert_int_equal(unlink(link), 0);
}

static void test_genai_config(void **state)
{
    (void)state;
    static const struct {
        const char *from;
        const char *to;
        const char *named;
    } cases[] = {
        {"\"model.onnx\"", "\"../model.onnx\"", "filename"},
        {"\"model.onnx\"", "\"/model.onnx\"", "filename"},
        {"\"phi3\"", "\"phimoe\"", "model.type"},
        {"\"phi3\"", "\"phi\"", "model.type"},
        {"\"context_length\":128", "\"context_length\":-1", "context_length"},
        {"\"vocab_size\":96", "\"vocab_size\":97", "model.vocab_size"},
        {"\"num_hidden_layers\":2", "\"num_hidden_layers\":3", "num_hidden_layers"},
        {"\"head_size\":8", "\"head_size\":16", "head_size"},
        {"\"eos_token_id\":[2,3]", "\"eos_token_id\":[2,\"3\"]", "eos_token_id"},
        {"\"eos_token_id\":[2,3]", "\"eos_token_id\":96", "eos_token_id"},
        {"\"pad_token_id\":0", "\"pad_token_id\":1.5", "pad_token_id"},
        {"\"filename\":\"model.onnx\"", "\"pipeline\":[]", "pipeline"},
    };
    phi_err err;
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        char text[sizeof GENAI + 64];
        const char *at = strstr(GENAI, cases[i].from);
        assert_non_null(at);
        (void)snprintf(text, sizeof text, "%.*s%s%s", (int)(at - GENAI), GENAI, cases[i].to,
                       at + strlen(cases[i].from));
        (void)fixture_write_text(&now.files, "genai_config.json", text);
        phi_status status = open_spec(&(onnx_spec){.bits = 4}, &err);
        assert_true(status == PHI_E_FORMAT || status == PHI_E_UNSUPPORTED);
        assert_non_null(strstr(err.message, cases[i].named));
    }
    (void)fixture_write_text(&now.files, "genai_config.json", GENAI);
}

/* The last byte of the model, and every byte in turn, may be missing. */
static void test_truncated(void **state)
{
    (void)state;
    phi_err err;
    assert_int_equal(open_spec(&(onnx_spec){.bits = 4}, &err), PHI_OK);
    char *text = NULL;
    size_t bytes = 0;
    assert_int_equal(
        phi_file_read_text(fixture_path(&now.files, "model.onnx"), 1U << 24, &text, &bytes, &err),
        PHI_OK);
    for (size_t left = 0; left < bytes; left += 7) {
        phi_onnx *none = NULL;
        (void)fixture_write(&now.files, "model.onnx", text, left);
        assert_int_not_equal(phi_onnx_open(now.files.dir, &none, &err), PHI_OK);
        assert_null(none);
    }
    phi_free(text);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_other_graphs), cmocka_unit_test(test_other_graphs_of_phi2),
        cmocka_unit_test(test_lies),         cmocka_unit_test(test_genai_config),
        cmocka_unit_test(test_truncated),
    };
    return cmocka_run_group_tests(tests, onnx_setup, onnx_teardown);
}

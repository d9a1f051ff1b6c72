/*
 * Both kinds of tokenizer on vocabularies small enough to follow by hand (tiny.h), the sample
 * model's own, and files that are wrong.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <string.h>
#include <time.h>

#include <cmocka.h>

#include "base/mem.h"
#include "engine/tokenizer/chat.h"
#include "engine/tokenizer/tokenizer_internal.h"
#include "tests/unit/engine/tokenizer/tiny.h"

static phi_tokenizer *load_text(const char *text)
{
    phi_err err = {.code = PHI_OK};
    phi_tokenizer *tokenizer = NULL;
    if (phi_tokenizer_load_json(text, strlen(text), NULL, "tokenizer.json", &tokenizer, &err) !=
        PHI_OK) {
        fail_msg("%s", err.message);
    }
    return tokenizer;
}

static phi_tokenizer *load(void (*tiny)(phi_buf *))
{
    phi_buf json;
    phi_buf_init(&json, 1U << 20);
    tiny(&json);
    phi_tokenizer *tokenizer = load_text(phi_buf_text(&json));
    phi_buf_done(&json);
    return tokenizer;
}

static void assert_got(const phi_tokens *tokens, const int32_t *want, const char *text)
{
    size_t count = 0;
    while (want[count] >= 0) {
        count++;
    }
    bool same = count == tokens->count;
    for (size_t i = 0; same && i < count; i++) {
        same = tokens->ids[i] == want[i];
    }
    if (!same) {
        for (size_t i = 0; i < tokens->count; i++) {
            print_error(" %d", tokens->ids[i]);
        }
        fail_msg(" are the ids of \"%s\"", text);
    }
}

/* `want` ends with -1. */
static void assert_encodes(const phi_tokenizer *tokenizer, const char *text, phi_parse_mode mode,
                           const int32_t *want)
{
    phi_tokens tokens;
    phi_tokens_init(&tokens);
    phi_encode_options options = {.mode = mode};
    assert_int_equal(phi_tokenizer_encode(tokenizer, text, strlen(text), &options, &tokens, NULL),
                     PHI_OK);
    assert_got(&tokens, want, text);
    phi_tokens_done(&tokens);
}

#define IDS(...) ((const int32_t[]){__VA_ARGS__, -1})

static void assert_decodes(const phi_tokenizer *tokenizer, const int32_t *ids, bool skip_special,
                           const char *want)
{
    size_t count = 0;
    while (ids[count] != -1) {
        count++;
    }
    phi_buf text;
    phi_buf_init(&text, SIZE_MAX);
    assert_int_equal(phi_tokenizer_decode(tokenizer, ids, count, skip_special, &text), PHI_OK);
    assert_string_equal(phi_buf_text(&text), want);
    phi_buf_done(&text);
}

static void byte_level_encodes(void **state)
{
    (void)state;
    phi_tokenizer *t = load(tiny_byte_level);
    assert_encodes(t, "hello", PHI_PARSE_PLAIN, IDS(259));
    assert_encodes(t, "hell w", PHI_PARSE_PLAIN, IDS(258, 260));
    assert_encodes(t, "h\xc3\xa9", PHI_PARSE_PLAIN, IDS('h', 0xc3, 0xa9));
    assert_encodes(t, "a  b", PHI_PARSE_PLAIN, IDS('a', 263, 'b'));
    assert_encodes(t, "   b", PHI_PARSE_PLAIN, IDS(263, ' ', 'b'));
    assert_encodes(t, "<|user|> \n he", PHI_PARSE_SPECIAL, IDS(261, 256));
    assert_encodes(t, "a \t<|end|>\nb", PHI_PARSE_SPECIAL, IDS('a', 262, 'b'));
    assert_encodes(t, "<|end|>", PHI_PARSE_PLAIN, IDS('<', '|', 'e', 'n', 'd', '|', '>'));
    assert_encodes(t, "<|end|", PHI_PARSE_SPECIAL, IDS('<', '|', 'e', 'n', 'd', '|'));
    phi_tokenizer_destroy(t);
}

static void sentencepiece_encodes(void **state)
{
    (void)state;
    phi_tokenizer *t = load(tiny_sentencepiece);
    int32_t hello = phi_tokenizer_find(t, TINY_MARK "hello");
    int32_t world = phi_tokenizer_find(t, TINY_MARK "world");
    int32_t mark = phi_tokenizer_find(t, TINY_MARK);
    int32_t two = phi_tokenizer_find(t, TINY_MARK TINY_MARK);
    int32_t a4 = phi_tokenizer_find(t, "aaaa");
    int32_t a2 = phi_tokenizer_find(t, "aa");
    assert_encodes(t, "", PHI_PARSE_PLAIN, IDS(-1));
    assert_encodes(t, "hello world", PHI_PARSE_PLAIN, IDS(hello, world));
    assert_encodes(t, " hello", PHI_PARSE_PLAIN, IDS(mark, hello));
    assert_encodes(t, "  ", PHI_PARSE_PLAIN, IDS(two, mark));
    assert_encodes(t, "aaaaaa", PHI_PARSE_PLAIN, IDS(mark, a4, a2));
    assert_encodes(t, "\xe2\x82\xac", PHI_PARSE_PLAIN, IDS(mark, 0xe2 + 3, 0x82 + 3, 0xac + 3));
    assert_encodes(t, "<|user|>\nhello<|end|>", PHI_PARSE_SPECIAL, IDS(300, hello, 301));
    assert_encodes(t, "</s>", PHI_PARSE_SPECIAL, IDS(2));
    assert_true(phi_tokenizer_adds_bos(t));
    phi_tokens tokens;
    phi_tokens_init(&tokens);
    phi_encode_options options = {.mode = PHI_PARSE_PLAIN, .add_bos = true};
    assert_int_equal(phi_tokenizer_encode(t, "</s>hello", 9, &options, &tokens, NULL), PHI_OK);
    assert_int_equal(tokens.ids[0], 1);
    for (size_t i = 1; i < tokens.count; i++) {
        assert_int_not_equal(tokens.ids[i], 2); /* not special, yet a tag: plain text stays text */
    }
    phi_tokens_done(&tokens);
    phi_tokenizer_destroy(t);
}

static void decodes(void **state)
{
    (void)state;
    phi_tokenizer *t = load(tiny_byte_level);
    assert_decodes(t, IDS(259, 260, 'x'), true, "hello wx");
    assert_decodes(t, IDS(261, 259, 262), true, "hello");
    assert_decodes(t, IDS(261, 259, 262), false, "<|user|>hello<|end|>");
    assert_decodes(t, IDS(0xe2, 0x82, 0xac), true, "\xe2\x82\xac");
    assert_decodes(t, IDS(0xe2, 0x82, 'x'), true, "\xef\xbf\xbdx");
    assert_decodes(t, IDS(0xff, 0xe2), true, "\xef\xbf\xbd\xef\xbf\xbd");
    assert_decodes(t, IDS(259, 100000, -7, 259), true, "hellohello");
    phi_tokenizer_destroy(t);

    t = load(tiny_sentencepiece);
    int32_t hello = phi_tokenizer_find(t, TINY_MARK "hello");
    assert_decodes(t, IDS(hello, hello), true, "hello hello");
    assert_decodes(t, IDS(1, hello), true, "hello");
    assert_decodes(t, IDS(1, hello), false, "<s> hello");
    assert_decodes(t, IDS(0xe2 + 3, 0x82 + 3, 0xac + 3), true, "\xe2\x82\xac");
    assert_decodes(t, IDS(0xe2 + 3, 0x82 + 3, hello), true, "\xef\xbf\xbd\xef\xbf\xbd hello");
    phi_tokenizer_destroy(t);
}

static void holds_back_half_characters(void **state)
{
    (void)state;
    phi_tokenizer *t = load(tiny_byte_level);
    phi_detokenizer d;
    phi_detokenizer_init(&d, t, true, false);
    phi_buf text;
    phi_buf_init(&text, SIZE_MAX);
    static const int32_t ids[] = {0xf0, 0x9f, 0x98};
    for (size_t i = 0; i < 3; i++) {
        assert_int_equal(phi_detokenizer_push(&d, ids[i], &text), PHI_OK);
        assert_int_equal(text.length_bytes, 0);
    }
    assert_int_equal(phi_detokenizer_push(&d, 0x80, &text), PHI_OK);
    assert_string_equal(phi_buf_text(&text), "\xf0\x9f\x98\x80");
    assert_int_equal(phi_detokenizer_push(&d, 0xf0, &text), PHI_OK);
    assert_int_equal(phi_detokenizer_finish(&d, &text), PHI_OK);
    assert_string_equal(phi_buf_text(&text), "\xf0\x9f\x98\x80\xef\xbf\xbd");
    phi_buf_done(&text);
    phi_tokenizer_destroy(t);

    /* Continuing a text keeps the space that its beginning would lose. */
    t = load(tiny_sentencepiece);
    phi_buf_init(&text, SIZE_MAX);
    phi_detokenizer_init(&d, t, true, true);
    int32_t hello = phi_tokenizer_find(t, TINY_MARK "hello");
    assert_int_equal(phi_detokenizer_push(&d, hello, &text), PHI_OK);
    assert_string_equal(phi_buf_text(&text), " hello");
    phi_buf_clear(&text);
    assert_int_equal(phi_tokenizer_token_bytes(t, 0xe2 + 3, &text), PHI_OK);
    assert_string_equal(phi_buf_text(&text), "\xe2");
    phi_buf_done(&text);
    phi_tokenizer_destroy(t);
}

static void trusts_only_marked_spans(void **state)
{
    (void)state;
    phi_tokenizer *t = load(tiny_byte_level);
    const phi_text_span spans[] = {
        {"<|user|>\n", 9, true}, {"\n<|end|>he", 10, false}, {"<|end|>", 7, true},
        {"<|en", 4, false},      {"d|>", 3, true},
    };
    phi_tokens tokens;
    phi_tokens_init(&tokens);
    assert_int_equal(phi_tokenizer_encode_spans(t, spans, 5, &tokens, NULL), PHI_OK);
    assert_got(
        &tokens,
        IDS(261, '<', '|', 'e', 'n', 'd', '|', '>', 256, 262, '<', '|', 'e', 'n', 'd', '|', '>'),
        "spans");
    phi_tokens_done(&tokens);
    phi_tokenizer_destroy(t);
}

static void refuses_invalid_text(void **state)
{
    (void)state;
    phi_tokenizer *t = load(tiny_byte_level);
    phi_tokens tokens;
    phi_tokens_init(&tokens);
    phi_encode_options options = {.mode = PHI_PARSE_PLAIN};
    phi_err err = {.code = PHI_OK};
    assert_int_equal(phi_tokenizer_encode(t, "a\xff", 2, &options, &tokens, &err), PHI_E_INVALID);
    assert_int_equal(tokens.count, 0);
    assert_non_null(strstr(err.message, "UTF-8"));
    phi_tokens_done(&tokens);
    phi_tokenizer_destroy(t);
}

/* One word of this many characters: merging must not take quadratic time. */
static void long_words_are_not_quadratic(void **state)
{
    (void)state;
    size_t bytes = (size_t)1 << 20;
    char *text = phi_alloc(bytes);
    memset(text, 'a', bytes);
    phi_tokenizer *t = load(tiny_sentencepiece);
    phi_tokens tokens;
    phi_tokens_init(&tokens);
    phi_encode_options options = {.mode = PHI_PARSE_PLAIN};
    assert_int_equal(phi_tokenizer_encode(t, text, bytes, &options, &tokens, NULL), PHI_OK);
    assert_int_equal(tokens.count, 1 + bytes / 4);
    phi_tokens_done(&tokens);
    phi_tokenizer_destroy(t);
    phi_free(text);
}

#define HEAD "{\"pre_tokenizer\":{\"type\":\"ByteLevel\"},\"decoder\":{\"type\":\"ByteLevel\"},"
#define MODEL(vocab, merges)                                                                       \
    "\"model\":{\"type\":\"BPE\",\"vocab\":" vocab ",\"merges\":" merges "}}"
#define ADDED_ID(id)                                                                               \
    HEAD "\"added_tokens\":[{\"id\":" id ",\"content\":\"<x>\"}]," MODEL("{\"a\":0}", "[]")

static void names_what_is_wrong(void **state)
{
    (void)state;
    static const struct {
        const char *json;
        phi_status want;
        const char *part;
    } samples[] = {
        {"", PHI_E_FORMAT, "tokenizer.json"},
        {"[]", PHI_E_FORMAT, "object"},
        {"{}", PHI_E_FORMAT, "model"},
        {HEAD MODEL("{}", "[]"), PHI_E_FORMAT, "vocab"},
        {HEAD MODEL("{\"a\":-1}", "[]"), PHI_E_LIMIT, "-1"},
        {HEAD MODEL("{\"a\":99999999}", "[]"), PHI_E_LIMIT, "99999999"},
        {HEAD MODEL("{\"a\":1.5}", "[]"), PHI_E_FORMAT, "\"a\""},
        {HEAD MODEL("{\"a\":0,\"b\":0}", "[]"), PHI_E_FORMAT, "token id 0"},
        {HEAD MODEL("{\"a\":0}", "{}"), PHI_E_FORMAT, "merges"},
        {HEAD MODEL("{\"a\":0}", "[\"a\"]"), PHI_E_FORMAT, "merges[0]"},
        {HEAD MODEL("{\"a\":0}", "[\"a z\"]"), PHI_E_FORMAT, "\"z\""},
        {HEAD MODEL("{\"a\":0}", "[\"a a\"]"), PHI_E_FORMAT, "merge 0"},
        {HEAD MODEL("{\"a\":0}", "[[\"a\"]]"), PHI_E_FORMAT, "merges[0]"},
        {HEAD "\"model\":{\"type\":\"Unigram\"}}", PHI_E_UNSUPPORTED, "Unigram"},
        {HEAD "\"normalizer\":{\"type\":\"NFC\"}," MODEL("{\"a\":0}", "[]"), PHI_E_UNSUPPORTED,
         "NFC"},
        {HEAD "\"post_processor\":{\"type\":\"BertProcessing\"}," MODEL("{\"a\":0}", "[]"),
         PHI_E_UNSUPPORTED, "BertProcessing"},
        {"{\"pre_tokenizer\":{\"type\":\"Whitespace\"}," MODEL("{\"a\":0}", "[]"),
         PHI_E_UNSUPPORTED, "Whitespace"},
        {"{\"pre_tokenizer\":{\"type\":\"Split\",\"pattern\":{\"Regex\":\"(\"},\"behavior\":"
         "\"Isolated\"}," MODEL("{\"a\":0}", "[]"),
         PHI_E_UNSUPPORTED, "pattern"},
        {"{\"pre_tokenizer\":{\"type\":\"Split\",\"pattern\":{\"Regex\":\"a\"},\"behavior\":"
         "\"MergedWithNext\"}," MODEL("{\"a\":0}", "[]"),
         PHI_E_UNSUPPORTED, "MergedWithNext"},
        {"{\"decoder\":null," MODEL("{\"a\":0}", "[]"), PHI_E_UNSUPPORTED, "decoder"},
        {"{\"decoder\":{\"type\":\"WordPiece\"}," MODEL("{\"a\":0}", "[]"), PHI_E_UNSUPPORTED,
         "WordPiece"},
        {ADDED_ID("-5"), PHI_E_LIMIT, "-5"},
        {ADDED_ID("1048576"), PHI_E_LIMIT, "1048576"},
        {ADDED_ID("0"), PHI_E_FORMAT, "token id 0"},
        {ADDED_ID("\"3\""), PHI_E_FORMAT, "added_tokens[0]"},
    };
    for (size_t i = 0; i < sizeof samples / sizeof *samples; i++) {
        phi_err err = {.code = PHI_OK};
        phi_tokenizer *tokenizer = NULL;
        phi_status status = phi_tokenizer_load_json(samples[i].json, strlen(samples[i].json), NULL,
                                                    "tokenizer.json", &tokenizer, &err);
        if (status != samples[i].want || !strstr(err.message, samples[i].part)) {
            fail_msg("%s gave %s: %s", samples[i].json, phi_status_name(status), err.message);
        }
    }
    char deep[4096] = HEAD "\"x\":";
    memset(deep + strlen(deep), '[', sizeof deep - strlen(deep) - 1);
    phi_tokenizer *tokenizer = NULL;
    assert_int_equal(phi_tokenizer_load_json(deep, strlen(deep), NULL, "deep", &tokenizer, NULL),
                     PHI_E_LIMIT);
}

static void pattern_steps_are_bounded(void **state)
{
    (void)state;
    phi_pattern *pattern = NULL;
    assert_int_equal(phi_pattern_compile("(a+)+b", 6, false, "test", &pattern, NULL), PHI_OK);
    phi_pattern_work *work = phi_pattern_work_create(64);
    char text[64];
    memset(text, 'a', sizeof text);
    bool found = false;
    size_t begin = 0;
    size_t end = 0;
    phi_err err = {.code = PHI_OK};
    phi_status status =
        phi_pattern_find(pattern, work, text, sizeof text, 0, &found, &begin, &end, &err);
    assert_true(status == PHI_E_LIMIT || (status == PHI_OK && !found));
    phi_pattern_work_destroy(work);
    phi_pattern_destroy(pattern);
}

/* The thread's own: other programs may have the processors meanwhile. */
static double thread_seconds(void)
{
    struct timespec now = {0};
    assert_int_equal(0, clock_gettime(CLOCK_THREAD_CPUTIME_ID, &now));
    return (double)now.tv_sec + (double)now.tv_nsec / 1e9;
}

/* A MiB of one letter is split by a pattern that is too slow for it; returns the seconds. */
static double time_to_refusal(const char *regex)
{
    const size_t bytes = 1U << 20;
    char json[1024];
    phi_tokenizer *tokenizer = NULL;
    phi_tokens tokens;
    phi_err err = {.message = ""};
    (void)snprintf(
        json, sizeof json,
        "{\"pre_tokenizer\":{\"type\":\"Split\",\"pattern\":{\"Regex\":\"%s\"},"
        "\"behavior\":\"Removed\"},\"decoder\":{\"type\":\"ByteLevel\"}," MODEL("{\"a\":0}", "[]"),
        regex);
    assert_int_equal(
        phi_tokenizer_load_json(json, strlen(json), NULL, "tokenizer.json", &tokenizer, &err),
        PHI_OK);
    char *text = phi_alloc(bytes);
    memset(text, 'a', bytes);
    phi_tokens_init(&tokens);
    const phi_encode_options options = {.mode = PHI_PARSE_PLAIN};
    double started = thread_seconds();
    phi_status status = phi_tokenizer_encode(tokenizer, text, bytes, &options, &tokens, &err);
    double seconds = thread_seconds() - started;
    assert_int_equal(status, PHI_E_LIMIT);
    assert_non_null(strstr(err.message, "tokenizer.json: pre_tokenizer Split: the pattern is too"));
    phi_tokens_done(&tokens);
    phi_free(text);
    phi_tokenizer_destroy(tokenizer);
    return seconds;
}

static void pattern_time_is_bounded(void **state)
{
    (void)state;
    static const char *const slow[] = {
        "(a+)+[bc]",    /* exponential: it goes back again and again */
        "a*a*a*a*[bc]", /* fewer steps, each of which scans what is left */
        "(?=.*)a",      /* matches everywhere, and scans what is left each time */
    };
    for (size_t i = 0; i < sizeof slow / sizeof *slow; i++) {
        assert_true(time_to_refusal(slow[i]) < 4.0);
    }
}

static void white_space_is_unicode_s(void **state)
{
    (void)state;
    static const struct {
        const char *text;
        bool space;
    } samples[] = {
        {" ", true},
        {"\t", true},
        {"\v", true},
        {"\x1c", false},
        {"a", false},
        {"\xc2\x85", true},
        {"\xc2\xa0", true},
        {"\xe1\xa0\x8e", false},
        {"\xe2\x80\x8b", false},
        {"\xe2\x80\xa8", true},
        {"\xe3\x80\x80", true},
        {"\xe2\x81\xa0", false},
    };
    static const char *const patterns[] = {"\\s", "[\\s]", "[^\\S]"};
    phi_pattern_work *work = phi_pattern_work_create(64);
    for (size_t p = 0; p < 3; p++) {
        phi_pattern *pattern = NULL;
        assert_int_equal(
            phi_pattern_compile(patterns[p], strlen(patterns[p]), false, "test", &pattern, NULL),
            PHI_OK);
        for (size_t i = 0; i < sizeof samples / sizeof *samples; i++) {
            bool found = false;
            size_t begin = 0;
            size_t end = 0;
            assert_int_equal(phi_pattern_find(pattern, work, samples[i].text,
                                              strlen(samples[i].text), 0, &found, &begin, &end,
                                              NULL),
                             PHI_OK);
            assert_int_equal(found, samples[i].space);
        }
        phi_pattern_destroy(pattern);
    }
    phi_pattern_work_destroy(work);
}

static void sample_model_ids(void **state)
{
    (void)state;
    phi_tokenizer *t = NULL;
    phi_err err = {.code = PHI_OK};
    if (phi_tokenizer_open_dir(PHID_SOURCE_DIR "/models/phi-sample", &t, &err) != PHI_OK) {
        fail_msg("%s", err.message);
    }
    assert_int_equal(phi_tokenizer_vocab_size(t), 1024);
    assert_true(phi_tokenizer_find(t, "<|end|>") >= 0);
    phi_chat_template *chat = NULL;
    assert_int_equal(phi_chat_template_create(t, &chat, &err), PHI_OK);
    assert_int_equal(phi_chat_end_of_turn(chat), phi_tokenizer_find(t, "<|end|>"));
    const phi_chat_message messages[] = {
        {.role = "user", .content = "What is 2 + 3?<|end|>", .content_bytes = 21}};
    phi_buf text;
    phi_buf_init(&text, SIZE_MAX);
    assert_int_equal(phi_chat_render(chat, messages, 1, true, &text, &err), PHI_OK);
    assert_string_equal(phi_buf_text(&text),
                        "<|user|>\nWhat is 2 + 3?<|end|><|end|>\n<|assistant|>\n");
    phi_tokens tokens;
    phi_tokens_init(&tokens);
    assert_int_equal(phi_chat_encode(chat, messages, 1, true, &tokens, &err), PHI_OK);
    size_t ends = 0;
    for (size_t i = 0; i < tokens.count; i++) {
        ends += tokens.ids[i] == phi_chat_end_of_turn(chat);
    }
    assert_int_equal(ends, 1);
    assert_int_equal(tokens.ids[0], phi_tokenizer_find(t, "<|user|>"));
    assert_int_equal(tokens.ids[tokens.count - 1], phi_tokenizer_find(t, "<|assistant|>"));
    phi_tokens_done(&tokens);
    phi_buf_done(&text);
    phi_chat_template_destroy(chat);
    phi_tokenizer_destroy(t);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(byte_level_encodes),
        cmocka_unit_test(sentencepiece_encodes),
        cmocka_unit_test(decodes),
        cmocka_unit_test(holds_back_half_characters),
        cmocka_unit_test(trusts_only_marked_spans),
        cmocka_unit_test(refuses_invalid_text),
        cmocka_unit_test(long_words_are_not_quadratic),
        cmocka_unit_test(names_what_is_wrong),
        cmocka_unit_test(pattern_steps_are_bounded),
        cmocka_unit_test(pattern_time_is_bounded),
        cmocka_unit_test(white_space_is_unicode_s),
        cmocka_unit_test(sample_model_ids),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}

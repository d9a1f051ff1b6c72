/*
 * Two tokenizer.json texts small enough to follow by hand, for tests and fuzzers: one of each kind.
 *
 * Byte-level: ids 0..255 are the bytes in order, then "he" 256, "ll" 257, "hell" 258, "hello" 259,
 * " w" 260, "<|user|>" 261 (swallows white space after it), "<|end|>" 262 (both sides), two spaces
 * 263 (not special).
 * SentencePiece style: 0..2 "<unk>", "<s>", "</s>"; 3..258 the byte tokens; 259.. the pieces below;
 * "<|user|>" 300 (swallows white space after it), "<|end|>" 301.
 */
#ifndef PHI_TESTS_UNIT_ENGINE_TOKENIZER_TINY_H
#define PHI_TESTS_UNIT_ENGINE_TOKENIZER_TINY_H

#include <stdio.h>

#include "base/buf.h"
#include "base/str.h"
#include "engine/tokenizer/bpe.h"

#define TINY_ADDED(id, content, lstrip, rstrip, normalized, special)                               \
    "{\"id\":" id ",\"content\":\"" content "\",\"single_word\":false,\"lstrip\":" lstrip          \
    ",\"rstrip\":" rstrip ",\"normalized\":" normalized ",\"special\":" special "}"

static inline void tiny_byte_level(phi_buf *out)
{
    phi_buf_append_str(
        out,
        "{\"added_tokens\":[" TINY_ADDED(
            "261", "<|user|>", "false", "true", "false",
            "true") "," TINY_ADDED("262", "<|end|>", "true", "true", "false",
                                   "true") "," TINY_ADDED("263", "  ", "false", "false", "true",
                                                          "false") "],\"normalizer\":null,\"pre_"
                                                                   "tokenizer\":{\"type\":"
                                                                   "\"Sequence\",\"pretokenizers\":"
                                                                   "["
                                                                   "{\"type\":\"Split\","
                                                                   "\"pattern\":{\"Regex\":\"\\\\p{"
                                                                   "N}{1,3}| ?\\\\p{L}+|"
                                                                   " ?[^\\\\s\\\\p{L}\\\\p{N}]+|"
                                                                   "\\\\s+(?!\\\\S)|\\\\s+\"},"
                                                                   "\"behavior\":\"Isolated\","
                                                                   "\"invert\":false},{\"type\":"
                                                                   "\"ByteLevel\",\"add_prefix_"
                                                                   "space\":false,"
                                                                   "\"use_regex\":false}]},\"post_"
                                                                   "processor\":null,\"decoder\":{"
                                                                   "\"type\":\"ByteLevel\"},"
                                                                   "\"model\":{\"type\":\"BPE\","
                                                                   "\"vocab\":{");
    for (unsigned byte = 0; byte < 256; byte++) {
        char spelt[5] = "";
        int bytes = phi_utf8_encode(phi_bpe_byte_to_char((uint8_t)byte), spelt);
        spelt[bytes] = '\0';
        const char *escape = spelt[0] == '"' || spelt[0] == '\\' ? "\\" : "";
        phi_buf_printf(out, "\"%s%s\":%u,", escape, spelt, byte);
    }
    phi_buf_append_str(out, "\"he\":256,\"ll\":257,\"hell\":258,\"hello\":259,\"\xc4\xa0w\":260},"
                            "\"merges\":[\"h e\",[\"l\",\"l\"],\"he ll\",\"hell o\","
                            "\"\xc4\xa0 w\"]}}");
}

#define TINY_MARK "\xe2\x96\x81"

static inline void tiny_sentencepiece(phi_buf *out)
{
    phi_buf_append_str(
        out,
        "{\"added_tokens\":[" TINY_ADDED("0", "<unk>", "false", "false", "false", "true") "," TINY_ADDED(
            "1", "<s>", "false", "false", "false",
            "true") "," TINY_ADDED("2", "</s>", "false", "true", "false",
                                   "false") "," TINY_ADDED("300", "<|user|>", "false", "true",
                                                           "false",
                                                           "true") "," TINY_ADDED("301", "<|end|>",
                                                                                  "false", "false",
                                                                                  "false",
                                                                                  "true") "],"
                                                                                          "\"normal"
                                                                                          "izer\":{"
                                                                                          "\"type\""
                                                                                          ":\"Seque"
                                                                                          "nce\","
                                                                                          "\"normal"
                                                                                          "izers\":"
                                                                                          "[{"
                                                                                          "\"type\""
                                                                                          ":\"Prepe"
                                                                                          "nd\","
                                                                                          "\"prepen"
                                                                                          "d\":"
                                                                                          "\"" TINY_MARK
                                                                                          "\"},{"
                                                                                          "\"type\""
                                                                                          ":\"Repla"
                                                                                          "ce\","
                                                                                          "\"patter"
                                                                                          "n\":{"
                                                                                          "\"String"
                                                                                          "\":\" "
                                                                                          "\"},"
                                                                                          "\"conten"
                                                                                          "t\":"
                                                                                          "\"" TINY_MARK
                                                                                          "\"}]},"
                                                                                          "\"pre_"
                                                                                          "tokenize"
                                                                                          "r\":"
                                                                                          "null,"
                                                                                          "\"post_"
                                                                                          "processo"
                                                                                          "r\":"
                                                                                          "{\"type"
                                                                                          "\":"
                                                                                          "\"Templa"
                                                                                          "teProces"
                                                                                          "sing\","
                                                                                          "\"single"
                                                                                          "\":[{"
                                                                                          "\"Specia"
                                                                                          "lToken\""
                                                                                          ":{"
                                                                                          "\"id\":"
                                                                                          "\"<s>\","
                                                                                          "\"type_"
                                                                                          "id\":0}}"
                                                                                          ",{"
                                                                                          "\"Sequen"
                                                                                          "ce\":{"
                                                                                          "\"id\":"
                                                                                          "\"A\","
                                                                                          "\"type_"
                                                                                          "id\":0}}"
                                                                                          "],"
                                                                                          "\"pair\""
                                                                                          ":[],"
                                                                                          "\"specia"
                                                                                          "l_"
                                                                                          "tokens\""
                                                                                          ":{\"<s>"
                                                                                          "\":{"
                                                                                          "\"id\":"
                                                                                          "\"<s>\","
                                                                                          "\"ids\":"
                                                                                          "[1],"
                                                                                          "\"tokens"
                                                                                          "\":[\"<"
                                                                                          "s>\"]}}}"
                                                                                          ","
                                                                                          "\"decode"
                                                                                          "r\":{"
                                                                                          "\"type\""
                                                                                          ":\"Seque"
                                                                                          "nce\","
                                                                                          "\"decode"
                                                                                          "rs\":[{"
                                                                                          "\"type\""
                                                                                          ":\"Repla"
                                                                                          "ce\","
                                                                                          "\"patter"
                                                                                          "n\":"
                                                                                          "{\"Strin"
                                                                                          "g\":"
                                                                                          "\"" TINY_MARK
                                                                                          "\"},"
                                                                                          "\"conten"
                                                                                          "t\":\" "
                                                                                          "\"},{"
                                                                                          "\"type\""
                                                                                          ":\"ByteF"
                                                                                          "allback"
                                                                                          "\"},"
                                                                                          "{\"type"
                                                                                          "\":"
                                                                                          "\"Fuse\""
                                                                                          "},{"
                                                                                          "\"type\""
                                                                                          ":\"Strip"
                                                                                          "\","
                                                                                          "\"conten"
                                                                                          "t\":\" "
                                                                                          "\","
                                                                                          "\"start"
                                                                                          "\":1,"
                                                                                          "\"stop\""
                                                                                          ":0}]},"
                                                                                          "\"model"
                                                                                          "\":{"
                                                                                          "\"type\""
                                                                                          ":\"BPE\""
                                                                                          ",\"unk_"
                                                                                          "token\":"
                                                                                          "\"<unk>"
                                                                                          "\","
                                                                                          "\"fuse_"
                                                                                          "unk\":"
                                                                                          "true,"
                                                                                          "\"byte_"
                                                                                          "fallback"
                                                                                          "\":true,"
                                                                                          "\"vocab"
                                                                                          "\":{\"<"
                                                                                          "unk>\":"
                                                                                          "0,\"<s>"
                                                                                          "\":1,\"<"
                                                                                          "/s>\":"
                                                                                          "2");
    for (unsigned byte = 0; byte < 256; byte++) {
        phi_buf_printf(out, ",\"<0x%02X>\":%u", byte, byte + 3);
    }
    static const char *const pieces[] = {
        TINY_MARK,
        "h",
        "e",
        "l",
        "o",
        "w",
        "r",
        "d",
        "a",
        "he",
        "ll",
        TINY_MARK "he",
        TINY_MARK "hell",
        TINY_MARK "hello",
        TINY_MARK "w",
        "or",
        "ld",
        TINY_MARK "wor",
        TINY_MARK "world",
        TINY_MARK TINY_MARK,
        "aa",
        "aaaa",
        "\xc3\xa9",
    };
    for (unsigned i = 0; i < sizeof pieces / sizeof *pieces; i++) {
        phi_buf_printf(out, ",\"%s\":%u", pieces[i], 259 + i);
    }
    phi_buf_append_str(out, "},\"merges\":[\"h e\",\"l l\",\"" TINY_MARK " he\",\"" TINY_MARK
                            "he ll\",\"" TINY_MARK "hell o\",\"" TINY_MARK
                            " w\",\"o r\",\"l d\",\"" TINY_MARK "w or\",\"" TINY_MARK
                            "wor ld\",\"" TINY_MARK " " TINY_MARK "\",\"a a\",\"aa aa\"]}}");
}

#endif

/*
 * The tokenizer as OpenVINO models of string operations, which the openvino_tokenizers library
 * implements; the chain of operations is that of its convert_tokenizer:
 *   tokenizer    strings -> SpecialTokensSplit -> RegexNormalization (SentencePiece's spaces) or
 *                RegexSplit (byte-level's words) -> BPETokenizer -> CombineSegments ->
 *                RaggedToDense -> input_ids, attention_mask
 *   detokenizer  ids -> VocabDecoder -> [spaces, ByteFallback] -> FuzeRagged -> UTF8Validate
 * Everything is read from tokenizer.json; what it has that these operations cannot do is named.
 */
#include <stdio.h>
#include <string.h>

#include "base/mem.h"
#include "engine/formats/openvino_tokenizer.h"
#include "engine/formats/openvino_write_internal.h"

#define CACHE_CAPACITY_MIN 20000U

static phi_ov_ref list_of(const char *type)
{
    return phi_ov_shape(type, 1, -1, 0, 0, 0);
}

static phi_ov_ref put_bytes(phi_ov_out *out, const char *name, const char *text, size_t bytes)
{
    /* A constant of no bytes keeps one in the file, as OpenVINO writes it. */
    phi_ov_ref shape = phi_ov_shape("u8", 1, (int64_t)bytes, 0, 0, 0);
    return phi_ov_constant(out, name, shape, bytes ? text : "", bytes ? bytes : 1);
}

static phi_ov_ref put_text(phi_ov_out *out, const char *name, const char *text)
{
    return put_bytes(out, name, text, strlen(text));
}

static phi_ov_ref put_ids(phi_ov_out *out, const char *name, const phi_buf *ids)
{
    phi_ov_ref shape =
        phi_ov_shape("i32", 1, (int64_t)(ids->length_bytes / sizeof(int32_t)), 0, 0, 0);
    return phi_ov_constant(out, name, shape, ids->data ? ids->data : "", ids->length_bytes);
}

static phi_ov_ref put_i32(phi_ov_out *out, const char *name, int32_t value)
{
    return phi_ov_constant(out, name, phi_ov_shape("i32", 0, 0, 0, 0, 0), &value, sizeof value);
}

static void put_strings(phi_ov_out *out, const char *name, const phi_ov_strings *list,
                        phi_ov_ref *to)
{
    char part[96];
    (void)snprintf(part, sizeof part, "%s/begins", name);
    to[0] = put_ids(out, part, &list->begins);
    (void)snprintf(part, sizeof part, "%s/ends", name);
    to[1] = put_ids(out, part, &list->ends);
    (void)snprintf(part, sizeof part, "%s/chars", name);
    to[2] = put_bytes(out, part, list->chars.data, list->chars.length_bytes);
}

static void extension(phi_ov_out *out, const char *op, const char *name, const char *data,
                      const phi_ov_ref *inputs, size_t n_inputs, phi_ov_ref *outputs,
                      size_t n_outputs)
{
    phi_ov_add(out, &(phi_ov_layer){.op = op, .opset = "extension", .name = name, .data = data},
               inputs, n_inputs, outputs, n_outputs);
}

/* Segments of texts: which of them belong to a text, where they are, and which are added tokens. */
enum { ROW_BEGINS, ROW_ENDS, BEGINS, ENDS, CHARS, SKIPS, SEGMENTS };

static void clear_segments(phi_ov_ref *s)
{
    for (int i = ROW_BEGINS; i <= ENDS; i++) {
        s[i] = list_of("i32");
    }
    s[CHARS] = list_of("u8");
    s[SKIPS] = list_of("boolean");
}

static phi_ov_ref range_of_rows(phi_ov_out *out, const char *name, int64_t first, phi_ov_ref count)
{
    char part[96];
    (void)snprintf(part, sizeof part, "%s/first", name);
    phi_ov_ref from = phi_ov_i64_scalar(out, part, first);
    phi_ov_ref to = count;
    if (first) {
        (void)snprintf(part, sizeof part, "%s/last", name);
        to = phi_ov_binary(out, "Add", part, count, from);
    }
    (void)snprintf(part, sizeof part, "%s/step", name);
    const phi_ov_ref inputs[] = {from, to, phi_ov_i64_scalar(out, part, 1)};
    phi_ov_ref made = list_of("i32");
    phi_ov_add(out,
               &(phi_ov_layer){
                   .op = "Range", .opset = "opset4", .name = name, .data = "output_type=\"i32\""},
               inputs, 3, &made, 1);
    return made;
}

/* Texts, cut at added tokens. */
static void write_split(phi_ov_out *out, const phi_ov_tokenizer *t, phi_ov_ref *s)
{
    phi_ov_ref texts = list_of("string");
    phi_ov_ref in[6];
    phi_ov_add(out,
               &(phi_ov_layer){.op = "Parameter",
                               .opset = "opset1",
                               .name = "string_input",
                               .data = "shape=\"?\" element_type=\"string\"",
                               .names = "string_input"},
               NULL, 0, &texts, 1);
    phi_ov_ref unpacked[] = {list_of("i32"), list_of("i32"), list_of("u8")};
    phi_ov_add(
        out,
        &(phi_ov_layer){.op = "StringTensorUnpack", .opset = "opset15", .name = "texts/unpacked"},
        &texts, 1, unpacked, 3);
    phi_ov_ref shape = phi_ov_shape_of(out, "texts/shape", unpacked[0]);
    phi_ov_ref count =
        phi_ov_gather(out, "texts/count", shape, phi_ov_i64_scalar(out, "texts/axis", 0), 0);
    in[0] = range_of_rows(out, "texts/row_begins", 0, count);
    in[1] = range_of_rows(out, "texts/row_ends", 1, count);
    memcpy(in + 2, unpacked, sizeof unpacked);
    in[5] = put_bytes(out, "added_tokens/pattern", phi_buf_text(&t->split), t->split.length_bytes);
    clear_segments(s);
    extension(out, "SpecialTokensSplit", "added_tokens/split", NULL, in, 6, s, 6);
}

static void write_normalizer(phi_ov_out *out, const phi_ov_replacement *how, uint32_t number,
                             phi_ov_ref *s)
{
    char name[48];
    char part[64];
    phi_ov_ref in[6];
    (void)snprintf(name, sizeof name, "normalizer.%u", number);
    memcpy(in, s + BEGINS, 4 * sizeof *in);
    (void)snprintf(part, sizeof part, "%s/pattern", name);
    in[4] = put_text(out, part, how->pattern);
    (void)snprintf(part, sizeof part, "%s/by", name);
    in[5] = put_text(out, part, how->by);
    phi_ov_ref made[SEGMENTS];
    clear_segments(made);
    extension(out, "RegexNormalization", name, "global_replace=\"true\"", in, 6, made + BEGINS, 4);
    memcpy(s + BEGINS, made + BEGINS, 4 * sizeof *s);
}

static void write_words(phi_ov_out *out, const char *pattern, uint32_t number, phi_ov_ref *s)
{
    char name[48];
    char part[64];
    phi_ov_ref in[SEGMENTS + 1];
    (void)snprintf(name, sizeof name, "words.%u", number);
    (void)snprintf(part, sizeof part, "%s/pattern", name);
    memcpy(in, s, SEGMENTS * sizeof *in);
    in[SEGMENTS] = put_text(out, part, pattern);
    clear_segments(s);
    extension(out, "RegexSplit", name, "behaviour=\"isolate\" invert=\"false\" max_splits=\"-1\"",
              in, SEGMENTS + 1, s, SEGMENTS);
}

/* Ids of each text: begins, ends, ids. */
static void write_bpe(phi_ov_out *out, const phi_ov_tokenizer *t, const phi_ov_ref *s,
                      phi_ov_ref *ids)
{
    char data[200];
    phi_ov_ref in[18];
    uint32_t capacity = t->vocab.count / 5;
    memcpy(in, s, 5 * sizeof *in);
    put_strings(out, "vocab", &t->vocab, in + 5);
    put_strings(out, "merges/left", &t->left, in + 8);
    put_strings(out, "merges/right", &t->right, in + 11);
    put_strings(out, "added_tokens", &t->special, in + 14);
    in[17] = put_ids(out, "added_tokens/ids", &t->special_ids);
    (void)snprintf(data, sizeof data,
                   "unk_token=\"\" fuse_unk=\"%s\" suffix_indicator=\"\" end_suffix=\"\" "
                   "byte_fallback=\"%s\" cache_capacity=\"%u\"",
                   t->fuse_unk ? "true" : "false", t->byte_fallback ? "true" : "false",
                   capacity > CACHE_CAPACITY_MIN ? capacity : CACHE_CAPACITY_MIN);
    for (int i = 0; i < 3; i++) {
        ids[i] = list_of("i32");
    }
    extension(out, "BPETokenizer", "tokens", data, in, 18, ids, 3);
}

/* A run of ids that every text gets. */
static size_t put_run(phi_ov_out *out, const char *name, const phi_buf *ids, phi_ov_ref *to)
{
    char part[64];
    if (!ids->length_bytes) {
        return 0;
    }
    (void)snprintf(part, sizeof part, "%s/begin", name);
    to[0] = put_i32(out, part, 0);
    (void)snprintf(part, sizeof part, "%s/end", name);
    to[1] = put_i32(out, part, (int32_t)(ids->length_bytes / sizeof(int32_t)));
    to[2] = put_ids(out, name, ids);
    return 3;
}

static void write_combined(phi_ov_out *out, const phi_ov_tokenizer *t, phi_ov_ref *ids)
{
    static const int32_t zeros[3];
    phi_ov_ref in[10];
    phi_ov_ref made[6];
    size_t n = put_run(out, "prefix", &t->prefix, in);
    memcpy(in + n, ids, 3 * sizeof *in);
    n += 3;
    n += put_run(out, "suffix", &t->suffix, in + n);
    in[n] = phi_ov_constant(out, "segments", phi_ov_shape("i32", 1, (int64_t)n / 3, 0, 0, 0), zeros,
                            n / 3 * sizeof *zeros);
    for (int i = 0; i < 6; i++) {
        made[i] = list_of("i32");
    }
    extension(out, "CombineSegments", "combined", NULL, in, n + 1, made, 6);
    memcpy(ids, made, 3 * sizeof *ids);
}

static void write_result(phi_ov_out *out, const char *name, phi_ov_ref x)
{
    phi_ov_ref wide = x;
    wide.type = "i64";
    phi_ov_add(out,
               &(phi_ov_layer){.op = "Convert",
                               .opset = "opset1",
                               .name = name,
                               .data = "destination_type=\"i64\"",
                               .names = name},
               &x, 1, &wide, 1);
    char result[64];
    (void)snprintf(result, sizeof result, "%s/result", name);
    phi_ov_add(out, &(phi_ov_layer){.op = "Result", .opset = "opset1", .name = result}, &wide, 1,
               NULL, 0);
}

/* Texts side by side, padded on the left. */
static void write_dense(phi_ov_out *out, const phi_description *d, const phi_ov_ref *ids)
{
    phi_ov_ref lengths = phi_ov_binary(out, "Subtract", "lengths", ids[1], ids[0]);
    const phi_ov_ref all[] = {lengths, put_i32(out, "lengths/axis", 0)};
    phi_ov_ref longest = phi_ov_shape("i32", 0, 0, 0, 0, 0);
    phi_ov_add(
        out,
        &(phi_ov_layer){
            .op = "ReduceMax", .opset = "opset1", .name = "longest", .data = "keep_dims=\"false\""},
        all, 2, &longest, 1);
    int32_t pad = d->pad_id >= 0 ? d->pad_id : d->n_eos ? d->eos_ids[0] : 0;
    const phi_ov_ref in[] = {ids[0], ids[1], ids[2], longest, put_i32(out, "padding", pad)};
    phi_ov_ref made[] = {phi_ov_shape("i32", 2, -1, -1, 0, 0),
                         phi_ov_shape("boolean", 2, -1, -1, 0, 0)};
    extension(out, "RaggedToDense", "dense", "pad_right=\"false\" m_pad_max_length=\"false\"", in,
              5, made, 2);
    write_result(out, "input_ids", made[0]);
    write_result(out, "attention_mask", made[1]);
}

static void write_encoder(phi_ov_out *out, const phi_ov_tokenizer *t, const phi_description *d)
{
    phi_ov_ref s[SEGMENTS];
    phi_ov_ref ids[3];
    write_split(out, t, s);
    for (uint32_t i = 0; i < t->n_normalizers; i++) {
        write_normalizer(out, &t->normalizers[i], i, s);
    }
    for (uint32_t i = 0; i < t->n_words; i++) {
        write_words(out, t->words[i], i, s);
    }
    write_bpe(out, t, s, ids);
    write_combined(out, t, ids);
    write_dense(out, d, ids);
}

static void write_replaced(phi_ov_out *out, const char *name, const phi_ov_replacement *how,
                           phi_ov_ref *pieces)
{
    char part[64];
    phi_ov_ref in[5];
    memcpy(in, pieces, 3 * sizeof *in);
    (void)snprintf(part, sizeof part, "%s/pattern", name);
    in[3] = put_text(out, part, how->pattern);
    (void)snprintf(part, sizeof part, "%s/by", name);
    in[4] = put_text(out, part, how->by);
    extension(out, "RegexNormalization", name, "global_replace=\"true\"", in, 5, pieces, 3);
}

static void write_decoder_model(phi_ov_out *out, const phi_ov_tokenizer *t)
{
    char name[48];
    phi_ov_ref ids = phi_ov_shape("i64", 2, -1, -1, 0, 0);
    phi_ov_add(out,
               &(phi_ov_layer){.op = "Parameter",
                               .opset = "opset1",
                               .name = "token_ids",
                               .data = "shape=\"?,?\" element_type=\"i64\"",
                               .names = "token_ids"},
               NULL, 0, &ids, 1);
    phi_ov_ref in[6] = {phi_ov_convert(out, "token_ids/i32", ids, "i32")};
    put_strings(out, "vocab", &t->vocab, in + 1);
    in[4] = put_ids(out, "skipped", &t->skipped_ids);
    /* Rows, and the pieces of them. */
    phi_ov_ref made[] = {list_of("i32"), list_of("i32"), list_of("i32"), list_of("i32"),
                         list_of("u8")};
    extension(out, "VocabDecoder", "pieces", "skip_tokens=\"\"", in, 5, made, 5);
    for (uint32_t i = 0; i < t->n_decoders; i++) {
        (void)snprintf(name, sizeof name, "decoder.%u", i);
        write_replaced(out, name, &t->decoders[i], made + 2);
    }
    if (t->byte_fallback) {
        memcpy(in, made + 2, 3 * sizeof *in);
        extension(out, "ByteFallback", "bytes", NULL, in, 3, made + 2, 3);
    }
    phi_ov_ref text[] = {list_of("i32"), list_of("i32"), made[4]};
    extension(out, "FuzeRagged", "joined", NULL, made, 4, text, 2);
    if (t->strips) {
        write_replaced(out, "stripped", &(phi_ov_replacement){.pattern = "^ ", .by = ""}, text);
    }
    memcpy(in, text, sizeof text);
    extension(out, "UTF8Validate", "valid", "replace_mode=\"true\"", in, 3, text, 3);
    phi_ov_ref packed = list_of("string");
    phi_ov_add(out,
               &(phi_ov_layer){.op = "StringTensorPack",
                               .opset = "opset15",
                               .name = "string_output",
                               .names = "string_output"},
               text, 3, &packed, 1);
    phi_ov_add(out, &(phi_ov_layer){.op = "Result", .opset = "opset1", .name = "result"}, &packed,
               1, NULL, 0);
}

/* ---- files ---- */

static void put_info(phi_ov_out *out, const char *name, int32_t id)
{
    if (id >= 0) {
        (void)phi_buf_printf(&out->info, "\t\t<%s value=\"%d\" />\n", name, id);
    }
}

static phi_status write_model(const phi_ov_tokenizer *t, const phi_description *d, const char *dir,
                              bool decodes, phi_err *err)
{
    phi_ov_out out;
    phi_status status =
        phi_ov_out_init(&out, dir, decodes ? "openvino_detokenizer" : "openvino_tokenizer", err);
    if (!status) {
        put_info(&out, "bos_token_id", d->bos_id);
        put_info(&out, "eos_token_id", d->n_eos ? d->eos_ids[0] : -1);
        put_info(&out, "pad_token_id", d->pad_id);
        if (decodes) {
            write_decoder_model(&out, t);
        } else {
            write_encoder(&out, t, d);
        }
        status = phi_ov_out_finish(&out, err);
    }
    phi_ov_out_done(&out);
    return status;
}

phi_status phi_ov_write_tokenizers(const phi_export *export, const char *dir, phi_err *err)
{
    phi_ov_tokenizer t = {.root = NULL};
    char *path =
        export->source_dir ? phi_strfmt("%s/tokenizer.json", export->source_dir) : phi_strdup("");
    if (!export->source_dir || !phi_file_exists(path)) {
        phi_free(path);
        return PHI_OK;
    }
    phi_ov_tokenizer_init(&t);
    phi_status status = phi_ov_tokenizer_read(&t, path, err);
    phi_free(path);
    status = status ? status : write_model(&t, export->description, dir, false, err);
    status = status ? status : write_model(&t, export->description, dir, true, err);
    phi_ov_tokenizer_done(&t);
    return status;
}

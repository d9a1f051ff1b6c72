/*
 * All is read as unsigned codes: two's complement of b bits becomes q + 2^(b - 1) by flipping its
 * top bit, and its zero point with it. Then
 *   value = (q - zero) * scale  or  q * scale + offset
 * is written as the engine's forms have it (see tensor/weight.h): INT4 takes up to 4 bits, INT8 the
 * rest, with codes that are q less a base:
 *   one zero point that the codes' range has room for:  codes q - zero, without offsets
 *   else:                                               codes q - base, offset (base - zero) *
 * scale
 */
#include "engine/formats/coded.h"

#include <math.h>
#include <string.h>

#include "base/assert.h"
#include "base/checked.h"
#include "base/mem.h"
#include "engine/tensor/half.h"

#define WORD_BITS 32U
/* Codes of an AWQ word, and the row of each of its nibbles. */
#define AWQ_ROWS 8U
static const uint8_t awq_row[AWQ_ROWS] = {0, 2, 4, 6, 1, 3, 5, 7};
/* Twice the values of E2M1. */
static const int8_t e2m1[16] = {0, 1, 2, 3, 4, 6, 8, 12, 0, -1, -2, -3, -4, -6, -8, -12};

static uint32_t groups_of(const phi_coded *coded)
{
    return coded->cols / coded->group;
}

/* Bytes of `count` codes of `bits` bits. */
static uint64_t packed_bytes(uint64_t count, uint32_t bits)
{
    return (count * bits + 7) / 8;
}

static uint32_t scale_bytes(const phi_coded *coded)
{
    return coded->is_mx ? 1 : phi_dtype_get(coded->scale_dtype)->block_bytes;
}

/* ---- memory ---- */

void phi_coded_buffer_done(phi_coded_buffer *buffer)
{
    if (buffer) {
        phi_free(buffer->data);
        *buffer = (phi_coded_buffer){0};
    }
}

/* Says its status plainly, so that a reader (and an analyser) sees that nothing goes on. */
static phi_status no_memory(phi_err *err, const char *what)
{
    phi_status status = phi_fail(err, PHI_E_NO_MEMORY, "not enough memory for %s", what);
    PHI_ASSERT(status == PHI_E_NO_MEMORY);
    return PHI_E_NO_MEMORY;
}

static phi_status reserve(phi_coded_buffer *buffer, uint64_t bytes, phi_err *err)
{
    if (bytes <= buffer->bytes) {
        return PHI_OK;
    }
    phi_coded_buffer_done(buffer);
    buffer->data = bytes <= SIZE_MAX ? phi_try_alloc_aligned((size_t)bytes) : NULL;
    if (!buffer->data) {
        return no_memory(err, "rows as they are stored");
    }
    buffer->bytes = (size_t)bytes;
    return PHI_OK;
}

/* ---- codes ---- */

/* `count` codes from the lowest bits of bytes on, whatever their width. */
static void unpack_run(const uint8_t *src, uint32_t bits, uint32_t flip, size_t count, uint8_t *out)
{
    if (bits == 4) {
        for (size_t i = 0; i < count; i++) {
            uint32_t both = src[i / 2];
            out[i] = (uint8_t)((both >> i % 2 * 4 & 15U) ^ flip);
        }
        return;
    }
    uint32_t mask = (1U << bits) - 1;
    uint32_t held = 0;
    uint32_t n_held = 0;
    for (size_t i = 0; i < count; i++) {
        if (n_held < bits) {
            held |= (uint32_t)*src++ << n_held;
            n_held += 8;
        }
        out[i] = (uint8_t)((held & mask) ^ flip);
        held >>= bits;
        n_held -= bits;
    }
}

static uint32_t flip_of(const phi_coded *coded)
{
    return coded->is_signed ? 1U << (coded->bits - 1) : 0;
}

static phi_status read_array(const phi_array *array, uint64_t offset, uint64_t bytes, void *out,
                             phi_err *err)
{
    PHI_ASSERT(phi_checked_range(offset, bytes, array->bytes));
    return phi_file_read_at(array->file, array->offset + offset, out, (size_t)bytes, err);
}

static phi_status codes_by_row(const phi_coded *coded, uint32_t row, uint32_t count,
                               phi_coded_buffer *buffer, uint8_t *out, phi_err *err)
{
    uint64_t row_bytes = packed_bytes(coded->cols, coded->bits);
    phi_status status = reserve(buffer, row_bytes * count, err);
    if (!status) {
        status = read_array(&coded->codes, row * row_bytes, count * row_bytes, buffer->data, err);
    }
    for (uint32_t r = 0; r < count && !status; r++) {
        unpack_run((const uint8_t *)buffer->data + r * row_bytes, coded->bits, flip_of(coded),
                   coded->cols, out + (size_t)r * coded->cols);
    }
    return status;
}

static phi_status codes_by_column(const phi_coded *coded, uint32_t row, uint32_t count,
                                  phi_coded_buffer *buffer, uint8_t *out, phi_err *err)
{
    uint32_t per_word = WORD_BITS / coded->bits;
    uint32_t mask = (1U << coded->bits) - 1;
    phi_status status = reserve(buffer, (uint64_t)count * 4, err);
    for (uint32_t first = 0; first < coded->cols && !status; first += per_word) {
        uint64_t at = ((uint64_t)(first / per_word) * coded->rows + row) * 4;
        status = read_array(&coded->codes, at, (uint64_t)count * 4, buffer->data, err);
        for (uint32_t r = 0; r < count && !status; r++) {
            uint32_t word;
            memcpy(&word, (const uint8_t *)buffer->data + (size_t)r * 4, sizeof word);
            for (uint32_t i = 0; i < per_word; i++, word >>= coded->bits) {
                out[(size_t)r * coded->cols + first + i] = (uint8_t)(word & mask);
            }
        }
    }
    return status;
}

/* Where row `row` is among the nibbles of its word. */
static uint32_t awq_shift(uint32_t row)
{
    for (uint32_t i = 0; i < AWQ_ROWS; i++) {
        if (awq_row[i] == row % AWQ_ROWS) {
            return i * 4;
        }
    }
    PHI_UNREACHABLE();
}

/* Lines of words along the rows, in plain order or in AWQ's. */
typedef struct word_lines {
    const phi_array *array;
    bool is_awq;
} word_lines;

/* One line of words along the rows (a column's codes, or a group's zero points), each word being
 * `per_word` rows: row `row + i` goes to out[i * step]. */
static phi_status read_line(const phi_coded *coded, const word_lines *lines, uint32_t line,
                            uint32_t row, uint32_t count, phi_coded_buffer *buffer, uint8_t *out,
                            size_t step, phi_err *err)
{
    uint32_t per_word = WORD_BITS / coded->bits;
    uint32_t first = row / per_word;
    uint32_t words = (row + count - 1) / per_word - first + 1;
    uint32_t mask = (1U << coded->bits) - 1;
    uint32_t flip = flip_of(coded);
    uint64_t at = ((uint64_t)line * (coded->rows / per_word) + first) * 4;
    phi_status status = reserve(buffer, (uint64_t)words * 4, err);
    status = status ? status : read_array(lines->array, at, (uint64_t)words * 4, buffer->data, err);
    for (uint32_t i = 0; i < count && !status; i++) {
        uint32_t word;
        uint32_t in_word = (row + i) % per_word;
        memcpy(&word, (const uint8_t *)buffer->data + ((row + i) / per_word - first) * 4,
               sizeof word);
        uint32_t shift = lines->is_awq ? awq_shift(in_word) : in_word * coded->bits;
        out[i * step] = (uint8_t)((word >> shift & mask) ^ flip);
    }
    return status;
}

static phi_status codes_by_line(const phi_coded *coded, uint32_t row, uint32_t count,
                                phi_coded_buffer *buffer, uint8_t *out, phi_err *err)
{
    const word_lines lines = {.array = &coded->codes, .is_awq = coded->order == PHI_CODES_AWQ};
    phi_status status = PHI_OK;
    for (uint32_t col = 0; col < coded->cols && !status; col++) {
        status = read_line(coded, &lines, col, row, count, buffer, out + col, coded->cols, err);
    }
    return status;
}

static phi_status read_q(const phi_coded *coded, uint32_t row, uint32_t count,
                         phi_coded_buffer *buffer, uint8_t *out, phi_err *err)
{
    PHI_ASSERT(count > 0 && row < coded->rows && count <= coded->rows - row);
    switch (coded->order) {
    case PHI_CODES_BY_ROW:
        return codes_by_row(coded, row, count, buffer, out, err);
    case PHI_CODES_BY_COLUMN:
        return codes_by_column(coded, row, count, buffer, out, err);
    case PHI_CODES_AWQ:
    case PHI_CODES_BY_LINE:
        return codes_by_line(coded, row, count, buffer, out, err);
    }
    PHI_UNREACHABLE();
}

/* ---- scales and zero points ---- */

static void widen_scales(const phi_coded *coded, const uint8_t *stored, uint32_t count, float *out)
{
    if (!coded->is_mx) {
        phi_dtype_widen(coded->scale_dtype, stored, count, out);
        return;
    }
    for (uint32_t i = 0; i < count; i++) {
        /* Half, because codes are doubled. */
        out[i] = ldexpf(1.0F, (int)stored[i] - 128);
    }
}

/* Numbers of the scales' type, [count][groups], of rows of an array in either order. */
static phi_status read_numbers(const phi_coded *coded, const phi_array *array, bool by_group,
                               uint32_t row, uint32_t count, phi_coded_buffer *buffer, float *out,
                               phi_err *err)
{
    uint32_t groups = groups_of(coded);
    uint64_t size = scale_bytes(coded);
    uint32_t lines = by_group ? groups : count;
    uint32_t in_line = by_group ? count : groups;
    phi_status status = reserve(buffer, in_line * (size + sizeof(float)), err);
    for (uint32_t i = 0; i < lines && !status; i++) {
        uint64_t at = by_group ? (uint64_t)i * coded->rows + row : (uint64_t)(row + i) * groups;
        float *wide = buffer->data;
        uint8_t *stored = (uint8_t *)(wide + in_line);
        status = read_array(array, at * size, in_line * size, stored, err);
        if (status) {
            break;
        }
        widen_scales(coded, stored, in_line, wide);
        for (uint32_t j = 0; j < in_line; j++) {
            out[by_group ? (size_t)j * groups + i : (size_t)i * groups + j] = wide[j];
        }
    }
    return status;
}

static phi_status read_one_scale(const phi_coded *coded, size_t n, float *out, phi_err *err)
{
    uint8_t stored[sizeof(float)] = {0};
    float scale = 0.0F;
    phi_status status = read_array(&coded->scales, 0, scale_bytes(coded), stored, err);
    widen_scales(coded, stored, 1, &scale);
    for (size_t i = 0; i < n && !status; i++) {
        out[i] = scale;
    }
    return status;
}

/* Zero points that stand one after another over all rows, several in a byte. */
static phi_status dense_zero_codes(const phi_coded *coded, uint32_t row, uint32_t count,
                                   phi_coded_buffer *buffer, uint8_t *out, phi_err *err)
{
    uint32_t bits = coded->bits;
    uint32_t per_byte = 8 / bits;
    uint32_t mask = (1U << bits) - 1;
    uint64_t first = (uint64_t)row * groups_of(coded);
    uint64_t n = (uint64_t)count * groups_of(coded);
    uint64_t begin = first / per_byte;
    uint64_t bytes = (first + n + per_byte - 1) / per_byte - begin;
    phi_status status = reserve(buffer, bytes, err);
    status = status ? status : read_array(&coded->zeros, begin, bytes, buffer->data, err);
    for (uint64_t i = 0; i < n && !status; i++) {
        uint8_t byte = ((const uint8_t *)buffer->data)[(first + i) / per_byte - begin];
        uint32_t code = (uint32_t)byte >> (first + i) % per_byte * bits & mask;
        out[i] = (uint8_t)(code ^ flip_of(coded));
    }
    return status;
}

/* Zero points of which a word holds those of one group and several rows. */
static phi_status word_zero_codes(const phi_coded *coded, uint32_t row, uint32_t count,
                                  phi_coded_buffer *buffer, uint8_t *out, phi_err *err)
{
    uint32_t per_word = WORD_BITS / coded->bits;
    uint32_t mask = (1U << coded->bits) - 1;
    uint32_t first = row / per_word;
    uint64_t groups = groups_of(coded);
    uint64_t lines = (row + count - 1) / per_word - first + 1;
    phi_status status = reserve(buffer, lines * groups * 4, err);
    status = status ? status
                    : read_array(&coded->zeros, first * groups * 4, lines * groups * 4,
                                 buffer->data, err);
    for (uint32_t r = 0; r < count && !status; r++) {
        const uint8_t *line =
            (const uint8_t *)buffer->data + ((row + r) / per_word - first) * groups * 4;
        for (uint64_t g = 0; g < groups; g++) {
            uint32_t word;
            memcpy(&word, line + g * 4, sizeof word);
            uint32_t code = word >> (row + r) % per_word * coded->bits & mask;
            out[r * groups + g] = (uint8_t)(code ^ flip_of(coded));
        }
    }
    return status;
}

/* Zero points that are codes, [count][groups], as they are stored. */
static phi_status read_zero_codes(const phi_coded *coded, uint32_t row, uint32_t count,
                                  phi_coded_buffer *buffer, uint8_t *out, phi_err *err)
{
    uint32_t groups = groups_of(coded);
    phi_status status = PHI_OK;
    if (coded->zeros_order == PHI_ZEROS_DENSE) {
        return dense_zero_codes(coded, row, count, buffer, out, err);
    }
    if (coded->zeros_order == PHI_ZEROS_BY_WORD) {
        return word_zero_codes(coded, row, count, buffer, out, err);
    }
    if (coded->zeros_order == PHI_ZEROS_BY_ROW) {
        uint64_t row_bytes = packed_bytes(groups, coded->bits);
        status = reserve(buffer, row_bytes * count, err);
        if (!status) {
            status =
                read_array(&coded->zeros, row * row_bytes, count * row_bytes, buffer->data, err);
        }
        for (uint32_t r = 0; r < count && !status; r++) {
            unpack_run((const uint8_t *)buffer->data + r * row_bytes, coded->bits, flip_of(coded),
                       groups, out + (size_t)r * groups);
        }
        return status;
    }
    const word_lines lines = {.array = &coded->zeros,
                              .is_awq = coded->zeros_order == PHI_ZEROS_AWQ};
    for (uint32_t g = 0; g < groups && !status; g++) {
        status = read_line(coded, &lines, g, row, count, buffer, out + g, groups, err);
    }
    return status;
}

/* What codes in the form are less than q. */
static int32_t base_of(const phi_coded *coded)
{
    if (!coded->form.has_offsets) {
        return coded->form.kind == PHI_WEIGHT_INT4 ? coded->zero - 8 : coded->zero;
    }
    return coded->bits == 8 ? 128 : 0;
}

float phi_zero_of_offset(float offset, float scale)
{
    return offset == 0.0F ? 0.0F : -offset / scale;
}

/* To the nearest number of so many bits. */
static double round_to_bits(double value, unsigned bits)
{
    const unsigned drop = 53 - bits;
    uint64_t pattern;
    memcpy(&pattern, &value, sizeof pattern);
    pattern = (pattern + (UINT64_C(1) << (drop - 1))) >> drop << drop;
    memcpy(&value, &pattern, sizeof pattern);
    return value;
}

/* The offset that codes less a zero point of fp32 have: -zero * scale but for the last bits, in
 * which many offsets would have the same zero point. */
static float offset_of_zero(float zero, float scale)
{
    /* Of fp16; of a K-quant's products; of those less 128 scales; of the rest. */
    static const unsigned bits[] = {11, 17, 21};
    const double exact = -(double)zero * (double)scale;
    for (size_t i = 0; i < sizeof bits / sizeof *bits; i++) {
        float offset = (float)round_to_bits(exact, bits[i]);
        if (phi_zero_of_offset(offset, scale) == zero) {
            return offset;
        }
    }
    return (float)exact;
}

/* Of zero points that are floats: what codes q - base, of q without a sign, need. */
static void offsets_of_zeros(const phi_coded *coded, int32_t base, const float *scales, size_t n,
                             float *zeros)
{
    const int32_t more = base - (int32_t)flip_of(coded);
    for (size_t i = 0; i < n; i++) {
        zeros[i] = more == 0 && coded->scale_dtype == PHI_DTYPE_F32
                       ? offset_of_zero(zeros[i], scales[i])
                       : (float)(((double)more - (double)zeros[i]) * (double)scales[i]);
    }
}

/* scales and offsets [count][groups], offsets for codes that are q - base. */
static phi_status read_params(const phi_coded *coded, uint32_t row, uint32_t count, int32_t base,
                              phi_coded_buffer *buffer, float *scales, float *offsets, phi_err *err)
{
    size_t n = (size_t)count * groups_of(coded);
    uint8_t *codes = NULL;
    phi_status status = coded->one_scale
                            ? read_one_scale(coded, n, scales, err)
                            : read_numbers(coded, &coded->scales, coded->scales_by_group, row,
                                           count, buffer, scales, err);
    if (status || !offsets) {
        return status;
    }
    switch (coded->zeros_order) {
    case PHI_ZEROS_ONE:
        for (size_t i = 0; i < n; i++) {
            offsets[i] = (float)(base - coded->zero) * scales[i];
        }
        return PHI_OK;
    case PHI_ZEROS_FLOAT:
        status = read_numbers(coded, &coded->zeros, false, row, count, buffer, offsets, err);
        if (!status) {
            offsets_of_zeros(coded, base, scales, n, offsets);
        }
        return status;
    case PHI_ZEROS_OFFSET:
        status = read_numbers(coded, &coded->zeros, false, row, count, buffer, offsets, err);
        for (size_t i = 0; i < n && !status; i++) {
            offsets[i] = (float)base * scales[i] + offsets[i];
        }
        return status;
    case PHI_ZEROS_BY_ROW:
    case PHI_ZEROS_DENSE:
    case PHI_ZEROS_BY_GROUP:
    case PHI_ZEROS_BY_WORD:
    case PHI_ZEROS_AWQ:
        break;
    }
    codes = phi_try_alloc(n);
    status = codes ? read_zero_codes(coded, row, count, buffer, codes, err)
                   : no_memory(err, "zero points");
    for (size_t i = 0; i < n && !status; i++) {
        offsets[i] = (float)(base - ((int32_t)codes[i] + coded->zero)) * scales[i];
    }
    phi_free(codes);
    return status;
}

phi_status phi_coded_read_codes(const phi_coded *coded, uint32_t row, uint32_t count,
                                phi_coded_buffer *buffer, uint8_t *codes, float *scales,
                                float *offsets, phi_err *err)
{
    PHI_ASSERT(coded->form.group);
    int32_t base = base_of(coded);
    phi_status status = read_q(coded, row, count, buffer, codes, err);
    for (size_t i = 0; i < (size_t)count * coded->cols && !status; i++) {
        codes[i] = (uint8_t)(coded->is_mx ? e2m1[codes[i]] : codes[i] - base);
    }
    if (!status) {
        status = read_params(coded, row, count, base, buffer, scales,
                             coded->form.has_offsets ? offsets : NULL, err);
    }
    return status;
}

phi_status phi_coded_read_f32(const phi_coded *coded, uint32_t row, uint32_t count,
                              phi_coded_buffer *buffer, float *out, phi_err *err)
{
    size_t cols = coded->cols;
    size_t groups = groups_of(coded);
    uint8_t *q = phi_try_alloc(count * cols);
    float *params = phi_try_alloc(2 * count * groups * sizeof *params);
    phi_status status =
        q && params ? read_q(coded, row, count, buffer, q, err) : no_memory(err, "rows");
    if (!status) {
        status = read_params(coded, row, count, 0, buffer, params, params + count * groups, err);
    }
    for (size_t r = 0; r < count && !status; r++) {
        const float *scales = params + r * groups;
        const float *offsets = scales + count * groups;
        for (size_t k = 0; k < cols; k++) {
            size_t g = coded->groups_of_cols ? coded->groups_of_cols[k] : k / coded->group;
            float code = coded->is_mx ? (float)e2m1[q[r * cols + k]] : (float)q[r * cols + k];
            out[r * cols + k] = scales[g] * code + offsets[g];
        }
    }
    phi_free(q);
    phi_free(params);
    return status;
}

/* ---- settling ---- */

static phi_status check_array(const phi_array *array, const char *what, uint64_t bytes,
                              phi_err *err)
{
    if (!array->file) {
        return phi_fail(err, PHI_E_FORMAT, "it has no %s", what);
    }
    if (array->bytes != bytes) {
        return phi_fail(err, PHI_E_FORMAT, "its %s take %llu bytes; %llu are right for its shape",
                        what, (unsigned long long)array->bytes, (unsigned long long)bytes);
    }
    if (!phi_checked_range(array->offset, array->bytes, array->file->bytes)) {
        return phi_fail(err, PHI_E_FORMAT, "its %s lie outside the file", what);
    }
    return PHI_OK;
}

static phi_status check_shape(const phi_coded *coded, phi_err *err)
{
    bool in_words = coded->order != PHI_CODES_BY_ROW;
    if (coded->bits < 1 || coded->bits > 8) {
        return phi_fail(err, PHI_E_UNSUPPORTED, "codes of %u bits are not supported", coded->bits);
    }
    if (coded->is_mx && (coded->bits != 4 || coded->zeros_order != PHI_ZEROS_ONE || coded->zero)) {
        return phi_fail(err, PHI_E_UNSUPPORTED, "MXFP4 has 4 bits and no zero points");
    }
    if (coded->rows == 0 || coded->cols == 0 || coded->group == 0 ||
        coded->cols % coded->group != 0) {
        return phi_fail(err, PHI_E_UNSUPPORTED, "groups of %u do not divide %u columns",
                        coded->group, coded->cols);
    }
    bool zeros_in_words =
        coded->zeros_order == PHI_ZEROS_BY_GROUP || coded->zeros_order == PHI_ZEROS_BY_WORD;
    if ((in_words || zeros_in_words) && WORD_BITS % coded->bits != 0) {
        return phi_fail(err, PHI_E_UNSUPPORTED, "codes of %u bits in words of 32 are not supported",
                        coded->bits);
    }
    if (coded->zeros_order == PHI_ZEROS_DENSE && 8 % coded->bits != 0) {
        return phi_fail(err, PHI_E_UNSUPPORTED, "zero points of %u bits are not supported here",
                        coded->bits);
    }
    if (coded->order == PHI_CODES_BY_COLUMN && coded->cols % (WORD_BITS / coded->bits) != 0) {
        return phi_fail(err, PHI_E_UNSUPPORTED, "%u columns do not fill words", coded->cols);
    }
    if (coded->order == PHI_CODES_AWQ && (coded->bits != 4 || coded->rows % AWQ_ROWS != 0)) {
        return phi_fail(err, PHI_E_UNSUPPORTED, "only 4 bits and whole words are supported here");
    }
    bool lines = coded->order == PHI_CODES_BY_LINE || coded->zeros_order == PHI_ZEROS_BY_GROUP ||
                 coded->zeros_order == PHI_ZEROS_AWQ;
    if (lines && coded->rows % (WORD_BITS / coded->bits) != 0) {
        return phi_fail(err, PHI_E_UNSUPPORTED, "codes or zero points of %u rows do not fill words",
                        coded->rows);
    }
    return PHI_OK;
}

static uint64_t zeros_bytes(const phi_coded *coded)
{
    uint64_t groups = groups_of(coded);
    switch (coded->zeros_order) {
    case PHI_ZEROS_ONE:
        return 0;
    case PHI_ZEROS_BY_ROW:
        return coded->rows * packed_bytes(groups, coded->bits);
    case PHI_ZEROS_DENSE:
        return packed_bytes(groups * coded->rows, coded->bits);
    case PHI_ZEROS_BY_WORD:
        return ((uint64_t)coded->rows * coded->bits + WORD_BITS - 1) / WORD_BITS * groups * 4;
    case PHI_ZEROS_BY_GROUP:
    case PHI_ZEROS_AWQ:
        return groups * coded->rows * coded->bits / 8;
    case PHI_ZEROS_FLOAT:
    case PHI_ZEROS_OFFSET:
        return groups * coded->rows * scale_bytes(coded);
    }
    PHI_UNREACHABLE();
}

/* Rows, columns and groups have 32 bits, so that no product here overflows 64. */
static phi_status check_arrays(const phi_coded *coded, phi_err *err)
{
    uint64_t codes = coded->order == PHI_CODES_BY_ROW
                         ? coded->rows * packed_bytes(coded->cols, coded->bits)
                         : (uint64_t)coded->rows * coded->cols / (WORD_BITS / coded->bits) * 4;
    uint64_t scales =
        (coded->one_scale ? 1 : (uint64_t)coded->rows * groups_of(coded)) * scale_bytes(coded);
    phi_status status = check_array(&coded->codes, "codes", codes, err);
    status = status ? status : check_array(&coded->scales, "scales", scales, err);
    if (!status && coded->zeros_order != PHI_ZEROS_ONE) {
        status = check_array(&coded->zeros, "zero points", zeros_bytes(coded), err);
    }
    if (!status && coded->group_index.file) {
        status = check_array(&coded->group_index, "group index", (uint64_t)coded->cols * 4, err);
    }
    return status;
}

static phi_status read_group_index(phi_coded *coded, phi_err *err)
{
    bool plain = true;
    size_t bytes = (size_t)coded->cols * 4;
    if (!coded->group_index.file) {
        return PHI_OK;
    }
    uint32_t *index = phi_try_alloc(bytes);
    phi_status status =
        index ? read_array(&coded->group_index, 0, bytes, index, err) : no_memory(err, "groups");
    for (uint32_t k = 0; k < coded->cols && !status; k++) {
        if (index[k] >= groups_of(coded)) {
            status = phi_fail(err, PHI_E_FORMAT, "its group index of column %u is %d; it has %u", k,
                              (int)index[k], groups_of(coded));
        }
        plain = plain && index[k] == k / coded->group;
    }
    if (status || plain) {
        phi_free(index);
        return status;
    }
    coded->groups_of_cols = index;
    return PHI_OK;
}

/* Zero points that are all one are as good as none. */
static phi_status join_zeros(phi_coded *coded, phi_err *err)
{
    enum { ROWS_AT_ONCE = 256 };
    phi_coded_buffer buffer = {0};
    bool same = true;
    uint8_t first = 0;
    size_t groups = groups_of(coded);
    uint8_t *codes = phi_try_alloc(ROWS_AT_ONCE * groups);
    phi_status status = codes ? PHI_OK : no_memory(err, "zero points");
    for (uint32_t row = 0; row < coded->rows && same && !status; row += ROWS_AT_ONCE) {
        uint32_t left = coded->rows - row;
        uint32_t count = left < ROWS_AT_ONCE ? left : ROWS_AT_ONCE;
        status = read_zero_codes(coded, row, count, &buffer, codes, err);
        first = row == 0 ? codes[0] : first;
        for (size_t i = 0; i < count * groups && same && !status; i++) {
            same = codes[i] == first;
        }
    }
    phi_free(codes);
    phi_coded_buffer_done(&buffer);
    if (!status && same) {
        coded->zeros_order = PHI_ZEROS_ONE;
        coded->zero += first;
    }
    return status;
}

static void choose_form(phi_coded *coded)
{
    int32_t q_max = (1 << coded->bits) - 1;
    bool is_int4 = coded->bits <= 4 && !coded->is_mx;
    phi_weight shape;
    /* Codes q - zero have to be in -8..7 or in -128..127. */
    bool centred = coded->is_mx || (coded->zeros_order == PHI_ZEROS_ONE && coded->zero >= 0 &&
                                    coded->zero <= (is_int4 ? 8 : 128) &&
                                    q_max - coded->zero <= (is_int4 ? 7 : 127));
    bool halves = coded->scale_dtype == PHI_DTYPE_F16 && !coded->is_mx &&
                  (centred || (is_int4 && coded->zeros_order == PHI_ZEROS_OFFSET));
    coded->form = (phi_form){.kind = is_int4 ? PHI_WEIGHT_INT4 : PHI_WEIGHT_INT8,
                             .group = coded->group,
                             .has_offsets = !centred,
                             .wide = !halves};
    if (coded->groups_of_cols ||
        phi_weight_shape(&shape, &coded->form, coded->rows, coded->cols, NULL)) {
        coded->form = (phi_form){.kind = PHI_WEIGHT_FP32};
    }
}

phi_status phi_coded_settle(phi_coded *coded, phi_err *err)
{
    phi_status status = check_shape(coded, err);
    status = status ? status : check_arrays(coded, err);
    status = status ? status : read_group_index(coded, err);
    bool is_codes = coded->zeros_order == PHI_ZEROS_BY_ROW ||
                    coded->zeros_order == PHI_ZEROS_DENSE ||
                    coded->zeros_order == PHI_ZEROS_BY_GROUP ||
                    coded->zeros_order == PHI_ZEROS_BY_WORD || coded->zeros_order == PHI_ZEROS_AWQ;
    if (!status && is_codes) {
        status = join_zeros(coded, err);
    } else if (!status && coded->is_signed && coded->zeros_order == PHI_ZEROS_ONE) {
        coded->zero += (int32_t)flip_of(coded);
    }
    if (!status) {
        choose_form(coded);
    }
    return status;
}

void phi_coded_done(phi_coded *coded)
{
    if (coded) {
        phi_free(coded->groups_of_cols);
        coded->groups_of_cols = NULL;
    }
}

uint64_t phi_coded_bytes(const phi_coded *coded)
{
    return coded->codes.bytes + coded->scales.bytes +
           (coded->zeros_order == PHI_ZEROS_ONE ? 0 : coded->zeros.bytes);
}

#include "engine/tensor/weight.h"

#include "base/assert.h"
#include "base/checked.h"
#include "base/mem.h"
#include "engine/tensor/half.h"
#include "engine/tensor/interleave.h"

#include <string.h>

/* Columns that the codes of an INT row come in. */
#define RUN 32U
/* Bytes of a block's run, and of one row's share of it. */
#define RUN_BYTES_INT4 256U
#define RUN_BYTES_INT8 512U
/* q + 128 of four codes at once, by XOR. */
#define INT8_FLIP 0x80808080U
/* Columns that are converted at a time: whole blocks of every file type. */
#define PIECE ((size_t)PHI_SUPER_BLOCK_ELEMENTS)
/* Planes begin on a cache line. */
#define PLANE_ALIGN 64U

phi_form phi_form_of(phi_dtype dtype)
{
    const phi_dtype_info *info = phi_dtype_get(dtype);
    if (info->group) {
        return (phi_form){.kind = info->code_bits == 4 ? PHI_WEIGHT_INT4 : PHI_WEIGHT_INT8,
                          .group = info->group,
                          .has_offsets = info->has_offsets,
                          .wide = info->wide};
    }
    return (phi_form){.kind = dtype == PHI_DTYPE_F16    ? PHI_WEIGHT_FP16
                              : dtype == PHI_DTYPE_BF16 ? PHI_WEIGHT_BF16
                                                        : PHI_WEIGHT_FP32};
}

bool phi_form_equal(const phi_form *a, const phi_form *b)
{
    return a->kind == b->kind && a->group == b->group && a->has_offsets == b->has_offsets &&
           a->wide == b->wide;
}

phi_form phi_form_join(const phi_form *a, const phi_form *b)
{
    if (phi_form_equal(a, b)) {
        return *a;
    }
    if (!a->group || !b->group) {
        return (phi_form){.kind = PHI_WEIGHT_FP32};
    }
    /* INT4 codes are centred or not, so those of two matrices may not be mixed; INT8 ones may. */
    bool is_int4 = a->kind == PHI_WEIGHT_INT4 && b->kind == PHI_WEIGHT_INT4 &&
                   a->has_offsets == b->has_offsets;
    uint32_t group = a->group;
    for (uint32_t rest = b->group; rest != 0;) {
        uint32_t next = group % rest;
        group = rest;
        rest = next;
    }
    return (phi_form){.kind = is_int4 ? PHI_WEIGHT_INT4 : PHI_WEIGHT_INT8,
                      .group = group,
                      .has_offsets = a->has_offsets || b->has_offsets,
                      .wide = a->wide || b->wide};
}

phi_weight phi_weight_rows_of(const phi_weight *weight, uint32_t row, uint32_t rows)
{
    phi_weight part = *weight;
    size_t first = row / PHI_WEIGHT_BLOCK;
    PHI_ASSERT(row % PHI_WEIGHT_BLOCK == 0 && rows % PHI_WEIGHT_BLOCK == 0 && row <= weight->rows &&
               rows <= weight->rows - row);
    size_t scales = weight->group ? first * (weight->cols / weight->group) * PHI_WEIGHT_BLOCK : 0;
    part.rows = rows;
    part.n_blocks = rows / PHI_WEIGHT_BLOCK;
    part.codes = (uint8_t *)weight->codes + first * weight->block_bytes;
    part.scales = weight->scales ? weight->scales + scales : NULL;
    part.offsets = weight->offsets ? weight->offsets + scales : NULL;
    part.wide_scales = weight->wide_scales ? weight->wide_scales + scales : NULL;
    part.wide_offsets = weight->wide_offsets ? weight->wide_offsets + scales : NULL;
    part.memory = NULL;
    return part;
}

phi_form phi_weight_form(const phi_weight *weight)
{
    return (phi_form){.kind = weight->kind,
                      .group = weight->group,
                      .has_offsets = weight->has_offsets,
                      .wide = weight->wide};
}

const char *phi_weight_kind_name(phi_weight_kind kind)
{
    static const char *const names[PHI_WEIGHT_KIND_COUNT] = {"INT4", "INT8", "FP16", "BF16",
                                                             "FP32"};
    PHI_ASSERT(kind < PHI_WEIGHT_KIND_COUNT);
    return names[kind];
}

/* ---- shape and memory ---- */

static uint64_t code_bits(phi_weight_kind kind)
{
    switch (kind) {
    case PHI_WEIGHT_INT4:
        return 4;
    case PHI_WEIGHT_INT8:
        return 8;
    case PHI_WEIGHT_FP16:
    case PHI_WEIGHT_BF16:
        return 16;
    case PHI_WEIGHT_FP32:
        return 32;
    case PHI_WEIGHT_KIND_COUNT:
        break;
    }
    PHI_UNREACHABLE();
}

static bool is_grouped(phi_weight_kind kind)
{
    return kind == PHI_WEIGHT_INT4 || kind == PHI_WEIGHT_INT8;
}

static phi_status check_group(uint32_t group, uint32_t cols, phi_err *err)
{
    if (cols % RUN != 0) {
        return phi_fail(err, PHI_E_UNSUPPORTED, "%u columns are not a multiple of %u", cols, RUN);
    }
    if (group == 0 || cols % group != 0 || (group != RUN / 2 && group % RUN != 0)) {
        return phi_fail(err, PHI_E_UNSUPPORTED,
                        "groups of %u do not divide %u columns into groups of 16 or of whole runs "
                        "of %u",
                        group, cols, RUN);
    }
    return PHI_OK;
}

/* Bytes of the codes of all blocks, and of one plane of scales. */
static uint64_t codes_bytes(const phi_weight *weight)
{
    uint64_t bytes = weight->block_bytes * weight->n_blocks;
    return (bytes + PLANE_ALIGN - 1) / PLANE_ALIGN * PLANE_ALIGN;
}

static size_t scale_bytes(const phi_weight *weight)
{
    return weight->wide ? sizeof(float) : sizeof(uint16_t);
}

static uint64_t plane_bytes(const phi_weight *weight)
{
    if (!weight->group) {
        return 0;
    }
    uint64_t groups = (uint64_t)weight->n_blocks * (weight->cols / weight->group);
    uint64_t bytes = groups * PHI_WEIGHT_BLOCK * scale_bytes(weight);
    return (bytes + PLANE_ALIGN - 1) / PLANE_ALIGN * PLANE_ALIGN;
}

phi_status phi_weight_shape(phi_weight *weight, const phi_form *form, uint32_t rows, uint32_t cols,
                            phi_err *err)
{
    phi_weight fresh = {.kind = form->kind, .rows = rows, .cols = cols};
    if (is_grouped(form->kind)) {
        phi_status status = check_group(form->group, cols, err);
        if (status) {
            return status;
        }
        fresh.group = form->group;
        fresh.has_offsets = form->has_offsets;
        fresh.wide = form->wide;
    }
    fresh.n_blocks = rows / PHI_WEIGHT_BLOCK + (rows % PHI_WEIGHT_BLOCK != 0);
    fresh.block_bytes = (uint64_t)cols * PHI_WEIGHT_BLOCK * code_bits(form->kind) / 8;
    uint64_t bytes;
    /* Three planes at most, none larger than the codes. */
    if (!phi_checked_mul(fresh.block_bytes, fresh.n_blocks, &bytes) || bytes > SIZE_MAX / 8) {
        return phi_fail(err, PHI_E_LIMIT, "a matrix of %u x %u is too large", rows, cols);
    }
    *weight = fresh;
    return PHI_OK;
}

phi_status phi_weight_shape_of(phi_weight *weight, phi_dtype dtype, uint32_t rows, uint32_t cols,
                               phi_err *err)
{
    phi_form form = phi_form_of(dtype);
    return phi_weight_shape(weight, &form, rows, cols, err);
}

uint64_t phi_weight_bytes(const phi_weight *weight)
{
    return codes_bytes(weight) + plane_bytes(weight) * (weight->has_offsets ? 2 : 1);
}

void phi_weight_bind(phi_weight *weight, void *memory)
{
    uint8_t *at = memory;
    PHI_ASSERT((uintptr_t)memory % PLANE_ALIGN == 0);
    weight->codes = at;
    at += codes_bytes(weight);
    if (!weight->group) {
        return;
    }
    void *scales = at;
    void *offsets = weight->has_offsets ? at + plane_bytes(weight) : NULL;
    if (weight->wide) {
        weight->wide_scales = scales;
        weight->wide_offsets = offsets;
    } else {
        weight->scales = scales;
        weight->offsets = offsets;
    }
}

/* The rows that fill the last block up. */
static void clear_last_block(phi_weight *weight)
{
    if (weight->rows % PHI_WEIGHT_BLOCK == 0) {
        return;
    }
    size_t last = weight->n_blocks - 1;
    memset((uint8_t *)weight->codes + last * weight->block_bytes, 0, (size_t)weight->block_bytes);
    if (weight->group) {
        size_t groups = (size_t)(weight->cols / weight->group) * PHI_WEIGHT_BLOCK;
        size_t bytes = groups * scale_bytes(weight);
        void *scales = weight->wide ? (void *)weight->wide_scales : weight->scales;
        void *offsets = weight->wide ? (void *)weight->wide_offsets : weight->offsets;
        memset((uint8_t *)scales + last * bytes, 0, bytes);
        if (offsets) {
            memset((uint8_t *)offsets + last * bytes, 0, bytes);
        }
    }
}

phi_status phi_weight_alloc(phi_weight *weight, phi_err *err)
{
    PHI_ASSERT(!weight->memory);
    weight->memory = phi_try_alloc_aligned((size_t)phi_weight_bytes(weight));
    if (!weight->memory) {
        return phi_fail(err, PHI_E_NO_MEMORY, "not enough memory for a matrix of %u x %u",
                        weight->rows, weight->cols);
    }
    phi_weight_bind(weight, weight->memory);
    clear_last_block(weight);
    return PHI_OK;
}

phi_status phi_weight_init(phi_weight *weight, phi_dtype dtype, uint32_t rows, uint32_t cols,
                           phi_err *err)
{
    phi_weight fresh = {0};
    phi_status status = phi_weight_shape_of(&fresh, dtype, rows, cols, err);
    status = status ? status : phi_weight_alloc(&fresh, err);
    if (!status) {
        *weight = fresh;
    }
    return status;
}

void phi_weight_done(phi_weight *weight)
{
    if (weight) {
        phi_free(weight->memory);
        *weight = (phi_weight){0};
    }
}

/* ---- filling ---- */

/* Where row `row`'s scale of group 0 is in its plane; group g is 16 further each. */
static size_t scale_index(const phi_weight *weight, uint32_t row)
{
    size_t groups = weight->cols / weight->group;
    return row / PHI_WEIGHT_BLOCK * groups * PHI_WEIGHT_BLOCK + row % PHI_WEIGHT_BLOCK;
}

static uint8_t *block_of(const phi_weight *weight, uint32_t row)
{
    return (uint8_t *)weight->codes + row / PHI_WEIGHT_BLOCK * weight->block_bytes;
}

/* Word j of a run's codes goes to [j][row]: 16 bytes of nibbles already pair the right columns. */
static void put_int4(uint8_t *run, size_t lane, const uint8_t *nibbles)
{
    for (size_t j = 0; j < 4; j++) {
        memcpy(run + j * 64 + lane * 4, nibbles + j * 4, 4);
    }
}

static void put_int8(uint8_t *run, size_t lane, const uint8_t *codes)
{
    for (size_t j = 0; j < 8; j++) {
        uint32_t word;
        memcpy(&word, codes + j * 4, 4);
        word ^= INT8_FLIP;
        memcpy(run + j * 64 + lane * 4, &word, 4);
    }
}

/* Rows [row, row + count) of one block from file blocks [d (m) codes]. Runs are outside: what is
 * written lies together, and what is read comes from `count` streams. */
static void put_file_blocks(phi_weight *weight, phi_dtype dtype, uint32_t row, uint32_t count,
                            const uint8_t *src)
{
    size_t file_block = phi_dtype_get(dtype)->block_bytes;
    size_t head_bytes = dtype == PHI_DTYPE_Q4_1 ? 4 : 2;
    size_t n_runs = weight->cols / RUN;
    size_t stride = n_runs * file_block;
    size_t lane = row % PHI_WEIGHT_BLOCK;
    bool is_int4 = weight->kind == PHI_WEIGHT_INT4;
    uint8_t *codes = block_of(weight, row);
    uint16_t *scales = weight->scales + scale_index(weight, row);
    uint16_t *offsets = weight->offsets ? weight->offsets + scale_index(weight, row) : NULL;
    for (size_t run = 0; run < n_runs; run++, src += file_block) {
        for (size_t r = 0; r < count; r++) {
            memcpy(&scales[run * PHI_WEIGHT_BLOCK + r], src + r * stride, 2);
            if (offsets) {
                memcpy(&offsets[run * PHI_WEIGHT_BLOCK + r], src + r * stride + 2, 2);
            }
        }
        const uint8_t *from = src + head_bytes;
        if (count == PHI_WEIGHT_BLOCK) {
            phi_interleave_words(from, stride, is_int4 ? 4 : 8, is_int4 ? 0 : INT8_FLIP, codes);
        } else {
            for (size_t r = 0; r < count; r++) {
                if (is_int4) {
                    put_int4(codes, lane + r, from + r * stride);
                } else {
                    put_int8(codes, lane + r, from + r * stride);
                }
            }
        }
        codes += is_int4 ? RUN_BYTES_INT4 : RUN_BYTES_INT8;
    }
}

static void put_floats(phi_weight *weight, uint32_t row, uint32_t count, const uint8_t *src)
{
    size_t bytes = code_bits(weight->kind) / 8;
    size_t cols = weight->cols;
    uint8_t *to = block_of(weight, row) + row % PHI_WEIGHT_BLOCK * bytes;
    if (count == PHI_WEIGHT_BLOCK && bytes == 2) {
        phi_interleave_halves(src, cols * bytes, cols, to);
        return;
    }
    if (count == PHI_WEIGHT_BLOCK) {
        phi_interleave_words(src, cols * bytes, cols, 0, to);
        return;
    }
    for (size_t k = 0; k < cols; k++) {
        for (size_t r = 0; r < count; r++) {
            memcpy(to + (k * PHI_WEIGHT_BLOCK + r) * bytes, src + (r * cols + k) * bytes, bytes);
        }
    }
}

/* Scales and offsets of `count` groups of a row, from `first` on. */
static void put_scales(phi_weight *weight, uint32_t row, size_t first, size_t count,
                       const float *scales, const float *offsets)
{
    size_t at = scale_index(weight, row) + first * PHI_WEIGHT_BLOCK;
    for (size_t g = 0; g < count; g++, at += PHI_WEIGHT_BLOCK) {
        if (weight->wide) {
            weight->wide_scales[at] = scales[g];
        } else {
            weight->scales[at] = phi_half_of_float(scales[g]);
        }
        if (offsets && weight->wide) {
            weight->wide_offsets[at] = offsets[g];
        } else if (offsets) {
            weight->offsets[at] = phi_half_of_float(offsets[g]);
        }
    }
}

/* Codes of `count` columns of a row, from `first` on: whole runs. */
static void put_codes(phi_weight *weight, uint32_t row, size_t first, size_t count,
                      const uint8_t *codes)
{
    size_t lane = row % PHI_WEIGHT_BLOCK;
    uint8_t *block = block_of(weight, row);
    for (size_t run = first / RUN; run < (first + count) / RUN; run++, codes += RUN) {
        if (weight->kind == PHI_WEIGHT_INT4) {
            uint8_t nibbles[RUN / 2];
            for (size_t i = 0; i < RUN / 2; i++) {
                nibbles[i] = (uint8_t)((codes[i] & 15) | codes[i + RUN / 2] << 4);
            }
            put_int4(block + run * RUN_BYTES_INT4, lane, nibbles);
        } else {
            put_int8(block + run * RUN_BYTES_INT8, lane, codes);
        }
    }
}

void phi_weight_set_codes(phi_weight *weight, uint32_t row, const uint8_t *codes,
                          const float *scales, const float *offsets)
{
    PHI_ASSERT(row < weight->rows && weight->group && (offsets != NULL) == weight->has_offsets);
    put_codes(weight, row, 0, weight->cols, codes);
    put_scales(weight, row, 0, weight->cols / weight->group, scales, offsets);
}

/* A piece of a row as integers. */
typedef struct piece {
    uint8_t codes[PIECE];
    float scales[PIECE / 16];
    float offsets[PIECE / 16];
} piece;

/* From the file type's own form to the matrix's, which holds it: codes stay what they stand for,
 * scales are repeated for smaller groups, offsets that are not there are 0. */
static void conform(const phi_weight *weight, phi_dtype dtype, size_t count, piece *it)
{
    phi_form from = phi_form_of(dtype);
    if (from.kind == PHI_WEIGHT_INT4 && weight->kind == PHI_WEIGHT_INT8 && !from.has_offsets) {
        for (size_t k = 0; k < count; k++) {
            it->codes[k] = (uint8_t)(it->codes[k] - 8);
        }
    }
    /* From the end on: no scale is overwritten before it was copied. */
    size_t repeats = from.group / weight->group;
    for (size_t g = count / weight->group; repeats > 1 && g-- > 0;) {
        it->scales[g] = it->scales[g / repeats];
        it->offsets[g] = it->offsets[g / repeats];
    }
}

void phi_weight_set_form_codes(phi_weight *weight, uint32_t row, const phi_form *form,
                               const uint8_t *codes, const float *scales, const float *offsets)
{
    phi_form has = phi_weight_form(weight);
    phi_form both = phi_form_join(&has, form);
    PHI_ASSERT(row < weight->rows && weight->group && phi_form_equal(&has, &both));
    bool recentred =
        form->kind == PHI_WEIGHT_INT4 && has.kind == PHI_WEIGHT_INT8 && !form->has_offsets;
    for (size_t k = 0; k < weight->cols; k += RUN) {
        uint8_t run[RUN];
        for (size_t i = 0; i < RUN; i++) {
            run[i] = (uint8_t)(codes[k + i] - (recentred ? 8 : 0));
        }
        put_codes(weight, row, k, RUN, run);
    }
    for (size_t g = 0; g < weight->cols / weight->group; g++) {
        size_t from = g * weight->group / form->group;
        float offset = form->has_offsets ? offsets[from] : 0.0F;
        put_scales(weight, row, g, 1, scales + from, weight->has_offsets ? &offset : NULL);
    }
}

/* One row of any type whose form the matrix's holds. */
static void convert_row(phi_weight *weight, phi_dtype dtype, uint32_t row, const uint8_t *src)
{
    const phi_dtype_info *info = phi_dtype_get(dtype);
    for (size_t k = 0; k < weight->cols; k += PIECE) {
        size_t count = weight->cols - k < PIECE ? weight->cols - k : PIECE;
        if (weight->group) {
            piece it = {0};
            phi_dtype_codes(dtype, src, count, it.codes, it.scales, it.offsets);
            conform(weight, dtype, count, &it);
            put_codes(weight, row, k, count, it.codes);
            put_scales(weight, row, k / weight->group, count / weight->group, it.scales,
                       weight->has_offsets ? it.offsets : NULL);
        } else {
            float values[PIECE];
            float *to = (float *)(void *)block_of(weight, row) + row % PHI_WEIGHT_BLOCK;
            phi_dtype_widen(dtype, src, count, values);
            for (size_t i = 0; i < count; i++) {
                to[(k + i) * PHI_WEIGHT_BLOCK] = values[i];
            }
        }
        src += count / info->block_elements * info->block_bytes;
    }
}

/* True for rows that need no more than moving: what is not is converted. */
static bool is_moved(const phi_weight *weight, phi_dtype dtype)
{
    phi_form has = phi_weight_form(weight);
    phi_form needs = phi_form_of(dtype);
    return phi_form_equal(&has, &needs) && (!weight->group || dtype == PHI_DTYPE_Q8_0 ||
                                            dtype == PHI_DTYPE_Q4_0 || dtype == PHI_DTYPE_Q4_1);
}

void phi_weight_set_rows(phi_weight *weight, phi_dtype dtype, uint32_t row, uint32_t count,
                         const void *src)
{
    uint64_t row_bytes = 0;
    const uint8_t *from = src;
    phi_form has = phi_weight_form(weight);
    phi_form needs = phi_form_of(dtype);
    phi_form both = phi_form_join(&has, &needs);
    PHI_ASSERT(row <= weight->rows && count <= weight->rows - row);
    PHI_ASSERT(phi_form_equal(&has, &both));
    (void)phi_dtype_row_bytes(dtype, weight->cols, &row_bytes);
    bool moved = is_moved(weight, dtype);
    while (count > 0) {
        uint32_t room = PHI_WEIGHT_BLOCK - row % PHI_WEIGHT_BLOCK;
        uint32_t now = moved ? count < room ? count : room : 1;
        if (!moved) {
            convert_row(weight, dtype, row, from);
        } else if (weight->group) {
            put_file_blocks(weight, dtype, row, now, from);
        } else {
            put_floats(weight, row, now, from);
        }
        from += now * row_bytes;
        row += now;
        count -= now;
    }
}

/* ---- widening ---- */

float phi_weight_scale(const phi_weight *weight, size_t index)
{
    return weight->wide ? weight->wide_scales[index] : phi_half_to_float(weight->scales[index]);
}

float phi_weight_offset(const phi_weight *weight, size_t index)
{
    return weight->wide ? weight->wide_offsets[index] : phi_half_to_float(weight->offsets[index]);
}

/* Code of column k, without what the kind adds to it in memory: INT4 0..15, INT8 signed. */
static int code_at(const phi_weight *weight, const uint8_t *block, size_t lane, size_t k)
{
    size_t in_run = k % RUN;
    if (weight->kind == PHI_WEIGHT_INT4) {
        const uint8_t *run = block + k / RUN * RUN_BYTES_INT4;
        size_t half = in_run % 16;
        uint8_t pair = run[half / 4 * 64 + lane * 4 + half % 4];
        return in_run < 16 ? pair & 15 : pair >> 4;
    }
    return (int)block[k / 4 * 64 + lane * 4 + k % 4] - 128;
}

static void widen_codes(const phi_weight *weight, uint32_t row, float *out)
{
    const uint8_t *block = block_of(weight, row);
    size_t lane = row % PHI_WEIGHT_BLOCK;
    size_t first = scale_index(weight, row);
    bool centred = weight->kind == PHI_WEIGHT_INT4 && !weight->has_offsets;
    for (size_t g = 0; g < weight->cols / weight->group; g++) {
        size_t at = first + g * PHI_WEIGHT_BLOCK;
        float scale = phi_weight_scale(weight, at);
        float offset = weight->has_offsets ? phi_weight_offset(weight, at) : 0.0F;
        for (size_t k = g * weight->group; k < (g + 1) * weight->group; k++) {
            int code = code_at(weight, block, lane, k);
            out[k] = centred ? scale * (float)(code - 8) : scale * (float)code + offset;
        }
    }
}

void phi_weight_row(const phi_weight *weight, uint32_t row, float *out)
{
    PHI_ASSERT(row < weight->rows);
    if (weight->group) {
        widen_codes(weight, row, out);
        return;
    }
    const uint8_t *block = block_of(weight, row);
    size_t lane = row % PHI_WEIGHT_BLOCK;
    for (size_t k = 0; k < weight->cols; k++) {
        size_t at = k * PHI_WEIGHT_BLOCK + lane;
        if (weight->kind == PHI_WEIGHT_FP32) {
            memcpy(&out[k], block + at * sizeof(float), sizeof(float));
        } else {
            uint16_t half;
            memcpy(&half, block + at * sizeof half, sizeof half);
            out[k] =
                weight->kind == PHI_WEIGHT_FP16 ? phi_half_to_float(half) : phi_bf16_to_float(half);
        }
    }
}

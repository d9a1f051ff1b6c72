#include "engine/quant/recode.h"

#include <math.h>
#include <stdatomic.h>
#include <string.h>

#include "base/assert.h"
#include "base/mem.h"
#include "engine/formats/coded.h"
#include "engine/formats/tensor_rows.h"
#include "engine/tensor/half.h"

/* Elements that are read at a time while looking. */
#define LOOK_ELEMENTS (1U << 20)

/* Says its status plainly, so that a reader (and an analyser) sees that nothing goes on. */
static phi_status no_memory(phi_err *err, const char *what)
{
    phi_status status = phi_fail(err, PHI_E_NO_MEMORY, "not enough memory for %s", what);
    PHI_ASSERT(status == PHI_E_NO_MEMORY);
    return PHI_E_NO_MEMORY;
}

/* ---- rows in their own form ---- */

/* One row, in the terms of phi_weight_set_codes. */
typedef struct own_row {
    phi_form form;
    uint8_t *codes; /* [cols] */
    float *scales;  /* [cols / form.group] */
    float *offsets; /* filled if the form has them */
} own_row;

static phi_form run_form(const phi_row_run *run)
{
    return run->coded ? run->coded->form : phi_form_of(run->dtype);
}

static void split(const phi_row_run *run, uint32_t cols, const uint8_t *src, own_row *out)
{
    out->form = run_form(run);
    if (!run->coded) {
        phi_dtype_codes(run->dtype, src, cols, out->codes, out->scales, out->offsets);
        return;
    }
    size_t bytes = cols / out->form.group * sizeof(float);
    memcpy(out->codes, src, cols);
    memcpy(out->scales, src + cols, bytes);
    if (out->form.has_offsets) {
        memcpy(out->offsets, src + cols + bytes, bytes);
    }
}

static bool alloc_row(uint32_t cols, own_row *out)
{
    /* Groups are of 16 columns at least. */
    out->codes = phi_try_alloc(cols);
    out->scales = phi_try_alloc((size_t)cols / 16 * 2 * sizeof(float));
    out->offsets = out->scales ? out->scales + cols / 16 : NULL;
    return out->codes && out->scales;
}

static void free_row(own_row *row)
{
    phi_free(row->codes);
    phi_free(row->scales);
}

/* The zero point of group g for codes as the target has them: unsigned, INT8's plus 128. An offset
 * that came from a zero point was rounded on its way. */
static float zero_of(const own_row *row, size_t g)
{
    float base = row->form.kind == PHI_WEIGHT_INT4 ? 0.0F : 128.0F;
    if (!row->form.has_offsets) {
        return row->form.kind == PHI_WEIGHT_INT4 ? 8.0F : base;
    }
    if (row->scales[g] == 0.0F) {
        return base;
    }
    float zero = base - row->offsets[g] / row->scales[g];
    float nearest = rintf(zero);
    return (base - nearest) * row->scales[g] == row->offsets[g] ? nearest : zero;
}

/* True when the zero point is a code and gives the offset back. */
static bool is_whole(const own_row *row, size_t g, float most)
{
    float zero = zero_of(row, g);
    float base = row->form.kind == PHI_WEIGHT_INT4 ? 0.0F : 128.0F;
    if (!row->form.has_offsets) {
        return true;
    }
    return zero == rintf(zero) && zero >= 0.0F && zero <= most &&
           (base - zero) * row->scales[g] == row->offsets[g];
}

/* What a target's codes are more than INT4's: without offsets, in 8 bits, the middle moves from 8
 * to 128. */
static uint8_t shift_of(const phi_form *form, uint32_t bits)
{
    return form->kind == PHI_WEIGHT_INT4 && bits == 8 && !form->has_offsets ? 120 : 0;
}

/* The offset of group g for unsigned codes that are `add` more than the form's, or INT8's plus 128.
 */
static float real_of(const own_row *row, size_t g, uint8_t add)
{
    bool is_int4 = row->form.kind == PHI_WEIGHT_INT4;
    float offset = row->form.has_offsets ? row->offsets[g] : 0.0F;
    float centre = !is_int4 ? 128.0F : row->form.has_offsets ? 0.0F : 8.0F;
    return offset - (centre + (float)add) * row->scales[g];
}

/* What a target's codes are more than the form's. */
static uint8_t added_to(const phi_form *form, const phi_code_target *target)
{
    if (form->kind != PHI_WEIGHT_INT4) {
        return 128;
    }
    /* INT8's codes are signed where their zero points are floats. */
    bool is_shifted = target->zero_rule == PHI_ZERO_FLOAT && target->bits == 8;
    return is_shifted && form->has_offsets ? 128 : shift_of(form, target->bits);
}

static bool is_half(float value)
{
    return isfinite(value) && phi_half_to_float(phi_half_of_float(value)) == value;
}

/* Rounding to fp16 moves a scale by less than most codes are apart. */
static bool is_near_half(float value)
{
    float half = phi_half_to_float(phi_half_of_float(value));
    return isfinite(half) && fabsf(half - value) <= fabsf(value) / 256.0F;
}

/* Rounding to fp16 moves an offset by a small part of a step. */
static bool is_near_offset(float offset, float scale)
{
    float half = phi_half_to_float(phi_half_of_float(offset));
    return isfinite(half) && fabsf(half - offset) <= fabsf(scale) / 8.0F;
}

/* ---- looking ---- */

/* Whether groups joined to `group` columns have one scale and one offset each. */
static bool repeats(const own_row *row, uint32_t cols, uint32_t group)
{
    const uint32_t n_groups = cols / row->form.group;
    const uint32_t joined = group / row->form.group;
    if (joined > 1 && group % row->form.group != 0) {
        return false;
    }
    for (uint32_t g = 0; joined > 1 && g < n_groups; g++) {
        const uint32_t first = g / joined * joined;
        if (row->scales[g] != row->scales[first] ||
            (row->form.has_offsets && row->offsets[g] != row->offsets[first])) {
            return false;
        }
    }
    return true;
}

/* The most that groups may be joined to. */
static uint32_t joined_max(uint32_t group, uint32_t cols)
{
    while (group * 2 <= PHI_RECODE_GROUP_MAX && cols % (group * 2) == 0) {
        group *= 2;
    }
    return group;
}

static void look_at(const own_row *row, uint32_t cols, uint32_t least_group, uint8_t shift,
                    phi_recode_scan *scan)
{
    while (scan->group > least_group && !repeats(row, cols, scan->group)) {
        scan->group /= 2;
    }
    bool is_int4 = row->form.kind == PHI_WEIGHT_INT4;
    float most = is_int4 ? 15.0F : 255.0F;
    for (size_t g = 0; g < cols / row->form.group; g++) {
        scan->whole_zeros = scan->whole_zeros && is_whole(row, g, most);
        scan->centred = scan->centred && zero_of(row, g) == (is_int4 ? 8.0F : 128.0F);
        scan->halves = scan->halves && is_half(row->scales[g]);
        float offset = real_of(row, g, shift);
        scan->half_offsets = scan->half_offsets && is_half(offset);
        scan->near_halves = scan->near_halves && is_near_half(row->scales[g]);
        scan->near_offsets = scan->near_offsets && is_near_offset(offset, row->scales[g]);
    }
}

phi_status phi_recode_look(const phi_checkpoint *checkpoint, const phi_tensor *tensor,
                           uint32_t real_bits, phi_recode_scan *out_scan, phi_err *err)
{
    phi_form form = phi_tensor_form(tensor);
    phi_recode_scan scan = {.group = joined_max(form.group, tensor->cols),
                            .whole_zeros = true,
                            .centred = true,
                            .halves = true,
                            .half_offsets = true,
                            .near_halves = true,
                            .near_offsets = true};
    PHI_ASSERT(form.group);
    /* Without offsets, and with scales in fp16, groups that might be joined are all there is to
     * see; the first row tells nearly always that they cannot be. A target's own offsets are that
     * many times the scale that fp16 may not hold them. */
    const bool is_plain = !form.has_offsets && !form.wide && !real_bits;
    const uint8_t shift = shift_of(&form, real_bits);
    uint32_t step = LOOK_ELEMENTS / tensor->cols + 1;
    own_row row = {0};
    uint8_t *data = phi_try_alloc((size_t)phi_tensor_row_bytes_max(tensor) * step);
    phi_status status = data && alloc_row(tensor->cols, &row) ? PHI_OK : no_memory(err, "rows");
    for (uint32_t at = 0;
         at < tensor->rows && !status && !(is_plain && scan.group == form.group);) {
        phi_row_run run = phi_tensor_run(tensor, at);
        uint32_t count = at == 0 ? 1 : run.rows < step ? run.rows : step;
        status = phi_checkpoint_read_rows(checkpoint, tensor, at, count, data, err);
        for (uint32_t r = 0; r < count && !status; r++) {
            split(&run, tensor->cols, data + r * run.row_bytes, &row);
            look_at(&row, tensor->cols, form.group, shift, &scan);
        }
        at += count;
    }
    phi_free(data);
    free_row(&row);
    if (!status) {
        *out_scan = scan;
    }
    return status;
}

phi_recode_fit phi_recode_fits(const phi_form *form, const phi_recode_scan *scan,
                               const phi_code_target *target)
{
    if (target->is_mx) {
        PHI_ASSERT(form->group == target->group);
        return PHI_FIT_EXACT;
    }
    bool real = target->zero_rule == PHI_ZERO_REAL;
    bool any = real || target->zero_rule == PHI_ZERO_FLOAT;
    bool fits = form->group && (form->kind == PHI_WEIGHT_INT4 || target->bits == 8) &&
                scan->group % target->group == 0;
    bool zeros =
        any || (scan->whole_zeros && (scan->centred || target->zero_rule == PHI_ZERO_INTEGER));
    if (!fits || !zeros) {
        return PHI_FIT_NONE;
    }
    if (target->scale_dtype == PHI_DTYPE_F32) {
        return PHI_FIT_EXACT;
    }
    PHI_ASSERT(target->scale_dtype == PHI_DTYPE_F16);
    if (scan->halves && (scan->half_offsets || !real)) {
        return PHI_FIT_EXACT;
    }
    return scan->near_halves && (scan->near_offsets || !real) ? PHI_FIT_ROUNDED : PHI_FIT_NONE;
}

const char *phi_recode_obstacle(const phi_form *form, const phi_recode_scan *scan,
                                const phi_code_target *target)
{
    if (!form->group) {
        return "it holds floats, not codes";
    }
    if (form->kind != PHI_WEIGHT_INT4 && target->bits != 8) {
        return "its codes have more than 4 bits";
    }
    if (scan->group % target->group != 0) {
        return "its groups are smaller than any that the format has";
    }
    if (target->zero_rule == PHI_ZERO_INTEGER && !scan->whole_zeros) {
        return "its offsets are no whole number of scales, and the format's zero points are codes";
    }
    if (target->zero_rule == PHI_ZERO_CENTRE && !(scan->centred && scan->whole_zeros)) {
        return "it has zero points, and the format has none";
    }
    return "its scales or offsets are beyond what the format's fp16 comes close to";
}

/* ---- codes as they are ---- */

/* E2M1's code of twice its value, as coded.h doubles them; 0 has no sign. */
static uint8_t code_of_doubled(int8_t doubled)
{
    static const uint8_t codes[13] = {0, 1, 2, 3, 4, 0, 5, 0, 6, 0, 0, 0, 7};
    const uint8_t sign = doubled < 0 ? 8 : 0;
    const int magnitude = doubled < 0 ? -doubled : doubled;
    PHI_ASSERT(magnitude < (int)sizeof codes);
    return (uint8_t)(sign | codes[magnitude]);
}

static void move_mx_row(const own_row *row, uint32_t cols, uint8_t *codes, float *scales)
{
    for (uint32_t k = 0; k < cols; k++) {
        codes[k] = code_of_doubled((int8_t)row->codes[k]);
    }
    memcpy(scales, row->scales, cols / row->form.group * sizeof *scales);
}

/* One group with PHI_ZERO_FLOAT. A scale of 0 leaves the offset alone, which no zero point gives:
 * all codes become 0, less 1, times the offset. */
static void move_float(const own_row *row, size_t from, const phi_code_target *target,
                       uint8_t *codes, float *scale, float *zero)
{
    const uint8_t centre = target->bits == 8 ? 128 : 0;
    if (!row->form.has_offsets) {
        *zero = row->form.kind == PHI_WEIGHT_INT4 && target->bits == 4 ? 8.0F : 0.0F;
    } else if (*scale == 0.0F && row->offsets[from] != 0.0F) {
        memset(codes, centre, target->group);
        *scale = -row->offsets[from];
        *zero = 1.0F;
    } else {
        *zero = phi_zero_of_offset(row->offsets[from], *scale);
    }
}

static void move_row(const own_row *row, const phi_code_target *target, uint32_t cols,
                     uint8_t *codes, float *scales, float *zeros)
{
    PHI_ASSERT(zeros || target->zero_rule == PHI_ZERO_CENTRE);
    if (target->is_mx) {
        move_mx_row(row, cols, codes, scales);
        return;
    }
    uint8_t shift = shift_of(&row->form, target->bits);
    uint8_t add = added_to(&row->form, target);
    for (uint32_t k = 0; k < cols; k++) {
        codes[k] = (uint8_t)(row->codes[k] + add);
    }
    for (size_t g = 0; g < cols / target->group; g++) {
        size_t from = g * target->group / row->form.group;
        scales[g] = row->scales[from];
        if (target->zero_rule == PHI_ZERO_INTEGER) {
            zeros[g] = zero_of(row, from) + shift;
        } else if (target->zero_rule == PHI_ZERO_REAL) {
            zeros[g] = real_of(row, from, shift);
        } else if (target->zero_rule == PHI_ZERO_FLOAT) {
            move_float(row, from, target, codes + g * target->group, &scales[g], &zeros[g]);
        }
    }
}

/* Rounds a row's scales, and its zeros where they are real, and counts what that changes. */
static void round_row(phi_recode *self, const uint8_t *codes, float *scales, float *zeros)
{
    const phi_code_target *target = &self->target;
    bool real = target->zero_rule == PHI_ZERO_REAL;
    PHI_ASSERT(zeros || target->zero_rule == PHI_ZERO_CENTRE);
    for (size_t g = 0; g < self->tensor->cols / target->group; g++) {
        float centre = target->zero_rule == PHI_ZERO_INTEGER  ? zeros[g]
                       : target->zero_rule == PHI_ZERO_CENTRE ? (float)(1U << (target->bits - 1))
                                                              : 0.0F;
        float scale = phi_round_to(target->scale_dtype, scales[g]);
        float offset = real ? zeros[g] : 0.0F;
        float rounded = real ? phi_round_to(target->scale_dtype, offset) : 0.0F;
        for (size_t k = g * target->group; k < (g + 1) * target->group; k++) {
            double q = (double)((float)codes[k] - centre);
            double before = (double)scales[g] * q + (double)offset;
            double after = (double)scale * q + (double)rounded;
            self->error += (after - before) * (after - before);
            self->weight += before * before;
        }
        scales[g] = scale;
        if (real) {
            zeros[g] = rounded;
        }
    }
}

static phi_status move_rows(phi_recode *self, uint32_t row, uint32_t count, uint8_t *codes,
                            float *scales, float *zeros, phi_err *err)
{
    const phi_tensor *tensor = self->tensor;
    size_t groups = tensor->cols / self->target.group;
    own_row own = {0};
    uint8_t *data = phi_try_alloc((size_t)phi_tensor_rows_bytes(tensor, row, count));
    phi_status status =
        data && alloc_row(tensor->cols, &own)
            ? phi_checkpoint_read_rows(self->checkpoint, tensor, row, count, data, err)
            : no_memory(err, "rows");
    const uint8_t *from = data;
    for (uint32_t r = 0; r < count && !status; r++) {
        phi_row_run run = phi_tensor_run(tensor, row + r);
        uint8_t *row_codes = codes + (size_t)r * tensor->cols;
        float *row_zeros = zeros ? zeros + r * groups : NULL;
        split(&run, tensor->cols, from, &own);
        move_row(&own, &self->target, tensor->cols, row_codes, scales + r * groups, row_zeros);
        if (self->fit == PHI_FIT_ROUNDED) {
            round_row(self, row_codes, scales + r * groups, row_zeros);
        }
        from += run.row_bytes;
    }
    phi_free(data);
    free_row(&own);
    return status;
}

/* ---- anew ---- */

typedef struct coding {
    const phi_code_target *target;
    const float *values;
    uint32_t cols;
    uint8_t *codes;
    float *scales;
    float *zeros;
    double *errors; /* [rows] */
    _Atomic uint32_t bad_row;
} coding;

static double group_error(const phi_code_target *target, const float *x, const uint8_t *codes,
                          float scale, float zero)
{
    float centre = target->zero_rule == PHI_ZERO_INTEGER  ? zero
                   : target->zero_rule == PHI_ZERO_CENTRE ? (float)(1U << (target->bits - 1))
                                                          : 0.0F;
    float offset = target->zero_rule == PHI_ZERO_REAL ? zero : 0.0F;
    double error = 0.0;
    for (uint32_t k = 0; k < target->group; k++) {
        double value = (double)(scale * ((float)codes[k] - centre) + offset);
        error += (value - (double)x[k]) * (value - (double)x[k]);
    }
    return error;
}

static void code_rows(void *arg, size_t begin, size_t end, unsigned worker)
{
    coding *self = arg;
    uint32_t group = self->target->group;
    size_t groups = self->cols / group;
    (void)worker;
    for (size_t r = begin; r < end; r++) {
        self->errors[r] = 0.0;
        for (size_t g = 0; g < groups; g++) {
            const float *x = self->values + r * self->cols + g * group;
            uint8_t *codes = self->codes + r * self->cols + g * group;
            float scale = 0.0F;
            float zero = 0.0F;
            if (!phi_group_encode(self->target, x, group, codes, &scale, &zero)) {
                atomic_store(&self->bad_row, (uint32_t)r);
                return;
            }
            self->errors[r] += group_error(self->target, x, codes, scale, zero);
            self->scales[r * groups + g] = scale;
            if (self->target->zero_rule != PHI_ZERO_CENTRE) {
                self->zeros[r * groups + g] = zero;
            }
        }
    }
}

static phi_status code_anew(phi_recode *self, uint32_t row, uint32_t count, uint8_t *codes,
                            float *scales, float *zeros, phi_err *err)
{
    size_t elements = (size_t)count * self->tensor->cols;
    float *values = phi_try_alloc(elements * sizeof *values);
    double *errors = phi_try_alloc_zero(count, sizeof *errors);
    phi_status status = values && errors ? phi_recode_floats(self->checkpoint, self->tensor, row,
                                                             count, values, err)
                                         : no_memory(err, "rows");
    if (!status) {
        coding work = {.target = &self->target,
                       .values = values,
                       .cols = self->tensor->cols,
                       .codes = codes,
                       .scales = scales,
                       .zeros = zeros,
                       .errors = errors};
        atomic_init(&work.bad_row, UINT32_MAX);
        phi_team_run(self->compute->team, self->compute->priority, count, 1, code_rows, &work);
        uint32_t bad = atomic_load(&work.bad_row);
        if (bad != UINT32_MAX) {
            status = phi_fail(err, PHI_E_UNSUPPORTED,
                              "tensor '%s', row %u: a weight is not a finite number, or too large "
                              "for a scale of %s",
                              self->tensor->name, row + bad,
                              phi_dtype_get(self->target.scale_dtype)->name);
        }
        for (size_t i = 0; i < elements && !status; i++) {
            self->weight += (double)values[i] * (double)values[i];
        }
        for (uint32_t r = 0; r < count && !status; r++) {
            self->error += errors[r];
        }
    }
    phi_free(values);
    phi_free(errors);
    return status;
}

phi_status phi_recode_rows(phi_recode *self, uint32_t row, uint32_t count, uint8_t *codes,
                           float *scales, float *zeros, phi_err *err)
{
    return self->fit != PHI_FIT_NONE ? move_rows(self, row, count, codes, scales, zeros, err)
                                     : code_anew(self, row, count, codes, scales, zeros, err);
}

phi_status phi_recode_floats(const phi_checkpoint *checkpoint, const phi_tensor *tensor,
                             uint32_t row, uint32_t count, float *out, phi_err *err)
{
    void *scratch = phi_try_alloc((size_t)phi_tensor_rows_bytes(tensor, row, count));
    phi_status status =
        scratch ? phi_checkpoint_read_rows_f32(checkpoint, tensor, row, count, scratch, out, err)
                : no_memory(err, "rows");
    phi_free(scratch);
    return status;
}

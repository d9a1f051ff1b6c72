#include "engine/formats/gguf_internal.h"

#include <string.h>

#include "base/assert.h"

size_t phi_gguf_number_bytes(phi_gguf_type type)
{
    switch (type) {
    case PHI_GGUF_U8:
    case PHI_GGUF_I8:
    case PHI_GGUF_BOOL:
        return 1;
    case PHI_GGUF_U16:
    case PHI_GGUF_I16:
        return 2;
    case PHI_GGUF_U32:
    case PHI_GGUF_I32:
    case PHI_GGUF_F32:
        return 4;
    case PHI_GGUF_U64:
    case PHI_GGUF_I64:
    case PHI_GGUF_F64:
        return 8;
    case PHI_GGUF_STRING:
    case PHI_GGUF_ARRAY:
        break;
    }
    return 0;
}

float phi_gguf_float_of_bits(uint32_t bits)
{
    float value;
    memcpy(&value, &bits, sizeof value);
    return value;
}

double phi_gguf_double_of_bits(uint64_t bits)
{
    double value;
    memcpy(&value, &bits, sizeof value);
    return value;
}

int64_t phi_gguf_extend(uint64_t bits, size_t bytes)
{
    unsigned shift = (unsigned)(64 - 8 * bytes);
    return (int64_t)(bits << shift) >> shift;
}

uint32_t phi_gguf_version(const phi_gguf *gguf)
{
    return gguf->version;
}

const phi_file *phi_gguf_file(const phi_gguf *gguf)
{
    return &gguf->file;
}

size_t phi_gguf_value_count(const phi_gguf *gguf)
{
    return gguf->value_count;
}

const phi_gguf_value *phi_gguf_value_at(const phi_gguf *gguf, size_t index)
{
    PHI_ASSERT(index < gguf->value_count);
    return &gguf->values[index];
}

const phi_gguf_value *phi_gguf_find(const phi_gguf *gguf, const char *key)
{
    uint32_t index;
    return phi_strmap_find(gguf->value_index, key, strlen(key), &index) ? &gguf->values[index]
                                                                        : NULL;
}

size_t phi_gguf_tensor_count(const phi_gguf *gguf)
{
    return gguf->tensor_count;
}

const phi_tensor_entry *phi_gguf_tensor_at(const phi_gguf *gguf, size_t index)
{
    PHI_ASSERT(index < gguf->tensor_count);
    return &gguf->tensors[index];
}

static bool is_signed(phi_gguf_type type)
{
    return type == PHI_GGUF_I8 || type == PHI_GGUF_I16 || type == PHI_GGUF_I32 ||
           type == PHI_GGUF_I64;
}

static bool is_unsigned(phi_gguf_type type)
{
    return type == PHI_GGUF_U8 || type == PHI_GGUF_U16 || type == PHI_GGUF_U32 ||
           type == PHI_GGUF_U64;
}

bool phi_gguf_get_u32(const phi_gguf *gguf, const char *key, uint32_t *out)
{
    const phi_gguf_value *value = phi_gguf_find(gguf, key);
    bool fits =
        value &&
        ((is_unsigned(value->type) && value->as.u64 <= UINT32_MAX) ||
         (is_signed(value->type) && value->as.i64 >= 0 && value->as.i64 <= (int64_t)UINT32_MAX));
    if (fits) {
        *out = (uint32_t)value->as.u64;
    }
    return fits;
}

bool phi_gguf_get_f32(const phi_gguf *gguf, const char *key, float *out)
{
    const phi_gguf_value *value = phi_gguf_find(gguf, key);
    if (!value || (value->type != PHI_GGUF_F32 && value->type != PHI_GGUF_F64)) {
        return false;
    }
    *out = (float)value->as.f64;
    return true;
}

bool phi_gguf_get_bool(const phi_gguf *gguf, const char *key, bool *out)
{
    const phi_gguf_value *value = phi_gguf_find(gguf, key);
    if (!value || value->type != PHI_GGUF_BOOL) {
        return false;
    }
    *out = value->as.u64 != 0;
    return true;
}

bool phi_gguf_get_string(const phi_gguf *gguf, const char *key, phi_gguf_string *out)
{
    const phi_gguf_value *value = phi_gguf_find(gguf, key);
    if (!value || value->type != PHI_GGUF_STRING) {
        return false;
    }
    *out = value->as.string;
    return true;
}

/* The stored bits of one element of an array of numbers, zero-extended. */
static uint64_t element_bits(const phi_gguf_value *array, uint64_t index)
{
    size_t bytes = phi_gguf_number_bytes(array->element_type);
    PHI_ASSERT(array->type == PHI_GGUF_ARRAY && bytes > 0 && index < array->count);
    uint64_t bits = 0;
    memcpy(&bits, (const uint8_t *)array->as.numbers + index * bytes, bytes);
    return bits;
}

int64_t phi_gguf_array_i64(const phi_gguf_value *array, uint64_t index)
{
    uint64_t bits = element_bits(array, index);
    if (array->element_type == PHI_GGUF_F32 || array->element_type == PHI_GGUF_F64) {
        double value = phi_gguf_array_f64(array, index);
        /* Also false for NaN, so that the conversion is defined. */
        bool fits = value > -0x1p63 && value < 0x1p63;
        return fits ? (int64_t)value : 0;
    }
    return is_signed(array->element_type)
               ? phi_gguf_extend(bits, phi_gguf_number_bytes(array->element_type))
               : (int64_t)bits;
}

double phi_gguf_array_f64(const phi_gguf_value *array, uint64_t index)
{
    uint64_t bits = element_bits(array, index);
    if (array->element_type == PHI_GGUF_F32) {
        return (double)phi_gguf_float_of_bits((uint32_t)bits);
    }
    if (array->element_type == PHI_GGUF_F64) {
        return phi_gguf_double_of_bits(bits);
    }
    return is_signed(array->element_type)
               ? (double)phi_gguf_extend(bits, phi_gguf_number_bytes(array->element_type))
               : (double)bits;
}

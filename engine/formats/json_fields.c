#include "engine/formats/json_fields.h"

#include <math.h>

static phi_status fail_type(const phi_fields *fields, const char *name, const char *right,
                            phi_err *err)
{
    return phi_fail(err, PHI_E_FORMAT, "%s: field \"%s%s\" must be %s", fields->label, fields->path,
                    name, right);
}

json_t *phi_fields_get(const phi_fields *fields, const char *name)
{
    json_t *value = json_object_get(fields->object, name);
    return json_is_null(value) ? NULL : value;
}

phi_status phi_fields_require(const phi_fields *fields, const char *name, phi_err *err)
{
    if (phi_fields_get(fields, name)) {
        return PHI_OK;
    }
    return phi_fail(err, PHI_E_FORMAT, "%s: field \"%s%s\" is missing", fields->label, fields->path,
                    name);
}

phi_status phi_fields_u32(const phi_fields *fields, const char *name, uint32_t max, uint32_t *out,
                          phi_err *err)
{
    const json_t *value = phi_fields_get(fields, name);
    if (!value) {
        return PHI_OK;
    }
    if (!json_is_integer(value) || json_integer_value(value) < 1 ||
        json_integer_value(value) > (json_int_t)max) {
        return phi_fail(err, PHI_E_FORMAT, "%s: field \"%s%s\" must be a whole number from 1 to %u",
                        fields->label, fields->path, name, max);
    }
    *out = (uint32_t)json_integer_value(value);
    return PHI_OK;
}

/* The parser admits only finite numbers, but a double may still be too large for a float. */
static bool get_positive(const json_t *value, float *out)
{
    if (!json_is_number(value)) {
        return false;
    }
    double number = json_number_value(value);
    if (!(number > 0.0) || number > 3.0e38 || (float)number <= 0.0F) {
        return false;
    }
    *out = (float)number;
    return true;
}

phi_status phi_fields_positive(const phi_fields *fields, const char *name, float *out, phi_err *err)
{
    const json_t *value = phi_fields_get(fields, name);
    if (!value || get_positive(value, out)) {
        return PHI_OK;
    }
    return fail_type(fields, name, "a positive number", err);
}

phi_status phi_fields_bool(const phi_fields *fields, const char *name, bool *out, phi_err *err)
{
    const json_t *value = phi_fields_get(fields, name);
    if (!value) {
        return PHI_OK;
    }
    if (!json_is_boolean(value)) {
        return fail_type(fields, name, "true or false", err);
    }
    *out = json_is_true(value);
    return PHI_OK;
}

phi_status phi_fields_string(const phi_fields *fields, const char *name, const char **out,
                             phi_err *err)
{
    const json_t *value = phi_fields_get(fields, name);
    if (!value) {
        return PHI_OK;
    }
    if (!json_is_string(value)) {
        return fail_type(fields, name, "a string", err);
    }
    *out = json_string_value(value);
    return PHI_OK;
}

phi_status phi_fields_floats(const phi_fields *fields, const char *name, size_t count, float *out,
                             phi_err *err)
{
    const json_t *list = phi_fields_get(fields, name);
    if (!json_is_array(list) || json_array_size(list) != count) {
        return phi_fail(err, PHI_E_FORMAT,
                        "%s: field \"%s%s\" must be a list of %zu numbers, half the rotary "
                        "dimensions",
                        fields->label, fields->path, name, count);
    }
    for (size_t i = 0; i < count; i++) {
        if (!get_positive(json_array_get(list, i), &out[i])) {
            return phi_fail(err, PHI_E_FORMAT,
                            "%s: element %zu of field \"%s%s\" must be a positive number",
                            fields->label, i, fields->path, name);
        }
    }
    return PHI_OK;
}

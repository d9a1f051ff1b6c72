#include "server/openai/fields.h"

#include <inttypes.h>
#include <string.h>

json_t *phi_field(const json_t *object, const char *name)
{
    json_t *value = json_object_get(object, name);
    return json_is_null(value) ? NULL : value;
}

const char *phi_json_kind(const json_t *value)
{
    if (!value) {
        return "missing";
    }
    switch (json_typeof(value)) {
    case JSON_OBJECT:
        return "an object";
    case JSON_ARRAY:
        return "an array";
    case JSON_STRING:
        return "a string";
    case JSON_INTEGER:
    case JSON_REAL:
        return "a number";
    case JSON_TRUE:
    case JSON_FALSE:
        return "a boolean";
    case JSON_NULL:
        return "null";
    }
    return "unknown";
}

phi_status phi_field_string(const json_t *object, const char *name, const char **out, phi_err *err)
{
    const json_t *value = phi_field(object, name);
    if (!value) {
        return PHI_OK;
    }
    if (!json_is_string(value)) {
        return phi_fail_param(err, PHI_E_INVALID, name, "'%s' must be a string, but is %s", name,
                              phi_json_kind(value));
    }
    if (strlen(json_string_value(value)) != json_string_length(value)) {
        return phi_fail_param(err, PHI_E_INVALID, name, "'%s' must not contain a NUL character",
                              name);
    }
    *out = json_string_value(value);
    return PHI_OK;
}

phi_status phi_field_bool(const json_t *object, const char *name, bool *out, phi_err *err)
{
    const json_t *value = phi_field(object, name);
    if (!value) {
        return PHI_OK;
    }
    if (!json_is_boolean(value)) {
        return phi_fail_param(err, PHI_E_INVALID, name, "'%s' must be true or false, but is %s",
                              name, phi_json_kind(value));
    }
    *out = json_is_true(value);
    return PHI_OK;
}

phi_status phi_field_number(const json_t *object, const char *name, double low, double high,
                            bool *out_present, double *out, phi_err *err)
{
    const json_t *value = phi_field(object, name);
    if (!value) {
        return PHI_OK;
    }
    if (!json_is_number(value)) {
        return phi_fail_param(err, PHI_E_INVALID, name,
                              "'%s' must be a number from %g to %g, but is %s", name, low, high,
                              phi_json_kind(value));
    }
    double number = json_number_value(value);
    if (!(number >= low && number <= high)) {
        return phi_fail_param(err, PHI_E_INVALID, name, "'%s' is %g; it must be from %g to %g",
                              name, number, low, high);
    }
    *out = number;
    *out_present = true;
    return PHI_OK;
}

phi_status phi_field_integer(const json_t *object, const char *name, int64_t low, int64_t high,
                             bool *out_present, int64_t *out, phi_err *err)
{
    const json_t *value = phi_field(object, name);
    *out_present = false;
    if (!value) {
        return PHI_OK;
    }
    if (!json_is_integer(value)) {
        return phi_fail_param(err, PHI_E_INVALID, name, "'%s' must be an integer, but is %s", name,
                              json_is_real(value) ? "a fraction" : phi_json_kind(value));
    }
    int64_t number = json_integer_value(value);
    if (number < low || number > high) {
        return phi_fail_param(err, PHI_E_INVALID, name,
                              "'%s' is %" PRId64 "; it must be from %" PRId64 " to %" PRId64, name,
                              number, low, high);
    }
    *out = number;
    *out_present = true;
    return PHI_OK;
}

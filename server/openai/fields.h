/*
 * Purpose: typed access to the fields of a JSON request body.
 * Owns: nothing; strings are views into the body.
 * Threads: [any].
 * Errors:  PHI_E_INVALID with `param` set to the field: its type or range, and what would be right.
 * Limits:  stated per call. A null counts as absent.
 */
#ifndef PHI_SERVER_OPENAI_FIELDS_H
#define PHI_SERVER_OPENAI_FIELDS_H

#include "base/status.h"

#include <jansson.h>
#include <stdbool.h>
#include <stdint.h>

/* The field's value, or NULL when absent or null. */
json_t *phi_field(const json_t *object, const char *name);
/* Each leaves *out untouched when the field is absent. */
phi_status phi_field_string(const json_t *object, const char *name, const char **out,
                            phi_err *err) PHI_MUST_CHECK;
phi_status phi_field_bool(const json_t *object, const char *name, bool *out,
                          phi_err *err) PHI_MUST_CHECK;
phi_status phi_field_number(const json_t *object, const char *name, double low, double high,
                            bool *out_present, double *out, phi_err *err) PHI_MUST_CHECK;
phi_status phi_field_integer(const json_t *object, const char *name, int64_t low, int64_t high,
                             bool *out_present, int64_t *out, phi_err *err) PHI_MUST_CHECK;
/* What a JSON value is, for messages: "a string", "a number", ... */
const char *phi_json_kind(const json_t *value);

#endif

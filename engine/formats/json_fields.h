/*
 * Purpose: fields of a JSON object by name and type, each wrong one named.
 * Owns:    nothing.
 * Threads: any.
 * Errors:  PHI_E_FORMAT with file, field and what would be right. A field that is absent or null
 *          leaves *out as it is, so that callers set defaults first; see phi_fields_require.
 * Limits:  none.
 */
#ifndef PHI_ENGINE_FORMATS_JSON_FIELDS_H
#define PHI_ENGINE_FORMATS_JSON_FIELDS_H

#include "base/status.h"

#include <jansson.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

/* An object of a file; `path` ("rope_scaling.") comes before its fields' names in messages. */
typedef struct phi_fields {
    const json_t *object;
    const char *label;
    const char *path;
} phi_fields;

/* NULL when absent or null. */
json_t *phi_fields_get(const phi_fields *fields, const char *name);
phi_status phi_fields_require(const phi_fields *fields, const char *name,
                              phi_err *err) PHI_MUST_CHECK;
/* A whole number of at least 1; `max` is the largest accepted. */
phi_status phi_fields_u32(const phi_fields *fields, const char *name, uint32_t max, uint32_t *out,
                          phi_err *err) PHI_MUST_CHECK;
/* A finite positive number; an integer will do. */
phi_status phi_fields_positive(const phi_fields *fields, const char *name, float *out,
                               phi_err *err) PHI_MUST_CHECK;
phi_status phi_fields_bool(const phi_fields *fields, const char *name, bool *out,
                           phi_err *err) PHI_MUST_CHECK;
/* A view into the object. */
phi_status phi_fields_string(const phi_fields *fields, const char *name, const char **out,
                             phi_err *err) PHI_MUST_CHECK;
/* Exactly `count` finite positive numbers; absent is an error. */
phi_status phi_fields_floats(const phi_fields *fields, const char *name, size_t count, float *out,
                             phi_err *err) PHI_MUST_CHECK;

#endif

/*
 * Purpose: strict loading of the JSON that model files contain.
 * Owns:    nothing; the caller owns the returned object (json_decref).
 * Threads: any.
 * Errors:  PHI_E_FORMAT names file, line and column; duplicate keys are refused.
 * Limits:  PHI_LIMIT_JSON_DEPTH and PHI_LIMIT_JSON_VALUES, checked before anything is built.
 */
#ifndef PHI_ENGINE_FORMATS_JSON_H
#define PHI_ENGINE_FORMATS_JSON_H

#include "base/status.h"

#include <jansson.h>
#include <stddef.h>

/* `label` names the text in messages. The root must be an object. */
phi_status phi_json_parse_object(const char *text, size_t bytes, const char *label,
                                 json_t **out_object, phi_err *err) PHI_MUST_CHECK;
phi_status phi_json_load_object(const char *path, size_t max_bytes, json_t **out_object,
                                phi_err *err) PHI_MUST_CHECK;

#endif

/*
 * Purpose: the files of a Hugging Face folder that are not weights, written beside a model:
 *          config.json, generation_config.json, and the tokenizer's, as the source had them.
 * Owns:    nothing.
 * Threads: one at a time for a folder.
 * Errors:  the file is named; each appears whole or not at all.
 * Limits:  PHI_LIMIT_CONFIG_JSON_BYTES.
 *
 * Without a source folder the configurations are written from the description, and there are no
 * tokenizer's files.
 */
#ifndef PHI_ENGINE_FORMATS_HF_FOLDER_H
#define PHI_ENGINE_FORMATS_HF_FOLDER_H

#include "base/status.h"
#include "engine/formats/export.h"

#include <jansson.h>

/* `changes` are fields that config.json gets, in place of the source's; NULL: none. What the source
 * said of its own quantization is left out. */
phi_status phi_hf_folder_write(const phi_export *export, const char *dir, json_t *changes,
                               phi_err *err) PHI_MUST_CHECK;
/* A config.json that says what the description does. */
json_t *phi_hf_folder_describe(const phi_description *description);
phi_status phi_hf_folder_write_json(const json_t *object, const char *dir, const char *name,
                                    phi_err *err) PHI_MUST_CHECK;

#endif

/*
 * Purpose: config.json and generation_config.json of a Hugging Face checkpoint, as a description.
 * Owns:    nothing.
 * Threads: any.
 * Errors:  file and field are named; an architecture, scaling or activation that is none of the
 * family's is PHI_E_UNSUPPORTED and says what is supported. Limits:  PHI_LIMIT_CONFIG_JSON_BYTES
 * and those of description.h.
 *
 * Defaults of absent fields are those of transformers' Phi3Config and PhiConfig. Both spellings of
 * the rotary settings are read: rope_scaling beside rope_theta, and rope_parameters that holds
 * both.
 */
#ifndef PHI_ENGINE_FORMATS_HF_CONFIG_H
#define PHI_ENGINE_FORMATS_HF_CONFIG_H

#include "base/status.h"
#include "engine/formats/description.h"

/* Reads both files of `dir`; generation_config.json may be absent. */
phi_status phi_hf_config_read(const char *dir, phi_description *out_description,
                              phi_err *err) PHI_MUST_CHECK;

#endif

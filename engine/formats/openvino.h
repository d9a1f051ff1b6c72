/*
 * Purpose: OpenVINO folders (openvino_model.xml and .bin beside config.json), as optimum-intel
 *          exports Phi models and openvino-genai's LLMPipeline runs them.
 * Owns:    a phi_openvino owns its open files and what it lists.
 * Threads: after open, any number of readers.
 * Errors:  the file and the layer, constant or key are named. A graph that is no Phi decoder of the
 *          description in config.json (another activation, a bias, a soft cap, an adapter, other
 *          rotary frequencies) is PHI_E_UNSUPPORTED and names the layer that differs.
 * Limits:  PHI_LIMIT_OPENVINO_* and those of config.json.
 *
 * The graph holds a model's weights and its arithmetic, but not its description, so config.json is
 * needed. The arithmetic is checked, not run: the reader goes from the logits back to the
 * embedding, and every layer on the way has to be what a Phi model has in that place.
 */
#ifndef PHI_ENGINE_FORMATS_OPENVINO_H
#define PHI_ENGINE_FORMATS_OPENVINO_H

#include "base/status.h"
#include "engine/formats/description.h"
#include "engine/formats/export.h"
#include "engine/formats/stored.h"

#include <stddef.h>

typedef struct phi_openvino phi_openvino;

phi_status phi_openvino_open(const char *dir, phi_openvino **out_openvino,
                             phi_err *err) PHI_MUST_CHECK;
void phi_openvino_close(phi_openvino *openvino);
/* tied_head says what the graph does, whatever config.json says. */
const phi_description *phi_openvino_description(const phi_openvino *openvino);
/* In forward-pass order, with Hugging Face's names; no head when it is tied. */
size_t phi_openvino_count(const phi_openvino *openvino);
const phi_stored *phi_openvino_at(const phi_openvino *openvino, size_t index);
/* openvino_model.bin, which holds them. */
const phi_file *phi_openvino_file(const phi_openvino *openvino);

/* Writes a folder that LLMPipeline runs, into `dir`, which is made: openvino_model.xml and .bin,
 * config.json, generation_config.json, the tokenizer's files of export->source_dir, and
 * openvino_tokenizer and openvino_detokenizer made of its tokenizer.json (without a source there
 * are none of these). Tensors of 4 and 8 bits become i4, i8 (symmetric), u4 and u8 codes, groups as
 * they are. */
phi_status phi_openvino_write(const phi_export *export, const char *dir,
                              phi_err *err) PHI_MUST_CHECK;

#endif

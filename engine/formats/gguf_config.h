/*
 * Purpose: the family's GGUF keys and LongRoPE tensors, as a description and back.
 * Owns:    nothing.
 * Threads: any for reading; the writer's for writing.
 * Errors:  file, key and tensor are named; an architecture that is none of the family's is
 * PHI_E_UNSUPPORTED. Limits:  those of description.h.
 *
 * Keys: ggml docs/gguf.md and llama.cpp's loaders. One key is our own: phid.eos_token_ids, the
 * whole list of stop tokens, because GGUF's own keys name only one or two.
 *
 * Writing a file goes in this order (metadata first, then declarations, then data in the order of
 * the declarations):
 *   phi_checkpoint_put_description(writer, d);    and all other phi_gguf_put_*
 *   phi_gguf_declare_rope_factors(writer, d);     first of all tensors, or anywhere among them
 *   phi_gguf_declare_tensor(...)                  the others
 *   phi_gguf_write_header(writer, err);
 *   phi_gguf_write_rope_factors(writer, d, err);  at the place where they were declared
 *   phi_gguf_write_data(...)                      the others
 *   phi_gguf_writer_commit(writer, err);
 * For a description without LongRoPE the two calls do nothing.
 */
#ifndef PHI_ENGINE_FORMATS_GGUF_CONFIG_H
#define PHI_ENGINE_FORMATS_GGUF_CONFIG_H

#include "base/status.h"
#include "engine/formats/description.h"
#include "engine/formats/gguf.h"

phi_status phi_gguf_config_read(const phi_gguf *gguf, phi_description *out_description,
                                phi_err *err) PHI_MUST_CHECK;
/* Declares rope_factors_long.weight, then rope_factors_short.weight. */
void phi_gguf_declare_rope_factors(phi_gguf_writer *writer, const phi_description *description);
phi_status phi_gguf_write_rope_factors(phi_gguf_writer *writer, const phi_description *description,
                                       phi_err *err) PHI_MUST_CHECK;

#endif

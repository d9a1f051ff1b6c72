/*
 * Purpose: what a file of a model's source is by its name: weights, or something that this program
 *          cannot read and another file has to stand in for.
 * Owns:    nothing.
 * Threads: any.
 * Errors:  none.
 * Limits:  none.
 */
#ifndef PHI_ENGINE_FORMATS_SOURCE_NAME_H
#define PHI_ENGINE_FORMATS_SOURCE_NAME_H

#include <stdbool.h>

/* True for the files of a model's folder that hold its tensors. */
bool phi_source_name_is_weights(const char *name);
/* NULL, or why a model cannot be read from a file of this name, and what to use instead. */
const char *phi_source_name_refusal(const char *name);

#endif

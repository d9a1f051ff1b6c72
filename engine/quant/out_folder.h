/*
 * Purpose: a folder that is written whole or not at all.
 * Owns:    phi_out_folder owns its working folder until done.
 * Threads: one.
 * Errors:  an output that is there already is PHI_E_INVALID and says what to name instead.
 * Limits:  none.
 *
 * Files are written into `made`, a hidden folder beside the output or, where the output is an empty
 * folder (a mounted one cannot be replaced), inside it; publish gives them their place. What a
 * crash leaves has ".tmp-" in its name.
 */
#ifndef PHI_ENGINE_QUANT_OUT_FOLDER_H
#define PHI_ENGINE_QUANT_OUT_FOLDER_H

#include "base/status.h"

#include <stdbool.h>

typedef struct phi_out_folder {
    char *path;
    char *work;    /* NULL: nothing to remove */
    char *made;    /* what is to be published */
    char *scratch; /* what is not */
    bool is_there; /* an empty folder, to be filled */
} phi_out_folder;

phi_status phi_out_folder_make(phi_out_folder *folder, const char *path,
                               phi_err *err) PHI_MUST_CHECK;
phi_status phi_out_folder_publish(phi_out_folder *folder, phi_err *err) PHI_MUST_CHECK;
/* Removes what was not published. */
void phi_out_folder_done(phi_out_folder *folder);

#endif

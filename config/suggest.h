/*
 * Purpose: which of the known names somebody probably meant.
 * Owns:    nothing. Threads: any. Errors: none. Limits: names up to 63 bytes are compared.
 */
#ifndef PHI_CONFIG_SUGGEST_H
#define PHI_CONFIG_SUGGEST_H

#include <stddef.h>

/* Edits (insert, delete, replace, swap of neighbours) that lead from one to the other. */
size_t phi_suggest_distance(const char *a, const char *b);
/* Whether so few edits that a typing error is likely. */
int phi_suggest_close(const char *wrong, const char *known);

#endif

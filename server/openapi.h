/*
 * Purpose: the daemon's description of itself (server/openapi.json), embedded at build time.
 * Owns:    nothing; static. Threads: any. Errors: none. Limits: none.
 */
#ifndef PHI_SERVER_OPENAPI_H
#define PHI_SERVER_OPENAPI_H

#include <stddef.h>

/* JSON text, not NUL-terminated. */
const char *phi_openapi_text(size_t *out_bytes);

#endif

/*
 * Purpose: the /v1/files routes: upload (multipart, and PUT with resume), list, read, delete.
 * Owns:    nothing that outlives a request; bytes and rows belong to the store.
 * Threads: handlers are [loop]; writing, hashing and publishing are [job].
 * Errors:  OpenAI's error object; the parameter is named.
 * Limits:  settings.max_upload_bytes, PHI_LIMIT_NAME_BYTES, PHI_LIMIT_PAGE.
 */
#ifndef PHI_SERVER_OPENAI_FILES_H
#define PHI_SERVER_OPENAI_FILES_H

#include "server/http/http.h"

#include <stddef.h>

extern const phi_route phi_files_routes[];
extern const size_t phi_files_routes_count;

#endif

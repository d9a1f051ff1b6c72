/*
 * Purpose: API keys: who may call, and who is who for fairness.
 * Owns:    phi_access owns its copies of the keys.
 * Threads: create before serving, check on [loop].
 * Errors:  a keys file is named with the line that is wrong.
 * Limits:  PHI_ACCESS_KEYS_MAX keys.
 *
 * A presented key is compared with every key in constant time each, without an early end, so that
 * the time taken says nothing about how near a guess was.
 */
#ifndef PHI_SERVER_ACCESS_KEYS_H
#define PHI_SERVER_ACCESS_KEYS_H

#include "base/status.h"

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#define PHI_ACCESS_KEYS_MAX 4096U

typedef struct phi_access phi_access;

/* `keys` is a comma-separated list, `file` has one key a line; both may be "". */
phi_status phi_access_create(const char *keys, const char *file, phi_access **out_access,
                             phi_err *err) PHI_MUST_CHECK;
void phi_access_destroy(phi_access *access);
/* 0: everybody may call. */
size_t phi_access_key_count(const phi_access *access);
/* `authorization` is the header's value or NULL. On success the client's identity, not 0 unless no
 * key is asked for. */
bool phi_access_check(const phi_access *access, const char *authorization, uint64_t *out_client);

#endif

/*
 * Purpose: SHA-256, hashes for tables, random identifiers and constant-time comparison, over nettle
 * and getrandom. Owns:    nothing; phi_sha256 is caller storage. Threads: one per object. Errors:
 * none. Limits:  none.
 */
#ifndef PHI_BASE_HASH_H
#define PHI_BASE_HASH_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#define PHI_SHA256_BYTES 32
#define PHI_SHA256_HEX_BYTES 65 /* with the NUL */

typedef struct phi_sha256 {
    uint64_t opaque[16]; /* nettle's context lives here; size asserted in hash.c */
} phi_sha256;

void phi_sha256_init(phi_sha256 *hash);
void phi_sha256_update(phi_sha256 *hash, const void *data, size_t bytes);
void phi_sha256_finish(phi_sha256 *hash, uint8_t out[PHI_SHA256_BYTES]);

/* Compares secrets: the time taken does not depend on where they differ, nor on `a`'s content. */
bool phi_secret_equal(const char *a, const char *b);

/* PREFIX followed by 24 random lower-case hex digits, into `out` of `out_bytes`. */
void phi_random_id(const char *prefix, char *out, size_t out_bytes);
void phi_random_bytes(void *data, size_t bytes);

/* FNV-1a, 64 bit: for numbers that nobody chooses to collide. */
uint64_t phi_hash_fnv1a(const void *data, size_t bytes);
/* SipHash-1-3 (Aumasson and Bernstein, 2012): for tables whose keys come from files and clients.
 * Without the secret nobody can make keys that share a slot. */
uint64_t phi_hash_keyed(const uint64_t secret[2], const void *data, size_t bytes);

#endif

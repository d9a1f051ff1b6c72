#include "base/hash.h"

#include "base/assert.h"
#include "base/str.h"

#include <nettle/memops.h>
#include <nettle/sha2.h>
#include <stdio.h>
#include <string.h>
#include <sys/random.h>

_Static_assert(sizeof(struct sha256_ctx) <= sizeof(phi_sha256), "phi_sha256 holds nettle's");
_Static_assert(PHI_SHA256_BYTES == SHA256_DIGEST_SIZE, "digest size");

void phi_sha256_init(phi_sha256 *hash)
{
    sha256_init((struct sha256_ctx *)(void *)hash->opaque);
}

void phi_sha256_update(phi_sha256 *hash, const void *data, size_t bytes)
{
    sha256_update((struct sha256_ctx *)(void *)hash->opaque, bytes, data);
}

void phi_sha256_finish(phi_sha256 *hash, uint8_t out[PHI_SHA256_BYTES])
{
    sha256_digest((struct sha256_ctx *)(void *)hash->opaque, PHI_SHA256_BYTES, out);
}

bool phi_secret_equal(const char *a, const char *b)
{
    /* Digests have one length, so neither length nor content of the secrets shows in the time. */
    uint8_t digest_a[PHI_SHA256_BYTES];
    uint8_t digest_b[PHI_SHA256_BYTES];
    phi_sha256 hash;
    phi_sha256_init(&hash);
    phi_sha256_update(&hash, a, strlen(a));
    phi_sha256_finish(&hash, digest_a);
    phi_sha256_init(&hash);
    phi_sha256_update(&hash, b, strlen(b));
    phi_sha256_finish(&hash, digest_b);
    return memeql_sec(digest_a, digest_b, sizeof digest_a) != 0;
}

void phi_random_bytes(void *data, size_t bytes)
{
    /* Up to 256 bytes come whole and uninterrupted (getrandom(2)). */
    PHI_ASSERT(bytes <= 256);
    ssize_t got = getrandom(data, bytes, 0);
    PHI_ASSERT(got == (ssize_t)bytes);
}

void phi_random_id(const char *prefix, char *out, size_t out_bytes)
{
    uint8_t random[12];
    char hex[2 * sizeof random + 1];
    phi_random_bytes(random, sizeof random);
    phi_str_hex(random, sizeof random, hex);
    int length = snprintf(out, out_bytes, "%s%s", prefix, hex);
    PHI_ASSERT(length > 0 && (size_t)length < out_bytes);
}

uint64_t phi_hash_fnv1a(const void *data, size_t bytes)
{
    const uint8_t *p = data;
    uint64_t hash = 14695981039346656037U;
    for (size_t i = 0; i < bytes; i++) {
        hash = (hash ^ p[i]) * 1099511628211U;
    }
    return hash;
}

static uint64_t rotate(uint64_t value, unsigned bits)
{
    return value << bits | value >> (64 - bits);
}

static void sip_round(uint64_t v[4])
{
    v[0] += v[1];
    v[1] = rotate(v[1], 13) ^ v[0];
    v[0] = rotate(v[0], 32);
    v[2] += v[3];
    v[3] = rotate(v[3], 16) ^ v[2];
    v[0] += v[3];
    v[3] = rotate(v[3], 21) ^ v[0];
    v[2] += v[1];
    v[1] = rotate(v[1], 17) ^ v[2];
    v[2] = rotate(v[2], 32);
}

uint64_t phi_hash_keyed(const uint64_t secret[2], const void *data, size_t bytes)
{
    const uint8_t *at = data;
    uint64_t v[4] = {secret[0] ^ 0x736F6D6570736575U, secret[1] ^ 0x646F72616E646F6DU,
                     secret[0] ^ 0x6C7967656E657261U, secret[1] ^ 0x7465646279746573U};
    for (size_t left = bytes;; left -= 8, at += 8) {
        uint64_t word = 0;
        size_t now = left < 8 ? left : 8;
        for (size_t i = 0; i < now; i++) {
            word |= (uint64_t)at[i] << (8 * i);
        }
        if (now < 8) {
            word |= (uint64_t)bytes << 56;
        }
        v[3] ^= word;
        sip_round(v);
        v[0] ^= word;
        if (now < 8) {
            break;
        }
    }
    v[2] ^= 0xFF;
    for (int i = 0; i < 3; i++) {
        sip_round(v);
    }
    return v[0] ^ v[1] ^ v[2] ^ v[3];
}

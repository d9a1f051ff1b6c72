/*
 * Purpose: strict number parsing, UTF-8 and small string functions.
 * Owns:    nothing.
 * Threads: any.
 * Errors:  parsers return false on anything but exactly one number; *out is then untouched.
 * Limits:  none.
 */
#ifndef PHI_BASE_STR_H
#define PHI_BASE_STR_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

/* Decimal digits only, no sign or space, at most `max`. */
bool phi_str_parse_u64(const char *text, uint64_t max, uint64_t *out);
/* A finite decimal number. */
bool phi_str_parse_double(const char *text, double *out);
/* "64", "64k", "10M", "2G", "1T" with powers of 1024. */
bool phi_str_parse_bytes(const char *text, uint64_t *out);
bool phi_str_starts(const char *text, const char *prefix);
bool phi_str_ends(const char *text, const char *suffix);
/* Lower-case hex of `bytes` bytes into `out`, which holds 2 * bytes + 1. */
void phi_str_hex(const uint8_t *data, size_t bytes, char *out);

/* Decodes one code point from `bytes` (> 0) bytes; returns its length 1..4, or 0 if the bytes
 * start with an invalid sequence, or -1 if they are a valid but incomplete beginning. Overlong
 * forms, surrogates and values past U+10FFFF are invalid (RFC 3629). */
int phi_utf8_decode(const char *text, size_t bytes, uint32_t *out_codepoint);
/* Writes 1..4 bytes, returns how many; `codepoint` must be a Unicode scalar value. */
int phi_utf8_encode(uint32_t codepoint, char out[4]);
bool phi_utf8_valid(const char *text, size_t bytes);
/* Length of the longest prefix that ends on a character boundary: at most 3 bytes shorter than
 * `bytes`, when the end is an incomplete character. */
size_t phi_utf8_complete_bytes(const char *text, size_t bytes);

#endif

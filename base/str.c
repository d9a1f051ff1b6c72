#include "base/str.h"

#include <errno.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>

bool phi_str_parse_u64(const char *text, uint64_t max, uint64_t *out)
{
    if (!*text) {
        return false;
    }
    uint64_t value = 0;
    for (const char *p = text; *p; p++) {
        if (*p < '0' || *p > '9') {
            return false;
        }
        uint64_t digit = (uint64_t)(*p - '0');
        if (value > (max - digit) / 10 || digit > max) {
            return false;
        }
        value = value * 10 + digit;
    }
    *out = value;
    return true;
}

bool phi_str_parse_double(const char *text, double *out)
{
    /* strtod also takes spaces, hex, "inf" and "nan"; only plain decimal is let through. */
    if (!*text || strspn(text, "0123456789+-.eE") != strlen(text)) {
        return false;
    }
    char *end = NULL;
    errno = 0;
    double value = strtod(text, &end);
    if (*end || errno == ERANGE || !isfinite(value)) {
        return false;
    }
    *out = value;
    return true;
}

bool phi_str_parse_bytes(const char *text, uint64_t *out)
{
    char digits[24];
    size_t length = strspn(text, "0123456789");
    if (length == 0 || length >= sizeof digits) {
        return false;
    }
    memcpy(digits, text, length);
    digits[length] = '\0';
    unsigned shift = 0;
    const char *unit = text + length;
    if (*unit) {
        const char *found = strchr("kKmMgGtT", *unit);
        if (!found || unit[1]) {
            return false;
        }
        shift = 10 * (unsigned)((found - "kKmMgGtT") / 2 + 1);
    }
    uint64_t value;
    if (!phi_str_parse_u64(digits, UINT64_MAX >> shift, &value)) {
        return false;
    }
    *out = value << shift;
    return true;
}

bool phi_str_starts(const char *text, const char *prefix)
{
    return strncmp(text, prefix, strlen(prefix)) == 0;
}

bool phi_str_ends(const char *text, const char *suffix)
{
    size_t length = strlen(text);
    size_t tail = strlen(suffix);
    return length >= tail && strcmp(text + length - tail, suffix) == 0;
}

void phi_str_hex(const uint8_t *data, size_t bytes, char *out)
{
    static const char digits[] = "0123456789abcdef";
    for (size_t i = 0; i < bytes; i++) {
        out[2 * i] = digits[data[i] >> 4];
        out[2 * i + 1] = digits[data[i] & 15];
    }
    out[2 * bytes] = '\0';
}

/* Length and allowed range of the second byte by first byte: the table of RFC 3629, section 4. */
static int sequence_length(uint8_t first, uint8_t *low, uint8_t *high)
{
    *low = 0x80;
    *high = 0xBF;
    if (first < 0x80) {
        return 1;
    }
    if (first >= 0xC2 && first <= 0xDF) {
        return 2;
    }
    if (first >= 0xE0 && first <= 0xEF) {
        *low = first == 0xE0 ? 0xA0 : 0x80;
        *high = first == 0xED ? 0x9F : 0xBF;
        return 3;
    }
    if (first >= 0xF0 && first <= 0xF4) {
        *low = first == 0xF0 ? 0x90 : 0x80;
        *high = first == 0xF4 ? 0x8F : 0xBF;
        return 4;
    }
    return 0;
}

int phi_utf8_decode(const char *text, size_t bytes, uint32_t *out_codepoint)
{
    const uint8_t *p = (const uint8_t *)text;
    uint8_t low;
    uint8_t high;
    int length = sequence_length(p[0], &low, &high);
    if (length <= 1) {
        if (length == 1) {
            *out_codepoint = p[0];
        }
        return length;
    }
    uint32_t value = p[0] & (0xFFU >> (length + 1));
    for (int i = 1; i < length; i++) {
        if ((size_t)i >= bytes) {
            return -1;
        }
        if (p[i] < low || p[i] > high) {
            return 0;
        }
        value = value << 6 | (p[i] & 0x3FU);
        low = 0x80;
        high = 0xBF;
    }
    *out_codepoint = value;
    return length;
}

int phi_utf8_encode(uint32_t codepoint, char out[4])
{
    if (codepoint < 0x80) {
        out[0] = (char)codepoint;
        return 1;
    }
    int length = codepoint < 0x800 ? 2 : codepoint < 0x10000 ? 3 : 4;
    for (int i = length - 1; i > 0; i--) {
        out[i] = (char)(0x80 | (codepoint & 0x3F));
        codepoint >>= 6;
    }
    out[0] = (char)((0xF00U >> length & 0xFFU) | codepoint);
    return length;
}

bool phi_utf8_valid(const char *text, size_t bytes)
{
    uint32_t codepoint;
    while (bytes > 0) {
        int length = phi_utf8_decode(text, bytes, &codepoint);
        if (length <= 0) {
            return false;
        }
        text += length;
        bytes -= (size_t)length;
    }
    return true;
}

size_t phi_utf8_complete_bytes(const char *text, size_t bytes)
{
    for (size_t back = 1; back <= 3 && back <= bytes; back++) {
        uint32_t codepoint;
        if (phi_utf8_decode(text + bytes - back, back, &codepoint) == -1) {
            return bytes - back;
        }
    }
    return bytes;
}

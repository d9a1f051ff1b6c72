#include "base/checksum.h"

#include <string.h>

/*
 * Eight lanes take every eighth word each, so that the multiplications of one lane do not wait for
 * those of the others. A step is a bijection of the lane for a given word, and of the word for a
 * given lane: a single word that changes always changes the sum.
 */

#define LANES 8U
/* Odd, and of about as many ones as zeros: the golden ratio's fraction, and that of the square root
 * of 2. */
#define STEP_FACTOR 0x9E3779B97F4A7C15ULL
#define END_FACTOR 0x6A09E667F3BCC909ULL

static inline uint64_t little(uint64_t word)
{
#if __BYTE_ORDER__ == __ORDER_BIG_ENDIAN__
    return __builtin_bswap64(word);
#else
    return word;
#endif
}

static inline uint64_t step(uint64_t lane, uint64_t word)
{
    lane ^= word;
    /* High bits come down, where the multiplication spreads them again. */
    return (lane << 29 | lane >> 35) * STEP_FACTOR;
}

static uint64_t finish(uint64_t sum)
{
    sum = (sum ^ sum >> 32) * END_FACTOR;
    sum = (sum ^ sum >> 29) * STEP_FACTOR;
    return sum ^ sum >> 32;
}

uint64_t phi_checksum(const void *data, size_t bytes)
{
    const uint8_t *at = data;
    uint64_t lanes[LANES];
    uint64_t words[LANES];
    for (uint64_t i = 0; i < LANES; i++) {
        lanes[i] = finish(i + 1);
    }
    size_t left = bytes;
    for (; left >= sizeof words; left -= sizeof words, at += sizeof words) {
        memcpy(words, at, sizeof words);
        for (size_t i = 0; i < LANES; i++) {
            lanes[i] = step(lanes[i], little(words[i]));
        }
    }
    if (left > 0) {
        memset(words, 0, sizeof words);
        memcpy(words, at, left);
        for (size_t i = 0; i < LANES; i++) {
            lanes[i] = step(lanes[i], little(words[i]));
        }
    }
    /* The length tells zeros at the end from none. */
    uint64_t sum = finish(bytes);
    for (size_t i = 0; i < LANES; i++) {
        sum = finish(sum ^ lanes[i]);
    }
    return sum;
}

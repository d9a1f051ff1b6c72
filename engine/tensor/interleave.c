#include "engine/tensor/interleave.h"

#include <string.h>

/* Both transpose squares of 16 bytes by rounds of interleaving: of n vectors, vector i with vector
 * i + n / 2, the low halves first. After log2(n) rounds rows are columns. In the compiler's own
 * vectors (GCC's and clang's extension), which have an instruction for it everywhere. */
typedef uint32_t words __attribute__((vector_size(16)));
typedef uint16_t halves __attribute__((vector_size(16)));

#define ROWS 16U
#define WORDS 4U
#define HALVES 8U

static inline words load_words(const uint8_t *from)
{
    words v;
    memcpy(&v, from, sizeof v);
    return v;
}

static inline void words_round(const words *in, words *out)
{
    for (size_t i = 0; i < WORDS / 2; i++) {
        out[2 * i] = __builtin_shufflevector(in[i], in[i + WORDS / 2], 0, 4, 1, 5);
        out[2 * i + 1] = __builtin_shufflevector(in[i], in[i + WORDS / 2], 2, 6, 3, 7);
    }
}

/* 4 words of 16 rows. */
static inline void weave_words(const uint8_t *from, size_t stride, words flip, uint8_t *out)
{
    for (size_t r = 0; r < ROWS; r += WORDS) {
        words a[WORDS];
        words b[WORDS];
        for (size_t i = 0; i < WORDS; i++) {
            a[i] = load_words(from + (r + i) * stride) ^ flip;
        }
        words_round(a, b);
        words_round(b, a);
        for (size_t i = 0; i < WORDS; i++) {
            memcpy(out + (i * ROWS + r) * sizeof(uint32_t), &a[i], sizeof a[i]);
        }
    }
}

void phi_interleave_words(const uint8_t *from, size_t stride, size_t count, uint32_t flip,
                          uint8_t *out)
{
    const words flips = {flip, flip, flip, flip};
    size_t k = 0;
    for (; k + WORDS <= count; k += WORDS) {
        weave_words(from + k * sizeof(uint32_t), stride, flips, out + k * ROWS * sizeof(uint32_t));
    }
    for (; k < count; k++) {
        for (size_t r = 0; r < ROWS; r++) {
            uint32_t word;
            memcpy(&word, from + r * stride + k * sizeof word, sizeof word);
            word ^= flip;
            memcpy(out + (k * ROWS + r) * sizeof word, &word, sizeof word);
        }
    }
}

static inline void halves_round(const halves *in, halves *out)
{
    for (size_t i = 0; i < HALVES / 2; i++) {
        halves a = in[i];
        halves b = in[i + HALVES / 2];
        out[2 * i] = __builtin_shufflevector(a, b, 0, 8, 1, 9, 2, 10, 3, 11);
        out[2 * i + 1] = __builtin_shufflevector(a, b, 4, 12, 5, 13, 6, 14, 7, 15);
    }
}

/* 8 halves of 16 rows. */
static inline void weave_halves(const uint8_t *from, size_t stride, uint8_t *out)
{
    for (size_t r = 0; r < ROWS; r += HALVES) {
        halves a[HALVES];
        halves b[HALVES];
        for (size_t i = 0; i < HALVES; i++) {
            memcpy(&a[i], from + (r + i) * stride, sizeof a[i]);
        }
        halves_round(a, b);
        halves_round(b, a);
        halves_round(a, b);
        for (size_t i = 0; i < HALVES; i++) {
            memcpy(out + (i * ROWS + r) * sizeof(uint16_t), &b[i], sizeof b[i]);
        }
    }
}

void phi_interleave_halves(const uint8_t *from, size_t stride, size_t count, uint8_t *out)
{
    size_t k = 0;
    for (; k + HALVES <= count; k += HALVES) {
        weave_halves(from + k * sizeof(uint16_t), stride, out + k * ROWS * sizeof(uint16_t));
    }
    for (; k < count; k++) {
        for (size_t r = 0; r < ROWS; r++) {
            memcpy(out + (k * ROWS + r) * sizeof(uint16_t),
                   from + r * stride + k * sizeof(uint16_t), sizeof(uint16_t));
        }
    }
}

/* What SentencePiece merges by: a score for each piece, as a GGUF stored it or derived from merges.
 */
#include <stdlib.h>

#include "base/mem.h"
#include "engine/tokenizer/tokenizer_internal.h"

/* The scores that llama.cpp's converter gives to what is never merged. */
#define SCORE_ADDED (-1000.0F)
#define SCORE_PADDING (-10000.0F)

typedef struct ranked {
    uint32_t rank;
    uint32_t id;
} ranked;

static int by_rank(const void *a, const void *b)
{
    const ranked *left = a;
    const ranked *right = b;
    if (left->rank != right->rank) {
        return left->rank < right->rank ? -1 : 1;
    }
    return left->id < right->id ? -1 : left->id > right->id;
}

/*
 * SentencePiece merges by the score of the result, highest first: the piece whose first merge comes
 * n-th gets -n, so that both orders agree. Pieces that no merge makes come after them.
 */
static phi_status derive(const phi_tokenizer *tokenizer, const int32_t *types, float *scores,
                         phi_err *err)
{
    uint32_t size = tokenizer->vocab.size;
    ranked *order = phi_try_alloc(((size_t)size + 1) * sizeof *order);
    if (!order) {
        return phi_fail(err, PHI_E_NO_MEMORY, "not enough memory to write %u scores", size);
    }
    for (uint32_t id = 0; id < size; id++) {
        order[id] = (ranked){.rank = UINT32_MAX, .id = id};
    }
    for (size_t i = 0; i <= tokenizer->bpe.mask; i++) {
        const phi_bpe_merge *merge = &tokenizer->bpe.merges[i];
        if (merge->left >= 0 && merge->rank < order[merge->result].rank) {
            order[merge->result].rank = merge->rank;
        }
    }
    qsort(order, size, sizeof *order, by_rank);
    uint32_t place = 0;
    for (uint32_t i = 0; i < size; i++) {
        if (types[order[i].id] == PHI_TOKEN_NORMAL) {
            scores[order[i].id] = -(float)place++;
        }
    }
    phi_free(order);
    return PHI_OK;
}

phi_status phi_tokenizer_scores(const phi_tokenizer *tokenizer, const int32_t *types,
                                uint32_t count, float *out_scores, phi_err *err)
{
    if (!tokenizer->scores) {
        phi_status status = derive(tokenizer, types, out_scores, err);
        if (status != PHI_OK) {
            return status;
        }
    }
    for (uint32_t id = 0; id < count; id++) {
        if (types[id] == PHI_TOKEN_UNUSED) {
            out_scores[id] = SCORE_PADDING;
        } else if (tokenizer->scores && id < tokenizer->vocab.size) {
            out_scores[id] = tokenizer->scores[id];
        } else if (types[id] == PHI_TOKEN_CONTROL || types[id] == PHI_TOKEN_USER_DEFINED) {
            out_scores[id] = SCORE_ADDED;
        }
    }
    return PHI_OK;
}

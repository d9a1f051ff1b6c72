/*
 * Purpose: byte pair merging of one word (byte-level) or one fragment (SentencePiece style) into
 *          token ids: always the pair of lowest rank, the leftmost on a tie.
 * Owns:    phi_bpe owns its tables; phi_bpe_work the scratch of one encoding thread.
 * Threads: phi_bpe is read-only after finish: [any]; work belongs to one thread.
 * Errors:  PHI_E_NO_MEMORY for a table or a word that is too large.
 * Limits:  a word is at most PHI_LIMIT_TEXT_BYTES plus what normalization adds; the time is
 *          O(n log n) in its length.
 */
#ifndef PHI_ENGINE_TOKENIZER_BPE_H
#define PHI_ENGINE_TOKENIZER_BPE_H

#include "base/status.h"
#include "engine/tokenizer/tokenizer.h"
#include "engine/tokenizer/vocab.h"

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

typedef struct phi_bpe_merge {
    int32_t left;
    int32_t right;
    int32_t result;
    uint32_t rank;
} phi_bpe_merge;

typedef struct phi_bpe {
    const phi_vocab *vocab; /* a view */
    bool byte_level;        /* symbols are bytes, else characters */
    bool byte_fallback;     /* a character without a piece becomes its bytes' tokens */
    bool fuse_unk;
    bool ignore_merges; /* a word that is a piece is that piece, whatever the merges say */
    int32_t unk_id;     /* -1: what cannot be encoded disappears */

    uint64_t secret;       /* of the hash tables below */
    phi_bpe_merge *merges; /* hash table by (left, right); left -1: free */
    size_t mask;
    size_t count;
    int32_t *order; /* [2 * order_count]: the pairs in the file's order, for export */
    size_t order_count;

    int32_t byte_ids[256];  /* byte-level: id of each byte's piece; else of "<0xHH>"; or -1 */
    int32_t ascii_ids[128]; /* character-level: id of each ASCII character's piece, or -1 */
    bool all_bytes;         /* no byte_ids is -1 */
    uint64_t *joints;       /* hash set of character pairs that some merge joins; 0: free */
    size_t joint_mask;
    bool cuts; /* joints is complete, so that a word may be cut elsewhere */
} phi_bpe;

/* The spelling of bytes in byte-level vocabularies: a printable character for each. */
uint32_t phi_bpe_byte_to_char(uint8_t byte);
/* -1 for a character that stands for no byte. */
int phi_bpe_char_to_byte(uint32_t codepoint);

phi_status phi_bpe_init(phi_bpe *bpe, const phi_vocab *vocab, size_t merge_count,
                        phi_err *err) PHI_MUST_CHECK;
void phi_bpe_done(phi_bpe *bpe);
/* The pair's concatenation must be a piece: PHI_E_FORMAT otherwise. A later rank of the same pair
 * replaces the earlier. */
phi_status phi_bpe_add(phi_bpe *bpe, int32_t left, int32_t right, uint32_t rank,
                       phi_err *err) PHI_MUST_CHECK;
/* After the last merge and once the flags are set. */
phi_status phi_bpe_finish(phi_bpe *bpe, phi_err *err) PHI_MUST_CHECK;

typedef struct phi_bpe_work phi_bpe_work;
phi_bpe_work *phi_bpe_work_create(void); /* NULL when out of memory */
void phi_bpe_work_destroy(phi_bpe_work *work);

phi_status phi_bpe_encode(const phi_bpe *bpe, phi_bpe_work *work, const char *text, size_t bytes,
                          phi_tokens *out_tokens) PHI_MUST_CHECK;

#endif

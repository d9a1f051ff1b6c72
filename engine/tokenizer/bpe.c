#include "engine/tokenizer/bpe.h"

#include <string.h>

#include "base/hash.h"
#include "base/mem.h"
#include "base/str.h"
#include "config/limits.h"

uint32_t phi_bpe_byte_to_char(uint8_t byte)
{
    if ((byte >= 0x21 && byte <= 0x7e) || (byte >= 0xa1 && byte <= 0xac) || byte >= 0xae) {
        return byte;
    }
    /* The other 68 in increasing order: 00-20, 7F-A0, AD. */
    if (byte <= 0x20) {
        return 0x100U + byte;
    }
    return byte == 0xad ? 0x143U : 0x121U + (byte - 0x7fU);
}

int phi_bpe_char_to_byte(uint32_t codepoint)
{
    if (codepoint >= 0x100) {
        if (codepoint <= 0x120) {
            return (int)(codepoint - 0x100);
        }
        if (codepoint <= 0x142) {
            return (int)(codepoint - 0x121 + 0x7f);
        }
        return codepoint == 0x143 ? 0xad : -1;
    }
    return phi_bpe_byte_to_char((uint8_t)codepoint) == codepoint ? (int)codepoint : -1;
}

static size_t table_slots(size_t count)
{
    size_t slots = 16;
    while (slots < 2 * count) {
        slots *= 2;
    }
    return slots;
}

/* Which slot a pair goes to is not for the file to choose: pairs that share one are compared in
 * turn. */
static uint64_t mix(const phi_bpe *bpe, uint64_t key)
{
    key = (key ^ bpe->secret) * 0x9e3779b97f4a7c15ULL;
    key = (key ^ key >> 32) * 0xd6e8feb86659fd93ULL;
    return key ^ (key >> 29);
}

phi_status phi_bpe_init(phi_bpe *bpe, const phi_vocab *vocab, size_t merge_count, phi_err *err)
{
    *bpe = (phi_bpe){.vocab = vocab, .unk_id = -1};
    phi_random_bytes(&bpe->secret, sizeof bpe->secret);
    size_t slots = table_slots(merge_count);
    bpe->merges = phi_try_alloc(slots * sizeof *bpe->merges);
    bpe->order = phi_try_alloc((merge_count + 1) * 2 * sizeof *bpe->order);
    if (!bpe->merges || !bpe->order) {
        return phi_fail(err, PHI_E_NO_MEMORY, "%s: not enough memory for %zu merges", vocab->label,
                        merge_count);
    }
    for (size_t i = 0; i < slots; i++) {
        bpe->merges[i].left = -1;
    }
    bpe->mask = slots - 1;
    return PHI_OK;
}

void phi_bpe_done(phi_bpe *bpe)
{
    phi_free(bpe->merges);
    phi_free(bpe->order);
    phi_free(bpe->joints);
    bpe->merges = NULL;
    bpe->order = NULL;
    bpe->joints = NULL;
}

/* The slot of a pair, or the free slot where it would go. */
static phi_bpe_merge *merge_slot(const phi_bpe *bpe, int32_t left, int32_t right)
{
    uint64_t key = ((uint64_t)(uint32_t)left << 32) | (uint32_t)right;
    size_t i = mix(bpe, key) & bpe->mask;
    while (bpe->merges[i].left >= 0 &&
           (bpe->merges[i].left != left || bpe->merges[i].right != right)) {
        i = (i + 1) & bpe->mask;
    }
    return &bpe->merges[i];
}

static inline const phi_bpe_merge *find_merge(const phi_bpe *bpe, int32_t left, int32_t right)
{
    const phi_bpe_merge *slot = merge_slot(bpe, left, right);
    return slot->left >= 0 ? slot : NULL;
}

phi_status phi_bpe_add(phi_bpe *bpe, int32_t left, int32_t right, uint32_t rank, phi_err *err)
{
    const phi_vocab *vocab = bpe->vocab;
    const phi_token *a = &vocab->tokens[left];
    const phi_token *b = &vocab->tokens[right];
    if (a->bytes == 0 || b->bytes == 0) {
        return phi_fail(err, PHI_E_FORMAT, "%s: merge %u joins an empty piece", vocab->label, rank);
    }
    char joined[2 * PHI_LIMIT_PIECE_BYTES];
    memcpy(joined, a->piece, a->bytes);
    memcpy(joined + a->bytes, b->piece, b->bytes);
    int32_t result = phi_vocab_find_in_model(vocab, joined, (size_t)a->bytes + b->bytes);
    if (result < 0) {
        return phi_fail(err, PHI_E_FORMAT,
                        "%s: merge %u joins \"%.40s\" and \"%.40s\", whose joint"
                        " piece is not in the vocabulary",
                        vocab->label, rank, a->piece, b->piece);
    }
    phi_bpe_merge *slot = merge_slot(bpe, left, right);
    if (slot->left < 0) {
        bpe->count++;
    }
    *slot = (phi_bpe_merge){.left = left, .right = right, .result = result, .rank = rank};
    bpe->order[2 * bpe->order_count] = left;
    bpe->order[2 * bpe->order_count + 1] = right;
    bpe->order_count++;
    return PHI_OK;
}

static uint32_t first_char(const phi_token *token)
{
    uint32_t codepoint = 0;
    (void)phi_utf8_decode(token->piece, token->bytes, &codepoint);
    return codepoint;
}

static uint32_t last_char(const phi_token *token)
{
    size_t at = token->bytes - 1;
    while (at > 0 && ((unsigned char)token->piece[at] & 0xc0) == 0x80) {
        at--;
    }
    uint32_t codepoint = 0;
    (void)phi_utf8_decode(token->piece + at, token->bytes - at, &codepoint);
    return codepoint;
}

/* One more than the pair's number, so that 0 can mean a free slot. */
static uint64_t joint_key(uint32_t before, uint32_t after)
{
    return (((uint64_t)before << 32) | after) + 1;
}

static bool joint_find(const phi_bpe *bpe, uint64_t key, size_t *out_slot)
{
    size_t i = mix(bpe, key) & bpe->joint_mask;
    while (bpe->joints[i] && bpe->joints[i] != key) {
        i = (i + 1) & bpe->joint_mask;
    }
    *out_slot = i;
    return bpe->joints[i] == key;
}

/*
 * Symbols only ever join where some merge's left part ends with the character before the joint and
 * its right part begins with the one after it. A text may therefore be cut everywhere else and its
 * parts merged on their own, with the same result and far less to sort. Byte tokens stand for other
 * characters than those that they are spelt with, and unknown ones may fuse: no cuts then.
 */
static phi_status collect_joints(phi_bpe *bpe, phi_err *err)
{
    size_t slots = table_slots(bpe->count);
    bpe->joints = phi_try_alloc_zero(slots, sizeof *bpe->joints);
    if (!bpe->joints) {
        return phi_fail(err, PHI_E_NO_MEMORY, "%s: not enough memory for the merges",
                        bpe->vocab->label);
    }
    bpe->joint_mask = slots - 1;
    bpe->cuts = bpe->byte_fallback && bpe->all_bytes;
    for (size_t i = 0; i <= bpe->mask && bpe->cuts; i++) {
        const phi_bpe_merge *merge = &bpe->merges[i];
        if (merge->left < 0) {
            continue;
        }
        const phi_token *left = &bpe->vocab->tokens[merge->left];
        const phi_token *right = &bpe->vocab->tokens[merge->right];
        if (left->byte >= 0 || right->byte >= 0) {
            bpe->cuts = false;
            break;
        }
        uint64_t key = joint_key(last_char(left), first_char(right));
        size_t slot;
        if (!joint_find(bpe, key, &slot)) {
            bpe->joints[slot] = key;
        }
    }
    return PHI_OK;
}

phi_status phi_bpe_finish(phi_bpe *bpe, phi_err *err)
{
    bpe->all_bytes = true;
    for (unsigned byte = 0; byte < 256; byte++) {
        if (bpe->byte_level) {
            char spelt[4];
            int bytes = phi_utf8_encode(phi_bpe_byte_to_char((uint8_t)byte), spelt);
            bpe->byte_ids[byte] = phi_vocab_find_in_model(bpe->vocab, spelt, (size_t)bytes);
        } else {
            bpe->byte_ids[byte] = phi_vocab_find_byte(bpe->vocab, (uint8_t)byte);
        }
        bpe->all_bytes = bpe->all_bytes && bpe->byte_ids[byte] >= 0;
    }
    for (unsigned c = 0; c < 128; c++) {
        char text = (char)c;
        bpe->ascii_ids[c] = phi_vocab_find_in_model(bpe->vocab, &text, 1);
    }
    return bpe->byte_level ? PHI_OK : collect_joints(bpe, err);
}

/* ------------------------------------------------------------------------------- merging ---- */

/* Words of up to this many symbols are merged by looking for the lowest rank each time. */
#define SHORT_WORD 48

typedef struct heap_entry {
    uint32_t rank;
    uint32_t at; /* index of the left symbol */
} heap_entry;

typedef struct links {
    uint32_t previous;
    uint32_t next;
} links;

#define NO_LINK UINT32_MAX

struct phi_bpe_work {
    int32_t *symbols;
    size_t count;
    size_t capacity;
    links *links;
    size_t links_capacity;
    heap_entry *heap;
    size_t heap_count;
    size_t heap_capacity;
};

phi_bpe_work *phi_bpe_work_create(void)
{
    return phi_try_alloc_zero(1, sizeof(phi_bpe_work));
}

void phi_bpe_work_destroy(phi_bpe_work *work)
{
    if (work) {
        phi_free(work->symbols);
        phi_free(work->links);
        phi_free(work->heap);
        phi_free(work);
    }
}

/* Makes room for `needed` elements of `size` bytes in *array. */
static phi_status reserve(void **array, size_t *capacity, size_t needed, size_t size)
{
    if (needed <= *capacity) {
        return PHI_OK;
    }
    size_t grown = *capacity ? *capacity * 2 : 256;
    if (grown < needed) {
        grown = needed;
    }
    void *moved = phi_try_realloc(*array, grown * size);
    if (!moved) {
        return PHI_E_NO_MEMORY;
    }
    *array = moved;
    *capacity = grown;
    return PHI_OK;
}

static phi_status push_symbol(phi_bpe_work *work, int32_t id)
{
    void *symbols = work->symbols;
    phi_status status = reserve(&symbols, &work->capacity, work->count + 1, sizeof *work->symbols);
    work->symbols = symbols;
    if (status == PHI_OK) {
        work->symbols[work->count++] = id;
    }
    return status;
}

static size_t merge_short(const phi_bpe *bpe, int32_t *ids, size_t count)
{
    const phi_bpe_merge *pairs[SHORT_WORD];
    for (size_t i = 0; i + 1 < count; i++) {
        pairs[i] = find_merge(bpe, ids[i], ids[i + 1]);
    }
    for (;;) {
        size_t best = count;
        for (size_t i = 0; i + 1 < count; i++) {
            if (pairs[i] && (best == count || pairs[i]->rank < pairs[best]->rank)) {
                best = i;
            }
        }
        if (best == count) {
            return count;
        }
        ids[best] = pairs[best]->result;
        count--;
        for (size_t i = best + 1; i < count; i++) {
            ids[i] = ids[i + 1];
            pairs[i - 1] = pairs[i];
        }
        if (best > 0) {
            pairs[best - 1] = find_merge(bpe, ids[best - 1], ids[best]);
        }
        if (best + 1 < count) {
            pairs[best] = find_merge(bpe, ids[best], ids[best + 1]);
        }
    }
}

static inline bool entry_before(heap_entry a, heap_entry b)
{
    return a.rank != b.rank ? a.rank < b.rank : a.at < b.at;
}

static phi_status heap_push(phi_bpe_work *work, heap_entry entry)
{
    void *heap = work->heap;
    phi_status status =
        reserve(&heap, &work->heap_capacity, work->heap_count + 1, sizeof *work->heap);
    work->heap = heap;
    if (status != PHI_OK) {
        return status;
    }
    size_t i = work->heap_count++;
    while (i > 0 && entry_before(entry, work->heap[(i - 1) / 2])) {
        work->heap[i] = work->heap[(i - 1) / 2];
        i = (i - 1) / 2;
    }
    work->heap[i] = entry;
    return PHI_OK;
}

static heap_entry heap_pop(phi_bpe_work *work)
{
    heap_entry top = work->heap[0];
    heap_entry last = work->heap[--work->heap_count];
    size_t i = 0;
    for (;;) {
        size_t child = 2 * i + 1;
        if (child >= work->heap_count) {
            break;
        }
        if (child + 1 < work->heap_count &&
            entry_before(work->heap[child + 1], work->heap[child])) {
            child++;
        }
        if (!entry_before(work->heap[child], last)) {
            break;
        }
        work->heap[i] = work->heap[child];
        i = child;
    }
    work->heap[i] = last;
    return top;
}

static phi_status push_pair(const phi_bpe *bpe, phi_bpe_work *work, int32_t *ids, uint32_t left)
{
    uint32_t right = work->links[left].next;
    if (right == NO_LINK) {
        return PHI_OK;
    }
    const phi_bpe_merge *merge = find_merge(bpe, ids[left], ids[right]);
    return merge ? heap_push(work, (heap_entry){.rank = merge->rank, .at = left}) : PHI_OK;
}

static phi_status link_symbols(phi_bpe_work *work, size_t count)
{
    void *array = work->links;
    phi_status status = reserve(&array, &work->links_capacity, count, sizeof *work->links);
    work->links = array;
    for (size_t i = 0; status == PHI_OK && i < count; i++) {
        work->links[i].previous = i ? (uint32_t)i - 1 : NO_LINK;
        work->links[i].next = i + 1 < count ? (uint32_t)i + 1 : NO_LINK;
    }
    return status;
}

/* With a heap of pairs; an entry whose pair has changed meanwhile is skipped. */
static phi_status merge_long(const phi_bpe *bpe, phi_bpe_work *work, int32_t *ids, size_t *count)
{
    phi_status status = link_symbols(work, *count);
    work->heap_count = 0;
    for (size_t i = 0; status == PHI_OK && i < *count; i++) {
        status = push_pair(bpe, work, ids, (uint32_t)i);
    }
    while (status == PHI_OK && work->heap_count) {
        heap_entry top = heap_pop(work);
        links *left = &work->links[top.at];
        if (ids[top.at] < 0 || left->next == NO_LINK) {
            continue;
        }
        uint32_t right = left->next;
        const phi_bpe_merge *merge = find_merge(bpe, ids[top.at], ids[right]);
        if (!merge || merge->rank != top.rank) {
            continue;
        }
        ids[top.at] = merge->result;
        ids[right] = -1;
        left->next = work->links[right].next;
        if (left->next != NO_LINK) {
            work->links[left->next].previous = top.at;
        }
        status = push_pair(bpe, work, ids, top.at);
        if (status == PHI_OK && left->previous != NO_LINK) {
            status = push_pair(bpe, work, ids, left->previous);
        }
    }
    size_t kept = 0;
    for (size_t i = 0; i < *count; i++) {
        if (ids[i] >= 0) {
            ids[kept++] = ids[i];
        }
    }
    *count = kept;
    return status;
}

/* Merges the symbols gathered so far, appends their ids and starts anew. */
static phi_status flush_symbols(const phi_bpe *bpe, phi_bpe_work *work, phi_tokens *out_tokens)
{
    size_t count = work->count;
    work->count = 0;
    phi_status status = PHI_OK;
    if (count <= SHORT_WORD) {
        count = merge_short(bpe, work->symbols, count);
    } else {
        status = merge_long(bpe, work, work->symbols, &count);
    }
    return status == PHI_OK ? phi_tokens_append(out_tokens, work->symbols, count) : status;
}

/* ------------------------------------------------------------------------ words to symbols ---- */

static int32_t whole_byte_word(const phi_bpe *bpe, const char *text, size_t bytes)
{
    char spelt[2 * 512];
    size_t length = 0;
    if (bytes > 512) {
        return -1;
    }
    for (size_t i = 0; i < bytes; i++) {
        uint32_t codepoint = phi_bpe_byte_to_char((uint8_t)text[i]);
        length += (size_t)phi_utf8_encode(codepoint, spelt + length);
    }
    return phi_vocab_find_in_model(bpe->vocab, spelt, length);
}

/* Symbols that are not in the vocabulary: an unknown token, one for a run of them if so set. */
typedef struct unknown_run {
    bool pending;
} unknown_run;

static phi_status flush_unknown(const phi_bpe *bpe, phi_bpe_work *work, unknown_run *run)
{
    if (!run->pending) {
        return PHI_OK;
    }
    run->pending = false;
    return push_symbol(work, bpe->unk_id);
}

static phi_status add_unknown(const phi_bpe *bpe, phi_bpe_work *work, unknown_run *run)
{
    if (bpe->unk_id < 0) {
        return PHI_OK;
    }
    phi_status status = bpe->fuse_unk ? PHI_OK : flush_unknown(bpe, work, run);
    run->pending = true;
    return status;
}

static phi_status encode_bytes(const phi_bpe *bpe, phi_bpe_work *work, const char *text,
                               size_t bytes, phi_tokens *out_tokens)
{
    unknown_run run = {.pending = false};
    phi_status status = PHI_OK;
    for (size_t i = 0; status == PHI_OK && i < bytes; i++) {
        int32_t id = bpe->byte_ids[(uint8_t)text[i]];
        if (id < 0) {
            status = add_unknown(bpe, work, &run);
            continue;
        }
        status = flush_unknown(bpe, work, &run);
        if (status == PHI_OK) {
            status = push_symbol(work, id);
        }
    }
    if (status == PHI_OK) {
        status = flush_unknown(bpe, work, &run);
    }
    return status == PHI_OK ? flush_symbols(bpe, work, out_tokens) : status;
}

static bool has_all_bytes(const phi_bpe *bpe, const char *text, size_t bytes)
{
    for (size_t i = 0; i < bytes; i++) {
        if (bpe->byte_ids[(uint8_t)text[i]] < 0) {
            return false;
        }
    }
    return true;
}

static phi_status add_char(const phi_bpe *bpe, phi_bpe_work *work, const char *text, size_t bytes,
                           unknown_run *run)
{
    int32_t id = bytes == 1 ? bpe->ascii_ids[(uint8_t)text[0]]
                            : phi_vocab_find_in_model(bpe->vocab, text, bytes);
    phi_status status = PHI_OK;
    if (id >= 0) {
        status = flush_unknown(bpe, work, run);
        return status == PHI_OK ? push_symbol(work, id) : status;
    }
    if (!bpe->byte_fallback || !has_all_bytes(bpe, text, bytes)) {
        return add_unknown(bpe, work, run);
    }
    for (size_t i = 0; status == PHI_OK && i < bytes; i++) {
        status = push_symbol(work, bpe->byte_ids[(uint8_t)text[i]]);
    }
    return status;
}

static phi_status encode_chars(const phi_bpe *bpe, phi_bpe_work *work, const char *text,
                               size_t bytes, phi_tokens *out_tokens)
{
    unknown_run run = {.pending = false};
    phi_status status = PHI_OK;
    uint32_t before = 0;
    for (size_t at = 0; status == PHI_OK && at < bytes;) {
        uint32_t codepoint = 0;
        int length = phi_utf8_decode(text + at, bytes - at, &codepoint);
        if (length <= 0) {
            return PHI_E_INVALID;
        }
        size_t slot;
        if (bpe->cuts && work->count && !joint_find(bpe, joint_key(before, codepoint), &slot)) {
            status = flush_symbols(bpe, work, out_tokens);
        }
        if (status == PHI_OK) {
            status = add_char(bpe, work, text + at, (size_t)length, &run);
        }
        before = codepoint;
        at += (size_t)length;
    }
    if (status == PHI_OK) {
        status = flush_unknown(bpe, work, &run);
    }
    return status == PHI_OK ? flush_symbols(bpe, work, out_tokens) : status;
}

phi_status phi_bpe_encode(const phi_bpe *bpe, phi_bpe_work *work, const char *text, size_t bytes,
                          phi_tokens *out_tokens)
{
    work->count = 0;
    if (bpe->ignore_merges) {
        int32_t id = bpe->byte_level ? whole_byte_word(bpe, text, bytes)
                                     : phi_vocab_find_in_model(bpe->vocab, text, bytes);
        if (id >= 0) {
            return phi_tokens_append(out_tokens, &id, 1);
        }
    }
    return bpe->byte_level ? encode_bytes(bpe, work, text, bytes, out_tokens)
                           : encode_chars(bpe, work, text, bytes, out_tokens);
}

/*
 * Purpose: pages of keys and values: one pool per served model, one table per sequence.
 * Owns:    the pool owns all page memory; a table owns the list of the pages that it holds.
 * Threads: [engine]; creation and destruction where nobody else uses them.
 * Errors:  only creation can fail. An empty pool is not an error: the caller makes room.
 * Limits:  the number of pages given at creation; nothing is allocated afterwards.
 */
#ifndef PHI_ENGINE_RUNTIME_KV_H
#define PHI_ENGINE_RUNTIME_KV_H

#include "base/status.h"
#include "engine/model/forward.h"

#include <stdbool.h>
#include <stdint.h>

typedef struct phi_kv_pool {
    char *memory;
    void **free_pages; /* a stack */
    uint32_t n_free;
    uint32_t n_pages;
} phi_kv_pool;

phi_status phi_kv_pool_init(phi_kv_pool *pool, uint32_t n_pages, uint64_t page_bytes,
                            phi_err *err) PHI_MUST_CHECK;
void phi_kv_pool_done(phi_kv_pool *pool);

/* Pages [begin, end) are held; entries before `begin` are NULL: the window has passed them. */
typedef struct phi_kv_table {
    void **pages; /* [capacity] */
    uint32_t capacity;
    uint32_t begin;
    uint32_t end;
} phi_kv_table;

phi_status phi_kv_table_init(phi_kv_table *table, uint32_t n_tokens_max,
                             phi_err *err) PHI_MUST_CHECK;
/* The table must hold no pages. */
void phi_kv_table_done(phi_kv_table *table);
/* Takes pages until positions [0, n_tokens) are covered or the pool is empty; returns how many
 * positions are covered, which may be more. */
uint32_t phi_kv_table_cover(phi_kv_table *table, phi_kv_pool *pool, uint32_t n_tokens);
/* Gives back the pages that no query at `position` or later can see. */
void phi_kv_table_pass(phi_kv_table *table, phi_kv_pool *pool, uint32_t position, uint32_t window);
/* Gives back everything. */
void phi_kv_table_drop(phi_kv_table *table, phi_kv_pool *pool);
static inline uint32_t phi_kv_table_held(const phi_kv_table *table)
{
    return table->end - table->begin;
}

/* Pages that cover `n_tokens` positions. */
static inline uint32_t phi_kv_pages_of(uint32_t n_tokens)
{
    return n_tokens / PHI_KV_PAGE_TOKENS + (n_tokens % PHI_KV_PAGE_TOKENS != 0);
}
/* Pages that a sequence of `n_tokens` needs at a time when it is computed page by page. */
uint32_t phi_kv_pages_needed(uint32_t n_tokens, uint32_t window);

#endif

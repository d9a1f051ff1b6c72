/*
 * 1. A page is either on the pool's stack or in exactly one table.
 * 2. A table's held pages are contiguous: [begin, end); all other entries are NULL.
 */
#include "engine/runtime/kv.h"

#include "base/assert.h"
#include "base/checked.h"
#include "base/mem.h"
#include "engine/kernels/machine.h"

#include <inttypes.h>
#include <stddef.h>

phi_status phi_kv_pool_init(phi_kv_pool *pool, uint32_t n_pages, uint64_t page_bytes, phi_err *err)
{
    uint64_t bytes;
    PHI_ASSERT(n_pages > 0 && page_bytes > 0);
    *pool = (phi_kv_pool){.n_pages = n_pages, .n_free = n_pages};
    if (!phi_checked_mul(page_bytes, n_pages, &bytes) || bytes > PTRDIFF_MAX) {
        return phi_fail(err, PHI_E_NO_MEMORY,
                        "%" PRIu32 " KV cache pages of %" PRIu64 " bytes are more than fits",
                        n_pages, page_bytes);
    }
    pool->memory = phi_try_alloc_aligned((size_t)bytes);
    pool->free_pages = phi_try_alloc_zero(n_pages, sizeof *pool->free_pages);
    if (!pool->memory || !pool->free_pages) {
        phi_kv_pool_done(pool);
        return phi_fail(err, PHI_E_NO_MEMORY, "the KV cache needs %" PRIu64 " bytes of memory",
                        bytes);
    }
    /* Advice, before the first touch: what the system does not have costs speed only. */
    (void)phi_machine_interleave(pool->memory, (size_t)bytes);
    (void)phi_machine_advise_huge(pool->memory, (size_t)bytes);
    /* The lowest address is on top, so that memory is first touched in order. */
    for (uint32_t i = 0; i < n_pages; i++) {
        pool->free_pages[i] = pool->memory + (n_pages - 1 - i) * page_bytes;
    }
    return PHI_OK;
}

void phi_kv_pool_done(phi_kv_pool *pool)
{
    phi_free(pool->memory);
    phi_free(pool->free_pages);
    *pool = (phi_kv_pool){0};
}

phi_status phi_kv_table_init(phi_kv_table *table, uint32_t n_tokens_max, phi_err *err)
{
    *table = (phi_kv_table){.capacity = phi_kv_pages_of(n_tokens_max)};
    table->pages = phi_try_alloc_zero(table->capacity, sizeof *table->pages);
    if (!table->pages) {
        return phi_fail(err, PHI_E_NO_MEMORY, "no memory for the page table of a sequence");
    }
    return PHI_OK;
}

void phi_kv_table_done(phi_kv_table *table)
{
    PHI_ASSERT(phi_kv_table_held(table) == 0);
    phi_free(table->pages);
    *table = (phi_kv_table){0};
}

uint32_t phi_kv_table_cover(phi_kv_table *table, phi_kv_pool *pool, uint32_t n_tokens)
{
    uint32_t wanted = phi_kv_pages_of(n_tokens);
    PHI_ASSERT(wanted <= table->capacity);
    while (table->end < wanted && pool->n_free > 0) {
        table->pages[table->end++] = pool->free_pages[--pool->n_free];
    }
    return table->end * PHI_KV_PAGE_TOKENS;
}

static void give_first(phi_kv_table *table, phi_kv_pool *pool)
{
    PHI_ASSERT(pool->n_free < pool->n_pages);
    pool->free_pages[pool->n_free++] = table->pages[table->begin];
    table->pages[table->begin++] = NULL;
}

void phi_kv_table_pass(phi_kv_table *table, phi_kv_pool *pool, uint32_t position, uint32_t window)
{
    if (window == 0 || position < window) {
        return;
    }
    /* The query at `position` sees keys from position - window + 1 on. */
    uint32_t first_visible = position - window + 1;
    while (table->begin < table->end && (table->begin + 1) * PHI_KV_PAGE_TOKENS <= first_visible) {
        give_first(table, pool);
    }
}

void phi_kv_table_drop(phi_kv_table *table, phi_kv_pool *pool)
{
    while (table->begin < table->end) {
        give_first(table, pool);
    }
    table->begin = 0;
    table->end = 0;
}

uint32_t phi_kv_pages_needed(uint32_t n_tokens, uint32_t window)
{
    uint32_t pages = phi_kv_pages_of(n_tokens);
    /* A window that starts and ends inside pages touches one more than its length fills; the page
     * being written may be another. */
    uint32_t pages_window = window ? phi_kv_pages_of(window) + 2 : UINT32_MAX;
    return pages < pages_window ? pages : pages_window;
}

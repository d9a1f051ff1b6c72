#include "base/mem.h"

#include "base/assert.h"
#include "base/checked.h"

#include <stdarg.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

/* Both are only counters: no other memory depends on their order, hence relaxed. */
static atomic_int_least64_t fail_after = -1;
static atomic_uint_least64_t allocations;

static _Noreturn void out_of_memory(size_t bytes)
{
    (void)fprintf(stderr, "phid: out of memory while asking for %zu bytes\n", bytes);
    abort();
}

static bool told_to_fail(void)
{
    if (atomic_load_explicit(&fail_after, memory_order_relaxed) < 0) {
        return false;
    }
    return atomic_fetch_sub_explicit(&fail_after, 1, memory_order_relaxed) == 0;
}

static void count_one(void)
{
    atomic_fetch_add_explicit(&allocations, 1, memory_order_relaxed);
}

void *phi_alloc(size_t bytes)
{
    count_one();
    void *ptr = malloc(bytes ? bytes : 1);
    if (!ptr) {
        out_of_memory(bytes);
    }
    return ptr;
}

void *phi_alloc_zero(size_t count, size_t size)
{
    count_one();
    void *ptr = calloc(count ? count : 1, size ? size : 1);
    if (!ptr) {
        out_of_memory(count * size);
    }
    return ptr;
}

void *phi_realloc(void *old, size_t bytes)
{
    count_one();
    void *ptr = realloc(old, bytes ? bytes : 1);
    if (!ptr) {
        out_of_memory(bytes);
    }
    return ptr;
}

char *phi_strndup(const char *text, size_t bytes)
{
    char *copy = phi_alloc(bytes + 1);
    memcpy(copy, text, bytes);
    copy[bytes] = '\0';
    return copy;
}

char *phi_strdup(const char *text)
{
    return phi_strndup(text, strlen(text));
}

char *phi_strfmt(const char *fmt, ...)
{
    va_list ap;
    va_start(ap, fmt);
    int length = vsnprintf(NULL, 0, fmt, ap);
    va_end(ap);
    PHI_ASSERT(length >= 0);
    char *text = phi_alloc((size_t)length + 1);
    va_start(ap, fmt);
    (void)vsnprintf(text, (size_t)length + 1, fmt, ap);
    va_end(ap);
    return text;
}

void *phi_try_alloc(size_t bytes)
{
    count_one();
    return told_to_fail() ? NULL : malloc(bytes ? bytes : 1);
}

void *phi_try_alloc_zero(size_t count, size_t size)
{
    count_one();
    return told_to_fail() ? NULL : calloc(count ? count : 1, size ? size : 1);
}

void *phi_try_realloc(void *old, size_t bytes)
{
    count_one();
    return told_to_fail() ? NULL : realloc(old, bytes ? bytes : 1);
}

void *phi_try_alloc_aligned(size_t bytes)
{
    count_one();
    if (bytes > SIZE_MAX - 64 || told_to_fail()) {
        return NULL;
    }
    size_t rounded = (bytes + 63) / 64 * 64;
    return aligned_alloc(64, rounded ? rounded : 64);
}

void phi_free(void *ptr)
{
    free(ptr);
}

void phi_mem_fail_after(int64_t n)
{
    atomic_store_explicit(&fail_after, n, memory_order_relaxed);
}

uint64_t phi_mem_allocations(void)
{
    return atomic_load_explicit(&allocations, memory_order_relaxed);
}

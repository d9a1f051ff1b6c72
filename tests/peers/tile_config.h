/*
 * For building llama.cpp with Debian 12's gcc 12 where the CPU has AMX: its _tile_loadconfig tells
 * the compiler that ldtilecfg reads a pointer's width of the configuration, so that the stores to
 * the rest of its 64 bytes are dropped as dead, and the instruction faults. Included before every
 * C++ source.
 */
#if defined(__AMX_TILE__) && defined(__GNUC__) && !defined(__clang__) && __GNUC__ < 14
#include <immintrin.h>

static inline void load_whole_tile_config(const void *config)
{
    __asm__ volatile("ldtilecfg\t%0" ::"m"(*(const char(*)[64])config));
}
#define _tile_loadconfig load_whole_tile_config
#endif

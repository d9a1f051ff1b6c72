#include "engine/kernels/ceiling_loops.h"

#include "engine/kernels/cpu.h"

#include <stdbool.h>
#include <string.h>

/* Best first. */
typedef struct loops_entry {
    const phi_ceiling_loops *loops;
    bool (*can_run)(void);
} loops_entry;

#if defined(__x86_64__)

static const loops_entry entries[] = {
    {&phi_ceiling_amx, phi_cpu_has_amx},
    {&phi_ceiling_avx512_vnni, phi_cpu_has_avx512_vnni},
    {&phi_ceiling_avx_vnni, phi_cpu_has_avx_vnni},
    {&phi_ceiling_avx2, phi_cpu_has_avx2},
};
#define N_ENTRIES (sizeof entries / sizeof entries[0])

#elif defined(__aarch64__)

static const loops_entry entries[] = {
    {&phi_ceiling_neon_i8mm, phi_cpu_has_i8mm},
    {&phi_ceiling_neon_dotprod, phi_cpu_has_dotprod},
};
#define N_ENTRIES (sizeof entries / sizeof entries[0])

#else

static const loops_entry entries[1];
#define N_ENTRIES 0U

#endif

const phi_ceiling_loops *phi_ceiling_loops_find(const char *set)
{
    for (size_t i = 0; i < N_ENTRIES; i++) {
        if (strcmp(entries[i].loops->set, set) == 0) {
            return entries[i].can_run() ? entries[i].loops : NULL;
        }
    }
    return NULL;
}

size_t phi_ceiling_loops_available(const phi_ceiling_loops **out_list, size_t max)
{
    size_t n = 0;
    for (size_t i = 0; i < N_ENTRIES && n < max; i++) {
        if (entries[i].can_run()) {
            out_list[n++] = entries[i].loops;
        }
    }
    return n;
}

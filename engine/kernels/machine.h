/*
 * Purpose: what of the machine this process may use: CPUs and memory, control groups included; and
 *          how memory is best laid out for it.
 * Owns:    nothing.
 * Threads: any; reads /proc and /sys.
 * Errors:  none: what cannot be read does not limit, and advice that the system does not take is
 *          answered with false.
 * Limits:  control groups v1 (cpu, memory) and v2, the process's own group and those above it;
 *          PHI_LIMIT_TEAM_THREADS CPUs are told apart, 1024 nodes.
 *
 * The functions named ..._under look for /proc and /sys under a directory, so that tests can make
 * machines up; the others ask the real one.
 */
#ifndef PHI_ENGINE_KERNELS_MACHINE_H
#define PHI_ENGINE_KERNELS_MACHINE_H

#include "config/limits.h"

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

/* ---- CPUs ---- */

/* What the system calls the CPU, cut to fit; "unknown" if it says nothing. */
void phi_machine_cpu_name(char *out_name, size_t bytes);
/* The CPUs of the affinity mask, which respects cpusets. */
typedef struct phi_machine_cpu_list {
    unsigned n_cpus;
    unsigned n_cores; /* hardware threads of one core counted once */
    /* One CPU of each core, by number, then the second of each and so on; the first n_cpus, or all
     * that fit. */
    uint16_t cpus[PHI_LIMIT_TEAM_THREADS];
} phi_machine_cpu_list;

void phi_machine_cpus_list(phi_machine_cpu_list *out_list);
/* Of the `n` CPUs in `mask`, in rising order. */
void phi_machine_cpus_list_under(const char *root, const uint16_t *mask, size_t n,
                                 phi_machine_cpu_list *out_list);

/* How many threads compute best: one for each core in the affinity mask, and no more than the
 * control groups' quota, rounded up; at least 1. */
unsigned phi_machine_cpus(void);
unsigned phi_machine_cpus_under(const char *root, unsigned n_cores);

/* ---- memory ---- */

/* Bytes that could be allocated now without swapping: the machine's available memory, and no more
 * than the control groups leave. UINT64_MAX when nothing can be read. */
uint64_t phi_machine_memory_available(void);
uint64_t phi_machine_memory_available_under(const char *root);

#define PHI_MACHINE_NODE_WORDS 16U

/* Nodes with memory of their own, as bits. */
typedef struct phi_machine_nodes {
    unsigned n_nodes; /* at least 1 */
    uint64_t mask[PHI_MACHINE_NODE_WORDS];
} phi_machine_nodes;

unsigned phi_machine_numa_nodes(void);
void phi_machine_nodes_under(const char *root, phi_machine_nodes *out_nodes);

/* Asks that pages of fresh anonymous memory, to be read by all threads alike, come from all nodes
 * in turn. Before the memory is first touched; what lies in the same page as its ends is asked for
 * too. False when there is one node or the system refuses. Pages of mapped files stay where the
 * system put them. */
bool phi_machine_interleave(void *memory, size_t bytes);
bool phi_machine_interleave_over(const phi_machine_nodes *nodes, void *memory, size_t bytes);

/* Asks for huge pages in all of `memory` that whole ones fit into. False when the system has none
 * to give. */
bool phi_machine_advise_huge(void *memory, size_t bytes);

#endif

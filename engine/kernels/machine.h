/*
 * Purpose: what of the machine this process may use: CPUs and memory, control groups included.
 * Owns:    nothing.
 * Threads: any; reads /proc and /sys.
 * Errors:  none: what cannot be read does not limit.
 * Limits:  control groups v1 (cpu, memory) and v2, the process's own group and those above it.
 */
#ifndef PHI_ENGINE_KERNELS_MACHINE_H
#define PHI_ENGINE_KERNELS_MACHINE_H

#include <stdint.h>

/* The affinity mask's CPUs, and no more than the control groups' quota, rounded up; at least 1. */
unsigned phi_machine_cpus(void);
/* Bytes that could be allocated now without swapping: the machine's available memory, and no more
 * than the control groups leave. UINT64_MAX when nothing can be read. */
uint64_t phi_machine_memory_available(void);

#endif

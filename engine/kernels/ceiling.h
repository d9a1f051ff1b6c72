/*
 * Purpose: what this machine can do at most, measured: reading of memory, and multiply-adds of a
 *          kernel set's instructions. The yardstick of `phid bench`.
 * Owns:    nothing: the memory that it reads is freed before it returns.
 * Threads: [job]; the work runs on the team.
 * Errors:  PHI_E_NO_MEMORY when there is none to read.
 * Limits:  takes about duration_ms and the time to fill read_bytes once.
 */
#ifndef PHI_ENGINE_KERNELS_CEILING_H
#define PHI_ENGINE_KERNELS_CEILING_H

#include "base/status.h"
#include "engine/kernels/team.h"

#include <stdint.h>

typedef struct phi_ceilings {
    double read_bytes_s;   /* all of the team together, as are the next two */
    double int8_ops_s;     /* a multiply-add is two operations; 0: not known for this kernel set */
    double fp32_ops_s;     /* as int8_ops_s */
    const char *int8_name; /* the instruction: "vpdpbusd zmm"; "" if not known */
    const char *fp32_name;
    uint64_t read_bytes; /* that were read over and over */
} phi_ceilings;

typedef struct phi_ceilings_options {
    const char *set;      /* the kernel set: "avx2" */
    uint64_t read_bytes;  /* 0: twice the last cache or 1 GiB, or what memory allows */
    uint32_t duration_ms; /* 0: 1000 */
} phi_ceilings_options;

phi_status phi_ceilings_measure(phi_team *team, const phi_ceilings_options *options,
                                phi_ceilings *out_ceilings, phi_err *err) PHI_MUST_CHECK;

#endif

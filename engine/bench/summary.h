/*
 * Purpose: what repeated measurements say together.
 * Owns:    nothing. Threads: any. Errors: none.
 * Limits:  none.
 */
#ifndef PHI_ENGINE_BENCH_SUMMARY_H
#define PHI_ENGINE_BENCH_SUMMARY_H

#include <stddef.h>

typedef struct phi_bench_summary {
    double median; /* of an even number: between the two in the middle */
    double min;
    double max;
    double spread; /* (max - min) / median; 0 where the median is */
} phi_bench_summary;

/* Sorts `values`; count > 0. */
phi_bench_summary phi_bench_summarize(double *values, size_t count);

#endif

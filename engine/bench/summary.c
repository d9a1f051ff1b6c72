#include "engine/bench/summary.h"

#include "base/assert.h"

#include <stdlib.h>

static int compare(const void *a, const void *b)
{
    double x = *(const double *)a;
    double y = *(const double *)b;
    return (x > y) - (x < y);
}

phi_bench_summary phi_bench_summarize(double *values, size_t count)
{
    PHI_ASSERT(count > 0);
    qsort(values, count, sizeof *values, compare);
    phi_bench_summary summary = {
        .median = (values[(count - 1) / 2] + values[count / 2]) / 2,
        .min = values[0],
        .max = values[count - 1],
    };
    if (summary.median > 0.0) {
        summary.spread = (summary.max - summary.min) / summary.median;
    }
    return summary;
}

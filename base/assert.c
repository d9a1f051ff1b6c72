#include "base/assert.h"

#include <stdio.h>
#include <stdlib.h>

void phi_assert_failed(const char *file, int line, const char *condition)
{
    (void)fprintf(stderr, "phid: bug: %s:%d: %s\n", file, line, condition);
    abort();
}

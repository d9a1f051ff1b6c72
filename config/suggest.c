#include "config/suggest.h"

#include <string.h>

#define NAME_BYTES_MAX 63

static size_t min3(size_t a, size_t b, size_t c)
{
    size_t least = a < b ? a : b;
    return least < c ? least : c;
}

size_t phi_suggest_distance(const char *a, const char *b)
{
    size_t rows[3][NAME_BYTES_MAX + 1];
    size_t n_a = strlen(a);
    size_t n_b = strlen(b);
    if (n_a > NAME_BYTES_MAX || n_b > NAME_BYTES_MAX) {
        return NAME_BYTES_MAX + 1;
    }
    size_t *before = rows[0];
    size_t *last = rows[1];
    size_t *row = rows[2];
    for (size_t j = 0; j <= n_b; j++) {
        last[j] = j;
    }
    for (size_t i = 1; i <= n_a; i++) {
        row[0] = i;
        for (size_t j = 1; j <= n_b; j++) {
            size_t replaced = last[j - 1] + (a[i - 1] != b[j - 1]);
            row[j] = min3(last[j] + 1, row[j - 1] + 1, replaced);
            if (i > 1 && j > 1 && a[i - 1] == b[j - 2] && a[i - 2] == b[j - 1] &&
                before[j - 2] + 1 < row[j]) {
                row[j] = before[j - 2] + 1;
            }
        }
        size_t *spare = before;
        before = last;
        last = row;
        row = spare;
    }
    return last[n_b];
}

int phi_suggest_close(const char *wrong, const char *known)
{
    size_t bytes = strlen(known);
    size_t allowed = bytes <= 4 ? 1 : bytes <= 8 ? 2 : 3;
    return phi_suggest_distance(wrong, known) <= allowed;
}

/*
 * Purpose: small exports for tests of the ONNX writer, and what its folders have to hold.
 * Owns:    `made`: a temporary directory and the export that was made last, from exported_setup to
 *          exported_teardown.
 * Threads: one.
 * Errors:  a failed step fails the running test.
 * Limits:  one layer.
 */
#ifndef PHI_TESTS_FORMATS_ONNX_EXPORTED_H
#define PHI_TESTS_FORMATS_ONNX_EXPORTED_H

#include <stdbool.h>
#include <stdint.h>

#include "engine/formats/onnx_write.h"
#include "fixture.h"

enum { TENSORS_MAX = 20, EXPERTS = 3 };

typedef struct exported_spec {
    uint32_t bits;
    uint32_t group;
    phi_zero_rule rule;
    bool tied;
    bool without_bias; /* phimoe: of attention and head */
    bool long_rope;
    phi_arch arch;
    uint32_t window;
    phi_onnx_provider provider;
} exported_spec;

typedef struct onnx_exported {
    fixture files;
    phi_description description;
    phi_export_tensor tensors[TENSORS_MAX];
    char names[TENSORS_MAX][64];
    uint32_t count;
    const char *too_large; /* the tensor that holds 70000 */
    uint32_t calls_left;   /* of progress, until it says stop; 0: never */
} onnx_exported;

extern onnx_exported made;

int exported_setup(void **state);
int exported_teardown(void **state);
phi_export make_export(const exported_spec *s);
/* Writes the export's folder and reads it again, without its config.json if so wanted: it has to
 * hold the same. */
void write_and_check(const exported_spec *s, bool with_config);

#endif

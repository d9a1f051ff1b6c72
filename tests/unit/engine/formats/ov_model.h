/*
 * Purpose: small OpenVINO folders for tests, laid out as optimum-intel lays out Phi models.
 * Owns:    an ov_model's buffers, from ov_model_make to ov_model_done.
 * Threads: one.
 * Errors:  a failed step fails the running test.
 * Limits:  the tiny model of fixture.h.
 *
 * Layers have short names ("l0.silu", "l1.gate_up"), so that a test can damage the text of one.
 */
#ifndef PHI_TESTS_FORMATS_OV_MODEL_H
#define PHI_TESTS_FORMATS_OV_MODEL_H

#include <stdbool.h>
#include <stdint.h>

#include "base/buf.h"
#include "fixture.h"

typedef enum ov_weights { OV_F16, OV_F32, OV_BF16, OV_U4, OV_I4, OV_U8, OV_I8 } ov_weights;

typedef struct ov_options {
    ov_weights weights;
    uint32_t group;   /* of codes; 0: one a row, without Reshape */
    bool zeros;       /* zero points of each group; else none, as nncf has it for i4 and i8 */
    bool float_zeros; /* these are numbers of the scales' type, and no codes */
    bool split;       /* q, k, v, gate and up apart */
    bool tied;
    bool long_rope;
    bool lost_context;  /* config.json with the original context, as from_pretrained leaves it */
    bool stated_factor; /* and with LongRoPE's attention factor */
    uint32_t n_rot;     /* 0: all 8 */
    uint32_t window;
    int layers;               /* 0: 2 */
    bool ones;                /* norms without weights */
    float scale_of_attention; /* 0: right */
    /* What config.json does not say: */
    bool up_first;   /* gate and up change places */
    bool other_turn; /* pairs of neighbours are rotated, not halves */
    float theta;     /* 0: 10000 */
    int original;    /* 0: right */
    float eps;       /* 0: 1e-5 */
} ov_options;

typedef struct ov_tensor {
    char name[96];
    uint32_t rows;
    uint32_t cols;
    float *values; /* what the constants come to */
} ov_tensor;

typedef struct ov_model {
    ov_options options;
    phi_buf layers;
    phi_buf edges;
    phi_buf bin;
    uint32_t count; /* of layers */
    uint32_t seed;
    ov_tensor tensors[32];
    uint32_t tensor_count;
} ov_model;

void ov_model_make(ov_model *model, const ov_options *options);
void ov_model_done(ov_model *model);
/* Writes openvino_model.xml, openvino_model.bin and config.json into the fixture's directory. */
void ov_model_write(ov_model *model, fixture *f);
/* The XML; with each occurrence of `from` (if not NULL) replaced. The caller frees it. */
char *ov_model_xml(const ov_model *model, const char *from, const char *to);
const ov_tensor *ov_model_find(const ov_model *model, const char *name);

#endif

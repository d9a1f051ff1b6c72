/*
 * Purpose: what a checkpoint says of its architecture, in the same terms whatever its format.
 * Owns:    phi_description is plain data; copying it copies all of it.
 * Threads: any.
 * Errors:  phi_description_check names the field that is out of range or inconsistent.
 * Limits:  config/limits.h, "model dimensions".
 *
 * A Phi model is a filled-in description plus tensors: a new member of the family is a new
 * description, not a new forward pass.
 */
#ifndef PHI_ENGINE_FORMATS_DESCRIPTION_H
#define PHI_ENGINE_FORMATS_DESCRIPTION_H

#include "base/status.h"
#include "config/limits.h"

#include <stdbool.h>
#include <stdint.h>

typedef enum phi_arch {
    PHI_ARCH_PHI3,   /* Phi-3 mini and medium, Phi-3.5-mini, Phi-4, Phi-4-mini and reasoning */
    PHI_ARCH_PHI2,   /* Phi-1, Phi-1.5, Phi-2 */
    PHI_ARCH_PHIMOE, /* Phi-3.5-MoE, Phi-mini-MoE, Phi-tiny-MoE */
} phi_arch;

#define PHI_ARCH_COUNT 3

typedef enum phi_norm_kind {
    PHI_NORM_RMS,   /* a weight */
    PHI_NORM_LAYER, /* less the mean; a weight and a bias */
} phi_norm_kind;

typedef enum phi_ffn_kind {
    PHI_FFN_SWIGLU,  /* down (silu(gate x) * up x) */
    PHI_FFN_GELU,    /* down gelu(up x), in tanh's form; with biases */
    PHI_FFN_EXPERTS, /* SWIGLU of two of n_expert, which a router chooses for each token */
} phi_ffn_kind;

typedef enum phi_rope_kind {
    PHI_ROPE_PLAIN,
    PHI_ROPE_LONG, /* LongRoPE ("su", "longrope"): per-frequency factors, short and long */
} phi_rope_kind;

typedef struct phi_description {
    phi_arch arch;
    char name[PHI_LIMIT_NAME_BYTES]; /* general.name or _name_or_path; may be "" */

    uint32_t n_layer;
    uint32_t n_embd;    /* E, hidden size */
    uint32_t n_head;    /* H */
    uint32_t n_head_kv; /* Hkv, divides H */
    uint32_t head_dim;  /* d; H * d need not be E */
    uint32_t n_ffn;     /* F */
    uint32_t n_vocab;   /* V, rows of embedding and head, tokenizer padding included */
    uint32_t n_ctx;     /* longest context in tokens */
    float norm_eps;
    bool tied_head;

    /* What phi_description_init says of an architecture, and a file may say otherwise. */
    phi_norm_kind norm;
    phi_ffn_kind ffn;
    bool is_parallel; /* attention and feed-forward read one norm, and both are added to x */
    bool attn_bias;   /* of q, k, v and the output */
    bool head_bias;

    /* PHI_FFN_EXPERTS only. */
    uint32_t n_expert;
    float router_jitter; /* SparseMixer's: experts.h */

    uint32_t n_rot; /* rotary dims r, even, <= d */
    float rope_theta;
    phi_rope_kind rope;
    uint32_t n_ctx_original;     /* orig: LongRoPE uses the long factors beyond it */
    float rope_attn_factor;      /* cos and sin are multiplied by it, up to n_ctx_original */
    float rope_attn_factor_long; /* and beyond it; 0: the same */
    float rope_short[PHI_LIMIT_HEAD_DIM / 2]; /* [r / 2] */
    float rope_long[PHI_LIMIT_HEAD_DIM / 2];  /* [r / 2] */

    uint32_t window; /* key j is visible to query i iff i - j < window; 0: full attention */

    /* Token ids that files state; -1: not stated. */
    int32_t bos_id;
    int32_t pad_id;
    int32_t unk_id;
    /* Union of eos ids of config.json and generation_config.json (or of the GGUF keys). */
    uint32_t n_eos;
    int32_t eos_ids[PHI_LIMIT_STOP_TOKENS];
} phi_description;

/* What all of an architecture have in common, and the values of what files may leave out. */
void phi_description_init(phi_description *description, phi_arch arch);
/* Checks ranges and consistency; `where` (a file name) goes into the message. */
phi_status phi_description_check(const phi_description *description, const char *where,
                                 phi_err *err) PHI_MUST_CHECK;
/* Adds an eos id if it is new and there is room. */
void phi_description_add_eos(phi_description *description, int32_t id);
/* LongRoPE's attention factor where a file states none: sqrt(1 + ln f / ln orig) with
 * f = context / orig (transformers, _compute_longrope_parameters). */
float phi_description_attn_factor(uint32_t n_ctx, uint32_t n_ctx_original);
const char *phi_arch_name(phi_arch arch); /* GGUF's: "phi3", "phi2", "phimoe" */
bool phi_arch_parse(const char *name, phi_arch *out_arch);
/* Of transformers: "Phi3ForCausalLM" and "phi3", "PhiForCausalLM" and "phi". */
const char *phi_arch_class(phi_arch arch);
/* Also as checkpoints spell it: "PhiMoEForCausalLM". */
bool phi_arch_is_class(phi_arch arch, const char *name);
const char *phi_arch_model_type(phi_arch arch);

#endif

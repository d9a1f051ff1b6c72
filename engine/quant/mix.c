#include "engine/quant/mix.h"

#include <stdio.h>
#include <string.h>
#include <strings.h>

#include "base/str.h"

/* The layers whose ffn_down gets more bits. */
typedef enum more_rule {
    MORE_NOWHERE,
    MORE_FIRST, /* the first eighth */
    MORE_SPREAD /* both outer eighths, and every third between them */
} more_rule;

struct phi_mix {
    const char *name;
    uint32_t file_type;
    phi_dtype base;
    phi_dtype head;
    phi_dtype qkv;
    phi_dtype more;
    more_rule where;
};

/* One type for all but the head. */
#define PURE(name, number, type)                                                                   \
    {                                                                                              \
        name, number, PHI_DTYPE_##type, PHI_DTYPE_Q6_K, PHI_DTYPE_##type, PHI_DTYPE_##type,        \
            MORE_NOWHERE                                                                           \
    }

static const phi_mix mixes[] = {
    PURE("q4_0", 2, Q4_0),
    PURE("q4_1", 3, Q4_1),
    PURE("q5_0", 8, Q5_0),
    PURE("q5_1", 9, Q5_1),
    {"q8_0", 7, PHI_DTYPE_Q8_0, PHI_DTYPE_Q8_0, PHI_DTYPE_Q8_0, PHI_DTYPE_Q8_0, MORE_NOWHERE},
    PURE("iq4_nl", 25, IQ4_NL),
    {"q4_k_s", 14, PHI_DTYPE_Q4_K, PHI_DTYPE_Q6_K, PHI_DTYPE_Q4_K, PHI_DTYPE_Q5_K, MORE_FIRST},
    {"q4_k_m", 15, PHI_DTYPE_Q4_K, PHI_DTYPE_Q6_K, PHI_DTYPE_Q5_K, PHI_DTYPE_Q6_K, MORE_SPREAD},
    PURE("q5_k_s", 16, Q5_K),
    {"q5_k_m", 17, PHI_DTYPE_Q5_K, PHI_DTYPE_Q6_K, PHI_DTYPE_Q6_K, PHI_DTYPE_Q6_K, MORE_SPREAD},
    PURE("q6_k", 18, Q6_K),
};

const phi_mix *phi_mix_find(const char *name)
{
    for (size_t i = 0; i < sizeof mixes / sizeof mixes[0]; i++) {
        if (strcasecmp(name, mixes[i].name) == 0) {
            return &mixes[i];
        }
    }
    return NULL;
}

const char *phi_mix_name(const phi_mix *mix)
{
    return mix->name;
}

const char *phi_mix_names(void)
{
    return "q4_0, q4_1, q5_0, q5_1, q8_0, iq4_nl, q4_k_s, q4_k_m, q5_k_s, q5_k_m or q6_k";
}

uint32_t phi_mix_file_type(const phi_mix *mix)
{
    return mix->file_type;
}

static bool gets_more(more_rule where, uint32_t layer, uint32_t n_layer)
{
    uint32_t eighth = n_layer / 8;
    switch (where) {
    case MORE_NOWHERE:
        return false;
    case MORE_FIRST:
        return layer < eighth;
    case MORE_SPREAD:
        return layer < eighth || layer >= 7 * n_layer / 8 || (layer - eighth) % 3 == 2;
    }
    return false;
}

/* What llama-quantize takes where columns are not whole blocks of 256. */
static phi_dtype fallback(phi_dtype dtype, uint32_t cols)
{
    if (cols % phi_dtype_get(dtype)->block_elements == 0) {
        return dtype;
    }
    if (cols % PHI_BLOCK_ELEMENTS != 0) {
        return PHI_DTYPE_F16;
    }
    return dtype == PHI_DTYPE_Q4_K   ? PHI_DTYPE_Q5_0
           : dtype == PHI_DTYPE_Q5_K ? PHI_DTYPE_Q5_1
                                     : PHI_DTYPE_Q8_0;
}

phi_dtype phi_mix_choose(const phi_mix *mix, const phi_description *description,
                         const phi_tensor *tensor)
{
    phi_dtype dtype = mix->base;
    unsigned layer = 0;
    const char *head = description->tied_head ? "token_embd.weight" : "output.weight";
    if (strcmp(tensor->name, head) == 0) {
        dtype = mix->head;
    } else if (phi_str_ends(tensor->name, ".attn_qkv.weight")) {
        dtype = mix->qkv;
    } else if ((phi_str_ends(tensor->name, ".ffn_down.weight") ||
                phi_str_ends(tensor->name, ".ffn_down_exps.weight")) &&
               sscanf(tensor->name, "blk.%u.", &layer) == 1 &&
               gets_more(mix->where, layer, description->n_layer)) {
        dtype = mix->more;
    }
    return fallback(dtype, tensor->cols);
}

#include "engine/model/memplan.h"

#include "engine/kernels/machine.h"
#include "engine/model/attention.h"
#include "engine/model/experts.h"
#include "engine/model/pack.h"

/* What stays free for the system and for what this plan does not count. */
#define RESERVE_BYTES (64ULL << 20)

static uint64_t larger(uint64_t a, uint64_t b)
{
    return a > b ? a : b;
}

/* Scratch of a context, as forward.c lays it out, from the description alone: activations in
 * floats, the widest once more as the products read them, logits, and what attention works in. */
static uint64_t scratch_bytes(const phi_description *desc, const phi_memplan_sizes *sizes)
{
    uint64_t heads = desc->n_head + 2 * (uint64_t)desc->n_head_kv;
    uint64_t ffns = desc->ffn == PHI_FFN_GELU ? 1 : 3;
    uint64_t row = 3 * (uint64_t)desc->n_embd + (heads + desc->n_head) * desc->head_dim +
                   ffns * desc->n_ffn + desc->n_rot;
    uint64_t widest =
        larger(larger(desc->n_embd, desc->n_ffn), (uint64_t)desc->n_head * desc->head_dim);
    return row * sizeof(float) * sizes->n_tok_max +
           phi_matmul_scratch_bytes(
               &(phi_matmul_sizes){sizes->n_tok_max, (uint32_t)widest, sizes->n_threads}) +
           (uint64_t)desc->n_vocab * sizes->n_logits_max * sizeof(float) +
           phi_attention_scratch_bytes(desc, sizes->n_tok_max, sizes->n_threads) +
           phi_experts_scratch_bytes(desc, sizes->n_tok_max);
}

phi_status phi_memplan_make(const phi_checkpoint *checkpoint, const phi_memplan_sizes *sizes,
                            phi_memplan *out_plan, phi_err *err)
{
    phi_pack pack;
    phi_status status = phi_pack_make(checkpoint, PHI_PACK_MODEL, 0, &pack, err);
    if (status) {
        return status;
    }
    uint64_t bytes = pack.bytes;
    phi_pack_done(&pack);
    return phi_memplan_make_for(phi_checkpoint_description(checkpoint), bytes, sizes, out_plan,
                                err);
}

phi_status phi_memplan_make_for(const phi_description *desc, uint64_t weights_bytes,
                                const phi_memplan_sizes *sizes, phi_memplan *out_plan, phi_err *err)
{
    uint64_t pages = ((uint64_t)sizes->kv_tokens + PHI_KV_PAGE_TOKENS - 1) / PHI_KV_PAGE_TOKENS;
    phi_memplan plan = {
        .weights_bytes = weights_bytes,
        .kv_bytes = pages * phi_kv_page_bytes(desc, sizes->kv_type),
        .scratch_bytes = scratch_bytes(desc, sizes),
        .available_bytes = phi_machine_memory_available(),
    };
    uint64_t need = plan.weights_bytes + plan.kv_bytes + plan.scratch_bytes + RESERVE_BYTES;
    if (need > plan.available_bytes) {
        return phi_fail(err, PHI_E_NO_MEMORY,
                        "the model needs %llu MB (weights %llu, KV cache %llu for %u tokens, "
                        "scratch %llu), but %llu MB are available",
                        (unsigned long long)(need >> 20),
                        (unsigned long long)(plan.weights_bytes >> 20),
                        (unsigned long long)(plan.kv_bytes >> 20), sizes->kv_tokens,
                        (unsigned long long)(plan.scratch_bytes >> 20),
                        (unsigned long long)(plan.available_bytes >> 20));
    }
    *out_plan = plan;
    return PHI_OK;
}

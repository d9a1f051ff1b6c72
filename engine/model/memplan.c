#include "engine/model/memplan.h"

#include "base/file.h"
#include "base/mem.h"
#include "base/str.h"

#include <fcntl.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

/* What stays free for the system and for what this plan does not count. */
#define RESERVE_BYTES (64ULL << 20)

static bool read_small(const char *path, char *out, size_t out_bytes)
{
    int fd = open(path, O_RDONLY | O_CLOEXEC);
    if (fd < 0) {
        return false;
    }
    ssize_t got = read(fd, out, out_bytes - 1);
    (void)close(fd);
    if (got <= 0) {
        return false;
    }
    out[got] = '\0';
    return true;
}

/* A file that holds one decimal number. */
static bool read_number(const char *path, uint64_t *out)
{
    char text[64];
    if (!read_small(path, text, sizeof text)) {
        return false;
    }
    text[strcspn(text, "\n")] = '\0';
    return phi_str_parse_u64(text, UINT64_MAX, out);
}

static uint64_t machine_available(void)
{
    char text[4096];
    if (!read_small("/proc/meminfo", text, sizeof text)) {
        return UINT64_MAX;
    }
    const char *at = strstr(text, "MemAvailable:");
    if (!at) {
        return UINT64_MAX;
    }
    at += strlen("MemAvailable:");
    at += strspn(at, " ");
    char digits[24] = {0};
    size_t length = strspn(at, "0123456789");
    if (length == 0 || length >= sizeof digits) {
        return UINT64_MAX;
    }
    memcpy(digits, at, length);
    uint64_t kib = 0;
    return phi_str_parse_u64(digits, UINT64_MAX >> 10, &kib) ? kib << 10 : UINT64_MAX;
}

static uint64_t cgroup_available(void)
{
    static const char *const pairs[][2] = {
        {"/sys/fs/cgroup/memory.max", "/sys/fs/cgroup/memory.current"},
        {"/sys/fs/cgroup/memory/memory.limit_in_bytes",
         "/sys/fs/cgroup/memory/memory.usage_in_bytes"},
    };
    for (size_t i = 0; i < sizeof pairs / sizeof *pairs; i++) {
        uint64_t limit;
        uint64_t used;
        if (read_number(pairs[i][0], &limit) && read_number(pairs[i][1], &used)) {
            return limit > used ? limit - used : 0;
        }
    }
    return UINT64_MAX;
}

/* Scratch of a context, as forward.c lays it out, from the description alone. */
static uint64_t scratch_bytes(const phi_description *desc, uint32_t n_tok_max)
{
    uint64_t heads = desc->n_head + 2 * (uint64_t)desc->n_head_kv;
    uint64_t row = 3 * (uint64_t)desc->n_embd + (heads + desc->n_head) * desc->head_dim +
                   3 * (uint64_t)desc->n_ffn + desc->n_rot + desc->n_vocab;
    return row * n_tok_max * sizeof(float);
}

phi_status phi_memplan_make(const phi_checkpoint *checkpoint, phi_kv_type kv_type,
                            uint32_t kv_tokens, uint32_t n_tok_max, phi_memplan *out_plan,
                            phi_err *err)
{
    const phi_description *desc = phi_checkpoint_description(checkpoint);
    uint64_t pages = ((uint64_t)kv_tokens + PHI_KV_PAGE_TOKENS - 1) / PHI_KV_PAGE_TOKENS;
    uint64_t machine = machine_available();
    uint64_t group = cgroup_available();
    phi_memplan plan = {
        .weights_bytes = phi_checkpoint_bytes(checkpoint),
        .kv_bytes = pages * phi_kv_page_bytes(desc, kv_type),
        .scratch_bytes = scratch_bytes(desc, n_tok_max),
        .available_bytes = machine < group ? machine : group,
    };
    uint64_t need = plan.weights_bytes + plan.kv_bytes + plan.scratch_bytes + RESERVE_BYTES;
    if (need > plan.available_bytes) {
        return phi_fail(err, PHI_E_NO_MEMORY,
                        "the model needs %llu MB (weights %llu, KV cache %llu for %u tokens, "
                        "scratch %llu), but %llu MB are available",
                        (unsigned long long)(need >> 20),
                        (unsigned long long)(plan.weights_bytes >> 20),
                        (unsigned long long)(plan.kv_bytes >> 20), kv_tokens,
                        (unsigned long long)(plan.scratch_bytes >> 20),
                        (unsigned long long)(plan.available_bytes >> 20));
    }
    *out_plan = plan;
    return PHI_OK;
}

/*
 * What a model makes of texts that are ids already: the logits that tests/peers compares.
 *
 *   logits_of_ids MODEL f16|f32
 *
 * Keys and values are kept in the given type. Each line of standard input is a number n and then
 * ids, the first n of them a prompt, the others as if they had been generated. For each the logits
 * after the prompt's last token and after each later one go to standard output, as floats
 * [1 + generated, n_vocab] in the machine's order.
 */
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/mem.h"
#include "runner.h"

#define LINE_MAX_BYTES (16U * RUNNER_PAGES * PHI_KV_PAGE_TOKENS)

typedef struct text {
    int32_t ids[RUNNER_PAGES * PHI_KV_PAGE_TOKENS];
    uint32_t n_prompt;
    uint32_t count;
} text;

static int fail(const char *message)
{
    fprintf(stderr, "logits_of_ids: %s\n", message);
    return 1;
}

/* False where the line is not what the top of this file says. */
static bool parse(const char *line, uint32_t n_vocab, text *out)
{
    out->count = 0;
    char *end = NULL;
    out->n_prompt = (uint32_t)strtoul(line, &end, 10);
    for (const char *at = end; *at && *at != '\n'; at = end) {
        long id = strtol(at, &end, 10);
        if (end == at || id < 0 || (unsigned long)id >= n_vocab ||
            out->count == sizeof out->ids / sizeof out->ids[0]) {
            return false;
        }
        out->ids[out->count++] = (int32_t)id;
    }
    return out->n_prompt > 0 && out->n_prompt <= out->count;
}

/* As the scheduler computes a sequence: the prompt at once, then token by token; all of it again
 * where LongRoPE's switch is crossed. */
static bool answer(runner *r, const text *t)
{
    uint32_t n_vocab = r->weights->description.n_vocab;
    runner_restart(r, t->n_prompt);
    r->n_prompt = t->n_prompt;
    for (uint32_t n = t->n_prompt; n <= t->count; n++) {
        const float *logits = runner_extend(r, t->ids, n, RUNNER_TOKENS);
        if (fwrite(logits, sizeof *logits, n_vocab, stdout) != n_vocab) {
            return false;
        }
    }
    return true;
}

static int answer_all(const phi_weights *weights, const phi_kernels *kernels, phi_team *team,
                      phi_kv_type kv_type)
{
    char *line = phi_alloc(LINE_MAX_BYTES);
    text *t = phi_alloc(sizeof *t);
    runner r;
    int status = 0;
    runner_init(&r, weights, kernels, team, kv_type);
    while (!status && fgets(line, (int)LINE_MAX_BYTES, stdin)) {
        if (!parse(line, weights->description.n_vocab, t)) {
            status = fail("a line is not a length and ids");
        } else if (!answer(&r, t)) {
            status = fail(strerror(errno));
        }
    }
    runner_done(&r);
    phi_free(t);
    phi_free(line);
    return status;
}

int main(int argc, char **argv)
{
    phi_err err = {0};
    phi_checkpoint *checkpoint = NULL;
    phi_weights *weights = NULL;
    phi_team *team = NULL;
    const phi_kernels *kernels = NULL;
    bool is_f32 = argc == 3 && strcmp(argv[2], "f32") == 0;
    if (argc != 3 || (!is_f32 && strcmp(argv[2], "f16") != 0)) {
        return fail("MODEL f16|f32");
    }
    int status = 1;
    if (phi_kernels_select(NULL, &kernels, &err) || phi_team_create(2, &team, &err) ||
        phi_checkpoint_open(argv[1], &checkpoint, &err) ||
        phi_weights_load(checkpoint, NULL, NULL, &weights, &err)) {
        (void)fail(err.message);
    } else {
        status = answer_all(weights, kernels, team, is_f32 ? PHI_KV_F32 : PHI_KV_F16);
    }
    phi_weights_destroy(weights);
    phi_checkpoint_close(checkpoint);
    phi_team_destroy(team);
    return status;
}

#include "base/mem.h"
#include "engine/engine.h"
#include "server/cli.h"

#include <inttypes.h>
#include <jansson.h>
#include <stdio.h>
#include <string.h>

static void help(void)
{
    (void)printf("phid inspect: what a model file holds, from its headers alone.\n"
                 "\n"
                 "  phid inspect model.gguf\n"
                 "  phid inspect folder-with-config.json --json\n"
                 "\n"
                 "  --json   all of it as JSON\n");
}

static json_t *description_json(const phi_description *d)
{
    json_t *eos = json_array();
    for (uint32_t i = 0; i < d->n_eos; i++) {
        (void)json_array_append_new(eos, json_integer(d->eos_ids[i]));
    }
    return json_pack(
        "{s:s, s:s, s:i, s:i, s:i, s:i, s:i, s:i, s:i, s:i, s:i, s:f, s:s, s:i, s:b, s:I, s:i, "
        "s:i, s:o}",
        "architecture", phi_arch_name(d->arch), "name", d->name, "layers", (int)d->n_layer,
        "hidden", (int)d->n_embd, "heads", (int)d->n_head, "heads_kv", (int)d->n_head_kv,
        "head_dim", (int)d->head_dim, "feed_forward", (int)d->n_ffn, "vocabulary", (int)d->n_vocab,
        "context", (int)d->n_ctx, "rotary", (int)d->n_rot, "rope_theta", (double)d->rope_theta,
        "rope", d->rope == PHI_ROPE_LONG ? "longrope" : "plain", "context_original",
        (int)d->n_ctx_original, "tied_head", d->tied_head ? 1 : 0, "window", (json_int_t)d->window,
        "bos", (int)d->bos_id, "experts", (int)d->n_expert, "eos", eos);
}

static void print_json(const phi_inspection *inspection)
{
    json_t *tensors = json_array();
    size_t count = phi_inspect_tensor_count(inspection);
    for (size_t i = 0; i < count; i++) {
        phi_tensor_info info;
        phi_inspect_tensor(inspection, i, &info);
        (void)json_array_append_new(
            tensors, json_pack("{s:s, s:s, s:I, s:I, s:I}", "name", info.name, "type", info.type,
                               "rows", (json_int_t)info.rows, "cols", (json_int_t)info.cols,
                               "bytes", (json_int_t)info.bytes));
    }
    json_t *body =
        json_pack("{s:s, s:I, s:o, s:o}", "format", phi_inspect_format(inspection), "bytes",
                  (json_int_t)phi_inspect_bytes(inspection), "model",
                  description_json(phi_inspect_description(inspection)), "tensors", tensors);
    char *text = body ? json_dumps(body, JSON_INDENT(2)) : NULL;
    (void)printf("%s\n", text ? text : "{}");
    phi_free(text);
    json_decref(body);
}

static void print_text(const char *path, const phi_inspection *inspection)
{
    const phi_description *d = phi_inspect_description(inspection);
    size_t count = phi_inspect_tensor_count(inspection);
    (void)printf("%s: %s, %s%s%s, %.1f MiB, %zu tensors\n", path, phi_inspect_format(inspection),
                 phi_arch_name(d->arch), d->name[0] ? " " : "", d->name,
                 (double)phi_inspect_bytes(inspection) / 1048576, count);
    (void)printf("layers %" PRIu32 ", hidden %" PRIu32 ", heads %" PRIu32 " (%" PRIu32
                 " for keys and values) of %" PRIu32 ", feed-forward %" PRIu32 "\n",
                 d->n_layer, d->n_embd, d->n_head, d->n_head_kv, d->head_dim, d->n_ffn);
    if (d->ffn == PHI_FFN_EXPERTS) {
        (void)printf("%" PRIu32 " experts, 2 for each token\n", d->n_expert);
    }
    (void)printf("vocabulary %" PRIu32 "%s, context %" PRIu32, d->n_vocab,
                 d->tied_head ? " (tied head)" : "", d->n_ctx);
    if (d->rope == PHI_ROPE_LONG) {
        (void)printf(" (LongRoPE beyond %" PRIu32 ")", d->n_ctx_original);
    }
    if (d->window > 0) {
        (void)printf(", window %" PRIu32, d->window);
    }
    (void)printf("\n\n");
    for (size_t i = 0; i < count; i++) {
        phi_tensor_info info;
        phi_inspect_tensor(inspection, i, &info);
        (void)printf("%-40s %-9s %8" PRIu32 " x %-8" PRIu32 " %14" PRIu64 " bytes\n", info.name,
                     info.type, info.rows, info.cols, info.bytes);
    }
}

static int run(int argc, char *const *argv)
{
    bool json = false;
    const phi_cli_flag flags[] = {{"--json", NULL, &json}};
    phi_cli_args args;
    phi_err err = {0};
    phi_inspection *inspection = NULL;
    if (phi_cli_parse(argc, argv, flags, 1, &args, &err)) {
        return phi_cli_fail("inspect", &err, PHI_CLI_USAGE);
    }
    if (args.count != 1) {
        (void)phi_fail(&err, PHI_E_INVALID, "name one file or folder: phid inspect FILE");
        return phi_cli_fail("inspect", &err, PHI_CLI_USAGE);
    }
    if (phi_inspect_open(args.items[0], &inspection, &err)) {
        return phi_cli_fail("inspect", &err, PHI_CLI_FAILED);
    }
    if (json) {
        print_json(inspection);
    } else {
        print_text(args.items[0], inspection);
    }
    phi_inspect_close(inspection);
    return PHI_CLI_OK;
}

const phi_command phi_cmd_inspect = {"inspect", "show what a model file holds", run, help};

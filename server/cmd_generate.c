#include "base/file.h"
#include "base/mem.h"
#include "base/str.h"
#include "config/limits.h"
#include "engine/engine.h"
#include "server/cli.h"

#include <inttypes.h>
#include <jansson.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

#define MAX_TOKENS_DEFAULT 1024U

typedef struct arguments {
    const char *model;
    char *prompt; /* owned */
    size_t prompt_bytes;
    const char *system;
    bool raw;
    bool json;
    bool cache;
    bool verbose;
    uint64_t threads;
    phi_generation_options options;
} arguments;

static void help(void)
{
    (void)printf(
        "phid generate: lets a model answer, here and now.\n"
        "\n"
        "  phid generate model-int4.gguf 'Why is the sky blue?'\n"
        "  cat question.txt | phid generate model-int4.gguf -\n"
        "  phid generate folder 'Once upon a time' --raw --temperature 0 --json\n"
        "\n"
        "  --max-tokens N    at most so many new tokens; default: 1024\n"
        "  --temperature T   0 to 2; 0 takes the most likely token; default: 1\n"
        "  --top-p P         above 0 to 1; default: 1\n"
        "  --seed N          the same seed gives the same answer\n"
        "  --system TEXT     instructions before the question\n"
        "  --raw             the prompt is text to go on with, not a question: no chat\n"
        "                    template, and control tokens in it are recognised\n"
        "  --threads N       compute threads; default: one for each core\n"
        "  --cache           keep the packed weights beside MODEL as MODEL.packed, as large as\n"
        "                    the model again, so that the next start takes no time\n"
        "  --verbose         tell on standard error what memory the model takes\n"
        "  --json            a line of JSON for each token, and one at the end\n");
}

/* ---- arguments ---- */

static phi_status read_stdin(char **out_text, size_t *out_bytes, phi_err *err)
{
    phi_buf text;
    phi_buf_init(&text, PHI_LIMIT_TEXT_BYTES);
    char block[65536];
    ssize_t got = 0;
    phi_status status = PHI_OK;
    while (!status && (got = read(STDIN_FILENO, block, sizeof block)) > 0) {
        status = phi_buf_append(&text, block, (size_t)got);
    }
    if (status || got < 0) {
        phi_buf_done(&text);
        return phi_fail(err, PHI_E_INVALID,
                        "the prompt from standard input cannot be read, or is longer than %u bytes",
                        PHI_LIMIT_TEXT_BYTES);
    }
    if (text.length_bytes == 0) {
        phi_buf_done(&text);
        return phi_fail(err, PHI_E_INVALID, "the prompt from standard input is empty");
    }
    *out_bytes = text.length_bytes;
    *out_text = phi_buf_take(&text);
    return PHI_OK;
}

static phi_status parse_sampling(const char *temperature, const char *top_p, const char *seed,
                                 phi_sampling *sampling, phi_err *err)
{
    double t = 1;
    double p = 1;
    phi_sampling_defaults(sampling);
    phi_status status = phi_cli_double("--temperature", temperature, 0, 2, &t, err);
    status = status ? status : phi_cli_double("--top-p", top_p, 0, 1, &p, err);
    status = status ? status : phi_cli_number("--seed", seed, 0, UINT64_MAX, &sampling->seed, err);
    if (!status && p <= 0) {
        return phi_fail(err, PHI_E_INVALID, "--top-p is 0; it must be above 0, to 1");
    }
    sampling->temperature = (float)t;
    sampling->top_p = (float)p;
    sampling->has_seed = seed != NULL;
    return status;
}

static phi_status parse(int argc, char *const *argv, arguments *out, phi_err *err)
{
    const char *max_tokens = NULL;
    const char *temperature = NULL;
    const char *top_p = NULL;
    const char *seed = NULL;
    const char *threads = NULL;
    const phi_cli_flag flags[] = {
        {"--max-tokens", &max_tokens, NULL}, {"--temperature", &temperature, NULL},
        {"--top-p", &top_p, NULL},           {"--seed", &seed, NULL},
        {"--system", &out->system, NULL},    {"--threads", &threads, NULL},
        {"--raw", NULL, &out->raw},          {"--json", NULL, &out->json},
        {"--cache", NULL, &out->cache},      {"--verbose", NULL, &out->verbose},
    };
    phi_cli_args args;
    uint64_t tokens = MAX_TOKENS_DEFAULT;
    phi_status status = phi_cli_parse(argc, argv, flags, sizeof flags / sizeof *flags, &args, err);
    status = status
                 ? status
                 : phi_cli_number("--max-tokens", max_tokens, 1, PHI_LIMIT_CONTEXT, &tokens, err);
    status = status ? status
                    : phi_cli_number("--threads", threads, 1, PHI_LIMIT_TEAM_THREADS, &out->threads,
                                     err);
    status =
        status ? status : parse_sampling(temperature, top_p, seed, &out->options.sampling, err);
    if (status) {
        return status;
    }
    if (args.count < 1 || args.count > 2) {
        return phi_fail(err, PHI_E_INVALID,
                        "name a model and a prompt: phid generate MODEL "
                        "'PROMPT' (or - for standard input)");
    }
    if (out->raw && out->system) {
        return phi_fail(err, PHI_E_INVALID,
                        "--system needs the chat template, which --raw leaves "
                        "out");
    }
    out->options.max_tokens = (uint32_t)tokens;
    out->model = args.items[0];
    if (args.count == 1 && isatty(STDIN_FILENO) == 1) {
        return phi_fail(err, PHI_E_INVALID,
                        "the prompt is missing: phid generate MODEL 'PROMPT' (or - to type it, "
                        "Ctrl-D at its end)");
    }
    if (args.count == 1 || strcmp(args.items[1], "-") == 0) {
        status = read_stdin(&out->prompt, &out->prompt_bytes, err);
    } else {
        out->prompt = phi_strdup(args.items[1]);
        out->prompt_bytes = strlen(out->prompt);
    }
    if (!status && !phi_utf8_valid(out->prompt, out->prompt_bytes)) {
        status = phi_fail(err, PHI_E_INVALID, "the prompt is not UTF-8");
    }
    return status;
}

/* ---- answering ---- */

static phi_status encode(const phi_model *model, const arguments *args, phi_tokens *out_tokens,
                         phi_err *err)
{
    if (args->raw) {
        return phi_model_tokenize(model, args->prompt, args->prompt_bytes, true, true, out_tokens,
                                  err);
    }
    phi_chat_message messages[2] = {{.role = "user"}, {.role = "user"}};
    size_t count = 0;
    if (args->system) {
        messages[count].role = "system";
        messages[count].content = args->system;
        messages[count++].content_bytes = strlen(args->system);
    }
    messages[count].content = args->prompt;
    messages[count++].content_bytes = args->prompt_bytes;
    return phi_model_encode_chat(model, messages, count, out_tokens, err);
}

static void print_json_line(json_t *body)
{
    char *text = body ? json_dumps(body, JSON_COMPACT) : NULL;
    if (text) {
        (void)printf("%s\n", text);
    }
    phi_free(text);
    json_decref(body);
}

static const char *finish_name(phi_finish_reason reason)
{
    return reason == PHI_FINISH_STOP     ? "stop"
           : reason == PHI_FINISH_LENGTH ? "length"
                                         : "cancelled";
}

static void print_event(const arguments *args, const phi_generation_event *event)
{
    if (!args->json) {
        (void)fwrite(event->text, 1, event->text_bytes, stdout);
        if (event->kind == PHI_GENERATION_DONE) {
            (void)printf("\n");
        }
    } else if (event->kind == PHI_GENERATION_TOKEN) {
        print_json_line(json_pack("{s:i, s:s%}", "token", (int)event->token, "text", event->text,
                                  event->text_bytes));
    } else if (event->kind == PHI_GENERATION_DONE) {
        print_json_line(json_pack("{s:s, s:s%, s:i, s:i, s:f, s:f}", "finish_reason",
                                  finish_name(event->finish), "text", event->text,
                                  event->text_bytes, "prompt_tokens", (int)event->prompt_tokens,
                                  "completion_tokens", (int)event->completion_tokens, "prompt_ms",
                                  event->prompt_ms, "decode_ms", event->decode_ms));
    }
    (void)fflush(stdout);
}

/* Until the terminal event, which follows a cancel too. */
static phi_status follow(phi_generation *generation, const arguments *args, phi_err *err)
{
    phi_generation_event event;
    bool cancelled = false;
    for (;;) {
        while (phi_generation_next(generation, &event)) {
            if (event.kind == PHI_GENERATION_FAILED) {
                *err = event.error;
                return event.error.code;
            }
            print_event(args, &event);
            if (event.kind == PHI_GENERATION_DONE) {
                return event.finish == PHI_FINISH_CANCELLED ? PHI_E_CANCELLED : PHI_OK;
            }
        }
        if (phi_cli_interrupted() && !cancelled) {
            cancelled = true;
            phi_generation_cancel(generation);
        }
        phi_cli_wait();
    }
}

static phi_status answer(phi_engine *engine, phi_model *model, arguments *args, phi_err *err)
{
    phi_tokens tokens = {0};
    phi_generation *generation = NULL;
    phi_status status = encode(model, args, &tokens, err);
    if (status) {
        return status;
    }
    args->options.prompt = tokens.ids;
    args->options.n_prompt = tokens.count;
    args->options.top_logprobs = -1;
    args->options.continues_text = args->raw;
    status = phi_engine_generate(engine, model, &args->options, &generation, err);
    if (!status) {
        status = follow(generation, args, err);
        phi_generation_release(generation);
    }
    phi_tokens_done(&tokens);
    return status;
}

static void print_plan(void *user, const phi_model_plan *plan)
{
    (void)user;
    (void)fprintf(stderr,
                  "memory: weights %" PRIu64 " MB, KV cache %" PRIu64 " MB, scratch %" PRIu64
                  " MB; available %" PRIu64 " MB\n",
                  plan->weights_bytes >> 20, plan->kv_bytes >> 20, plan->scratch_bytes >> 20,
                  plan->available_bytes >> 20);
}

static void print_cache(const phi_model *model, const char *path)
{
    phi_model_info info;
    phi_model_info_get(model, &info);
    (void)fprintf(stderr, "weights: %s %s%s%s\n", path, info.cache,
                  info.cache_reason[0] ? ": " : "", info.cache_reason);
}

/* Beside a file or a folder. */
static char *cache_path(const char *model)
{
    size_t bytes = strlen(model);
    while (bytes > 1 && model[bytes - 1] == '/') {
        bytes--;
    }
    return phi_strfmt("%.*s.packed", (int)bytes, model);
}

static phi_status generate(arguments *args, phi_err *err)
{
    phi_engine *engine = NULL;
    phi_model *model = NULL;
    phi_model_options model_options = {0};
    phi_engine_options options = {
        .threads = (unsigned)args->threads, .isa = phi_cli_isa(), .wake = phi_cli_wake};
    phi_status status = phi_engine_create(&options, &engine, err);
    if (status) {
        return status;
    }
    char *cache = args->cache ? cache_path(args->model) : NULL;
    model_options.cache_path = cache;
    model_options.planned = args->verbose ? print_plan : NULL;
    status = phi_model_load(engine, args->model, &model_options, &model, err);
    if (!status) {
        if (args->verbose && cache) {
            print_cache(model, cache);
        }
        status = answer(engine, model, args, err);
        phi_model_unref(model);
    }
    phi_free(cache);
    phi_engine_destroy(engine);
    return status;
}

static int run(int argc, char *const *argv)
{
    arguments args = {0};
    phi_err err = {0};
    int code = PHI_CLI_OK;
    if (parse(argc, argv, &args, &err)) {
        code = phi_cli_fail("generate", &err, PHI_CLI_USAGE);
    } else {
        phi_status status = phi_cli_catch_signals(&err);
        status = status ? status : generate(&args, &err);
        if (status == PHI_E_CANCELLED && phi_cli_interrupted()) {
            code = PHI_CLI_INTERRUPTED;
        } else if (status) {
            code = phi_cli_fail("generate", &err, PHI_CLI_FAILED);
        }
    }
    phi_free(args.prompt);
    return code;
}

const phi_command phi_cmd_generate = {"generate", "answer a prompt on the command line", run, help};

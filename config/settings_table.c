#include "config/settings_table.h"

#include "base/str.h"
#include "config/limits.h"

#include <ctype.h>
#include <string.h>

static const char *check_listen(const char *text)
{
    static const char right[] =
        "must be HOST:PORT with a port from 0 to 65535, for example 127.0.0.1:8080 or [::1]:8080";
    const char *colon = strrchr(text, ':');
    uint64_t port = 0;
    bool good = colon && phi_str_parse_u64(colon + 1, 65535, &port);
    if (good && text[0] == '[') {
        good = colon > text + 2 && colon[-1] == ']';
    } else if (good) {
        good = strchr(text, ':') == colon;
    }
    return good ? NULL : right;
}

static const char *check_not_empty(const char *text)
{
    return text[0] ? NULL : "must not be empty";
}

static const char *check_keys(const char *text)
{
    static const char right[] =
        "must be keys of visible ASCII characters, separated by commas, each at least 8 long";
    size_t bytes = 0;
    for (const char *at = text; text[0]; at++) {
        if (*at == ',' || *at == '\0') {
            if (bytes < 8) {
                return right;
            }
            bytes = 0;
            if (*at == '\0') {
                break;
            }
            continue;
        }
        if (!isgraph((unsigned char)*at)) {
            return right;
        }
        bytes++;
    }
    return NULL;
}

static const char *check_dirs(const char *text)
{
    for (const char *at = text; *at;) {
        if (*at != '/') {
            return "must be absolute directories separated by colons";
        }
        at += strcspn(at, ":");
        at += *at == ':';
    }
    return NULL;
}

#define TEXT_ROW(field, fallback, value, check, help)                                              \
    {                                                                                              \
#field, PHI_SETTING_TEXT, offsetof(phi_settings, field), 0, 0, fallback, value, NULL,      \
            help, check                                                                            \
    }
#define CHOICE_ROW(field, fallback, choices, help)                                                 \
    {                                                                                              \
#field, PHI_SETTING_CHOICE, offsetof(phi_settings, field), 0, 0, fallback, "WORD",         \
            choices, help, NULL                                                                    \
    }
#define NUMBER_ROW(name, type, field, min, max, fallback, value, help)                             \
    {                                                                                              \
        name, type, offsetof(phi_settings, field), min, max, fallback, value, NULL, help, NULL     \
    }

const phi_setting_row phi_setting_rows[] = {
    TEXT_ROW(listen, "127.0.0.1:8080", "HOST:PORT", check_listen,
             "Where to listen. [::]:8080 listens on every IPv4 and IPv6 address; set api_keys\n"
             "before you let others reach it."),
    TEXT_ROW(data_dir, NULL, "DIR", check_not_empty,
             "Where uploads, models and jobs live. Made if it is not there."),
    TEXT_ROW(
        api_keys, "", "KEY,...", check_keys,
        "Keys of which every request must show one (Authorization: Bearer KEY). Empty: no key\n"
        "is asked for. On a command line others can read them: use the file."),
    TEXT_ROW(api_keys_file, "", "FILE", NULL, "A file with one key a line, beside api_keys."),
    TEXT_ROW(source_dirs, "", "DIR:...", check_dirs,
             "Directories from which quantization jobs may read models by path. Empty: none."),
    TEXT_ROW(models, "", "ID,...", NULL,
             "Models to load at start, as NAME:PRECISION. Others are loaded on first use."),
    NUMBER_ROW("max_upload", PHI_SETTING_BYTES, max_upload_bytes, 1, PHI_LIMIT_UPLOAD_BYTES, "128G",
               "SIZE", "The largest file that may be uploaded."),
    NUMBER_ROW("max_body", PHI_SETTING_BYTES, max_body_bytes, 1024, PHI_LIMIT_JSON_BODY_BYTES,
               "32M", "SIZE", "The largest JSON body of a request."),
    NUMBER_ROW(
        "threads", PHI_SETTING_NUMBER, threads, 0, PHI_LIMIT_TEAM_THREADS, "0", "N",
        "Compute threads. 0: one for each core that the process may use, by its CPU mask and the\n"
        "control groups' quota."),
    CHOICE_ROW(
        pin_threads, "auto", "auto on off",
        "Keep each compute thread on a CPU of its own. auto: when there is a thread for each\n"
        "core that the process may use. Switch it off where several processes compute on the\n"
        "same CPUs."),
    TEXT_ROW(isa, "", "NAME", NULL,
             "The instruction set of the kernels, for tests. Empty: the best that the CPU has."),
    NUMBER_ROW("running_max", PHI_SETTING_NUMBER, running_max, 1, PHI_LIMIT_SEQUENCES, "32", "N",
               "Answers that are generated at a time; they share each step."),
    NUMBER_ROW("waiting_max", PHI_SETTING_NUMBER, waiting_max, 1, PHI_LIMIT_SEQUENCES, "256", "N",
               "Answers that may wait for a place; more are refused with 503."),
    NUMBER_ROW("batch_tokens", PHI_SETTING_NUMBER, batch_tokens, 1, PHI_LIMIT_BATCH_TOKENS, "256",
               "N", "Tokens of one step: those of running answers and chunks of prompts."),
    NUMBER_ROW("context", PHI_SETTING_NUMBER, context, 0, PHI_LIMIT_CONTEXT, "0", "TOKENS",
               "The longest prompt and answer together. 0: what the model can."),
    NUMBER_ROW("kv_tokens", PHI_SETTING_NUMBER, kv_tokens, 0, 64ULL * PHI_LIMIT_CONTEXT, "0",
               "TOKENS", "Tokens that a model's KV cache holds. 0: by the context."),
    CHOICE_ROW(
        weights_cache, "on", "on off",
        "Packed weights are kept in data_dir, as large as the model again, so that the next\n"
        "start maps them instead of packing them."),
    CHOICE_ROW(
        kv_type, "auto", "auto f16 f32 int8",
        "How keys and values are kept. auto: f16, or f32 where all weights are. int8 takes half\n"
        "the memory of f16 and half the time to read it in long contexts, and rounds more."),
    NUMBER_ROW("jobs_max", PHI_SETTING_NUMBER, jobs_max, 1, 64, "1", "N",
               "Quantization jobs that run at a time."),
    NUMBER_ROW("connections_max", PHI_SETTING_NUMBER, connections_max, 1, 60000, "1024", "N",
               "Connections at a time."),
    NUMBER_ROW("idle_timeout", PHI_SETTING_SECONDS, idle_timeout_s, 1, 86400, "60", "SECONDS",
               "A connection on which nothing moves for this long is closed."),
    NUMBER_ROW("drain_timeout", PHI_SETTING_SECONDS, drain_timeout_s, 0, 86400, "30", "SECONDS",
               "At shutdown running answers may take this long to end."),
    CHOICE_ROW(log_level, "info", "debug info warn error off", "What is logged to standard error."),
    CHOICE_ROW(log_format, "text", "text json", "One line of text or of JSON for each event."),
};
const size_t phi_setting_row_count = sizeof phi_setting_rows / sizeof *phi_setting_rows;

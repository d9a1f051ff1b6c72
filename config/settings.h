/*
 * Purpose: every setting of the daemon, from defaults < file < environment (PHID_*) < flags.
 * Owns:    phi_settings owns its strings.
 * Threads: filled once before threads start, read-only afterwards.
 * Errors:  a wrong setting is named, with the file and line, the variable or the flag it came from,
 *          and says what would be right; an unknown one too.
 * Limits:  each row of the table states its range.
 *
 * One table row per setting (settings_table.c) gives name, type, range, default and help; file
 * keys ("max_upload = 64G"), environment names (PHID_MAX_UPLOAD), flags (--max-upload), the example
 * file and --help all come from it. A variable PHID_... that is no setting is refused only where it
 * looks like a typing error, as other programs may share the prefix.
 */
#ifndef PHI_CONFIG_SETTINGS_H
#define PHI_CONFIG_SETTINGS_H

#include "base/buf.h"
#include "base/status.h"

#include <stdbool.h>
#include <stdint.h>

typedef struct phi_settings {
    char *listen;        /* HOST:PORT, default 127.0.0.1:8080; [::]:8080 for IPv6 */
    char *data_dir;      /* default: $XDG_DATA_HOME/phid or ~/.local/share/phid */
    char *api_keys;      /* comma-separated; "": no key is asked for */
    char *api_keys_file; /* one key a line; "" none */
    char *source_dirs;   /* colon-separated directories that jobs may name by path; "": none */
    char *models;        /* comma-separated model ids to load at start; "": on first use */
    char *isa;           /* kernel set; "": the best */
    char *kv_type;       /* auto, f16, f32, int8 */
    char *pin_threads;   /* auto, on, off */
    char *weights_cache; /* on, off */
    char *log_level;     /* debug, info, warn, error, off */
    char *log_format;    /* text, json */
    uint64_t max_upload_bytes;
    uint64_t max_body_bytes;
    uint64_t threads;      /* 0: one for each core of this process */
    uint64_t running_max;  /* sequences in one batch */
    uint64_t waiting_max;  /* requests that wait for a place */
    uint64_t batch_tokens; /* rows of a step */
    uint64_t context;      /* longest sequence; 0: the model's own */
    uint64_t kv_tokens;    /* KV cache in tokens; 0: by context */
    uint64_t jobs_max;     /* quantization jobs at a time */
    uint64_t connections_max;
    uint64_t idle_timeout_s;  /* a connection on which nothing moves */
    uint64_t drain_timeout_s; /* shutdown: running answers may take this long to end */
} phi_settings;

/* argv holds only flags (--name value or --name=value); NULL-terminated like main's. `environ_`
 * is main's environment. The file is --config's, else PHID_CONFIG's, else none. */
phi_status phi_settings_load(phi_settings *out_settings, int argc, char *const *argv,
                             char *const *environ_, phi_err *err) PHI_MUST_CHECK;
void phi_settings_done(phi_settings *settings);
/* Reads a file for its errors alone: one line each, all of them. */
phi_status phi_settings_check_file(const char *path, phi_buf *out_report,
                                   size_t *out_errors) PHI_MUST_CHECK;
/* The example file: every setting with its help and default, commented out. */
phi_status phi_settings_example(phi_buf *out_text) PHI_MUST_CHECK;
/* The flags part of --help. */
phi_status phi_settings_help(phi_buf *out_text) PHI_MUST_CHECK;
/* Effective values, keys not shown ("api_keys = (2 keys)"). */
phi_status phi_settings_dump(const phi_settings *settings, phi_buf *out_text) PHI_MUST_CHECK;

#endif

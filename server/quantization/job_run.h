/*
 * Purpose: what the files of the job runner share: a run and the steps that kinds of jobs have in
 *          common.
 * Owns:    phi_job_run_state owns what its fields name, until phi_job_run returns.
 * Threads: [job], one run each.
 * Errors:  as phi_job_runner.h has them: the steps return them, phi_job_run records them.
 * Limits:  none of its own. Inside server/quantization only.
 */
#ifndef PHI_SERVER_QUANTIZATION_JOB_RUN_H
#define PHI_SERVER_QUANTIZATION_JOB_RUN_H

#include "base/status.h"
#include "engine/engine.h"
#include "server/quantization/job_runner.h"
#include "server/quantization/job_source.h"
#include "server/store/store.h"

#include <jansson.h>
#include <stdbool.h>
#include <stdint.h>

typedef struct phi_job_run_state {
    phi_job *job;
    phi_job_prepared prepared;
    char *work_dir;
    /* The present step's progress, 0 to 1, is this part of the whole. */
    double low;
    double high;
    uint64_t persisted_ns;
    double event_fraction;
    char stage[16]; /* the last one told */
    /* What comes of it. */
    phi_store_artifact artifacts[PHI_CONVERT_FORMAT_COUNT + 1U];
    size_t n_artifacts;
    json_t *result; /* what the job object shows once it has ended, but for `error` */
} phi_job_run_state;

/* The steps of each kind, up to the transaction that makes its results visible. */
phi_status phi_job_quantize_steps(phi_job_run_state *run, phi_err *err) PHI_MUST_CHECK;
phi_status phi_job_export_steps(phi_job_run_state *run, phi_err *err) PHI_MUST_CHECK;

/* Shows progress at once, stores it now and then; false when the job is to end. `now->fraction` is
 * that of the step. `tensor` may be NULL. */
bool phi_job_report(phi_job_run_state *run, const phi_job_progress *now, const char *tensor);
bool phi_job_told_to_end(const phi_job *job);
/* The step that begins now takes the part from `low` to `high` of the whole. */
void phi_job_step(phi_job_run_state *run, double low, double high);
/* Links or unpacks the job's sources. */
phi_status phi_job_prepare(phi_job_run_state *run, phi_err *err) PHI_MUST_CHECK;

/* A new artifact called MODEL-PRECISION and `suffix`, at `path` (taken). */
phi_store_artifact *phi_job_add_artifact(phi_job_run_state *run, const char *suffix, char *path);
/* Fills `bytes` and `sha256` from the file. */
phi_status phi_job_hash_artifact(phi_job_run_state *run, phi_store_artifact *artifact,
                                 phi_err *err) PHI_MUST_CHECK;
/* Writes `options->source` as a folder of the format and that as an artifact, and says in an event
 * how it went over. The options' folder and progress are filled here. */
phi_status phi_job_write_format(phi_job_run_state *run, phi_convert_options *options,
                                phi_convert_report *out_report, phi_err *err) PHI_MUST_CHECK;
/* Success: artifacts, model (or NULL) and record, in one transaction. */
phi_status phi_job_publish(phi_job_run_state *run, const phi_store_model *model,
                           phi_err *err) PHI_MUST_CHECK;
/* JSON text of a value (phi_free); NULL for NULL. */
char *phi_job_dump(const json_t *value);

#endif

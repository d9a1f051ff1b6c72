/*
 * Purpose: one progress figure for the whole call, from stages that count in their own units.
 * Owns:    nothing; the caller keeps the meter.
 * Threads: the one that runs phi_quantize.
 * Errors:  PHI_E_CANCELLED when the callback says stop.
 * Limits:  none.
 */
#ifndef PHI_ENGINE_QUANT_METER_H
#define PHI_ENGINE_QUANT_METER_H

#include "engine/quant/quantize.h"

typedef struct phi_meter {
    phi_quantize_progress_fn fn; /* may be NULL */
    void *user;
    phi_quantize_progress state;
    double quantizing_share; /* of the whole; evaluating has the rest */
} phi_meter;

/* `evaluations`: for each element of the model, how many multiplications the report will make with
 * it, 0 when there is no report. */
void phi_meter_init(phi_meter *meter, const phi_quantize_options *options, uint64_t bytes_total,
                    double evaluations);
/* `done` in 0..1 of the writing or the evaluating half; tensor "" when there is none. */
phi_status phi_meter_report(phi_meter *meter, phi_quantize_stage stage, double done,
                            const char *tensor, phi_err *err) PHI_MUST_CHECK;

/* Something that blocks for longer than a second on a large model. */
typedef phi_status (*phi_meter_task)(void *arg, phi_err *err);

/* Runs the task on a thread of its own and reports meanwhile. A callback that says stop is obeyed
 * when the task has ended: PHI_E_CANCELLED, whatever the task returned. */
phi_status phi_meter_wait(phi_meter *meter, phi_quantize_stage stage, double done,
                          phi_meter_task task, void *arg, phi_err *err) PHI_MUST_CHECK;

#endif

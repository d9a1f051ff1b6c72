#include "engine/quant/meter.h"

/* What one element costs on one core of 2020s hardware, in nanoseconds: the 4-bit searches as
 * measured, the others mostly reading and writing. Only their ratio matters, and only to make the
 * figure move evenly. */
#define INT4_NS 40.0
#define COPY_NS 6.0
#define MULTIPLICATION_NS 0.25

void phi_meter_init(phi_meter *meter, const phi_quantize_options *options, uint64_t bytes_total,
                    double evaluations)
{
    double quantizing = options->precision == PHI_PRECISION_INT4 ? INT4_NS : COPY_NS;
    double evaluating = MULTIPLICATION_NS * evaluations;
    *meter = (phi_meter){
        .fn = options->progress,
        .user = options->progress_user,
        .state = {.bytes_total = bytes_total, .tensor = ""},
        .quantizing_share = quantizing / (quantizing + evaluating),
    };
}

phi_status phi_meter_report(phi_meter *meter, phi_quantize_stage stage, double done,
                            const char *tensor, phi_err *err)
{
    double fraction = done * meter->quantizing_share;
    if (stage == PHI_STAGE_EVALUATING) {
        fraction = meter->quantizing_share + done * (1.0 - meter->quantizing_share);
    }
    fraction = fraction > 1.0 ? 1.0 : fraction;
    meter->state.stage = stage;
    meter->state.tensor = tensor;
    if (fraction > meter->state.fraction) {
        meter->state.fraction = fraction;
    }
    if (meter->fn && !meter->fn(meter->user, &meter->state)) {
        return phi_fail(err, PHI_E_CANCELLED, "quantization was cancelled");
    }
    return PHI_OK;
}

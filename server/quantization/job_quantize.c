/* The steps of a quantization job: source, GGUF, quality, the other formats. */
#include "server/quantization/job_run.h"

#include <stdio.h>
#include <string.h>

#include "base/clock.h"
#include "base/mem.h"
#include "server/quantization/job_json.h"
#include "server/quantization/job_request.h"

/* Shares of the whole, at the end of it: each further format, and hashing the GGUF. */
#define FORMAT_SHARE 0.08
#define HASH_SHARE 0.02

typedef struct quantizing {
    phi_job_run_state *run;
    phi_job_request request;
} quantizing;

static bool on_engine_progress(void *user, const phi_quantize_progress *engine)
{
    phi_job_progress now = {.fraction = engine->fraction,
                            .bytes_done = engine->bytes_done,
                            .bytes_total = engine->bytes_total};
    (void)snprintf(now.stage, sizeof now.stage, "%s", phi_quantize_stage_name(engine->stage));
    return phi_job_report(user, &now, engine->tensor);
}

static phi_status quantize(quantizing *self, const char *out_path, phi_quality *quality,
                           phi_err *err)
{
    const phi_job_request *request = &self->request;
    const phi_quantize_options options = {.source = self->run->prepared.path,
                                          .out_path = out_path,
                                          .name = request->model,
                                          .precision = request->precision,
                                          .type = request->type,
                                          .group_size = request->group_size,
                                          .symmetric = request->symmetric,
                                          .measure = true,
                                          .eval_text = self->run->prepared.eval_text,
                                          .eval_text_bytes = self->run->prepared.eval_bytes,
                                          .progress = on_engine_progress,
                                          .progress_user = self->run};
    return phi_engine_quantize(self->run->job->app->engine, &options, quality, err);
}

/* Before anything is quantized: what only the unpacked source tells. */
static phi_status check_source(const quantizing *self, phi_err *err)
{
    phi_inspection *inspection = NULL;
    if (self->request.n_formats == 0) {
        return PHI_OK;
    }
    phi_status status = phi_inspect_open(self->run->prepared.path, &inspection, err);
    if (status) {
        return status;
    }
    const phi_description *description = phi_inspect_description(inspection);
    status =
        phi_job_request_check_model(&self->request, description->arch, description->n_ctx, err);
    phi_inspect_close(inspection);
    return status;
}

static phi_status check_quality(const quantizing *self, const phi_quality *quality, phi_err *err)
{
    const phi_job_request *request = &self->request;
    double ratio = quality->perplexity_result / quality->perplexity_source;
    /* Written so that a NaN fails. */
    if (request->kl_divergence_max >= 0.0 && !(quality->kl_mean <= request->kl_divergence_max)) {
        return phi_fail_param(err, PHI_E_INVALID, "quality.max_kl_divergence",
                              "the mean KL divergence is %.6g, above the limit of %.6g that the "
                              "request set; the result was discarded",
                              quality->kl_mean, request->kl_divergence_max);
    }
    if (request->perplexity_ratio_max >= 0.0 && !(ratio <= request->perplexity_ratio_max)) {
        return phi_fail_param(err, PHI_E_INVALID, "quality.max_perplexity_ratio",
                              "the perplexity rose from %.6g to %.6g, a ratio of %.6g and above "
                              "the limit of %.6g that the request set; the result was discarded",
                              quality->perplexity_source, quality->perplexity_result, ratio,
                              request->perplexity_ratio_max);
    }
    return PHI_OK;
}

/* Reads back what was written: it has to open, and it says what the list of models shows. */
static phi_status describe_result(const char *path, phi_store_model *model, phi_err *err)
{
    phi_inspection *inspection = NULL;
    phi_status status = phi_inspect_open(path, &inspection, err);
    if (status) {
        return phi_fail_context(err, status, "the result cannot be read back");
    }
    const phi_description *description = phi_inspect_description(inspection);
    model->context_length = description->n_ctx;
    (void)snprintf(model->architecture, sizeof model->architecture, "%s",
                   phi_arch_name(description->arch));
    phi_inspect_close(inspection);
    return PHI_OK;
}

/* Every other format is written from the GGUF's codes. */
static phi_status write_formats(quantizing *self, const char *gguf_path, double from,
                                json_t *artifacts, phi_err *err)
{
    phi_status status = PHI_OK;
    for (size_t i = 0; i < self->request.n_formats && !status; i++) {
        phi_convert_options options = {
            .source = gguf_path, .format = self->request.formats[i], .keep = true};
        if (options.format == PHI_CONVERT_ONNX) {
            options.provider = self->request.provider;
        }
        if (options.format == PHI_CONVERT_QNN) {
            options.context_length = self->request.context_length;
        }
        phi_convert_report report = {0};
        double low = from + FORMAT_SHARE * (double)i;
        phi_job_step(self->run, low, low + FORMAT_SHARE);
        status = phi_job_write_format(self->run, &options, &report, err);
        if (status) {
            phi_job_request_blame(&self->request, i, err);
            return status;
        }
        const phi_store_artifact *made = &self->run->artifacts[self->run->n_artifacts - 1];
        json_t *shown = phi_job_artifact_json(phi_convert_format_name(options.format), &made->file);
        phi_job_set_report(shown, &report);
        (void)json_array_append_new(artifacts, shown);
    }
    return status;
}

static void name_model(const quantizing *self, const phi_store_file *file, phi_store_model *model)
{
    const phi_store_job *record = &self->run->job->record;
    model->created_s = phi_clock_unix_s();
    model->bytes = file->bytes;
    model->quality = phi_job_dump(json_object_get(self->run->result, "quality"));
    (void)snprintf(model->name, sizeof model->name, "%s", record->model);
    (void)snprintf(model->precision, sizeof model->precision, "%s", record->precision);
    (void)snprintf(model->sha256, sizeof model->sha256, "%s", file->sha256);
}

static phi_status publish(quantizing *self, phi_store_model *model, phi_err *err)
{
    phi_status status = phi_job_publish(self->run, model, err);
    if (status) {
        phi_free(model->quality);
    } else {
        self->run->job->model = *model;
    }
    return status;
}

static phi_status make_model(quantizing *self, phi_err *err)
{
    phi_job_run_state *run = self->run;
    phi_quality quality = {0};
    phi_store_model model = {0};
    double formats_from = 1.0 - HASH_SHARE - FORMAT_SHARE * (double)self->request.n_formats;
    phi_store_artifact *gguf =
        phi_job_add_artifact(run, ".gguf", phi_strfmt("%s/result.gguf", run->work_dir));
    phi_job_step(run, run->high < 1.0 ? run->high : 0.0, formats_from);
    phi_status status = quantize(self, gguf->path, &quality, err);
    if (status) {
        return status;
    }
    json_t *measured = phi_job_quality_json(&quality);
    if (measured) {
        (void)json_object_set_new(run->result, "quality", measured);
    }
    json_t *artifacts = json_array();
    (void)json_object_set_new(run->result, "artifacts", artifacts);
    status = check_quality(self, &quality, err);
    status = status ? status : phi_job_hash_artifact(run, gguf, err);
    status = status ? status : describe_result(gguf->path, &model, err);
    if (status) {
        return status;
    }
    json_t *shown = phi_job_artifact_json("gguf", &gguf->file);
    phi_job_set_report(shown, NULL);
    (void)json_array_append_new(artifacts, shown);
    status = write_formats(self, gguf->path, formats_from, artifacts, err);
    if (status) {
        return status;
    }
    name_model(self, &gguf->file, &model);
    return publish(self, &model, err);
}

phi_status phi_job_quantize_steps(phi_job_run_state *run, phi_err *err)
{
    quantizing self = {.run = run};
    phi_err body_err = {0};
    json_t *body = json_loads(run->job->record.request, 0, NULL);
    phi_status status = body ? phi_job_request_parse(body, &self.request, &body_err)
                             : phi_fail(&body_err, PHI_E_INTERNAL, "the stored request is damaged");
    json_decref(body);
    if (status) {
        *err = body_err;
        return status;
    }
    status = phi_job_prepare(run, err);
    status = status ? status : check_source(&self, err);
    status = status ? status : make_model(&self, err);
    phi_job_request_done(&self.request);
    return status;
}

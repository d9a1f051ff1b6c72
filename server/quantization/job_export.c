/* The steps of an export: a stored model as a file of another ecosystem. */
#include "server/quantization/job_run.h"

#include "base/mem.h"
#include "server/quantization/export_request.h"
#include "server/quantization/job_json.h"

/* The model's own file under a new name: the store has its bytes already. */
static phi_status take_gguf(phi_job_run_state *run, phi_err *err)
{
    phi_store_artifact *artifact =
        phi_job_add_artifact(run, ".gguf", phi_strdup(run->prepared.path));
    return phi_job_hash_artifact(run, artifact, err);
}

static phi_status write_folder(phi_job_run_state *run, const phi_export_request *request,
                               phi_convert_report *report, phi_err *err)
{
    phi_convert_options options = {.source = run->prepared.path,
                                   .format = request->format,
                                   .provider = request->provider,
                                   .context_length = request->context_length,
                                   .keep = request->keep,
                                   .precision = request->precision,
                                   .group_size = request->group_size,
                                   .symmetric = request->symmetric,
                                   .lossless = request->lossless};
    return phi_job_write_format(run, &options, report, err);
}

static phi_status export(phi_job_run_state *run, const phi_export_request *request, phi_err *err)
{
    phi_convert_report report = {0};
    phi_status status =
        request->gguf ? take_gguf(run, err) : write_folder(run, request, &report, err);
    if (status) {
        return status;
    }
    phi_job_set_report(run->result, request->gguf ? NULL : &report);
    json_t *shown = phi_job_artifact_json(phi_export_format_name(request), &run->artifacts[0].file);
    (void)json_object_set_new(run->result, "artifacts", json_pack("[o]", shown));
    return phi_job_publish(run, NULL, err);
}

phi_status phi_job_export_steps(phi_job_run_state *run, phi_err *err)
{
    phi_export_request request = {0};
    phi_err body_err = {0};
    json_t *body = json_loads(run->job->record.request, 0, NULL);
    phi_status status = body ? phi_export_request_parse(body, &request, &body_err)
                             : phi_fail(&body_err, PHI_E_INTERNAL, "the stored request is damaged");
    json_decref(body);
    if (status) {
        *err = body_err;
        return status;
    }
    status = phi_job_prepare(run, err);
    status = status ? status : export(run, &request, err);
    phi_export_request_done(&request);
    return status;
}

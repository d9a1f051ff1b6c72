/* A request's body of any bytes: whatever a route takes from it is in range and whole, and a
 * refusal names the field. A first byte picks the route, the rest is the JSON. */
#include <jansson.h>
#include <math.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include "server/openai/params.h"
#include "server/openai/prompt.h"
#include "server/quantization/job_request.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t bytes);

static void require(int holds)
{
    if (!holds) {
        abort();
    }
}

static void check_refusal(phi_status status, const phi_err *err)
{
    require(err->code == status && err->message[0] && err->param[0]);
    require(memchr(err->message, '\0', sizeof err->message) != NULL);
}

static void check_params(const json_t *body, phi_params_kind kind)
{
    phi_params params = {0};
    phi_err err = {0};
    phi_status status = phi_params_parse(body, kind, &params, &err);
    if (status) {
        check_refusal(status, &err);
        require(!params.model && !params.logit_bias && params.n_stop == 0);
        return;
    }
    const phi_sampling *sampling = &params.sampling;
    require(params.model && params.model[0] && params.n >= 1 && params.n <= PHI_LIMIT_CHOICES);
    require(sampling->temperature >= 0.0F && sampling->temperature <= 2.0F);
    require(sampling->top_p > 0.0F && sampling->top_p <= 1.0F && isfinite(sampling->min_p));
    require(sampling->repetition_penalty > 0.0F && sampling->n_logit_bias <= PHI_LIMIT_LOGIT_BIAS);
    require(params.n_stop <= PHI_LIMIT_STOP_STRINGS && params.top_logprobs <= 20);
    for (size_t i = 0; i < params.n_stop; i++) {
        size_t length = strlen(params.stop[i]);
        require(length > 0 && length <= PHI_LIMIT_STOP_BYTES);
    }
    phi_params_done(&params);
}

static void check_prompt(const json_t *prompt)
{
    phi_err err = {0};
    phi_status status = phi_prompt_check(prompt, "prompt", &err);
    if (status) {
        check_refusal(status, &err);
        return;
    }
    require(json_is_string(prompt) || json_array_size(prompt) > 0);
}

/* What was accepted is stored in its normal form, and read back from it after a restart. */
static void check_job(const json_t *body)
{
    phi_job_request request = {0};
    phi_job_request again = {0};
    phi_err err = {0};
    phi_status status = phi_job_request_parse(body, &request, &err);
    if (status) {
        check_refusal(status, &err);
        require(!request.normal && !request.file_ids);
        return;
    }
    require(request.model[0] && request.normal && request.n_file_ids <= PHI_LIMIT_JOB_FILES);
    require(request.source == PHI_JOB_SOURCE_FILES ? request.n_file_ids > 0
                                                   : request.source_name != NULL);
    status = phi_job_request_parse(request.normal, &again, &err);
    require(status == PHI_OK && json_equal(request.normal, again.normal));
    phi_job_request_done(&again);
    phi_job_request_done(&request);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t bytes)
{
    if (bytes == 0) {
        return 0;
    }
    /* As the HTTP layer parses bodies. */
    json_t *body = json_loadb((const char *)data + 1, bytes - 1, JSON_REJECT_DUPLICATES, NULL);
    if (!json_is_object(body)) {
        json_decref(body);
        return 0;
    }
    switch (data[0] % 4) {
    case 0:
        check_params(body, PHI_PARAMS_CHAT);
        break;
    case 1:
        check_params(body, PHI_PARAMS_COMPLETION);
        break;
    case 2:
        check_prompt(json_object_get(body, "prompt"));
        break;
    default:
        check_job(body);
        break;
    }
    json_decref(body);
    return 0;
}

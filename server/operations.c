#include "server/operations.h"

#include "base/buf.h"
#include "server/app.h"
#include "server/metrics.h"
#include "server/openapi.h"

#define TEXT_BYTES_MAX (4U << 20)

static void get_healthz(void *app, phi_request *request, void *sink_state)
{
    (void)app;
    (void)sink_state;
    phi_respond_json(request, 200,
                     json_pack("{s:s, s:s}", "status", "ok", "version", PHID_VERSION));
}

static void get_readyz(void *app_, phi_request *request, void *sink_state)
{
    const phi_app *app = app_;
    (void)sink_state;
    if (app->draining) {
        phi_respond_header(request, "Retry-After", "5");
        phi_respond_error(request, 503, "server_error", "draining", NULL,
                          "the daemon is shutting down");
        return;
    }
    phi_respond_json(request, 200,
                     json_pack("{s:s, s:I}", "status", "ready", "models",
                               (json_int_t)phi_registry_count(app->registry)));
}

static void get_metrics(void *app, phi_request *request, void *sink_state)
{
    (void)sink_state;
    phi_buf out;
    phi_buf_init(&out, TEXT_BYTES_MAX);
    phi_metrics_write(app, &out);
    phi_respond_text(request, 200, "text/plain; version=0.0.4; charset=utf-8", &out);
}

static void get_openapi(void *app, phi_request *request, void *sink_state)
{
    (void)app;
    (void)sink_state;
    size_t bytes = 0;
    const char *text = phi_openapi_text(&bytes);
    phi_buf out;
    phi_buf_init(&out, TEXT_BYTES_MAX);
    (void)phi_buf_append(&out, text, bytes);
    phi_respond_text(request, 200, "application/json", &out);
}

static void get_root(void *app, phi_request *request, void *sink_state)
{
    (void)app;
    (void)sink_state;
    const char *host = phi_request_header(request, "Host");
    /* The header comes from the client and goes back to it as plain text only. */
    host = host && host[0] ? host : "127.0.0.1:8080";
    phi_buf out;
    phi_buf_init(&out, TEXT_BYTES_MAX);
    (void)phi_buf_printf(
        &out,
        "phid %s: quantizes and serves Phi language models.\n"
        "\n"
        "Upload a model's files (or one .tar of them, or one .gguf):\n"
        "  curl http://%s/v1/files -F purpose=model -F file=@model.safetensors\n"
        "Quantize it, and watch:\n"
        "  curl http://%s/v1/quantization/jobs -H 'Content-Type: application/json' \\\n"
        "    -d '{\"model\": \"NAME\", \"precision\": \"int4\", \"source\": {\"files\": "
        "[\"file-...\"]}}'\n"
        "  curl -N 'http://%s/v1/quantization/jobs/ID/events?stream=true'\n"
        "Chat with the result:\n"
        "  curl -N http://%s/v1/chat/completions -H 'Content-Type: application/json' \\\n"
        "    -d '{\"model\": \"NAME:int4\", \"stream\": true, \"messages\": "
        "[{\"role\": \"user\", \"content\": \"Hello\"}]}'\n"
        "\n"
        "With API keys configured, add -H 'Authorization: Bearer KEY'.\n"
        "Models: /v1/models   jobs: /v1/quantization/jobs   files: /v1/files\n"
        "Take a model away, for another runtime as well: /v1/exports\n"
        "All routes: /openapi.json   health: /healthz, /readyz   numbers: /metrics\n",
        PHID_VERSION, host, host, host, host);
    phi_respond_text(request, 200, "text/plain; charset=utf-8", &out);
}

const phi_route phi_operations_routes[] = {
    {"GET", "/", PHI_BODY_NONE, NULL, true, get_root},
    {"GET", "/healthz", PHI_BODY_NONE, NULL, true, get_healthz},
    {"GET", "/readyz", PHI_BODY_NONE, NULL, true, get_readyz},
    {"GET", "/metrics", PHI_BODY_NONE, NULL, false, get_metrics},
    {"GET", "/openapi.json", PHI_BODY_NONE, NULL, true, get_openapi},
};
const size_t phi_operations_routes_count =
    sizeof phi_operations_routes / sizeof *phi_operations_routes;

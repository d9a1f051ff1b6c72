#include "server/metrics.h"

#include "base/clock.h"
#include "base/mem.h"
#include "server/http/http.h"
#include "server/jobs.h"

#include <dirent.h>
#include <inttypes.h>
#include <stdio.h>
#include <string.h>
#include <sys/resource.h>
#include <unistd.h>

#define SERIES_MAX 512U
#define METHOD_BYTES 12U

static const double bucket_s[] = {0.001, 0.005, 0.025, 0.1, 0.5, 2.5, 10, 60, 300};
#define BUCKETS (sizeof bucket_s / sizeof *bucket_s)

typedef struct series {
    const char *route;
    char method[METHOD_BYTES];
    unsigned status;
    uint64_t count;
} series;

typedef struct durations {
    const char *route;
    uint64_t buckets[BUCKETS + 1]; /* not cumulative */
    uint64_t sum_ns;
    uint64_t count;
} durations;

struct phi_metrics {
    uint64_t started_ns;
    int64_t started_s;
    series series[SERIES_MAX];
    size_t n_series;
    durations durations[SERIES_MAX];
    size_t n_durations;
};

phi_metrics *phi_metrics_create(void)
{
    phi_metrics *metrics = phi_alloc_zero(1, sizeof *metrics);
    metrics->started_ns = phi_clock_ns();
    metrics->started_s = phi_clock_unix_s();
    return metrics;
}

void phi_metrics_destroy(phi_metrics *metrics)
{
    phi_free(metrics);
}

/* Methods come from clients: only known ones become labels. */
static const char *known_method(const char *method)
{
    static const char *const known[] = {"GET", "HEAD", "POST", "PUT", "DELETE", "OPTIONS", "PATCH"};
    for (size_t i = 0; i < sizeof known / sizeof *known; i++) {
        if (strcmp(known[i], method) == 0) {
            return method;
        }
    }
    return "other";
}

static series *find_series(phi_metrics *metrics, const char *route, const char *method,
                           unsigned status)
{
    for (size_t i = 0; i < metrics->n_series; i++) {
        series *at = &metrics->series[i];
        if (at->status == status && strcmp(at->route, route) == 0 &&
            strcmp(at->method, method) == 0) {
            return at;
        }
    }
    if (metrics->n_series == SERIES_MAX) {
        return NULL;
    }
    series *fresh = &metrics->series[metrics->n_series++];
    fresh->route = route;
    fresh->status = status;
    (void)snprintf(fresh->method, sizeof fresh->method, "%s", method);
    return fresh;
}

static durations *find_durations(phi_metrics *metrics, const char *route)
{
    for (size_t i = 0; i < metrics->n_durations; i++) {
        if (strcmp(metrics->durations[i].route, route) == 0) {
            return &metrics->durations[i];
        }
    }
    if (metrics->n_durations == SERIES_MAX) {
        return NULL;
    }
    durations *fresh = &metrics->durations[metrics->n_durations++];
    fresh->route = route;
    return fresh;
}

void phi_metrics_request(phi_metrics *metrics, const char *route, const char *method,
                         unsigned status, uint64_t duration_ns)
{
    const char *label = route ? route : "none";
    series *counted = find_series(metrics, label, known_method(method), status);
    durations *timed = find_durations(metrics, label);
    if (counted) {
        counted->count++;
    }
    if (timed) {
        size_t bucket = 0;
        double seconds = (double)duration_ns / 1e9;
        while (bucket < BUCKETS && seconds > bucket_s[bucket]) {
            bucket++;
        }
        timed->buckets[bucket]++;
        timed->sum_ns += duration_ns;
        timed->count++;
    }
}

/* ---- writing ---- */

static void head(phi_buf *out, const char *name, const char *type, const char *help)
{
    (void)phi_buf_printf(out, "# HELP %s %s\n# TYPE %s %s\n", name, help, name, type);
}

static void gauge(phi_buf *out, const char *name, const char *help, uint64_t value)
{
    head(out, name, "gauge", help);
    (void)phi_buf_printf(out, "%s %" PRIu64 "\n", name, value);
}

static void counter(phi_buf *out, const char *name, const char *help, uint64_t value)
{
    head(out, name, "counter", help);
    (void)phi_buf_printf(out, "%s %" PRIu64 "\n", name, value);
}

static void write_requests(const phi_metrics *metrics, phi_buf *out)
{
    head(out, "phid_http_requests_total", "counter", "Requests answered.");
    for (size_t i = 0; i < metrics->n_series; i++) {
        const series *at = &metrics->series[i];
        (void)phi_buf_printf(out,
                             "phid_http_requests_total{route=\"%s\",method=\"%s\",status=\"%u\"} "
                             "%" PRIu64 "\n",
                             at->route, at->method, at->status, at->count);
    }
    head(out, "phid_http_request_duration_seconds", "histogram",
         "Time from a request's headers to the end of its answer.");
    for (size_t i = 0; i < metrics->n_durations; i++) {
        const durations *at = &metrics->durations[i];
        uint64_t sum = 0;
        for (size_t b = 0; b < BUCKETS; b++) {
            sum += at->buckets[b];
            (void)phi_buf_printf(
                out,
                "phid_http_request_duration_seconds_bucket{route=\"%s\",le=\"%g\"} %" PRIu64 "\n",
                at->route, bucket_s[b], sum);
        }
        (void)phi_buf_printf(
            out,
            "phid_http_request_duration_seconds_bucket{route=\"%s\",le=\"+Inf\"} %" PRIu64 "\n"
            "phid_http_request_duration_seconds_sum{route=\"%s\"} %.6f\n"
            "phid_http_request_duration_seconds_count{route=\"%s\"} %" PRIu64 "\n",
            at->route, at->count, at->route, (double)at->sum_ns / 1e9, at->route, at->count);
    }
}

static void write_engine(const phi_app *app, phi_buf *out)
{
    phi_scheduler_stats stats = {0};
    phi_engine_stats(app->engine, &stats);
    gauge(out, "phid_sequences_running", "Sequences that take part in each step.", stats.running);
    gauge(out, "phid_sequences_waiting", "Sequences that wait for a place.", stats.waiting);
    gauge(out, "phid_kv_pages_used", "Pages of the KV cache in use.", stats.kv_pages_used);
    gauge(out, "phid_kv_pages", "Pages of the KV cache.", stats.kv_pages_total);
    counter(out, "phid_prompt_tokens_total", "Prompt tokens computed.", stats.prompt_tokens);
    counter(out, "phid_generated_tokens_total", "Tokens generated.", stats.generated_tokens);
    counter(out, "phid_steps_total", "Forward steps.", stats.steps);
    counter(out, "phid_step_rows_total", "Token rows of all steps.", stats.step_rows);
    counter(out, "phid_preemptions_total", "Sequences that gave up their pages for a while.",
            stats.preemptions);
    head(out, "phid_busy_seconds_total", "counter", "Time spent in steps.");
    (void)phi_buf_printf(out, "phid_busy_seconds_total %.6f\n", (double)stats.busy_ns / 1e9);
}

static void write_models(const phi_app *app, phi_buf *out)
{
    uint64_t states[PHI_REGISTRY_READY + 1] = {0};
    size_t count = phi_registry_count(app->registry);
    for (size_t i = 0; i < count; i++) {
        states[phi_registry_at(app->registry, i)->state]++;
    }
    head(out, "phid_models", "gauge", "Models that can be served, by state.");
    (void)phi_buf_printf(out,
                         "phid_models{state=\"cold\"} %" PRIu64 "\n"
                         "phid_models{state=\"loading\"} %" PRIu64 "\n"
                         "phid_models{state=\"loaded\"} %" PRIu64 "\n",
                         states[PHI_REGISTRY_COLD], states[PHI_REGISTRY_LOADING],
                         states[PHI_REGISTRY_READY]);
    phi_registry_loads loads;
    phi_registry_loads_get(app->registry, &loads);
    head(out, "phid_model_loads_total", "counter",
         "Loads of models, by where the weights came from.");
    (void)phi_buf_printf(out,
                         "phid_model_loads_total{weights=\"mapped\"} %" PRIu64 "\n"
                         "phid_model_loads_total{weights=\"built\"} %" PRIu64 "\n"
                         "phid_model_loads_total{weights=\"in_memory\"} %" PRIu64 "\n"
                         "phid_model_loads_total{weights=\"failed\"} %" PRIu64 "\n",
                         loads.mapped, loads.built, loads.in_memory, loads.failed);
    head(out, "phid_jobs", "gauge",
         "Jobs (quantization and export) that have not ended, by status.");
    (void)phi_buf_printf(out,
                         "phid_jobs{status=\"queued\"} %zu\n"
                         "phid_jobs{status=\"running\"} %zu\n",
                         phi_jobs_queued(app->jobs), phi_jobs_running(app->jobs));
}

static uint64_t resident_bytes(void)
{
    uint64_t pages = 0;
    FILE *file = fopen("/proc/self/statm", "re");
    if (file) {
        if (fscanf(file, "%*u %" SCNu64, &pages) != 1) {
            pages = 0;
        }
        (void)fclose(file);
    }
    return pages * (uint64_t)sysconf(_SC_PAGESIZE);
}

static uint64_t open_fds(void)
{
    uint64_t count = 0;
    DIR *dir = opendir("/proc/self/fd");
    if (!dir) {
        return 0;
    }
    while (readdir(dir)) {
        count++;
    }
    (void)closedir(dir);
    /* Without "." and "..", and without the directory itself. */
    return count > 3 ? count - 3 : 0;
}

static void write_process(const phi_metrics *metrics, phi_buf *out)
{
    struct rusage usage;
    if (getrusage(RUSAGE_SELF, &usage) == 0) {
        double cpu_s = (double)(usage.ru_utime.tv_sec + usage.ru_stime.tv_sec) +
                       (double)(usage.ru_utime.tv_usec + usage.ru_stime.tv_usec) / 1e6;
        head(out, "process_cpu_seconds_total", "counter", "User and system CPU time.");
        (void)phi_buf_printf(out, "process_cpu_seconds_total %.6f\n", cpu_s);
    }
    gauge(out, "process_resident_memory_bytes", "Resident memory.", resident_bytes());
    gauge(out, "process_open_fds", "Open file descriptors.", open_fds());
    head(out, "process_start_time_seconds", "gauge", "Start, in seconds since 1970.");
    (void)phi_buf_printf(out, "process_start_time_seconds %" PRId64 "\n", metrics->started_s);
    head(out, "phid_uptime_seconds", "gauge", "Time since start.");
    (void)phi_buf_printf(out, "phid_uptime_seconds %.3f\n",
                         (double)(phi_clock_ns() - metrics->started_ns) / 1e9);
}

void phi_metrics_write(const phi_app *app, phi_buf *out)
{
    head(out, "phid_build_info", "gauge", "Version and instruction set; always 1.");
    (void)phi_buf_printf(out, "phid_build_info{version=\"%s\",isa=\"%s\"} 1\n", PHID_VERSION,
                         phi_engine_isa(app->engine));
    gauge(out, "phid_draining", "1 while the daemon is shutting down.", app->draining);
    write_requests(app->metrics, out);
    gauge(out, "phid_http_requests_active", "Requests being answered.", phi_http_active(app->http));
    write_engine(app, out);
    write_models(app, out);
    write_process(app->metrics, out);
}

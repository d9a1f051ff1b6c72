#include "server/loop.h"

#include "base/clock.h"
#include "base/log.h"
#include "server/http/http.h"
#include "server/jobs.h"
#include "server/openai/generate.h"

#include <signal.h>
#include <uv.h>

/* How often the end of draining is looked for. */
#define POLL_MS 20

typedef enum loop_phase { SERVING, DRAINING, STOPPING } loop_phase;

typedef struct serving {
    phi_app *app;
    loop_phase phase;
    uint64_t deadline_ns;
    uv_signal_t on_term;
    uv_signal_t on_int;
    uv_timer_t timer;
} serving;

static bool idle(const phi_app *app)
{
    for (int kind = 0; kind < PHI_WORK_KIND_COUNT; kind++) {
        if (phi_work_active(app->work, (phi_work_kind)kind) > 0) {
            return false;
        }
    }
    return phi_jobs_running(app->jobs) == 0 && phi_generations_count(app->generations) == 0;
}

static void stop(serving *self)
{
    phi_log(PHI_LOG_INFO, "app", "stopping", "cut_off=%zu", phi_http_active(self->app->http));
    self->phase = STOPPING;
    phi_http_stop(self->app->http);
    self->app->http = NULL;
}

static void on_timer(uv_timer_t *timer)
{
    serving *self = timer->data;
    phi_app *app = self->app;
    if (self->phase == DRAINING &&
        (phi_http_active(app->http) == 0 || phi_clock_ns() >= self->deadline_ns)) {
        stop(self);
    }
    if (self->phase == STOPPING && idle(app)) {
        uv_stop(app->loop);
    }
}

static void on_signal(uv_signal_t *handle, int number)
{
    serving *self = handle->data;
    phi_app *app = self->app;
    if (self->phase == SERVING) {
        phi_log(PHI_LOG_INFO, "app", "draining", "signal=%d active=%zu timeout_s=%llu", number,
                phi_http_active(app->http), (unsigned long long)app->settings->drain_timeout_s);
        self->phase = DRAINING;
        self->deadline_ns = phi_clock_ns() + app->settings->drain_timeout_s * 1000000000U;
        app->draining = true;
        phi_http_quiesce(app->http);
        phi_jobs_stop(app->jobs);
        (void)uv_timer_start(&self->timer, on_timer, POLL_MS, POLL_MS);
    } else if (self->phase == DRAINING) {
        stop(self);
    }
}

void phi_loop_serve(phi_app *app)
{
    serving self = {.app = app};
    (void)uv_signal_init(app->loop, &self.on_term);
    (void)uv_signal_init(app->loop, &self.on_int);
    (void)uv_timer_init(app->loop, &self.timer);
    self.on_term.data = &self;
    self.on_int.data = &self;
    self.timer.data = &self;
    (void)uv_signal_start(&self.on_term, on_signal, SIGTERM);
    (void)uv_signal_start(&self.on_int, on_signal, SIGINT);
    (void)uv_run(app->loop, UV_RUN_DEFAULT);
    uv_close((uv_handle_t *)&self.on_term, NULL);
    uv_close((uv_handle_t *)&self.on_int, NULL);
    uv_close((uv_handle_t *)&self.timer, NULL);
    /* The handles live on this stack: two turns see them closed. */
    (void)uv_run(app->loop, UV_RUN_NOWAIT);
    (void)uv_run(app->loop, UV_RUN_NOWAIT);
}

void phi_loop_finish(uv_loop_t *loop)
{
    while (uv_loop_close(loop) == UV_EBUSY) {
        (void)uv_run(loop, UV_RUN_ONCE);
    }
}

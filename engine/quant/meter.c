#include "engine/quant/meter.h"

#include <pthread.h>
#include <stdbool.h>
#include <time.h>

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

/* Between two reports while a task runs. */
#define WAIT_NS 400000000L

typedef struct waiting {
    pthread_mutex_t lock;
    pthread_cond_t ended;
    bool has_ended;
    phi_meter_task task;
    void *arg;
    phi_status status;
    phi_err err;
} waiting;

static void *run_task(void *arg)
{
    waiting *w = arg;
    phi_status status = w->task(w->arg, &w->err);
    (void)pthread_mutex_lock(&w->lock);
    w->status = status;
    w->has_ended = true;
    (void)pthread_cond_signal(&w->ended);
    (void)pthread_mutex_unlock(&w->lock);
    return NULL;
}

/* True when the task has ended, false when it is time for a report. */
static bool wait_a_little(waiting *w)
{
    struct timespec until;
    (void)clock_gettime(CLOCK_REALTIME, &until);
    until.tv_nsec += WAIT_NS;
    if (until.tv_nsec >= 1000000000L) {
        until.tv_nsec -= 1000000000L;
        until.tv_sec++;
    }
    int timed_out = 0;
    (void)pthread_mutex_lock(&w->lock);
    while (!w->has_ended && timed_out == 0) {
        timed_out = pthread_cond_timedwait(&w->ended, &w->lock, &until);
    }
    bool has_ended = w->has_ended;
    (void)pthread_mutex_unlock(&w->lock);
    return has_ended;
}

phi_status phi_meter_wait(phi_meter *meter, phi_quantize_stage stage, double done,
                          phi_meter_task task, void *arg, phi_err *err)
{
    waiting w = {
        .lock = PTHREAD_MUTEX_INITIALIZER,
        .ended = PTHREAD_COND_INITIALIZER,
        .task = task,
        .arg = arg,
    };
    pthread_t thread;
    if (pthread_create(&thread, NULL, run_task, &w) != 0) {
        return task(arg, err);
    }
    phi_status reported = PHI_OK;
    while (!wait_a_little(&w)) {
        if (reported == PHI_OK) {
            reported = phi_meter_report(meter, stage, done, meter->state.tensor, err);
        }
    }
    (void)pthread_join(thread, NULL);
    (void)pthread_cond_destroy(&w.ended);
    (void)pthread_mutex_destroy(&w.lock);
    if (reported != PHI_OK) {
        return reported;
    }
    if (w.status != PHI_OK && err) {
        *err = w.err;
    }
    return w.status;
}

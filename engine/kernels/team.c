/*
 * Invariants
 * 1. One loop is on at a time: `busy` is its caller's, from take_turn to give_turn.
 * 2. fn, arg, count and slice change only while `busy` is held, `open` is false and n_joined is 0:
 *    a worker that joined under the lock while `open` may read them without it.
 * 3. A background loop gives its turn up between two slices when inference waits, and takes up
 *    again where it left off.
 * 4. Workers that find nothing open for SPIN_NS sleep on work_came; so an idle team uses no CPU.
 *
 * Transitions of a loop: waiting for its turn -> open -> closed (no worker can join any more)
 *    -> n_joined 0 -> turn given up; a background loop may start over from there.
 */
#include "engine/kernels/team.h"

#include "base/assert.h"
#include "base/clock.h"
#include "base/mem.h"
#include "base/thread.h"
#include "config/limits.h"
#include "engine/kernels/machine.h"

#include <pthread.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <stdint.h>
#include <string.h>

/* How long to watch before sleeping: about what falling asleep and waking costs, and little enough
 * that waiting for a thread that the system has put aside wastes next to nothing. */
#define SPIN_NS 20000U
/* Slices per thread: enough that one late thread does not hold up the loop. */
#define SLICES_PER_THREAD 4U

typedef struct team_worker {
    phi_team *team;
    pthread_t thread;
    unsigned index;
} team_worker;

struct phi_team {
    unsigned size;
    unsigned n_started;
    team_worker *workers; /* [size - 1] */

    pthread_mutex_t lock;
    pthread_cond_t work_came; /* to workers */
    pthread_cond_t work_done; /* to the loop's caller: n_joined fell to 0 */
    pthread_cond_t turn_came; /* to callers in wait */

    bool busy;
    bool open;
    bool stopping;
    unsigned n_asleep;
    /* Callers waiting with PHI_TEAM_INFERENCE. Changed under the lock; read without it by loops
     * that look between slices (relaxed: seeing it late only makes them yield later). */
    atomic_uint inference_waiting;

    /* The loop. */
    phi_team_fn fn;
    void *arg;
    size_t count;
    size_t slice;
    bool yields;
    /* The first item that nobody has taken. Relaxed: it hands out numbers only; the loop's data
     * come and go with the lock, at joining and at leaving. */
    atomic_size_t next;
    /* Workers inside the loop. Changed under the lock. The caller spins on it: its acquire load
     * pairs with the worker's release store on leaving, so that the results are there. */
    atomic_uint n_joined;
    /* Loops opened so far. Spinning workers watch it change; the relaxed load is enough, because
     * they then take the lock to see what there is. */
    atomic_uint_fast64_t n_opened;
};

static void relax(void)
{
#if defined(__x86_64__) || defined(__i386__)
    __builtin_ia32_pause();
#else
    atomic_signal_fence(memory_order_seq_cst);
#endif
}

static void work(phi_team *team, unsigned worker)
{
    for (;;) {
        if (team->yields &&
            atomic_load_explicit(&team->inference_waiting, memory_order_relaxed) > 0) {
            return;
        }
        size_t begin = atomic_fetch_add_explicit(&team->next, team->slice, memory_order_relaxed);
        if (begin >= team->count) {
            return;
        }
        size_t left = team->count - begin;
        team->fn(team->arg, begin, begin + (left < team->slice ? left : team->slice), worker);
    }
}

/* ---- workers ---- */

/* Spins until a loop other than the `seen`-th is opened, or the time is up. */
static void watch(phi_team *team, uint64_t seen)
{
    uint64_t until_ns = phi_clock_ns() + SPIN_NS;
    while (atomic_load_explicit(&team->n_opened, memory_order_relaxed) == seen) {
        for (int i = 0; i < 16; i++) {
            relax();
        }
        if (phi_clock_ns() >= until_ns) {
            return;
        }
    }
}

static void *worker_main(void *arg)
{
    team_worker *self = arg;
    phi_team *team = self->team;
    uint64_t seen = 0;
    phi_thread_set_role(PHI_ROLE_TEAM, "phid-team");
    for (;;) {
        watch(team, seen);
        pthread_mutex_lock(&team->lock);
        while (!team->stopping &&
               atomic_load_explicit(&team->n_opened, memory_order_relaxed) == seen) {
            team->n_asleep++;
            pthread_cond_wait(&team->work_came, &team->lock);
            team->n_asleep--;
        }
        if (team->stopping) {
            pthread_mutex_unlock(&team->lock);
            return NULL;
        }
        seen = atomic_load_explicit(&team->n_opened, memory_order_relaxed);
        if (!team->open) {
            pthread_mutex_unlock(&team->lock);
            continue;
        }
        atomic_fetch_add_explicit(&team->n_joined, 1, memory_order_relaxed);
        pthread_mutex_unlock(&team->lock);
        work(team, self->index);
        pthread_mutex_lock(&team->lock);
        if (atomic_fetch_sub_explicit(&team->n_joined, 1, memory_order_release) == 1) {
            pthread_cond_signal(&team->work_done);
        }
        pthread_mutex_unlock(&team->lock);
    }
}

/* ---- callers ---- */

static void take_turn(phi_team *team, phi_team_priority priority)
{
    bool inference = priority == PHI_TEAM_INFERENCE;
    pthread_mutex_lock(&team->lock);
    if (inference) {
        atomic_fetch_add_explicit(&team->inference_waiting, 1, memory_order_relaxed);
    }
    while (team->busy || (!inference && atomic_load_explicit(&team->inference_waiting,
                                                             memory_order_relaxed) > 0)) {
        pthread_cond_wait(&team->turn_came, &team->lock);
    }
    if (inference) {
        atomic_fetch_sub_explicit(&team->inference_waiting, 1, memory_order_relaxed);
    }
    team->busy = true;
    pthread_mutex_unlock(&team->lock);
}

static void give_turn(phi_team *team)
{
    pthread_mutex_lock(&team->lock);
    team->busy = false;
    /* Any of the waiting may be the one whose turn it is. */
    pthread_cond_broadcast(&team->turn_came);
    pthread_mutex_unlock(&team->lock);
}

static void open_loop(phi_team *team)
{
    pthread_mutex_lock(&team->lock);
    team->open = true;
    atomic_fetch_add_explicit(&team->n_opened, 1, memory_order_relaxed);
    if (team->n_asleep > 0) {
        pthread_cond_broadcast(&team->work_came);
    }
    pthread_mutex_unlock(&team->lock);
}

static void close_loop(phi_team *team)
{
    pthread_mutex_lock(&team->lock);
    team->open = false;
    pthread_mutex_unlock(&team->lock);
    uint64_t until_ns = phi_clock_ns() + SPIN_NS;
    while (atomic_load_explicit(&team->n_joined, memory_order_acquire) > 0) {
        relax();
        if (phi_clock_ns() >= until_ns) {
            break;
        }
    }
    pthread_mutex_lock(&team->lock);
    while (atomic_load_explicit(&team->n_joined, memory_order_acquire) > 0) {
        pthread_cond_wait(&team->work_done, &team->lock);
    }
    pthread_mutex_unlock(&team->lock);
}

void phi_team_run(phi_team *team, phi_team_priority priority, size_t count, size_t grain,
                  phi_team_fn fn, void *arg)
{
    PHI_ASSERT_ROLE(PHI_ROLE_ENGINE | PHI_ROLE_JOB);
    grain = grain > 0 ? grain : 1;
    if (count <= grain) {
        /* One slice: waking nobody and waiting for nobody is both sooner and cheaper. */
        if (count > 0) {
            fn(arg, 0, count, 0);
        }
        return;
    }
    size_t even = count / ((size_t)team->size * SLICES_PER_THREAD);
    size_t done = 0;
    while (done < count) {
        take_turn(team, priority);
        team->fn = fn;
        team->arg = arg;
        team->count = count;
        team->slice = even > grain ? even : grain;
        team->yields = priority == PHI_TEAM_BACKGROUND;
        atomic_store_explicit(&team->next, done, memory_order_relaxed);
        open_loop(team);
        work(team, 0);
        close_loop(team);
        done = atomic_load_explicit(&team->next, memory_order_relaxed);
        give_turn(team);
    }
}

/* ---- creation ---- */

static phi_status start_workers(phi_team *team, phi_err *err)
{
    while (team->n_started + 1 < team->size) {
        team_worker *worker = &team->workers[team->n_started];
        worker->team = team;
        worker->index = team->n_started + 1;
        int code = pthread_create(&worker->thread, NULL, worker_main, worker);
        if (code != 0) {
            return phi_fail(err, phi_status_of_errno(code),
                            "cannot start compute thread %u of %u: %s", worker->index + 1,
                            team->size, strerror(code));
        }
        team->n_started++;
    }
    return PHI_OK;
}

phi_status phi_team_create(unsigned threads, phi_team **out_team, phi_err *err)
{
    if (threads > PHI_LIMIT_TEAM_THREADS) {
        return phi_fail_param(err, PHI_E_INVALID, "threads",
                              "%u compute threads are more than the %u allowed", threads,
                              PHI_LIMIT_TEAM_THREADS);
    }
    if (threads == 0) {
        threads = phi_machine_cpus();
        threads = threads < PHI_LIMIT_TEAM_THREADS ? threads : PHI_LIMIT_TEAM_THREADS;
    }
    phi_team *team = phi_alloc_zero(1, sizeof *team);
    team->size = threads;
    team->workers = phi_alloc_zero(threads, sizeof *team->workers);
    pthread_mutex_init(&team->lock, NULL);
    pthread_cond_init(&team->work_came, NULL);
    pthread_cond_init(&team->work_done, NULL);
    pthread_cond_init(&team->turn_came, NULL);
    phi_status status = start_workers(team, err);
    if (status) {
        phi_team_destroy(team);
        return status;
    }
    *out_team = team;
    return PHI_OK;
}

void phi_team_destroy(phi_team *team)
{
    if (!team) {
        return;
    }
    pthread_mutex_lock(&team->lock);
    PHI_ASSERT(!team->busy);
    team->stopping = true;
    pthread_cond_broadcast(&team->work_came);
    pthread_mutex_unlock(&team->lock);
    for (unsigned i = 0; i < team->n_started; i++) {
        (void)pthread_join(team->workers[i].thread, NULL);
    }
    pthread_cond_destroy(&team->turn_came);
    pthread_cond_destroy(&team->work_done);
    pthread_cond_destroy(&team->work_came);
    pthread_mutex_destroy(&team->lock);
    phi_free(team->workers);
    phi_free(team);
}

unsigned phi_team_size(const phi_team *team)
{
    return team->size;
}

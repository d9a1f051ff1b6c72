/*
 * Invariants
 * 1. One loop is on at a time: `turn` is its caller's, from take_turn to give_turn.
 * 2. The loop's fields and the spans that callers seed change only while the turn is held, the gate
 *    is closed and every seat is empty: who sits in a seat and then sees the gate open may read
 *    them.
 * 3. Each unit is in one span, in the hands of one thief on its way between two spans, or taken.
 * 4. A background loop gives its turn up between two slices when inference waits, and takes up
 *    again where it left off.
 * 5. Threads that find nothing to do for SPIN_NS sleep; so an idle team uses no CPU. A loop takes
 *    no lock and makes no system call while its threads are awake and no other caller waits.
 *
 * Transitions of a loop: waiting for its turn -> open -> closed (no worker can join any more)
 *    -> all seats empty -> turn given up; a background loop may start over from there.
 *
 * Sitting down and closing meet like this: a worker marks its seat, then looks at the gate; a
 * caller closes the gate, then looks at the seats. All four are sequentially consistent, so either
 * the worker sees the gate closed and leaves, or the caller sees the seat taken and waits. A worker
 * that is late, asleep or without a CPU thus holds up nobody.
 */
#include "engine/kernels/team.h"

#include "base/assert.h"
#include "base/clock.h"
#include "base/mem.h"
#include "base/thread.h"
#include "config/limits.h"
#include "engine/kernels/machine.h"

#include <limits.h>
#include <linux/futex.h>
#include <pthread.h>
#include <sched.h>
#include <stdalign.h>
#include <stdatomic.h>
#include <stdint.h>
#include <string.h>
#include <sys/syscall.h>
#include <time.h>
#include <unistd.h>

/* How long to watch before sleeping: about what falling asleep and waking costs, and little enough
 * that waiting for a thread that the system has put aside wastes next to nothing. */
#define SPIN_NS 50000U
/* The same when there are more threads than CPUs: who watches then keeps the CPU from those that
 * it waits for. */
#define SPIN_CROWDED_NS 2000U
/* Looks between two readings of the clock. */
#define LOOKS_PER_READING 32U
/* A slice is this share (as a shift) of what its worker has before it: long ones first, which read
 * memory in one go, short ones last, so that all end together. Background slices are shorter,
 * because inference waits for them. */
#define SHARE_SHIFT 2U
#define SHARE_SHIFT_BACKGROUND 4U
/* How often a background loop looks whether inference has let go. Asking is cheaper than being
 * told: inference takes its turn hundreds of times in a step and would have to wake somebody each
 * time. */
#define BACKGROUND_LOOK_NS 500000L
/* Of a cache line. */
#define LINE_BYTES 64

enum {
    GATE_OPEN = 1,
    GATE_STOP = 2, /* workers are to end */
    GATE_LOOP = 4, /* the loop's number counts from this bit on, and wraps */
};

_Static_assert(sizeof(atomic_uint) == 4, "futex(2) waits for words of 32 bits");

typedef struct team_seat {
    /* 1 while its worker may be in a loop. Its stores pair with the caller's loads in wait_for:
     * results of the loop come with them. */
    alignas(LINE_BYTES) atomic_uint taken;
    unsigned index;
    pthread_t thread;
    phi_team *team;
    /* Units of the loop that this seat's worker will do, unless others come first: see span_of.
     * Relaxed: it hands out numbers only; the loop's data come with the gate and go with `taken`.
     * An equal value always means the same units still to be done, so compare and exchange cannot
     * be misled. */
    alignas(LINE_BYTES) atomic_uint_fast64_t span;
} team_seat;

struct phi_team {
    unsigned size;
    unsigned n_started;
    uint64_t spin_ns;
    team_seat *seats;    /* [size]; 0 is the caller's */
    uint16_t caller_cpu; /* where `pinned` */
    bool pinned;

    /* The loop: one cache line brings all of it to a worker that watches the gate. */
    alignas(LINE_BYTES) phi_team_fn fn;
    void *arg;
    size_t count;
    size_t grain;
    unsigned share_shift;
    bool yields;
    /* Opened by a store that workers' loads pair with: the loop's fields come with it. */
    atomic_uint gate;
    /* A worker may be asleep. Set before the last look at the gate, read after the gate's store,
     * both sequentially consistent: either the worker sees the new loop, or the caller the sleeper.
     */
    atomic_uint workers_asleep;

    /* The caller is asleep until a seat gets empty; the same with `taken` in the gate's place. */
    alignas(LINE_BYTES) atomic_uint caller_asleep;

    /* 1: held. Acquired and released by callers, so that each sees what the one before it left. */
    alignas(LINE_BYTES) atomic_uint turn;
    /* Callers in wait, and those of them with PHI_TEAM_INFERENCE. Raised before the last try at the
     * turn, read after giving it, all sequentially consistent: either the one in wait gets the
     * turn, or the giver sees it waiting. Loops that look between slices read it relaxed: seeing
     * it late only makes them yield later. */
    atomic_uint waiting;
    atomic_uint inference_waiting;
    pthread_mutex_t lock;
    pthread_cond_t turn_came;
};

/* ---- waiting ---- */

/* A sequentially consistent store. As an exchange, because the arm64 of qemu 7.2 lets a load pass a
 * store-release before it, which the architecture forbids (half of the tries of a store-buffering
 * test show it on x86); elsewhere it is the instruction that the store would be, or costs as much.
 */
static void put(atomic_uint *word, unsigned value)
{
    (void)atomic_exchange_explicit(word, value, memory_order_seq_cst);
}

typedef struct patience {
    uint64_t spin_ns;
    uint64_t until_ns;
    unsigned looks;
} patience;

/* One short rest between two looks; false when it is time to sleep. */
static bool rest(patience *self)
{
#if defined(__x86_64__) || defined(__i386__)
    __builtin_ia32_pause();
#elif defined(__aarch64__)
    /* What `yield` is meant to be and is not: some tens of cycles. */
    __asm__ volatile("isb" ::: "memory");
#else
    atomic_signal_fence(memory_order_seq_cst);
#endif
    if (++self->looks % LOOKS_PER_READING != 0) {
        return true;
    }
    uint64_t now_ns = phi_clock_ns();
    self->until_ns = self->until_ns ? self->until_ns : now_ns + self->spin_ns;
    return now_ns < self->until_ns;
}

/* Returns at once if *word is not `value`, and may return for no reason. */
static void sleep_while(atomic_uint *word, unsigned value)
{
    (void)syscall(SYS_futex, word, FUTEX_WAIT_PRIVATE, value, NULL, NULL, 0);
}

static void wake_all(atomic_uint *word)
{
    (void)syscall(SYS_futex, word, FUTEX_WAKE_PRIVATE, INT_MAX, NULL, NULL, 0);
}

/* ---- spans: units [begin, end) in one word ---- */

static uint64_t span_of(uint32_t begin, uint32_t end)
{
    return (uint64_t)end << 32 | begin;
}

static uint32_t span_begin(uint64_t span)
{
    return (uint32_t)span;
}

static uint32_t span_units(uint64_t span)
{
    return (uint32_t)(span >> 32) - (uint32_t)span;
}

/* The next slice from the front of a seat's own span. */
static bool take_slice(team_seat *seat, unsigned share_shift, uint64_t *out_slice)
{
    uint64_t span = atomic_load_explicit(&seat->span, memory_order_relaxed);
    for (;;) {
        uint32_t units = span_units(span);
        if (units == 0) {
            return false;
        }
        uint32_t share = units >> share_shift;
        uint32_t middle = span_begin(span) + (share > 0 ? share : 1);
        uint64_t rest_of_it = span_of(middle, (uint32_t)(span >> 32));
        if (atomic_compare_exchange_weak_explicit(&seat->span, &span, rest_of_it,
                                                  memory_order_relaxed, memory_order_relaxed)) {
            *out_slice = span_of(span_begin(span), middle);
            return true;
        }
    }
}

/* Moves the farther half of the longest span into the seat's own, which is empty. False: nobody has
 * anything left, but for what is on its way to another thief. */
static bool steal(phi_team *team, team_seat *seat)
{
    for (;;) {
        team_seat *victim = NULL;
        uint64_t longest = 0;
        for (unsigned i = 0; i < team->size; i++) {
            uint64_t span = atomic_load_explicit(&team->seats[i].span, memory_order_relaxed);
            if (span_units(span) > span_units(longest)) {
                victim = &team->seats[i];
                longest = span;
            }
        }
        if (!victim) {
            return false;
        }
        uint32_t middle = span_begin(longest) + span_units(longest) / 2;
        uint64_t mine = span_of(middle, (uint32_t)(longest >> 32));
        if (atomic_compare_exchange_strong_explicit(&victim->span, &longest,
                                                    span_of(span_begin(longest), middle),
                                                    memory_order_relaxed, memory_order_relaxed)) {
            atomic_store_explicit(&seat->span, mine, memory_order_relaxed);
            return true;
        }
    }
}

static void work(phi_team *team, team_seat *seat)
{
    for (;;) {
        if (team->yields &&
            atomic_load_explicit(&team->inference_waiting, memory_order_relaxed) > 0) {
            return;
        }
        uint64_t slice = 0;
        if (take_slice(seat, team->share_shift, &slice)) {
            size_t begin = span_begin(slice) * team->grain;
            size_t items = span_units(slice) * team->grain;
            size_t left = team->count - begin;
            team->fn(team->arg, begin, begin + (items < left ? items : left), seat->index);
        } else if (!steal(team, seat)) {
            return;
        }
    }
}

/* ---- workers ---- */

static unsigned loop_of(unsigned gate)
{
    return gate & ~(unsigned)(GATE_LOOP - 1);
}

/* Waits for a loop that is not `seen`. */
static unsigned watch(phi_team *team, unsigned seen)
{
    patience waited = {.spin_ns = team->spin_ns};
    unsigned gate;
    do {
        gate = atomic_load_explicit(&team->gate, memory_order_acquire);
        if (loop_of(gate) != seen) {
            return gate;
        }
    } while (rest(&waited));
    for (;;) {
        put(&team->workers_asleep, 1);
        gate = atomic_load_explicit(&team->gate, memory_order_seq_cst);
        if (loop_of(gate) != seen) {
            return gate;
        }
        sleep_while(&team->gate, gate);
    }
}

static void leave(phi_team *team, team_seat *seat)
{
    put(&seat->taken, 0);
    if (atomic_load_explicit(&team->caller_asleep, memory_order_seq_cst)) {
        put(&team->caller_asleep, 0);
        wake_all(&team->caller_asleep);
    }
}

static void *worker_main(void *arg)
{
    team_seat *seat = arg;
    phi_team *team = seat->team;
    unsigned seen = 0;
    phi_thread_set_role(PHI_ROLE_TEAM, "phid-team");
    for (;;) {
        unsigned gate = watch(team, seen);
        if (gate & GATE_STOP) {
            return NULL;
        }
        seen = loop_of(gate);
        if (!(gate & GATE_OPEN)) {
            continue;
        }
        put(&seat->taken, 1);
        gate = atomic_load_explicit(&team->gate, memory_order_seq_cst);
        if (gate & GATE_OPEN) {
            seen = loop_of(gate);
            work(team, seat);
        }
        leave(team, seat);
    }
}

/* ---- callers ---- */

static bool try_turn(phi_team *team, bool inference)
{
    unsigned nobodys = 0;
    return (inference ||
            atomic_load_explicit(&team->inference_waiting, memory_order_seq_cst) == 0) &&
           atomic_compare_exchange_strong_explicit(&team->turn, &nobodys, 1, memory_order_seq_cst,
                                                   memory_order_seq_cst);
}

static void wait_for_turn(phi_team *team, bool inference)
{
    pthread_mutex_lock(&team->lock);
    atomic_fetch_add_explicit(&team->waiting, 1, memory_order_seq_cst);
    if (inference) {
        atomic_fetch_add_explicit(&team->inference_waiting, 1, memory_order_seq_cst);
    }
    while (!try_turn(team, inference)) {
        if (inference) {
            pthread_cond_wait(&team->turn_came, &team->lock);
        } else {
            struct timespec until;
            (void)clock_gettime(CLOCK_MONOTONIC, &until);
            until.tv_nsec += BACKGROUND_LOOK_NS;
            if (until.tv_nsec >= 1000000000L) {
                until.tv_sec++;
                until.tv_nsec -= 1000000000L;
            }
            (void)pthread_cond_timedwait(&team->turn_came, &team->lock, &until);
        }
    }
    if (inference) {
        atomic_fetch_sub_explicit(&team->inference_waiting, 1, memory_order_seq_cst);
    }
    atomic_fetch_sub_explicit(&team->waiting, 1, memory_order_seq_cst);
    pthread_mutex_unlock(&team->lock);
}

static void give_turn(phi_team *team, bool inference)
{
    put(&team->turn, 0);
    /* Background loops look for themselves when inference has let go. */
    atomic_uint *whom = inference ? &team->inference_waiting : &team->waiting;
    if (atomic_load_explicit(whom, memory_order_seq_cst) > 0) {
        pthread_mutex_lock(&team->lock);
        /* Any of the waiting may be the one whose turn it is. */
        pthread_cond_broadcast(&team->turn_came);
        pthread_mutex_unlock(&team->lock);
    }
}

static void set_gate(phi_team *team, unsigned gate)
{
    put(&team->gate, gate);
}

/* Lets workers in. */
static void open_gate(phi_team *team, unsigned bits)
{
    /* Relaxed: only who holds the turn changes it. */
    unsigned gate = atomic_load_explicit(&team->gate, memory_order_relaxed);
    set_gate(team, (loop_of(gate) + GATE_LOOP) | bits);
    if (atomic_load_explicit(&team->workers_asleep, memory_order_seq_cst) &&
        atomic_exchange_explicit(&team->workers_asleep, 0, memory_order_seq_cst)) {
        wake_all(&team->gate);
    }
}

static bool is_taken(team_seat *seat)
{
    return atomic_load_explicit(&seat->taken, memory_order_seq_cst) != 0;
}

/* Until the seat is empty. */
static void wait_for(phi_team *team, team_seat *seat, patience *waited)
{
    while (is_taken(seat)) {
        if (rest(waited)) {
            continue;
        }
        put(&team->caller_asleep, 1);
        if (is_taken(seat)) {
            sleep_while(&team->caller_asleep, 1);
        }
        put(&team->caller_asleep, 0);
    }
}

static void close_gate(phi_team *team)
{
    unsigned gate = atomic_load_explicit(&team->gate, memory_order_relaxed);
    set_gate(team, gate & ~(unsigned)GATE_OPEN);
    patience waited = {.spin_ns = team->spin_ns};
    for (unsigned i = 1; i < team->size; i++) {
        wait_for(team, &team->seats[i], &waited);
    }
}

/* As equal parts as can be, one after the other. */
static void divide(uint64_t *out_spans, unsigned size, uint32_t units)
{
    uint32_t begin = 0;
    for (unsigned i = 0; i < size; i++) {
        uint32_t end = begin + units / size + (i < units % size);
        out_spans[i] = span_of(begin, end);
        begin = end;
    }
}

/* What is left of a loop that yielded; false if nothing is. */
static bool collect(phi_team *team, uint64_t *out_spans)
{
    bool any = false;
    for (unsigned i = 0; i < team->size; i++) {
        out_spans[i] = atomic_load_explicit(&team->seats[i].span, memory_order_relaxed);
        any = any || span_units(out_spans[i]) > 0;
    }
    return any;
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
    while ((count - 1) / grain >= UINT32_MAX) {
        grain *= 2;
    }
    uint64_t spans[PHI_LIMIT_TEAM_THREADS];
    bool inference = priority == PHI_TEAM_INFERENCE;
    bool done = false;
    divide(spans, team->size, (uint32_t)((count - 1) / grain + 1));
    while (!done) {
        if (!try_turn(team, inference)) {
            wait_for_turn(team, inference);
        }
        team->fn = fn;
        team->arg = arg;
        team->count = count;
        team->grain = grain;
        team->yields = !inference;
        team->share_shift = inference ? SHARE_SHIFT : SHARE_SHIFT_BACKGROUND;
        for (unsigned i = 0; i < team->size; i++) {
            atomic_store_explicit(&team->seats[i].span, spans[i], memory_order_relaxed);
        }
        open_gate(team, GATE_OPEN);
        work(team, &team->seats[0]);
        close_gate(team);
        done = inference || !collect(team, spans);
        give_turn(team, inference);
    }
}

/* ---- CPUs ---- */

static bool pin_thread(pthread_t thread, unsigned cpu)
{
    cpu_set_t *set = CPU_ALLOC((size_t)cpu + 1);
    if (!set) {
        return false;
    }
    size_t bytes = CPU_ALLOC_SIZE((size_t)cpu + 1);
    CPU_ZERO_S(bytes, set);
    CPU_SET_S(cpu, bytes, set);
    bool done = pthread_setaffinity_np(thread, bytes, set) == 0;
    CPU_FREE(set);
    return done;
}

bool phi_team_pin(phi_team *team, phi_team_pinning pinning)
{
    phi_machine_cpu_list cpus;
    phi_machine_cpus_list(&cpus);
    unsigned size = team->size;
    /* A team that leaves cores to others does not know which: the system does. */
    if (pinning == PHI_TEAM_PIN_OFF || size < 2 || size > cpus.n_cpus ||
        (pinning == PHI_TEAM_PIN_AUTO && size < cpus.n_cores)) {
        return false;
    }
    for (unsigned i = 1; i < size; i++) {
        if (!pin_thread(team->seats[i].thread, cpus.cpus[i])) {
            return false;
        }
    }
    team->caller_cpu = cpus.cpus[0];
    team->pinned = true;
    return true;
}

void phi_team_pin_caller(const phi_team *team)
{
    if (team->pinned) {
        (void)pin_thread(pthread_self(), team->caller_cpu);
    }
}

/* ---- creation ---- */

static phi_status start_workers(phi_team *team, phi_err *err)
{
    for (unsigned i = 1; i < team->size; i++) {
        team_seat *seat = &team->seats[i];
        int code = pthread_create(&seat->thread, NULL, worker_main, seat);
        if (code != 0) {
            return phi_fail(err, phi_status_of_errno(code),
                            "cannot start compute thread %u of %u: %s", i + 1, team->size,
                            strerror(code));
        }
        team->n_started++;
    }
    return PHI_OK;
}

static void init_team(phi_team *team, team_seat *seats, unsigned threads)
{
    phi_machine_cpu_list cpus;
    phi_machine_cpus_list(&cpus);
    memset(team, 0, sizeof *team);
    memset(seats, 0, threads * sizeof *seats);
    team->size = threads;
    team->spin_ns = threads <= cpus.n_cpus ? SPIN_NS : SPIN_CROWDED_NS;
    team->seats = seats;
    for (unsigned i = 0; i < threads; i++) {
        seats[i].index = i;
        seats[i].team = team;
    }
    pthread_condattr_t monotonic;
    (void)pthread_condattr_init(&monotonic);
    (void)pthread_condattr_setclock(&monotonic, CLOCK_MONOTONIC);
    pthread_mutex_init(&team->lock, NULL);
    pthread_cond_init(&team->turn_came, &monotonic);
    (void)pthread_condattr_destroy(&monotonic);
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
    phi_team *team = phi_try_alloc_aligned(sizeof *team);
    team_seat *seats = phi_try_alloc_aligned(threads * sizeof *seats);
    if (!team || !seats) {
        phi_free(team);
        phi_free(seats);
        return phi_fail(err, PHI_E_NO_MEMORY, "no memory for %u compute threads", threads);
    }
    init_team(team, seats, threads);
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
    bool idle = try_turn(team, true);
    PHI_ASSERT(idle);
    open_gate(team, GATE_STOP);
    for (unsigned i = 1; i <= team->n_started; i++) {
        (void)pthread_join(team->seats[i].thread, NULL);
    }
    pthread_cond_destroy(&team->turn_came);
    pthread_mutex_destroy(&team->lock);
    phi_free(team->seats);
    phi_free(team);
}

unsigned phi_team_size(const phi_team *team)
{
    return team->size;
}

#include "fake_model.h"

#include "base/assert.h"
#include "base/mem.h"
#include "engine/kernels/team.h"
#include "engine/model/forward.h"

#include <math.h>
#include <pthread.h>
#include <string.h>

fake_settings fake;
phi_weights fake_weights;
atomic_uint fake_steps;
atomic_uint fake_rows_max;
int32_t fake_first_token[64];

static pthread_mutex_t gate_lock = PTHREAD_MUTEX_INITIALIZER;
static pthread_cond_t gate_changed = PTHREAD_COND_INITIALIZER;
static bool gate_held;
static bool gate_reached;

void fake_reset(void)
{
    fake = (fake_settings){.n_ctx = 4096, .nan_at = -1};
    fake_describe();
    atomic_store(&fake_steps, 0);
    atomic_store(&fake_rows_max, 0);
    gate_held = false;
}

void fake_describe(void)
{
    phi_description *d = &fake_weights.description;
    *d = (phi_description){.n_vocab = FAKE_VOCAB, .n_ctx = fake.n_ctx, .window = fake.window};
    if (fake.n_ctx_original) {
        d->rope = PHI_ROPE_LONG;
        d->n_ctx_original = fake.n_ctx_original;
    }
}

void fake_hold(void)
{
    pthread_mutex_lock(&gate_lock);
    gate_held = true;
    gate_reached = false;
    pthread_mutex_unlock(&gate_lock);
}

void fake_let_go(void)
{
    pthread_mutex_lock(&gate_lock);
    gate_held = false;
    pthread_cond_broadcast(&gate_changed);
    pthread_mutex_unlock(&gate_lock);
}

void fake_wait_at_gate(void)
{
    pthread_mutex_lock(&gate_lock);
    while (!gate_reached) {
        pthread_cond_wait(&gate_changed, &gate_lock);
    }
    pthread_mutex_unlock(&gate_lock);
}

static void pass_gate(void)
{
    pthread_mutex_lock(&gate_lock);
    gate_reached = true;
    pthread_cond_broadcast(&gate_changed);
    while (gate_held) {
        pthread_cond_wait(&gate_changed, &gate_lock);
    }
    pthread_mutex_unlock(&gate_lock);
}

/* ---- the model ---- */

static uint64_t mix(uint64_t x)
{
    x ^= x >> 33;
    x *= 0xff51afd7ed558ccdULL;
    x ^= x >> 33;
    x *= 0xc4ceb9fe1a85ec53ULL;
    return x ^ (x >> 33);
}

static uint64_t key_of(int32_t token, uint32_t position, bool rope_long)
{
    return mix(((uint64_t)(uint32_t)token << 33) ^ ((uint64_t)position << 1) ^ rope_long ^
               0x5bd1e995ULL);
}

static void logits_of(uint64_t seen, uint32_t position, float *out)
{
    for (uint32_t v = 0; v < FAKE_VOCAB; v++) {
        uint64_t bits = mix(seen + 0x9e3779b97f4a7c15ULL * (v + 1));
        out[v] = (float)(bits >> 40) / (float)(1 << 24) * 6.0F - 3.0F;
        if ((int64_t)fake.nan_at == (int64_t)position) {
            out[v] = NAN;
        }
    }
    /* Padding rows would win if they were not masked. */
    out[FAKE_KNOWN] = 50.0F;
    if (fake.script) {
        /* Ends are never reached by chance. */
        out[FAKE_EOS] = -40.0F;
        if (position < fake.n_script) {
            out[fake.script[position]] = 40.0F;
        }
    }
}

static uint32_t first_visible(uint32_t position)
{
    uint32_t window = fake.window;
    return window && position >= window ? position - window + 1 : 0;
}

void fake_logits(const int32_t *tokens, uint32_t n_tokens, float *out)
{
    bool rope_long = fake.n_ctx_original && n_tokens > fake.n_ctx_original;
    uint64_t seen = 0;
    for (uint32_t j = first_visible(n_tokens - 1); j < n_tokens; j++) {
        seen = mix(seen ^ key_of(tokens[j], j, rope_long));
    }
    logits_of(seen, n_tokens - 1, out);
}

int32_t fake_next(const int32_t *tokens, uint32_t n_tokens)
{
    float logits[FAKE_VOCAB];
    fake_logits(tokens, n_tokens, logits);
    int32_t best = 0;
    for (int32_t v = 1; v < FAKE_KNOWN; v++) {
        best = logits[v] > logits[best] ? v : best;
    }
    return best;
}

struct phi_forward_ctx {
    uint32_t n_tok_max;
    uint32_t n_logits_max;
    float *logits;
};

uint64_t phi_kv_page_bytes(const phi_description *description, phi_kv_type type)
{
    (void)description;
    (void)type;
    return PHI_KV_PAGE_TOKENS * sizeof(uint64_t);
}

phi_status phi_forward_ctx_create(const phi_description *description,
                                  const phi_forward_sizes *sizes, phi_forward_ctx **out_ctx,
                                  phi_err *err)
{
    (void)description;
    (void)err;
    phi_forward_ctx *ctx = phi_alloc_zero(1, sizeof *ctx);
    ctx->n_tok_max = sizes->n_tok_max;
    ctx->n_logits_max = sizes->n_logits_max;
    ctx->logits = phi_alloc_zero((size_t)sizes->n_logits_max * FAKE_VOCAB, sizeof *ctx->logits);
    *out_ctx = ctx;
    return PHI_OK;
}

void phi_forward_ctx_destroy(phi_forward_ctx *ctx)
{
    if (ctx) {
        phi_free(ctx->logits);
        phi_free(ctx);
    }
}

const float *phi_forward(phi_forward_ctx *ctx, const phi_compute *compute,
                         const phi_weights *weights, const phi_row *rows, uint32_t n_rows,
                         const phi_kv_view *views)
{
    (void)compute;
    (void)weights;
    pass_gate();
    PHI_ASSERT(n_rows > 0 && n_rows <= ctx->n_tok_max);
    uint32_t n_logits = 0;
    for (uint32_t i = 0; i < n_rows; i++) {
        const phi_row *row = &rows[i];
        const phi_kv_view *view = &views[row->seq];
        PHI_ASSERT(i == 0 || row->seq != rows[i - 1].seq ||
                   row->position == rows[i - 1].position + 1);
        PHI_ASSERT(i == 0 || row->seq == rows[i - 1].seq || row->seq == rows[i - 1].seq + 1);
        PHI_ASSERT(i == 0 || row->seq != rows[i - 1].seq ||
                   row->is_prompt == rows[i - 1].is_prompt);
        uint64_t *page = view->pages[row->position / PHI_KV_PAGE_TOKENS];
        page[row->position % PHI_KV_PAGE_TOKENS] =
            key_of(row->token, row->position, view->rope_long);
        if (!row->want_logits) {
            continue;
        }
        uint64_t seen = 0;
        for (uint32_t j = first_visible(row->position); j <= row->position; j++) {
            const uint64_t *keys = view->pages[j / PHI_KV_PAGE_TOKENS];
            seen = mix(seen ^ keys[j % PHI_KV_PAGE_TOKENS]);
        }
        PHI_ASSERT(n_logits < ctx->n_logits_max);
        logits_of(seen, row->position, ctx->logits + (size_t)n_logits++ * FAKE_VOCAB);
    }
    unsigned step = atomic_fetch_add(&fake_steps, 1);
    if (step < 64) {
        fake_first_token[step] = rows[0].token;
    }
    if (n_rows > atomic_load(&fake_rows_max)) {
        atomic_store(&fake_rows_max, n_rows);
    }
    return ctx->logits;
}

/* ---- the team: the caller alone ---- */

unsigned phi_team_size(const phi_team *team)
{
    (void)team;
    return 1;
}

void phi_team_pin_caller(const phi_team *team)
{
    (void)team;
}

void phi_team_run(phi_team *team, phi_team_priority priority, size_t count, size_t grain,
                  phi_team_fn fn, void *arg)
{
    (void)team;
    (void)priority;
    (void)grain;
    fn(arg, 0, count, 0);
}

/* ---- the tokenizer: token 2 is "a", or the first of the pieces ---- */

static const char letters[FAKE_VOCAB][2] = {
    "?", "!", "a", "b", "c", "d", "e", "f", "g", "h", "i", "j", "k", "l", "m",
    "n", "o", "p", "q", "r", "s", "t", "u", "v", "w", "x", "y", "z", "A", "B",
    "C", "D", "E", "F", "G", "H", "I", "J", "K", "L", "M", "N", "O", "P", "Q",
    "R", "S", "T", "U", "V", "W", "X", "Y", "Z", "0", "1", "2", "3", "4", "5",
};

const phi_tokenizer *fake_tokenizer(void)
{
    return (const phi_tokenizer *)letters;
}

uint32_t phi_tokenizer_vocab_size(const phi_tokenizer *tokenizer)
{
    (void)tokenizer;
    return FAKE_KNOWN;
}

bool phi_tokenizer_is_known(const phi_tokenizer *tokenizer, int32_t id)
{
    (void)tokenizer;
    return id >= 0 && id < FAKE_KNOWN;
}

const char *phi_tokenizer_piece(const phi_tokenizer *tokenizer, int32_t id)
{
    (void)tokenizer;
    if (id == FAKE_EOS) {
        return "<|end|>";
    }
    if (fake.pieces && id >= 2 && (uint32_t)id - 2 < fake.n_pieces) {
        return fake.pieces[id - 2];
    }
    return letters[id];
}

void phi_detokenizer_init(phi_detokenizer *detokenizer, const phi_tokenizer *tokenizer,
                          bool skip_special, bool continues)
{
    (void)continues;
    *detokenizer = (phi_detokenizer){.tokenizer = tokenizer, .skip_special = skip_special};
}

phi_status phi_detokenizer_push(phi_detokenizer *detokenizer, int32_t id, phi_buf *out_text)
{
    if (detokenizer->skip_special && id == FAKE_EOS) {
        return PHI_OK;
    }
    return phi_buf_append_str(out_text, phi_tokenizer_piece(NULL, id));
}

phi_status phi_detokenizer_finish(phi_detokenizer *detokenizer, phi_buf *out_text)
{
    (void)detokenizer;
    (void)out_text;
    return PHI_OK;
}

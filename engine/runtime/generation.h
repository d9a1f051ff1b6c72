/*
 * Purpose: what a caller asks of the runtime (one sequence to generate) and what it hears back.
 * Owns:    nothing; a phi_generation is created by the scheduler and released by its caller.
 * Threads: submit [loop] or [job]; next, cancel and release by one thread per generation, usually
 *          [loop]. Events come from [engine].
 * Errors:  submit names the parameter that is out of range; PHI_E_BUSY when the queue is full.
 * Limits:  config/limits.h, "generation".
 *
 * Exactly one terminal event (DONE or FAILED) ends every generation, also a cancelled one. Events
 * wait in a bounded ring; when it is full the sequence pauses, never the engine's thread. While it
 * pauses it may have to give its place and its pages to others; that changes none of its tokens.
 *
 * A prompt token's text shows control tokens too. Log probabilities are those of the model alone:
 * before penalties, bias, temperature and cuts, and over the whole row of logits.
 */
#ifndef PHI_ENGINE_RUNTIME_GENERATION_H
#define PHI_ENGINE_RUNTIME_GENERATION_H

#include "base/status.h"
#include "config/limits.h"

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

typedef struct phi_logit_bias {
    int32_t token;
    float bias; /* added to the logit; -100 or less bans, as OpenAI defines it */
} phi_logit_bias;

/* How the next token is chosen; field names and meaning as OpenAI's and (top_k, min_p,
 * repetition_penalty) as Hugging Face's generation parameters. */
typedef struct phi_sampling {
    float temperature;        /* 0: greedy; 0..2 */
    float top_p;              /* (0, 1]; 1: off */
    float min_p;              /* [0, 1]; 0: off */
    uint32_t top_k;           /* 0: off */
    float presence_penalty;   /* -2..2; 0: off */
    float frequency_penalty;  /* -2..2; 0: off */
    float repetition_penalty; /* > 0; 1: off */
    bool has_seed;
    uint64_t seed; /* same seed, prompt and parameters: same tokens, whatever else runs */
    const phi_logit_bias *logit_bias; /* copied by submit */
    size_t n_logit_bias;
} phi_sampling;

/* OpenAI's defaults: temperature 1, everything else off. */
void phi_sampling_defaults(phi_sampling *out_sampling);

typedef struct phi_generation_options {
    const int32_t *prompt; /* copied by submit; at least one token */
    size_t n_prompt;
    uint32_t
        max_tokens; /* new tokens; 0 is allowed (with prompt_logprobs); clipped to the context */
    phi_sampling sampling;
    const char *stop[PHI_LIMIT_STOP_STRINGS]; /* copied; text before the stop string is emitted */
    size_t n_stop;
    int top_logprobs;     /* -1: no logprobs; 0..20: that of the token and this many best */
    bool prompt_logprobs; /* also a PROMPT_TOKEN event for each prompt token */
    bool ignore_eos;
    bool show_special;   /* control tokens appear in the text */
    bool continues_text; /* the output continues raw text (completions), not a chat turn */
    uint64_t client;     /* fairness: clients share the engine evenly */
    void *user;          /* phi_generation_user gives it back */
} phi_generation_options;

typedef enum phi_generation_kind {
    PHI_GENERATION_PROMPT_TOKEN, /* one prompt token with its log probability */
    PHI_GENERATION_TOKEN,        /* one new token; text may be empty while it is held back */
    PHI_GENERATION_DONE,         /* terminal; `text` may hold what was held back */
    PHI_GENERATION_FAILED,       /* terminal; `error` says why */
} phi_generation_kind;

typedef enum phi_finish_reason {
    PHI_FINISH_STOP,      /* end-of-turn token or stop string */
    PHI_FINISH_LENGTH,    /* max_tokens or the context is used up */
    PHI_FINISH_CANCELLED, /* phi_generation_cancel */
} phi_finish_reason;

typedef struct phi_token_logprob {
    int32_t token;
    float logprob; /* natural; of the distribution before temperature and cuts (as OpenAI) */
} phi_token_logprob;

typedef struct phi_generation_event {
    phi_generation_kind kind;
    int32_t token;
    const char *text; /* complete characters, view valid until the next call on the generation */
    size_t text_bytes;
    bool has_logprob; /* false for the first prompt token */
    float logprob;
    uint32_t n_top;
    phi_token_logprob top[PHI_LIMIT_TOP_LOGPROBS];
    /* terminal events only */
    phi_finish_reason finish;
    uint32_t prompt_tokens;
    uint32_t cached_tokens;
    uint32_t completion_tokens; /* TOKEN events; a token that ends the answer unseen is not one */
    double queue_ms;
    double prompt_ms;
    double decode_ms;
    phi_err error;
} phi_generation_event;

typedef struct phi_generation phi_generation;

/* Takes the oldest event; false when there is none at the moment. */
bool phi_generation_next(phi_generation *generation, phi_generation_event *out_event);
/* A command to the engine; a terminal event follows. Harmless after one. */
void phi_generation_cancel(phi_generation *generation);
/* The caller is done with it: cancels if it still runs; memory goes when the engine lets go. */
void phi_generation_release(phi_generation *generation);
void *phi_generation_user(const phi_generation *generation);

#endif

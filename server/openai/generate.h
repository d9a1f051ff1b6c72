/*
 * Purpose: between the engine's events and answers: drains every live generation when the engine
 *          wakes the loop and hands the events to the answer that waits for them.
 * Owns:    phi_generations owns the list of live generations; each belongs to its answer.
 * Threads: [loop], except the wake function, which is [any].
 * Errors:  through events.
 * Limits:  PHI_LIMIT_SEQUENCES.
 */
#ifndef PHI_SERVER_OPENAI_GENERATE_H
#define PHI_SERVER_OPENAI_GENERATE_H

#include "engine/engine.h"
#include "server/app.h"

/* Called on the loop for each event, in order. Returning false pauses: no further events until
 * phi_generations_resume (the engine pauses the sequence when its ring is full). */
typedef bool (*phi_generation_sink)(void *user, const phi_generation_event *event);

phi_status phi_generations_create(struct uv_loop_s *loop, phi_generations **out_generations,
                                  phi_err *err) PHI_MUST_CHECK;
void phi_generations_destroy(phi_generations *generations);
/* For phi_engine_options.wake. */
void phi_generations_wake(void *generations);

/* Registers a generation; `sink` gets its events until the terminal one. */
void phi_generations_add(phi_generations *generations, phi_generation *generation,
                         phi_generation_sink sink, void *user);
void phi_generations_resume(phi_generations *generations, phi_generation *generation);
/* Stops delivering and releases the generation (cancelling it if it runs). */
void phi_generations_drop(phi_generations *generations, phi_generation *generation);
size_t phi_generations_count(const phi_generations *generations);

#endif

/*
 * Purpose: the life of a running daemon: serves, hears signals, drains, and comes back when nothing
 *          is in progress any more.
 * Owns:    its uv handles. Threads: [loop]. Errors: none. Limits: settings.drain_timeout_s.
 *
 *   serving -> (SIGTERM, SIGINT) draining -> (all answered, or time is up, or a second signal)
 *   stopping -> (jobs and work ended) over
 */
#ifndef PHI_SERVER_LOOP_H
#define PHI_SERVER_LOOP_H

#include "server/app.h"

/* Everything in `app` is up; returns after shutdown with the HTTP side closed. */
void phi_loop_serve(phi_app *app);
/* Runs what is still to be closed. */
void phi_loop_finish(struct uv_loop_s *loop);

#endif

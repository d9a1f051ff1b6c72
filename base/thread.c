#include "base/thread.h"

#include <pthread.h>

static _Thread_local phi_role current_role = PHI_ROLE_NONE;

void phi_thread_set_role(phi_role role, const char *name)
{
    current_role = role;
    (void)pthread_setname_np(pthread_self(), name);
}

bool phi_thread_has_role(unsigned roles)
{
    return current_role == PHI_ROLE_NONE || ((unsigned)current_role & roles) != 0;
}

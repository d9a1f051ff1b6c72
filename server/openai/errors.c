#include "server/openai/errors.h"

#include <stdio.h>

/* Without a client's own header a retry after this long finds the queue shorter as a rule. */
#define RETRY_AFTER_S 2

typedef struct mapping {
    unsigned status;
    const char *type;
    const char *code;
} mapping;

static mapping map(const phi_err *err, const char *not_found_code)
{
    static const char invalid[] = "invalid_request_error";
    switch (err->code) {
    case PHI_E_INVALID:
    case PHI_E_FORMAT:
        return (mapping){400, invalid, NULL};
    case PHI_E_UNSUPPORTED:
        return (mapping){400, invalid, "unsupported"};
    case PHI_E_NOT_FOUND:
        return (mapping){404, invalid, not_found_code};
    case PHI_E_EXISTS:
    case PHI_E_STATE:
        return (mapping){409, invalid, "conflict"};
    case PHI_E_LIMIT:
        /* A field that is too long is the field's fault, a body that is too long the request's. */
        return err->param[0] ? (mapping){400, invalid, NULL}
                             : (mapping){413, invalid, "request_too_large"};
    case PHI_E_BUSY:
        return (mapping){503, "server_error", "overloaded"};
    case PHI_E_NO_MEMORY:
        return (mapping){503, "server_error", "insufficient_memory"};
    case PHI_E_NO_SPACE:
        return (mapping){507, "server_error", "insufficient_storage"};
    case PHI_E_CANCELLED:
        return (mapping){503, "server_error", "cancelled"};
    case PHI_OK:
    case PHI_E_IO:
    case PHI_E_INTERNAL:
        break;
    }
    return (mapping){500, "server_error", "internal_error"};
}

void phi_respond_err(phi_request *request, const phi_err *err, const char *not_found_code)
{
    mapping to = map(err, not_found_code);
    if (err->code == PHI_E_BUSY) {
        char seconds[16];
        (void)snprintf(seconds, sizeof seconds, "%d", RETRY_AFTER_S);
        phi_respond_header(request, "Retry-After", seconds);
    }
    phi_respond_error(request, to.status, to.type, to.code, err->param[0] ? err->param : NULL,
                      err->message);
}

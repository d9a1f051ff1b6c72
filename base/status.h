/*
 * Purpose: the result of every fallible function: a code and, when the caller wants it, a text.
 * Owns:    nothing; phi_err is caller storage.
 * Threads: any; a phi_err belongs to one thread at a time.
 * Errors:  the level that knows the cause writes the text; levels above may prefix it.
 * Limits:  the text is cut at PHI_ERR_BYTES_MAX - 1 bytes.
 */
#ifndef PHI_BASE_STATUS_H
#define PHI_BASE_STATUS_H

#include <stdarg.h>

/* One table gives enum, name and meaning, so that they cannot drift apart. */
#define PHI_STATUS_MAP(X)                                                                          \
    X(OK, 0, "success")                                                                            \
    X(E_INVALID, -1, "the caller's argument or request is wrong")                                  \
    X(E_FORMAT, -2, "a file or message is malformed")                                              \
    X(E_UNSUPPORTED, -3, "well formed, but not something this program can do")                     \
    X(E_NOT_FOUND, -4, "no such thing")                                                            \
    X(E_EXISTS, -5, "a thing of that name exists already")                                         \
    X(E_IO, -6, "the operating system failed to read or write")                                    \
    X(E_NO_SPACE, -7, "the disk is full")                                                          \
    X(E_NO_MEMORY, -8, "not enough memory")                                                        \
    X(E_LIMIT, -9, "a configured or built-in limit would be exceeded")                             \
    X(E_BUSY, -10, "refused for load; try again later")                                            \
    X(E_CANCELLED, -11, "stopped because somebody asked for it")                                   \
    X(E_STATE, -12, "not possible in the present state")                                           \
    X(E_INTERNAL, -13, "a bug or an impossible situation")

typedef enum phi_status {
#define PHI_STATUS_ENUM(name, value, text) PHI_##name = (value),
    PHI_STATUS_MAP(PHI_STATUS_ENUM)
#undef PHI_STATUS_ENUM
} phi_status;

#define PHI_ERR_BYTES_MAX 240
#define PHI_ERR_PARAM_BYTES_MAX 64

/* What went wrong, for a person. `param` names the offending request field when there is one. */
typedef struct phi_err {
    phi_status code;
    char message[PHI_ERR_BYTES_MAX];
    char param[PHI_ERR_PARAM_BYTES_MAX];
} phi_err;

#define PHI_MUST_CHECK __attribute__((warn_unused_result))

/* Returns the short name ("E_FORMAT") of a status; never NULL. */
const char *phi_status_name(phi_status status);

/* Fills `err` (if not NULL) and returns `code`, so that `return phi_fail(...)` reads well. */
phi_status phi_fail(phi_err *err, phi_status code, const char *fmt, ...)
    __attribute__((format(printf, 3, 4)));

/* As phi_fail, and names the request field (or setting) that is wrong. */
phi_status phi_fail_param(phi_err *err, phi_status code, const char *param, const char *fmt, ...)
    __attribute__((format(printf, 4, 5)));

/* Puts "text: " before the message that `err` holds; code and param stay. Returns err->code,
 * or `code` when `err` is NULL. */
phi_status phi_fail_context(phi_err *err, phi_status code, const char *fmt, ...)
    __attribute__((format(printf, 3, 4)));

/* The status for an errno value: ENOSPC and EDQUOT, ENOMEM, ENOENT, EEXIST have their own. */
phi_status phi_status_of_errno(int errnum);

#endif

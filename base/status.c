#include "base/status.h"

#include "base/str.h"

#include <errno.h>
#include <stdio.h>
#include <string.h>

const char *phi_status_name(phi_status status)
{
    switch (status) {
#define PHI_STATUS_NAME(name, value, text)                                                         \
    case PHI_##name:                                                                               \
        return #name;
        PHI_STATUS_MAP(PHI_STATUS_NAME)
#undef PHI_STATUS_NAME
    }
    return "E_UNKNOWN";
}

/* A text that was cut may end in half a character, which JSON could not carry. */
static void end_on_character(char *text)
{
    text[phi_utf8_complete_bytes(text, strlen(text))] = '\0';
}

static void __attribute__((format(printf, 4, 0)))
fill(phi_err *err, phi_status code, const char *param, const char *fmt, va_list ap)
{
    if (!err) {
        return;
    }
    err->code = code;
    (void)snprintf(err->param, sizeof err->param, "%s", param);
    (void)vsnprintf(err->message, sizeof err->message, fmt, ap);
    end_on_character(err->message);
}

phi_status phi_fail(phi_err *err, phi_status code, const char *fmt, ...)
{
    va_list ap;
    va_start(ap, fmt);
    fill(err, code, "", fmt, ap);
    va_end(ap);
    return code;
}

phi_status phi_fail_param(phi_err *err, phi_status code, const char *param, const char *fmt, ...)
{
    va_list ap;
    va_start(ap, fmt);
    fill(err, code, param, fmt, ap);
    va_end(ap);
    return code;
}

phi_status phi_fail_context(phi_err *err, phi_status code, const char *fmt, ...)
{
    if (!err) {
        return code;
    }
    char before[PHI_ERR_BYTES_MAX];
    char after[PHI_ERR_BYTES_MAX];
    va_list ap;
    va_start(ap, fmt);
    (void)vsnprintf(before, sizeof before, fmt, ap);
    va_end(ap);
    memcpy(after, err->message, sizeof after);
    /* The cut, if any, falls on the end of the inner text: both parts have the same bound. */
    size_t used = strlen(before);
    (void)snprintf(err->message, sizeof err->message, "%s", before);
    if (used + 3 < sizeof err->message) {
        size_t room = sizeof err->message - used - 3;
        (void)snprintf(err->message + used, room + 3, ": %.*s", (int)room, after);
    }
    end_on_character(err->message);
    return err->code;
}

phi_status phi_status_of_errno(int errnum)
{
    switch (errnum) {
    case ENOSPC:
    case EDQUOT:
        return PHI_E_NO_SPACE;
    case ENOMEM:
        return PHI_E_NO_MEMORY;
    case ENOENT:
        return PHI_E_NOT_FOUND;
    case EEXIST:
        return PHI_E_EXISTS;
    default:
        return PHI_E_IO;
    }
}

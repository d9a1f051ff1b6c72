#include "base/buf.h"

#include "base/assert.h"
#include "base/mem.h"

#include <stdarg.h>
#include <stdio.h>
#include <string.h>

void phi_buf_init(phi_buf *buf, size_t max_bytes)
{
    *buf = (phi_buf){.max_bytes = max_bytes};
}

void phi_buf_done(phi_buf *buf)
{
    if (buf) {
        phi_free(buf->data);
        *buf = (phi_buf){.max_bytes = buf->max_bytes};
    }
}

void phi_buf_clear(phi_buf *buf)
{
    buf->length_bytes = 0;
    buf->failed = PHI_OK;
    if (buf->data) {
        buf->data[0] = '\0';
    }
}

static phi_status reserve(phi_buf *buf, size_t more)
{
    if (buf->failed) {
        return buf->failed;
    }
    if (more > buf->max_bytes || buf->length_bytes > buf->max_bytes - more) {
        return buf->failed = PHI_E_LIMIT;
    }
    size_t need = buf->length_bytes + more + 1;
    if (need <= buf->capacity_bytes) {
        return PHI_OK;
    }
    size_t capacity = buf->capacity_bytes ? buf->capacity_bytes : 64;
    while (capacity < need) {
        capacity = capacity > SIZE_MAX / 2 ? need : capacity * 2;
    }
    char *data = phi_try_realloc(buf->data, capacity);
    if (!data) {
        return buf->failed = PHI_E_NO_MEMORY;
    }
    buf->data = data;
    buf->capacity_bytes = capacity;
    return PHI_OK;
}

phi_status phi_buf_append(phi_buf *buf, const void *data, size_t bytes)
{
    phi_status status = reserve(buf, bytes);
    if (status) {
        return status;
    }
    if (bytes) {
        memcpy(buf->data + buf->length_bytes, data, bytes);
    }
    buf->length_bytes += bytes;
    buf->data[buf->length_bytes] = '\0';
    return PHI_OK;
}

phi_status phi_buf_append_str(phi_buf *buf, const char *text)
{
    return phi_buf_append(buf, text, strlen(text));
}

phi_status phi_buf_append_char(phi_buf *buf, char c)
{
    return phi_buf_append(buf, &c, 1);
}

phi_status phi_buf_printf(phi_buf *buf, const char *fmt, ...)
{
    va_list ap;
    va_start(ap, fmt);
    int length = vsnprintf(NULL, 0, fmt, ap);
    va_end(ap);
    PHI_ASSERT(length >= 0);
    phi_status status = reserve(buf, (size_t)length);
    if (status) {
        return status;
    }
    va_start(ap, fmt);
    (void)vsnprintf(buf->data + buf->length_bytes, (size_t)length + 1, fmt, ap);
    va_end(ap);
    buf->length_bytes += (size_t)length;
    return PHI_OK;
}

void phi_buf_consume(phi_buf *buf, size_t bytes)
{
    PHI_ASSERT(bytes <= buf->length_bytes);
    if (bytes == 0) {
        return;
    }
    memmove(buf->data, buf->data + bytes, buf->length_bytes - bytes + 1);
    buf->length_bytes -= bytes;
}

const char *phi_buf_text(const phi_buf *buf)
{
    return buf->data ? buf->data : "";
}

char *phi_buf_take(phi_buf *buf)
{
    char *data = buf->data ? buf->data : phi_strdup("");
    *buf = (phi_buf){.max_bytes = buf->max_bytes};
    return data;
}

#include "server/openapi.h"

static const unsigned char text[] = {
#include "openapi_json.inc"
};

const char *phi_openapi_text(size_t *out_bytes)
{
    *out_bytes = sizeof text;
    return (const char *)text;
}

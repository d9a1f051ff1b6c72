#include "engine/formats/text_check.h"

#include <stdint.h>
#include <string.h>

#include "base/str.h"

const char *phi_path_label(const char *path)
{
    const char *slash = strrchr(path, '/');
    return slash && slash[1] ? slash + 1 : path;
}

bool phi_name_is_clean(const char *name, size_t bytes)
{
    for (size_t i = 0; i < bytes; i++) {
        unsigned char c = (unsigned char)name[i];
        if (c < 0x20 || c == 0x7F) {
            return false;
        }
    }
    return bytes > 0 && phi_utf8_valid(name, bytes);
}

bool phi_name_is_plain_file(const char *name)
{
    return phi_name_is_clean(name, strlen(name)) && name[0] != '.' && !strchr(name, '/') &&
           !strchr(name, '\\') && !strstr(name, "..");
}

void phi_name_copy(const char *text, size_t bytes, char *out, size_t out_bytes)
{
    if (bytes >= out_bytes) {
        bytes = phi_utf8_complete_bytes(text, out_bytes - 1);
    }
    memcpy(out, text, bytes);
    out[bytes] = '\0';
}

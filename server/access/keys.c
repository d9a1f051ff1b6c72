#include "server/access/keys.h"

#include "base/file.h"
#include "base/hash.h"
#include "base/mem.h"
#include "base/str.h"

#include <ctype.h>
#include <string.h>
#include <strings.h>

#define KEYS_FILE_BYTES_MAX (4U << 20)
#define KEY_BYTES_MIN 8U
#define KEY_BYTES_MAX 512U

struct phi_access {
    char **keys;
    size_t count;
};

static phi_status add(phi_access *access, const char *key, size_t bytes, const char *where,
                      phi_err *err)
{
    bool good = bytes >= KEY_BYTES_MIN && bytes <= KEY_BYTES_MAX;
    for (size_t i = 0; i < bytes && good; i++) {
        good = isgraph((unsigned char)key[i]) != 0;
    }
    if (!good) {
        return phi_fail(err, PHI_E_INVALID,
                        "%s: an API key must have %u to %u visible ASCII characters", where,
                        KEY_BYTES_MIN, KEY_BYTES_MAX);
    }
    if (access->count == PHI_ACCESS_KEYS_MAX) {
        return phi_fail(err, PHI_E_LIMIT, "%s: there are more than %u API keys", where,
                        PHI_ACCESS_KEYS_MAX);
    }
    access->keys = phi_realloc(access->keys, (access->count + 1) * sizeof *access->keys);
    access->keys[access->count++] = phi_strndup(key, bytes);
    return PHI_OK;
}

static phi_status add_list(phi_access *access, const char *keys, phi_err *err)
{
    phi_status status = PHI_OK;
    while (*keys && !status) {
        size_t bytes = strcspn(keys, ",");
        status = add(access, keys, bytes, "api_keys", err);
        keys += bytes + (keys[bytes] == ',');
    }
    return status;
}

static phi_status add_file(phi_access *access, const char *path, phi_err *err)
{
    char *text = NULL;
    size_t bytes = 0;
    phi_status status = phi_file_read_text(path, KEYS_FILE_BYTES_MAX, &text, &bytes, err);
    if (status) {
        return phi_fail_context(err, status, "api_keys_file");
    }
    size_t before = access->count;
    unsigned number = 1;
    for (const char *line = text; *line && !status; number++) {
        size_t length = strcspn(line, "\n");
        size_t start = strspn(line, " \t");
        size_t end = length;
        while (end > start && isspace((unsigned char)line[end - 1])) {
            end--;
        }
        if (start < end && line[start] != '#') {
            char *where = phi_strfmt("%.100s:%u", path, number);
            status = add(access, line + start, end - start, where, err);
            phi_free(where);
        }
        line += length + (line[length] == '\n');
    }
    /* A file that asks for keys and has none would otherwise let everybody in. */
    if (!status && access->count == before) {
        status = phi_fail_param(err, PHI_E_INVALID, "api_keys_file",
                                "api_keys_file: %.160s holds no key", path);
    }
    phi_free(text);
    return status;
}

phi_status phi_access_create(const char *keys, const char *file, phi_access **out_access,
                             phi_err *err)
{
    phi_access *access = phi_alloc_zero(1, sizeof *access);
    phi_status status = add_list(access, keys, err);
    if (!status && file[0]) {
        status = add_file(access, file, err);
    }
    if (status) {
        phi_access_destroy(access);
        return status;
    }
    *out_access = access;
    return PHI_OK;
}

void phi_access_destroy(phi_access *access)
{
    if (!access) {
        return;
    }
    for (size_t i = 0; i < access->count; i++) {
        explicit_bzero(access->keys[i], strlen(access->keys[i]));
        phi_free(access->keys[i]);
    }
    phi_free(access->keys);
    phi_free(access);
}

size_t phi_access_key_count(const phi_access *access)
{
    return access->count;
}

bool phi_access_check(const phi_access *access, const char *authorization, uint64_t *out_client)
{
    static const char scheme[] = "Bearer ";
    if (access->count == 0) {
        *out_client = 0;
        return true;
    }
    if (!authorization || strncasecmp(authorization, scheme, sizeof scheme - 1) != 0) {
        return false;
    }
    const char *shown = authorization + sizeof scheme - 1;
    size_t found = 0; /* 1 + index */
    for (size_t i = 0; i < access->count; i++) {
        size_t same = phi_secret_equal(access->keys[i], shown);
        found |= (i + 1) & (0 - same);
    }
    if (found == 0) {
        return false;
    }
    /* Never 0, as the low bit is set. */
    *out_client = phi_hash_fnv1a(&found, sizeof found) | 1U;
    return true;
}

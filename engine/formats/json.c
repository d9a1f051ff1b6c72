#include "engine/formats/json.h"

#include <stdbool.h>

#include "base/file.h"
#include "base/mem.h"
#include "config/limits.h"
#include "engine/formats/text_check.h"

/* The parser builds a tree of nodes many times the size of the text, so the text is weighed
 * first: nesting and the number of values, without judging anything else. */
static phi_status weigh(const char *text, size_t bytes, const char *label, phi_err *err)
{
    size_t depth = 0;
    size_t values = 1;
    bool in_string = false;
    for (size_t i = 0; i < bytes; i++) {
        char c = text[i];
        if (in_string) {
            if (c == '\\') {
                i++;
            } else if (c == '"') {
                in_string = false;
            }
            continue;
        }
        if (c == '"') {
            in_string = true;
        } else if (c == '[' || c == '{') {
            depth++;
            values++;
        } else if ((c == ']' || c == '}') && depth > 0) {
            depth--;
        } else if (c == ',') {
            values++;
        }
        if (depth > PHI_LIMIT_JSON_DEPTH) {
            return phi_fail(err, PHI_E_LIMIT, "%s: JSON is nested deeper than %u levels", label,
                            PHI_LIMIT_JSON_DEPTH);
        }
        if (values > PHI_LIMIT_JSON_VALUES) {
            return phi_fail(err, PHI_E_LIMIT, "%s: JSON holds more than %u values", label,
                            PHI_LIMIT_JSON_VALUES);
        }
    }
    return PHI_OK;
}

static phi_status fail_parse(const json_error_t *error, const char *label, phi_err *err)
{
    /* jansson leaves the text empty when an insertion failed for want of memory. */
    if (json_error_code(error) == json_error_out_of_memory || error->text[0] == '\0') {
        return phi_fail(err, PHI_E_NO_MEMORY, "not enough memory to parse %s", label);
    }
    return phi_fail(err, PHI_E_FORMAT, "%s is not valid JSON: line %d, column %d: %s", label,
                    error->line, error->column, error->text);
}

phi_status phi_json_parse_object(const char *text, size_t bytes, const char *label,
                                 json_t **out_object, phi_err *err)
{
    phi_status status = weigh(text, bytes, label, err);
    if (status) {
        return status;
    }
    json_error_t error;
    json_t *root = json_loadb(text, bytes, JSON_REJECT_DUPLICATES, &error);
    if (!root) {
        return fail_parse(&error, label, err);
    }
    if (!json_is_object(root)) {
        json_decref(root);
        return phi_fail(err, PHI_E_FORMAT, "%s does not hold a JSON object", label);
    }
    *out_object = root;
    return PHI_OK;
}

phi_status phi_json_load_object(const char *path, size_t max_bytes, json_t **out_object,
                                phi_err *err)
{
    char *text = NULL;
    size_t bytes = 0;
    phi_status status = phi_file_read_text(path, max_bytes, &text, &bytes, err);
    if (status) {
        return status;
    }
    status = phi_json_parse_object(text, bytes, phi_path_label(path), out_object, err);
    phi_free(text);
    return status;
}

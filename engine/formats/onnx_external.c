/*
 * Files beside an ONNX model that hold its tensors' values. Whoever wrote the model chose their
 * names, so that a name may lead nowhere but into the model's folder: not up, not to the root, and
 * not through a link. A folder whose files are all links into one other (as download caches keep
 * them) works, because the place that the model's own file really lies in counts too.
 */
#include <stdlib.h>
#include <string.h>

#include "base/checked.h"
#include "base/mem.h"
#include "base/str.h"
#include "engine/formats/onnx_graph.h"
#include "engine/formats/text_check.h"

static bool is_relative(const char *location)
{
    if (!phi_name_is_clean(location, strlen(location)) || strchr(location, '\\')) {
        return false;
    }
    for (const char *part = location;; part++) {
        size_t bytes = strcspn(part, "/");
        if (bytes == 0 || (bytes == 1 && part[0] == '.') ||
            (bytes == 2 && part[0] == '.' && part[1] == '.')) {
            return false;
        }
        part += bytes;
        if (!*part) {
            return true;
        }
    }
}

/* True when the resolved `path` lies below the resolved `folder`. */
static bool lies_in(const char *path, const char *folder)
{
    size_t bytes = strlen(folder);
    return strncmp(path, folder, bytes) == 0 && (path[bytes] == '/' || phi_str_ends(folder, "/"));
}

static bool stays_inside(const phi_onnx_model *model, const char *path)
{
    char *real = realpath(path, NULL);
    char *folder = realpath(model->dir, NULL);
    char *home = realpath(model->files[0]->path, NULL);
    if (home) {
        *strrchr(home, '/') = '\0';
    }
    bool inside = real && ((folder && lies_in(real, folder)) || (home && lies_in(real, home)));
    phi_free(real);
    phi_free(folder);
    phi_free(home);
    return inside;
}

static phi_status open_file(phi_onnx_model *model, const char *tensor, const char *path,
                            phi_file **out, phi_err *err)
{
    if (!phi_file_exists(path)) {
        return phi_fail(err, PHI_E_NOT_FOUND, "%s: tensor \"%s\" lies in %s, which is missing",
                        model->label, tensor, phi_path_label(path));
    }
    if (!stays_inside(model, path)) {
        return phi_fail(err, PHI_E_FORMAT, "%s: tensor \"%s\" lies outside the model's folder",
                        model->label, tensor);
    }
    if (model->n_files == PHI_LIMIT_SHARDS) {
        return phi_fail(err, PHI_E_LIMIT, "%s: values lie in more than %u files", model->label,
                        PHI_LIMIT_SHARDS);
    }
    phi_file *file = phi_alloc_zero(1, sizeof *file);
    phi_status status = phi_file_open(path, file, err);
    if (status) {
        phi_free(file);
        return status;
    }
    model->files[model->n_files++] = file;
    *out = file;
    return PHI_OK;
}

phi_status phi_onnx_external(phi_onnx_model *model, const char *tensor, const char *location,
                             uint64_t offset, uint64_t bytes, phi_array *out_array, phi_err *err)
{
    phi_file *file = NULL;
    if (!is_relative(location)) {
        return phi_fail(err, PHI_E_FORMAT,
                        "%s: tensor \"%s\" is said to lie in \"%.60s\"; a path inside the model's "
                        "folder is right",
                        model->label, tensor,
                        phi_name_is_clean(location, strlen(location)) ? location : "?");
    }
    char *path = phi_strfmt("%s/%s", model->dir, location);
    for (uint32_t i = 1; i < model->n_files && !file; i++) {
        file = strcmp(model->files[i]->path, path) == 0 ? model->files[i] : NULL;
    }
    phi_status status = file ? PHI_OK : open_file(model, tensor, path, &file, err);
    phi_free(path);
    if (status || !file) {
        return status;
    }
    if (!phi_checked_range(offset, bytes, file->bytes)) {
        return phi_fail(err, PHI_E_FORMAT,
                        "%s: tensor \"%s\" takes %llu bytes at offset %llu of %s, which has %llu",
                        model->label, tensor, (unsigned long long)bytes, (unsigned long long)offset,
                        phi_path_label(file->path), (unsigned long long)file->bytes);
    }
    *out_array = (phi_array){.file = file, .offset = offset, .bytes = bytes};
    return PHI_OK;
}

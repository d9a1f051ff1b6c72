#include "base/mem.h"
#include "engine/formats/hf_folder.h"
#include "engine/formats/openvino.h"
#include "engine/formats/openvino_write_internal.h"

phi_status phi_openvino_write(const phi_export *export, const char *dir, phi_err *err)
{
    phi_ov_writer w = {.export = export};
    phi_status status = phi_ov_check_export(&w, err);
    status = status ? status : phi_file_make_dirs(dir, err);
    /* First what may turn out not to be writable, and is small. */
    status = status ? status : phi_ov_write_tokenizers(export, dir, err);
    status = status ? status : phi_ov_out_init(&w.out, dir, "openvino_model", err);
    if (!status) {
        phi_ov_write_decoder(&w);
        status = phi_ov_out_finish(&w.out, err);
    }
    status = status ? status : phi_hf_folder_write(export, dir, NULL, err);
    phi_ov_out_done(&w.out);
    return status;
}

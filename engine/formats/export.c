#include "engine/formats/export.h"

phi_status phi_export_check_graph(const phi_export *export, const char *format, phi_err *err)
{
    phi_arch arch = export->description->arch;
    if (arch == PHI_ARCH_PHI3) {
        return PHI_OK;
    }
    return phi_fail(err, PHI_E_UNSUPPORTED, "%s is written for phi3 models only, and this is %s",
                    format, phi_arch_name(arch));
}

#include "server/routes.h"

#include "base/mem.h"
#include "server/openai/chat.h"
#include "server/openai/completions.h"
#include "server/openai/files.h"
#include "server/openai/models.h"
#include "server/openai/tokenize.h"
#include "server/operations.h"
#include "server/quantization/export_routes.h"
#include "server/quantization/job_routes.h"

#include <string.h>

typedef struct group {
    const phi_route *routes;
    size_t count;
} group;

phi_route *phi_routes_create(size_t *out_count)
{
    const group groups[] = {
        {phi_operations_routes, phi_operations_routes_count},
        {phi_models_routes, phi_models_routes_count},
        {phi_chat_routes, phi_chat_routes_count},
        {phi_completions_routes, phi_completions_routes_count},
        {phi_tokenize_routes, phi_tokenize_routes_count},
        {phi_files_routes, phi_files_routes_count},
        {phi_job_routes, phi_job_routes_count},
        {phi_export_routes, phi_export_routes_count},
    };
    size_t n_groups = sizeof groups / sizeof *groups;
    size_t count = 0;
    for (size_t i = 0; i < n_groups; i++) {
        count += groups[i].count;
    }
    phi_route *routes = phi_alloc_zero(count, sizeof *routes);
    size_t used = 0;
    for (size_t i = 0; i < n_groups; i++) {
        memcpy(routes + used, groups[i].routes, groups[i].count * sizeof *routes);
        used += groups[i].count;
    }
    *out_count = count;
    return routes;
}

void phi_routes_destroy(phi_route *routes)
{
    phi_free(routes);
}

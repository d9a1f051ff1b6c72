#include "server/openai/pages.h"

#include <string.h>

#include "base/str.h"

phi_status phi_page_parse(const phi_request *request, size_t limit_default,
                          phi_store_page *out_page, phi_err *err)
{
    const char *limit = phi_request_query(request, "limit");
    const char *after = phi_request_query(request, "after");
    const char *order = phi_request_query(request, "order");
    uint64_t count = limit_default;
    if (limit && (!phi_str_parse_u64(limit, PHI_LIMIT_PAGE, &count) || count == 0)) {
        return phi_fail_param(err, PHI_E_INVALID, "limit",
                              "'limit' is '%.40s'; it must be a number from 1 to %u", limit,
                              PHI_LIMIT_PAGE);
    }
    if (order && strcmp(order, "asc") != 0 && strcmp(order, "desc") != 0) {
        return phi_fail_param(err, PHI_E_INVALID, "order",
                              "'order' is '%.40s'; it must be 'asc' or 'desc'", order);
    }
    *out_page = (phi_store_page){.after = after && after[0] ? after : NULL,
                                 .limit = (size_t)count,
                                 .ascending = order && strcmp(order, "asc") == 0};
    return PHI_OK;
}

static json_t *id_at(const json_t *data, size_t index)
{
    json_t *id = json_object_get(json_array_get(data, index), "id");
    return id ? json_incref(id) : json_null();
}

json_t *phi_page_json(json_t *data, bool more)
{
    size_t count = json_array_size(data);
    json_t *first = count > 0 ? id_at(data, 0) : json_null();
    json_t *last = count > 0 ? id_at(data, count - 1) : json_null();
    return json_pack("{s:s, s:o, s:b, s:o, s:o}", "object", "list", "data", data, "has_more",
                     (int)more, "first_id", first, "last_id", last);
}

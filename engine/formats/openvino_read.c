#include "engine/formats/openvino.h"

#include <string.h>

#include "base/mem.h"
#include "engine/formats/hf_config.h"
#include "engine/formats/openvino_internal.h"

static phi_status read_description(const char *dir, phi_description *out, phi_err *err)
{
    char *path = phi_strfmt("%s/config.json", dir);
    bool there = phi_file_exists(path);
    phi_free(path);
    if (!there) {
        return phi_fail(err, PHI_E_NOT_FOUND,
                        "there is no config.json beside openvino_model.xml; it is needed, because "
                        "an OpenVINO model does not say what it is");
    }
    return phi_hf_config_read(dir, out, err);
}

static phi_status make_numbers(const phi_openvino *o, uint32_t count, float number, phi_file *out,
                               phi_err *err)
{
    float *numbers = phi_try_alloc(count * sizeof *numbers);
    if (!numbers) {
        return phi_fail(err, PHI_E_NO_MEMORY, "not enough memory for %s", o->graph.label);
    }
    for (uint32_t i = 0; i < count; i++) {
        numbers[i] = number;
    }
    phi_status status =
        phi_file_of_bytes("openvino-numbers", numbers, count * sizeof *numbers, out, err);
    phi_free(numbers);
    return status;
}

/* What constants held that the exporter folded away. */
static phi_status make_folded(phi_openvino *o, phi_err *err)
{
    const phi_description *d = &o->description;
    uint32_t most = 1;
    for (int part = 0; part < PHI_PART_COUNT; part++) {
        uint32_t rows[PHI_PART_PIECES_MAX];
        uint32_t cols;
        bool is_bias = phi_part_is_vector((phi_part)part) && phi_part_is_of((phi_part)part, d);
        uint32_t count = is_bias ? phi_part_shape((phi_part)part, d, rows, &cols) : 0;
        for (uint32_t i = 0; i < count; i++) {
            most = rows[i] > most ? rows[i] : most;
        }
    }
    phi_status status = make_numbers(o, d->n_embd, 1.0F, &o->ones, err);
    return status ? status : make_numbers(o, most, 0.0F, &o->zeros, err);
}

/* What was found, without the gaps of parts that are fused. */
static phi_status make_list(phi_openvino *o, phi_err *err)
{
    o->list = phi_try_alloc_zero(o->found_count, sizeof *o->list);
    if (!o->list) {
        return phi_fail(err, PHI_E_NO_MEMORY, "not enough memory for %s", o->graph.label);
    }
    for (size_t i = 0; i < o->found_count; i++) {
        if (o->found[i].present) {
            o->list[o->list_count++] = o->found[i].stored;
        }
    }
    return PHI_OK;
}

static phi_status open_all(phi_openvino *o, const char *dir, phi_err *err)
{
    phi_status status = phi_ov_graph_open(dir, &o->graph, err);
    status = status ? status : read_description(dir, &o->description, err);
    status = status ? status : make_folded(o, err);
    if (status) {
        return status;
    }
    o->found_count = PHI_OV_PLACES_BEFORE + PHI_OV_PLACES_BEHIND +
                     (size_t)o->description.n_layer * PHI_OV_PLACES_PER_LAYER;
    o->found = phi_try_alloc_zero(o->found_count, sizeof *o->found);
    if (!o->found) {
        return phi_fail(err, PHI_E_NO_MEMORY, "not enough memory for %s", o->graph.label);
    }
    o->mask = o->cos = o->sin = (phi_ov_value){.node = PHI_OV_NONE};
    status = phi_ov_read_decoder(o, err);
    return status ? status : make_list(o, err);
}

phi_status phi_openvino_open(const char *dir, phi_openvino **out_openvino, phi_err *err)
{
    phi_openvino *o = phi_alloc_zero(1, sizeof *o);
    o->graph.bin.fd = -1;
    o->ones.fd = -1;
    o->zeros.fd = -1;
    phi_status status = open_all(o, dir, err);
    if (status) {
        phi_openvino_close(o);
        return status;
    }
    *out_openvino = o;
    return PHI_OK;
}

void phi_openvino_close(phi_openvino *openvino)
{
    if (!openvino) {
        return;
    }
    for (size_t i = 0; openvino->found && i < openvino->found_count; i++) {
        phi_coded_done(&openvino->found[i].stored.coded);
    }
    phi_free(openvino->found);
    phi_free(openvino->list);
    phi_file_close(&openvino->ones);
    phi_file_close(&openvino->zeros);
    phi_ov_graph_close(&openvino->graph);
    phi_free(openvino);
}

const phi_description *phi_openvino_description(const phi_openvino *openvino)
{
    return &openvino->description;
}

size_t phi_openvino_count(const phi_openvino *openvino)
{
    return openvino->list_count;
}

const phi_stored *phi_openvino_at(const phi_openvino *openvino, size_t index)
{
    return &openvino->list[index];
}

const phi_file *phi_openvino_file(const phi_openvino *openvino)
{
    return &openvino->graph.bin;
}

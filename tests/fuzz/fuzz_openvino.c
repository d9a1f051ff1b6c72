/* An OpenVINO folder: bytes are the length of openvino_model.xml (32 bits), that file, and
 * openvino_model.bin; config.json is that of a tiny model, with the seeds' shapes. */
#include <stdint.h>
#include <string.h>

#include "engine/formats/openvino.h"
#include "fuzz_input.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t bytes);

/* By the last two bits of the .bin file's length: plain rotary settings, LongRoPE, phi2, phimoe. */
static const char *const configs[] = {
    "{\"architectures\":[\"Phi3ForCausalLM\"],\"model_type\":\"phi3\",\"hidden_size\":32,"
    "\"num_hidden_layers\":1,\"num_attention_heads\":4,\"num_key_value_heads\":2,"
    "\"intermediate_size\":64,\"vocab_size\":96,\"max_position_embeddings\":128}",
    "{\"architectures\":[\"Phi3ForCausalLM\"],\"model_type\":\"phi3\",\"hidden_size\":32,"
    "\"num_hidden_layers\":1,\"num_attention_heads\":4,\"num_key_value_heads\":2,"
    "\"intermediate_size\":64,\"vocab_size\":96,\"max_position_embeddings\":128,"
    "\"original_max_position_embeddings\":16,\"partial_rotary_factor\":0.5,\"rope_scaling\":"
    "{\"type\":\"longrope\",\"short_factor\":[1,1.25],\"long_factor\":[2,2.5]}}",
    "{\"architectures\":[\"PhiForCausalLM\"],\"model_type\":\"phi\",\"hidden_size\":32,"
    "\"num_hidden_layers\":1,\"num_attention_heads\":4,\"intermediate_size\":64,"
    "\"vocab_size\":96,\"max_position_embeddings\":128,\"partial_rotary_factor\":0.5}",
    "{\"architectures\":[\"PhimoeForCausalLM\"],\"model_type\":\"phimoe\",\"hidden_size\":32,"
    "\"num_hidden_layers\":1,\"num_attention_heads\":4,\"num_key_value_heads\":2,"
    "\"intermediate_size\":64,\"vocab_size\":96,\"max_position_embeddings\":128,"
    "\"num_local_experts\":4,\"rope_theta\":10000,\"attention_bias\":true,"
    "\"lm_head_bias\":true}",
};

typedef struct folder {
    char dir[64];
    fuzz_slot xml;
    fuzz_slot bin;
    fuzz_slot config;
} folder;

/* Names in a directory that lead to anonymous files. */
static void link_to(const folder *f, const char *name, const fuzz_slot *slot)
{
    char path[128];
    (void)snprintf(path, sizeof path, "%s/%s", f->dir, name);
    if (symlink(slot->path, path) != 0) {
        abort();
    }
}

static void make_folder(folder *f)
{
    (void)snprintf(f->dir, sizeof f->dir, "/tmp/fuzz-openvino-XXXXXX");
    if (!mkdtemp(f->dir)) {
        abort();
    }
    (void)fuzz_slot_set(&f->xml, "", 0);
    (void)fuzz_slot_set(&f->bin, "", 0);
    (void)fuzz_slot_set(&f->config, "", 0);
    link_to(f, "openvino_model.xml", &f->xml);
    link_to(f, "openvino_model.bin", &f->bin);
    link_to(f, "config.json", &f->config);
}

/* What was accepted must be readable to its last row. */
static void read_all(const phi_openvino *o)
{
    static float rows[262144 * 2];
    phi_coded_buffer buffer = {0};
    phi_err err;
    for (size_t i = 0; i < phi_openvino_count(o); i++) {
        const phi_stored *stored = phi_openvino_at(o, i);
        uint8_t byte;
        if (stored->kind == PHI_STORED_CODED
                ? phi_coded_read_f32(&stored->coded, stored->rows - 1, 1, &buffer, rows, &err)
                : phi_file_read_at(stored->data.file, stored->data.offset + stored->data.bytes - 1,
                                   &byte, 1, &err)) {
            abort();
        }
    }
    phi_coded_buffer_done(&buffer);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t bytes)
{
    static folder f;
    uint32_t xml_bytes;
    if (bytes < sizeof xml_bytes) {
        return 0;
    }
    memcpy(&xml_bytes, data, sizeof xml_bytes);
    data += sizeof xml_bytes;
    bytes -= sizeof xml_bytes;
    xml_bytes = xml_bytes < bytes ? xml_bytes : (uint32_t)bytes;
    if (!f.dir[0]) {
        make_folder(&f);
    }
    (void)fuzz_slot_set(&f.xml, data, xml_bytes);
    (void)fuzz_slot_set(&f.bin, data + xml_bytes, bytes - xml_bytes);
    const char *config = configs[(bytes - xml_bytes) & 3];
    (void)fuzz_slot_set(&f.config, config, strlen(config));
    phi_openvino *o;
    phi_err err;
    if (!phi_openvino_open(f.dir, &o, &err)) {
        read_all(o);
        phi_openvino_close(o);
    }
    return 0;
}

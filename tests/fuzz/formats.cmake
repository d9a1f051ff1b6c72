phid_fuzz(safetensors LIBS phi_formats phi_tensor phi_base)
phid_fuzz(gguf LIBS phi_formats phi_tensor phi_base)
phid_fuzz(hf_config LIBS phi_formats phi_tensor phi_base)
phid_fuzz(openvino LIBS phi_formats phi_tensor phi_base)

phid_fuzz(safetensors LIBS phi_formats phi_tensor phi_base)
phid_fuzz(gguf LIBS phi_formats phi_tensor phi_base)
phid_fuzz(hf_config LIBS phi_formats phi_tensor phi_base)
phid_fuzz(onnx LIBS phi_formats phi_tensor phi_base)

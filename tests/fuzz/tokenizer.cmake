phid_fuzz(tokenizer_json LIBS phi_tokenizer PkgConfig::JANSSON)
phid_fuzz(chat_template LIBS phi_tokenizer)
phid_fuzz(encode LIBS phi_tokenizer PkgConfig::JANSSON)
phid_fuzz(tokenizer_gguf LIBS phi_tokenizer phi_formats)

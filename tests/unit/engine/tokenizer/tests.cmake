phid_test(engine.tokenizer.cases ${TEST_DIR}/test_cases.c LIBS phi_tokenizer PkgConfig::JANSSON)
phid_test(engine.tokenizer.gguf ${TEST_DIR}/test_gguf.c LIBS phi_tokenizer PkgConfig::JANSSON)
phid_test(engine.tokenizer.template ${TEST_DIR}/test_template.c LIBS phi_tokenizer)
phid_test(engine.tokenizer.tokenizer ${TEST_DIR}/test_tokenizer.c LIBS phi_tokenizer PkgConfig::JANSSON)
phid_test(engine.tokenizer.chat ${TEST_DIR}/test_chat.c LIBS phi_tokenizer PkgConfig::JANSSON)

# What tests/peers/test_tokenizers.py compares with the Python package.
add_executable(tokenize_lines ${PROJECT_SOURCE_DIR}/tests/tools/tokenize_lines.c)
target_link_libraries(tokenize_lines PRIVATE phi_options phi_tokenizer)
add_executable(tokenizer_folder ${PROJECT_SOURCE_DIR}/tests/tools/tokenizer_folder.c)
target_link_libraries(tokenizer_folder PRIVATE phi_options phi_tokenizer)

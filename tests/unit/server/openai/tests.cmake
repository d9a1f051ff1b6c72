phid_test(server.openai.params ${TEST_DIR}/test_params.c LIBS phi_server PkgConfig::JANSSON)
phid_test(server.openai.prompt ${TEST_DIR}/test_prompt.c LIBS phi_server PkgConfig::JANSSON)

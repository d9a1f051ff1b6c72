add_library(test_model_runner STATIC ${TEST_DIR}/runner.c)
target_link_libraries(test_model_runner PUBLIC phi_model phi_kernels phi_tensor phi_base
    PRIVATE phi_options PkgConfig::CMOCKA)
target_include_directories(test_model_runner PUBLIC ${TEST_DIR})
target_compile_options(test_model_runner PRIVATE -Wno-conversion -Wno-sign-conversion
    -Wno-cast-qual)

phid_test(engine.model.golden ${TEST_DIR}/test_golden.c
    LIBS test_model_runner phi_tokenizer phi_formats PkgConfig::JANSSON)
phid_test(engine.model.forward ${TEST_DIR}/test_forward.c
    LIBS test_model_runner test_kernels_random phi_formats)
phid_test(engine.model.memplan ${TEST_DIR}/test_memplan.c LIBS phi_model phi_formats phi_base)
phid_test(engine.model.cache ${TEST_DIR}/test_cache.c LIBS phi_model phi_kernels phi_formats phi_base)
phid_test(engine.model.attention ${TEST_DIR}/test_attention.c
    LIBS test_kernels_random phi_model phi_kernels phi_base)
phid_test(engine.model.types ${TEST_DIR}/test_types.c LIBS test_model_runner phi_formats)
phid_test(engine.model.experts ${TEST_DIR}/test_experts.c
    LIBS test_kernels_random phi_model phi_kernels phi_formats phi_base)
# What tests/peers compares with other runtimes' logits.
add_executable(logits_of_ids ${PROJECT_SOURCE_DIR}/tests/tools/logits_of_ids.c)
target_link_libraries(logits_of_ids PRIVATE phi_options test_model_runner phi_formats)

phid_test(engine.quant.encode ${TEST_DIR}/test_encode.c LIBS phi_quant phi_tensor phi_base)
phid_test(engine.quant.meter ${TEST_DIR}/test_meter.c LIBS phi_quant phi_base)

add_library(test_quant_model STATIC ${TEST_DIR}/random_model.c)
target_link_libraries(test_quant_model
    PUBLIC test_formats_fixture PRIVATE phi_options PkgConfig::CMOCKA)
target_include_directories(test_quant_model PUBLIC ${TEST_DIR})
target_compile_options(test_quant_model PRIVATE -Wno-conversion -Wno-sign-conversion
    -Wno-cast-qual)
set(QUANT_TEST_LIBS test_quant_model phi_quant)
phid_test(engine.quant.quantize ${TEST_DIR}/test_quantize.c LIBS ${QUANT_TEST_LIBS})
phid_test(engine.quant.resources ${TEST_DIR}/test_resources.c LIBS ${QUANT_TEST_LIBS})
phid_test(engine.quant.quality ${TEST_DIR}/test_quality.c LIBS ${QUANT_TEST_LIBS})
phid_test(engine.quant.group_codes ${TEST_DIR}/test_group_codes.c LIBS phi_quant phi_tensor)
phid_test(engine.quant.mix ${TEST_DIR}/test_mix.c LIBS phi_quant phi_formats)
phid_test(engine.quant.qnn_ranges ${TEST_DIR}/test_qnn_ranges.c LIBS phi_quant m)

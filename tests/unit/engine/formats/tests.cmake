add_library(test_formats_fixture STATIC ${TEST_DIR}/fixture.c ${TEST_DIR}/torch_fixture.c)
target_link_libraries(test_formats_fixture PUBLIC phi_formats PRIVATE phi_options PkgConfig::CMOCKA)
target_include_directories(test_formats_fixture PUBLIC ${TEST_DIR})
target_compile_options(test_formats_fixture PRIVATE -Wno-conversion -Wno-sign-conversion
    -Wno-cast-qual)

set(FORMATS_TEST_LIBS test_formats_fixture phi_formats phi_tensor phi_base)
phid_test(engine.formats.safetensors ${TEST_DIR}/test_safetensors.c
    LIBS ${FORMATS_TEST_LIBS} PkgConfig::JANSSON)
phid_test(engine.formats.pickle ${TEST_DIR}/test_pickle.c LIBS ${FORMATS_TEST_LIBS})
phid_test(engine.formats.torch_file ${TEST_DIR}/test_torch_file.c LIBS ${FORMATS_TEST_LIBS})
phid_test(engine.formats.gguf ${TEST_DIR}/test_gguf.c LIBS ${FORMATS_TEST_LIBS})
phid_test(engine.formats.checkpoint ${TEST_DIR}/test_checkpoint.c
    LIBS ${FORMATS_TEST_LIBS} PkgConfig::JANSSON)
phid_test(engine.formats.hf_config ${TEST_DIR}/test_hf_config.c
    LIBS ${FORMATS_TEST_LIBS} PkgConfig::JANSSON)
phid_test(engine.formats.hf_quant ${TEST_DIR}/test_hf_quant.c LIBS ${FORMATS_TEST_LIBS})
phid_test(engine.formats.gguf_config ${TEST_DIR}/test_gguf_config.c LIBS ${FORMATS_TEST_LIBS})
phid_test(engine.formats.coded ${TEST_DIR}/test_coded.c LIBS ${FORMATS_TEST_LIBS})
phid_test(engine.formats.tensor_rows ${TEST_DIR}/test_tensor_rows.c LIBS ${FORMATS_TEST_LIBS})
phid_test(engine.formats.protobuf ${TEST_DIR}/test_protobuf.c LIBS ${FORMATS_TEST_LIBS})
add_library(test_formats_onnx_model STATIC ${TEST_DIR}/onnx_model.c ${TEST_DIR}/onnx_layers.c
    ${TEST_DIR}/onnx_values.c)
target_link_libraries(test_formats_onnx_model PUBLIC test_formats_fixture
    PRIVATE phi_options PkgConfig::CMOCKA)
target_compile_options(test_formats_onnx_model PRIVATE -Wno-conversion -Wno-sign-conversion)
foreach(part graph matrices refusals)
    phid_test(engine.formats.onnx_${part} ${TEST_DIR}/test_onnx_${part}.c
        LIBS test_formats_onnx_model ${FORMATS_TEST_LIBS} m)
endforeach()
add_library(test_formats_onnx_exported STATIC ${TEST_DIR}/onnx_exported.c)
target_link_libraries(test_formats_onnx_exported PUBLIC test_formats_fixture
    PRIVATE phi_options PkgConfig::CMOCKA)
target_compile_options(test_formats_onnx_exported PRIVATE -Wno-conversion -Wno-sign-conversion)
foreach(part write experts)
    phid_test(engine.formats.onnx_${part} ${TEST_DIR}/test_onnx_${part}.c
        LIBS test_formats_onnx_exported ${FORMATS_TEST_LIBS})
endforeach()
phid_test(engine.formats.qnn_write ${TEST_DIR}/test_qnn_write.c LIBS ${FORMATS_TEST_LIBS} m)

# Makes folders that tests/peers runs with ONNX Runtime GenAI.
add_executable(onnx_export ${PROJECT_SOURCE_DIR}/tests/tools/onnx_export.c)
target_link_libraries(onnx_export PRIVATE phi_options phi_formats phi_tensor phi_base m)

add_library(test_formats_ov_model STATIC ${TEST_DIR}/ov_model.c)
target_link_libraries(test_formats_ov_model PUBLIC test_formats_fixture
    PRIVATE phi_options PkgConfig::CMOCKA)
target_compile_options(test_formats_ov_model PRIVATE -Wno-conversion -Wno-sign-conversion)
phid_test(engine.formats.openvino ${TEST_DIR}/test_openvino.c
    LIBS test_formats_ov_model ${FORMATS_TEST_LIBS})
phid_test(engine.formats.openvino_write ${TEST_DIR}/test_openvino_write.c
    LIBS ${FORMATS_TEST_LIBS})
# For tests/peers/test_openvino.py.
add_executable(openvino_folder ${PROJECT_SOURCE_DIR}/tests/tools/openvino_folder.c)
target_link_libraries(openvino_folder PRIVATE phi_options phi_quant phi_formats)

add_library(test_kernels_random STATIC ${TEST_DIR}/random_weight.c)
target_link_libraries(test_kernels_random PUBLIC phi_kernels PRIVATE phi_options PkgConfig::CMOCKA)
target_include_directories(test_kernels_random PUBLIC ${TEST_DIR})
target_compile_options(test_kernels_random PRIVATE -Wno-conversion -Wno-sign-conversion
    -Wno-cast-qual)

phid_test(engine.kernels.products ${TEST_DIR}/test_products.c LIBS test_kernels_random)
phid_test(engine.kernels.vectors ${TEST_DIR}/test_vectors.c LIBS test_kernels_random)
phid_test(engine.kernels.attention ${TEST_DIR}/test_attention.c LIBS test_kernels_random)
phid_test(engine.kernels.matmul ${TEST_DIR}/test_matmul.c LIBS test_kernels_random)
phid_test(engine.kernels.team ${TEST_DIR}/test_team.c LIBS phi_kernels)
phid_test(engine.kernels.machine ${TEST_DIR}/test_machine.c LIBS phi_kernels)
phid_test(engine.kernels.ceiling ${TEST_DIR}/test_ceiling.c LIBS phi_kernels)

phid_test(engine.tensor.half ${TEST_DIR}/test_half.c LIBS phi_tensor phi_base)
phid_test(engine.tensor.dtype ${TEST_DIR}/test_dtype.c LIBS phi_tensor phi_base)
phid_test(engine.tensor.blocks ${TEST_DIR}/test_blocks.c LIBS phi_tensor)
phid_test(engine.tensor.weight ${TEST_DIR}/test_weight.c LIBS phi_tensor phi_base)

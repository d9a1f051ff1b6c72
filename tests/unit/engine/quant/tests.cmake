phid_test(engine.quant.encode ${TEST_DIR}/test_encode.c LIBS phi_quant phi_tensor phi_base)

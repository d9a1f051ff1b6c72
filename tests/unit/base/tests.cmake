phid_test(base.buf ${TEST_DIR}/test_buf.c LIBS phi_base)

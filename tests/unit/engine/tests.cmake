phid_test(engine.facade ${TEST_DIR}/test_engine.c LIBS phi_engine)

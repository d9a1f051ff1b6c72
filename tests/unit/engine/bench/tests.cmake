phid_test(engine.bench.summary ${TEST_DIR}/test_summary.c LIBS phi_bench)
phid_test(engine.bench.synthetic ${TEST_DIR}/test_synthetic.c LIBS phi_bench)
phid_test(engine.bench.bench ${TEST_DIR}/test_bench.c LIBS phi_bench)

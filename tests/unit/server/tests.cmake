phid_test(server.store ${TEST_DIR}/test_store.c LIBS phi_store phi_base PkgConfig::SQLITE)

phid_test(server.store ${TEST_DIR}/test_store.c LIBS phi_store phi_base PkgConfig::SQLITE)
phid_test(server.registry ${TEST_DIR}/test_registry.c LIBS phi_server phi_base PkgConfig::JANSSON)

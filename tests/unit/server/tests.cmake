phid_test(server.routes ${TEST_DIR}/test_routes.c LIBS phi_server PkgConfig::JANSSON)
phid_test(server.keys ${TEST_DIR}/test_keys.c LIBS phi_server)
phid_test(server.work ${TEST_DIR}/test_work.c LIBS phi_server PkgConfig::LIBUV)

phid_test(server.http.http ${TEST_DIR}/test_http.c
    LIBS phi_http phi_server phi_http PkgConfig::LIBUV PkgConfig::JANSSON)

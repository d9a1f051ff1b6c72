phid_test(config.settings ${TEST_DIR}/test_settings.c LIBS phi_config)

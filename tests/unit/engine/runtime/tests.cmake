# The scheduler runs over a model made of arithmetic: its objects come before the libraries, so that
# none of the real model's are taken.
add_library(test_runtime_fake OBJECT ${TEST_DIR}/fake_model.c ${TEST_DIR}/harness.c)
target_link_libraries(test_runtime_fake PRIVATE phi_options PkgConfig::CMOCKA)
target_compile_options(test_runtime_fake PRIVATE -Wno-conversion -Wno-sign-conversion -Wno-cast-qual)

phid_test(engine.runtime.sampler ${TEST_DIR}/test_sampler.c LIBS phi_runtime)
phid_test(engine.runtime.scheduler ${TEST_DIR}/test_scheduler.c LIBS test_runtime_fake phi_runtime)
phid_test(engine.runtime.generation ${TEST_DIR}/test_generation.c LIBS test_runtime_fake phi_runtime)
phid_test(engine.runtime.golden ${TEST_DIR}/test_golden.c
    LIBS phi_runtime phi_model phi_tokenizer phi_formats PkgConfig::JANSSON)

# The header by itself: the rest of phi_model would bring the kernels, which take minutes to build.
phid_fuzz(packed LIBS phi_tensor phi_base)
target_sources(fuzz_packed PRIVATE ${PROJECT_SOURCE_DIR}/engine/model/pack_header.c)

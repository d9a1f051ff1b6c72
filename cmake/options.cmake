# Compiler options that every target shares: warnings, hardening, sanitizers.
# phi_options is an interface library; phid_library() links it.

add_library(phi_options INTERFACE)
target_include_directories(phi_options INTERFACE ${PROJECT_SOURCE_DIR} ${PROJECT_BINARY_DIR})
target_compile_definitions(phi_options INTERFACE _GNU_SOURCE PHID_VERSION="${PROJECT_VERSION}")

target_compile_options(phi_options INTERFACE
    -Wall -Wextra -Wpedantic -Werror -Wshadow -Wconversion -Wsign-conversion
    -Wstrict-prototypes -Wmissing-prototypes -Wcast-qual -Wcast-align -Wwrite-strings
    -Wundef -Wvla -Wformat=2 -Wimplicit-fallthrough -Wdouble-promotion
    -Wredundant-decls -fno-common -ffp-contract=off)
if(CMAKE_C_COMPILER_ID STREQUAL "GNU")
    target_compile_options(phi_options INTERFACE -Wlogical-op -Wduplicated-cond -Wjump-misses-init)
elseif(CMAKE_C_COMPILER_ID MATCHES "Clang")
    target_compile_options(phi_options INTERFACE -Wcomma -Wunreachable-code)
endif()

if(PHID_SANITIZE)
    target_compile_options(phi_options INTERFACE
        -fsanitize=${PHID_SANITIZE} -fno-omit-frame-pointer -fno-sanitize-recover=all)
    target_link_options(phi_options INTERFACE -fsanitize=${PHID_SANITIZE})
elseif(CMAKE_BUILD_TYPE STREQUAL "Release" OR CMAKE_BUILD_TYPE STREQUAL "RelWithDebInfo")
    target_compile_options(phi_options INTERFACE
        -fstack-protector-strong -U_FORTIFY_SOURCE -D_FORTIFY_SOURCE=2)
    target_link_options(phi_options INTERFACE -Wl,-z,relro,-z,now)
endif()
# Asserts on our own bugs stay in release builds: PHI_ASSERT does not look at NDEBUG.

# phid_library(NAME SOURCES... [LINK libs...] [PRIVATE_LINK libs...])
# A static library of one directory with the shared options.
function(phid_library name)
    cmake_parse_arguments(ARG "" "" "SOURCES;LINK;PRIVATE_LINK" ${ARGN})
    add_library(${name} STATIC ${ARG_SOURCES})
    target_link_libraries(${name} PUBLIC ${ARG_LINK} PRIVATE phi_options ${ARG_PRIVATE_LINK})
endfunction()

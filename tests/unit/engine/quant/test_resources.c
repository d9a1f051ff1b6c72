/* Memory does not grow with the model, and a full disk is reported and leaves nothing. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include <dirent.h>
#include <sched.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mount.h>
#include <sys/wait.h>
#include <unistd.h>

#include "base/mem.h"
#include "engine/quant/quantize.h"
#include "random_model.h"

#if defined(__has_feature)
#define HAS_FEATURE(x) __has_feature(x)
#else
#define HAS_FEATURE(x) 0
#endif
/* Sanitizers keep freed memory and shadow it: their peaks say nothing about the program's. */
#if defined(__SANITIZE_ADDRESS__) || defined(__SANITIZE_THREAD__) ||                               \
    HAS_FEATURE(address_sanitizer) || HAS_FEATURE(thread_sanitizer)
#define SANITIZED 1
#else
#define SANITIZED 0
#endif

/* Peak resident memory of this process in KiB, 0 when the system does not say. */
static long peak_kib(void)
{
    long kib = 0;
    FILE *status = fopen("/proc/self/status", "r");
    if (!status) {
        return 0;
    }
    char line[200];
    while (fgets(line, sizeof line, status)) {
        if (sscanf(line, "VmHWM: %ld", &kib) == 1) {
            break;
        }
    }
    (void)fclose(status);
    return kib;
}

/* In a child process, which has its own peak and its own mounts. */
typedef struct child_result {
    phi_status status;
    char message[PHI_ERR_BYTES_MAX];
    long peak_kib;
    int files; /* left in the directory of the output; -1: the child could not be set up */
} child_result;

static int files_in(const char *path)
{
    int count = 0;
    DIR *dir = opendir(path);
    if (!dir) {
        return -1;
    }
    for (struct dirent *entry = readdir(dir); entry; entry = readdir(dir)) {
        count += entry->d_name[0] != '.';
    }
    (void)closedir(dir);
    return count;
}

/* A file system of 256 KiB on `path`, for this process alone. */
static bool mount_small(const char *path)
{
    int flags = geteuid() == 0 ? CLONE_NEWNS : CLONE_NEWNS | CLONE_NEWUSER;
    if (unshare(flags) != 0 || mount("none", "/", NULL, MS_REC | MS_PRIVATE, NULL) != 0) {
        return false;
    }
    return mount("tmpfs", path, "tmpfs", 0, "size=256k") == 0;
}

static void child_main(const fixture *source, const fixture *target, bool small_disk,
                       child_result *result)
{
    result->files = -1;
    if (small_disk && !mount_small(target->dir)) {
        return;
    }
    char out[200];
    (void)snprintf(out, sizeof out, "%s/out.gguf", target->dir);
    phi_compute compute = {.priority = PHI_TEAM_BACKGROUND};
    phi_err err = {0};
    if (phi_kernels_select(NULL, &compute.kernels, &err) != PHI_OK ||
        phi_team_create(2, &compute.team, &err) != PHI_OK) {
        return;
    }
    phi_quantize_options options = {
        .source = source->dir,
        .out_path = out,
        .precision = PHI_PRECISION_INT8,
        .measure = !small_disk,
        .eval_tokens_max = 4,
    };
    phi_quality quality;
    result->status = phi_quantize(&compute, &options, &quality, &err);
    memcpy(result->message, err.message, sizeof result->message);
    phi_team_destroy(compute.team);
    result->files = files_in(target->dir);
    result->peak_kib = peak_kib();
}

static child_result run_child(const random_model *model, bool small_disk)
{
    fixture source;
    fixture target;
    fixture_init(&source);
    fixture_init(&target);
    random_model_write(&source, model);
    int ends[2];
    assert_int_equal(pipe(ends), 0);
    pid_t pid = fork();
    assert_true(pid >= 0);
    child_result result = {0};
    if (pid == 0) {
        child_main(&source, &target, small_disk, &result);
        _exit(write(ends[1], &result, sizeof result) == (ssize_t)sizeof result ? 0 : 1);
    }
    (void)close(ends[1]);
    assert_int_equal(read(ends[0], &result, sizeof result), sizeof result);
    (void)close(ends[0]);
    int status = 0;
    assert_int_equal(waitpid(pid, &status, 0), pid);
    assert_int_equal(status, 0);
    fixture_done(&source);
    fixture_done(&target);
    return result;
}

/* 12 MB a layer in F32. */
static const random_model LARGE = {
    .n_layer = 3,
    .n_embd = 512,
    .n_head = 8,
    .n_head_kv = 4,
    .n_ffn = 1536,
    .n_vocab = 512,
    .dtype = PHI_DTYPE_F32,
};

static void test_memory_does_not_grow_with_the_model(void **state)
{
    (void)state;
    if (SANITIZED) {
        skip();
    }
    random_model model = LARGE;
    child_result small = run_child(&model, false);
    model.n_layer = 13;
    child_result large = run_child(&model, false);
    print_message("peak of a 40 MB source: %ld KiB, of a 165 MB one: %ld KiB\n", small.peak_kib,
                  large.peak_kib);
    assert_int_equal(small.status, PHI_OK);
    assert_int_equal(large.status, PHI_OK);
    assert_true(small.peak_kib > 0 && large.peak_kib < small.peak_kib + 8 * 1024);
}

static void test_a_full_disk(void **state)
{
    (void)state;
    random_model model = LARGE;
    model.n_layer = 1;
    child_result result = run_child(&model, true);
    if (result.files < 0) {
        skip(); /* this process may not mount */
    }
    assert_int_equal(result.status, PHI_E_NO_SPACE);
    assert_non_null(strstr(result.message, "out.gguf"));
    assert_int_equal(result.files, 0);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_memory_does_not_grow_with_the_model),
        cmocka_unit_test(test_a_full_disk),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}

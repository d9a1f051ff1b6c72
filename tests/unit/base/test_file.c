/* Files are replaced whole or not at all, and reads give all bytes or an error that names the file.
 */
#include <errno.h>
#include <fcntl.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <unistd.h>

#include <dirent.h>
#include <signal.h>

#include <cmocka.h>

#include "base/file.h"
#include "base/mem.h"

static char dir[64];
static char path[128];

static const char *in_dir(const char *name)
{
    (void)snprintf(path, sizeof path, "%s/%s", dir, name);
    return path;
}

static int setup(void **state)
{
    (void)state;
    (void)snprintf(dir, sizeof dir, "/tmp/phid-test-XXXXXX");
    return mkdtemp(dir) ? 0 : -1;
}

static size_t count_files(void)
{
    DIR *handle = opendir(dir);
    size_t count = 0;
    for (struct dirent *entry = readdir(handle); entry; entry = readdir(handle)) {
        count += entry->d_name[0] != '.';
    }
    (void)closedir(handle);
    return count;
}

static int teardown(void **state)
{
    (void)state;
    DIR *handle = opendir(dir);
    for (struct dirent *entry = readdir(handle); entry; entry = readdir(handle)) {
        (void)unlinkat(dirfd(handle), entry->d_name, 0);
    }
    (void)closedir(handle);
    return rmdir(dir);
}

static void check_text(const char *name, const char *right)
{
    char *text = NULL;
    size_t bytes = 0;
    phi_err err = {0};
    assert_int_equal(phi_file_read_text(in_dir(name), 1000, &text, &bytes, &err), PHI_OK);
    assert_string_equal(text, right);
    assert_int_equal(bytes, strlen(right));
    phi_free(text);
}

static void write_whole(const char *name, const char *text)
{
    phi_file_writer *writer;
    phi_err err;
    assert_int_equal(phi_file_writer_create(in_dir(name), &writer, &err), PHI_OK);
    assert_int_equal(phi_file_writer_append(writer, text, strlen(text), &err), PHI_OK);
    assert_int_equal(phi_file_writer_commit(writer, &err), PHI_OK);
}

static void test_replaced_whole(void **state)
{
    (void)state;
    write_whole("a", "old");
    phi_file_writer *writer;
    phi_err err;
    assert_int_equal(phi_file_writer_create(in_dir("a"), &writer, &err), PHI_OK);
    assert_int_equal(phi_file_writer_append(writer, "0123", 4, &err), PHI_OK);
    assert_int_equal(phi_file_writer_append(writer, "4567", 4, &err), PHI_OK);
    assert_int_equal(phi_file_writer_patch(writer, 3, "xy", 2, &err), PHI_OK);
    assert_int_equal(phi_file_writer_bytes(writer), 8);
    check_text("a", "old");
    assert_int_equal(phi_file_writer_commit(writer, &err), PHI_OK);
    check_text("a", "012xy567");
    struct stat info;
    assert_int_equal(stat(in_dir("a"), &info), 0);
    assert_int_equal(info.st_mode & 0777, 0640);
    assert_int_equal(phi_file_writer_create(in_dir("a"), &writer, &err), PHI_OK);
    assert_int_equal(phi_file_writer_append(writer, "newer", 5, &err), PHI_OK);
    assert_int_equal(phi_file_writer_publish(writer, &err), PHI_OK);
    check_text("a", "newer");
    assert_int_equal(count_files(), 1);
}

static void test_abort_leaves_nothing(void **state)
{
    (void)state;
    size_t before = count_files();
    phi_file_writer *writer;
    phi_err err;
    assert_int_equal(phi_file_writer_create(in_dir("b"), &writer, &err), PHI_OK);
    assert_int_equal(phi_file_writer_append(writer, "half", 4, &err), PHI_OK);
    assert_int_equal(count_files(), before + 1);
    phi_file_writer_abort(writer);
    phi_file_writer_abort(NULL);
    assert_int_equal(count_files(), before);
    assert_int_equal(phi_file_writer_create(in_dir("no/such/dir"), &writer, &err), PHI_E_NOT_FOUND);
    assert_non_null(strstr(err.message, "no/such/dir"));
}

/* A directory in the target's place makes the rename fail: an error, and nothing left behind. */
static void test_commit_that_fails(void **state)
{
    (void)state;
    phi_file_writer *writer;
    phi_err err;
    assert_int_equal(mkdir(in_dir("d"), 0700), 0);
    size_t before = count_files();
    assert_int_equal(phi_file_writer_create(in_dir("d"), &writer, &err), PHI_OK);
    assert_int_not_equal(phi_file_writer_commit(writer, &err), PHI_OK);
    assert_int_equal(count_files(), before);
    assert_int_equal(rmdir(in_dir("d")), 0);
}

/* A write that the system refuses is an error at once. */
static void test_write_that_fails(void **state)
{
    (void)state;
    struct rlimit old;
    assert_int_equal(getrlimit(RLIMIT_FSIZE, &old), 0);
    (void)signal(SIGXFSZ, SIG_IGN);
    phi_file_writer *writer;
    phi_err err;
    assert_int_equal(phi_file_writer_create(in_dir("big"), &writer, &err), PHI_OK);
    struct rlimit small = {.rlim_cur = 100, .rlim_max = old.rlim_max};
    assert_int_equal(setrlimit(RLIMIT_FSIZE, &small), 0);
    char data[200] = {0};
    phi_status status = phi_file_writer_append(writer, data, sizeof data, &err);
    assert_int_equal(setrlimit(RLIMIT_FSIZE, &old), 0);
    assert_int_equal(status, PHI_E_IO);
    assert_non_null(strstr(err.message, "big"));
    assert_int_equal(phi_file_writer_bytes(writer), 0);
    phi_file_writer_abort(writer);
}

static void test_reading(void **state)
{
    (void)state;
    write_whole("r", "0123456789");
    phi_file file;
    phi_err err;
    char data[16] = {0};
    assert_int_equal(phi_file_open(in_dir("r"), &file, &err), PHI_OK);
    assert_int_equal(file.bytes, 10);
    assert_int_equal(phi_file_read_at(&file, 7, data, 3, &err), PHI_OK);
    assert_string_equal(data, "789");
    assert_int_equal(phi_file_read_at(&file, 7, data, 4, &err), PHI_E_FORMAT);
    assert_non_null(strstr(err.message, "ends early"));
    assert_int_equal(phi_file_read_at(&file, 1000, data, 1, &err), PHI_E_FORMAT);
    assert_int_equal(phi_file_read_at(&file, 1000, data, 0, &err), PHI_OK);
    phi_file_forget(&file, 0, 10);
    phi_file_close(&file);
    phi_file_close(&file);
    char *text = NULL;
    assert_int_equal(phi_file_read_text(in_dir("r"), 9, &text, NULL, &err), PHI_E_LIMIT);
    assert_null(text);
    phi_mem_fail_after(0);
    assert_int_equal(phi_file_read_text(in_dir("r"), 10, &text, NULL, &err), PHI_E_NO_MEMORY);
    phi_mem_fail_after(-1);
    assert_int_equal(phi_file_open(in_dir("absent"), &file, &err), PHI_E_NOT_FOUND);
    assert_int_equal(phi_file_open(dir, &file, &err), PHI_E_INVALID);
    assert_int_equal(phi_file_open("/dev/zero", &file, &err), PHI_E_INVALID);
    assert_int_equal(mkfifo(in_dir("pipe"), 0600), 0);
    assert_int_equal(phi_file_open(in_dir("pipe"), &file, &err), PHI_E_INVALID);
    assert_int_equal(unlink(in_dir("pipe")), 0);
}

static void test_directories(void **state)
{
    (void)state;
    phi_err err;
    assert_int_equal(phi_file_make_dirs(in_dir("x/y/z"), &err), PHI_OK);
    assert_int_equal(phi_file_make_dirs(in_dir("x/y/z"), &err), PHI_OK);
    assert_true(phi_file_is_dir(in_dir("x/y/z")));
    assert_true(phi_file_exists(in_dir("x")));
    assert_false(phi_file_exists(in_dir("y")));
    write_whole("x/file", "");
    assert_int_not_equal(phi_file_make_dirs(in_dir("x/file"), &err), PHI_OK);
    assert_int_not_equal(phi_file_make_dirs(in_dir("x/file/more"), &err), PHI_OK);
    assert_int_equal(phi_file_sync_dir(in_dir("x"), &err), PHI_OK);
    assert_int_equal(phi_file_sync_dir(in_dir("nowhere"), &err), PHI_E_NOT_FOUND);
    write_whole("x/kept", "");
    write_whole("x/upload.tmp-abc123", "");
    assert_int_equal(phi_file_sweep_temporaries(in_dir("x"), &err), PHI_OK);
    assert_true(phi_file_exists(in_dir("x/kept")));
    assert_false(phi_file_exists(in_dir("x/upload.tmp-abc123")));
    (void)unlink(in_dir("x/file"));
    (void)unlink(in_dir("x/kept"));
    (void)rmdir(in_dir("x/y/z"));
    (void)rmdir(in_dir("x/y"));
    assert_int_equal(rmdir(in_dir("x")), 0);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_replaced_whole),    cmocka_unit_test(test_abort_leaves_nothing),
        cmocka_unit_test(test_commit_that_fails), cmocka_unit_test(test_write_that_fails),
        cmocka_unit_test(test_reading),           cmocka_unit_test(test_directories),
    };
    return cmocka_run_group_tests(tests, setup, teardown);
}


#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "base/file.h"
#include "base/mem.h"
#include "config/settings.h"
#include "config/settings_table.h"
#include "config/suggest.h"

static char path[] = "/tmp/phid-settings-XXXXXX";

static void write_file(const char *text)
{
    FILE *file = fopen(path, "w");
    assert_non_null(file);
    fputs(text, file);
    fclose(file);
}

static phi_status load(phi_settings *out, char *const *argv, char *const *env, phi_err *err)
{
    int argc = 0;
    while (argv[argc]) {
        argc++;
    }
    return phi_settings_load(out, argc, argv, env, err);
}

#define ARGV(...) ((char **)(uintptr_t)(const char *[]){__VA_ARGS__, NULL})

static void expect_error(char *const *argv, char *const *env, const char *part)
{
    phi_settings settings;
    phi_err err = {0};
    assert_int_equal(load(&settings, argv, env, &err), PHI_E_INVALID);
    if (!strstr(err.message, part)) {
        fail_msg("'%s' is not in: %s", part, err.message);
    }
}

static void test_defaults(void **state)
{
    (void)state;
    phi_settings settings;
    char *none[] = {NULL};
    assert_int_equal(load(&settings, none, ARGV("HOME=/home/x"), NULL), PHI_OK);
    assert_string_equal(settings.listen, "127.0.0.1:8080");
    assert_string_equal(settings.data_dir, "/home/x/.local/share/phid");
    assert_string_equal(settings.api_keys, "");
    assert_int_equal(settings.max_upload_bytes, 128ULL << 30);
    assert_int_equal(settings.jobs_max, 1);
    assert_string_equal(settings.pin_threads, "auto");
    phi_settings_done(&settings);
    assert_int_equal(load(&settings, none, ARGV("HOME=/h", "XDG_DATA_HOME=/d"), NULL), PHI_OK);
    assert_string_equal(settings.data_dir, "/d/phid");
    phi_settings_done(&settings);
}

static void test_order(void **state)
{
    (void)state;
    phi_settings settings;
    phi_err err = {0};
    write_file("# comment\nthreads = 1\njobs_max=1 # trailing\nrunning_max =\t3\r\n"
               "max_upload = 2G");
    char *const *argv = ARGV("--config", path, "--threads", "3", "--jobs-max=4");
    char *const *env = ARGV("PHID_THREADS=2", "PHID_JOBS_MAX=2", "PHID_MAX_BODY=1M", "OTHER=1");
    assert_int_equal(load(&settings, argv, env, &err), PHI_OK);
    assert_int_equal(settings.threads, 3);
    assert_int_equal(settings.jobs_max, 4);
    assert_int_equal(settings.running_max, 3);
    assert_int_equal(settings.max_upload_bytes, 2ULL << 30);
    assert_int_equal(settings.max_body_bytes, 1U << 20);
    phi_settings_done(&settings);
    char config[80];
    snprintf(config, sizeof config, "PHID_CONFIG=%s", path);
    char *none[] = {NULL};
    assert_int_equal(load(&settings, none, ARGV(config), &err), PHI_OK);
    assert_int_equal(settings.threads, 1);
    phi_settings_done(&settings);
}

static void test_errors(void **state)
{
    (void)state;
    char *none[] = {NULL};
    expect_error(ARGV("--listn", "x"), none, "did you mean --listen?");
    expect_error(ARGV("--zzzzzz", "x"), none, "there is no flag --zzzzzz");
    expect_error(ARGV("--threads"), none, "--threads needs a value");
    expect_error(ARGV("threads"), none, "'threads' is no flag");
    expect_error(ARGV("--threads", "-1"), none, "from 0 to 256");
    expect_error(ARGV("--threads", "257"), none, "from 0 to 256");
    expect_error(ARGV("--pin-threads", "yes"), none, "auto on off");
    expect_error(ARGV("--max-upload", "2X"), none, "size (like 64G) from 1 to 1T");
    expect_error(ARGV("--log-level", "loud"), none, "debug info warn error off");
    expect_error(ARGV("--listen", "8080"), none, "HOST:PORT");
    expect_error(ARGV("--listen", "::1:8080"), none, "HOST:PORT");
    expect_error(ARGV("--listen", "h:99999"), none, "HOST:PORT");
    expect_error(ARGV("--source-dirs", "relative"), none, "absolute");
    expect_error(ARGV("--api-keys", "abc"), none, "api_keys is '...'");
    expect_error(none, ARGV("PHID_THREADS=many"), "PHID_THREADS: threads is 'many'");
    expect_error(none, ARGV("PHID_THRAEDS=1"), "did you mean 'PHID_THREADS'?");
    phi_settings settings;
    assert_int_equal(load(&settings, none, ARGV("PHID_SHARED_DIR=/x"), NULL), PHI_OK);
    phi_settings_done(&settings);
    write_file("threads = 1\n\nmax_uplod = 1G\n");
    char where[80];
    snprintf(where, sizeof where, "%s:3: there is no setting 'max_uplod'; did you mean", path);
    expect_error(ARGV("--config", path), none, where);
    write_file("threads = 1\nthreads = 2\n");
    expect_error(ARGV("--config", path), none, "was set on line 1 already");
    phi_err err = {0};
    assert_int_equal(load(&settings, ARGV("--config", "/nonexistent"), none, &err),
                     PHI_E_NOT_FOUND);
    assert_non_null(strstr(err.message, "/nonexistent"));
}

static void test_check_reports_all(void **state)
{
    (void)state;
    phi_buf report;
    size_t errors = 0;
    phi_buf_init(&report, 1U << 20);
    write_file("listn = 3\nthreads = many\nfoo\njobs_max = 0\n");
    assert_int_equal(phi_settings_check_file(path, &report, &errors), PHI_E_INVALID);
    assert_int_equal(errors, 4);
    for (int line = 1; line <= 4; line++) {
        char where[80];
        snprintf(where, sizeof where, "%s:%d: ", path, line);
        assert_non_null(strstr(phi_buf_text(&report), where));
    }
    phi_buf_clear(&report);
    write_file("threads = 2\n");
    assert_int_equal(phi_settings_check_file(path, &report, &errors), PHI_OK);
    assert_int_equal(errors, 0);
    phi_buf_done(&report);
}

/* The example, with every setting switched on, is itself good and changes nothing. */
static void test_example(void **state)
{
    (void)state;
    phi_buf text;
    phi_buf_init(&text, 1U << 20);
    assert_int_equal(phi_settings_example(&text), PHI_OK);
    for (size_t i = 0; i < phi_setting_row_count; i++) {
        char key[80];
        snprintf(key, sizeof key, "\n#%s =", phi_setting_rows[i].name);
        char *at = strstr(text.data, key);
        assert_non_null(at);
        at[1] = ' ';
    }
    write_file(text.data);
    phi_settings with;
    phi_settings without;
    phi_err err = {0};
    char *none[] = {NULL};
    assert_int_equal(load(&with, ARGV("--config", path), none, &err), PHI_OK);
    assert_int_equal(load(&without, none, none, &err), PHI_OK);
    phi_buf a;
    phi_buf b;
    phi_buf_init(&a, 1U << 20);
    phi_buf_init(&b, 1U << 20);
    assert_int_equal(phi_settings_dump(&with, &a), PHI_OK);
    assert_int_equal(phi_settings_dump(&without, &b), PHI_OK);
    assert_string_equal(a.data, b.data);
    phi_buf_done(&a);
    phi_buf_done(&b);
    phi_buf_done(&text);
    phi_settings_done(&with);
    phi_settings_done(&without);
}

static void test_committed_example(void **state)
{
    (void)state;
    phi_buf text;
    char *committed = NULL;
    size_t bytes = 0;
    phi_buf_init(&text, 1U << 20);
    assert_int_equal(phi_settings_example(&text), PHI_OK);
    assert_int_equal(
        phi_file_read_text(PHID_SOURCE_DIR "/deploy/phid.conf", 1U << 20, &committed, &bytes, NULL),
        PHI_OK);
    assert_string_equal(text.data, committed);
    phi_free(committed);
    phi_buf_done(&text);
}

static void test_keys_are_not_shown(void **state)
{
    (void)state;
    phi_settings settings;
    phi_buf text;
    char *none[] = {NULL};
    phi_buf_init(&text, 1U << 20);
    assert_int_equal(load(&settings, ARGV("--api-keys", "sk-alpha-1,sk-beta-22"), none, NULL),
                     PHI_OK);
    assert_int_equal(phi_settings_dump(&settings, &text), PHI_OK);
    assert_non_null(strstr(text.data, "api_keys = (2 keys)"));
    assert_null(strstr(text.data, "sk-alpha"));
    phi_buf_done(&text);
    phi_settings_done(&settings);
}

static void test_suggest(void **state)
{
    (void)state;
    assert_int_equal(phi_suggest_distance("", ""), 0);
    assert_int_equal(phi_suggest_distance("abc", ""), 3);
    assert_int_equal(phi_suggest_distance("listen", "lsiten"), 1);
    assert_int_equal(phi_suggest_distance("kitten", "sitting"), 3);
    assert_true(phi_suggest_close("serv", "serve"));
    assert_false(phi_suggest_close("bin", "isa"));
}

int main(void)
{
    int fd = mkstemp(path);
    if (fd >= 0) {
        close(fd);
    }
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_defaults),
        cmocka_unit_test(test_order),
        cmocka_unit_test(test_errors),
        cmocka_unit_test(test_check_reports_all),
        cmocka_unit_test(test_example),
        cmocka_unit_test(test_committed_example),
        cmocka_unit_test(test_keys_are_not_shown),
        cmocka_unit_test(test_suggest),
    };
    int failed = cmocka_run_group_tests(tests, NULL, NULL);
    unlink(path);
    return failed;
}

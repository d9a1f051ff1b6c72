/* Log lines: one line each whatever the values hold, levels, both formats, the cut at 2 KiB. */
#include <fcntl.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include <cmocka.h>

#include "base/log.h"

/* What one call writes to stderr. */
static size_t capture(char *out, size_t out_bytes, phi_log_level level, const char *detail)
{
    char path[] = "/tmp/phid-test-XXXXXX";
    int fd = mkstemp(path);
    assert_true(fd >= 0);
    (void)unlink(path);
    int saved = dup(STDERR_FILENO);
    assert_true(dup2(fd, STDERR_FILENO) >= 0);
    phi_log(level, "module", "event", "%s", detail);
    assert_true(dup2(saved, STDERR_FILENO) >= 0);
    (void)close(saved);
    ssize_t got = pread(fd, out, out_bytes - 1, 0);
    (void)close(fd);
    assert_true(got >= 0);
    out[got] = '\0';
    return (size_t)got;
}

static void test_text(void **state)
{
    (void)state;
    char line[4096];
    phi_log_setup(PHI_LOG_INFO, false);
    assert_true(capture(line, sizeof line, PHI_LOG_WARN, "id=7") > 0);
    assert_string_equal(line + strlen("2026-01-01T00:00:00.000Z"), " warn module event id=7\n");
    assert_int_equal(line[10], 'T');
    assert_int_equal(line[23], 'Z');
    assert_int_equal(capture(line, sizeof line, PHI_LOG_DEBUG, "x"), 0);
    /* What a file or a client wrote must not look like a line of ours. */
    (void)capture(line, sizeof line, PHI_LOG_INFO, "reason=a\nb\r\x1b[2Jc\x7f");
    assert_string_equal(strstr(line, "reason"), "reason=a?b??[2Jc?\n");
    phi_log_setup(PHI_LOG_OFF, false);
    assert_int_equal(capture(line, sizeof line, PHI_LOG_ERROR, "x"), 0);
    assert_false(phi_log_enabled(PHI_LOG_OFF));
}

static void test_json(void **state)
{
    (void)state;
    char line[4096];
    phi_log_setup(PHI_LOG_DEBUG, true);
    (void)capture(line, sizeof line, PHI_LOG_DEBUG, "a=\"b\" \n\x01\\");
    assert_non_null(strstr(line, "\"level\":\"debug\",\"module\":\"module\",\"event\":\"event\","
                                 "\"detail\":\"a=\\\"b\\\" \\u000a\\u0001\\\\\"}\n"));
    assert_null(strchr(line, '\n')[1] ? "more than one line" : NULL);
}

static void test_cut(void **state)
{
    (void)state;
    char line[8192];
    char detail[5000];
    memset(detail, '"', sizeof detail);
    detail[sizeof detail - 1] = '\0';
    for (int json = 0; json < 2; json++) {
        phi_log_setup(PHI_LOG_INFO, json);
        size_t bytes = capture(line, sizeof line, PHI_LOG_INFO, detail);
        assert_true(bytes > 900 && bytes <= 2048);
        assert_int_equal(line[bytes - 1], '\n');
        assert_true(!json || strcmp(line + bytes - 4, "\\\"\"}\n") != 0);
    }
}

static void test_value(void **state)
{
    (void)state;
    char out[32];
    assert_string_equal(phi_log_value("plain", out, sizeof out), "\"plain\"");
    assert_string_equal(phi_log_value("a\"b\\c\n", out, sizeof out), "\"a\\\"b\\\\c\\u000a\"");
    const char *cut = phi_log_value("0123456789012345678901234567890123456789", out, sizeof out);
    assert_true(strlen(cut) < sizeof out);
    assert_int_equal(cut[strlen(cut) - 1], '"');
    assert_string_equal(phi_log_value("anything", out, 5), "\"\"");
}

static void test_levels(void **state)
{
    (void)state;
    phi_log_level level = PHI_LOG_INFO;
    assert_true(phi_log_level_parse("error", &level));
    assert_int_equal(level, PHI_LOG_ERROR);
    assert_false(phi_log_level_parse("Error", &level));
    assert_false(phi_log_level_parse("", &level));
    assert_int_equal(level, PHI_LOG_ERROR);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_text),  cmocka_unit_test(test_json),   cmocka_unit_test(test_cut),
        cmocka_unit_test(test_value), cmocka_unit_test(test_levels),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}

/* The pickle machine: what is refused, and that refusing costs nothing. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

#include <cmocka.h>

#include "base/mem.h"
#include "config/limits.h"
#include "engine/formats/pickle.h"
#include "fixture.h"
#include "torch_fixture.h"

static fixture f;

static int setup(void **state)
{
    (void)state;
    fixture_init(&f);
    return 0;
}

static int teardown(void **state)
{
    (void)state;
    fixture_done(&f);
    return 0;
}

/* Reads a whole pickle, which stands behind three bytes of something else. */
static phi_status read_raw(const void *data, size_t bytes, phi_pickle *out_pickle, phi_err *err)
{
    phi_buf buf;
    phi_file file;
    phi_buf_init(&buf, 1U << 27);
    put_bytes(&buf, "xyz", 3);
    put_bytes(&buf, data, bytes);
    const char *path = fixture_write(&f, "p", buf.data, buf.length_bytes);
    phi_buf_done(&buf);
    assert_int_equal(phi_file_open(path, &file, err), PHI_OK);
    const phi_pickle_source source = {
        .file = &file, .label = "p", .origin = 3, .start = 3, .end = file.bytes};
    phi_status status = phi_pickle_read(&source, out_pickle, err);
    phi_file_close(&file);
    return status;
}

static void expect_raw(const void *data, size_t bytes, phi_status right, const char *says)
{
    phi_pickle pickle;
    phi_err err = {0};
    phi_status status = read_raw(data, bytes, &pickle, &err);
    if (status == PHI_OK) {
        phi_pickle_done(&pickle);
    }
    if (status != right || !strstr(err.message, says)) {
        fail_msg("wanted %s \"%s\", got %s \"%s\"", phi_status_name(right), says,
                 phi_status_name(status), err.message);
    }
}

typedef struct wrong {
    const char *data; /* after PROTO */
    size_t bytes;
    phi_status status;
    const char *says;
} wrong;

#define W(text) text, sizeof text - 1
#define STORE                                                                                      \
    "(X\7\0\0\0storagectorch\nFloatStorage\nX\1\0\0\0"                                             \
    "0X\3\0\0\0cpu"

static const wrong wrongs[] = {
    /* Programs. */
    {W("cos\nsystem\n(X\4\0\0\0truetR."), PHI_E_UNSUPPORTED, "global os.system at byte 2"},
    {W("cposix\nsystem\nX\4\0\0\0true\x85R."), PHI_E_UNSUPPORTED, "global posix.system at byte 2"},
    {W("}cbuiltins\neval\nX\1\0\0\0"
       "1\x85R."),
     PHI_E_UNSUPPORTED, "global builtins.eval at byte 3"},
    {W("c__builtin__\nexec\n."), PHI_E_UNSUPPORTED, "global __builtin__.exec at byte 2"},
    {W("ctorch\nload\n."), PHI_E_UNSUPPORTED, "global torch.load"},
    {W("ctorch._utils\n_rebuild_qtensor\n."), PHI_E_UNSUPPORTED, "_utils._rebuild_qtensor"},
    {W("ccollections\nOrderedDict.fromkeys\n."), PHI_E_UNSUPPORTED, "OrderedDict.fromkeys"},
    {W("(ios\nsystem\n."), PHI_E_UNSUPPORTED, "opcode 0x69 INST at byte 3"},
    {W("X\2\0\0\0osX\6\0\0\0system\x93."), PHI_E_UNSUPPORTED, "opcode 0x93 STACK_GLOBAL"},
    {W("Pid\n."), PHI_E_UNSUPPORTED, "opcode 0x50 PERSID"},
    {W("c\nx\n."), PHI_E_FORMAT, "name is not text"},
    {W("ca\x1b[2J\nx\n."), PHI_E_FORMAT, "name is not text"},
    /* Calls of what is no function, or with what it does not take. */
    {W("ctorch\nfloat32\n)R."), PHI_E_FORMAT, "call of torch.float32"},
    {W("ctorch\nFloatStorage\n)\x81."), PHI_E_FORMAT, "call of torch.FloatStorage"},
    {W("N)R."), PHI_E_FORMAT, "call of what is not a function"},
    {W("ccollections\nOrderedDict\nNR."), PHI_E_FORMAT, "call of what is not a function"},
    {W("ccollections\nOrderedDict\nN\x85R."), PHI_E_FORMAT, "OrderedDict with 1 arguments"},
    {W("ctorch._utils\n_rebuild_tensor_v2\n)R."), PHI_E_FORMAT, "with 0 arguments"},
    {W("ctorch._utils\n_rebuild_tensor\n(NNNNtR."), PHI_E_FORMAT, "not of the right kinds"},
    {W("ctorch._utils\n_rebuild_tensor\n(" STORE "K\1tQK\0K\1\x85)tR."), PHI_E_FORMAT,
     "not of the right kinds"},
    {W("ctorch._utils\n_rebuild_tensor\n(" STORE "K\1tQK\0N\x85N\x85tR."), PHI_E_FORMAT,
     "not of the right kinds"},
    {W("ctorch._utils\n_rebuild_tensor\n(" STORE "K\1tQK\0]]tR."), PHI_E_FORMAT,
     "not of the right kinds"},
    {W("ctorch._utils\n_rebuild_parameter\n(NNNtR."), PHI_E_FORMAT, "not a tensor"},
    {W("ctorch\nSize\nN\x85R."), PHI_E_FORMAT, "torch.Size"},
    {W("]}b."), PHI_E_UNSUPPORTED, "state for an object"},
    {W("}]b."), PHI_E_UNSUPPORTED, "state for an object"},
    /* Persistent ids. */
    {W("NQ."), PHI_E_FORMAT, "persistent id"},
    {W(")Q."), PHI_E_FORMAT, "persistent id"},
    {W("(X\6\0\0\0modulectorch\nFloatStorage\nX\1\0\0\0"
       "0NK\1tQ."),
     PHI_E_FORMAT, "persistent id"},
    {W("(X\7\0\0\0storageccollections\nOrderedDict\nX\1\0\0\0"
       "0NK\1tQ."),
     PHI_E_FORMAT, "persistent id"},
    {W(STORE "J\xff\xff\xff\xfftQ."), PHI_E_FORMAT, "persistent id"},
    {W(STORE "\x8a\x08\xff\xff\xff\xff\xff\xff\xff\x7ftQ."), PHI_E_FORMAT,
     "a storage of 9223372036854775807 elements"},
    {W(STORE "K\1(K\1ttQ."), PHI_E_UNSUPPORTED, "part of another"},
    {W("(X\7\0\0\0storagectorch\nFloatStorage\nX\1\0\0\0\nNK\1tQ."), PHI_E_FORMAT, "short text"},
    /* Counts and sizes. */
    {W("X\xff\xff\xff\x7f."), PHI_E_LIMIT, "a text of 2147483647 bytes"},
    {W("X\xff\xff\xff\xff."), PHI_E_LIMIT, "a text of 4294967295 bytes"},
    {W("\x8a\xff."), PHI_E_LIMIT, "an integer of 255 bytes"},
    {W("Nr\xff\xff\xff\xff."), PHI_E_LIMIT, "entry 4294967295 of the memo"},
    {W("Nr\0\0\x10\0."), PHI_E_LIMIT, "entry 1048576 of the memo"},
    {W("Nq\0h\1."), PHI_E_FORMAT, "entry 1 of the memo, which is empty"},
    {W("j\xff\xff\xff\xff."), PHI_E_FORMAT, "entry 4294967295 of the memo, which is empty"},
    {W("h\0."), PHI_E_FORMAT, "which is empty"},
    {W("q\0."), PHI_E_FORMAT, "without the values"},
    {W("\x80\4."), PHI_E_UNSUPPORTED, "pickle protocol 4"},
    /* Stack. */
    {W("."), PHI_E_FORMAT, "with 0 values"},
    {W("NN."), PHI_E_FORMAT, "with 2 values"},
    {W("N(."), PHI_E_FORMAT, "the end of the pickle"},
    {W("t."), PHI_E_FORMAT, "without the values"},
    {W("\x85."), PHI_E_FORMAT, "without the values"},
    {W("NN(\x86."), PHI_E_FORMAT, "without the values"},
    {W("N\x87."), PHI_E_FORMAT, "without the values"},
    {W("Na."), PHI_E_FORMAT, "container"},
    {W("](a."), PHI_E_FORMAT, "without the values"},
    {W("}Na."), PHI_E_FORMAT, "container"},
    {W("]NNs."), PHI_E_FORMAT, "container"},
    {W("}(Nu."), PHI_E_FORMAT, "a key without a value"},
    {W("(Nu."), PHI_E_FORMAT, "container"},
    {W("Q."), PHI_E_FORMAT, "without the values"},
    {W("R."), PHI_E_FORMAT, "without the values"},
    {W("b."), PHI_E_FORMAT, "without the values"},
    /* Ends. */
    {W(""), PHI_E_FORMAT, "ends early: its pickle goes on after byte 2"},
    {W("N"), PHI_E_FORMAT, "ends early"},
    {W("X\4\0\0\0abc"), PHI_E_FORMAT, "ends early"},
    {W("X\4\0"), PHI_E_FORMAT, "ends early"},
    {W("ccollections"), PHI_E_FORMAT, "ends early"},
    {W("J\1\1"), PHI_E_FORMAT, "ends early"},
};

static void test_refused(void **state)
{
    (void)state;
    for (size_t i = 0; i < sizeof wrongs / sizeof *wrongs; i++) {
        phi_buf buf;
        phi_buf_init(&buf, 1U << 16);
        put_bytes(&buf, "\x80\2", 2);
        put_bytes(&buf, wrongs[i].data, wrongs[i].bytes);
        expect_raw(buf.data, buf.length_bytes, wrongs[i].status, wrongs[i].says);
        phi_buf_done(&buf);
    }
    expect_raw("", 0, PHI_E_FORMAT, "ends early");
    expect_raw("N.", 2, PHI_E_FORMAT, "no pickle as torch.save writes it");
    char line[300] = "\x80\2c";
    memset(line + 3, 'a', 200);
    expect_raw(line, sizeof line, PHI_E_FORMAT, "longer than 127 bytes");
}

/* What Python would run when it loads the file: nothing of it happens. */
static void test_nothing_is_run(void **state)
{
    (void)state;
    char *evidence = phi_strdup(fixture_path(&f, "evidence"));
    static const char *const calls[] = {"cos\nsystem\n", "csubprocess\ngetoutput\n",
                                        "cbuiltins\nexec\n", "crunpy\n_run_code\n"};
    for (size_t i = 0; i < sizeof calls / sizeof *calls; i++) {
        char command[120];
        phi_buf buf;
        phi_buf_init(&buf, 1U << 16);
        (void)snprintf(command, sizeof command, "touch %s", evidence);
        put_bytes(&buf, "\x80\2", 2);
        put_bytes(&buf, calls[i], strlen(calls[i]));
        pickle_text(&buf, command);
        put_bytes(&buf, "\x85R.", 3);
        expect_raw(buf.data, buf.length_bytes, PHI_E_UNSUPPORTED, "refused global");
        phi_buf_done(&buf);
        assert_int_not_equal(access(evidence, F_OK), 0);
    }
    phi_free(evidence);
}

static void test_every_other_opcode(void **state)
{
    (void)state;
    static const char known[] = "().GJKMNQRUX]abcehjqrstu}\x80\x81\x85\x86\x87\x88\x89\x8a\x8f\x90";
    for (int op = 0; op < 256; op++) {
        const char data[] = {'\x80', 2, (char)op, '.'};
        char says[40];
        (void)snprintf(says, sizeof says, "opcode 0x%02x", (unsigned)op);
        phi_pickle pickle;
        phi_err err = {0};
        phi_status status = read_raw(data, sizeof data, &pickle, &err);
        bool refused = status == PHI_E_UNSUPPORTED && strstr(err.message, says);
        if (refused == (op != 0 && strchr(known, op) != NULL)) {
            fail_msg("opcode 0x%02x: %s", (unsigned)op, err.message);
        }
        if (status == PHI_OK) {
            phi_pickle_done(&pickle);
        }
    }
}

/* PROTO, `start`, `count` times `repeated`, STOP. */
static void expect_repeated(const char *start, const char *repeated, size_t repeated_bytes,
                            size_t count, phi_status right, const char *says)
{
    phi_buf buf;
    phi_buf_init(&buf, 1U << 27);
    put_bytes(&buf, "\x80\2", 2);
    put_bytes(&buf, start, strlen(start));
    for (size_t i = 0; i < count; i++) {
        put_bytes(&buf, repeated, repeated_bytes);
    }
    put_bytes(&buf, ".", 1);
    expect_raw(buf.data, buf.length_bytes, right, says);
    phi_buf_done(&buf);
}

static void test_bombs(void **state)
{
    (void)state;
    /* Twice the same tuple, 60 times over: 2^60 values for whoever walks into it. */
    expect_repeated(")", "q\0h\0\x86", 5, 60, PHI_OK, "");
    /* A list in itself, which Python would not print to the end. */
    expect_raw("\x80\2]q\0h\0a.", 9, PHI_OK, "");
    /* The least that a stack can hold. */
    expect_raw("\x80\2(t.", 5, PHI_OK, "");
    expect_repeated("", "(", 1, PHI_LIMIT_PICKLE_DEPTH + 1, PHI_E_LIMIT, "inside each other");
    expect_repeated("", "N", 1, PHI_LIMIT_PICKLE_STACK + 1, PHI_E_LIMIT, "values on the pickle's");
    expect_repeated("N", "\x85", 1, 8U << 20, PHI_E_LIMIT, "bytes of values");
    expect_repeated("N", "q\0", 2, PHI_LIMIT_PICKLE_BYTES / 2, PHI_E_LIMIT, "bytes of pickle");
}

static void test_values(void **state)
{
    (void)state;
    static const char data[] = "\x80\2}("
                               "X\1\0\0\0aK\xff"
                               "X\1\0\0\0bM\xff\xff"
                               "X\1\0\0\0cJ\xfe\xff\xff\xff"
                               "X\1\0\0\0d\x8a\2\xff\xff"
                               "U\1e\x8a\0"
                               "X\1\0\0\0f\x88"
                               "X\1\0\0\0gG\0\0\0\0\0\0\0\0"
                               "X\1\0\0\0h\x8f(NN\x90"
                               "X\1\0\0\0i](NNNNNNNe"
                               "X\1\0\0\0jc_codecs\nencode\nX\1\0\0\0x\x85R"
                               "X\1\0\0\0kctorch\nSize\nK\2K\3\x86\x85R"
                               "X\1\0\0\0aK\7"
                               "u}b.";
    static const struct {
        const char *key;
        phi_pickle_kind kind;
        int64_t value;
    } right[] = {
        {"a", PHI_PICKLE_INT, 7},   {"b", PHI_PICKLE_INT, 65535}, {"c", PHI_PICKLE_INT, -2},
        {"d", PHI_PICKLE_INT, -1},  {"e", PHI_PICKLE_INT, 0},     {"f", PHI_PICKLE_BOOL, 1},
        {"g", PHI_PICKLE_FLOAT, 0}, {"h", PHI_PICKLE_SET, 2},     {"i", PHI_PICKLE_LIST, 7},
        {"j", PHI_PICKLE_BYTES, 0}, {"k", PHI_PICKLE_TUPLE, 2},
    };
    phi_pickle pickle;
    phi_err err = {0};
    if (read_raw(data, sizeof data - 1, &pickle, &err) != PHI_OK) {
        fail_msg("%s", err.message);
    }
    for (size_t i = 0; i < sizeof right / sizeof *right; i++) {
        const phi_pickle_value *value = phi_pickle_get(&pickle.root, right[i].key);
        assert_non_null(value);
        assert_int_equal(value->kind, right[i].kind);
        if (value->kind == PHI_PICKLE_INT || value->kind == PHI_PICKLE_BOOL) {
            assert_int_equal(value->as.integer, right[i].value);
        } else if (value->kind >= PHI_PICKLE_TUPLE && value->kind <= PHI_PICKLE_DICT) {
            assert_int_equal(value->as.list->count, right[i].value);
        }
    }
    assert_null(phi_pickle_get(&pickle.root, "z"));
    assert_int_equal(pickle.end, 3 + sizeof data - 1);
    phi_pickle_done(&pickle);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_refused),
        cmocka_unit_test(test_nothing_is_run),
        cmocka_unit_test(test_every_other_opcode),
        cmocka_unit_test(test_bombs),
        cmocka_unit_test(test_values),
    };
    return cmocka_run_group_tests(tests, setup, teardown);
}

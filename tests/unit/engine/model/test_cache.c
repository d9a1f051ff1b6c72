/* Weights by way of a cache file: the same bits, never anything else, whatever the file holds. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include <dirent.h>
#include <fcntl.h>
#include <ftw.h>
#include <signal.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/file.h"
#include "base/mem.h"
#include "engine/model/pack_cache.h"
#include "engine/model/weights.h"

static const char *const sources[] = {"grouped", "tied", "split"};

static char dir[64];
static char path[96];
static phi_team *team;
static phi_checkpoint *checkpoint;

/* ---- what the tests share ---- */

static int remove_one(const char *name, const struct stat *info, int kind, struct FTW *walk)
{
    (void)info;
    (void)kind;
    (void)walk;
    return remove(name);
}

static int setup(void **state)
{
    (void)state;
    (void)snprintf(dir, sizeof dir, "/tmp/phid-cache-XXXXXX");
    if (!mkdtemp(dir)) {
        return -1;
    }
    (void)snprintf(path, sizeof path, "%s/model.packed", dir);
    return phi_team_create(3, &team, NULL) == PHI_OK &&
                   phi_checkpoint_open(PHID_SOURCE_DIR "/tests/golden/grouped", &checkpoint,
                                       NULL) == PHI_OK
               ? 0
               : -1;
}

static int teardown(void **state)
{
    (void)state;
    phi_checkpoint_close(checkpoint);
    phi_team_destroy(team);
    return nftw(dir, remove_one, 8, FTW_DEPTH | FTW_PHYS);
}

static phi_weights *open_weights(const phi_checkpoint *from, const char *sha256)
{
    phi_weights *weights = NULL;
    phi_err err = {0};
    const phi_weights_options options = {
        .run = {.team = team}, .cache_path = path, .source_sha256 = sha256};
    if (phi_weights_open(from, &options, &weights, &err)) {
        fail_msg("%s", err.message);
    }
    return weights;
}

static void assert_same_matrix(const phi_weight *a, const phi_weight *b)
{
    assert_int_equal(a->kind, b->kind);
    assert_int_equal(a->rows, b->rows);
    assert_int_equal(a->cols, b->cols);
    assert_int_equal(a->has_offsets, b->has_offsets);
    assert_int_equal(a->wide, b->wide);
    assert_memory_equal(a->codes, b->codes, (size_t)phi_weight_bytes(a));
}

static void assert_same(const phi_weights *a, const phi_weights *b)
{
    const phi_description *d = &a->description;
    assert_int_equal(a->bytes, b->bytes);
    assert_same_matrix(&a->embedding, &b->embedding);
    assert_same_matrix(phi_weights_head(a), phi_weights_head(b));
    assert_memory_equal(a->final_norm, b->final_norm, d->n_embd * sizeof(float));
    for (uint32_t i = 0; i < d->n_layer; i++) {
        const phi_layer_weights *x = &a->layers[i];
        const phi_layer_weights *y = &b->layers[i];
        assert_same_matrix(&x->qkv, &y->qkv);
        assert_same_matrix(&x->out, &y->out);
        assert_same_matrix(&x->up, &y->up);
        assert_same_matrix(&x->down, &y->down);
        assert_memory_equal(x->attn_norm, y->attn_norm, d->n_embd * sizeof(float));
        assert_memory_equal(x->ffn_norm, y->ffn_norm, d->n_embd * sizeof(float));
    }
}

/* How the next load comes by the weights, which are right in any case. */
static phi_weights_cache next_load(const char *sha256)
{
    phi_weights *plain = NULL;
    phi_weights *cached = open_weights(checkpoint, sha256);
    assert_int_equal(PHI_OK, phi_weights_load(checkpoint, NULL, NULL, &plain, NULL));
    assert_same(plain, cached);
    phi_weights_cache how = cached->cache;
    assert_true((how == PHI_WEIGHTS_CACHE_FAILED) == !cached->region.is_file);
    phi_weights_destroy(plain);
    phi_weights_destroy(cached);
    return how;
}

static size_t files_in_dir(void)
{
    size_t count = 0;
    DIR *handle = opendir(dir);
    assert_non_null(handle);
    for (struct dirent *entry = readdir(handle); entry; entry = readdir(handle)) {
        count += entry->d_name[0] != '.';
    }
    (void)closedir(handle);
    return count;
}

/* ---- tests ---- */

static void test_round_trip(void **state)
{
    (void)state;
    for (size_t i = 0; i < sizeof sources / sizeof *sources; i++) {
        phi_checkpoint *from = NULL;
        phi_weights *plain = NULL;
        char *name = phi_strfmt(PHID_SOURCE_DIR "/tests/golden/%s", sources[i]);
        assert_int_equal(PHI_OK, phi_checkpoint_open(name, &from, NULL));
        phi_free(name);
        assert_int_equal(PHI_OK, phi_weights_load(from, NULL, NULL, &plain, NULL));
        (void)unlink(path);
        phi_weights *built = open_weights(from, NULL);
        phi_weights *mapped = open_weights(from, NULL);
        assert_int_equal(built->cache, PHI_WEIGHTS_CACHE_BUILT);
        assert_string_equal(built->cache_reason, "there was none");
        assert_int_equal(mapped->cache, PHI_WEIGHTS_CACHE_MAPPED);
        assert_same(plain, built);
        assert_same(plain, mapped);
        phi_weights_destroy(plain);
        phi_weights_destroy(built);
        phi_weights_destroy(mapped);
        phi_checkpoint_close(from);
    }
    assert_int_equal(files_in_dir(), 1);
}

/* Bytes of memory that are this process's alone, and that it shares, in a mapping of the file. */
static void count_shared(uint64_t *out_maps, uint64_t *out_private_dirty)
{
    char line[512];
    bool ours = false;
    FILE *file = fopen("/proc/self/smaps", "re");
    assert_non_null(file);
    *out_maps = 0;
    *out_private_dirty = 0;
    while (fgets(line, sizeof line, file)) {
        unsigned long long kb = 0;
        if (strchr(line, '/') || strstr(line, "-p ") || strstr(line, " 00:00 ")) {
            ours = strstr(line, path) != NULL;
            *out_maps += ours ? 1 : 0;
        } else if (ours && sscanf(line, "Private_Dirty: %llu", &kb) == 1) {
            *out_private_dirty += kb;
        }
    }
    (void)fclose(file);
}

static void test_two_loads_share(void **state)
{
    (void)state;
    uint64_t maps = 0;
    uint64_t private_dirty = 1;
    (void)next_load(NULL);
    phi_weights *one = open_weights(checkpoint, NULL);
    phi_weights *two = open_weights(checkpoint, NULL);
    count_shared(&maps, &private_dirty);
    assert_int_equal(maps, 2);
    assert_int_equal(private_dirty, 0);
    /* A file that is replaced or deleted meanwhile changes nothing for who has it mapped. */
    assert_int_equal(unlink(path), 0);
    assert_int_equal(next_load(NULL), PHI_WEIGHTS_CACHE_BUILT);
    assert_same(one, two);
    phi_weights_destroy(one);
    phi_weights_destroy(two);
}

static void damage(off_t at, uint8_t bits)
{
    uint8_t byte;
    int fd = open(path, O_RDWR | O_CLOEXEC);
    assert_true(fd >= 0);
    assert_int_equal(pread(fd, &byte, 1, at), 1);
    byte ^= bits;
    assert_int_equal(pwrite(fd, &byte, 1, at), 1);
    (void)close(fd);
}

static void test_flipped_bits(void **state)
{
    (void)state;
    struct stat info;
    (void)next_load(NULL);
    assert_int_equal(next_load(NULL), PHI_WEIGHTS_CACHE_MAPPED);
    assert_int_equal(stat(path, &info), 0);
    /* Each part of the header, the table, and tensors from the first to the last byte. */
    static const off_t header[] = {0, 8, 12, 16, 40, 64, 96, 104, 112, 120, 130, 192, 208, 232};
    for (size_t i = 0; i < sizeof header / sizeof *header; i++) {
        damage(header[i], 1);
        assert_int_equal(next_load(NULL), PHI_WEIGHTS_CACHE_BUILT);
        assert_int_equal(next_load(NULL), PHI_WEIGHTS_CACHE_MAPPED);
    }
    for (off_t at = 4096; at < info.st_size; at += info.st_size / 13) {
        damage(at, 0x10);
        assert_int_equal(next_load(NULL), PHI_WEIGHTS_CACHE_BUILT);
    }
    damage(info.st_size - 1, 0x80);
    assert_int_equal(next_load(NULL), PHI_WEIGHTS_CACHE_BUILT);
    assert_int_equal(next_load(NULL), PHI_WEIGHTS_CACHE_MAPPED);
}

static void test_other_lengths(void **state)
{
    (void)state;
    struct stat info;
    (void)next_load(NULL);
    assert_int_equal(stat(path, &info), 0);
    const off_t lengths[] = {0, 7, 127, 128, 200, 4096, info.st_size - 1, info.st_size + 1};
    for (size_t i = 0; i < sizeof lengths / sizeof *lengths; i++) {
        assert_int_equal(truncate(path, lengths[i]), 0);
        assert_int_equal(next_load(NULL), PHI_WEIGHTS_CACHE_BUILT);
        assert_int_equal(next_load(NULL), PHI_WEIGHTS_CACHE_MAPPED);
    }
}

static void test_other_content(void **state)
{
    (void)state;
    phi_checkpoint *other = NULL;
    (void)next_load("aa");
    assert_int_equal(next_load("aa"), PHI_WEIGHTS_CACHE_MAPPED);
    assert_int_equal(next_load("ab"), PHI_WEIGHTS_CACHE_BUILT);
    assert_int_equal(next_load(NULL), PHI_WEIGHTS_CACHE_BUILT);
    /* Another model of the same name, even if it claims to be the same content. */
    (void)next_load("aa");
    assert_int_equal(PHI_OK,
                     phi_checkpoint_open(PHID_SOURCE_DIR "/tests/golden/mini", &other, NULL));
    phi_weights *weights = open_weights(other, "aa");
    assert_int_equal(weights->cache, PHI_WEIGHTS_CACHE_BUILT);
    assert_non_null(strstr(weights->cache_reason, "other tensors"));
    phi_weights_destroy(weights);
    phi_checkpoint_close(other);
}

/* Copies a golden model, so that a test may change it. */
static void copy_model(const char *to)
{
    static const char *const names[] = {"config.json", "model.safetensors"};
    assert_int_equal(PHI_OK, phi_file_make_dirs(to, NULL));
    for (size_t i = 0; i < 2; i++) {
        phi_file file;
        phi_file_writer *writer = NULL;
        char *from = phi_strfmt(PHID_SOURCE_DIR "/tests/golden/grouped/%s", names[i]);
        char *name = phi_strfmt("%s/%s", to, names[i]);
        assert_int_equal(PHI_OK, phi_file_open(from, &file, NULL));
        void *data = phi_alloc((size_t)file.bytes);
        assert_int_equal(PHI_OK, phi_file_read_at(&file, 0, data, (size_t)file.bytes, NULL));
        assert_int_equal(PHI_OK, phi_file_writer_create(name, &writer, NULL));
        assert_int_equal(PHI_OK, phi_file_writer_append(writer, data, (size_t)file.bytes, NULL));
        assert_int_equal(PHI_OK, phi_file_writer_commit(writer, NULL));
        phi_file_close(&file);
        phi_free(data);
        phi_free(from);
        phi_free(name);
    }
}

static phi_weights_cache load_copy(const char *from)
{
    phi_checkpoint *copy = NULL;
    assert_int_equal(PHI_OK, phi_checkpoint_open(from, &copy, NULL));
    phi_weights *weights = open_weights(copy, NULL);
    phi_weights_cache how = weights->cache;
    phi_weights_destroy(weights);
    phi_checkpoint_close(copy);
    return how;
}

static void test_source_that_changes(void **state)
{
    (void)state;
    char *folder = phi_strfmt("%s/copy", dir);
    char *file = phi_strfmt("%s/model.safetensors", folder);
    copy_model(folder);
    (void)unlink(path);
    assert_int_equal(load_copy(folder), PHI_WEIGHTS_CACHE_BUILT);
    assert_int_equal(load_copy(folder), PHI_WEIGHTS_CACHE_MAPPED);
    /* Touched. */
    const struct timespec times[2] = {{.tv_nsec = UTIME_OMIT}, {.tv_sec = 1000000000}};
    assert_int_equal(utimensat(AT_FDCWD, file, times, 0), 0);
    assert_int_equal(load_copy(folder), PHI_WEIGHTS_CACHE_BUILT);
    assert_int_equal(load_copy(folder), PHI_WEIGHTS_CACHE_MAPPED);
    /* Written to behind the clock's back. */
    int fd = open(file, O_RDWR | O_CLOEXEC);
    struct stat info;
    assert_int_equal(fstat(fd, &info), 0);
    assert_int_equal(pwrite(fd, "\x11", 1, info.st_size - 2), 1);
    (void)close(fd);
    assert_int_equal(utimensat(AT_FDCWD, file, times, 0), 0);
    assert_int_equal(load_copy(folder), PHI_WEIGHTS_CACHE_BUILT);
    /* Replaced. */
    copy_model(folder);
    assert_int_equal(utimensat(AT_FDCWD, file, times, 0), 0);
    assert_int_equal(load_copy(folder), PHI_WEIGHTS_CACHE_BUILT);
    assert_int_equal(nftw(folder, remove_one, 8, FTW_DEPTH | FTW_PHYS), 0);
    phi_free(file);
    phi_free(folder);
}

static void test_no_place_for_it(void **state)
{
    (void)state;
    char saved[sizeof path];
    memcpy(saved, path, sizeof path);
    /* A folder that is not there; one that takes no files; a folder in the file's place. */
    (void)snprintf(path, sizeof path, "%s/none/model.packed", dir);
    assert_int_equal(next_load(NULL), PHI_WEIGHTS_CACHE_FAILED);
    (void)snprintf(path, sizeof path, "/proc/model.packed");
    assert_int_equal(next_load(NULL), PHI_WEIGHTS_CACHE_FAILED);
    (void)snprintf(path, sizeof path, "%s/folder", dir);
    assert_int_equal(mkdir(path, 0700), 0);
    assert_int_equal(next_load(NULL), PHI_WEIGHTS_CACHE_FAILED);
    assert_int_equal(rmdir(path), 0);
    memcpy(path, saved, sizeof path);
}

static void test_disk_that_is_full(void **state)
{
    (void)state;
    struct rlimit before;
    (void)unlink(path);
    size_t files = files_in_dir();
    (void)signal(SIGXFSZ, SIG_IGN);
    assert_int_equal(getrlimit(RLIMIT_FSIZE, &before), 0);
    const struct rlimit little = {.rlim_cur = 8192, .rlim_max = before.rlim_max};
    assert_int_equal(setrlimit(RLIMIT_FSIZE, &little), 0);
    assert_int_equal(next_load(NULL), PHI_WEIGHTS_CACHE_FAILED);
    assert_int_equal(setrlimit(RLIMIT_FSIZE, &before), 0);
    assert_int_equal(files_in_dir(), files);
    assert_int_equal(next_load(NULL), PHI_WEIGHTS_CACHE_BUILT);
}

static bool stop(void *user, uint64_t done, uint64_t total)
{
    (void)done;
    (void)total;
    (*(int *)user)++;
    return false;
}

static void test_cancel_leaves_nothing(void **state)
{
    (void)state;
    phi_weights *weights = NULL;
    phi_err err = {0};
    int calls = 0;
    const phi_weights_options options = {.run = {.team = team, .progress = stop, .user = &calls},
                                         .cache_path = path};
    (void)unlink(path);
    size_t files = files_in_dir();
    assert_int_equal(PHI_E_CANCELLED, phi_weights_open(checkpoint, &options, &weights, &err));
    assert_null(weights);
    assert_int_equal(calls, 1);
    assert_int_equal(files_in_dir(), files);
    /* While a file is being verified too; it stays. */
    assert_int_equal(next_load(NULL), PHI_WEIGHTS_CACHE_BUILT);
    assert_int_equal(PHI_E_CANCELLED, phi_weights_open(checkpoint, &options, &weights, &err));
    assert_int_equal(calls, 2);
    assert_int_equal(next_load(NULL), PHI_WEIGHTS_CACHE_MAPPED);
}

/* A header that is whole but lies: what a program with a mistake would write. */
static void test_lying_headers(void **state)
{
    (void)state;
    phi_pack_entry entry = {
        .name = "x", .kind = PHI_WEIGHT_FP32, .rows = 16, .cols = 4, .offset = 0, .bytes = 256};
    const phi_pack_header good = {
        .file_bytes = 4096 + 256, .data_offset = 4096, .entries = &entry, .count = 1};
    const struct {
        size_t at;
        uint8_t value;
    } lies[] = {
        {104, 1},       /* data_offset not on a page */
        {105, 0},       /* inside the header */
        {107, 1},       /* behind the file */
        {128 + 64, 99}, /* kind */
        {128 + 64, 0},  /* INT4 of 4 columns */
        {128 + 68, 32}, /* groups of floats */
        {128 + 72, 17}, /* rows */
        {128 + 72, 0},  /* none */
        {128 + 80, 1},  /* offsets of floats */
        {128 + 80, 2},  /* a vector of 16 rows */
        {128 + 80, 4},  /* scales of floats, in fp32 */
        {128 + 80, 8},  /* an unknown flag */
        {128 + 88, 1},  /* not on a cache line */
        {128 + 88, 64}, /* ends behind the file */
        {128 + 94, 1},  /* far behind it */
        {128 + 97, 2},  /* longer than its shape */
    };
    uint8_t data[PHI_PACK_HEADER_BYTES + PHI_PACK_ENTRY_BYTES];
    phi_pack_header got = {0};
    phi_err err = {0};
    phi_pack_header_write(&good, data);
    assert_int_equal(PHI_OK, phi_pack_header_parse(data, sizeof data, 4352, &got, &err));
    assert_string_equal(got.entries[0].name, "x");
    phi_pack_header_done(&got);
    assert_int_equal(PHI_E_FORMAT, phi_pack_header_parse(data, sizeof data, 4351, &got, &err));
    for (size_t i = 0; i < sizeof lies / sizeof *lies; i++) {
        phi_pack_header_write(&good, data);
        data[lies[i].at] = lies[i].value;
        phi_pack_header_seal(data, sizeof data);
        if (phi_pack_header_parse(data, sizeof data, 4352, &got, &err) == PHI_OK) {
            fail_msg("lie %zu is believed", i);
        }
    }
}

/* The header of a file with one matrix of a form. */
static phi_pack_header header_of(const phi_form *form, uint32_t rows, uint32_t cols,
                                 phi_pack_entry *entry)
{
    phi_weight shape;
    assert_int_equal(PHI_OK, phi_weight_shape(&shape, form, rows, cols, NULL));
    *entry = (phi_pack_entry){.name = "x",
                              .has_offsets = form->has_offsets,
                              .wide = form->wide,
                              .kind = form->kind,
                              .group = form->group,
                              .rows = rows,
                              .cols = cols,
                              .bytes = phi_weight_bytes(&shape)};
    return (phi_pack_header){
        .file_bytes = 4096 + entry->bytes, .data_offset = 4096, .entries = entry, .count = 1};
}

/* Whether scales are in fp32 is read as it was written. A flag that says otherwise does not fit the
 * matrix's bytes. */
static void test_wide_headers(void **state)
{
    (void)state;
    for (int i = 0; i < 8; i++) {
        const phi_form form = {.kind = i % 2 ? PHI_WEIGHT_INT4 : PHI_WEIGHT_INT8,
                               .group = 32,
                               .has_offsets = i / 2 % 2,
                               .wide = i / 4};
        uint8_t data[PHI_PACK_HEADER_BYTES + PHI_PACK_ENTRY_BYTES];
        phi_pack_entry entry;
        phi_pack_header got = {0};
        phi_err err = {0};
        const phi_pack_header header = header_of(&form, 40, 64, &entry);
        phi_pack_header_write(&header, data);
        assert_int_equal(PHI_OK,
                         phi_pack_header_parse(data, sizeof data, header.file_bytes, &got, &err));
        assert_int_equal(got.entries[0].wide, form.wide);
        assert_int_equal(got.entries[0].has_offsets, form.has_offsets);
        assert_int_equal(got.entries[0].bytes, entry.bytes);
        phi_pack_header_done(&got);
        data[PHI_PACK_HEADER_BYTES + 80] ^= 4;
        phi_pack_header_seal(data, sizeof data);
        assert_int_equal(PHI_E_FORMAT,
                         phi_pack_header_parse(data, sizeof data, header.file_bytes, &got, &err));
        assert_non_null(strstr(err.message, "do not fit its shape"));
    }
}

/* A small matrix has as many bytes with its scales in fp32 as in fp16, for planes fill whole cache
 * lines: a file of the one is not taken for the other. */
static void test_wide_is_another_form(void **state)
{
    (void)state;
    const phi_form wide = {.kind = PHI_WEIGHT_INT4, .group = 32, .wide = true};
    const phi_form narrow = {.kind = PHI_WEIGHT_INT4, .group = 32};
    const phi_tensor source = {.name = "x", .n_dims = 2, .rows = 16, .cols = 32};
    const phi_pack_key key = {{0}, {0}};
    const phi_pack_run run = {.team = team};
    uint8_t data[4096 + 320] = {0};
    phi_pack_entry entry;
    phi_pack_tensor tensor = {.source = &source};
    const phi_pack pack = {.tensors = &tensor, .count = 1, .bytes = 320};
    phi_file_writer *writer = NULL;
    phi_region region = {0};
    uint64_t data_offset = 0;
    phi_err err = {0};
    const phi_pack_header header = header_of(&wide, 16, 32, &entry);
    phi_pack_header_write(&header, data);
    assert_int_equal(PHI_OK, phi_file_writer_create(path, &writer, NULL));
    assert_int_equal(PHI_OK, phi_file_writer_append(writer, data, sizeof data, NULL));
    assert_int_equal(PHI_OK, phi_file_writer_commit(writer, NULL));
    assert_int_equal(PHI_OK, phi_weight_shape(&tensor.shape, &narrow, 16, 32, NULL));
    tensor.bytes = phi_weight_bytes(&tensor.shape);
    assert_int_equal(tensor.bytes, entry.bytes);
    assert_int_equal(PHI_E_STATE,
                     phi_pack_cache_open(path, &pack, &key, &run, &region, &data_offset, &err));
    assert_non_null(strstr(err.message, "placed in another way"));
    /* As what it is, it only lacks the sum of its tensor. */
    assert_int_equal(PHI_OK, phi_weight_shape(&tensor.shape, &wide, 16, 32, NULL));
    assert_int_equal(PHI_E_FORMAT,
                     phi_pack_cache_open(path, &pack, &key, &run, &region, &data_offset, &err));
    assert_non_null(strstr(err.message, "tensor x is damaged"));
    assert_int_equal(unlink(path), 0);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_round_trip),
        cmocka_unit_test(test_two_loads_share),
        cmocka_unit_test(test_flipped_bits),
        cmocka_unit_test(test_other_lengths),
        cmocka_unit_test(test_other_content),
        cmocka_unit_test(test_source_that_changes),
        cmocka_unit_test(test_no_place_for_it),
        cmocka_unit_test(test_disk_that_is_full),
        cmocka_unit_test(test_cancel_leaves_nothing),
        cmocka_unit_test(test_lying_headers),
        cmocka_unit_test(test_wide_headers),
        cmocka_unit_test(test_wide_is_another_form),
    };
    return cmocka_run_group_tests(tests, setup, teardown);
}

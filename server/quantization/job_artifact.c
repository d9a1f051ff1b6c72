/* What jobs make: files on their way into the store, and folders of other runtimes as archives. */
#include "server/quantization/job_run.h"

#include <inttypes.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

#include "base/assert.h"
#include "base/clock.h"
#include "base/file.h"
#include "base/hash.h"
#include "base/mem.h"
#include "base/str.h"
#include "server/quantization/job_json.h"
#include "server/quantization/job_pack.h"

#define HASH_BLOCK_BYTES (1U << 20)
/* Of writing a format: making the archive comes after making the files. */
#define PACK_SHARE 0.2

phi_store_artifact *phi_job_add_artifact(phi_job_run_state *self, const char *suffix, char *path)
{
    const phi_store_job *record = &self->job->record;
    PHI_ASSERT(self->n_artifacts < sizeof self->artifacts / sizeof *self->artifacts);
    phi_store_artifact *artifact = &self->artifacts[self->n_artifacts++];
    *artifact = (phi_store_artifact){.path = path,
                                     .file = {.created_s = phi_clock_unix_s(), .purpose = "model"}};
    phi_random_id("file-", artifact->file.id, sizeof artifact->file.id);
    (void)snprintf(artifact->file.filename, sizeof artifact->file.filename, "%.64s-%s%s",
                   record->model, record->precision, suffix);
    return artifact;
}

phi_status phi_job_hash_artifact(phi_job_run_state *self, phi_store_artifact *artifact,
                                 phi_err *err)
{
    phi_file result;
    phi_store_file *file = &artifact->file;
    phi_status status = phi_file_open(artifact->path, &result, err);
    if (status) {
        return status;
    }
    phi_sha256 hash;
    phi_sha256_init(&hash);
    char *block = phi_alloc(HASH_BLOCK_BYTES);
    file->bytes = result.bytes;
    for (uint64_t at = 0; at < result.bytes && !status;) {
        uint64_t left = result.bytes - at;
        size_t want = left < HASH_BLOCK_BYTES ? (size_t)left : HASH_BLOCK_BYTES;
        status = phi_file_read_at(&result, at, block, want, err);
        if (!status && phi_job_told_to_end(self->job)) {
            status = phi_fail(err, PHI_E_CANCELLED, "stopped while hashing the result");
        }
        if (!status) {
            phi_sha256_update(&hash, block, want);
            at += want;
        }
    }
    phi_free(block);
    phi_file_close(&result);
    uint8_t digest[PHI_SHA256_BYTES];
    phi_sha256_finish(&hash, digest);
    phi_str_hex(digest, sizeof digest, file->sha256);
    return status;
}

/* ---- other formats ---- */

typedef struct exporting {
    phi_job_run_state *run;
    double low;
    double high; /* of the step at hand */
} exporting;

static bool on_progress(void *user, uint64_t bytes_done, uint64_t bytes_total)
{
    exporting *self = user;
    double done = bytes_total ? (double)bytes_done / (double)bytes_total : 0.0;
    phi_job_progress now = {.stage = "exporting",
                            .fraction = self->low + done * (self->high - self->low),
                            .bytes_done = bytes_done,
                            .bytes_total = bytes_total};
    return phi_job_report(self->run, &now, NULL);
}

static void tell_report(const phi_job_run_state *run, const char *format,
                        const phi_convert_report *report, uint64_t bytes)
{
    phi_store *store = run->job->app->store;
    const char *id = run->job->record.id;
    if (report->exact == report->matrices) {
        phi_job_add_event(store, id, "info", "message", NULL,
                          "%s: %" PRIu64 " bytes, all %" PRIu32 " matrices exactly as they are",
                          format, bytes, report->matrices);
    } else {
        phi_job_add_event(store, id, "warn", "message", NULL,
                          "%s: %" PRIu64 " bytes; of %" PRIu32 " matrices %" PRIu32
                          " were coded anew, %" PRIu32 " got scales rounded to fp16, %" PRIu32
                          " were rounded to fp16",
                          format, bytes, report->matrices, report->requantized, report->rescaled,
                          phi_job_rounded(report));
    }
}

static phi_status pack(exporting *self, const char *dir, const char *format, phi_err *err)
{
    phi_job_run_state *run = self->run;
    char *suffix = phi_strfmt("-%s.tar", format);
    phi_store_artifact *artifact =
        phi_job_add_artifact(run, suffix, phi_strfmt("%s/%s.tar", run->work_dir, format));
    char *folder =
        phi_strndup(artifact->file.filename, strlen(artifact->file.filename) - strlen(".tar"));
    const phi_job_pack_options options = {.dir = dir,
                                          .folder = folder,
                                          .out_path = artifact->path,
                                          .time_s = run->job->record.created_s,
                                          .progress = on_progress,
                                          .user = self};
    phi_status status = phi_job_pack(&options, &artifact->file, err);
    phi_free(folder);
    phi_free(suffix);
    return status;
}

phi_status phi_job_write_format(phi_job_run_state *run, phi_convert_options *options,
                                phi_convert_report *out_report, phi_err *err)
{
    const char *format = phi_convert_format_name(options->format);
    exporting self = {.run = run, .low = 0.0, .high = 1.0 - PACK_SHARE};
    char *dir = phi_strfmt("%s/%s", run->work_dir, format);
    options->out_dir = dir;
    options->progress = on_progress;
    options->progress_user = &self;
    phi_status status = phi_engine_convert(run->job->app->engine, options, out_report, err);
    if (!status) {
        self.low = self.high;
        self.high = 1.0;
        status = pack(&self, dir, format, err);
    }
    if (status == PHI_OK) {
        tell_report(run, format, out_report, run->artifacts[run->n_artifacts - 1].file.bytes);
    } else if (status != PHI_E_CANCELLED) {
        (void)phi_fail_context(err, status, "%s", format);
    }
    (void)rmdir(dir);
    phi_free(dir);
    return status;
}

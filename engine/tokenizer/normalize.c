#include "engine/tokenizer/normalize.h"

#include <string.h>

#include "base/mem.h"
#include "config/limits.h"

void phi_marked_init(phi_marked *marked)
{
    phi_buf_init(&marked->text, 4 * (size_t)PHI_LIMIT_TEXT_BYTES);
    phi_buf_init(&marked->trust, 4 * (size_t)PHI_LIMIT_TEXT_BYTES);
}

void phi_marked_done(phi_marked *marked)
{
    phi_buf_done(&marked->text);
    phi_buf_done(&marked->trust);
}

void phi_marked_append(phi_marked *marked, const char *text, size_t bytes, bool trusted)
{
    char marks[64];
    memset(marks, trusted, sizeof marks);
    phi_buf_append(&marked->text, text, bytes);
    for (size_t done = 0; done < bytes;) {
        size_t part = bytes - done < sizeof marks ? bytes - done : sizeof marks;
        phi_buf_append(&marked->trust, marks, part);
        done += part;
    }
}

bool phi_marked_failed(const phi_marked *marked)
{
    return phi_buf_failed(&marked->text) || phi_buf_failed(&marked->trust);
}

void phi_normalizer_done(phi_normalizer *normalizer)
{
    for (size_t i = 0; i < normalizer->count; i++) {
        phi_free(normalizer->steps[i].find);
        phi_free(normalizer->steps[i].put);
    }
    normalizer->count = 0;
}

phi_status phi_normalizer_add(phi_normalizer *normalizer, const char *find, const char *put)
{
    if (normalizer->count == PHI_NORMALIZE_STEPS_MAX) {
        return PHI_E_LIMIT;
    }
    normalizer->steps[normalizer->count++] = (phi_normalize_step){
        .find = find ? phi_strdup(find) : NULL,
        .find_bytes = find ? strlen(find) : 0,
        .put = phi_strdup(put),
        .put_bytes = strlen(put),
    };
    return PHI_OK;
}

static bool all_marked(const char *trust, size_t bytes)
{
    return memchr(trust, 0, bytes) == NULL;
}

static void run_replace(const phi_normalize_step *step, const char *text, const char *trust,
                        size_t bytes, phi_marked *out)
{
    size_t kept = 0;
    for (size_t at = 0; at < bytes && !phi_marked_failed(out);) {
        const char *hit = memmem(text + at, bytes - at, step->find, step->find_bytes);
        if (!hit) {
            break;
        }
        size_t begin = (size_t)(hit - text);
        phi_buf_append(&out->text, text + kept, begin - kept);
        phi_buf_append(&out->trust, trust + kept, begin - kept);
        phi_marked_append(out, step->put, step->put_bytes,
                          all_marked(trust + begin, step->find_bytes));
        at = begin + step->find_bytes;
        kept = at;
    }
    phi_buf_append(&out->text, text + kept, bytes - kept);
    phi_buf_append(&out->trust, trust + kept, bytes - kept);
}

static void run_step(const phi_normalize_step *step, const char *text, const char *trust,
                     size_t bytes, phi_marked *out)
{
    if (step->find) {
        run_replace(step, text, trust, bytes, out);
        return;
    }
    if (bytes) {
        phi_marked_append(out, step->put, step->put_bytes, trust[0] != 0);
    }
    phi_buf_append(&out->text, text, bytes);
    phi_buf_append(&out->trust, trust, bytes);
}

phi_status phi_normalizer_run(const phi_normalizer *normalizer, const char *text, const char *trust,
                              size_t bytes, phi_marked *out)
{
    phi_marked now;
    phi_marked_init(&now);
    phi_buf_append(&now.text, text, bytes);
    phi_buf_append(&now.trust, trust, bytes);
    for (size_t i = 0; i < normalizer->count && !phi_marked_failed(&now); i++) {
        phi_marked next;
        phi_marked_init(&next);
        run_step(&normalizer->steps[i], now.text.data ? now.text.data : "",
                 now.trust.data ? now.trust.data : "", now.text.length_bytes, &next);
        phi_marked_done(&now);
        now = next;
    }
    phi_buf_append(&out->text, phi_buf_text(&now.text), now.text.length_bytes);
    phi_buf_append(&out->trust, phi_buf_text(&now.trust), now.trust.length_bytes);
    phi_status status = phi_buf_failed(&now.text) ? now.text.failed : out->text.failed;
    if (status == PHI_OK) {
        status = phi_buf_failed(&now.trust) ? now.trust.failed : out->trust.failed;
    }
    phi_marked_done(&now);
    return status;
}

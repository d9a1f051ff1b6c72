/*
 * Purpose: the bodies of POST and PUT /v1/files on their way to disk, with resume.
 * Owns:    a phi_file_upload from a sink's begin to publish or abort: descriptor, claim, part file.
 * Threads: begin, abort and phi_file_upload_end are [loop], write and finish [job].
 * Errors:  PHI_E_NO_SPACE for a full disk; the query parameter or header is named.
 * Limits:  settings.max_upload_bytes; memory does not grow with the file.
 *
 * A PUT whose length is known (Content-Range, else Content-Length) can be resumed: when it breaks,
 * what has arrived stays in incoming/ under (client, filename, purpose), HEAD tells how much that
 * is, and a PUT with a Content-Range that begins there goes on. A PUT without Content-Range begins
 * anew. Everything else (a form, a chunked PUT) is forgotten when it breaks.
 */
#ifndef PHI_SERVER_OPENAI_FILE_UPLOAD_H
#define PHI_SERVER_OPENAI_FILE_UPLOAD_H

#include "base/hash.h"
#include "server/app.h"
#include "server/http/http.h"
#include "server/store/store.h"

typedef struct phi_file_upload {
    phi_app *app;
    phi_store_upload key; /* total_bytes is UINT64_MAX while unknown */
    bool resumable;
    bool claimed;       /* phi_store_upload_unclaim is due */
    bool fresh;         /* not a continuation: the row, if any, is still to be added */
    bool discard;       /* not worth keeping, whatever it is */
    uint64_t end_bytes; /* this body ends here */
    uint64_t at_bytes;  /* bytes on disk */
    int fd;             /* -1 until the first write */
    char *path;
    phi_sha256 hash; /* of the bytes on disk */
    char sha256[PHI_STORE_SHA_BYTES];
    bool complete; /* finish saw the whole file */
} phi_file_upload;

extern const phi_body_sink phi_file_form_sink;
extern const phi_body_sink phi_file_put_sink;

/* Rejects what is not a plain file name; `param` names the field. */
phi_status phi_file_check_name(const char *filename, const char *param,
                               phi_err *err) PHI_MUST_CHECK;
phi_status phi_file_check_purpose(const char *purpose, phi_err *err) PHI_MUST_CHECK;
/* Ends an upload of which nothing is left to remove or to sync: it was published, or it is a part
 * after which more is to come. The next request for it may follow at once. */
void phi_file_upload_close(phi_file_upload *upload);
/* Ends an upload: closes it and, unless it is incomplete and worth keeping, removes its bytes. */
void phi_file_upload_end(phi_file_upload *upload);

#endif

/*
 * Purpose: where the files of a zip archive lie, for archives whose files are stored as they are
 *          (layout: PKWARE's APPNOTE.TXT, sections 4.3 and 4.5.3; ZIP64 included).
 * Owns:    phi_zip owns the list and the names; the file stays the caller's.
 * Threads: after open, any number of readers.
 * Errors:  the archive and the entry are named; what is compressed, encrypted or split over disks
 *          is PHI_E_UNSUPPORTED; an entry that overlaps another or reaches outside the archive, a
 *          name that is there twice, and a directory that contradicts itself are PHI_E_FORMAT.
 * Limits:  PHI_LIMIT_ZIP_ENTRIES, PHI_LIMIT_ZIP_DIRECTORY_BYTES.
 *
 * Checksums are not looked at: they would have every byte read before the first is used.
 */
#ifndef PHI_ENGINE_FORMATS_ZIP_H
#define PHI_ENGINE_FORMATS_ZIP_H

#include "base/file.h"
#include "base/status.h"

#include <stddef.h>
#include <stdint.h>

typedef struct phi_zip_entry {
    const char *name;
    uint64_t header_offset; /* of what introduces the entry */
    uint64_t offset;        /* absolute, of its first byte */
    uint64_t bytes;
} phi_zip_entry;

typedef struct phi_zip {
    phi_zip_entry *entries; /* [count], in file order */
    size_t count;
    char *names; /* storage of the names */
} phi_zip;

phi_status phi_zip_open(const phi_file *file, phi_zip *out_zip, phi_err *err) PHI_MUST_CHECK;
/* Accepts NULL and what was never opened. */
void phi_zip_close(phi_zip *zip);
/* NULL when there is none of this name. */
const phi_zip_entry *phi_zip_find(const phi_zip *zip, const char *name);

#endif

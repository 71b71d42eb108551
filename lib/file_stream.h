/* SPDX-License-Identifier: Apache-2.0
 *
 * Bytes in and out of files, plain or gzip: a reader that knows in advance how much a file can hold, and a writer
 * that replaces a file as a whole or not at all. safetensors.c is the only caller.
 */
#ifndef MMEBM_FILE_STREAM_H
#define MMEBM_FILE_STREAM_H

#include "context.h"

/* Content of a compressed file: a longer one is neither written nor read. */
#define MMEBM_GZIP_MAX_CONTENT (UINT64_C(4) << 30)

typedef struct mmebm_file_reader mmebm_file_reader;

/* Opens a regular file; one that starts with 1f 8b is inflated. (A plain safetensors file cannot start so: its length
 * field would be odd, and the headers that this library writes are multiples of 8.) path must outlive the reader. */
mmebm_status mmebm__reader_open(mmebm_context *context, const char *path, mmebm_file_reader **reader);
void mmebm__reader_close(mmebm_file_reader **reader); /* NULL is fine */
/* The most bytes that the content can have; *exact says that it has exactly these. Deflate makes at most 1032 bytes
 * of one, so that a small file cannot ask for much memory. */
uint64_t mmebm__reader_bound(const mmebm_file_reader *reader, int *exact);
/* The next size bytes; fewer are MMEBM_E_FORMAT. */
mmebm_status mmebm__reader_read(mmebm_file_reader *reader, void *bytes, size_t size);
/* MMEBM_E_FORMAT unless the content ends here, gzip's own checksum included. */
mmebm_status mmebm__reader_finish(mmebm_file_reader *reader);

typedef struct mmebm_file_writer mmebm_file_writer;

/* Creates "<path>.tmp.<pid>.<number>" beside path. An existing path must be a regular file; its permissions are
 * kept. */
mmebm_status mmebm__writer_open(mmebm_context *context, const char *path, int gzip, mmebm_file_writer **writer);
mmebm_status mmebm__writer_write(mmebm_file_writer *writer, const void *bytes, size_t size);
/* Flushes to the device and renames to path. */
mmebm_status mmebm__writer_commit(mmebm_file_writer *writer);
/* Without a commit before it, removes the temporary file and leaves path as it was. NULL is fine. */
void mmebm__writer_close(mmebm_file_writer **writer);

#endif /* MMEBM_FILE_STREAM_H */

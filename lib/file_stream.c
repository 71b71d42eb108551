/* SPDX-License-Identifier: Apache-2.0
 *
 * File reader and writer (file_stream.h) over POSIX calls and zlib, whose memory comes from the context too.
 */
#include "file_stream.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>
#include <zlib.h>

enum {
    BUFFER_SIZE = 1 << 16,
    DEFLATE_MAX_RATIO = 1032, /* zlib's documentation, "maximum compression factor" */
    GZIP_WINDOW = 15 + 16,    /* largest window, gzip wrapper */
    GZIP_LEVEL = 1,           /* weights hardly compress: higher levels cost time and gain nothing */
    GZIP_MEMORY = 8,          /* zlib's default */
    MAX_TEMPORARY_NAMES = 100,
    ZLIB_HEADER = 64 /* bytes before each block of zlib's: its size, and the alignment kept */
};

static voidpf zlib_allocate(voidpf context, uInt items, uInt size)
{
    size_t total;
    if (!mmebm__checked_mul(items, size, &total) || !mmebm__checked_add(total, ZLIB_HEADER, &total)) return NULL;
    unsigned char *block = mmebm__allocate(context, total);
    if (!block) return NULL;
    memcpy(block, &total, sizeof total);
    return block + ZLIB_HEADER;
}

static void zlib_release(voidpf context, voidpf memory)
{
    size_t total;
    unsigned char *block = (unsigned char *)memory - ZLIB_HEADER;
    memcpy(&total, block, sizeof total);
    mmebm__free(context, block, total);
}

/* ---- reading */

struct mmebm_file_reader {
    mmebm_context *context;
    const char *path;
    int descriptor;
    uint64_t file_size;
    uint64_t delivered; /* bytes of content handed out */
    int gzip;           /* stream is initialised */
    int stream_ended;
    z_stream stream;
    unsigned char input[BUFFER_SIZE];
};

/* Up to size bytes; fewer only at the end of the file. */
static mmebm_status read_file(mmebm_file_reader *reader, unsigned char *bytes, size_t size, size_t *got)
{
    for (*got = 0; *got < size;) {
        const ssize_t n = read(reader->descriptor, bytes + *got, size - *got);
        if (n == 0) break;
        if (n < 0 && errno == EINTR) continue;
        if (n < 0)
            return mmebm__fail(reader->context, MMEBM_E_IO, "'%s' cannot be read: %s", reader->path, strerror(errno));
        *got += (size_t)n;
    }
    return MMEBM_OK;
}

static mmebm_status open_regular(mmebm_file_reader *reader)
{
    struct stat info;
    do {
        reader->descriptor = open(reader->path, O_RDONLY | O_CLOEXEC | O_NONBLOCK); /* a FIFO must not hang */
    } while (reader->descriptor < 0 && errno == EINTR);
    if (reader->descriptor < 0 || fstat(reader->descriptor, &info) != 0)
        return mmebm__fail(reader->context, MMEBM_E_IO, "'%s' cannot be opened: %s", reader->path, strerror(errno));
    if (!S_ISREG(info.st_mode))
        return mmebm__fail(reader->context, MMEBM_E_IO, "'%s' is not a regular file", reader->path);
    reader->file_size = (uint64_t)info.st_size;
    return MMEBM_OK;
}

static mmebm_status begin_inflate(mmebm_file_reader *reader)
{
    unsigned char magic[2];
    if (pread(reader->descriptor, magic, sizeof magic, 0) != sizeof magic) return MMEBM_OK;
    if (magic[0] != 0x1f || magic[1] != 0x8b) return MMEBM_OK;
    reader->stream.zalloc = zlib_allocate;
    reader->stream.zfree = zlib_release;
    reader->stream.opaque = reader->context;
    if (inflateInit2(&reader->stream, GZIP_WINDOW) != Z_OK)
        return mmebm__fail(reader->context, MMEBM_E_MEMORY, "'%s': no memory for decompression", reader->path);
    reader->gzip = 1;
    return MMEBM_OK;
}

mmebm_status mmebm__reader_open(mmebm_context *context, const char *path, mmebm_file_reader **reader)
{
    *reader = NULL;
    mmebm_file_reader *r = mmebm__allocate(context, sizeof *r);
    if (!r) return MMEBM_E_MEMORY;
    r->context = context;
    r->path = path;
    r->descriptor = -1;
    mmebm_status status = open_regular(r);
    if (status == MMEBM_OK) status = begin_inflate(r);
    if (status != MMEBM_OK) mmebm__reader_close(&r);
    *reader = r;
    return status;
}

void mmebm__reader_close(mmebm_file_reader **reader)
{
    mmebm_file_reader *r = *reader;
    *reader = NULL;
    if (!r) return;
    if (r->gzip) inflateEnd(&r->stream);
    if (r->descriptor >= 0) close(r->descriptor);
    mmebm__free(r->context, r, sizeof *r);
}

uint64_t mmebm__reader_bound(const mmebm_file_reader *reader, int *exact)
{
    *exact = !reader->gzip;
    if (!reader->gzip) return reader->file_size;
    if (reader->file_size > MMEBM_GZIP_MAX_CONTENT / DEFLATE_MAX_RATIO) return MMEBM_GZIP_MAX_CONTENT;
    return reader->file_size * DEFLATE_MAX_RATIO;
}

static mmebm_status ends_early(const mmebm_file_reader *reader)
{
    return mmebm__fail(reader->context, MMEBM_E_FORMAT, "'%s' ends early, after %llu bytes of content", reader->path,
                       (unsigned long long)reader->delivered);
}

/* Inflates up to size bytes; fewer only at the end of the compressed stream. */
static mmebm_status read_inflated(mmebm_file_reader *reader, unsigned char *bytes, size_t size, size_t *got)
{
    z_stream *stream = &reader->stream;
    stream->next_out = bytes;
    stream->avail_out = (uInt)size;
    while (!reader->stream_ended) {
        if (stream->avail_in == 0) {
            size_t n;
            MMEBM_TRY(read_file(reader, reader->input, sizeof reader->input, &n));
            if (n == 0) return ends_early(reader);
            stream->next_in = reader->input;
            stream->avail_in = (uInt)n;
        }
        const int result = inflate(stream, Z_NO_FLUSH);
        if (result == Z_STREAM_END) {
            reader->stream_ended = 1;
        } else if (result == Z_MEM_ERROR) {
            return mmebm__fail(reader->context, MMEBM_E_MEMORY, "'%s': no memory for decompression", reader->path);
        } else if (result != Z_OK && result != Z_BUF_ERROR) {
            return mmebm__fail(reader->context, MMEBM_E_FORMAT, "'%s': damaged gzip data: %s", reader->path,
                               stream->msg ? stream->msg : "unknown cause");
        } else if (stream->avail_out == 0) {
            break;
        }
    }
    *got = size - stream->avail_out;
    return MMEBM_OK;
}

mmebm_status mmebm__reader_read(mmebm_file_reader *reader, void *bytes, size_t size)
{
    unsigned char *target = bytes;
    for (size_t done = 0; done < size;) {
        const size_t want = size - done < (1u << 30) ? size - done : 1u << 30; /* zlib counts in unsigned int */
        size_t got;
        if (reader->gzip)
            MMEBM_TRY(read_inflated(reader, target + done, want, &got));
        else
            MMEBM_TRY(read_file(reader, target + done, want, &got));
        done += got;
        reader->delivered += got;
        if (got < want) return ends_early(reader);
    }
    return MMEBM_OK;
}

mmebm_status mmebm__reader_finish(mmebm_file_reader *reader)
{
    unsigned char byte;
    size_t got = 0, left = 0;
    if (reader->gzip) MMEBM_TRY(read_inflated(reader, &byte, 1, &got));
    if (got == 0) {
        left = reader->gzip ? reader->stream.avail_in : 0;
        if (left == 0) MMEBM_TRY(read_file(reader, &byte, 1, &left));
    }
    if (got == 0 && left == 0) return MMEBM_OK;
    return mmebm__fail(reader->context, MMEBM_E_FORMAT, "'%s' goes on after the end of its content, byte %llu",
                       reader->path, (unsigned long long)reader->delivered);
}

/* ---- writing */

struct mmebm_file_writer {
    mmebm_context *context;
    const char *path;
    char *temporary; /* the file's name while it exists, "" otherwise */
    size_t temporary_size;
    int descriptor;
    mode_t mode;
    int keep_mode; /* path exists: the new file gets its mode */
    int gzip;      /* stream is initialised */
    uint64_t content;
    z_stream stream;
    unsigned char output[BUFFER_SIZE]; /* of deflate */
};

static mmebm_status write_failed(const mmebm_file_writer *writer)
{
    return mmebm__fail(writer->context, MMEBM_E_IO, "'%s' cannot be written: %s", writer->path, strerror(errno));
}

static mmebm_status write_file(mmebm_file_writer *writer, const unsigned char *bytes, size_t size)
{
    while (size > 0) {
        const ssize_t n = write(writer->descriptor, bytes, size);
        if (n < 0 && errno == EINTR) continue;
        if (n <= 0) return write_failed(writer);
        bytes += n;
        size -= (size_t)n;
    }
    return MMEBM_OK;
}

static mmebm_status create_temporary(mmebm_file_writer *writer)
{
    struct stat info;
    if (stat(writer->path, &info) == 0) {
        if (!S_ISREG(info.st_mode))
            return mmebm__fail(writer->context, MMEBM_E_IO, "'%s' exists and is not a regular file", writer->path);
        writer->keep_mode = 1;
        writer->mode = info.st_mode & 0777;
    }
    for (int number = 0; number < MAX_TEMPORARY_NAMES; ++number) {
        snprintf(writer->temporary, writer->temporary_size, "%s.tmp.%ld.%d", writer->path, (long)getpid(), number);
        writer->descriptor = open(writer->temporary, O_WRONLY | O_CREAT | O_EXCL | O_CLOEXEC, 0666);
        if (writer->descriptor >= 0) break;
        if (errno == EINTR) --number;
        else if (errno != EEXIST) break;
    }
    if (writer->descriptor < 0) {
        writer->temporary[0] = '\0';
        return write_failed(writer);
    }
    if (writer->keep_mode && fchmod(writer->descriptor, writer->mode) != 0) return write_failed(writer);
    return MMEBM_OK;
}

static mmebm_status begin_deflate(mmebm_file_writer *writer)
{
    writer->stream.zalloc = zlib_allocate;
    writer->stream.zfree = zlib_release;
    writer->stream.opaque = writer->context;
    if (deflateInit2(&writer->stream, GZIP_LEVEL, Z_DEFLATED, GZIP_WINDOW, GZIP_MEMORY, Z_DEFAULT_STRATEGY) != Z_OK)
        return mmebm__fail(writer->context, MMEBM_E_MEMORY, "'%s': no memory for compression", writer->path);
    writer->gzip = 1;
    return MMEBM_OK;
}

mmebm_status mmebm__writer_open(mmebm_context *context, const char *path, int gzip, mmebm_file_writer **writer)
{
    enum { SUFFIX_SIZE = 48 };
    *writer = NULL;
    mmebm_file_writer *w = mmebm__allocate(context, sizeof *w);
    if (!w) return MMEBM_E_MEMORY;
    w->context = context;
    w->path = path;
    w->descriptor = -1;
    w->temporary_size = strlen(path) + SUFFIX_SIZE;
    w->temporary = mmebm__allocate(context, w->temporary_size);
    mmebm_status status = w->temporary ? MMEBM_OK : MMEBM_E_MEMORY;
    if (status == MMEBM_OK && gzip) status = begin_deflate(w);
    if (status == MMEBM_OK) status = create_temporary(w);
    if (status != MMEBM_OK) mmebm__writer_close(&w);
    *writer = w;
    return status;
}

/* Runs deflate over what stream->next_in holds and writes what comes out. */
static mmebm_status deflate_all(mmebm_file_writer *writer, int flush)
{
    z_stream *stream = &writer->stream;
    do {
        stream->next_out = writer->output;
        stream->avail_out = sizeof writer->output;
        deflate(stream, flush); /* cannot fail on a sound stream: zlib.h */
        MMEBM_TRY(write_file(writer, writer->output, sizeof writer->output - stream->avail_out));
    } while (stream->avail_out == 0);
    return MMEBM_OK;
}

mmebm_status mmebm__writer_write(mmebm_file_writer *writer, const void *bytes, size_t size)
{
    if (!writer->gzip) return write_file(writer, bytes, size);
    writer->content += size;
    if (writer->content > MMEBM_GZIP_MAX_CONTENT)
        return mmebm__fail(writer->context, MMEBM_E_UNSUPPORTED,
                           "'%s': more than %llu bytes are not compressed; save without gzip", writer->path,
                           (unsigned long long)MMEBM_GZIP_MAX_CONTENT);
    const unsigned char *from = bytes;
    while (size > 0) {
        const uInt piece = size < (1u << 30) ? (uInt)size : 1u << 30;
        writer->stream.next_in = (z_const Bytef *)from;
        writer->stream.avail_in = piece;
        MMEBM_TRY(deflate_all(writer, Z_NO_FLUSH));
        from += piece;
        size -= piece;
    }
    return MMEBM_OK;
}

/* The folder of path is flushed, so that the new name survives a power cut. Where that cannot be done (EINVAL: the file
 * system; EACCES: a folder that may be written but not read) the file stands all the same. */
static mmebm_status sync_folder(mmebm_file_writer *writer)
{
    char *slash = strrchr(strcpy(writer->temporary, writer->path), '/'); /* the temporary name is free by now */
    const char *folder = !slash ? "." : slash == writer->temporary ? "/" : writer->temporary;
    if (slash) *slash = '\0';
    const int descriptor = open(folder, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    const int failed = (descriptor < 0 || fsync(descriptor) != 0) && errno != EINVAL && errno != EACCES;
    const mmebm_status status = failed ? write_failed(writer) : MMEBM_OK;
    if (descriptor >= 0) close(descriptor);
    writer->temporary[0] = '\0';
    return status;
}

mmebm_status mmebm__writer_commit(mmebm_file_writer *writer)
{
    if (writer->gzip) {
        writer->stream.avail_in = 0;
        MMEBM_TRY(deflate_all(writer, Z_FINISH));
    }
    if (fsync(writer->descriptor) != 0) return write_failed(writer);
    const int descriptor = writer->descriptor;
    writer->descriptor = -1;
    if (close(descriptor) != 0 && errno != EINTR) return write_failed(writer);
    if (rename(writer->temporary, writer->path) != 0) return write_failed(writer);
    return sync_folder(writer);
}

void mmebm__writer_close(mmebm_file_writer **writer)
{
    mmebm_file_writer *w = *writer;
    *writer = NULL;
    if (!w) return;
    if (w->gzip) deflateEnd(&w->stream);
    if (w->descriptor >= 0) close(w->descriptor);
    if (w->temporary && w->temporary[0]) unlink(w->temporary);
    mmebm__free(w->context, w->temporary, w->temporary_size);
    mmebm__free(w->context, w, sizeof *w);
}

/* SPDX-License-Identifier: Apache-2.0
 *
 * What the tests of files share: a folder of their own, files as bytes, containers whose header is given as text.
 */
#ifndef MMEBM_FILE_SUPPORT_H
#define MMEBM_FILE_SUPPORT_H

#include <dirent.h>
#include <stdint.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include "../api/api_support.h"

typedef struct file_bytes {
    unsigned char *data;
    size_t size;
} file_bytes;

static char test_folder[256];

static inline int open_folder(void)
{
    const char *root = getenv("TMPDIR");
    snprintf(test_folder, sizeof test_folder, "%s/mmebm-files-XXXXXX", root && root[0] ? root : "/tmp");
    return mkdtemp(test_folder) != NULL;
}

/* Name in the test's folder; one of four buffers, in turn. */
static inline const char *in_folder(const char *name)
{
    static char paths[4][512];
    static unsigned turn;
    char *path = paths[turn++ % 4];
    snprintf(path, sizeof paths[0], "%s/%s", test_folder, name);
    return path;
}

/* Files in the test's folder whose name contains `part`. */
static inline int count_files(const char *part)
{
    int count = 0;
    DIR *folder = opendir(test_folder);
    if (!folder) return -1;
    for (struct dirent *entry; (entry = readdir(folder)) != NULL;)
        count += entry->d_name[0] != '.' && strstr(entry->d_name, part) != NULL;
    closedir(folder);
    return count;
}

static inline void remove_folder(const char *path)
{
    DIR *folder = opendir(path);
    if (!folder) return;
    for (struct dirent *entry; (entry = readdir(folder)) != NULL;) {
        char inside[1024];
        snprintf(inside, sizeof inside, "%.700s/%.255s", path, entry->d_name);
        if (strcmp(entry->d_name, ".") && strcmp(entry->d_name, "..") && unlink(inside) != 0) remove_folder(inside);
    }
    closedir(folder);
    rmdir(path);
}

static inline void close_folder(void)
{
    remove_folder(test_folder);
}

static inline file_bytes read_bytes(const char *path)
{
    file_bytes bytes = {NULL, 0};
    FILE *file = fopen(path, "rb");
    struct stat info;
    if (!file) return bytes;
    if (fstat(fileno(file), &info) == 0 && (bytes.data = malloc((size_t)info.st_size + 1)) != NULL)
        bytes.size = fread(bytes.data, 1, (size_t)info.st_size, file);
    fclose(file);
    return bytes;
}

static inline int write_bytes(const char *path, const void *data, size_t size)
{
    FILE *file = fopen(path, "wb");
    if (!file) return 0;
    const int written = fwrite(data, 1, size, file) == size;
    return fclose(file) == 0 && written;
}

/* Path of a file with these bytes that lives in memory where the system can do that: thousands of them cost no disk. */
static inline const char *bytes_as_file(const void *data, size_t size)
{
    static char path[64];
    static int descriptor = -1;
    if (descriptor < 0) descriptor = memfd_create("mmebm-test", 0);
    if (descriptor >= 0) {
        snprintf(path, sizeof path, "/proc/self/fd/%d", descriptor);
        if (access(path, R_OK) == 0 && ftruncate(descriptor, 0) == 0 &&
            pwrite(descriptor, data, size, 0) == (ssize_t)size)
            return path;
    }
    return write_bytes(in_folder("bytes"), data, size) ? in_folder("bytes") : "";
}

/* Length field, header text, data_size bytes of data: all 0 if data is NULL. */
static inline int write_container(const char *path, const char *header, const void *data, size_t data_size)
{
    const size_t length = strlen(header), size = 8 + length + data_size;
    unsigned char *bytes = calloc(size, 1);
    if (!bytes) return 0;
    for (int k = 0; k < 8; ++k) bytes[k] = (unsigned char)((uint64_t)length >> 8 * k);
    memcpy(bytes + 8, header, length);
    if (data) memcpy(bytes + 8 + length, data, data_size);
    const int written = write_bytes(path, bytes, size);
    free(bytes);
    return written;
}

/* True if `call` fails with E_MEMORY and leaks nothing however early memory ends, and succeeds when it does not end.
 * call(user) must free what it made. */
static inline int survives_allocation_failures(counting_allocator *allocator, mmebm_status (*call)(void *user),
                                               void *user)
{
    const uint64_t blocks = allocator->blocks;
    for (uint64_t n = 1; n < 100000; ++n) {
        allocator->fail_at = allocator->calls + n;
        const mmebm_status status = call(user);
        const int failed = allocator->calls >= allocator->fail_at;
        allocator->fail_at = 0;
        if (allocator->blocks != blocks || allocator->errors) {
            printf("  allocation %llu: %llu blocks left\n", (unsigned long long)n,
                   (unsigned long long)(allocator->blocks - blocks));
            return 0;
        }
        if (!failed) return status == MMEBM_OK;
        if (status != MMEBM_E_MEMORY) {
            printf("  allocation %llu: %s\n", (unsigned long long)n, mmebm_status_name(status));
            return 0;
        }
    }
    return 0;
}

#endif /* MMEBM_FILE_SUPPORT_H */

/* SPDX-License-Identifier: Apache-2.0
 *
 * A photograph from a JPEG file, through libjpeg, whose errors come back by longjmp.
 */
#include "photo.h"

#include <setjmp.h>
#include <stdio.h>
#include <stdlib.h>

#include <jpeglib.h>

#include "message.h"

enum { LARGEST_SIDE = 16384 };

typedef struct jpeg_trap {
    struct jpeg_error_mgr manager; /* first: libjpeg hands back its address */
    jmp_buf place;
    char sentence[JMSG_LENGTH_MAX];
} jpeg_trap;

static void spring_trap(j_common_ptr info)
{
    jpeg_trap *trap = (jpeg_trap *)info->err;
    info->err->format_message(info, trap->sentence);
    longjmp(trap->place, 1);
}

static void say_nothing(j_common_ptr info)
{
    (void)info; /* libjpeg's warnings concern damage that it has repaired */
}

/* Between setjmp and the end only *picture and *info change, both of which live in the caller. */
static int decode(struct jpeg_decompress_struct *info, FILE *file, const char *path, photo *picture)
{
    jpeg_stdio_src(info, file);
    jpeg_read_header(info, TRUE);
    if (info->image_width > LARGEST_SIDE || info->image_height > LARGEST_SIDE)
        return failed("%s is %u x %u pixels; at most %d a side are read", path, info->image_width, info->image_height,
                      LARGEST_SIDE);
    info->out_color_space = JCS_RGB;
    jpeg_start_decompress(info);
    picture->width = info->output_width;
    picture->height = info->output_height;
    picture->rgb = malloc((size_t)3 * picture->width * picture->height);
    if (!picture->rgb) return failed("no memory for the picture %s", path);
    while (info->output_scanline < info->output_height) {
        JSAMPROW row = picture->rgb + (size_t)3 * picture->width * info->output_scanline;
        jpeg_read_scanlines(info, &row, 1);
    }
    jpeg_finish_decompress(info);
    return 0;
}

int photo_read(const char *path, photo *picture)
{
    struct jpeg_decompress_struct info;
    jpeg_trap trap;
    volatile int result = -1; /* written after setjmp, read after a longjmp */
    FILE *file = fopen(path, "rb");
    *picture = (photo){0};
    if (!file) return failed("cannot open the photograph %s", path);
    info.err = jpeg_std_error(&trap.manager);
    trap.manager.error_exit = spring_trap;
    trap.manager.output_message = say_nothing;
    jpeg_create_decompress(&info);
    if (setjmp(trap.place))
        failed("%s: %s", path, trap.sentence);
    else
        result = decode(&info, file, path, picture);
    jpeg_destroy_decompress(&info);
    fclose(file);
    if (result) photo_free(picture);
    return result;
}

void photo_free(photo *picture)
{
    free(picture->rgb);
    *picture = (photo){0};
}

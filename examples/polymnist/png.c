/* SPDX-License-Identifier: Apache-2.0
 *
 * Pictures to PNG files, through libpng.
 */
#include <png.h>
#include <string.h>

#include "message.h"
#include "picture.h"

int picture_write(const picture *p, const char *path)
{
    png_image image;
    memset(&image, 0, sizeof image);
    image.version = PNG_IMAGE_VERSION;
    image.width = (png_uint_32)p->width;
    image.height = (png_uint_32)p->height;
    image.format = PNG_FORMAT_RGB;
    if (!png_image_write_to_file(&image, path, 0, p->rgb, 0, NULL))
        return failed("cannot write %s: %s", path, image.message);
    return 0;
}

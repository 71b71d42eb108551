/* SPDX-License-Identifier: Apache-2.0
 *
 * Everything the program says: notes on stdout and in the log file, failures on stderr, and the progress line that
 * stays in place on a terminal.
 */
#include "message.h"

#include <stdarg.h>
#include <stdio.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

static FILE *log_file;
static int line_is_open; /* a progress line stands on the terminal without its newline */

int message_open_log(const char *path)
{
    log_file = fopen(path, "a");
    return log_file ? 0 : failed("cannot write the log file %s", path);
}

void message_close_log(void)
{
    if (log_file) fclose(log_file);
    log_file = NULL;
}

static void end_progress_line(void)
{
    if (line_is_open) putchar('\n');
    line_is_open = 0;
}

static void log_line(const char *format, va_list arguments)
{
    if (!log_file) return;
    vfprintf(log_file, format, arguments);
    fputc('\n', log_file);
    fflush(log_file);
}

void note(const char *format, ...)
{
    va_list arguments;
    end_progress_line();
    va_start(arguments, format);
    vprintf(format, arguments);
    va_end(arguments);
    putchar('\n');
    fflush(stdout);
    va_start(arguments, format);
    log_line(format, arguments);
    va_end(arguments);
}

void note_in_log(const char *format, ...)
{
    va_list arguments;
    va_start(arguments, format);
    log_line(format, arguments);
    va_end(arguments);
}

int failed(const char *format, ...)
{
    va_list arguments;
    end_progress_line();
    fflush(stdout);
    fputs("polymnist: ", stderr);
    va_start(arguments, format);
    vfprintf(stderr, format, arguments);
    va_end(arguments);
    fputc('\n', stderr);
    va_start(arguments, format);
    log_line(format, arguments);
    va_end(arguments);
    return -1;
}

int library_failed(const mmebm_context *context, mmebm_status status, const char *doing)
{
    const char *sentence = context ? mmebm_last_error(context) : "";
    return failed("%s: %s (%s)", doing, *sentence ? sentence : "no more is known", mmebm_status_name(status));
}

int progress_is_live(void)
{
    return isatty(STDOUT_FILENO);
}

void progress_line(const char *format, ...)
{
    va_list arguments;
    const int live = progress_is_live();
    if (live) fputs("\r\033[K", stdout); /* to the line's start, and erase it */
    va_start(arguments, format);
    vprintf(format, arguments);
    va_end(arguments);
    if (!live) putchar('\n');
    line_is_open = live;
    fflush(stdout);
}

double seconds_now(void)
{
    struct timespec now;
    clock_gettime(CLOCK_MONOTONIC, &now);
    return (double)now.tv_sec + 1e-9 * (double)now.tv_nsec;
}

const char *seconds_text(double seconds, char text[32])
{
    const long whole = seconds > 0 ? (long)(seconds + 0.5) : 0;
    if (whole < 60)
        snprintf(text, 32, "%ld s", whole);
    else if (whole < 3600)
        snprintf(text, 32, "%ld min %02ld s", whole / 60, whole % 60);
    else
        snprintf(text, 32, "%ld h %02ld min", whole / 3600, whole / 60 % 60);
    return text;
}

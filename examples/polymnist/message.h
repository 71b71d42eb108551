/* SPDX-License-Identifier: Apache-2.0 */
#ifndef POLYMNIST_MESSAGE_H
#define POLYMNIST_MESSAGE_H

#include <mmebm.h>

#define PRINTF_LIKE __attribute__((format(printf, 1, 2)))

/* Notes go to stdout and to the log file from here on. 0 or -1. */
int message_open_log(const char *path);
void message_close_log(void);

/* A line for the reader. */
void note(const char *format, ...) PRINTF_LIKE;
/* A line for the log file only. */
void note_in_log(const char *format, ...) PRINTF_LIKE;
/* Says on stderr what went wrong; returns -1. */
int failed(const char *format, ...) PRINTF_LIKE;
/* The same for a call of the library on `context`: "doing: the library's sentence (MMEBM_E_...)". */
int library_failed(const mmebm_context *context, mmebm_status status, const char *doing);

/* One line that is written over by the next one on a terminal; elsewhere a plain line. */
void progress_line(const char *format, ...) PRINTF_LIKE;
/* True where progress_line overwrites: then it may come often. */
int progress_is_live(void);

/* Seconds of a clock that never goes back. */
double seconds_now(void);
/* "3 min 20 s" */
const char *seconds_text(double seconds, char text[32]);

#endif

/*
 * progress.h - one line on a terminal that tells how far a long operation is; nothing anywhere
 * else.
 *
 * A thread of its own redraws the line five times a second. It is started only when standard error
 * is a terminal. The caller's `draw` runs in that thread, so what it reads is atomic.
 */
#ifndef SMFS_BASE_PROGRESS_H
#define SMFS_BASE_PROGRESS_H

#include <stdbool.h>
#include <stddef.h>

struct progress;

#define PROGRESS_LINE_MAX 512
/* Writes the line, without a newline, into `line`: at most PROGRESS_LINE_MAX bytes with its NUL. */
typedef void (*progress_draw)(void *arg, char line[PROGRESS_LINE_MAX]);

/* First drawn after `delay_ms`. NULL when `quiet`, or with no terminal to draw on. */
struct progress *progress_start(bool quiet, unsigned delay_ms, progress_draw draw, void *arg);
/* Joins the thread and wipes the line. NULL is fine. */
void progress_stop(struct progress *p);

#endif

/*
 * tty.h - the user's terminal in raw mode, restored on every way out.
 */
#ifndef RUNNER_CMD_TTY_H
#define RUNNER_CMD_TTY_H

#include <stdbool.h>
#include <termios.h>

#include "smfs/base/err.h"

struct tty {
	bool raw;
	struct termios saved;
};

/* Put standard input into raw mode (a no-op when it is no terminal). */
int tty_raw(struct tty *t, struct err *err);
void tty_restore(struct tty *t);
/* Rows and columns of the terminal on `fd`; 24x80 when it is none. */
void tty_size(int fd, unsigned *rows, unsigned *cols);

#endif

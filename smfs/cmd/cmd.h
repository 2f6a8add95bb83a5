/*
 * cmd.h - what the subcommands of smfs(1) share: options, the store, names, output.
 *
 * One file per subcommand, each a struct command in the table of main.c. A command's run() gets
 * argv with its own name first, parses with cmd_getopt() and returns an exit status (err.h).
 */
#ifndef SMFS_CMD_CMD_H
#define SMFS_CMD_CMD_H

#include <getopt.h>
#include <jansson.h>
#include <limits.h>
#include <stdbool.h>
#include <stdio.h>

#include "smfs/base/err.h"
#include "smfs/store/store.h"

struct command;

struct cmd {
	const struct command *self;
	const char *store_dir; /* --store, SMFS_STORE, or the default */
	bool store_given;      /* by --store or SMFS_STORE */
	bool json, quiet, verbose;
};

struct command {
	const char *name, *args, *summary;
	const char *help; /* what --help adds: paragraphs and options */
	int (*run)(struct cmd *c, int argc, char **argv);
};

extern const struct command cmd_init, cmd_mount, cmd_unmount, cmd_remount, cmd_ls, cmd_info,
	cmd_stat, cmd_rm, cmd_mv, cmd_import, cmd_export, cmd_fsck, cmd_log;
extern const struct command cmd_warm, cmd_gc;
extern const struct command cmd_du, cmd_stats, cmd_limit;
extern const struct command cmd_diff;

/* ---- options ------------------------------------------------------------------------------- */

/*
 * getopt_long() that takes care of the options every command has. `own_short` and `own_long` (may
 * be NULL) are the command's own; returns the next of them, or -1 at the end with optind at the
 * first operand, or CMD_EXIT with *status set when the command is to return it.
 */
#define CMD_EXIT 0x10000
int cmd_getopt(struct cmd *c, int argc, char **argv, const char *own_short,
	       const struct option *own_long, int *status);

/* For commands without options of their own: true = go on at optind. Checks the operand count. */
bool cmd_parse(struct cmd *c, int argc, char **argv, int min, int max, int *status);

/* Report wrong usage; returns EXIT_USAGE. */
int cmd_usage(const struct cmd *c, const char *fmt, ...) __attribute__((format(printf, 2, 3)));
/* Report an error; returns its exit status. */
int cmd_fail(const struct err *err);

/* ---- store and names ------------------------------------------------------------------------ */

/* Opens c->store_dir. With SMFS_CMD_CREATE a missing or empty directory becomes a store first. */
#define SMFS_CMD_CREATE 0x100u
int cmd_open_store(struct cmd *c, unsigned flags, struct smfs_store **out, struct err *err);

static inline void cleanup_store_(struct smfs_store **s)
{
	if (*s)
		smfs_store_close(*s);
}
#define cleanup_store __attribute__((cleanup(cleanup_store_)))

struct kind_info {
	enum smfs_kind kind;
	const char *plural, *singular;
};
#define CMD_KINDS 3
extern const struct kind_info cmd_kinds[CMD_KINDS];
const struct kind_info *cmd_kind(enum smfs_kind kind);

/*
 * What a user calls a name: snapshots/x, images/REF, layers/sha256:HEX; or x, a snapshot; or an
 * image's reference or an end of one (alpine:3.20, alpine), if only one image fits. -EEXIST if
 * several do.
 */
int cmd_find_name(struct smfs_store *s, const char *arg, struct smfs_name *out, struct err *err);
/* The kind and name an argument spells, which need not exist: a bare word is of kind `dflt`. */
int cmd_spell_name(const char *arg, enum smfs_kind dflt, enum smfs_kind *kind, const char **name,
		   struct err *err);

/* Calls fn for every name of a kind, in order, until it returns non-zero. */
int cmd_each_name(struct smfs_store *s, enum smfs_kind kind,
		  int (*fn)(void *arg, const struct smfs_name *n, struct err *err), void *arg,
		  struct err *err);

/* A snapshot that has no name: as an object of its own, and the word for its state. */
json_t *cmd_pending_json(const struct smfs_pending *p);
const char *cmd_pending_word(const struct smfs_pending *p);

/* A mount point, absolute (PATH_MAX bytes). Only its parent is looked at: a dead mount answers
 * nothing.
 */
int cmd_mount_point(const char *mnt, char out[PATH_MAX], struct err *err);

/* ---- output --------------------------------------------------------------------------------- */

/* "2026-11-26 19:14:42" in local time. */
#define CMD_TIME_MAX 32
const char *cmd_time(int64_t ns, char buf[CMD_TIME_MAX]);
/* Prints and frees `j`; returns EXIT_OK. */
int cmd_print_json(json_t *j);
/* Flush and check standard output: a full disk or a closed pipe is a failure. */
int cmd_flush(void);

/*
 * A line on the terminal that tells how far a long operation is, from the second second on.
 * Nothing if standard error is no terminal, or with --quiet.
 */
struct cmd_progress;
struct cmd_progress *cmd_progress_start(const struct cmd *c, const char *what, uint64_t total,
					uint64_t (*done)(void *arg), void *arg);
void cmd_progress_stop(struct cmd_progress *p); /* wipes the line; NULL is fine */

/* Set by SIGINT, SIGTERM or SIGHUP once cmd_catch_signals() was called; before, they end the
 * process with EXIT_INTERRUPTED at once. */
extern volatile int cmd_interrupted;
void cmd_catch_signals(void);

#endif

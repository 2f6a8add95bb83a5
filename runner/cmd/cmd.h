/*
 * cmd.h - what the subcommands of smvm-runner share: the dispatch table and option helpers.
 *
 * A subcommand is one file with one `int cmd_<name>(int argc, char **argv)` that returns an exit
 * code. argv[0] is the subcommand's name. Each reports its own error through fail().
 */
#ifndef RUNNER_CMD_CMD_H
#define RUNNER_CMD_CMD_H

#include <getopt.h>
#include <jansson.h>
#include <stdint.h>

#include "smfs/base/err.h"

int cmd_run(int argc, char **argv);
int cmd_boot(int argc, char **argv);
int cmd_exec(int argc, char **argv);
int cmd_snapshot(int argc, char **argv);
int cmd_restore(int argc, char **argv);
int cmd_fork(int argc, char **argv);
int cmd_ws(int argc, char **argv);
int cmd_ps(int argc, char **argv);
int cmd_info(int argc, char **argv);
int cmd_stop(int argc, char **argv);
int cmd_forward(int argc, char **argv);
int cmd_cp(int argc, char **argv);
int cmd_console(int argc, char **argv);
int cmd_worker(int argc, char **argv);
int cmd_pool(int argc, char **argv);
int cmd_doctor(int argc, char **argv);

/* On standard error, what would act on a terminal as '?': a guest may have said it. */
void say_plain(const char *text);
/* Print "smvm-runner: <message>" and give the exit code for it. */
int fail(const struct err *err);
/* A usage error: message, a pointer to --help, exit code 2. */
int usage_error(const char *cmd, const char *fmt, ...) __attribute__((format(printf, 2, 3)));
/*
 * Send `request` (stolen) to the process of the VM called `vm` (name, id, beginning of an id) and
 * wait `timeout_ms` for *reply, which is the caller's.
 */
int ask_vm(const char *vm, json_t *request, int timeout_ms, json_t **reply, struct err *err);
/* Print `text` for --help; exit code 0. */
int help(const char *text);
/* Print JSON (stolen) on standard output, indented; exit code 0. */
int print_json(json_t *j);
/*
 * On standard error, a line each: the hooks a restored or forked guest has run, and what else of
 * its new identity failed. `timings` may be NULL.
 */
void print_results(const char *vm, const json_t *timings);

#endif

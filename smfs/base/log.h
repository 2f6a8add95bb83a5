/*
 * log.h - log lines on standard error, one line each, "<level>" prefixed for journald when
 * standard error is not a terminal.
 *
 * Logs are telemetry: lossy, for people; no code decides from them. The level is the only
 * process-wide state in the tree (a property of the process's standard error, not of a store).
 * Any thread may log; a line is one write(2).
 */
#ifndef SMFS_BASE_LOG_H
#define SMFS_BASE_LOG_H

enum log_level { LOG_ERR = 3, LOG_WARN = 4, LOG_INFO = 6, LOG_DEBUG = 7 };

/* `ident` is the command's name and must outlive the process. Default: "smfs", LOG_WARN. */
void log_init(const char *ident, enum log_level level);

void log_at(enum log_level level, const char *fmt, ...) __attribute__((format(printf, 2, 3)));

#define log_err(...)   log_at(LOG_ERR, __VA_ARGS__)
#define log_warn(...)  log_at(LOG_WARN, __VA_ARGS__)
#define log_info(...)  log_at(LOG_INFO, __VA_ARGS__)
#define log_debug(...) log_at(LOG_DEBUG, __VA_ARGS__)

#endif

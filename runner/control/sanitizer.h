/*
 * sanitizer.h - what a process does for the sanitizer it is built with; nothing in any other build.
 *
 * A sanitizer lives in the process: its threads and its ptrace(2) are the process's own, and it is
 * asked to give them up before privileges are dropped.
 */
#ifndef RUNNER_CONTROL_SANITIZER_H
#define RUNNER_CONTROL_SANITIZER_H

#if defined(__SANITIZE_ADDRESS__) || defined(__SANITIZE_THREAD__)
/* Once, while this is the only thread. */
void sanitizer_confine(void);
#else
static inline void sanitizer_confine(void)
{
}
#endif

#endif

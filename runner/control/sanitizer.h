/*
 * sanitizer.h - what a process does for the sanitizer it is built with; nothing in any other build.
 *
 * A sanitizer lives in the process: its threads are the process's own, and it is asked to give them
 * up before privileges are dropped; the calls it makes at the end are let through.
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

#ifdef __SANITIZE_ADDRESS__
/* A search for leaks stops all threads, which it finds in /proc/self/task, by ptrace(2). */
#define SANITIZER_CALLS SYS_ptrace, SYS_getdents,
/* Before _exit(2), which does not look for leaks as exit(3) does. */
void sanitizer_end(void);
#else
#define SANITIZER_CALLS
static inline void sanitizer_end(void)
{
}
#endif

#endif

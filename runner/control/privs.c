#include "runner/control/privs.h"

#include "runner/control/syscalls.h"

#include <linux/capability.h>
#include <stdbool.h>
#include <sys/prctl.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <unistd.h>

#if defined(__SANITIZE_ADDRESS__) || defined(__SANITIZE_THREAD__)
#include <sanitizer/common_interface_defs.h>
#include <sanitizer/lsan_interface.h>
#endif

/* For good, and in a fork's children too. */
static bool confined;

/* How many threads there are, or a negative errno. */
static long count_threads(struct err *err)
{
	struct stat st;

	if (stat("/proc/self/task", &st) < 0)
		return err_errno(err, "count threads in /proc/self/task");
	/* Two entries are no threads. */
	return (long)st.st_nlink - 2;
}

#if defined(__SANITIZE_ADDRESS__) || defined(__SANITIZE_THREAD__)
/* A sanitizer's own thread gives way, and its next one has no more privileges than the thread that
 * makes it. The kernel counts one that has been joined for a moment more. */
static void end_helpers(void)
{
	__sanitizer_sandbox_on_notify(NULL);
	for (int ms = 0; ms < 1000 && count_threads(NULL) > 1; ms++)
		usleep(1000);
}

/* A search for leaks stops all threads by ptrace(2), which such a process has not. */
__attribute__((visibility("default"))) int __lsan_is_turned_off(void)
{
	return confined;
}
#else
static void end_helpers(void)
{
}
#endif

int privs_drop(struct err *err)
{
	struct __user_cap_header_struct hdr = {.version = _LINUX_CAPABILITY_VERSION_3};
	struct __user_cap_data_struct none[2] = {{0}};
	long threads;
	int r;

	if (confined)
		return 0;
	end_helpers();
	/* Each thread has privileges of its own, and this gives up one's. */
	if ((threads = count_threads(err)) < 0)
		return (int)threads;
	if (threads != 1)
		return err_set(err, EPERM, "drop capabilities: %ld other threads would keep theirs",
			       threads - 1);
	if (prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) < 0)
		return err_errno(err, "set no_new_privs");
	/* With no_new_privs an execve cannot bring them back, so the bounding set needs no loop. */
	if (syscall(SYS_capset, &hdr, none) < 0)
		return err_errno(err, "drop capabilities");
	if ((r = syscalls_confine(err)) < 0)
		return r;
	confined = true;
	return 0;
}

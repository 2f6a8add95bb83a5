#include "runner/control/privs.h"

#include "runner/control/sanitizer.h"
#include "runner/control/syscalls.h"

#include <linux/capability.h>
#include <stdbool.h>
#include <sys/prctl.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <unistd.h>

/* For good, and in a fork's children too. */
static bool confined;

int privs_drop(struct err *err)
{
	struct __user_cap_header_struct hdr = {.version = _LINUX_CAPABILITY_VERSION_3};
	struct __user_cap_data_struct none[2] = {{0}};
	struct stat st;
	int r;

	if (confined)
		return 0;
	sanitizer_confine();
	/* Each thread has privileges of its own, and this gives up one's. Two entries are no
	 * threads. */
	if (stat("/proc/self/task", &st) < 0)
		return err_errno(err, "count threads in /proc/self/task");
	if (st.st_nlink != 2 + 1)
		return err_set(err, EPERM, "drop capabilities: %ld other threads would keep theirs",
			       (long)st.st_nlink - 3);
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

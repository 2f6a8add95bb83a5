#include "runner/control/privs.h"

#include <linux/capability.h>
#include <sys/prctl.h>
#include <sys/syscall.h>
#include <unistd.h>

int privs_drop(struct err *err)
{
	struct __user_cap_header_struct hdr = {.version = _LINUX_CAPABILITY_VERSION_3};
	struct __user_cap_data_struct none[2] = {{0}};

	if (prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) < 0)
		return err_errno(err, "set no_new_privs");
	/* With no_new_privs an execve cannot bring them back, so the bounding set needs no loop. */
	if (syscall(SYS_capset, &hdr, none) < 0)
		return err_errno(err, "drop capabilities");
	return 0;
}

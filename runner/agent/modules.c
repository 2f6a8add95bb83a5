#include "runner/agent/modules.h"

#include "smfs/base/cleanup.h"
#include "smfs/base/io.h"
#include "smfs/base/log.h"

#include <fcntl.h>
#include <string.h>
#include <sys/syscall.h>

static int load_one(const char *path)
{
	cleanup_fd int fd = open(path, O_RDONLY | O_CLOEXEC);

	if (fd < 0 || (syscall(SYS_finit_module, fd, "", 0) < 0 && errno != EEXIST)) {
		log_warn("load module %s: %s", path, strerror(errno));
		return 1;
	}
	return 0;
}

int modules_load(const char *list, struct err *err)
{
	cleanup_free char *text = NULL;
	char *save = NULL;
	int failed = 0, r = read_file(AT_FDCWD, list, 1u << 20, &text, NULL, err);

	if (r < 0)
		return r;
	for (char *p = strtok_r(text, "\n", &save); p; p = strtok_r(NULL, "\n", &save))
		failed += load_one(p);
	return failed;
}

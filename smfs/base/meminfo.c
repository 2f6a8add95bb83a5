#include "smfs/base/meminfo.h"

#include "smfs/base/cleanup.h"
#include "smfs/base/num.h"

#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

uint64_t meminfo_available(void)
{
	static const char key[] = "MemAvailable:";
	cleanup_fd int fd = open("/proc/meminfo", O_RDONLY | O_CLOEXEC);
	char text[1024];
	const ssize_t n = fd < 0 ? -1 : read(fd, text, sizeof(text) - 1);
	const char *at;

	text[MAX(n, 0)] = 0;
	at = strstr(text, key);
	return at ? strtoull(at + sizeof(key) - 1, NULL, 10) * KIB : GIB;
}

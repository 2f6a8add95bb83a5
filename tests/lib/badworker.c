/* A program for `smfs remount --program` that says it is ready, and dies when it is to serve. */
#include <unistd.h>

#include "smfs/mount/keeper.h"

int main(void)
{
	struct keeper_message m = {.say = KEEPER_READY};

	if (write(KEEPER_FD_CONTROL, &m, sizeof(m)) != (ssize_t)sizeof(m) ||
	    read(KEEPER_FD_CONTROL, &m, sizeof(m)) != (ssize_t)sizeof(m) || m.say != KEEPER_GO)
		return 1;
	return 86;
}

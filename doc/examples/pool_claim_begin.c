/* N claims at once, by one thread: each is had for a moment, and given back by closing it. */
#include <err.h>
#include <poll.h>
#include <smvm.h>
#include <stdio.h>
#include <stdlib.h>

#define MAX 64

int main(int argc, char **argv)
{
	struct smvm_vm *vm[MAX];
	struct pollfd fds[MAX];
	struct smvm_pool *pool;
	struct smvm_error error;
	int n = argc == 4 ? atoi(argv[2]) : 0, left;

	if (n < 1 || n > MAX)
		errx(2, "usage: pool_claim_begin NAME N MS");
	if (smvm_pool_open(argv[1], &pool, &error) < 0)
		errx(1, "%s", error.message);
	for (int i = 0; i < n; i++) {
		if (smvm_pool_claim_begin(pool, (unsigned)atoi(argv[3]), &vm[i], &error) < 0)
			errx(1, "%s", error.message);
		fds[i] = (struct pollfd){.fd = smvm_vm_fd(vm[i]), .events = POLLIN};
	}
	for (left = n; left > 0;) {
		if (poll(fds, (nfds_t)n, -1) < 0)
			err(1, "poll");
		for (int i = 0; i < n; i++) {
			struct smvm_event event = {.size = sizeof(event)};

			if (!fds[i].revents)
				continue;
			if (smvm_vm_next(vm[i], 0, &event, &error) < 0)
				errx(1, "%s", error.message);
			if (event.kind == SMVM_EVENT_NONE)
				continue; /* half an answer */
			if (event.kind == SMVM_EVENT_CLAIMED)
				printf("claim %d: %s\n", i, smvm_vm_id(vm[i]));
			else
				printf("claim %d: no: %s\n", i, event.error.message);
			smvm_vm_free(vm[i]);
			fds[i].fd = -1;
			left--;
		}
	}
	smvm_pool_free(pool);
	return 0;
}

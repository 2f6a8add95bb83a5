/* N machines restored at once by one thread. */
#include <err.h>
#include <inttypes.h>
#include <poll.h>
#include <smvm.h>
#include <stdio.h>
#include <stdlib.h>

#define MAX 64

int main(int argc, char **argv)
{
	struct smvm_vm *vm[MAX];
	struct pollfd fds[MAX];
	struct smvm_error error;
	int n = argc == 3 ? atoi(argv[2]) : 0, left;

	if (n < 1 || n > MAX)
		errx(2, "usage: vm_restore_begin SNAPSHOT N");
	for (int i = 0; i < n; i++) {
		if (smvm_vm_start(NULL, NULL, &vm[i], &error) < 0 ||
		    smvm_vm_restore_begin(vm[i], argv[1], &error) < 0)
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
			if (event.kind != SMVM_EVENT_RESTORED)
				errx(1, "%s", event.error.message);
			printf("%s restored in %" PRIu64 " us\n", smvm_vm_id(vm[i]),
			       event.restored.us);
			fds[i].fd = -1;
			left--;
		}
	}
	for (int i = 0; i < n; i++)
		smvm_vm_free(vm[i]);
	return 0;
}

/* A restore that is not waited for longer than MS, and what becomes of it. */
#include <err.h>
#include <errno.h>
#include <inttypes.h>
#include <smvm.h>
#include <stdio.h>
#include <stdlib.h>

int main(int argc, char **argv)
{
	struct smvm_restored t;
	struct smvm_error error;
	struct smvm_vm *vm;

	if (argc != 3)
		errx(2, "usage: vm_restore_timeout SNAPSHOT MS");
	if (smvm_vm_start(NULL, NULL, &vm, &error) < 0)
		errx(1, "%s", error.message);
	int r = smvm_vm_restore_timeout(vm, argv[1], (unsigned)atoi(argv[2]), &t, &error);
	if (r == -ETIMEDOUT) {
		struct smvm_event event = {.size = sizeof(event)};

		printf("late: %s\n", error.message);
		/* It goes on, and there is one at a time. */
		if (smvm_vm_restore(vm, argv[1], &t, &error) == -EBUSY)
			printf("refused: %s\n", error.message);
		if (smvm_vm_next(vm, 60000, &event, &error) < 0)
			errx(1, "%s", error.message);
		if (event.kind == SMVM_EVENT_RESTORED)
			puts("restored after all");
		else
			printf("in the end: %s\n", event.error.message);
	} else if (r < 0) {
		errx(1, "%s", error.message);
	} else {
		printf("in time: %" PRIu64 " us\n", t.us);
	}
	smvm_vm_free(vm);
	return 0;
}

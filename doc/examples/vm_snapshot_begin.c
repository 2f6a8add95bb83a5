/* A snapshot that is written while the guest runs on; nothing waits meanwhile. */
#include <err.h>
#include <inttypes.h>
#include <smvm.h>
#include <stdio.h>

int main(int argc, char **argv)
{
	struct smvm_event event = {.size = sizeof(event)};
	struct smvm_error error;
	struct smvm_vm *vm;

	if (argc != 3)
		errx(2, "usage: vm_snapshot_begin SNAPSHOT NAME");
	if (smvm_vm_start(NULL, NULL, &vm, &error) < 0 ||
	    smvm_vm_restore(vm, argv[1], NULL, &error) < 0 ||
	    smvm_vm_snapshot_begin(vm, argv[2], argv[1], &error) < 0)
		errx(1, "%s", error.message);
	while (event.kind == SMVM_EVENT_NONE)
		if (smvm_vm_next(vm, 1000, &event, &error) < 0)
			errx(1, "%s", error.message);
	if (event.kind != SMVM_EVENT_SNAPSHOTTED)
		errx(1, "%s", event.error.message);
	printf("%s differs from %s by %" PRIu64 " bytes of memory\n", argv[2], argv[1],
	       event.snapshotted.bytes_written);
	smvm_vm_free(vm);
	return 0;
}

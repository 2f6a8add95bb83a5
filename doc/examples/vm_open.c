/* A machine that smvm-runner has started: snapshot it, then stop it. */
#include <err.h>
#include <errno.h>
#include <smvm.h>
#include <stdio.h>

int main(int argc, char **argv)
{
	struct smvm_snapshotted taken;
	struct smvm_error error;
	struct smvm_vm *vm;

	if (argc != 3)
		errx(2, "usage: vm_open VM NAME");
	if (smvm_vm_open(argv[1], &vm, &error) < 0 ||
	    smvm_vm_snapshot(vm, argv[2], NULL, &taken, &error) < 0)
		errx(1, "%s", error.message);
	printf("%s: %llu bytes\n", argv[2], (unsigned long long)taken.bytes_written);
	/* It has no worker of ours, to be reset by. */
	if (smvm_vm_restore(vm, argv[2], NULL, &error) == -ENOTSUP)
		printf("%s\n", error.message);
	if (smvm_vm_stop(vm, &error) < 0)
		errx(1, "%s", error.message);
	printf("%s is stopped\n", smvm_vm_id(vm));
	smvm_vm_free(vm);
	return 0;
}

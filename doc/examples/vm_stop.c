/* The ends of a machine, and what its handle is worth after. */
#include <err.h>
#include <smvm.h>
#include <stdio.h>

static struct smvm_vm *start(const char *snapshot)
{
	struct smvm_error error;
	struct smvm_vm *vm;

	if (smvm_vm_start(NULL, NULL, &vm, &error) < 0 ||
	    smvm_vm_restore(vm, snapshot, NULL, &error) < 0)
		errx(1, "%s", error.message);
	return vm;
}

int main(int argc, char **argv)
{
	struct smvm_error error;
	int status;

	if (argc != 2)
		errx(2, "usage: vm_stop SNAPSHOT");

	struct smvm_vm *vm = start(argv[1]);
	if (smvm_vm_stop(vm, &error) < 0 || smvm_vm_join(vm, 10000, &status, &error) < 0)
		errx(1, "%s", error.message);
	printf("stopped, status %d\n", status);
	if (smvm_vm_join(vm, 10000, &status, &error) < 0)
		printf("join again: %s\n", error.message);
	if (smvm_vm_restore(vm, argv[1], NULL, &error) < 0)
		printf("restore: %s\n", error.message);
	smvm_vm_free(vm);

	vm = start(argv[1]);
	smvm_vm_drop(vm);
	if (smvm_vm_stop(vm, &error) < 0)
		printf("stop: %s\n", error.message);
	if (smvm_vm_join(vm, 10000, &status, &error) < 0)
		errx(1, "%s", error.message);
	printf("dropped, status %d\n", status);
	smvm_vm_free(vm);
	return 0;
}

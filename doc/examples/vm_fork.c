/* Copies of a running machine. */
#include <err.h>
#include <smvm.h>
#include <stdio.h>
#include <stdlib.h>

#define MAX 64

int main(int argc, char **argv)
{
	struct smvm_vm *vm, *child[MAX];
	struct smvm_error error;
	unsigned n = argc == 3 ? (unsigned)atoi(argv[2]) : 0, made;

	if (n < 1 || n > MAX)
		errx(2, "usage: vm_fork SNAPSHOT N");
	if (smvm_vm_start(NULL, NULL, &vm, &error) < 0 ||
	    smvm_vm_restore(vm, argv[1], NULL, &error) < 0)
		errx(1, "%s", error.message);
	/* Some may have come up although others have not. */
	if (smvm_vm_fork(vm, n, NULL, child, &made, &error) < 0)
		warnx("%s", error.message);
	for (unsigned i = 0; i < made; i++) {
		printf("child %s\n", smvm_vm_id(child[i]));
		if (smvm_vm_stop(child[i], &error) < 0)
			warnx("%s", error.message);
		smvm_vm_free(child[i]);
	}
	smvm_vm_free(vm);
	return made == n ? 0 : 1;
}

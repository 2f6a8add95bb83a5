/* A pool of the program's own: there as long as its handle is. */
#include <err.h>
#include <errno.h>
#include <smvm.h>
#include <stdio.h>

int main(int argc, char **argv)
{
	struct smvm_error error;
	struct smvm_pool *pool;
	struct smvm_vm *vm;

	if (argc != 2)
		errx(2, "usage: pool_start SNAPSHOT");
	struct smvm_pool_options options = {
		.size = sizeof(options), .snapshot = argv[1], .min = 1, .max = 2};
	if (smvm_pool_new(&options, &pool, &error) < 0 || smvm_pool_start(pool, &error) < 0)
		errx(1, "%s", error.message);
	printf("started; smvm-runner pool status --name %s\n", smvm_pool_name(pool));
	if (smvm_pool_start(pool, &error) == -EALREADY)
		printf("again: %s\n", error.message);
	for (int i = 0; i < 3; i++) {
		if (smvm_pool_claim(pool, 20000, &vm, &error) < 0)
			errx(1, "%s", error.message);
		printf("claimed %s\n", smvm_vm_id(vm));
		if (smvm_pool_release(pool, vm, &error) < 0)
			errx(1, "%s", error.message);
	}
	if (smvm_pool_stop(pool, &error) < 0)
		errx(1, "%s", error.message);
	if (smvm_pool_claim(pool, 0, &vm, &error) < 0)
		printf("claim: %s\n", error.message);
	smvm_pool_free(pool);
	return 0;
}

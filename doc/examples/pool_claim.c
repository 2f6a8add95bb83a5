/* A machine of a pool that runs (smvm-runner pool --name NAME), for as long as it is needed. */
#include <err.h>
#include <smvm.h>
#include <stdio.h>

int main(int argc, char **argv)
{
	struct smvm_pool_status status = {.size = sizeof(status)};
	struct smvm_error error;
	struct smvm_pool *pool;
	struct smvm_exit end;
	struct smvm_vm *vm;

	if (argc < 2)
		errx(2, "usage: pool_claim NAME [COMMAND...]");
	if (smvm_pool_open(argv[1], &pool, &error) < 0 ||
	    smvm_pool_claim(pool, 5000, &vm, &error) < 0 ||
	    smvm_pool_status(pool, &status, &error) < 0)
		errx(1, "%s", error.message);
	printf("%s is ours; %u claimed, %u ready, %u to %u\n", smvm_vm_id(vm), status.claimed,
	       status.ready, status.min, status.max);
	struct smvm_exec exec = {.size = sizeof(exec),
				 .argv = (const char *const *)argv + 2,
				 .in = -1,
				 .out = 1,
				 .err = 2};
	if (argc > 2) {
		if (smvm_vm_exec(vm, &exec, &end, &error) < 0)
			errx(1, "%s", error.message);
		printf("status %d\n", end.code);
	}
	/* The next who claims it has it as the snapshot is: nothing of ours is left in it. */
	if (smvm_pool_release(pool, vm, &error) < 0)
		errx(1, "%s", error.message);
	printf("released\n");
	smvm_pool_free(pool);
	return 0;
}

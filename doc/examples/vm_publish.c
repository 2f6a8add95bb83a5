/* Ports of this host that lead into a machine, and into each of a pool's. */
#include <err.h>
#include <smvm.h>
#include <stdio.h>

static void of_a_machine(const char *snapshot, const char *const *publish)
{
	struct smvm_vm_options options = {.size = sizeof(options), .publish = publish};
	struct smvm_restored t;
	struct smvm_error error;
	struct smvm_vm *vm;

	/* The port is there before the machine, and stays through all restores. */
	if (smvm_vm_start(NULL, &options, &vm, &error) < 0)
		errx(1, "%s", error.message);
	for (int i = 0; i < 2; i++) {
		if (smvm_vm_restore(vm, snapshot, &t, &error) < 0)
			errx(1, "%s", error.message);
		printf("%s: port %u leads to %s of %s\n", t.how, t.host_port, publish[0],
		       smvm_vm_id(vm));
	}
	smvm_vm_free(vm);
}

static void of_a_pool(const char *snapshot, const char *const *publish)
{
	struct smvm_pool_options options = {.size = sizeof(options),
					    .snapshot = snapshot,
					    .min = 2,
					    .max = 2,
					    .publish = publish};
	struct smvm_error error;
	struct smvm_pool *pool;
	struct smvm_vm *vm[2];

	if (smvm_pool_new(&options, &pool, &error) < 0 || smvm_pool_start(pool, &error) < 0)
		errx(1, "%s", error.message);
	for (int i = 0; i < 2; i++) {
		if (smvm_pool_claim(pool, 20000, &vm[i], &error) < 0)
			errx(1, "%s", error.message);
		printf("claimed: port %u leads to %s of %s\n", smvm_vm_host_port(vm[i], 0),
		       publish[0], smvm_vm_id(vm[i]));
	}
	for (int i = 0; i < 2; i++)
		smvm_vm_free(vm[i]);
	smvm_pool_free(pool);
}

int main(int argc, char **argv)
{
	if (argc != 3)
		errx(2, "usage: vm_publish SNAPSHOT TARGET");
	const char *const publish[] = {argv[2], NULL};

	of_a_machine(argv[1], publish);
	of_a_pool(argv[1], publish);
	return 0;
}

/* Boot a kernel alone and keep it as a snapshot. */
#include <err.h>
#include <inttypes.h>
#include <smvm.h>
#include <stdio.h>

int main(int argc, char **argv)
{
	struct smvm_snapshotted taken;
	struct smvm_error error;
	struct smvm_vm *vm;

	if (argc != 3)
		errx(2, "usage: vm_kernel KERNEL NAME");
	struct smvm_vm_options options = {
		.size = sizeof(options), .kernel = argv[1], .memory_bytes = 64 << 20, .cpus = 1};
	if (smvm_vm_start(NULL, &options, &vm, &error) < 0)
		errx(1, "%s", error.message);
	if (smvm_vm_snapshot(vm, argv[2], NULL, &taken, &error) < 0)
		errx(1, "%s", error.message);
	printf("%" PRIu64 " bytes of memory in %" PRIu64 " us\n", taken.bytes_written,
	       taken.save_us);
	smvm_vm_free(vm);
	return 0;
}

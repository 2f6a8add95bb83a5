/* One machine, made what it was again and again, without a new process. */
#include <err.h>
#include <inttypes.h>
#include <smvm.h>
#include <stdio.h>

int main(int argc, char **argv)
{
	struct smvm_restored t;
	struct smvm_error error;
	struct smvm_vm *vm;

	if (argc != 2)
		errx(2, "usage: vm_restore SNAPSHOT");
	if (smvm_vm_start(NULL, NULL, &vm, &error) < 0)
		errx(1, "%s", error.message);
	for (int i = 0; i < 3; i++) {
		if (smvm_vm_restore(vm, argv[1], &t, &error) < 0)
			errx(1, "%s", error.message);
		printf("%s: %" PRIu64 " us: stop %" PRIu64 ", map %" PRIu64 ", read %" PRIu64
		       ", load %" PRIu64 " (copy %" PRIu64 ", interrupts %" PRIu64
		       ", processors %" PRIu64 ", clock %" PRIu64 ", devices %" PRIu64
		       "), listen %" PRIu64 ", port %u, generation %" PRIu64 "\n",
		       t.how, t.us, t.reset_vsock_us, t.remap_cow_us, t.load_meta_us,
		       t.restore_snapshot_us, t.ram_copy_us, t.gic_restore_us, t.vcpu_restore_us,
		       t.vtimer_offset_us, t.mmio_restore_us, t.listener_restore_us, t.host_port,
		       t.generation);
	}
	smvm_vm_free(vm);
	return 0;
}

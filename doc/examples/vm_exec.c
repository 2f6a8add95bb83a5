/* Run a program in a restored machine, on this program's own output; exit as it did. */
#include <err.h>
#include <inttypes.h>
#include <smvm.h>
#include <stdio.h>
#include <unistd.h>

int main(int argc, char **argv)
{
	struct smvm_error error;
	struct smvm_exit end;
	struct smvm_vm *vm;

	if (argc < 3)
		errx(2, "usage: vm_exec SNAPSHOT COMMAND...");
	if (smvm_vm_start(NULL, NULL, &vm, &error) < 0 ||
	    smvm_vm_restore(vm, argv[1], NULL, &error) < 0)
		errx(1, "%s", error.message);
	struct smvm_exec exec = {.size = sizeof(exec),
				 .argv = (const char *const *)argv + 2,
				 .in = -1,
				 .out = STDOUT_FILENO,
				 .err = STDERR_FILENO,
				 .timeout_ms = 60000};
	if (smvm_vm_exec(vm, &exec, &end, &error) < 0)
		errx(1, "%s", error.message);
	if (end.peak_bytes)
		fprintf(stderr, "it took %" PRIu64 " bytes of memory at most\n", end.peak_bytes);
	if (end.signal)
		fprintf(stderr, "ended by signal %d%s\n", end.signal,
			end.timed_out ? ", for its time was over" : "");
	smvm_vm_free(vm);
	return end.code;
}

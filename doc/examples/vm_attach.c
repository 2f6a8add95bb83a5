/* Listen for a worker that somebody else starts (smvm-runner worker --socket SOCKET), and drive it.
 */
#include <err.h>
#include <inttypes.h>
#include <smvm.h>
#include <stdio.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <unistd.h>

int main(int argc, char **argv)
{
	struct sockaddr_un at = {.sun_family = AF_UNIX};
	struct smvm_restored t;
	struct smvm_error error;
	struct smvm_vm *vm;

	if (argc != 3 || strlen(argv[1]) >= sizeof(at.sun_path))
		errx(2, "usage: vm_attach SOCKET SNAPSHOT");
	strcpy(at.sun_path, argv[1]);
	int fd = socket(AF_UNIX, SOCK_STREAM, 0);
	if (fd < 0 || bind(fd, (struct sockaddr *)&at, sizeof(at)) < 0 || listen(fd, 1) < 0)
		err(1, "%s", argv[1]);
	int worker = accept(fd, NULL, NULL);
	if (worker < 0)
		err(1, "accept");
	close(fd);
	unlink(argv[1]);
	if (smvm_vm_attach(worker, 10000, &vm, &error) < 0 ||
	    smvm_vm_restore(vm, argv[2], &t, &error) < 0)
		errx(1, "%s", error.message);
	printf("machine %s restored in %" PRIu64 " us\n", smvm_vm_id(vm), t.us);
	if (smvm_vm_stop(vm, &error) < 0)
		errx(1, "%s", error.message);
	smvm_vm_free(vm);
	return 0;
}

/* Boot an image, say how to reach it, end it. */
#include <err.h>
#include <smvm.h>
#include <stdio.h>

int main(int argc, char **argv)
{
	struct smvm_image *image;
	struct smvm_error error;
	struct smvm_vm *vm;

	if (argc < 2)
		errx(2, "usage: vm_start IMAGE [COMMAND...]");
	if (smvm_image_open(NULL, argv[1], &image, &error) < 0)
		errx(1, "%s", error.message);

	struct smvm_vm_options options = {
		.size = sizeof(options),
		.memory_bytes = 256 << 20,
		.command = argc > 2 ? (const char *const *)argv + 2 : NULL,
	};
	if (smvm_vm_start(image, &options, &vm, &error) < 0)
		errx(1, "%s", error.message);
	smvm_image_close(image);
	printf("machine %s runs; its guest's ports are behind %s/vsock.sock\n", smvm_vm_id(vm),
	       smvm_vm_directory(vm));
	smvm_vm_free(vm); /* and it is gone */
	return 0;
}

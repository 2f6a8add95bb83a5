/* Where is an image in the store? */
#include <err.h>
#include <smvm.h>
#include <stdio.h>

int main(int argc, char **argv)
{
	struct smvm_image *image;
	struct smvm_error error;

	if (argc != 2)
		errx(2, "usage: image_open IMAGE");
	if (smvm_image_open(NULL, argv[1], &image, &error) < 0)
		errx(1, "%s", error.message);
	printf("%s in %s (libsmvm %s)\n", smvm_image_reference(image), smvm_image_directory(image),
	       smvm_version());
	smvm_image_close(image);
	return 0;
}

/* image.c - smvm_image_*: images of the store. */
#include "runner/api/handle.h"
#include "runner/control/where.h"

#include <stdio.h>
#include <stdlib.h>

const char *smvm_version(void)
{
	return SMFS_VERSION;
}

int smvm_image_open(const char *mount, const char *reference, struct smvm_image **out,
		    struct smvm_error *err)
{
	struct smvm_image *i = calloc(1, sizeof(*i));
	struct err e = ERR_INIT;
	int r;

	if (!i)
		return api_error(err, &e, err_set(&e, ENOMEM, "open image: out of memory"));
	mount = where_mount(mount);
	if ((size_t)snprintf(i->mount, sizeof(i->mount), "%s", mount) >= sizeof(i->mount))
		r = err_set(&e, ENAMETOOLONG, "mount %s", mount);
	else
		r = where_image(mount, reference, i->dir, i->ref, &e);
	if (r < 0)
		free(i);
	else
		*out = i;
	return api_error(err, &e, r);
}

const char *smvm_image_reference(const struct smvm_image *image)
{
	return image->ref;
}

const char *smvm_image_directory(const struct smvm_image *image)
{
	return image->dir;
}

void smvm_image_close(struct smvm_image *image)
{
	free(image);
}

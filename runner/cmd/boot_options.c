#include "runner/cmd/boot_options.h"

#include "runner/control/where.h"
#include "runner/guest/image.h"

#include "smfs/base/cleanup.h"
#include "smfs/base/io.h"
#include "smfs/base/num.h"

#include <fcntl.h>
#include <string.h>

#define RAM_DEFAULT (512 * MIB)

void boot_options_init(struct boot_options *o)
{
	memset(o, 0, sizeof(*o));
	o->vcpus = 1;
	o->ram_bytes = RAM_DEFAULT;
}

int boot_options_take(struct boot_options *o, int opt, const char *arg, struct err *err)
{
	switch (opt) {
	case OPT_NAME:
		o->name = arg;
		return rundir_name_check(arg, err);
	case 'c':
		return parse_u64(arg, 1, VM_MAX_VCPUS, &o->vcpus, err);
	case 'm':
		if (parse_size(arg, MEMORY_RAM_MIN, MEMORY_RAM_MAX, &o->ram_bytes, err) < 0)
			return -EINVAL;
		o->ram_bytes = align_up(o->ram_bytes, 2 * MIB);
		return 0;
	case 'e':
		if (!strchr(arg, '=') || *arg == '=')
			return err_set(err, EINVAL, "--env takes NAME=VALUE, not '%s'", arg);
		if (o->nenv == BOOT_ENV_MAX)
			return err_set(err, EINVAL, "--env: at most %d", BOOT_ENV_MAX);
		o->env[o->nenv++] = (char *)(uintptr_t)arg;
		return 0;
	case 'u':
		o->user = arg;
		return 0;
	case 'w':
		o->workdir = arg;
		return 0;
	case OPT_ENTRYPOINT:
		o->entrypoint = arg;
		return 0;
	case OPT_KERNEL:
		o->kernel = arg;
		return 0;
	case OPT_APPEND:
		o->cmdline = arg;
		return 0;
	case OPT_MOUNT:
		o->mount = arg;
		return 0;
	default:
		return err_set(err, EINVAL, "unknown option");
	}
}

/* An ELF kernel is a bare test guest: it has no use for an agent or virtio devices. */
static int is_elf(const char *path, bool *out, struct err *err)
{
	cleanup_fd int fd = open(path, O_RDONLY | O_CLOEXEC);
	char magic[4];

	if (fd < 0)
		return err_errno(err, "open kernel %s", path);
	*out = pread_full(fd, magic, sizeof(magic), 0) == 0 && !memcmp(magic, "\177ELF", 4);
	return 0;
}

static int resolve_workload(struct boot_options *o, char **args, struct err *err)
{
	char *entry[] = {(char *)(uintptr_t)o->entrypoint, NULL};
	struct image_overrides ov = {.entrypoint = o->entrypoint ? entry : NULL,
				     .args = args,
				     .extra_env = o->nenv ? o->env : NULL,
				     .cwd = o->workdir,
				     .user = o->user};
	struct image_config c;
	int r = image_config_load(o->image_dir, &c, err);

	if (r < 0)
		return r;
	r = image_apply(&c, &ov, &o->conf, err);
	image_config_free(&c);
	return r;
}

int boot_options_resolve(struct boot_options *o, const char *image, char **args, struct err *err)
{
	int r = 0;

	o->boot = (struct vmm_boot){.mount = where_mount(o->mount),
				    .kernel = o->kernel,
				    .cmdline = o->cmdline,
				    .vcpus = (unsigned)o->vcpus,
				    .ram_bytes = o->ram_bytes,
				    .conf = &o->conf};
	if (o->kernel)
		r = is_elf(o->kernel, &o->boot.bare, err);
	if (r < 0)
		return r;
	if (!image)
		return o->kernel ? 0 : err_set(err, EINVAL, "an image is needed (or --kernel)");
	if (o->boot.bare)
		return err_set(err, EINVAL, "%s is an ELF test guest: it takes no image",
			       o->kernel);
	r = where_image(o->boot.mount, image, o->image_dir, o->image_ref, err);
	if (r < 0)
		return r;
	o->boot.image_dir = o->image_dir;
	o->boot.image_ref = o->image_ref;
	return resolve_workload(o, args, err);
}

void boot_options_free(struct boot_options *o)
{
	bootconf_free(&o->conf);
}

#include "runner/cmd/boot_options.h"

#include "runner/control/where.h"
#include "runner/guest/image.h"
#include "runner/worker/ready.h"

#include "smfs/base/cleanup.h"
#include "smfs/base/io.h"
#include "smfs/base/num.h"

#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define RAM_DEFAULT (512 * MIB)
#define READY_MAX_S 86400

void boot_options_init(struct boot_options *o)
{
	memset(o, 0, sizeof(*o));
	o->vcpus = 1;
	o->ram_bytes = RAM_DEFAULT;
}

/* FILE:PATH[:ro]. FILE may hold a colon of its own: PATH is absolute. */
static int take_disk(struct boot_options *o, const char *arg, struct err *err)
{
	static const char ro[] = ":ro";
	const char *colon = strstr(arg, ":/");
	size_t len = colon ? strlen(colon + 1) : 0;
	cleanup_free char *file = colon ? strndup(arg, (size_t)(colon - arg)) : NULL;
	struct boot_disk *d = &o->disk[o->ndisks];

	if (!file || !*file)
		return err_set(err, EINVAL, "--disk takes FILE:PATH[:ro], PATH absolute, not '%s'",
			       arg);
	if (o->ndisks == MACHINE_MAX_DISKS)
		return err_set(err, EINVAL, "--disk: at most %d", MACHINE_MAX_DISKS);
	d->readonly = len >= sizeof(ro) && !strcmp(colon + 1 + len - strlen(ro), ro);
	if (d->readonly)
		len -= strlen(ro);
	/* The VM's process has another working directory. */
	d->file = realpath(file, NULL);
	if (!d->file)
		return err_errno(err, "--disk %s", file);
	d->path = strndup(colon + 1, len);
	if (!d->path) {
		free(d->file);
		return err_set(err, ENOMEM, "--disk: out of memory");
	}
	snprintf(d->id, sizeof(d->id), "disk%u", o->ndisks++);
	return 0;
}

/* A disk for the machine, and for the agent the mount of it. The guest numbers them in order. */
static int resolve_disks(struct boot_options *o, struct err *err)
{
	for (unsigned i = 0; i < o->ndisks; i++) {
		struct boot_disk *d = &o->disk[i];
		struct bootconf_disk *b = &o->conf.disk[o->conf.ndisks++];

		o->machine_disk[i] = (struct machine_disk){
			.id = d->id, .path = d->file, .readonly = d->readonly};
		*b = (struct bootconf_disk){
			.path = strdup(d->path), .fstype = strdup("ext4"), .readonly = d->readonly};
		if (asprintf(&b->device, "/dev/vd%c", 'a' + (int)i) < 0)
			b->device = NULL;
		if (!b->path || !b->fstype || !b->device)
			return err_set(err, ENOMEM, "--disk: out of memory");
	}
	o->boot.disk = o->machine_disk;
	return 0;
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
	case 'p':
		return forward_add(arg, o->forward, &o->nforwards, err);
	case OPT_DISK:
		return take_disk(o, arg, err);
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
				    .forward = o->forward,
				    .nforwards = o->nforwards,
				    .conf = &o->conf};
	if (o->kernel)
		r = is_elf(o->kernel, &o->boot.bare, err);
	if (r < 0)
		return r;
	if (!image)
		r = o->kernel ? 0 : err_set(err, EINVAL, "an image is needed (or --kernel)");
	if (r < 0 || !image)
		return r < 0 ? r : resolve_disks(o, err);
	if (o->boot.bare)
		return err_set(err, EINVAL, "%s is an ELF test guest: it takes no image",
			       o->kernel);
	r = where_image(o->boot.mount, image, o->image_dir, o->image_ref, err);
	if (r < 0)
		return r;
	o->boot.image_dir = o->image_dir;
	o->boot.image_ref = o->image_ref;
	r = resolve_workload(o, args, err);
	return r < 0 ? r : resolve_disks(o, err);
}

void boot_options_free(struct boot_options *o)
{
	bootconf_free(&o->conf);
	for (unsigned i = 0; i < o->ndisks; i++) {
		free(o->disk[i].file);
		free(o->disk[i].path);
	}
}

int ready_options_take(struct ready_options *o, int opt, char *arg, struct err *err)
{
	if (opt == OPT_READY_TIMEOUT)
		return parse_u64(arg, 1, READY_MAX_S, &o->timeout_s, err) < 0
			       ? err_wrap(err, -EINVAL, "--ready-timeout")
			       : 0;
	if (o->n == AGENT_CONDITIONS_MAX)
		return err_set(err, EINVAL, "--ready: at most %u", AGENT_CONDITIONS_MAX);
	o->condition[o->n++] = arg;
	return ready_check(arg, err) < 0 ? err_wrap(err, -EINVAL, "--ready") : 0;
}

#include "runner/control/vmm.h"

#include "runner/control/control.h"
#include "runner/control/identity.h"
#include "runner/control/privs.h"
#include "runner/control/requests.h"
#include "runner/control/vmm_internal.h"
#include "runner/control/where.h"
#include "runner/devices/serial.h"
#include "runner/guest/initramfs.h"
#include "runner/guest/kernel.h"
#include "runner/proto/mailbox.h"
#include "runner/snapshot/restore.h"
#include "runner/x86/boot.h"
#include "runner/x86/layout.h"

#include "smfs/base/cleanup.h"
#include "smfs/base/clock.h"
#include "smfs/base/io.h"
#include "smfs/base/log.h"
#include "smfs/base/num.h"

#include <fcntl.h>
#include <signal.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/resource.h>
#include <time.h>

/*
 * panic=-1: a panic is a reset, which ends the VM at once. The rest keeps a microVM's boot short:
 * nothing to probe on buses that are not there.
 */
#define LINUX_CMDLINE                                                       \
	"console=ttyS0 panic=-1 random.trust_cpu=on clocksource=kvm-clock " \
	"i8042.noaux i8042.nokbd 8250.nr_uarts=1 quiet"

/* For the signal handler: SIGTERM asks the one VM of this process to end. */
static struct vm *signalled_vm;

static void on_signal(int sig)
{
	if (signalled_vm)
		vm_end(signalled_vm, VM_STOPPED);
}

static void catch_signals(struct vm *vm)
{
	struct sigaction sa = {.sa_handler = on_signal};

	signalled_vm = vm;
	/* Children report through descriptors; nobody waits for most of them. */
	signal(SIGCHLD, SIG_IGN);
	sigaction(SIGTERM, &sa, NULL);
	sigaction(SIGINT, &sa, NULL);
	sigaction(SIGHUP, &sa, NULL);
}

static void type_into_serial(void *arg, const void *buf, size_t len)
{
	/* What the UART's buffer cannot take is lost, as on a real line without flow control. */
	serial_input(arg, buf, len);
}

static void serial_out(void *arg, const uint8_t *p, size_t n)
{
	console_output(arg, p, n);
}

/*
 * Each vsock connection is a descriptor: the usual limit of 1024 is one a guest could use up, and
 * none would be left for a snapshot.
 */
static void raise_file_limit(void)
{
	struct rlimit files;

	if (getrlimit(RLIMIT_NOFILE, &files) < 0)
		return;
	files.rlim_cur = files.rlim_max;
	if (setrlimit(RLIMIT_NOFILE, &files) < 0)
		log_warn("raise the limit of open files: %m");
}

static struct vmm *vmm_new(struct rundir *dir, bool foreground, struct err *err)
{
	char log[RUNDIR_PATH_MAX];
	struct vmm *v = calloc(1, sizeof(*v));

	if (!v) {
		err_set(err, ENOMEM, "start VM: out of memory");
		return NULL;
	}
	raise_file_limit();
	v->dir = dir;
	v->foreground = foreground;
	v->save.live = LIVE_NONE;
	if (console_new(rundir_file(dir, "console.log", log), &v->console, err) < 0) {
		free(v);
		return NULL;
	}
	return v;
}

/* From a machine with everything loaded to one that runs, with its console wired. */
static int vmm_start(struct vmm *v, struct err *err)
{
	int r;

	console_bind(v->console, v->machine.vm->loop, type_into_serial, v->machine.serial);
	if (v->foreground)
		console_attach(v->console, STDIN_FILENO, STDOUT_FILENO, false);
	catch_signals(v->machine.vm);
	r = privs_drop(err);
	return r < 0 ? r : vm_start(v->machine.vm, err);
}

/* Open for requests, and for everybody to see. */
static int vmm_publish(struct vmm *v, struct err *err)
{
	char path[RUNDIR_PATH_MAX];
	int r = v->control ? 0
			   : control_listen(rundir_file(v->dir, "control.sock", path), vmm_requests,
					    v, &v->control, err);

	return r < 0 ? r : rundir_publish(v->dir, err);
}

/* ---- cold boot ----------------------------------------------------------------------------- */

/* The boot configuration's part that is the runner's to know. */
static int fill_conf(struct vmm *v, const struct vmm_boot *b, struct err *err)
{
	struct bootconf *c = b->conf;
	struct timespec now;

	clock_gettime(CLOCK_REALTIME, &now);
	c->wall_ns = (uint64_t)now.tv_sec * 1000000000 + now.tv_nsec;
	c->generation = v->generation;
	memcpy(c->uuid, v->uuid, sizeof(c->uuid));
	c->mailbox_gpa = LAYOUT_MAILBOX;
	if (b->image_dir) {
		free(c->root_device);
		free(c->root_fstype);
		c->root_device = strdup("/dev/pmem0");
		c->root_fstype = strdup("erofs");
		c->root_dax = true;
	}
	if (!c->hostname)
		c->hostname = identity_hostname(v->dir->info.name);
	if (!c->machine_id)
		c->machine_id = identity_machine_id(v->uuid);
	if (!c->hostname || !c->machine_id ||
	    (b->image_dir && (!c->root_device || !c->root_fstype)))
		return err_set(err, ENOMEM, "boot: out of memory");
	return 0;
}

static int write_mailbox(struct vmm *v, uint64_t wall_ns, struct err *err)
{
	struct mailbox m = {.generation = v->generation, .wall_ns = wall_ns};
	uint8_t *page = memory_at(&v->machine.vm->mem, LAYOUT_MAILBOX, MAILBOX_LEN);

	if (!page)
		return err_set(err, EINVAL, "write mailbox page: RAM is too small for it");
	memcpy(m.uuid, v->uuid, sizeof(m.uuid));
	mailbox_put(page, &m);
	return 0;
}

/* A sealed-off copy of the initramfs as a file descriptor. */
static int initramfs_memfd(const struct initramfs *i, struct err *err)
{
	cleanup_fd int fd = memfd_create("initramfs", MFD_CLOEXEC);

	if (fd < 0)
		return err_errno(err, "create memory file for the initramfs");
	int r = write_full(fd, i->data, i->len);
	if (r < 0)
		return err_set(err, -r, "write initramfs to memory: %s", strerror(-r));
	return steal_fd(&fd);
}

/* Kernel and initramfs into RAM. The initramfs goes through a memfd: boot_load() takes a path. */
static int load_linux(struct vmm *v, const struct vmm_boot *b, const struct guest_kernel *k,
		      struct err *err)
{
	cleanup_free char *cmdline = NULL;
	struct initramfs_opts opts = {.kernel = k, .conf = b->conf};
	struct initramfs initrd;
	char path[64];
	int r = initramfs_build(&opts, &initrd, err);

	if (r < 0)
		return r;
	cleanup_fd int fd = initramfs_memfd(&initrd, err);
	initramfs_free(&initrd);
	if (fd < 0)
		return fd;
	snprintf(path, sizeof(path), "/proc/self/fd/%d", fd);
	if (asprintf(&cmdline, LINUX_CMDLINE "%s%s", b->cmdline ? " " : "",
		     b->cmdline ? b->cmdline : "") < 0)
		return err_set(err, ENOMEM, "boot: out of memory");
	struct boot_config cfg = {.kernel = k->path, .initrd = path, .cmdline = cmdline};
	r = write_mailbox(v, b->conf->wall_ns, err);
	return r < 0 ? r : boot_load(v->machine.vm, &cfg, err);
}

static int boot(struct vmm *v, const struct vmm_boot *b, struct err *err)
{
	char vsock[RUNDIR_PATH_MAX];
	struct guest_kernel k = {0};
	struct machine_config cfg = {.vcpus = b->vcpus,
				     .ram_bytes = b->ram_bytes,
				     .ram_fd = -1,
				     .serial_sink = serial_out,
				     .serial_arg = v->console};
	int r;

	for (; cfg.ndisks < b->conf->ndisks && cfg.ndisks < MACHINE_MAX_DISKS; cfg.ndisks++)
		cfg.disk[cfg.ndisks] = b->disk[cfg.ndisks];
	if (b->bare) {
		struct boot_config bc = {.kernel = b->kernel, .cmdline = b->cmdline};

		snprintf(v->kernel, sizeof(v->kernel), "%s", b->kernel);
		r = machine_new(&cfg, &v->machine, err);
		return r < 0 ? r : boot_load(v->machine.vm, &bc, err);
	}
	r = guest_kernel_find(b->kernel, &k, err);
	if (r < 0)
		return r;
	snprintf(v->kernel, sizeof(v->kernel), "%s", k.path);
	if (b->image_dir)
		snprintf(v->rootfs, sizeof(v->rootfs), "%s/rootfs.erofs", b->image_dir);
	cfg.linux_guest = true;
	cfg.rootfs = b->image_dir ? v->rootfs : NULL;
	cfg.vsock_path = rundir_file(v->dir, "vsock.sock", vsock);
	v->has_agent = true;
	r = fill_conf(v, b, err);
	if (r == 0)
		r = machine_new(&cfg, &v->machine, err);
	if (r == 0)
		r = vmgenid_set(v->machine.vmgenid, v->uuid, false, err);
	return r < 0 ? r : load_linux(v, b, &k, err);
}

int vmm_boot(struct rundir *dir, const struct vmm_boot *b, bool foreground, struct vmm **out,
	     struct err *err)
{
	struct vmm *v = vmm_new(dir, foreground, err);
	int r;

	if (!v)
		return -(err ? err->code : ENOMEM);
	v->mount = b->mount;
	v->generation = 1;
	snprintf(v->image, sizeof(v->image), "%s", b->image_ref ? b->image_ref : "");
	dir->info.vcpus = b->vcpus;
	dir->info.ram_bytes = b->ram_bytes;
	dir->info.generation = v->generation;
	snprintf(dir->info.image, sizeof(dir->info.image), "%s", v->image);
	r = identity_uuid(v->uuid, err);
	if (r == 0)
		r = boot(v, b, err);
	if (r == 0)
		r = vmm_publish(v, err);
	if (r == 0)
		r = vmm_start(v, err);
	if (r < 0) {
		vmm_free(v);
		return r;
	}
	*out = v;
	return 0;
}

/* ---- restore ------------------------------------------------------------------------------- */

static void restore_info(struct vmm *v, const struct snapshot_meta *m)
{
	struct vm_info *i = &v->dir->info;

	i->vcpus = m->vcpus;
	i->ram_bytes = m->ram_bytes;
	i->generation = v->generation;
	snprintf(i->image, sizeof(i->image), "%s", m->has_image ? m->image.ref : "");
	snprintf(v->image, sizeof(v->image), "%s", i->image);
	snprintf(v->kernel, sizeof(v->kernel), "%s", m->kernel.path);
	if (m->has_image)
		snprintf(v->rootfs, sizeof(v->rootfs), "%.2000s/%.2000s", v->mount,
			 m->image.rootfs);
}

/* first_us: until the guest first left for the host, which it may not have done yet: null. */
static json_t *timings_json(const struct restore_timing *t, const struct vmm_moments *at,
			    uint64_t first_exit, const struct agent_results *results)
{
	return json_pack(
		"{s:I, s:o, s:I, s:I, s:I, s:I, s:I, s:I, s:I, s:I, s:I, s:I, s:I, s:I, s:I, s:o*}",
		"rewound_bytes", (json_int_t)t->rewound_bytes, "first_us",
		first_exit ? json_integer((json_int_t)(first_exit - at->began)) : json_null(),
		"map_us", (json_int_t)t->map_us, "open_us", (json_int_t)(at->opened - at->began),
		"identity_us", (json_int_t)t->identity_us, "machine_us", (json_int_t)t->machine_us,
		"devices_us", (json_int_t)t->devices_us, "vcpu_us", (json_int_t)t->vcpu_us,
		"irq_us", (json_int_t)t->irq_us, "clock_us", (json_int_t)t->clock_us, "drop_us",
		(json_int_t)(t->drop_us + at->stopped_us), "listen_us", (json_int_t)t->listen_us,
		"publish_us", (json_int_t)(at->published - at->running_seen), "running_us",
		(json_int_t)(at->running - at->began), "agent_us",
		(json_int_t)(at->answered - at->published), "identity",
		identity_results_json(results));
}

int vmm_settle(struct vmm *v, struct snapshot *s, const struct restore_timing *t,
	       enum clock_policy clock, struct vmm_moments *at, json_t **timings, struct err *err)
{
	struct agent_results *results = NULL;
	int r;

	at->running = monotonic_us();
	if (prefault_start(v->prefault, err) < 0)
		log_warn("%s; the guest faults by itself", err->msg);
	v->has_agent = vm_find_device(v->machine.vm, "vsock0") != NULL;
	/*
	 * A guest that can tell nothing else proves by its first exit that it lives. Waiting for it
	 * first also leaves the processor to it.
	 */
	if (!v->has_agent)
		vm_await_guest(v->machine.vm);
	restore_info(v, snapshot_meta(s));
	at->running_seen = monotonic_us();
	if ((r = vmm_publish(v, err)) < 0)
		return r;
	at->published = monotonic_us();
	if (v->has_agent)
		r = identity_give(v, clock, &results, err);
	at->answered = monotonic_us();
	if (r == 0)
		v->restored =
			timings_json(t, at, atomic_load(&v->machine.vm->guest_ran_us), results);
	free(results);
	if (r == 0 && timings)
		*timings = json_incref(v->restored);
	return r;
}

struct restore_opts vmm_restore_opts(struct vmm *v, enum clock_policy clock,
				     char vsock[RUNDIR_PATH_MAX])
{
	return (struct restore_opts){.vsock_path = rundir_file(v->dir, "vsock.sock", vsock),
				     .serial_sink = serial_out,
				     .serial_arg = v->console,
				     .clock = clock};
}

/* The guest runs from vmm_start() on; what follows is for its observers and its identity. */
static int bring_up(struct vmm *v, struct snapshot *s, enum clock_policy clock,
		    enum prefault_policy prefault, struct vmm_moments *at, json_t **timings,
		    struct err *err)
{
	char vsock[RUNDIR_PATH_MAX];
	struct restore_opts o = vmm_restore_opts(v, clock, vsock);
	struct restore_timing t = {0};
	int r;

	v->generation = snapshot_next_generation(s);
	memcpy(v->uuid, snapshot_next_uuid(s), sizeof(v->uuid));
	if ((r = snapshot_restore(s, &o, &v->machine, &t, err)) < 0 ||
	    (r = prefault_new(&v->machine, prefault, snapshot_take_ws(s), &v->prefault, err)) < 0 ||
	    (r = vmm_start(v, err)) < 0)
		return r;
	return vmm_settle(v, s, &t, clock, at, timings, err);
}

int vmm_from_snapshot(struct rundir *dir, struct snapshot *s, const char *mount,
		      enum clock_policy clock, enum prefault_policy prefault, bool foreground,
		      struct vmm_moments *at, struct vmm **out, json_t **timings, struct err *err)
{
	struct vmm *v = vmm_new(dir, foreground, err);
	int r = v ? 0 : -(err ? err->code : ENOMEM);

	if (v) {
		v->mount = mount;
		r = bring_up(v, s, clock, prefault, at, timings, err);
	}
	snapshot_close(s);
	if (r < 0) {
		vmm_free(v);
		return r;
	}
	*out = v;
	return 0;
}

int vmm_restore(struct rundir *dir, const struct vmm_restore *r, bool foreground, struct vmm **out,
		json_t **timings, struct err *err)
{
	struct vmm_moments at = {.began = monotonic_us()};
	struct snapshot *s;
	int ret = snapshot_open(r->snapshot_dir, r->mount, &s, err);

	if (ret < 0)
		return ret;
	at.opened = monotonic_us();
	snprintf(dir->info.snapshot, sizeof(dir->info.snapshot), "%.500s", r->snapshot_dir);
	return vmm_from_snapshot(dir, s, r->mount, r->clock, r->prefault, foreground, &at, out,
				 timings, err);
}

/* ---- the rest of its life ------------------------------------------------------------------ */

const char *vmm_end_name(enum vm_end e)
{
	return e == VM_SHUTDOWN	 ? "powered off"
	       : e == VM_RESET	 ? "reset"
	       : e == VM_STOPPED ? "was stopped"
				 : "failed";
}

static enum vm_end serve(struct vmm *v, struct err *err)
{
	struct err why = ERR_INIT;

	if (control_serve(v->control, v->machine.vm->end_fd, &why) < 0) {
		log_err("%s; the VM is stopped", why.msg);
		vm_end(v->machine.vm, VM_STOPPED);
	}
	return vm_wait(v->machine.vm, err);
}

int vmm_run(struct vmm *v, struct err *err)
{
	enum vm_end e = serve(v, err);

	log_info("VM %s %s", v->dir->info.name, vmm_end_name(e));
	if (e == VM_SHUTDOWN || e == VM_STOPPED)
		return EXIT_OK;
	if (e == VM_RESET)
		err_set(err, EIO, "VM %s: the guest reset itself", v->dir->info.name);
	return EXIT_FAILED;
}

void vmm_free(struct vmm *v)
{
	if (!v)
		return;
	control_free(v->control);
	saves_free(&v->save);
	signalled_vm = NULL;
	/* The VM's threads write to the console until the VM is gone. */
	if (v->machine.vm)
		vm_end(v->machine.vm, VM_STOPPED);
	if (v->machine.vm)
		vm_wait(v->machine.vm, NULL);
	prefault_stop(v->prefault);
	console_free(v->console);
	machine_free(&v->machine);
	json_decref(v->restored);
	free(v);
}

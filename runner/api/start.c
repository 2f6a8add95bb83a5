/* start.c - smvm_vm_start(): a worker's process, its command line, its connection. */
#include "runner/api/handle.h"
#include "runner/control/where.h"
#include "smfs/base/cleanup.h"
#include "smfs/base/clock.h"
#include "smfs/base/num.h"

#include <inttypes.h>
#include <poll.h>
#include <signal.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/un.h>

#define START_MS 180000

static void command_line(struct args *a, const char *socket, const struct smvm_image *image,
			 const struct smvm_vm_options *o, unsigned timeout_ms)
{
	args_begin(a, "worker");
	args_option(a, "socket", socket);
	args_option(a, "name", o->name);
	args_option(a, "mount", o->mount ? o->mount : image ? image->mount : NULL);
	args_option(a, "kernel", o->kernel);
	if (o->cpus)
		args_add(a, "--cpus=%u", o->cpus);
	if (o->memory_bytes)
		args_add(a, "--memory=%" PRIu64, o->memory_bytes);
	for (const char *const *e = o->env; e && *e; e++)
		args_option(a, "env", *e);
	args_option(a, "entrypoint", o->entrypoint);
	args_option(a, "user", o->user);
	args_option(a, "workdir", o->directory);
	args_option(a, "ready", o->ready);
	for (const char *const *p = o->publish; p && *p; p++)
		args_option(a, "publish", *p);
	if (image) {
		args_add(a, "--ready-timeout=%u", (timeout_ms + 999) / 1000);
		/* By its directory: a name could be told another way by another mount. */
		args_add(a, "--");
		args_add(a, "%s", image->dir);
		for (const char *const *w = o->command; w && *w; w++)
			args_add(a, "%s", *w);
	}
}

/* In a directory of its own, so that no one else is in line for it. */
struct listener {
	char dir[64];
	struct sockaddr_un sa;
	int fd;
};

static void listener_close(struct listener *l)
{
	if (l->fd >= 0)
		close(l->fd);
	if (l->sa.sun_path[0])
		unlink(l->sa.sun_path);
	if (l->dir[0])
		rmdir(l->dir);
}

static int listener_open(struct listener *l, struct err *err)
{
	char dir[] = "/tmp/libsmvm.XXXXXX";

	l->sa.sun_family = AF_UNIX;
	if (!mkdtemp(dir))
		return err_errno(err, "make a directory in /tmp");
	snprintf(l->dir, sizeof(l->dir), "%s", dir);
	snprintf(l->sa.sun_path, sizeof(l->sa.sun_path), "%s/worker.sock", dir);
	l->fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
	if (l->fd < 0 || bind(l->fd, (struct sockaddr *)&l->sa, sizeof(l->sa)) < 0 ||
	    listen(l->fd, 1) < 0)
		return err_errno(err, "listen on %s", l->sa.sun_path);
	return 0;
}

static int await_connection(struct smvm_vm *vm, struct listener *l, uint64_t until_us,
			    struct err *err)
{
	struct pollfd p[3] = {{.fd = l->fd, .events = POLLIN},
			      {.fd = vm->child.pidfd, .events = POLLIN}};

	for (;;) {
		uint64_t now = monotonic_us();
		p[2] = (struct pollfd){.fd = vm->child.log_fd, .events = POLLIN};
		int n = poll(p, 3, now < until_us ? (int)((until_us - now) / 1000) + 1 : 0);

		if (n < 0 && errno == EINTR)
			continue;
		if (n < 0)
			return err_errno(err, "wait for the worker");
		child_listen(&vm->child);
		if (p[0].revents) {
			vm->fd = accept4(l->fd, NULL, NULL, SOCK_CLOEXEC);
			return vm->fd < 0 ? err_errno(err, "take the worker's connection") : 0;
		}
		if (p[1].revents)
			return err_set(err, EPIPE, "the worker has ended at once");
		if (monotonic_us() >= until_us)
			return err_set(err, ETIMEDOUT, "the worker has not connected in time");
	}
}

static int start(struct smvm_vm *vm, const struct smvm_image *image,
		 const struct smvm_vm_options *o, struct err *err)
{
	cleanup_with(listener_close) struct listener l = {.fd = -1};
	cleanup_with(args_free) struct args a;
	const unsigned timeout_ms = o->timeout_ms ? o->timeout_ms : START_MS;
	const uint64_t until = monotonic_us() + timeout_ms * 1000ull;
	a.n = 0;
	int r = listener_open(&l, err);

	if (r < 0)
		return r;
	command_line(&a, l.sa.sun_path, image, o, timeout_ms);
	r = child_spawn(&vm->child, &a, -1, -1, err);
	if (r == 0)
		r = await_connection(vm, &l, until, err);
	if (r == 0)
		r = link_greet(vm, (int)MIN(timeout_ms, (unsigned)INT_MAX), err);
	if (r == 0 && (image || o->kernel))
		r = link_await(vm, &vm->baked, until, err);
	if (r == 0 && vm->bake_error.code) {
		*err = vm->bake_error;
		return -err->code;
	}
	return r == -EPIPE ? child_last_words(&vm->child, r, err) : r;
}

/* What a program built with an earlier header gave, and zeros for the rest. */
static int take_options(const struct smvm_vm_options *in, struct smvm_vm_options *out,
			struct err *err)
{
	int r;

	*out = (struct smvm_vm_options){.size = sizeof(*out)};
	if (!in)
		return 0;
	r = api_check_size("options", in->size, offsetof(struct smvm_vm_options, mount),
			   sizeof(*out), err);
	if (r == 0)
		memcpy(out, in, in->size);
	return r;
}

int smvm_vm_start(const struct smvm_image *image, const struct smvm_vm_options *options,
		  struct smvm_vm **out, struct smvm_error *err)
{
	struct smvm_vm_options o;
	struct err e = ERR_INIT;
	int r = take_options(options, &o, &e);

	if (r < 0)
		return api_error(err, &e, r);
	struct smvm_vm *vm = vm_handle();
	if (!vm)
		return api_error(err, &e, err_set(&e, ENOMEM, "start VM: out of memory"));
	vm->is_worker = true;
	r = start(vm, image, &o, &e);
	if (r < 0) {
		if (vm->child.pid)
			kill(vm->child.pid, SIGTERM);
		smvm_vm_free(vm);
	} else {
		*out = vm;
	}
	return api_error(err, &e, r);
}

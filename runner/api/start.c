/* start.c - smvm_vm_start(): a worker's process, its command line, its connection. */
#include "runner/api/handle.h"
#include "runner/control/where.h"
#include "smfs/base/cleanup.h"
#include "smfs/base/clock.h"
#include "smfs/base/num.h"

#include <fcntl.h>
#include <inttypes.h>
#include <poll.h>
#include <signal.h>
#include <spawn.h>
#include <stdarg.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/un.h>
#include <sys/wait.h>

#define START_MS    180000
#define ARGS_MAX    1024
#define STDERR_MAX  4096
#define STDERR_KEPT (256u << 10)

extern char **environ;

/* A command line; its words are owned. */
struct args {
	char *v[ARGS_MAX + 1];
	size_t n;
	bool failed;
};

static void args_free(struct args *a)
{
	for (size_t i = 0; i < a->n; i++)
		free(a->v[i]);
}

__attribute__((format(printf, 2, 3))) static void add(struct args *a, const char *fmt, ...)
{
	char *word = NULL;
	va_list ap;

	va_start(ap, fmt);
	if (a->failed || a->n == ARGS_MAX || vasprintf(&word, fmt, ap) < 0)
		a->failed = true;
	else
		a->v[a->n++] = word;
	va_end(ap);
	a->v[a->n] = NULL;
}

static void add_option(struct args *a, const char *name, const char *value)
{
	if (value)
		add(a, "--%s=%s", name, value);
}

static void command_line(struct args *a, const char *socket, const struct smvm_image *image,
			 const struct smvm_vm_options *o, unsigned timeout_ms)
{
	const char *runner = getenv("SMVM_RUNNER");

	add(a, "%s", runner && *runner ? runner : "smvm-runner");
	add(a, "worker");
	add_option(a, "socket", socket);
	add_option(a, "name", o->name);
	add_option(a, "mount", o->mount ? o->mount : image ? image->mount : NULL);
	add_option(a, "kernel", o->kernel);
	if (o->cpus)
		add(a, "--cpus=%u", o->cpus);
	if (o->memory_bytes)
		add(a, "--memory=%" PRIu64, o->memory_bytes);
	for (const char *const *e = o->env; e && *e; e++)
		add_option(a, "env", *e);
	add_option(a, "entrypoint", o->entrypoint);
	add_option(a, "user", o->user);
	add_option(a, "workdir", o->directory);
	add_option(a, "ready", o->ready);
	if (image) {
		add(a, "--ready-timeout=%u", (timeout_ms + 999) / 1000);
		/* By its directory: a name could be told another way by another mount. */
		add(a, "--");
		add(a, "%s", image->dir);
		for (const char *const *w = o->command; w && *w; w++)
			add(a, "%s", *w);
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

/* Default signals, none blocked, and no descriptor of the program's but its standard ones. */
static int spawn(struct smvm_vm *vm, struct args *a, struct err *err)
{
	posix_spawn_file_actions_t files;
	posix_spawnattr_t attr;
	sigset_t none, all;

	/* It cannot grow, so that a worker that complains for days costs no memory. */
	vm->log_fd = memfd_create("worker-stderr", MFD_CLOEXEC | MFD_ALLOW_SEALING);
	if (vm->log_fd < 0 || ftruncate(vm->log_fd, STDERR_KEPT) < 0 ||
	    fcntl(vm->log_fd, F_ADD_SEALS, F_SEAL_GROW | F_SEAL_SHRINK) < 0)
		return err_errno(err, "create a file in memory");
	sigemptyset(&none);
	sigfillset(&all);
	posix_spawnattr_init(&attr);
	posix_spawnattr_setsigmask(&attr, &none);
	posix_spawnattr_setsigdefault(&attr, &all);
	posix_spawnattr_setflags(&attr, POSIX_SPAWN_SETSIGMASK | POSIX_SPAWN_SETSIGDEF |
						POSIX_SPAWN_SETSID);
	posix_spawn_file_actions_init(&files);
	posix_spawn_file_actions_addopen(&files, STDIN_FILENO, "/dev/null", O_RDONLY, 0);
	posix_spawn_file_actions_addopen(&files, STDOUT_FILENO, "/dev/null", O_WRONLY, 0);
	posix_spawn_file_actions_adddup2(&files, vm->log_fd, STDERR_FILENO);
	posix_spawn_file_actions_addclosefrom_np(&files, STDERR_FILENO + 1);
	int r = posix_spawnp(&vm->pid, a->v[0], &files, &attr, a->v, environ);
	posix_spawn_file_actions_destroy(&files);
	posix_spawnattr_destroy(&attr);
	if (r) {
		vm->pid = 0;
		return err_set(err, r, "start %s: %s; name it with SMVM_RUNNER", a->v[0],
			       strerror(r));
	}
	vm->pidfd = (int)syscall(SYS_pidfd_open, vm->pid, 0);
	return vm->pidfd < 0 ? err_errno(err, "watch process %d", (int)vm->pid) : 0;
}

/* The worker's last words, "smvm-runner: why", in place of what we know. */
static int last_words(const struct smvm_vm *vm, int r, struct err *err)
{
	char text[STDERR_MAX];
	int status = 0;

	/* The offset is the worker's too: up to there it has written. */
	off_t end = vm->log_fd < 0 ? -1 : lseek(vm->log_fd, 0, SEEK_CUR);
	if (end < 0)
		return r;
	off_t from = MAX(end - (off_t)sizeof(text) + 1, (off_t)0);
	ssize_t n = pread(vm->log_fd, text, (size_t)(end - from), from);
	while (n > 0 && text[n - 1] == '\n')
		n--;
	if (n <= 0)
		return r;
	text[n] = '\0';
	char *line = strrchr(text, '\n');
	line = line ? line + 1 : text;
	if (!strncmp(line, "smvm-runner: ", 13))
		line += 13;
	/* The codes of err_exit_code(), backwards. */
	if (waitid(P_PID, (id_t)vm->pid, &(siginfo_t){0}, WEXITED | WNOHANG | WNOWAIT) == 0) {
		siginfo_t info = {0};

		waitid(P_PID, (id_t)vm->pid, &info, WEXITED | WNOHANG | WNOWAIT);
		status = info.si_code == CLD_EXITED ? info.si_status : 0;
	}
	int code = status == EXIT_USAGE	      ? EINVAL
		   : status == EXIT_NOT_FOUND ? ENOENT
		   : status == EXIT_BUSY      ? EBUSY
		   : status == EXIT_REFUSED   ? ENOTSUP
					      : -r;
	return err_set(err, code == EPIPE ? EIO : code, "%s", line);
}

static int await_connection(struct smvm_vm *vm, struct listener *l, uint64_t until_us,
			    struct err *err)
{
	struct pollfd p[2] = {{.fd = l->fd, .events = POLLIN}, {.fd = vm->pidfd, .events = POLLIN}};

	for (;;) {
		uint64_t now = monotonic_us();
		int n = poll(p, 2, now < until_us ? (int)((until_us - now) / 1000) + 1 : 0);

		if (n < 0 && errno == EINTR)
			continue;
		if (n < 0)
			return err_errno(err, "wait for the worker");
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
	cleanup_with(args_free) struct args a = {.n = 0};
	const unsigned timeout_ms = o->timeout_ms ? o->timeout_ms : START_MS;
	const uint64_t until = monotonic_us() + timeout_ms * 1000ull;
	int r = listener_open(&l, err);

	if (r < 0)
		return r;
	command_line(&a, l.sa.sun_path, image, o, timeout_ms);
	if (a.failed)
		return err_set(err, E2BIG, "more than %d words, or out of memory", ARGS_MAX);
	r = spawn(vm, &a, err);
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
	return r == -EPIPE ? last_words(vm, r, err) : r;
}

/* What a program built with an earlier header gave, and zeros for the rest. */
static int take_options(const struct smvm_vm_options *in, struct smvm_vm_options *out,
			struct err *err)
{
	*out = (struct smvm_vm_options){.size = sizeof(*out)};
	if (!in)
		return 0;
	if (in->size < offsetof(struct smvm_vm_options, mount) || in->size > sizeof(*out))
		return err_set(err, EINVAL,
			       "options of %zu bytes: set `size`, and use a library as new as the "
			       "header",
			       in->size);
	memcpy(out, in, in->size);
	return 0;
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
		if (vm->pid)
			kill(vm->pid, SIGTERM);
		smvm_vm_free(vm);
	} else {
		*out = vm;
	}
	return api_error(err, &e, r);
}

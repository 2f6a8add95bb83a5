#include "runner/control/fork.h"

#include "runner/control/frozen.h"
#include "runner/control/jsontext.h"
#include "runner/control/rundir.h"
#include "runner/control/spawn.h"
#include "runner/control/vmm_internal.h"
#include "runner/snapshot/capture.h"
#include "runner/snapshot/restore.h"

#include "smfs/base/cleanup.h"
#include "smfs/base/clock.h"
#include "smfs/base/io.h"
#include "smfs/base/log.h"

#include <poll.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>

#define CHILDREN_WAIT_MS 120000

struct forking {
	struct vmm *v;
	unsigned n;
	enum clock_policy clock;
	const char *name;	/* of the one child, the stem of several, NULL: their ids */
	const json_t *forwards; /* what leads into each, a text per child; NULL: nothing does */
	struct snapshot_meta meta;
	struct writer vcpu;
	struct machine_disks disks;
	int report[2]; /* the parent reads [0]; children send one message each on [1] */
	uint64_t began_us, pause_us, capture_us, fork_us;
	bool forked; /* there are children, whatever failed later */
};

/* One child's part of the whole. */
struct one_child {
	struct forking *f;
	unsigned index;
};

/* ---- a child --------------------------------------------------------------------------------- */

static int child_body(struct spawn_child *c, struct rundir *d, void *arg, struct err *err)
{
	const struct one_child *one = arg;
	struct forking *f = one->f;
	struct vmm *parent = f->v, *v;
	struct vmm_moments at = {.began = f->began_us};
	json_t *timings = NULL;
	struct snapshot *s;

	snprintf(d->info.parent, sizeof(d->info.parent), "%s", parent->dir->info.name);
	snprintf(d->info.snapshot, sizeof(d->info.snapshot), "%s", parent->dir->info.snapshot);
	if (f->forwards)
		snprintf(d->info.forwards, sizeof(d->info.forwards), "%s",
			 json_string_value(json_array_get(f->forwards, one->index)));
	if (snapshot_of_copy(&parent->machine, &f->meta, &f->vcpu, &f->disks, parent->rootfs, &s,
			     err) < 0)
		return EXIT_FAILED;
	at.opened = monotonic_us();
	if (vmm_from_snapshot(d, s, parent->mount, f->clock, PREFAULT_NONE, false, &at, &v,
			      &timings, err) < 0)
		return EXIT_FAILED;
	snprintf(v->rootfs, sizeof(v->rootfs), "%s", parent->rootfs);
	spawn_ready(c, json_pack("{s:i, s:s, s:s, s:i, s:s, s:o, s:s*}", "index", (int)one->index,
				 "id", d->info.id, "name", d->info.name, "pid", (int)d->info.pid,
				 "dir", d->path, "timings", timings, "forwards",
				 f->forwards ? d->info.forwards : NULL));
	int code = vmm_run(v, err);
	if (code != EXIT_OK)
		log_err("%s", err->msg);
	vmm_free(v);
	return code;
}

static _Noreturn void child(struct forking *f, unsigned index)
{
	const int report = f->report[1];
	int keep[2 + MACHINE_DISKS_FDS] = {report, f->v->machine.ram_fd};
	const unsigned nkeep = 2 + machine_disks_fds(&f->disks, keep + 2);
	struct one_child one = {f, index};
	char name[VM_NAME_MAX + 16];
	struct err err = ERR_INIT;
	struct rundir *d;

	/* First of all: the parent's lock and sockets are not to outlive it. */
	close_fds_except(keep, nkeep);
	if (f->name)
		snprintf(name, sizeof(name), f->n > 1 ? "%s-%u" : "%s", f->name, index + 1);
	if (rundir_create(f->name ? name : NULL, &d, &err) < 0)
		spawn_fail(report, &err);
	_Static_assert(1 + MACHINE_DISKS_FDS <= SPAWN_KEEP_MAX, "a child keeps all of its disks");
	spawn_become(d, report, keep + 1, nkeep - 1, child_body, &one);
}

static _Noreturn void first_child(struct forking *f)
{
	sigset_t none;

	for (int sig = 1; sig < NSIG; sig++)
		signal(sig, SIG_DFL);
	signal(SIGCHLD, SIG_IGN);
	signal(SIGPIPE, SIG_IGN);
	sigemptyset(&none);
	sigprocmask(SIG_SETMASK, &none, NULL);
	for (unsigned i = 1; i < f->n; i++) {
		pid_t pid = fork();

		if (pid == 0)
			child(f, i);
		/* Those that are missing are missed by the parent; why is in its log. */
		if (pid < 0) {
			log_err("fork child %u of %u: %m", i + 1, f->n);
			break;
		}
	}
	child(f, 0);
}

/* ---- the parent ------------------------------------------------------------------------------ */

static int fork_paused(struct forking *f, struct err *err)
{
	struct vm *vm = f->v->machine.vm;
	uint64_t start = monotonic_us();
	sigset_t all, old;
	int r = 0;

	/* The handlers are this process's: none may run in the child before it has dropped them. */
	sigfillset(&all);
	pthread_sigmask(SIG_SETMASK, &all, &old);
	pthread_mutex_lock(&vm->dev_lock);
	pid_t pid = fork();
	if (pid == 0)
		first_child(f);
	if (pid < 0)
		r = err_errno(err, "fork the VM's process");
	f->forked = pid > 0;
	pthread_mutex_unlock(&vm->dev_lock);
	pthread_sigmask(SIG_SETMASK, &old, NULL);
	f->fork_us = monotonic_us() - start;
	return r;
}

static int fork_machine(void *arg, struct err *err)
{
	struct forking *f = arg;
	struct machine *m = &f->v->machine;
	const uint64_t start = monotonic_us();
	struct err resume = ERR_INIT;
	int r = vm_pause(m->vm, err);

	if (r < 0)
		return r;
	r = capture_machine(m, &f->meta, &f->vcpu, err);
	if (r == 0)
		r = machine_freeze_disks(m, &f->disks, err);
	f->capture_us = monotonic_us() - start;
	if (r == 0)
		r = fork_paused(f, err);
	if (vm_resume(m->vm, &resume) < 0 && r == 0)
		r = err_set(err, resume.code, "resume after the fork: %s", resume.msg);
	f->pause_us = monotonic_us() - start;
	/* The children have their own hold on them. */
	machine_disks_put(&f->disks);
	return r;
}

/* What the children tell, until all have or all are gone. The first failure is *err. */
static unsigned collect(struct forking *f, json_t *children, struct err *err)
{
	cleanup_free char *buf = malloc(SPAWN_REPORT_MAX);
	unsigned told = 0, up = 0;

	while (buf && told < f->n) {
		struct pollfd p = {.fd = f->report[0], .events = POLLIN};
		struct err e = ERR_INIT;
		json_t *details = NULL;
		ssize_t n;

		if (poll(&p, 1, CHILDREN_WAIT_MS) <= 0)
			break;
		n = recv(f->report[0], buf, SPAWN_REPORT_MAX, 0);
		if (n <= 0)
			break;
		told++;
		if (spawn_report(buf, (size_t)n, &details, &e) == 0) {
			json_array_append_new(children, details);
			up++;
		} else if (!err->code) {
			*err = e;
		}
	}
	if (told < f->n && !err->code)
		err_set(err, EIO, "%u of %u children ended or hung before they were up",
			f->n - told, f->n);
	return up;
}

static int run(struct forking *f, bool use_agent, json_t *reply, struct err *err)
{
	struct vmm *v = f->v;
	int r = saves_check(v, err);

	if (r < 0)
		return r;
	if (socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0, f->report) < 0)
		return err_errno(err, "create socket pair");
	r = use_agent ? frozen_do(v, fork_machine, f, err) : fork_machine(f, err);
	close(f->report[1]);
	if (r < 0 && !f->forked) {
		close(f->report[0]);
		return r;
	}
	json_t *children = json_array();
	struct err failed = ERR_INIT;
	/* That the guest did not go on, or does not thaw: they run all the same, and are told of. */
	if (r < 0)
		failed = *err;
	unsigned up = collect(f, children, &failed);
	close(f->report[0]);
	if (up == 0) {
		json_decref(children);
		*err = failed;
		return -failed.code;
	}
	json_object_set_new(reply, "children", children);
	if (failed.code)
		json_object_set_new(reply, "error", json_text(failed.msg));
	json_object_set_new(reply, "pause_us", json_integer((json_int_t)f->pause_us));
	json_object_set_new(reply, "capture_us", json_integer((json_int_t)f->capture_us));
	json_object_set_new(reply, "fork_us", json_integer((json_int_t)f->fork_us));
	json_object_set_new(reply, "total_us",
			    json_integer((json_int_t)(monotonic_us() - f->began_us)));
	return 0;
}

/* A text for each child, of which only people are told; its length is bounded all the same. */
static int check_forwards(const json_t *list, json_int_t n, struct err *err)
{
	const size_t room = sizeof(((struct vm_info *)NULL)->forwards);
	size_t i;
	json_t *x;

	if (!list)
		return 0;
	if (!json_is_array(list) || json_array_size(list) != (size_t)n)
		return err_set(err, EPROTO, "control request: fork without a forward for each");
	json_array_foreach(list, i, x)
	{
		if (!json_is_string(x) || json_string_length(x) >= room)
			return err_set(err, EPROTO, "control request: fork with a bad forward");
	}
	return 0;
}

int fork_request(void *arg, struct control_request *rq, const json_t *body, json_t *reply,
		 struct err *err)
{
	struct vmm *v = arg;
	json_int_t n = json_integer_value(json_object_get(body, "n"));
	const char *name = json_string_value(json_object_get(body, "name"));
	const json_t *forwards = json_object_get(body, "forwards");
	bool use_agent = v->has_agent && !json_is_true(json_object_get(body, "no_agent"));
	int r;

	if (n < 1 || n > FORK_MAX)
		return err_set(err, EPROTO, "control request: fork of %lld children, from 1 to %d",
			       (long long)n, FORK_MAX);
	const char *policy = json_string_value(json_object_get(body, "clock"));
	int clock = policy ? clock_policy_of(policy) : CLOCK_ADVANCE;

	if (clock < 0)
		return err_set(err, EPROTO, "control request: fork with clock '%s'", policy);
	if ((name && (r = rundir_name_check(name, err)) < 0) ||
	    (r = check_forwards(forwards, n, err)) < 0 || (r = capture_check(&v->machine, err)) < 0)
		return r;
	struct forking *f = calloc(1, sizeof(*f));
	if (!f)
		return err_set(err, ENOMEM, "fork: out of memory");
	*f = (struct forking){.v = v,
			      .n = (unsigned)n,
			      .clock = clock,
			      .name = name,
			      .forwards = forwards,
			      .began_us = monotonic_us()};
	f->meta.generation = v->generation;
	memcpy(f->meta.uuid, v->uuid, sizeof(f->meta.uuid));
	f->meta.has_image = v->rootfs[0];
	meta_text(f->meta.image.ref, sizeof(f->meta.image.ref), v->image);
	meta_text(f->meta.kernel.path, sizeof(f->meta.kernel.path), v->kernel);
	r = run(f, use_agent, reply, err);
	writer_free(&f->vcpu);
	free(f);
	return r < 0 ? err_wrap(err, r, "fork %s", v->dir->info.name) : 0;
}

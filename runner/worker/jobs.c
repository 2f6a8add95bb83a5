#include "runner/worker/jobs.h"

#include <limits.h>
#include <poll.h>
#include <signal.h>
#include <string.h>
#include <sys/epoll.h>
#include <time.h>
#include <unistd.h>

#include "runner/control/become.h"
#include "runner/control/publish.h"
#include "runner/control/vmm_internal.h"
#include "runner/control/where.h"
#include "runner/devices/virtio_vsock.h"
#include "runner/worker/ready.h"
#include "runner/worker/warm_up.h"
#include "smfs/base/clock.h"
#include "smfs/base/log.h"
#include "smfs/base/num.h"

#define IDLE_POLL_MS 2

/* ---- what is told -----------------------------------------------------------------------------
 */

static void tell_failed(struct jobs *j, bool kept, const struct err *why)
{
	struct event e = {.kind = EVENT_FAILED, .kept = kept, .err = *why};

	desk_tell(j->desk, &e);
}

static uint64_t number(const json_t *j, const char *key)
{
	const json_int_t n = json_integer_value(json_object_get(j, key));

	return n > 0 ? (uint64_t)n : 0;
}

static struct phases phases_of(const json_t *t)
{
	const uint64_t irq = number(t, "irq_us");

	return (struct phases){
		.reset_vsock = number(t, "drop_us"),
		.remap_cow = number(t, "map_us"),
		.load_meta = number(t, "open_us"),
		.restore_snapshot =
			number(t, "vcpu_us") + number(t, "devices_us") + number(t, "identity_us"),
		.gic_restore = irq,
		.vcpu_restore = number(t, "vcpu_us") - MIN(irq, number(t, "vcpu_us")),
		.vtimer_offset = number(t, "clock_us"),
		.mmio_restore = number(t, "devices_us"),
		.listener_restore = number(t, "listen_us") + number(t, "publish_us"),
	};
}

static void count_hooks(struct event *e, const json_t *results)
{
	size_t i;
	json_t *r;

	json_array_foreach(results, i, r)
	{
		const char *item = json_string_value(json_object_get(r, "item"));

		if (!item || strncmp(item, "hook:", 5) != 0)
			continue;
		e->hooks++;
		e->hooks_failed += json_integer_value(json_object_get(r, "code")) != 0;
	}
}

static struct event saved_event(enum event_kind kind, const json_t *s)
{
	return (struct event){.kind = kind,
			      .bytes_written = number(s, "data_bytes"),
			      .capture_us = number(s, "capture_us"),
			      .save_us = number(s, "save_us"),
			      .pause_us = number(s, "pause_us"),
			      .diff = json_is_true(json_object_get(s, "diff"))};
}

/* ---- its life ---------------------------------------------------------------------------------
 */

int jobs_init(struct jobs *j, struct err *err)
{
	struct epoll_event ev = {.events = EPOLLIN};

	j->epoll_fd = epoll_create1(EPOLL_CLOEXEC);
	if (j->epoll_fd < 0 || epoll_ctl(j->epoll_fd, EPOLL_CTL_ADD, j->desk->job_fd, &ev) < 0)
		return err_errno(err, "watch for jobs");
	return 0;
}

void jobs_fini(struct jobs *j)
{
	close(j->epoll_fd);
}

static void watch_end(struct jobs *j, bool on)
{
	struct epoll_event ev = {.events = EPOLLIN};

	if (on == j->watched || !j->v)
		return;
	if (epoll_ctl(j->epoll_fd, on ? EPOLL_CTL_ADD : EPOLL_CTL_DEL, j->v->machine.vm->end_fd,
		      &ev) < 0)
		log_warn("watch for the machine's end: %m");
	j->watched = on;
}

/* Its threads are gone then; the struct stays, for what is being written, until the next restore.
 */
static void machine_ended(struct jobs *j)
{
	struct event e = {.kind = EVENT_ENDED};
	const enum vm_end end = vm_wait(j->v->machine.vm, &e.err);

	watch_end(j, false);
	e.ended = end == VM_SHUTDOWN  ? "shutdown"
		  : end == VM_RESET   ? "reset"
		  : end == VM_STOPPED ? "stopped"
				      : "failed";
	desk_tell(j->desk, &e);
	/* Somebody has said `smvm-runner stop`, which waits for the process. */
	if (end == VM_STOPPED)
		kill(getpid(), SIGTERM);
}

/* ---- restore ----------------------------------------------------------------------------------
 */

/* On failure the machine is as it was, or there is none. */
static int become(struct jobs *j, const char *path, enum clock_policy clock, struct event *e,
		  struct err *err)
{
	char dir[PATH_MAX];
	struct vmm_restore r = {
		.mount = j->mount, .snapshot_dir = dir, .clock = clock, .prefault = j->prefault};
	struct became how;
	json_t *timings = NULL;
	int ret;

	if ((ret = where_snapshot(j->mount, path, dir, err)) < 0)
		return ret;
	const bool watched = j->watched;

	/* Of a machine that may go its descriptor must not be left behind. */
	watch_end(j, false);
	ret = vmm_become(&j->v, j->dir, &r, &how, &timings, err);
	if (ret == 0 && how.how != BECOME_WARM)
		j->primed = false;
	/* One whose end was told before is not watched again; one that has just ended is. */
	if (ret == 0 || watched)
		watch_end(j, true);
	if (ret == 0) {
		e->how = become_name(how.how);
		e->err = how.why;
		e->phases = phases_of(timings);
		e->generation = j->v->generation;
		e->host_port = publish_port(j->dir->info.forwards, 0);
		count_hooks(e, json_object_get(timings, "identity"));
	}
	json_decref(timings);
	return ret;
}

static void prime(struct jobs *j)
{
	struct err err = ERR_INIT;

	if (!j->v || j->primed || atomic_load(&j->v->machine.vm->end) != VM_RUNNING)
		return;
	j->primed = true;
	if (vm_prime_remap(j->v->machine.vm, &err) < 0)
		log_warn("%s", err.msg);
}

static void do_restore(struct jobs *j, const struct job *job)
{
	struct event e = {.kind = EVENT_RESTORED};
	struct err err = ERR_INIT;

	if (become(j, job->rq.path, job->rq.clock, &e, &err) < 0) {
		tell_failed(j, j->v != NULL, &err);
		return;
	}
	e.us = monotonic_us() - job->read_us;
	desk_tell(j->desk, &e);
	/* Beside the guest, and before its first reset would wait for it. */
	prime(j);
}

static void do_warm_up(struct jobs *j, const struct job *job)
{
	struct event e = {.kind = EVENT_WARMED};
	const uint64_t t = monotonic_us();

	if (!j->v || atomic_load(&j->v->machine.vm->end) != VM_RUNNING)
		err_set(&e.err, ENODATA, "the machine has ended");
	else if (j->v->save.active)
		/* One that a command asked for: who tends it would be busy with this. */
		err_set(&e.err, EBUSY, "a snapshot is being written");
	else
		warm_up(j->v, job->rq.path, (int)job->rq.deadline_ms, j->desk->job_fd, &e.err);
	e.us = monotonic_us() - t;
	desk_tell(j->desk, &e);
}

static int bake(struct jobs *j, struct err *err)
{
	int r = vmm_boot(j->dir, j->boot, false, &j->v, err);

	if (r < 0)
		return r;
	watch_end(j, true);
	return ready_wait(j->v, j->ready, j->ready_ms, j->desk->leave_fd, err);
}

static void do_start(struct jobs *j, const struct job *job)
{
	struct event e = {.kind = j->boot ? EVENT_BAKED : EVENT_RESTORED};
	struct err err = ERR_INIT;
	int r = j->boot ? bake(j, &err) : become(j, j->restore, CLOCK_ADVANCE, &e, &err);

	if (r < 0) {
		watch_end(j, false);
		vmm_free(j->v);
		j->v = NULL;
		tell_failed(j, false, &err);
		return;
	}
	/* By the protocol the phases of the first one are not told. */
	memset(&e.phases, 0, sizeof(e.phases));
	e.us = monotonic_us() - job->read_us;
	desk_tell(j->desk, &e);
	prime(j);
}

/* ---- snapshots --------------------------------------------------------------------------------
 */

/* <mount>/snapshots/NAME or NAME to NAME. */
static const char *name_of(const struct jobs *j, const char *path)
{
	size_t n = strlen(j->mount);

	while (n > 0 && j->mount[n - 1] == '/')
		n--;
	if (strncmp(path, j->mount, n) == 0 && strncmp(path + n, "/snapshots/", 11) == 0)
		return path + n + 11;
	return strncmp(path, "snapshots/", 10) == 0 ? path + 10 : path;
}

/* Until no byte is on its way, or the time is up. */
static void await_idle(const struct jobs *j, unsigned idle_ms)
{
	const uint64_t until = monotonic_us() + idle_ms * (uint64_t)1000;
	const struct timespec pause = {.tv_nsec = IDLE_POLL_MS * 1000000L};
	struct vm *vm = j->v->machine.vm;
	const struct device *vsock = vm_find_device(vm, "vsock0");

	while (vsock && monotonic_us() < until && !atomic_load(&j->desk->leaving)) {
		pthread_mutex_lock(&vm->dev_lock);
		const bool busy = virtio_vsock_busy(vsock);
		pthread_mutex_unlock(&vm->dev_lock);
		if (!busy)
			return;
		nanosleep(&pause, NULL);
	}
}

static void sync_done(void *arg, int r, const json_t *s, const struct err *err)
{
	struct jobs *j = arg;
	struct event e;

	if (r < 0) {
		tell_failed(j, true, err);
		return;
	}
	e = saved_event(EVENT_SAVED, s);
	desk_tell(j->desk, &e);
}

static void async_done(void *arg, int r, const json_t *s, const struct err *err)
{
	struct jobs *j = arg;
	struct event e = {.kind = EVENT_UNWRITTEN};

	if (r < 0)
		e.err = *err;
	else
		e = saved_event(EVENT_WRITTEN, s);
	desk_tell(j->desk, &e);
}

/* A snapshot may have waited for this, or leaving; it may be one of the control socket's. */
static void save_over(void *arg)
{
	struct jobs *j = arg;

	desk_wake(j->desk);
}

static void do_snapshot(struct jobs *j, const struct job *job)
{
	const bool async = job->kind == JOB_SNAPSHOT_ASYNC;
	const char *base = job->rq.base[0] ? name_of(j, job->rq.base) : NULL;
	json_t *body, *reply;
	struct err err = ERR_INIT;
	struct event e;
	int r;

	if (!j->v || atomic_load(&j->v->machine.vm->end) != VM_RUNNING) {
		err_set(&err, ENODATA, "the machine has ended");
		tell_failed(j, false, &err);
		return;
	}
	if (j->v->save.active) {
		j->held = true;
		j->held_job = *job;
		return;
	}
	await_idle(j, job->rq.idle_ms);
	body = json_object();
	reply = json_object();
	json_object_set_new(
		body, "name",
		json_stringn_nocheck(name_of(j, job->rq.path), strlen(name_of(j, job->rq.path))));
	if (base)
		json_object_set_new(body, "base", json_stringn_nocheck(base, strlen(base)));
	r = saves_take(j->v, body, async ? async_done : sync_done, j, reply, &err);
	atomic_store(&j->desk->faults, j->v->save.faults);
	if (r < 0) {
		/* One that is being written all the same, of a guest that does not thaw. */
		j->v->save.done = NULL;
		tell_failed(j, true, &err);
	} else if (async) {
		e = saved_event(EVENT_ACCEPTED, reply);
		desk_tell(j->desk, &e);
		if (!j->v->save.active)
			async_done(j, 0, reply, &err);
	} else if (!j->v->save.active) {
		sync_done(j, 0, reply, &err);
	}
	json_decref(body);
	json_decref(reply);
}

/* ---- the loop ---------------------------------------------------------------------------------
 */

static void do_job(struct jobs *j, const struct job *job)
{
	switch (job->kind) {
	case JOB_START:
		do_start(j, job);
		break;
	case JOB_RESTORE:
		do_restore(j, job);
		break;
	case JOB_SNAPSHOT:
	case JOB_SNAPSHOT_ASYNC:
		do_snapshot(j, job);
		break;
	case JOB_WARM_UP:
		do_warm_up(j, job);
		break;
	case JOB_LEAVE:
		j->done = true;
		break;
	}
}

static void wait_for_work(struct jobs *j)
{
	struct pollfd p = {.fd = j->epoll_fd, .events = POLLIN};
	struct err err = ERR_INIT;

	/* The control socket is there even of a machine that has ended, for what is being written.
	 */
	if (!j->v || !j->v->control) {
		(void)poll(&p, 1, -1);
		return;
	}
	j->v->save.over = save_over;
	j->v->save.over_arg = j;
	if (control_serve(j->v->control, j->epoll_fd, &err) < 0)
		log_err("%s", err.msg);
}

void jobs_run(struct jobs *j)
{
	struct job job;

	/* What is being written is waited for; the session says when that has been long enough. */
	while (!j->done || (j->v && j->v->save.active)) {
		wait_for_work(j);
		if (j->watched && atomic_load(&j->v->machine.vm->end) != VM_RUNNING)
			machine_ended(j);
		if (desk_take(j->desk, &job))
			do_job(j, &job);
		if (j->held && !(j->v && j->v->save.active)) {
			j->held = false;
			do_snapshot(j, &j->held_job);
		}
	}
	watch_end(j, false);
	vmm_free(j->v);
	j->v = NULL;
	struct event e = {.kind = EVENT_LEFT};

	desk_tell(j->desk, &e);
}

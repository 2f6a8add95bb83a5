#include "runner/control/saves.h"

#include "runner/control/frozen.h"
#include "runner/control/jsontext.h"
#include "runner/control/vmm_internal.h"
#include "runner/control/where.h"

#include "smfs/base/cleanup.h"
#include "smfs/base/clock.h"
#include "smfs/base/log.h"
#include "smfs/base/meminfo.h"
#include "smfs/base/num.h"
#include "smfs/store/store.h"

#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>

#define WATCH_MS 50 /* how often the copies are counted */
#define PAGE	 4096u

struct request {
	struct save_info info;
	char by[160];
	bool still, use_agent;
};

/* ---- what is told --------------------------------------------------------------------------- */

static json_t *stats_json(const char *name, const char *state, const struct save_stats *st,
			  uint64_t total_us)
{
	static const char *const by_writer[] = {"diff",		  "data_bytes", "new_bytes",
						"stored_bytes",	  "save_us",	"disk_bytes",
						"disk_data_bytes"};
	json_t *j = json_pack(
		"{s:o, s:s, s:b, s:I, s:I, s:I, s:I, s:I, s:I, s:I, s:I, s:I, s:I, s:I}", "name",
		json_text(name), "state", state, "diff", st->diff, "ram_bytes",
		(json_int_t)st->ram_bytes, "data_bytes", (json_int_t)st->data_bytes, "new_bytes",
		(json_int_t)st->new_bytes, "stored_bytes", (json_int_t)st->stored_bytes, "pause_us",
		(json_int_t)st->pause_us, "capture_us", (json_int_t)st->capture_us, "fork_us",
		(json_int_t)st->fork_us, "save_us", (json_int_t)st->save_us, "total_us",
		(json_int_t)total_us, "disk_bytes", (json_int_t)st->disk_bytes, "disk_data_bytes",
		(json_int_t)st->disk_data_bytes);

	/* Not known is not nothing. */
	for (size_t i = 0; st->untold && i < ARRAY_SIZE(by_writer); i++)
		json_object_set_new(j, by_writer[i], json_null());
	return j;
}

/* Keep `j` (stolen) as the latest. */
static void remember(struct saves *s, json_t *j)
{
	if (strcmp(json_string_value(json_object_get(j, "state")), "ready") == 0)
		snprintf(s->ready, sizeof(s->ready), "%s",
			 json_string_value(json_object_get(j, "name")));
	json_decref(s->last);
	s->last = j;
}

/* For ps: what is on its way, or was lost. NULL: all is well. */
static void show(struct vmm *v, const char *saving, bool failed)
{
	struct vm_info *i = &v->dir->info;
	struct err err = ERR_INIT;

	snprintf(i->saving, sizeof(i->saving), "%s", saving ? saving : "");
	i->save_failed = failed;
	if (rundir_publish(v->dir, &err) < 0)
		log_warn("%s", err.msg);
}

/* ---- taking it ------------------------------------------------------------------------------- */

struct taking {
	struct vmm *v;
	const struct request *rq;
};

static int take(void *arg, struct err *err)
{
	const struct taking *t = arg;
	struct saves *s = &t->v->save;

	return t->rq->still ? snapshot_save(&t->v->machine, &t->rq->info, &s->stats, err)
			    : live_start(&t->v->machine, &t->rq->info, &s->live, &s->stats, err);
}

/* ---- the one being written ------------------------------------------------------------------ */

static uint64_t minor_faults(void)
{
	struct rusage u;

	return getrusage(RUSAGE_SELF, &u) < 0 ? 0 : (uint64_t)u.ru_minflt;
}

/* An upper bound on what the guest has changed since the one being written began. */
static uint64_t copied(const struct saves *s)
{
	return (minor_faults() - s->faults) * PAGE;
}

static void throttle(struct vmm *v)
{
	struct saves *s = &v->save;
	struct err err = ERR_INIT;

	if (s->throttled || copied(s) <= s->limit_bytes)
		return;
	/* The VM may be ending: then there is nothing to hold. */
	if (vm_pause(v->machine.vm, &err) < 0)
		return;
	s->throttled = true;
	log_warn("live snapshot: the guest changed up to %llu MiB while it was written; it waits "
		 "until the snapshot is done",
		 (unsigned long long)(s->limit_bytes / MIB));
}

static void finish(struct vmm *v)
{
	struct saves *s = &v->save;
	struct err err = ERR_INIT, resume = ERR_INIT;
	cleanup_free char *name = strdup(json_string_value(json_object_get(s->last, "name")));
	int r = live_finish(&s->live, &s->stats, &err);
	uint64_t total = monotonic_us() - s->began_us;

	control_watch(v->control, -1, -1, NULL, NULL, NULL);
	if (s->throttled && vm_resume(v->machine.vm, &resume) < 0)
		log_err("resume the guest after its snapshot: %s", resume.msg);
	json_t *j = stats_json(name, r < 0 ? "failed" : "ready", &s->stats, total);
	json_object_set_new(j, "throttled", json_boolean(s->throttled));
	if (r < 0) {
		json_object_set_new(j, "error", json_text(err.msg));
		log_err("%s", err.msg);
	}
	remember(s, j);
	show(v, r < 0 ? name : NULL, r < 0);
	s->active = s->throttled = false;
	control_answer(v->control, s->waiting, r, r < 0 ? NULL : json_copy(j), &err);
	s->waiting = 0;
	if (s->done)
		s->done(s->done_arg, r, j, &err);
	if (s->over)
		s->over(s->over_arg);
}

static void watch(void *arg, bool readable)
{
	struct vmm *v = arg;

	if (readable)
		finish(v);
	else
		throttle(v);
}

/* ---- the request ---------------------------------------------------------------------------- */

static int parse(struct vmm *v, const json_t *body, struct request *rq, char store[PATH_MAX],
		 struct err *err)
{
	const char *name = json_string_value(json_object_get(body, "name"));
	const char *base = json_string_value(json_object_get(body, "base"));
	const bool full = json_is_true(json_object_get(body, "full"));
	const bool diff = base || json_is_true(json_object_get(body, "diff"));
	json_int_t limit = json_integer_value(json_object_get(body, "copy_limit"));

	rq->still = json_is_true(json_object_get(body, "still"));
	rq->use_agent = v->has_agent && !json_is_true(json_object_get(body, "no_agent"));
	if (!name)
		return err_set(err, EPROTO, "control request: snapshot without a name");
	if (rq->still && json_is_true(json_object_get(body, "no_wait")))
		return err_set(err, EPROTO, "control request: still and no_wait");
	if (full && diff)
		return err_set(err, EPROTO, "control request: full and diff");
	if (diff && !base && v->machine.ram_fd < 0 && v->save.ready[0])
		base = v->save.ready;
	if (v->save.active)
		return err_set(err, EBUSY,
			       "snapshot %s: snapshot %s of this VM is still being written; wait "
			       "for it (smvm-runner info)",
			       name, json_string_value(json_object_get(v->save.last, "name")));
	v->save.limit_bytes = limit > 0 ? (uint64_t)limit : meminfo_available() / 2;
	snprintf(rq->by, sizeof(rq->by), "VM %s (%s)", v->dir->info.name, v->dir->info.id);
	/* Before the guest is frozen for it, and anybody told. */
	int r = smfs_name_check(SMFS_SNAPSHOT, name, err);
	if (r == 0 && base)
		r = smfs_name_check(SMFS_SNAPSHOT, base, err);
	if (r == 0)
		r = where_store(v->mount, store, err);
	rq->info = (struct save_info){.kind = full   ? SAVE_FULL
					      : diff ? SAVE_DIFF
						     : SAVE_AUTO,
				      .base = base,
				      .store = store,
				      .mount = v->mount,
				      .name = name,
				      .by = rq->by,
				      .kernel_path = v->kernel,
				      .image_ref = v->image,
				      .rootfs = v->rootfs,
				      .generation = v->generation,
				      .uuid = v->uuid};
	return r;
}

int saves_take(struct vmm *v, const json_t *body, saves_done done, void *arg, json_t *reply,
	       struct err *err)
{
	struct saves *s = &v->save;
	struct request rq;
	char store[PATH_MAX];
	int r = parse(v, body, &rq, store, err);

	if (r < 0)
		return r;
	memset(&s->stats, 0, sizeof(s->stats));
	s->done = done;
	s->done_arg = arg;
	s->began_us = monotonic_us();
	s->faults = minor_faults();
	show(v, rq.info.name, false);
	struct taking t = {v, &rq};
	r = rq.use_agent ? frozen_do(v, take, &t, err) : take(&t, err);
	s->active = s->live.fd >= 0;
	if (!s->active)
		show(v, r < 0 && s->stats.recorded ? rq.info.name : NULL, r < 0);
	if (!s->active && r < 0)
		return r;
	remember(s, stats_json(rq.info.name, s->active ? "writing" : "ready", &s->stats,
			       monotonic_us() - s->began_us));
	if (s->active) {
		/* The one watch there is: it was free, for no snapshot was active. */
		control_watch(v->control, s->live.fd, WATCH_MS, watch, v, NULL);
	}
	json_object_update(reply, s->last);
	return r;
}

int saves_request(void *arg, struct control_request *crq, const json_t *body, json_t *reply,
		  struct err *err)
{
	struct vmm *v = arg;
	int r = saves_take(v, body, NULL, NULL, reply, err);

	if (r == 0 && v->save.active && !json_is_true(json_object_get(body, "no_wait")))
		v->save.waiting = control_defer(crq);
	return r;
}

int saves_check(const struct vmm *v, struct err *err)
{
	if (!v->save.throttled)
		return 0;
	return err_set(err, EBUSY, "the guest waits until snapshot %s of it is written",
		       json_string_value(json_object_get(v->save.last, "name")));
}

void saves_resume(struct vmm *v)
{
	const bool waits = v->save.throttled;
	struct err err = ERR_INIT;

	saves_let_go(&v->save);
	if (waits && vm_resume(v->machine.vm, &err) < 0)
		log_err("resume the guest before its snapshot is done: %s", err.msg);
}

void saves_let_go(struct saves *s)
{
	s->limit_bytes = UINT64_MAX;
	s->throttled = false;
}

void saves_free(struct saves *s)
{
	struct err err;

	if (s->active)
		live_leave(&s->live);
	if (s->active && s->done) {
		err_set(&err, ECANCELED,
			"the machine is gone; what is being written is completed unwatched");
		s->done(s->done_arg, -err.code, NULL, &err);
	}
	json_decref(s->last);
}

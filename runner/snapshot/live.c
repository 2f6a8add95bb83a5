#include "runner/snapshot/live.h"

#include <fcntl.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#include "runner/snapshot/capture.h"
#include "runner/snapshot/save_steps.h"
#include "smfs/base/cleanup.h"
#include "smfs/base/clock.h"
#include "smfs/base/io.h"
#include "smfs/base/log.h"
#include "smfs/base/num.h"

#define CHILD_NICE 10 /* the guest goes first */

/* What the child tells: between two copies of one program, so as it lies in memory. */
struct result {
	struct save_stats stats;
	struct err err;
};

/* ---- the child ----------------------------------------------------------------------------- */

static void drop_inherited(const struct machine *m, const struct machine_disks *disks, int fd,
			   int record)
{
	int keep[3 + MACHINE_DISKS_FDS] = {fd, m->ram_fd, record};
	sigset_t none;

	for (int sig = 1; sig < NSIG; sig++)
		signal(sig, SIG_DFL);
	/* A machine that is gone has nobody to tell; the snapshot is completed. */
	signal(SIGPIPE, SIG_IGN);
	sigemptyset(&none);
	sigprocmask(SIG_SETMASK, &none, NULL);
	close_fds_except(keep, 3 + machine_disks_fds(disks, keep + 3));
	if (setpriority(PRIO_PROCESS, 0, CHILD_NICE) < 0) {
		/* Then it competes with the guest as an equal. */
	}
}

static int child_write(struct smfs_store *store, const struct machine *m,
		       const struct save_info *info, struct snapshot_meta *meta,
		       struct save_parts *parts, struct save_stats *stats, struct err *err)
{
	struct smfs_ingest *ing;
	int ret = smfs_ingest_begin(store, &ing, err);

	if (ret < 0)
		return ret;
	ret = save_write_ram(store, m, info, meta, ing, &parts->ram, stats, err);
	if (ret == 0)
		ret = save_write_rest(m, info, meta, parts, ing, stats, err);
	if (ret == 0)
		return save_commit(ing, stats, err);
	smfs_ingest_abort(ing);
	return ret;
}

static int child_save(const struct machine *m, const struct save_info *info, int record,
		      struct snapshot_meta *meta, struct save_parts *parts,
		      struct save_stats *stats, struct err *err)
{
	struct smfs_store *store = NULL;
	int ret = smfs_store_open(info->store, 0, &store, err);

	if (ret == 0)
		ret = child_write(store, m, info, meta, parts, stats, err);
	save_end(store, info, record, ret, err);
	if (store)
		smfs_store_close(store);
	return ret;
}

static _Noreturn void child(const struct machine *m, const struct save_info *info,
			    struct snapshot_meta *meta, struct save_parts *parts, int fd,
			    int record)
{
	struct result r = {.err = ERR_INIT};
	uint64_t start = monotonic_us();

	drop_inherited(m, parts->disks, fd, record);
	if (child_save(m, info, record, meta, parts, &r.stats, &r.err) < 0)
		err_wrap(&r.err, -r.err.code, "snapshot %s", info->name);
	r.stats.save_us = monotonic_us() - start;
	/* Too long for a pipe to take it whole, it would wait for a reader, or learn that there is
	 * none. */
	(void)write_full(fd, &r, sizeof(r));
	/* Not exit(): the buffers and handlers are the parent's. */
	_exit(r.err.code ? EXIT_FAILED : EXIT_OK);
}

/* ---- the parent ---------------------------------------------------------------------------- */

static int fork_paused(const struct machine *m, const struct save_info *info,
		       struct snapshot_meta *meta, struct save_parts *parts, struct live *out,
		       struct save_stats *stats, struct err *err)
{
	uint64_t start = monotonic_us();
	sigset_t all, old;
	int fd[2], ret = 0;

	if (pipe2(fd, O_CLOEXEC) < 0)
		return err_errno(err, "create pipe");
	/* The handlers are this process's: none may run in the child before it has dropped them. */
	sigfillset(&all);
	pthread_sigmask(SIG_SETMASK, &all, &old);
	pthread_mutex_lock(&m->vm->dev_lock);
	pid_t pid = fork();
	if (pid == 0)
		child(m, info, meta, parts, fd[1], out->record);
	if (pid < 0)
		ret = err_errno(err, "fork the VM's process; with --still none is forked");
	pthread_mutex_unlock(&m->vm->dev_lock);
	pthread_sigmask(SIG_SETMASK, &old, NULL);
	close(fd[1]);
	if (ret < 0) {
		close(fd[0]);
		return ret;
	}
	stats->fork_us = monotonic_us() - start;
	out->pid = pid;
	out->fd = fd[0];
	return 0;
}

static int start(const struct machine *m, const struct save_info *info, struct live *out,
		 struct save_stats *stats, struct err *err)
{
	cleanup_free struct snapshot_meta *meta = calloc(1, sizeof(*meta));
	cleanup_writer struct writer vcpu = WRITER_INIT;
	struct machine_disks disks = {0};
	struct save_parts parts = {.vcpu = &vcpu, .disks = &disks};
	const bool pause = !m->vm->paused;
	struct smfs_store *store;
	int ret;

	if (!meta)
		return err_set(err, ENOMEM, "out of memory");
	/* Open for checks and record only: a store does not survive a fork. */
	if ((ret = smfs_store_open(info->store, 0, &store, err)) < 0)
		return ret;
	out->store = strdup(info->store);
	out->name = strdup(info->name);
	ret = out->store && out->name ? save_begin(store, m, info, meta, &out->record, err)
				      : err_set(err, ENOMEM, "out of memory");
	smfs_store_close(store);
	if (ret < 0)
		return ret;
	stats->recorded = true;
	const uint64_t paused = monotonic_us();
	if (pause && (ret = vm_pause(m->vm, err)) < 0)
		return ret;
	ret = capture_machine(m, meta, &vcpu, err);
	if (ret == 0)
		ret = machine_freeze_disks(m, &disks, err);
	stats->capture_us = monotonic_us() - paused;
	if (ret == 0)
		ret = fork_paused(m, info, meta, &parts, out, stats, err);
	if (pause)
		ret = save_resume(m, ret, err);
	stats->pause_us = monotonic_us() - paused;
	/* The child has its own hold on them. */
	machine_disks_put(&disks);
	stats->ram_bytes = meta->ram_bytes;
	out->wall_clock_ns = meta->wall_clock_ns;
	out->vcpu_xxh3 = meta->vcpu_xxh3;
	return ret;
}

/* It will not be written, for `why`. */
static void give_up(struct live *l, const struct err *why)
{
	struct err err = ERR_INIT;

	if (smfs_pending_fail(l->record, why->msg, &err) < 0)
		log_warn("%s", err.msg);
	live_leave(l);
}

int live_start(const struct machine *m, const struct save_info *info, struct live *out,
	       struct save_stats *stats, struct err *err)
{
	int ret;

	memset(stats, 0, sizeof(*stats));
	*out = LIVE_NONE;
	ret = start(m, info, out, stats, err);
	if (ret < 0 && out->pid < 0 && out->record >= 0)
		give_up(out, err);
	else if (ret < 0)
		/* If forked, but the machine could not resume: what is being written is still good.
		 */
		live_leave(out);
	return ret < 0 ? err_wrap(err, ret, "snapshot %s", info->name) : 0;
}

/* The snapshot in the store, if that is the one: others may have taken the name meanwhile. */
static int stored_meta(struct smfs_store *store, const char *name, struct snapshot_meta *m,
		       struct err *err)
{
	cleanup_free char *text = malloc(META_FILE_MAX);
	const struct smfs_entry *e;
	struct smfs_file *f;
	struct smfs_name n;
	struct smfs_dir *d;
	ssize_t len = -ENOENT;
	int ret;

	if (!text)
		return err_set(err, ENOMEM, "out of memory");
	if ((ret = smfs_name_get(store, SMFS_SNAPSHOT, name, &n, err)) < 0 ||
	    (ret = smfs_dir_open(store, &n.root, &d, err)) < 0)
		return ret;
	e = smfs_dir_find(d, "meta");
	if (e && S_ISREG(e->mode) && e->content.size <= META_FILE_MAX &&
	    (len = smfs_file_open(store, &e->content, &f, err)) == 0) {
		len = smfs_file_pread(f, text, e->content.size, 0, err);
		smfs_file_close(f);
	}
	smfs_dir_close(d);
	return len < 0 ? (int)len : meta_decode(text, (size_t)len, m, err);
}

static bool published(const struct live *l)
{
	cleanup_free struct snapshot_meta *m = calloc(1, sizeof(*m));
	struct smfs_store *store;
	struct err err = ERR_INIT;
	bool is;

	if (!m || smfs_store_open(l->store, 0, &store, &err) < 0)
		return false;
	is = stored_meta(store, l->name, m, &err) == 0 && m->vcpu_xxh3 == l->vcpu_xxh3 &&
	     m->wall_clock_ns == l->wall_clock_ns;
	if (is)
		smfs_pending_done(store, l->name);
	smfs_store_close(store);
	return is;
}

int live_finish(struct live *l, struct save_stats *stats, struct err *err)
{
	struct result r;
	int ret = read_full(l->fd, &r, sizeof(r));

	while (waitpid(l->pid, NULL, 0) < 0 && errno == EINTR)
		;
	if (ret < 0 && published(l)) {
		log_warn("snapshot %s is ready; the process that wrote it was killed before it "
			 "could tell",
			 l->name);
		stats->untold = true;
		live_leave(l);
		return 0;
	}
	if (ret < 0) {
		/* Which of the two nobody can tell where SIGCHLD is ignored. */
		ret = err_set(err, EIO,
			      "the process that wrote the snapshot was killed, or ended without a "
			      "result");
		give_up(l, err);
		return ret;
	}
	live_leave(l);
	stats->data_bytes = r.stats.data_bytes;
	stats->diff = r.stats.diff;
	stats->new_bytes = r.stats.new_bytes;
	stats->stored_bytes = r.stats.stored_bytes;
	stats->disk_bytes = r.stats.disk_bytes;
	stats->disk_data_bytes = r.stats.disk_data_bytes;
	stats->save_us = r.stats.save_us;
	if (r.err.code == 0)
		return 0;
	*err = r.err;
	return -r.err.code;
}

void live_leave(struct live *l)
{
	if (l->fd >= 0)
		close(l->fd);
	if (l->record >= 0)
		close(l->record);
	free(l->store);
	free(l->name);
	*l = LIVE_NONE;
}

/*
 * What ends or fails while a snapshot is being taken, at every call on the store that taking it
 * makes: the monitor is killed, the child that writes a live snapshot is, the disk is full from
 * there on. Of each kind of snapshot. Afterwards: the snapshot is there and whole, or nothing of it
 * but the record of its failure; a machine whose monitor lives runs on, and its next snapshot,
 * under the same name where that is free, is right: restored, it is the machine at a count between
 * two answers.
 *
 *   test_snapshot_faults      every FAULT_STRIDE-th (5) call, beginning at a random one
 *   FAULT_STRIDE=1            every call
 */
#include "fault_shim.h"
#include "store_util.h"

#include <inttypes.h>
#include <poll.h>
#include <sys/mman.h>
#include <sys/wait.h>
#include <time.h>

#include "runner/devices/serial.h"
#include "runner/snapshot/live.h"
#include "runner/snapshot/restore.h"
#include "runner/snapshot/save.h"
#include "runner/x86/boot.h"

#define RAM_BYTES  (16 * MIB)
#define TIMEOUT_MS 60000

static const struct kind {
	const char *word;
	bool live, diff;
} kinds[] = {
	{"full", false, false},
	{"diff", false, true},
	{"live", true, false},
	{"live diff", true, true},
};

enum end { END_NONE, END_CALLER, END_MONITOR, END_FULL, ENDS };
static const char *const end_words[ENDS] = {
	"nothing",
	"whoever calls is killed",
	"the monitor is killed",
	"the disk is full",
};

/* What the monitor tells, as far as it comes. */
struct told {
	bool booted, taken, alive, again;
	bool forked; /* a child was writing */
	int ret, ret_again;
	uint64_t calls, calls_before_fork;
	uint64_t count_before, count_after; /* of the guest, around the last snapshot */
	char msg[ERR_MSG_MAX], msg_again[ERR_MSG_MAX];
	uint8_t what[SHIM_CALLS_MAX];
};

struct work {
	char dir[64], base[80], store[80], files[80], guest[512];
	struct told *told;
};

static void must(int r, const struct err *err, const char *what)
{
	if (r < 0) {
		fprintf(stderr, "# %s: %s\n", what, err->msg);
		_exit(99);
	}
}

/* ---- a guest ---- */

static void to_pipe(void *arg, const uint8_t *p, size_t n)
{
	if (syscall(SYS_write, *(int *)arg, p, n) != (ssize_t)n)
		abort();
}

/* The next line that begins with `word`; false: none in time. */
static bool hear(int fd, const char *word, char *line, size_t size)
{
	size_t n = 0;

	for (;;) {
		struct pollfd p = {.fd = fd, .events = POLLIN};

		if (poll(&p, 1, TIMEOUT_MS) != 1 || read(fd, line + n, 1) != 1)
			return false;
		if (line[n] != '\n' && n < size - 2) {
			n++;
			continue;
		}
		line[n] = 0;
		if (strncmp(line, word, strlen(word)) == 0)
			return true;
		n = 0;
	}
}

/* "now <count> <nonce>": the count; 0: it does not answer. */
static uint64_t ask(const struct machine *m, int fd)
{
	unsigned long long count;
	char line[128];

	pthread_mutex_lock(&m->vm->dev_lock);
	serial_input(m->serial, "?", 1);
	pthread_mutex_unlock(&m->vm->dev_lock);
	return hear(fd, "now ", line, sizeof(line)) && sscanf(line, "now %llx", &count) == 1 ? count
											     : 0;
}

/* ---- the monitor ---- */

static int take(const struct machine *m, const struct kind *k, const struct work *w,
		const char *name, const char *base, struct err *err)
{
	const uint8_t uuid[16] = {1};
	const struct save_info info = {.kind = k->diff && base ? SAVE_DIFF : SAVE_FULL,
				       .base = k->diff ? base : NULL,
				       .store = w->store,
				       .mount = "/",
				       .name = name,
				       .by = "a test",
				       .kernel_path = w->guest,
				       .generation = 1,
				       .uuid = uuid};
	struct save_stats stats;
	struct live live;
	int r;

	if (!k->live)
		return snapshot_save(m, &info, &stats, err);
	r = live_start(m, &info, &live, &stats, err);
	w->told->calls_before_fork = atomic_load(&shim.count);
	w->told->forked = r == 0;
	/* The child has its own copy of this. */
	shim.fault = SHIM_NONE;
	return r < 0 ? r : live_finish(&live, &stats, err);
}

_Noreturn static void monitor(const struct work *w, const struct kind *k)
{
	struct told *t = w->told;
	const enum shim_fault fault = shim.fault;
	int out[2];
	struct machine_config cfg = {.vcpus = 1,
				     .ram_bytes = RAM_BYTES,
				     .ram_fd = -1,
				     .serial_sink = to_pipe,
				     .serial_arg = &out[1]};
	struct machine m;
	struct err err = ERR_INIT, again = ERR_INIT;
	char line[128];

	if (pipe2(out, O_CLOEXEC) < 0)
		_exit(98);
	must(machine_new(&cfg, &m, &err), &err, "machine");
	must(boot_load(m.vm, &(struct boot_config){.kernel = w->guest}, &err), &err, "load");
	must(vm_start(m.vm, &err), &err, "start");
	t->booted = hear(out[0], "up ", line, sizeof(line));
	shim.fault = SHIM_NONE;
	must(take(&m, &kinds[0], w, "first", NULL, &err), &err, "the first snapshot");

	shim_root(w->store);
	shim.fault = fault;
	shim.victim = shim.victim ? getpid() : 0;
	atomic_store(&shim.count, 0);
	atomic_store(&shim.armed, true);
	t->count_before = ask(&m, out[0]);
	t->ret = take(&m, k, w, "it", "first", &err);
	t->calls = atomic_load(&shim.count);
	snprintf(t->msg, sizeof(t->msg), "%s", err.msg);
	t->taken = true;
	shim.fault = SHIM_NONE;
	atomic_store(&shim.armed, false);

	t->alive = ask(&m, out[0]) != 0;
	if (t->ret < 0) {
		t->count_before = ask(&m, out[0]);
		t->ret_again = take(&m, k, w, "it", "first", &again);
		snprintf(t->msg_again, sizeof(t->msg_again), "%s", again.msg);
		t->again = true;
	}
	t->count_after = ask(&m, out[0]);
	_exit(0);
}

/* ---- what is left ---- */

static bool wait_settled(struct smfs_store *s, struct smfs_pending *p, bool *there, struct err *err)
{
	for (int i = 0; i < TIMEOUT_MS; i++) {
		struct smfs_pending *v;
		size_t n;

		if (smfs_pending_list(s, &v, &n, err) < 0)
			return false;
		*there = n > 0;
		if (n)
			*p = v[0];
		free(v);
		if (n == 0 || p->state != SMFS_PENDING_WRITING)
			return n < 2;
		usleep(1000);
	}
	return false;
}

static void copy_out(struct smfs_store *s, const struct smfs_dir *d, const char *to)
{
	static uint8_t buf[MIB];

	for (size_t i = 0; i < smfs_dir_count(d); i++) {
		const struct smfs_entry *e = smfs_dir_at(d, i);
		struct smfs_file *file;
		struct err err = ERR_INIT;
		uint64_t at = 0, data, hole;
		char path[128];

		snprintf(path, sizeof(path), "%s/%s", to, e->name);
		must(smfs_file_open(s, &e->content, &file, &err), &err, e->name);
		int fd = open(path, O_CREAT | O_TRUNC | O_WRONLY, 0600);
		if (ftruncate(fd, (off_t)e->content.size) < 0)
			_exit(97);
		while (smfs_file_seek(file, at, SEEK_DATA, &data, &err) == 0) {
			must(smfs_file_seek(file, data, SEEK_HOLE, &hole, &err), &err, e->name);
			for (; data < hole; data += MIB) {
				size_t len = (size_t)MIN(hole - data, (uint64_t)MIB);

				must((int)smfs_file_pread(file, buf, len, data, &err), &err,
				     e->name);
				if (pwrite(fd, buf, len, (off_t)data) != (ssize_t)len)
					_exit(96);
			}
			at = hole;
		}
		smfs_file_close(file);
		close(fd);
	}
}

/* The count with which "it" comes back to life. */
static uint64_t restored_count(const struct work *w, struct smfs_store *s)
{
	struct restore_timing timing;
	struct smfs_name n;
	struct smfs_dir *d;
	struct snapshot *snap;
	struct machine m;
	struct err err = ERR_INIT;
	unsigned long long gen, count = 0;
	char line[128];
	int out[2];

	must(smfs_name_get(s, SMFS_SNAPSHOT, "it", &n, &err), &err, "the snapshot");
	must(smfs_dir_open(s, &n.root, &d, &err), &err, "the snapshot");
	copy_out(s, d, w->files);
	smfs_dir_close(d);
	if (pipe2(out, O_CLOEXEC) < 0)
		_exit(98);
	must(snapshot_open(w->files, "/", &snap, &err), &err, "open");
	must(snapshot_restore(snap,
			      &(struct restore_opts){.serial_sink = to_pipe, .serial_arg = &out[1]},
			      &m, &timing, &err),
	     &err, "restore");
	snapshot_close(snap);
	must(vm_start(m.vm, &err), &err, "start what was restored");
	if (!hear(out[0], "gen ", line, sizeof(line)) ||
	    sscanf(line, "gen %llx %llx", &gen, &count) != 2)
		fprintf(stderr, "# restored, it says: %s\n", line);
	vm_end(m.vm, VM_STOPPED);
	vm_wait(m.vm, &err);
	machine_free(&m);
	return count;
}

/* Exits with 0, or says what is wrong. */
_Noreturn static void look(const struct work *w, enum end end)
{
	const struct told *t = w->told;
	struct smfs_fsck k = {0};
	struct smfs_pending p = {0};
	struct smfs_store *s;
	struct smfs_name n;
	struct err err = ERR_INIT;
	bool pending = false;

	must(smfs_store_open(w->store, 0, &s, &err), &err, "open the store");
	if (!wait_settled(s, &p, &pending, &err)) {
		fprintf(stderr, "# it is still being written: %s\n", err.msg);
		_exit(1);
	}
	must(smfs_fsck(s, SMFS_FSCK_READ_DATA, &k, &err), &err, "fsck");
	const bool there = smfs_name_get(s, SMFS_SNAPSHOT, "it", &n, &err) == 0;
	const bool done = (t->taken && t->ret == 0) || (t->again && t->ret_again == 0);
	int bad = 0;

	if ((bad |= done && !there))
		fprintf(stderr, "# success, and no snapshot\n");
	/* Nor is the name taken: what was said to have failed has. */
	if (t->again && t->ret_again < 0 && (bad = 1))
		fprintf(stderr, "# the next one: %s\n", t->msg_again);
	if (there && pending && (bad = 1))
		fprintf(stderr, "# ready and %s: %s\n", p.name, p.reason);
	if (!there && t->taken && !pending && (bad = 1))
		fprintf(stderr, "# neither a snapshot nor a failure\n");
	if (pending && !p.reason[0] && (bad = 1))
		fprintf(stderr, "# failed for no reason\n");
	if (t->taken && !t->alive && (bad = 1))
		fprintf(stderr, "# the guest does not answer any more\n");
	/* The child goes on alone. */
	if (end == END_MONITOR && t->forked && !there && (bad = 1))
		fprintf(stderr, "# its writer lived, and left: %s\n", p.reason);
	if (there && !bad) {
		const uint64_t count = restored_count(w, s);

		if (count == 0 || count < t->count_before ||
		    (t->count_after && count > t->count_after)) {
			fprintf(stderr, "# restored at %llx, taken between %llx and %llx\n",
				(unsigned long long)count, (unsigned long long)t->count_before,
				(unsigned long long)t->count_after);
			bad = 1;
		}
	}
	smfs_store_close(s);
	_exit(bad);
}

/* ---- the test ---- */

static int in_child(void (*fn)(const struct work *, const struct kind *, enum end),
		    const struct work *w, const struct kind *k, enum end end)
{
	int status;

	fflush(NULL);
	pid_t pid = fork();
	if (pid == 0)
		fn(w, k, end);
	assert_true(pid > 0);
	assert_int_equal(waitpid(pid, &status, 0), pid);
	return status;
}

static void as_monitor(const struct work *w, const struct kind *k, enum end end)
{
	monitor(w, k);
}

static void as_looker(const struct work *w, const struct kind *k, enum end end)
{
	look(w, end);
}

static void run(struct work *w, const struct kind *k, enum end end, uint64_t at)
{
	char command[256];

	snprintf(command, sizeof(command), "rm -rf %s && cp -a %s %s", w->store, w->base, w->store);
	assert_int_equal(system(command), 0);
	memset(w->told, 0, sizeof(*w->told));
	shim.calls = w->told->what;
	shim.at = at;
	shim.sticky = end == END_FULL;
	shim.victim = end == END_MONITOR;
	shim.fault = end == END_NONE ? SHIM_NONE : end == END_FULL ? SHIM_ENOSPC : SHIM_KILL;
	int status = in_child(as_monitor, w, k, end);
	const bool killed = WIFSIGNALED(status) && WTERMSIG(status) == SIGKILL;

	shim.fault = SHIM_NONE;
	shim.calls = NULL;
	if (!w->told->booted || (status && !killed) || (killed && end == END_FULL))
		fail_msg("%s, %s at call %" PRIu64 ": the monitor ended with %#x", k->word,
			 end_words[end], at, status);
	if (in_child(as_looker, w, k, end) != 0)
		fail_msg("%s, %s at call %" PRIu64 " (%s)", k->word, end_words[end], at,
			 !w->told->taken    ? "the monitor is gone"
			 : w->told->ret < 0 ? w->told->msg
					    : "success");
}

static void every_end_of(struct work *w, const struct kind *k, unsigned stride, unsigned first)
{
	static uint8_t what[SHIM_CALLS_MAX];
	unsigned runs = 0, failures = 0;

	run(w, k, END_NONE, 0);
	if (w->told->ret < 0)
		fail_msg("%s: %s", k->word, w->told->msg);
	/* Of a live one the child's calls are not counted here: it is asked until nothing happens.
	 */
	uint64_t calls = w->told->calls;
	const uint64_t before_fork = w->told->calls_before_fork;

	assert_true(calls > 0 && calls <= SHIM_CALLS_MAX);
	memcpy(what, w->told->what, sizeof(what));
	if (k->live)
		while (calls < SHIM_CALLS_MAX && what[calls])
			calls++;
	for (uint64_t at = 1 + first % stride; at <= calls; at += stride)
		for (enum end end = END_CALLER; end < ENDS; end++) {
			/* Before the fork the monitor is who calls. */
			if (end == END_MONITOR && (!k->live || at <= before_fork))
				continue;
			if (end == END_FULL && !(what[at - 1] & CALL_GROW))
				continue;
			run(w, k, end, at);
			runs++;
			failures += !w->told->taken || w->told->ret < 0;
		}
	printf("# %s: %" PRIu64 " calls, %u ends, of which %u made it fail\n", k->word, calls, runs,
	       failures);
	assert_true(runs > 0);
}

static void no_end_leaves_half_a_snapshot(void **state)
{
	const char *env = getenv("FAULT_STRIDE"), *build = getenv("BUILD");
	unsigned stride = env ? (unsigned)atoi(env) : 5, seed = (unsigned)time(NULL);
	struct work w = {0};
	struct err err = ERR_INIT;

	if (access("/dev/kvm", R_OK | W_OK) < 0) {
		print_message("# no /dev/kvm\n");
		skip();
	}
	assert_true(stride > 0);
	snprintf(w.dir, sizeof(w.dir), "%s/snapshot-faults.XXXXXX",
		 access("/dev/shm", W_OK) == 0 ? "/dev/shm" : "/tmp");
	assert_non_null(mkdtemp(w.dir));
	snprintf(w.base, sizeof(w.base), "%s/base", w.dir);
	snprintf(w.store, sizeof(w.store), "%s/store", w.dir);
	snprintf(w.files, sizeof(w.files), "%s/files", w.dir);
	snprintf(w.guest, sizeof(w.guest), "%s/guest/counter", build ? build : "build");
	assert_int_equal(mkdir(w.files, 0700), 0);
	assert_int_equal(smfs_store_init(w.base, &err), 0);
	w.told = mmap(NULL, sizeof(*w.told), PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1,
		      0);
	assert_true(w.told != MAP_FAILED);
	for (size_t i = 0; i < ARRAY_SIZE(kinds); i++)
		every_end_of(&w, &kinds[i], stride, seed + (unsigned)i * 5);
	munmap(w.told, sizeof(*w.told));
	rm_tree(w.dir);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(no_end_leaves_half_a_snapshot),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}

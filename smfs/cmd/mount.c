/*
 * mount.c - smfs mount: serve a store as a file system.
 *
 * Three processes, by default: the command returns once the mount answers; before, it has started
 * a keeper, which starts a worker (keeper.h), this same command with --worker, that serves. The
 * outcome goes back through a pipe, and the command looks at the mount itself before it reports
 * success. With --foreground the command is the keeper; with --no-keeper the keeper's place is the
 * server's own. The store is opened by who serves: neither threads nor the index survive a fork.
 */
#include <fcntl.h>
#include <limits.h>
#include <poll.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/signalfd.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#include "smfs/base/cleanup.h"
#include "smfs/base/io.h"
#include "smfs/base/log.h"
#include "smfs/base/notify.h"
#include "smfs/base/num.h"
#include "smfs/base/signals.h"
#include "smfs/cmd/cmd.h"
#include "smfs/mount/hot_cache.h"
#include "smfs/mount/keeper.h"
#include "smfs/mount/mount.h"
#include "smfs/mount/takeover.h"

#define DEFAULT_LOG "/var/log/smfs.log"

struct job {
	struct cmd *c;
	const char *mnt;
	const char *log; /* background only */
	bool log_given;
	unsigned flags;
	uint64_t cache_size; /* or HOT_LIMIT_KEEP */
	int ready;	     /* where the outcome goes, or -1 in the foreground */
	unsigned watchdog;
	char **argv; /* the command line, to start workers with */
};

/* What the child tells the parent: a struct err, code 0 for success. */
static int tell(struct job *j, const struct err *err)
{
	if (j->ready >= 0) {
		if (write_full(j->ready, err, sizeof(*err)) < 0)
			return EXIT_FAILED; /* the parent has gone; so do we */
		close(j->ready);
		j->ready = -1;
		return err_exit_code(err->code);
	}
	if (err->code)
		return cmd_fail(err);
	service_notify("READY=1");
	return EXIT_OK;
}

static int make_mount_point(const char *mnt, struct err *err)
{
	char path[PATH_MAX];

	if ((size_t)snprintf(path, sizeof(path), "%s", mnt) >= sizeof(path))
		return err_set(err, ENAMETOOLONG, "create %s", mnt);
	for (char *p = path + 1; *path && *p; p++) {
		if (*p != '/')
			continue;
		*p = '\0';
		if (mkdir(path, 0755) < 0 && errno != EEXIST)
			return err_errno(err, "create %s", path);
		*p = '/';
	}
	/* A dead mount is told by the mount itself. */
	if (mkdir(path, 0755) < 0 && errno != EEXIST)
		return err_errno(err, "create %s", path);
	return 0;
}

/* A server the kernel kills for memory takes every machine that maps its files along. */
static void protect_from_oom(void)
{
	static const char never[] = "-1000";
	cleanup_fd int fd = open("/proc/self/oom_score_adj", O_WRONLY | O_CLOEXEC);

	if (fd < 0 || write_full(fd, never, sizeof(never) - 1) < 0)
		log_warn("not protected from the kernel's killing for memory: oom_score_adj: %s",
			 strerror(errno));
}

/* Packs, and the files of snapshots being copied in, may be more than the customary 1024. */
static void raise_file_limit(void)
{
	struct rlimit lim;

	if (getrlimit(RLIMIT_NOFILE, &lim) == 0 && lim.rlim_cur < lim.rlim_max) {
		lim.rlim_cur = lim.rlim_max;
		if (setrlimit(RLIMIT_NOFILE, &lim) < 0)
			log_info("raise the limit of open files: %s", strerror(errno));
	}
}

/* Standard output and input go; standard error becomes the log. */
static int leave_terminal(struct job *j, struct err *err)
{
	cleanup_fd int null = open("/dev/null", O_RDWR | O_CLOEXEC);
	cleanup_fd int log = open(j->log, O_WRONLY | O_CREAT | O_APPEND | O_CLOEXEC, 0640);

	if (null < 0)
		return err_errno(err, "open /dev/null");
	if (log < 0 && j->log_given)
		return err_errno(err, "open log %s", j->log);
	if (dup2(null, STDIN_FILENO) < 0 || dup2(null, STDOUT_FILENO) < 0 ||
	    dup2(log < 0 ? null : log, STDERR_FILENO) < 0)
		return err_errno(err, "redirect standard streams");
	return 0;
}

/* The keeper wants another process to go on; returns if this one is to. */
static void drain(struct smfs_mount *m, int control)
{
	struct err err = ERR_INIT;

	if (mount_drain(m, &err) == 0)
		_exit(KEEPER_DRAINED);
	keeper_tell(control, KEEPER_BUSY, &err, -1);
}

/*
 * Serve until somebody unmounts. The first signal detaches the mount: nobody new gets in, those
 * who have files open keep them; the second ends it. `control` leads to the keeper, or is -1.
 */
static int serve_until_unmounted(struct smfs_mount *m, int signals, int control)
{
	struct pollfd p[] = {{.fd = smfs_mount_fd(m), .events = POLLIN},
			     {.fd = signals, .events = POLLIN},
			     {.fd = control, .events = POLLIN}};
	struct signalfd_siginfo si;
	struct keeper_message msg;
	bool detached = false;
	struct err err = ERR_INIT;

	for (;;) {
		if (poll(p, ARRAY_SIZE(p), -1) < 0 && errno != EINTR)
			return EXIT_FAILED;
		if (p[0].revents)
			return EXIT_OK;
		if (p[2].revents && keeper_hear(control, &msg, NULL) < 0) {
			log_warn("the keeper has ended: if this server dies, the mount does");
			p[2].fd = -1;
		} else if (p[2].revents && msg.say == KEEPER_DRAIN) {
			drain(m, control);
		}
		if (!(p[1].revents & POLLIN) || read_full(signals, &si, sizeof(si)) < 0)
			continue;
		if (detached) {
			log_warn("second signal: ending while in use");
			_exit(EXIT_INTERRUPTED);
		}
		if (smfs_mount_detach(m, &err) < 0)
			log_err("%s", err.msg);
		detached = true;
		/* With nobody using it, it has ended before this line. */
		if (poll(p, 1, 1000) == 0)
			log_warn("still in use; serving those who have files open, a second "
				 "signal ends it");
	}
}

static int set_cache_size(const struct job *j, const struct smfs_store *s, struct err *err)
{
	struct hot_cache *cache;

	if (j->cache_size == HOT_LIMIT_KEEP)
		return 0;
	int r = hot_cache_open(smfs_store_dir(s), 0, j->cache_size, &cache, err);
	if (r == 0)
		hot_cache_close(cache);
	return r;
}

static const int ending[] = {SIGINT, SIGTERM, SIGHUP, 0};

static int open_store(struct job *j, struct smfs_store **out, struct err *err)
{
	int r = cmd_open_store(j->c, j->flags & SMFS_MOUNT_RDONLY ? SMFS_RDONLY : SMFS_CMD_CREATE,
			       out, err);

	if (r == 0)
		r = make_mount_point(j->mnt, err);
	return r < 0 ? r : set_cache_size(j, *out, err);
}

/* ---- by one process alone ------------------------------------------------------------------- */

static int serve(struct job *j)
{
	cleanup_store struct smfs_store *s = NULL;
	struct smfs_mount *m = NULL;
	struct err err = ERR_INIT;
	cleanup_fd int signals = signals_open(ending, 0, NULL, &err);

	if (signals >= 0 && open_store(j, &s, &err) == 0)
		smfs_mount_store(s, j->mnt, j->flags, &m, &err);
	if (!err.code && j->ready >= 0)
		leave_terminal(j, &err);
	if (!err.code && chdir("/") < 0)
		err_errno(&err, "chdir /");
	if (err.code) {
		smfs_mount_stop(m);
		return tell(j, &err);
	}
	protect_from_oom();
	raise_file_limit();
	if (tell(j, &err) != EXIT_OK) {
		smfs_mount_stop(m);
		return EXIT_FAILED;
	}
	int status = serve_until_unmounted(m, signals, -1);
	smfs_mount_stop(m);
	return status;
}

/* ---- by a worker, with a keeper ---------------------------------------------------------------
 */

static int keeper_ready(void *arg, const struct err *err)
{
	struct job *j = arg;

	if (!err->code && chdir("/") < 0)
		log_warn("chdir /: %s", strerror(errno));
	return tell(j, err) == EXIT_OK ? 0 : -EIO;
}

static int keep(struct job *j)
{
	char *next[] = {"smfs", "mount", "--worker=next", j->c->verbose ? "-v" : NULL, NULL};
	char *first[64] = {"smfs", "mount", "--worker=first"};
	struct keeper_config cfg = {.first = first,
				    .next = next,
				    .watchdog = j->watchdog,
				    .ready = keeper_ready,
				    .arg = j};
	struct err err = ERR_INIT;
	size_t n = 3;

	for (char **a = j->argv + 1; *a; a++) {
		if (n == ARRAY_SIZE(first) - 1)
			return cmd_usage(j->c, "too many arguments");
		first[n++] = *a;
	}
	if (j->ready >= 0 && leave_terminal(j, &err) < 0)
		return tell(j, &err);
	protect_from_oom();
	return keeper_run(&cfg);
}

static int first_worker(struct job *j, const struct mount_line *line, struct smfs_store **s,
			struct smfs_mount **m, struct err *err)
{
	int r = open_store(j, s, err);

	return r < 0 ? r : mount_first(*s, j->mnt, j->flags, line, m, err);
}

static int next_worker(const struct mount_line *line, struct smfs_store **s, struct smfs_mount **m,
		       struct err *err)
{
	struct keeper_message msg;
	struct takeover *t;
	int r = takeover_map(line->table, &t, err);

	if (r < 0)
		return r;
	const struct takeover_area *a = takeover_area(t);
	r = smfs_store_open(a->store, a->flags & SMFS_MOUNT_RDONLY ? SMFS_RDONLY : 0, s, err);
	takeover_unmap(t);
	if (r == 0)
		r = mount_prepare(*s, line, m, err);
	if (r < 0)
		return r;
	if (keeper_tell(KEEPER_FD_CONTROL, KEEPER_READY, NULL, -1) < 0 ||
	    keeper_hear(KEEPER_FD_CONTROL, &msg, NULL) < 0 || msg.say != KEEPER_GO)
		return err_set(err, ECANCELED, "take over: the keeper has changed its mind");
	return mount_go(*m, err);
}

static int work(struct job *j, bool first)
{
	struct smfs_store *s = NULL;
	struct smfs_mount *m = NULL;
	struct err err = ERR_INIT;
	int dev[CHANNEL_THREADS];
	struct mount_line line = {.dev = dev, .table = KEEPER_FD_TABLE};

	for (int i = 0; i < CHANNEL_THREADS; i++)
		dev[i] = KEEPER_FD_DEVICE + i;
	for (int fd = KEEPER_FD_CONTROL; fd < KEEPER_FD_END; fd++)
		if (fcntl(fd, F_SETFD, FD_CLOEXEC) < 0)
			return cmd_usage(j->c, "--worker is for the keeper to use");
	/* Started from a descriptor, it would be named after that. */
	prctl(PR_SET_NAME, "smfs");
	raise_file_limit();
	int signals = signals_open(ending, 0, NULL, &err);
	if (signals >= 0 && first)
		first_worker(j, &line, &s, &m, &err);
	else if (signals >= 0)
		next_worker(&line, &s, &m, &err);
	if (!err.code && chdir("/") < 0)
		err_errno(&err, "chdir /");
	if (err.code) {
		if (first)
			smfs_mount_stop(m);
		keeper_tell(KEEPER_FD_CONTROL, KEEPER_READY, &err, -1);
		/* Nothing of a mount that others hold is taken down. */
		_exit(err_exit_code(err.code));
	}
	keeper_tell(KEEPER_FD_CONTROL, first ? KEEPER_READY : KEEPER_SERVING, NULL,
		    smfs_lease_fd(s));
	int status = serve_until_unmounted(m, signals, KEEPER_FD_CONTROL);
	smfs_mount_stop(m);
	smfs_store_close(s);
	return status;
}

/* ---- the command ------------------------------------------------------------------------------
 */

/* The mount answers, seen from outside of its server. */
static int look(const char *mnt, struct err *err)
{
	char path[PATH_MAX];
	cleanup_free char *text = NULL;

	snprintf(path, sizeof(path), "%s/.smfs/version", mnt);
	return read_file(AT_FDCWD, path, 4096, &text, NULL, err);
}

static int in_background(struct job *j, int (*body)(struct job *j))
{
	struct err err = ERR_INIT;
	int pipefd[2];

	if (pipe2(pipefd, O_CLOEXEC) < 0) {
		err_errno(&err, "pipe");
		return cmd_fail(&err);
	}
	pid_t pid = fork();
	if (pid < 0) {
		err_errno(&err, "fork");
		return cmd_fail(&err);
	}
	if (pid == 0) {
		/* Whatever else the caller has open, locks among it, is not the server's to keep.
		 */
		j->ready = dup2(pipefd[1], STDERR_FILENO + 1);
		if (j->ready < 0 || fcntl(j->ready, F_SETFD, FD_CLOEXEC) < 0)
			_exit(EXIT_FAILED);
		close_range(STDERR_FILENO + 2, UINT_MAX, 0);
		setsid();
		return body(j);
	}
	close(pipefd[1]);
	int r = read_full(pipefd[0], &err, sizeof(err));
	close(pipefd[0]);
	if (r < 0)
		err_set(&err, EIO, "mount %s: the server ended before it was ready", j->mnt);
	if (!err.code)
		look(j->mnt, &err);
	if (err.code) {
		waitpid(pid, NULL, 0);
		return cmd_fail(&err);
	}
	if (j->c->verbose)
		printf("%s: mounted, kept by process %d\n", j->mnt, (int)pid);
	return cmd_flush();
}

static bool parse_hot(const char *s, unsigned *flags)
{
	*flags &= ~(SMFS_MOUNT_ALWAYS_HOT | SMFS_MOUNT_NEVER_HOT);
	if (strcmp(s, "always") == 0)
		*flags |= SMFS_MOUNT_ALWAYS_HOT;
	else if (strcmp(s, "never") == 0)
		*flags |= SMFS_MOUNT_NEVER_HOT;
	else
		return strcmp(s, "auto") == 0;
	return true;
}

static int run(struct cmd *c, int argc, char **argv)
{
	static const struct option own[] = {{"foreground", no_argument, NULL, 'f'},
					    {"read-only", no_argument, NULL, 'r'},
					    {"log", required_argument, NULL, 'L'},
					    {"hot", required_argument, NULL, 'H'},
					    {"cache-size", required_argument, NULL, 'S'},
					    {"no-keeper", no_argument, NULL, 'K'},
					    {"watchdog", required_argument, NULL, 'W'},
					    {"worker", required_argument, NULL, 'w'},
					    {0}};
	const char *env = getenv("SMFS_MOUNT");
	struct job j = {.c = c,
			.mnt = env && *env ? env : SMFS_DEFAULT_MOUNT,
			.log = DEFAULT_LOG,
			.cache_size = HOT_LIMIT_KEEP,
			.ready = -1,
			.watchdog = KEEPER_WATCHDOG_SECONDS,
			.argv = argv};
	const char *worker = NULL;
	struct err err = ERR_INIT;
	bool foreground = false, alone = false;
	uint64_t seconds;
	int o, status;

	while ((o = cmd_getopt(c, argc, argv, "fr", own, &status)) != -1) {
		if (o == CMD_EXIT)
			return status;
		if (o == 'f')
			foreground = true;
		else if (o == 'r')
			j.flags |= SMFS_MOUNT_RDONLY;
		else if (o == 'L') {
			j.log = optarg;
			j.log_given = true;
		} else if (o == 'H' && !parse_hot(optarg, &j.flags))
			return cmd_usage(c, "--hot %s: it is auto, always or never", optarg);
		else if (o == 'S' && parse_size(optarg, 0, INT64_MAX, &j.cache_size, &err) < 0)
			return cmd_usage(c, "--cache-size: %s", err.msg);
		else if (o == 'W') {
			if (parse_u64(optarg, 0, 86400, &seconds, &err) < 0)
				return cmd_usage(c, "--watchdog: %s", err.msg);
			j.watchdog = (unsigned)seconds;
		} else if (o == 'K')
			alone = true;
		else if (o == 'w')
			worker = optarg;
	}
	switch (argc - optind) {
	case 2:
		c->store_dir = argv[optind];
		j.mnt = argv[optind + 1];
		break;
	case 1:
		j.mnt = argv[optind];
		break;
	case 0:
		break;
	default:
		return cmd_usage(c, "too many arguments");
	}
	if (worker)
		return work(&j, strcmp(worker, "first") == 0);
	int (*body)(struct job *) = alone ? serve : keep;
	return foreground ? body(&j) : in_background(&j, body);
}

const struct command cmd_mount = {
	.name = "mount",
	.args = "[[STORE] MNT]",
	.summary = "mount the store",
	.help = "MNT (default: $SMFS_MOUNT, or " SMFS_DEFAULT_MOUNT
		") is created if missing; STORE is\n"
		"made a store if it is missing or empty. Returns once the mount answers.\n"
		"  -f, --foreground  stay in the foreground\n"
		"  -r, --read-only   nothing can be copied in, renamed or removed\n"
		"  --log FILE        of the background server (default: " DEFAULT_LOG ")\n"
		"  --hot POLICY      which large files the kernel serves by itself, from plain\n"
		"                    files in the store's cache: auto (default: those in use a\n"
		"                    lot, and those of `smfs warm`), always, never\n"
		"  --cache-size SIZE how much the cache may take from now on, as of `smfs warm`\n"
		"  --watchdog SECONDS  a server that is at one request for longer is replaced\n"
		"                    (default: 30; 0: never)\n"
		"  --no-keeper       if the server dies, so does the mount\n"
		"The first SIGINT or SIGTERM detaches the mount and serves those who have files\n"
		"open; the second ends it.\n",
	.run = run,
};

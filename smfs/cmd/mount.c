/*
 * mount.c - smfs mount: serve a store as a file system.
 *
 * In the background, which is the default, a child serves and tells the parent through a pipe
 * how it went; the parent looks at the mount itself before it reports success. The child opens
 * the store after the fork: neither threads nor the index survive one.
 */
#include <fcntl.h>
#include <limits.h>
#include <poll.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <sys/signalfd.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#include "smfs/base/cleanup.h"
#include "smfs/base/io.h"
#include "smfs/base/log.h"
#include "smfs/base/num.h"
#include "smfs/cmd/cmd.h"
#include "smfs/mount/hot_cache.h"
#include "smfs/mount/mount.h"

#define DEFAULT_LOG "/var/log/smfs.log"

struct job {
	struct cmd *c;
	const char *mnt;
	const char *log; /* background only */
	bool log_given;
	unsigned flags;
	uint64_t cache_size; /* or HOT_LIMIT_KEEP */
	int ready;	     /* where the outcome goes, or -1 in the foreground */
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
	return err->code ? cmd_fail(err) : EXIT_OK;
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
	static const char least_likely[] = "-900";
	cleanup_fd int fd = open("/proc/self/oom_score_adj", O_WRONLY | O_CLOEXEC);

	if (fd < 0 || write_full(fd, least_likely, sizeof(least_likely) - 1) < 0)
		log_info("oom_score_adj: %s", strerror(errno));
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

/*
 * Serve until somebody unmounts. The first signal detaches the mount: nobody new gets in, those
 * who have files open keep them; the second ends it.
 */
static int serve_until_unmounted(struct smfs_mount *m, int signals)
{
	struct pollfd p[] = {{.fd = smfs_mount_fd(m), .events = POLLIN},
			     {.fd = signals, .events = POLLIN}};
	struct signalfd_siginfo si;
	bool detached = false;
	struct err err = ERR_INIT;

	for (;;) {
		if (poll(p, 2, -1) < 0 && errno != EINTR)
			return EXIT_FAILED;
		if (p[0].revents)
			return EXIT_OK;
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

static int serve(struct job *j)
{
	cleanup_store struct smfs_store *s = NULL;
	struct smfs_mount *m = NULL;
	struct err err = ERR_INIT;
	sigset_t set;

	sigemptyset(&set);
	sigaddset(&set, SIGINT);
	sigaddset(&set, SIGTERM);
	sigaddset(&set, SIGHUP);
	sigprocmask(SIG_BLOCK, &set, NULL);
	cleanup_fd int signals = signalfd(-1, &set, SFD_CLOEXEC);
	if (signals < 0)
		err_errno(&err, "signalfd");
	else if (cmd_open_store(j->c, j->flags & SMFS_MOUNT_RDONLY ? SMFS_RDONLY : SMFS_CMD_CREATE,
				&s, &err) == 0 &&
		 make_mount_point(j->mnt, &err) == 0 && set_cache_size(j, s, &err) == 0)
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
	int status = serve_until_unmounted(m, signals);
	smfs_mount_stop(m);
	return status;
}

/* The mount answers, seen from outside of its server. */
static int look(const char *mnt, struct err *err)
{
	char path[PATH_MAX];
	cleanup_free char *text = NULL;

	snprintf(path, sizeof(path), "%s/.smfs/version", mnt);
	return read_file(AT_FDCWD, path, 4096, &text, NULL, err);
}

static int in_background(struct job *j)
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
		return serve(j);
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
		printf("%s: mounted, served by process %d\n", j->mnt, (int)pid);
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
	static const struct option own[] = {
		{"foreground", no_argument, NULL, 'f'},	      {"read-only", no_argument, NULL, 'r'},
		{"log", required_argument, NULL, 'L'},	      {"hot", required_argument, NULL, 'H'},
		{"cache-size", required_argument, NULL, 'S'}, {0}};
	const char *env = getenv("SMFS_MOUNT");
	struct job j = {.c = c,
			.mnt = env && *env ? env : SMFS_DEFAULT_MOUNT,
			.log = DEFAULT_LOG,
			.cache_size = HOT_LIMIT_KEEP,
			.ready = -1};
	struct err err = ERR_INIT;
	bool foreground = false;
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
	return foreground ? serve(&j) : in_background(&j);
}

const struct command cmd_mount = {
	.name = "mount",
	.args = "[[STORE] MNT]",
	.summary = "mount the store",
	.help = "MNT (default: $SMFS_MOUNT, or " SMFS_DEFAULT_MOUNT
		") is created if missing; STORE is\n"
		"made a store if it is missing or empty. Returns once the mount answers.\n"
		"  -f, --foreground  serve from this process\n"
		"  -r, --read-only   nothing can be copied in, renamed or removed\n"
		"  --log FILE        of the background server (default: " DEFAULT_LOG ")\n"
		"  --hot POLICY      which large files the kernel serves by itself, from plain\n"
		"                    files in the store's cache: auto (default: those in use a\n"
		"                    lot, and those of `smfs warm`), always, never\n"
		"  --cache-size SIZE how much the cache may take from now on, as of `smfs warm`\n"
		"The first SIGINT or SIGTERM detaches the mount and serves those who have files\n"
		"open; the second ends it.\n",
	.run = run,
};

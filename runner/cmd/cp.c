/* smvm-runner cp: files and trees from and to a running VM. */
#include "runner/cmd/cmd.h"
#include "runner/control/rundir.h"
#include "runner/guest/agent_client.h"

#include "smfs/base/cleanup.h"
#include "smfs/base/num.h"

#include <fcntl.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>

#define LIMIT_DEFAULT (64 * GIB)

static const char usage[] =
	"Usage: smvm-runner cp [-a] [--limit SIZE] VM:PATH HOST\n"
	"       smvm-runner cp [-a] HOST VM:PATH\n"
	"Copy a file or a folder with all in it out of a running VM, or into one. When the destination\n"
	"is a folder the copy goes into it by its own name, else it is the copy's name. HOST \"-\" is\n"
	"standard output, or input, for the content of one file. A HOST with a colon needs a \"/\" or\n"
	"\"./\" in front.\n\n"
	"  -a, --archive      keep owners, setuid and setgid; else all is yours, or the guest's root's\n"
	"      --limit SIZE   take no more than SIZE out of the VM (64G)\n";

struct copy {
	bool archive, out;
	uint64_t limit;
	const char *host; /* "-": a standard stream */
	const char *guest;
};

/* NAME:PATH with an absolute PATH; a host's path begins with a slash or a dot when it has a colon.
 */
static const char *guest_path(const char *arg, char *vm, size_t cap)
{
	const char *colon = strchr(arg, ':');

	if (!colon || arg[0] == '/' || arg[0] == '.' || (size_t)(colon - arg) >= cap ||
	    colon == arg)
		return NULL;
	memcpy(vm, arg, (size_t)(colon - arg));
	vm[colon - arg] = '\0';
	return colon + 1;
}

/* The last component of a path that may end in slashes; "" of one that has none to name it by. */
static void base_name(const char *path, char out[AGENT_NAME_MAX + 1])
{
	size_t n = strlen(path), at;

	while (n && path[n - 1] == '/')
		n--;
	for (at = n; at && path[at - 1] != '/';)
		at--;
	snprintf(out, AGENT_NAME_MAX + 1, "%.*s", (int)(n - at), path + at);
	if (!agent_path_check(out))
		out[0] = '\0';
}

static int copy_out(struct agent *a, const struct copy *c, struct agent_done *done, struct err *err)
{
	struct tree_policy p = {
		.owners = c->archive, .max_bytes = c->limit, .max_entries = TREE_ENTRIES};
	char as[AGENT_NAME_MAX + 1], name[AGENT_NAME_MAX + 1];
	cleanup_fd int dirfd = -1;
	int r;

	if (!strcmp(c->host, "-"))
		return agent_file_read(a, c->guest, 0, UINT64_MAX, c->limit, STDOUT_FILENO, NULL,
				       done, err);
	base_name(c->guest, name);
	r = tree_target(-1, c->host, name, &dirfd, as, err);
	return r < 0 ? r : agent_fetch(a, c->guest, dirfd, as, &p, done, err);
}

static int copy_in(struct agent *a, const struct copy *c, struct agent_done *done, struct err *err)
{
	struct agent_put q = {.owners = c->archive};
	struct agent_write w = {.mode = 0644};
	char as[AGENT_NAME_MAX + 1];
	cleanup_fd int dirfd = -1;
	struct stat st;
	int r;

	if (strlen(c->guest) > AGENT_PATH_MAX)
		return err_set(err, ENAMETOOLONG, "%.100s...: path too long", c->guest);
	snprintf(q.path, sizeof(q.path), "%s", c->guest);
	snprintf(w.path, sizeof(w.path), "%s", c->guest);
	if (!strcmp(c->host, "-"))
		return agent_file_write(a, &w, STDIN_FILENO, done, err);
	base_name(c->host, q.name);
	r = tree_target(-1, c->host, "", &dirfd, as, err);
	if (r == 0 && fstatat(dirfd, as, &st, AT_SYMLINK_NOFOLLOW) < 0)
		r = err_errno(err, "copy %s", c->host);
	return r < 0 ? r : agent_put(a, dirfd, as, &q, done, err);
}

static int run(const char *vm, const struct copy *c, struct err *err)
{
	char path[RUNDIR_PATH_MAX];
	struct agent *a = NULL;
	struct agent_done done;
	struct rundir *d;
	int r = rundir_find(vm, &d, err);

	if (r < 0)
		return r;
	rundir_file(d, "vsock.sock", path);
	r = access(path, F_OK) == 0
		    ? agent_connect(path, AGENT_TIMEOUT_MS, &a, err)
		    : err_set(err, ENOTSUP, "VM %s is a bare guest: it has no agent to copy files",
			      d->info.name);
	rundir_release(d);
	if (r == 0)
		r = c->out ? copy_out(a, c, &done, err) : copy_in(a, c, &done, err);
	agent_close(a);
	if (r == 0 && done.skipped)
		fprintf(stderr,
			"smvm-runner: cp: %llu not copied: sockets, devices, or what the "
			"kernel makes up\n",
			(unsigned long long)done.skipped);
	return r;
}

int cmd_cp(int argc, char **argv)
{
	static const struct option options[] = {{"archive", no_argument, NULL, 'a'},
						{"limit", required_argument, NULL, 'l'},
						{"help", no_argument, NULL, 'h'},
						{0}};
	char from[VM_NAME_MAX + 1], to[VM_NAME_MAX + 1];
	struct copy c = {.limit = LIMIT_DEFAULT};
	const char *in, *out;
	struct err err = ERR_INIT;
	int o;

	while ((o = getopt_long(argc, argv, "ah", options, NULL)) != -1) {
		switch (o) {
		case 'a':
			c.archive = true;
			break;
		case 'l':
			if (parse_size(optarg, 1, INT64_MAX, &c.limit, &err) < 0)
				return usage_error("cp", "--limit: %s", err.msg);
			break;
		case 'h':
			return help(usage);
		default:
			return EXIT_USAGE;
		}
	}
	if (argc - optind != 2)
		return usage_error("cp", "takes a source and a destination");
	out = guest_path(argv[optind], from, sizeof(from));
	in = guest_path(argv[optind + 1], to, sizeof(to));
	if (!in == !out)
		return usage_error("cp",
				   "one of the two is VM:PATH, the other a path of this host");
	c.out = out != NULL;
	c.guest = out ? out : in;
	c.host = argv[out ? optind + 1 : optind];
	if (c.guest[0] != '/')
		return usage_error("cp", "the path in the VM begins with a slash");
	return run(out ? from : to, &c, &err) < 0 ? fail(&err) : EXIT_OK;
}

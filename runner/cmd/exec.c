/* smvm-runner exec: run a program in a running VM. */
#include "runner/cmd/cmd.h"
#include "runner/cmd/session.h"
#include "runner/control/rundir.h"

#include "smfs/base/num.h"

#include <string.h>
#include <unistd.h>

static const char usage[] =
	"Usage: smvm-runner exec [OPTIONS] VM [--] COMMAND [ARG...]\n"
	"Run COMMAND in a running VM, with its own standard streams, and exit with its status.\n"
	"Environment, user and working directory are the image's unless given.\n\n"
	"  -i, --interactive    pass standard input on (implied by -t)\n"
	"  -t, --tty            give it a terminal\n"
	"  -e, --env NAME=VALUE set a variable (repeatable)\n"
	"  -u, --user USER      uid[:gid] or name[:group]\n"
	"  -w, --workdir DIR    working directory\n"
	"      --timeout SECS   kill it after SECS; the status is then 124\n"
	"      --stats          tell on standard error how long it took and how much memory it used\n";

static const struct option options[] = {{"interactive", no_argument, NULL, 'i'},
					{"tty", no_argument, NULL, 't'},
					{"env", required_argument, NULL, 'e'},
					{"user", required_argument, NULL, 'u'},
					{"workdir", required_argument, NULL, 'w'},
					{"timeout", required_argument, NULL, 'T'},
					{"stats", no_argument, NULL, 'S'},
					{"help", no_argument, NULL, 'h'},
					{0}};

struct environment {
	char *var[257]; /* NULL-terminated */
	size_t n;
};

static int add_variable(struct environment *e, char *text, struct err *err)
{
	if (e->n + 1 == ARRAY_SIZE(e->var) || !strchr(text, '=') || *text == '=')
		return err_set(err, EINVAL, "--env takes NAME=VALUE, at most %zu times",
			       ARRAY_SIZE(e->var) - 1);
	e->var[e->n++] = text;
	return 0;
}

static int take(struct agent_exec *x, struct environment *env, int o, struct err *err)
{
	uint64_t seconds;

	switch (o) {
	case 'i':
		x->stdin_open = true;
		return 0;
	case 't':
		x->tty = x->stdin_open = true;
		return 0;
	case 'e':
		return add_variable(env, optarg, err);
	case 'u':
		x->user = optarg;
		return 0;
	case 'w':
		x->cwd = optarg;
		return 0;
	case 'T':
		if (parse_u64(optarg, 1, 1000000, &seconds, err) < 0)
			return err_wrap(err, -EINVAL, "--timeout");
		x->timeout_ms = (uint32_t)seconds * 1000;
		return 0;
	default:
		x->measure = true;
		return 0;
	}
}

static int run(const char *vm, struct agent_exec *x, int *status, struct err *err)
{
	char path[RUNDIR_PATH_MAX];
	struct rundir *d;
	int r = rundir_find(vm, &d, err);

	if (r < 0)
		return r;
	rundir_file(d, "vsock.sock", path);
	r = access(path, F_OK) == 0
		    ? session_exec(path, x, AGENT_TIMEOUT_MS, status, err)
		    : err_set(err, ENOTSUP,
			      "VM %s is a bare guest: it has no agent to run programs",
			      d->info.name);
	rundir_release(d);
	return r;
}

int cmd_exec(int argc, char **argv)
{
	struct environment env = {.n = 0};
	struct agent_exec x = {.env = env.var};
	struct err err = ERR_INIT;
	int o, status = 0;

	while ((o = getopt_long(argc, argv, "+ite:u:w:h", options, NULL)) != -1) {
		if (o == '?')
			return EXIT_USAGE;
		if (o == 'h')
			return help(usage);
		if (take(&x, &env, o, &err) < 0)
			return usage_error("exec", "%s", err.msg);
	}
	if (argc - optind < 2)
		return usage_error("exec", "takes a VM and a command");
	const char *vm = argv[optind++];
	if (!strcmp(argv[optind], "--"))
		optind++;
	if (optind == argc)
		return usage_error("exec", "takes a command");
	x.argv = argv + optind;
	return run(vm, &x, &status, &err) < 0 ? fail(&err) : status;
}

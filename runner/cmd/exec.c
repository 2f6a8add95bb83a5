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

int cmd_exec(int argc, char **argv)
{
	static const struct option options[] = {{"interactive", no_argument, NULL, 'i'},
						{"tty", no_argument, NULL, 't'},
						{"env", required_argument, NULL, 'e'},
						{"user", required_argument, NULL, 'u'},
						{"workdir", required_argument, NULL, 'w'},
						{"timeout", required_argument, NULL, 'T'},
						{"stats", no_argument, NULL, 'S'},
						{"help", no_argument, NULL, 'h'},
						{0}};
	char *env[257], path[RUNDIR_PATH_MAX];
	struct agent_exec x = {0};
	struct err err = ERR_INIT;
	struct rundir *d;
	uint64_t timeout_s;
	size_t nenv = 0;
	int o, r, status = 0;

	while ((o = getopt_long(argc, argv, "+ite:u:w:h", options, NULL)) != -1) {
		switch (o) {
		case 'i':
			x.stdin_open = true;
			break;
		case 't':
			x.tty = x.stdin_open = true;
			break;
		case 'e':
			if (nenv + 1 == ARRAY_SIZE(env) || !strchr(optarg, '=') || *optarg == '=')
				return usage_error("exec",
						   "--env takes NAME=VALUE, at most %zu times",
						   ARRAY_SIZE(env) - 1);
			env[nenv++] = optarg;
			break;
		case 'u':
			x.user = optarg;
			break;
		case 'w':
			x.cwd = optarg;
			break;
		case 'T':
			if (parse_u64(optarg, 1, 1000000, &timeout_s, &err) < 0)
				return usage_error("exec", "--timeout: %s", err.msg);
			x.timeout_ms = (uint32_t)timeout_s * 1000;
			break;
		case 'S':
			x.measure = true;
			break;
		case 'h':
			return help(usage);
		default:
			return EXIT_USAGE;
		}
	}
	if (argc - optind < 2)
		return usage_error("exec", "takes a VM and a command");
	if (rundir_find(argv[optind], &d, &err) < 0)
		return fail(&err);
	optind++;
	if (!strcmp(argv[optind], "--"))
		optind++;
	if (optind == argc)
		return usage_error("exec", "takes a command");
	env[nenv] = NULL;
	x.env = env;
	x.argv = argv + optind;
	rundir_file(d, "vsock.sock", path);
	r = access(path, F_OK) == 0
		    ? session_exec(path, &x, AGENT_TIMEOUT_MS, &status, &err)
		    : err_set(&err, ENOTSUP,
			      "VM %s is a bare guest: it has no agent to run programs",
			      d->info.name);
	rundir_release(d);
	return r < 0 ? fail(&err) : status;
}

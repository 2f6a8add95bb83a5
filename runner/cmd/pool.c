/* smvm-runner pool: machines of one snapshot, kept warm; and asking one. */
#include "runner/pool/pool.h"
#include "runner/cmd/cmd.h"
#include "runner/control/publish.h"
#include "runner/control/where.h"
#include "runner/pool/ask.h"
#include "runner/worker/line.h"

#include "smfs/base/cleanup.h"
#include "smfs/base/meminfo.h"
#include "smfs/base/num.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static const char usage[] =
	"Usage: smvm-runner pool --snapshot SNAPSHOT [OPTIONS]\n"
	"       smvm-runner pool status|claim|release [--name NAME] [ARGS]\n"
	"Keep machines of SNAPSHOT warm and give them to whoever claims one, over a Unix socket\n"
	"(doc/protocol.md). What is given back is reset. Runs until SIGTERM.\n\n"
	"      --name NAME          of the pool (default)\n"
	"      --snapshot SNAPSHOT  as `restore` takes it\n"
	"      --min N              how many are kept ready (1)\n"
	"      --max N              how many there may be, those claimed among them (4)\n"
	"      --idle-timeout S     end those beyond --min that nobody claimed for so long (60)\n"
	"      --acquire-timeout S  how long a claim waits (10)\n"
	"      --vm-memory SIZE     what a machine may come to take of the host's (its RAM)\n"
	"      --reserve SIZE       memory of the host that is to stay available (256M)\n"
	"  -p, --publish [[ADDRESS:]PORT:]TARGET\n"
	"                           PORT of this host (0 or none: a free one each, as it must be unless\n"
	"                           --max is 1) leads to TARGET, a port or Unix socket of a machine, as\n"
	"                           it is then (repeatable); `status` and `claim --json` tell them\n"
	"      --warm-up PROGRAM    run in each machine that nobody waits for, so that the next\n"
	"                           starts faster (true); \"\": none\n"
	"      --prefault WHAT      as of `restore`\n"
	"      --mount DIR          where the store is mounted ($SMFS_MOUNT, /mnt/smfs)\n"
	"      --end-with-stdin     end when standard input does, as it does with the program that\n"
	"                           holds the other end\n\n"
	"  status [--json]          what there is of it\n"
	"  claim [--timeout S] [--json]\n"
	"                           claim a machine; prints its id, which `exec` takes\n"
	"  release VM               give it back\n";

enum {
	OPT_NAME = 256,
	OPT_SNAPSHOT,
	OPT_MIN,
	OPT_MAX,
	OPT_IDLE,
	OPT_ACQUIRE,
	OPT_VM_MEMORY,
	OPT_RESERVE,
	OPT_WARM_UP,
	OPT_PREFAULT,
	OPT_MOUNT,
	OPT_STDIN,
	OPT_JSON,
	OPT_TIMEOUT
};

static const struct option options[] = {{"name", required_argument, NULL, OPT_NAME},
					{"snapshot", required_argument, NULL, OPT_SNAPSHOT},
					{"min", required_argument, NULL, OPT_MIN},
					{"max", required_argument, NULL, OPT_MAX},
					{"idle-timeout", required_argument, NULL, OPT_IDLE},
					{"acquire-timeout", required_argument, NULL, OPT_ACQUIRE},
					{"vm-memory", required_argument, NULL, OPT_VM_MEMORY},
					{"reserve", required_argument, NULL, OPT_RESERVE},
					{"publish", required_argument, NULL, 'p'},
					{"warm-up", required_argument, NULL, OPT_WARM_UP},
					{"prefault", required_argument, NULL, OPT_PREFAULT},
					{"mount", required_argument, NULL, OPT_MOUNT},
					{"end-with-stdin", no_argument, NULL, OPT_STDIN},
					{"json", no_argument, NULL, OPT_JSON},
					{"timeout", required_argument, NULL, OPT_TIMEOUT},
					{"help", no_argument, NULL, 'h'},
					{0}};

struct args {
	struct pool_config pool;
	struct forward forward[FORWARD_MAX];
	const char *mount;
	uint64_t timeout_s; /* of a claim; 0: the pool's */
	bool json;
};

static int number(const char *what, const char *text, uint64_t min, uint64_t max, uint64_t scale,
		  unsigned *out, struct err *err)
{
	uint64_t n;
	int r = parse_u64(text, min, max, &n, err);

	if (r < 0)
		return err_wrap(err, r, "%s", what);
	*out = (unsigned)(n * scale);
	return 0;
}

static int take(struct args *a, int o, struct err *err)
{
	struct pool_config *p = &a->pool;

	switch (o) {
	case OPT_NAME:
		p->name = optarg;
		return pool_name_check(optarg, err);
	case OPT_SNAPSHOT:
		p->snapshot = optarg;
		return 0;
	case OPT_MIN:
		return number("--min", optarg, 0, POOL_MEMBERS_MAX, 1, &p->min, err);
	case OPT_MAX:
		return number("--max", optarg, 1, POOL_MEMBERS_MAX, 1, &p->max, err);
	case OPT_IDLE:
		return number("--idle-timeout", optarg, 0, 86400, 1000, &p->idle_ms, err);
	case OPT_ACQUIRE:
		return number("--acquire-timeout", optarg, 1, 3600, 1000, &p->acquire_ms, err);
	case OPT_VM_MEMORY:
		return parse_size(optarg, MIB, TIB, &p->vm_bytes, err);
	case OPT_RESERVE:
		return parse_size(optarg, 0, TIB, &p->reserve_bytes, err);
	case 'p':
		return forward_add(optarg, a->forward, &p->nforwards, err);
	case OPT_WARM_UP:
		p->warm_up = optarg;
		return line_check_word("--warm-up", optarg, err);
	case OPT_PREFAULT:
		return prefault_policy_of(optarg, &p->prefault)
			       ? 0
			       : err_set(err, EINVAL, "--prefault: none, ws or all");
	case OPT_MOUNT:
		a->mount = optarg;
		return 0;
	case OPT_STDIN:
		p->lifeline_fd = STDIN_FILENO;
		return 0;
	case OPT_JSON:
		a->json = true;
		return 0;
	case OPT_TIMEOUT:
		return parse_u64(optarg, 1, 3600, &a->timeout_s, err);
	default:
		return -EINVAL;
	}
}

static int pool(struct args *a)
{
	struct err err = ERR_INIT;

	if (!a->pool.snapshot)
		return usage_error("pool", "--snapshot is needed");
	if (a->pool.min > a->pool.max)
		return usage_error("pool", "--min is above --max");
	a->pool.forward = a->forward;
	if (publish_check(a->forward, a->pool.nforwards, a->pool.max, &err) < 0)
		return usage_error("pool", "--publish: %s", err.msg);
	a->pool.mount = where_mount(a->mount);
	const int code = pool_run(&a->pool, &err);
	return err.code ? fail(&err) : code;
}

static long long number_of(const json_t *j, const char *key)
{
	return (long long)json_integer_value(json_object_get(j, key));
}

static void print_machine(const json_t *m)
{
	const char *vm = json_string_value(json_object_get(m, "vm"));
	const json_t *port;
	size_t i;

	printf("  %-12s %-9s %7.1f s", vm && *vm ? vm : "-",
	       json_string_value(json_object_get(m, "state")),
	       (double)number_of(m, "state_ms") / 1000);
	if (number_of(m, "claim"))
		printf(", claim %lld", number_of(m, "claim"));
	if (number_of(m, "restores"))
		printf(", %lld restores, the last in %lld us", number_of(m, "restores"),
		       number_of(m, "took_us"));
	json_array_foreach(json_object_get(m, "forwards"), i, port)
		printf("%s %s", i ? "" : ", ports", json_string_value(port));
	putchar('\n');
}

static void print_status(const json_t *j)
{
	char left[SIZE_STR_MAX], reserve[SIZE_STR_MAX], each[SIZE_STR_MAX];
	const json_t *m;
	size_t i;

	printf("pool %s of %s\n"
	       "%lld warm, %lld coming, %lld claimed (min %lld, max %lld); %lld claims waiting\n"
	       "%lld claims served, %lld timed out, %lld refused, %lld lost; %lld workers started, %lld died\n"
	       "%s of memory available, %s to stay so; a machine may take %s\n",
	       json_string_value(json_object_get(j, "name")),
	       json_string_value(json_object_get(j, "snapshot")), number_of(j, "warm"),
	       number_of(j, "coming"), number_of(j, "claimed"), number_of(j, "min"),
	       number_of(j, "max"), number_of(j, "waiting"), number_of(j, "claims"),
	       number_of(j, "timed_out"), number_of(j, "refused"), number_of(j, "lost"),
	       number_of(j, "started"), number_of(j, "died"),
	       format_size((uint64_t)number_of(j, "available_bytes"), left),
	       format_size((uint64_t)number_of(j, "reserve_bytes"), reserve),
	       format_size((uint64_t)number_of(j, "vm_bytes"), each));
	if (number_of(j, "short_of_memory"))
		printf("%lld more are wanted; there is no memory for them\n",
		       number_of(j, "short_of_memory"));
	if (json_object_get(j, "last_failure"))
		printf("the last start failed: %s\n",
		       json_string_value(json_object_get(j, "last_failure")));
	json_array_foreach(json_object_get(j, "machines"), i, m) print_machine(m);
}

static int status(const struct args *a, struct err *err)
{
	json_t *j;
	int r = pool_ask_status(a->pool.name, &j, err);

	if (r < 0)
		return r;
	if (a->json)
		return print_json(j);
	print_status(j);
	json_decref(j);
	return 0;
}

static int claim(const struct args *a, struct err *err)
{
	struct pool_claimed c;
	int r = pool_ask_claim(a->pool.name, (unsigned)a->timeout_s * 1000, &c, err);

	if (r < 0)
		return r;
	if (a->json) {
		json_t *j = json_pack("{s:s, s:s, s:I, s:I}", "vm", c.vm, "dir", c.dir, "claim",
				      (json_int_t)c.claim, "waited_us", (json_int_t)c.waited_us);

		publish_add(j, c.forwards);
		return print_json(j);
	}
	puts(c.vm);
	return 0;
}

static int ask(const struct args *a, int argc, char **argv)
{
	struct err err = ERR_INIT;
	int r;

	if (!strcmp(argv[0], "status") && argc == 1)
		r = status(a, &err);
	else if (!strcmp(argv[0], "claim") && argc == 1)
		r = claim(a, &err);
	else if (!strcmp(argv[0], "release") && argc == 2)
		r = pool_ask_release(a->pool.name, argv[1], &err);
	else
		return usage_error("pool", "status, claim, or release VM");
	return r < 0 ? fail(&err) : EXIT_OK;
}

int cmd_pool(int argc, char **argv)
{
	struct args a = {.pool = {.name = "default",
				  .min = 1,
				  .max = 4,
				  .idle_ms = 60000,
				  .acquire_ms = 10000,
				  .reserve_bytes = 256 * MIB,
				  .warm_up = POOL_WARM_UP,
				  .lifeline_fd = -1}};
	struct err err = ERR_INIT;
	int o;

	while ((o = getopt_long(argc, argv, "p:h", options, NULL)) != -1) {
		if (o == '?')
			return EXIT_USAGE;
		if (o == 'h')
			return help(usage);
		if (take(&a, o, &err) < 0)
			return usage_error("pool", "%s", err.msg);
	}
	return optind < argc ? ask(&a, argc - optind, argv + optind) : pool(&a);
}

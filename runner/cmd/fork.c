/* smvm-runner fork: children of a running VM. */
#include "runner/control/fork.h"
#include "runner/cmd/cmd.h"
#include "runner/control/publish.h"
#include "runner/snapshot/clock_policy.h"

#include "smfs/base/num.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define FORK_WAIT_MS (300 * 1000)
/* The request is one line, which the forwards of all children are in. */
#define REQUEST_ROOM (CONTROL_LINE_MAX - 512)

static const char usage[] =
	"Usage: smvm-runner fork [OPTIONS] VM\n"
	"Start copies of a running VM as it is now, over the same memory, copy on write. VM pauses for\n"
	"some milliseconds, once. Prints the children's ids once each guest has its own identity\n"
	"(hostname, machine-id, random seed, time) and runs.\n\n"
	"  -n, --number N   how many (1)\n"
	"      --name NAME  how to call the child (default: its id); of several NAME-1, NAME-2 ...\n"
	"  -p, --publish [[ADDRESS:]PORT:]TARGET\n"
	"                   PORT of this host (0 or none: any, as it must be for several children) leads\n"
	"                   to TARGET, a port or Unix socket of the child (repeatable)\n"
	"      --no-agent   do not ask the guest's agent to freeze the workload first\n"
	"      --clock POLICY  advance (default) or freeze: see restore\n"
	"      --json       print each child's id, name, pid, directory, ports and times as JSON\n";

struct forking {
	const char *vm, *name;
	uint64_t n;
	bool no_agent, json;
	int clock;
	struct forward forward[FORWARD_MAX];
	unsigned nforwards;
	struct forwarder **ports; /* one per child; NULL: none have any */
};

/* Before anything is done to the VM: a port that is taken is known then. */
static int open_ports(struct forking *f, json_t **texts, struct err *err)
{
	char text[sizeof(((struct vm_info *)NULL)->forwards)];
	size_t len = 0;
	int r = 0;

	if (f->nforwards == 0)
		return 0;
	f->ports = calloc(f->n, sizeof(struct forwarder *));
	*texts = json_array();
	if (!f->ports || !*texts)
		return err_set(err, ENOMEM, "out of memory");
	for (uint64_t i = 0; r == 0 && i < f->n; i++) {
		r = forwarder_open(f->forward, f->nforwards, &f->ports[i], err);
		if (r < 0)
			break;
		forwarder_text(f->ports[i], text, sizeof(text));
		len += 2 * strlen(text) + 3; /* every character may be an escaped one */
		if (len > REQUEST_ROOM)
			r = err_set(err, E2BIG,
				    "the ports of %llu children are too many for one request; fork "
				    "fewer at a time",
				    (unsigned long long)f->n);
		json_array_append_new(*texts, json_string(text));
	}
	return r;
}

/* Each child's are served by a process that ends with it. */
static int serve_ports(const struct forking *f, const json_t *child, struct err *err)
{
	const char *id = json_string_value(json_object_get(child, "id"));
	const json_int_t index = json_integer_value(json_object_get(child, "index"));
	struct rundir *d;
	int r;

	if (!id || index < 0 || (uint64_t)index >= f->n || !f->ports[index])
		return err_set(err, EPROTO, "the VM told of a child it was not asked for");
	r = rundir_find(id, &d, err);
	if (r < 0)
		return r;
	r = publish_for(d, f->ports[index], err);
	rundir_release(d);
	forwarder_free(f->ports[index]);
	f->ports[index] = NULL;
	return r;
}

static void close_ports(struct forking *f)
{
	for (uint64_t i = 0; f->ports && i < f->n; i++)
		forwarder_free(f->ports[i]);
	free(f->ports);
}

static int request(struct forking *f, json_t **reply, struct err *err)
{
	json_t *texts = NULL;
	int r = open_ports(f, &texts, err);

	if (r == 0)
		r = ask_vm(f->vm,
			   json_pack("{s:s, s:I, s:s*, s:b, s:s, s:O*}", "op", "fork", "n",
				     (json_int_t)f->n, "name", f->name, "no_agent", f->no_agent,
				     "clock", clock_policy_name(f->clock), "forwards", texts),
			   FORK_WAIT_MS, reply, err);
	json_decref(texts);
	return r;
}

static int run(struct forking *f, struct err *err)
{
	json_t *reply, *child;
	size_t i;
	int r = request(f, &reply, err), code = EXIT_OK;

	if (r < 0)
		return fail(err);
	const char *failed = json_string_value(json_object_get(reply, "error"));
	if (failed) {
		fprintf(stderr, "smvm-runner: fork %s: ", f->vm);
		say_plain(failed);
		fputc('\n', stderr);
		code = EXIT_FAILED;
	}
	json_array_foreach(json_object_get(reply, "children"), i, child)
	{
		if (f->ports && serve_ports(f, child, err) < 0)
			code = fail(err);
		publish_add(child, json_string_value(json_object_get(child, "forwards")));
		if (f->json)
			continue;
		puts(json_string_value(json_object_get(child, "id")));
		print_results(json_string_value(json_object_get(child, "name")),
			      json_object_get(child, "timings"));
	}
	if (f->json)
		print_json(reply);
	else
		json_decref(reply);
	return code;
}

int cmd_fork(int argc, char **argv)
{
	static const struct option options[] = {
		{"number", required_argument, NULL, 'n'},  {"name", required_argument, NULL, 'N'},
		{"publish", required_argument, NULL, 'p'}, {"no-agent", no_argument, NULL, 'a'},
		{"clock", required_argument, NULL, 'c'},   {"json", no_argument, NULL, 'j'},
		{"help", no_argument, NULL, 'h'},	   {0}};
	struct forking f = {.n = 1, .clock = CLOCK_ADVANCE};
	struct err err = ERR_INIT;
	int o, code;

	while ((o = getopt_long(argc, argv, "n:p:h", options, NULL)) != -1) {
		switch (o) {
		case 'n':
			if (parse_u64(optarg, 1, FORK_MAX, &f.n, &err) < 0)
				return usage_error("fork", "-n: %s", err.msg);
			break;
		case 'N':
			f.name = optarg;
			if (rundir_name_check(f.name, &err) < 0)
				return usage_error("fork", "%s", err.msg);
			break;
		case 'p':
			if (forward_add(optarg, f.forward, &f.nforwards, &err) < 0)
				return usage_error("fork", "--publish: %s", err.msg);
			break;
		case 'a':
			f.no_agent = true;
			break;
		case 'c':
			f.clock = clock_policy_of(optarg);
			if (f.clock < 0)
				return usage_error("fork", "--clock is advance or freeze");
			break;
		case 'j':
			f.json = true;
			break;
		case 'h':
			return help(usage);
		default:
			return EXIT_USAGE;
		}
	}
	if (argc - optind != 1)
		return usage_error("fork", "takes one VM");
	if (publish_check(f.forward, f.nforwards, f.n, &err) < 0)
		return usage_error("fork", "--publish: %s", err.msg);
	f.vm = argv[optind];
	code = run(&f, &err);
	close_ports(&f);
	return code;
}

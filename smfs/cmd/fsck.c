/* fsck.c - smfs fsck: is what the store holds what was put in? */
#include <inttypes.h>
#include <string.h>

#include "smfs/base/num.h"
#include "smfs/cmd/cmd.h"

static void report(void *arg, const char *line)
{
	json_t *findings = arg;

	if (findings)
		json_array_append_new(findings, json_string(line));
	else
		printf("%s\n", line);
}

static json_t *result_json(const struct smfs_fsck *f, json_t *findings, bool clean)
{
	return json_pack("{s:b, s:I, s:I, s:I, s:I, s:I, s:I, s:I, s:o}", "clean", clean, "packs",
			 (json_int_t)f->packs, "frames", (json_int_t)f->frames, "nodes",
			 (json_int_t)f->nodes, "names", (json_int_t)f->names, "bad_frames",
			 (json_int_t)f->bad_frames, "bad_names", (json_int_t)f->bad_names,
			 "garbage_frames", (json_int_t)f->garbage_frames, "findings", findings);
}

static int run(struct cmd *c, int argc, char **argv)
{
	static const struct option own[] = {{"read-data", no_argument, NULL, 'd'}, {0}};
	cleanup_store struct smfs_store *s = NULL;
	struct smfs_fsck f = {.report = report};
	struct err err = ERR_INIT;
	unsigned flags = 0;
	int o, r, status;

	while ((o = cmd_getopt(c, argc, argv, "", own, &status)) != -1) {
		if (o == CMD_EXIT)
			return status;
		flags |= SMFS_FSCK_READ_DATA;
	}
	if (optind < argc)
		return cmd_usage(c, "too many arguments");
	if (cmd_open_store(c, SMFS_RDONLY, &s, &err) < 0)
		return cmd_fail(&err);
	f.arg = c->json ? json_array() : NULL;
	r = smfs_fsck(s, flags, &f, &err);
	if (r < 0 && r != -EBADMSG) {
		json_decref(f.arg);
		return cmd_fail(&err);
	}
	if (c->json) {
		status = cmd_print_json(result_json(&f, f.arg, r == 0));
		return r < 0 ? EXIT_REFUSED : status;
	}
	if (!c->quiet)
		printf("%s: %" PRIu64 " packs, %" PRIu64 " frames%s, %" PRIu64 " nodes, %" PRIu64
		       " names; %" PRIu64 " bad frames, %" PRIu64 " names hit, %" PRIu64
		       " frames unused\n",
		       r < 0 ? "damaged" : "clean", f.packs, f.frames,
		       flags & SMFS_FSCK_READ_DATA ? " (all read)" : "", f.nodes, f.names,
		       f.bad_frames, f.bad_names, f.garbage_frames);
	status = cmd_flush();
	return r < 0 ? EXIT_REFUSED : status;
}

const struct command cmd_fsck = {
	.name = "fsck",
	.args = "[--read-data]",
	.summary = "check the store",
	.help = "Checks that all names lead to objects that are there. Exit status 5 if not.\n"
		"  --read-data    also decompress and hash every frame\n",
	.run = run,
};

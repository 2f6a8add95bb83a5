/* fsck.c - smfs fsck: is what the store holds what was put in? */
#include <inttypes.h>
#include <string.h>
#include <sys/stat.h>

#include "smfs/base/cleanup.h"
#include "smfs/base/num.h"
#include "smfs/cmd/cmd.h"

/* As fsck(8) has them; the other commands' codes mean other things. */
enum fsck_exit {
	FSCK_CLEAN = 0,
	FSCK_REPAIRED = 1,
	FSCK_LEFT = 4,
	FSCK_ERROR = 8,
	FSCK_USAGE = 16
};

struct outcome {
	struct smfs_fsck f;
	json_t *findings, *repairs; /* NULL: print */
	bool damaged, repaired;
	bool guessed; /* the repair lost something, or decided without proof */
};

static void report_to(json_t *to, const char *line)
{
	if (to)
		json_array_append_new(to, json_string(line));
	else
		printf("%s\n", line);
}

static void report_finding(void *arg, const char *line)
{
	report_to(((struct outcome *)arg)->findings, line);
}

static void report_repair(void *arg, const char *line)
{
	report_to(((struct outcome *)arg)->repairs, line);
}

static uint64_t done(void *arg)
{
	return __atomic_load_n(&((struct smfs_fsck *)arg)->done_bytes, __ATOMIC_RELAXED);
}

/* What there is to read, for the progress line; 0 if that cannot be told. */
static uint64_t pack_bytes(const char *dir)
{
	cleanup_free char *packs = NULL;
	struct dirent *e;
	uint64_t sum = 0;

	if (asprintf(&packs, "%s/packs", dir) < 0)
		return 0;
	cleanup_dir DIR *d = opendir(packs);
	while (d && (e = readdir(d))) {
		struct stat st;

		if (e->d_name[0] != '.' && fstatat(dirfd(d), e->d_name, &st, 0) == 0)
			sum += (uint64_t)st.st_size;
	}
	return sum;
}

/* A store whose parts do not fit together is damaged, not in error. */
static bool is_damage(int r)
{
	return r == -EBADMSG;
}

/* 0 = checked, o->damaged tells; negative: it could not be. */
static int check(struct cmd *c, struct outcome *o, unsigned flags, struct err *err)
{
	cleanup_store struct smfs_store *s = NULL;
	int r = cmd_open_store(c, SMFS_RDONLY, &s, err);

	o->damaged = false;
	if (r == 0) {
		o->f = (struct smfs_fsck){.report = report_finding, .arg = o};
		struct cmd_progress *p =
			cmd_progress_start(c, "checked", pack_bytes(c->store_dir), done, &o->f);
		r = smfs_fsck(s, flags, &o->f, err);
		cmd_progress_stop(p);
	} else if (is_damage(r)) {
		report_finding(o, err->msg);
	}
	o->damaged = is_damage(r);
	return o->damaged ? 0 : r;
}

static int repair(struct cmd *c, struct outcome *o, struct err *err)
{
	o->f = (struct smfs_fsck){.report = report_repair, .arg = o};
	struct cmd_progress *p =
		cmd_progress_start(c, "repaired", pack_bytes(c->store_dir), done, &o->f);
	int r = smfs_repair(c->store_dir, &o->f, err);
	cmd_progress_stop(p);
	o->repaired = r == 0;
	o->guessed = o->f.guesses != 0;
	return r;
}

/* Check; if that finds something, repair and check again. What the second check finds is left. */
static int check_and_repair(struct cmd *c, struct outcome *o, unsigned flags, struct err *err)
{
	json_t *found = NULL;
	struct stat st;
	cleanup_free char *marker = NULL;
	int r = check(c, o, flags, err);

	if (asprintf(&marker, "%s/repair", c->store_dir) < 0)
		return err_set(err, ENOMEM, "check: out of memory");
	/* Damage of a kind that a repair may know better: not the right files, or too few. */
	bool try = r == 0 ? o->damaged || stat(marker, &st) == 0 : r == -ENOENT;
	if (!try)
		return r;
	if (!c->quiet && !c->json)
		printf("repairing\n");
	if (o->findings) {
		found = o->findings;
		o->findings = json_array();
	}
	json_decref(found);
	if ((r = repair(c, o, err)) < 0 || (r = check(c, o, flags, err)) < 0)
		return r;
	return o->damaged || o->guessed ? 0 : smfs_repair_done(c->store_dir, err);
}

static json_t *result_json(const struct outcome *o)
{
	const struct smfs_fsck *f = &o->f;

	return json_pack("{s:b, s:b, s:I, s:I, s:I, s:I, s:I, s:I, s:I, s:I, s:O, s:O}", "clean",
			 !o->damaged, "repaired", o->repaired, "packs", (json_int_t)f->packs,
			 "frames", (json_int_t)f->frames, "nodes", (json_int_t)f->nodes, "names",
			 (json_int_t)f->names, "bad_frames", (json_int_t)f->bad_frames, "bad_names",
			 (json_int_t)f->bad_names, "garbage_frames", (json_int_t)f->garbage_frames,
			 "quarantined", (json_int_t)f->quarantined, "findings", o->findings,
			 "repairs", o->repairs);
}

static int print(struct cmd *c, struct outcome *o, unsigned flags)
{
	const struct smfs_fsck *f = &o->f;

	if (c->json)
		return cmd_print_json(result_json(o));
	if (!c->quiet)
		printf("%s: %" PRIu64 " packs, %" PRIu64 " frames%s, %" PRIu64 " nodes, %" PRIu64
		       " names; %" PRIu64 " bad frames, %" PRIu64 " names hit, %" PRIu64
		       " frames unused\n",
		       o->damaged    ? "damaged"
		       : o->repaired ? "repaired"
				     : "clean",
		       f->packs, f->frames, flags & SMFS_FSCK_READ_DATA ? " (all read)" : "",
		       f->nodes, f->names, f->bad_frames, f->bad_names, f->garbage_frames);
	return cmd_flush();
}

static int run(struct cmd *c, int argc, char **argv)
{
	static const struct option own[] = {
		{"read-data", no_argument, NULL, 'd'}, {"repair", no_argument, NULL, 'r'}, {0}};
	struct outcome o = {0};
	struct err err = ERR_INIT;
	bool mend = false;
	unsigned flags = 0;
	int opt, r, status;

	while ((opt = cmd_getopt(c, argc, argv, "", own, &status)) != -1) {
		if (opt == CMD_EXIT)
			return status == EXIT_OK ? status : FSCK_USAGE;
		if (opt == 'd')
			flags |= SMFS_FSCK_READ_DATA;
		mend |= opt == 'r';
	}
	if (optind < argc) {
		cmd_usage(c, "too many arguments");
		return FSCK_USAGE;
	}
	if (c->json) {
		o.findings = json_array();
		o.repairs = json_array();
	}
	r = mend ? check_and_repair(c, &o, flags, &err) : check(c, &o, flags, &err);
	if (r < 0)
		cmd_fail(&err);
	status = r < 0 ? EXIT_OK : print(c, &o, flags);
	json_decref(o.findings);
	json_decref(o.repairs);
	if (r < 0 || status != EXIT_OK)
		return FSCK_ERROR;
	return o.damaged || o.guessed ? FSCK_LEFT : o.repaired ? FSCK_REPAIRED : FSCK_CLEAN;
}

const struct command cmd_fsck = {
	.name = "fsck",
	.args = "[--read-data] [--repair]",
	.summary = "check the store, and repair it",
	.help = "Checks that all names lead to objects that are there.\n"
		"Exit status: 0 clean, 1 repaired, 4 damage left or names lost, 8 the check "
		"failed,\n"
		"16 usage.\n"
		"  --read-data    also decompress and hash every frame\n"
		"  --repair       where there is damage, build the index anew from packs and "
		"journal,\n"
		"                 and check again; nobody may write meanwhile\n",
	.run = run,
};

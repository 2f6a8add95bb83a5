/* store.c - is a store mounted, does its server answer, is the store sound, and has it room? */
#include "smfs/store/store.h"
#include "runner/control/where.h"
#include "runner/doctor/doctor.h"
#include "smfs/base/cleanup.h"
#include "smfs/base/io.h"
#include "smfs/base/num.h"

#include <fcntl.h>
#include <inttypes.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/statvfs.h>

#define MOUNT_MS 300
/* A quick check looks at the index: a second is enough for some ten million frames. */
#define FSCK_MS	   500
#define SPACE_FAIL (64 * MIB)
#define SPACE_WARN (2 * GIB)

/* What a mount says, asked in a child: a mount whose server hangs does not answer. */
struct mounted {
	char mount[PATH_MAX], store[PATH_MAX], health[256];
	struct err err;
	int r;
};

static void ask_mount(void *buf)
{
	struct mounted *m = buf;
	char path[PATH_MAX + 16];

	m->r = where_store(m->mount, m->store, &m->err);
	if (m->r < 0)
		return;
	snprintf(path, sizeof(path), "%s/.smfs/health", m->mount);
	cleanup_free char *line = doctor_line(path);
	snprintf(m->health, sizeof(m->health), "%s", line ? line : "");
}

/* The store behind it goes to `store`, "" if there is none. */
static void check_mount(struct doctor *d, char store[PATH_MAX])
{
	struct mounted *m = calloc(1, sizeof(*m));
	char advice[2 * PATH_MAX + 128];

	if (!m)
		return;
	snprintf(m->mount, sizeof(m->mount), "%s", d->mount);
	int r = doctor_try(ask_mount, m, sizeof(*m), MOUNT_MS);
	if (r == 0 && m->r == 0 && !strcmp(m->health, "ok")) {
		doctor_say(d, DOCTOR_PASS, "mount", NULL, "%s shows %s, health ok", m->mount,
			   m->store);
	} else if (r == 0 && m->r == 0) {
		doctor_say(d, DOCTOR_FAIL, "mount",
			   "run `smfs fsck --read-data`; it names what is hit", "%s shows %s, %s",
			   m->mount, m->store,
			   m->health[0] ? m->health : "and does not tell its health");
	} else if (r == -ETIMEDOUT) {
		snprintf(advice, sizeof(advice),
			 "its server hangs: `smfs remount %s`, or `smfs unmount %s` and mount anew",
			 m->mount, m->mount);
		doctor_say(d, DOCTOR_FAIL, "mount", advice, "%s does not answer within %d ms",
			   m->mount, MOUNT_MS);
	} else {
		snprintf(advice, sizeof(advice), "smfs mount %s", m->mount);
		doctor_say(d, DOCTOR_WARN, "mount", advice, "nothing is mounted on %s", m->mount);
	}
	snprintf(store, PATH_MAX, "%s", r == 0 && m->r == 0 ? m->store : "");
	free(m);
}

struct checked {
	char dir[PATH_MAX];
	struct smfs_fsck f;
	char first[512]; /* finding */
	uint64_t findings;
	struct err err;
	int r;
};

static void finding(void *arg, const char *line)
{
	struct checked *c = arg;

	if (!c->findings++)
		snprintf(c->first, sizeof(c->first), "%s", line);
}

static void check_index(void *buf)
{
	struct checked *c = buf;
	struct smfs_store *s;

	c->f = (struct smfs_fsck){.report = finding, .arg = c};
	c->r = smfs_store_open(c->dir, SMFS_RDONLY, &s, &c->err);
	if (c->r == 0)
		c->r = smfs_fsck(s, 0, &c->f, &c->err);
}

static void check_store(struct doctor *d, const char *dir)
{
	struct checked *c = calloc(1, sizeof(*c));

	if (!c)
		return;
	snprintf(c->dir, sizeof(c->dir), "%s", dir);
	int r = doctor_try(check_index, c, sizeof(*c), FSCK_MS);
	if (r == 0 && c->r == 0) {
		doctor_say(d, DOCTOR_PASS, "check", NULL,
			   "%" PRIu64 " names, %" PRIu64 " frames in %" PRIu64
			   " packs fit together",
			   c->f.names, c->f.frames, c->f.packs);
		doctor_figure(d, "names", (double)c->f.names);
		doctor_figure(d, "frames", (double)c->f.frames);
	} else if (r == 0 && c->r == -EBADMSG) {
		doctor_say(d, DOCTOR_FAIL, "check", "run `smfs fsck --repair`", "%s%s",
			   c->findings ? c->first : c->err.msg,
			   c->findings > 1 ? " (and more)" : "");
	} else if (r == 0 && c->r == -ENOENT) {
		doctor_say(d, DOCTOR_WARN, "check", "`smfs mount` or `smfs init` makes one", "%s",
			   c->err.msg);
	} else if (r == 0 && c->r == -EBUSY) {
		doctor_say(d, DOCTOR_SKIP, "check", "ask again when that is done", "%s",
			   c->err.msg);
	} else if (r == 0) {
		doctor_say(d, DOCTOR_FAIL, "check", "run `smfs fsck`", "%s", c->err.msg);
	} else if (r == -ETIMEDOUT) {
		doctor_say(d, DOCTOR_SKIP, "check", "run `smfs fsck`",
			   "%s is too large to look through in %d ms", dir, FSCK_MS);
	} else {
		doctor_say(d, DOCTOR_FAIL, "check", "run `smfs fsck`",
			   "looking at %s ended early: %s", dir, strerror(-r));
	}
	free(c);
}

static void check_space(struct doctor *d, const char *dir)
{
	char a[SIZE_STR_MAX];
	struct statvfs v;

	if (statvfs(dir, &v) < 0) {
		doctor_say(d, DOCTOR_SKIP, "space", "name the store with --store", "%s: %s", dir,
			   strerror(errno));
		return;
	}
	uint64_t left = (uint64_t)v.f_bavail * v.f_frsize;
	enum doctor_status s = left < SPACE_FAIL   ? DOCTOR_FAIL
			       : left < SPACE_WARN ? DOCTOR_WARN
						   : DOCTOR_PASS;
	doctor_say(d, s, "space",
		   s == DOCTOR_PASS
			   ? NULL
			   : "remove snapshots (smfs du, smfs rm) and run `smfs gc`, or move the "
			     "store",
		   "%s left at %s%s", format_size(left, a), dir,
		   v.f_flag & ST_RDONLY ? ", read-only" : "");
	doctor_figure(d, "available_bytes", (double)left);
}

void doctor_store(struct doctor *d)
{
	char store[PATH_MAX] = "";
	struct stat st;

	check_mount(d, store);
	if (d->store)
		snprintf(store, sizeof(store), "%s", d->store);
	else if (!store[0])
		snprintf(store, sizeof(store), "%s", SMFS_DEFAULT_STORE);
	if (stat(store, &st) < 0 && errno == ENOENT && !d->store) {
		doctor_say(d, DOCTOR_SKIP, "check", "`smfs mount` makes one", "no store at %s yet",
			   store);
		check_space(d, "/var/lib");
		return;
	}
	check_store(d, store);
	check_space(d, store);
}

/* store.c - is a store mounted, does its server answer, is the store sound, and has it room? */
#include "smfs/store/store.h"
#include "runner/doctor/doctor.h"
#include "smfs/base/cleanup.h"
#include "smfs/base/io.h"
#include "smfs/base/num.h"

#include <fcntl.h>
#include <inttypes.h>
#include <stdlib.h>
#include <string.h>
#include <sys/statvfs.h>

#define MOUNT_MS 2000
/* A quick check looks at the index: enough for some ten million frames. */
#define FSCK_MS	   1000
#define SPACE_FAIL (64 * MIB)
#define SPACE_WARN (2 * GIB)

/* What a mount says, asked in a child: a mount whose server hangs does not answer. */
struct mounted {
	char mount[PATH_MAX], store[PATH_MAX], health[256];
	int r; /* of reading which store it shows */
};

static void ask_mount(void *buf)
{
	struct mounted *m = buf;
	char path[PATH_MAX + 16];

	/* Not where_store(): that believes the environment, and a mount is asked for here. */
	snprintf(path, sizeof(path), "%s/.smfs/store", m->mount);
	cleanup_free char *store = NULL;
	m->r = read_file(AT_FDCWD, path, PATH_MAX - 1, &store, NULL, NULL);
	if (m->r < 0)
		return;
	store[strcspn(store, "\n")] = '\0';
	snprintf(m->store, sizeof(m->store), "%s", store);
	snprintf(path, sizeof(path), "%s/.smfs/health", m->mount);
	cleanup_free char *line = doctor_line(path);
	snprintf(m->health, sizeof(m->health), "%s", line ? line : "");
}

static void say_mount(struct doctor *d, const struct mounted *m, int r)
{
	char advice[2 * PATH_MAX + 128];

	if (r == -ETIMEDOUT) {
		snprintf(advice, sizeof(advice),
			 "its server hangs: `smfs remount %s`, or `smfs unmount %s` and mount anew",
			 m->mount, m->mount);
		doctor_say(d, DOCTOR_FAIL, "mount", advice, "%s does not answer within %d ms",
			   m->mount, MOUNT_MS);
	} else if (r < 0) {
		doctor_say(d, DOCTOR_SKIP, "mount", "ask again", "looking at %s failed: %s",
			   m->mount, strerror(-r));
	} else if (m->r == 0 && !strcmp(m->health, "ok")) {
		doctor_say(d, DOCTOR_PASS, "mount", NULL, "%s shows %s, health ok", m->mount,
			   m->store);
	} else if (m->r == 0) {
		doctor_say(d, DOCTOR_FAIL, "mount",
			   "run `smfs fsck --read-data`; it names what is hit", "%s shows %s, %s",
			   m->mount, m->store,
			   m->health[0] ? m->health : "and does not tell its health");
	} else if (m->r == -ENOTCONN || m->r == -ECONNABORTED) {
		snprintf(advice, sizeof(advice), "`smfs unmount %s`, and mount anew", m->mount);
		doctor_say(d, DOCTOR_FAIL, "mount", advice, "the server of %s has gone: %s",
			   m->mount, strerror(-m->r));
	} else if (m->r == -EACCES || m->r == -EPERM) {
		doctor_say(d, DOCTOR_SKIP, "mount", "ask as the user who mounted it, or as root",
			   "may not look into %s", m->mount);
	} else {
		snprintf(advice, sizeof(advice), "smfs mount %s", m->mount);
		doctor_say(d, DOCTOR_WARN, "mount", advice, "nothing is mounted on %s", m->mount);
	}
}

/* The store behind it goes to `store`, "" if there is none. */
static void check_mount(struct doctor *d, char store[PATH_MAX])
{
	struct mounted *m = calloc(1, sizeof(*m));

	if (!m)
		return;
	snprintf(m->mount, sizeof(m->mount), "%s", d->mount);
	int r = doctor_try(ask_mount, m, sizeof(*m), MOUNT_MS);
	say_mount(d, m, r);
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
			   "%s was not looked through within %d ms: it is large, or the host busy",
			   dir, FSCK_MS);
	} else {
		doctor_say(d, DOCTOR_FAIL, "check", "run `smfs fsck`",
			   "looking at %s ended early: %s", dir, strerror(-r));
	}
	free(c);
}

/* Of the file system of `dir`, which may be of the network, and not answer. */
struct space {
	char dir[PATH_MAX];
	struct statvfs v;
	int r;
};

static void ask_space(void *buf)
{
	struct space *s = buf;

	s->r = statvfs(s->dir, &s->v) < 0 ? -errno : 0;
}

static void check_space(struct doctor *d, const struct space *at)
{
	char a[SIZE_STR_MAX];

	if (at->r < 0) {
		doctor_say(d, DOCTOR_SKIP, "space", "name the store with --store", "%s: %s",
			   at->dir, strerror(-at->r));
		return;
	}
	uint64_t left = (uint64_t)at->v.f_bavail * at->v.f_frsize;
	if (at->v.f_flag & ST_RDONLY)
		doctor_say(d, DOCTOR_FAIL, "space",
			   "mount it writable: no snapshot is taken, and no image pulled",
			   "the file system of %s is read-only", at->dir);
	else
		doctor_say(
			d, doctor_grade(left, SPACE_WARN, SPACE_FAIL), "space",
			"remove snapshots (smfs du, smfs rm) and run `smfs gc`, or move the store",
			"%s left at %s", format_size(left, a), at->dir);
	doctor_figure(d, "available_bytes", (double)left);
}

/* false: its file system does not answer, and that is said. */
static bool look_at_space(struct doctor *d, const char *dir, struct space *s)
{
	snprintf(s->dir, sizeof(s->dir), "%s", dir);
	int r = doctor_try(ask_space, s, sizeof(*s), MOUNT_MS);
	if (r < 0)
		doctor_say(d, DOCTOR_FAIL, "space", "is its file system there? see `df`", "%s: %s",
			   dir, r == -ETIMEDOUT ? "the file system does not answer" : strerror(-r));
	return r == 0;
}

void doctor_store(struct doctor *d)
{
	char store[PATH_MAX] = "";
	struct space s = {.r = -EIO};

	check_mount(d, store);
	if (d->store)
		snprintf(store, sizeof(store), "%s", d->store);
	else if (!store[0])
		snprintf(store, sizeof(store), "%s", SMFS_DEFAULT_STORE);
	if (!look_at_space(d, store, &s))
		return;
	if (s.r == -ENOENT && !d->store) {
		doctor_say(d, DOCTOR_SKIP, "check", "`smfs mount` makes one", "no store at %s yet",
			   store);
		if (!look_at_space(d, "/var/lib", &s))
			return;
	} else {
		check_store(d, store);
	}
	check_space(d, &s);
}

#include "smfs/mount/letgo.h"

#include <fuse3/fuse_lowlevel.h>
#include <poll.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <sys/eventfd.h>
#include <sys/inotify.h>
#include <unistd.h>

#include "smfs/base/cleanup.h"
#include "smfs/base/num.h"
#include "smfs/mount/fs.h"
#include "smfs/mount/refpath.h"

/* How long forgotten inodes may take to be handed back, before the collection hears of it. */
#define HANDBACK_MS 50
#define STEP_MS	    2

struct letgo {
	struct smfs_mount *m;
	pthread_t thread;
	int stop_fd, watch_fd;
};

/* A name the kernel knows. */
struct known {
	uint64_t ino, parent, seq;
	enum smfs_kind kind;
	char *component;
	char name[SMFS_REF_MAX + 1];
};

struct known_vec {
	struct known *v;
	size_t n, cap;
};

/* With the table locked: no more than copying. One asleep has no name in memory; it waits. */
static int note(const struct node *n, void *arg)
{
	const struct inode *i = container_of(n, struct inode, node);
	struct known_vec *x = arg;

	if (n->key.tag != KEY_NAME || atomic_load(&i->asleep) || !n->parent ||
	    atomic_load(&inode_parent(i)->asleep))
		return 0;
	if (x->n == x->cap) {
		size_t cap = x->cap ? x->cap * 2 : 64;
		struct known *v = reallocarray(x->v, cap, sizeof(*v));

		if (!v)
			return -ENOMEM;
		x->v = v;
		x->cap = cap;
	}
	struct known *k = &x->v[x->n];
	const char *prefix = inode_parent(i)->prefix;

	if (!ref_join(prefix ? prefix : "", i->name, k->name))
		return 0;
	k->component = strdup(i->name);
	if (!k->component)
		return -ENOMEM;
	k->ino = n->ino;
	k->parent = n->parent->ino;
	k->kind = i->kind;
	k->seq = i->seq;
	x->n++;
	return 0;
}

static bool is_gone(struct smfs_mount *m, const struct known *k)
{
	struct smfs_name now;
	int r = smfs_name_get(m->store, k->kind, k->name, &now, NULL);

	return r == -ENOENT || (r == 0 && now.seq != k->seq);
}

/* Those told to be forgotten and not in use come back at once, through the serving threads. */
static void wait_for_forgets(struct letgo *l, const uint64_t *told, size_t n)
{
	for (int ms = 0; n && ms < HANDBACK_MS; ms += STEP_MS) {
		struct pollfd p = {.fd = l->stop_fd, .events = POLLIN};

		while (n && !node_find(&l->m->nodes, told[n - 1]))
			n--;
		if (n && poll(&p, 1, STEP_MS) != 0)
			return;
	}
}

static void let_go(struct letgo *l)
{
	struct smfs_mount *m = l->m;
	struct known_vec x = {0};
	size_t ntold = 0;

	/* Short of memory it does what it can: the names it has noted. */
	node_each(&m->nodes, note, &x);
	cleanup_free uint64_t *told = calloc(x.n + 1, sizeof(*told));
	for (size_t i = 0; i < x.n; i++) {
		struct known *k = &x.v[i];

		if (is_gone(m, k)) {
			fuse_lowlevel_notify_inval_entry(m->se, k->parent, k->component,
							 strlen(k->component));
			if (told)
				told[ntold++] = k->ino;
		}
		free(k->component);
	}
	free(x.v);
	wait_for_forgets(l, told, ntold);
}

static void *run(void *arg)
{
	struct letgo *l = arg;
	struct pollfd p[2] = {{.fd = l->stop_fd, .events = POLLIN},
			      {.fd = l->watch_fd, .events = POLLIN}};
	char buf[sizeof(struct inotify_event) * 16];

	for (;;) {
		if (poll(p, 2, -1) < 0 && errno != EINTR)
			return NULL;
		if (p[0].revents)
			return NULL;
		if (!p[1].revents)
			continue;
		while (read(l->watch_fd, buf, sizeof(buf)) > 0)
			;
		let_go(l);
		smfs_lease_answer(l->m->store);
	}
}

int letgo_start(struct smfs_mount *m, struct err *err)
{
	struct letgo *l = calloc(1, sizeof(*l));
	sigset_t all, old;

	if (!l)
		return err_set(err, ENOMEM, "mount %s: out of memory", m->dir);
	*l = (struct letgo){.m = m, .stop_fd = -1, .watch_fd = -1};
	m->letgo = l;
	l->watch_fd = smfs_lease_watch(m->store, err);
	if (l->watch_fd < 0) {
		int r = l->watch_fd;

		free(l);
		m->letgo = NULL;
		return r;
	}
	l->stop_fd = eventfd(0, EFD_CLOEXEC);
	sigfillset(&all);
	pthread_sigmask(SIG_SETMASK, &all, &old);
	int r = l->stop_fd < 0 ? errno : pthread_create(&l->thread, NULL, run, l);
	pthread_sigmask(SIG_SETMASK, &old, NULL);
	if (r == 0)
		return 0;
	if (l->stop_fd >= 0)
		close(l->stop_fd);
	smfs_lease_unwatch(m->store, l->watch_fd);
	free(l);
	m->letgo = NULL;
	return err_set(err, r, "mount %s: start a thread: %s", m->dir, strerror(r));
}

void letgo_stop(struct smfs_mount *m)
{
	struct letgo *l = m->letgo;
	uint64_t one = 1;

	if (!l)
		return;
	while (write(l->stop_fd, &one, sizeof(one)) < 0 && errno == EINTR)
		;
	pthread_join(l->thread, NULL);
	smfs_lease_unwatch(m->store, l->watch_fd);
	close(l->stop_fd);
	free(l);
	m->letgo = NULL;
}

/* hot.c - an open file is hot or cold. How files come to be materialised: hot_maker.c. */
#include "smfs/mount/hot.h"

#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <time.h>
#include <unistd.h>

#include "smfs/base/log.h"
#include "smfs/base/num.h"
#include "smfs/mount/channel.h"
#include "smfs/mount/hot_maker.h"

/* As of protocol 7.40; Debian 12's header is older. */
struct backing_map {
	int32_t fd;
	uint32_t flags;
	uint64_t padding;
};
#define BACKING_OPEN  _IOW(229, 1, struct backing_map)
#define BACKING_CLOSE _IOW(229, 2, uint32_t)
/*
 * Backing files on a plain file system only; a deeper limit would make this mount one that nothing
 * (an overlay for containers) may be stacked upon.
 */
#define STACK_DEPTH 1

int hot_new(struct smfs_mount *m, unsigned mount_flags, struct hot **out, struct err *err)
{
	struct err why = ERR_INIT;
	struct hot_cache *cache;

	*out = NULL;
	if (mount_flags & SMFS_MOUNT_NEVER_HOT)
		return 0;
	if (hot_cache_open(m->store_dir, m->read_only ? HOT_CACHE_RDONLY : 0, HOT_LIMIT_KEEP,
			   &cache, &why) < 0) {
		/* A read-only store where nothing was ever materialised has none. */
		log_at(why.code == ENOENT ? LOG_INFO : LOG_WARN, "everything is served cold: %s",
		       why.msg);
		return 0;
	}
	struct hot *hot = calloc(1, sizeof(*hot));
	if (!hot) {
		hot_cache_close(cache);
		return err_set(err, ENOMEM, "mount: out of memory");
	}
	hot->mount = m;
	hot->cache = cache;
	hot->can_make = !m->read_only;
	hot->always = mount_flags & SMFS_MOUNT_ALWAYS_HOT;
	pthread_mutex_init(&hot->lock, NULL);
	int r = hot_maker_new(hot, err);
	if (r < 0) {
		hot_cache_close(cache);
		pthread_mutex_destroy(&hot->lock);
		free(hot);
		return r;
	}
	*out = hot;
	return 0;
}

void hot_free(struct hot *hot)
{
	if (!hot)
		return;
	hot_stop(hot);
	hot_maker_free(hot);
	hot_cache_close(hot->cache);
	pthread_mutex_destroy(&hot->lock);
	free(hot);
}

void hot_greet(struct smfs_mount *m)
{
	struct hot *hot = m->hot;

	if (!hot)
		return;
	if (channel_offers(m->channel) & CHANNEL_PASSTHROUGH) {
		channel_want(m->channel, CHANNEL_PASSTHROUGH | CHANNEL_INIT_EXT);
		channel_stack_depth(m->channel, STACK_DEPTH);
	} else {
		hot->refused = true;
		log_warn("everything is served cold: the kernel offers no passthrough (6.9 and "
			 "later do)");
	}
}

size_t hot_count(struct hot *hot)
{
	pthread_mutex_lock(&hot->lock);
	size_t n = hot->nhot;
	pthread_mutex_unlock(&hot->lock);
	return n;
}

struct hot_cache *hot_cache_of(struct hot *hot)
{
	return hot->cache;
}

/* ---- the kernel's side --------------------------------------------------------------------- */

/* Not going to change as long as this mount lives. */
static bool is_final(int e)
{
	return e == EPERM || e == EOPNOTSUPP || e == ENOTTY || e == EINVAL || e == ELOOP;
}

static const char *refusal(int e)
{
	switch (e) {
	case EPERM:
		return "passthrough needs CAP_SYS_ADMIN";
	case ELOOP:
		return "the store's cache is on a stacked file system";
	default:
		return strerror(e);
	}
}

/* Takes `fd`, which the kernel keeps open, and with it the mark that the file is in use. */
static int backing_open(struct hot *hot, int fd)
{
	struct backing_map map = {.fd = fd};
	int id = ioctl(channel_device(hot->mount->channel), BACKING_OPEN, &map), e = errno;

	close(fd);
	if (id > 0)
		return id;
	stats_add(&hot->mount->stats, COUNT_HOT_REFUSED, 1);
	if (is_final(e)) {
		hot->refused = true;
		log_warn("everything is served cold: the kernel refuses a backing file: %s",
			 refusal(e));
	} else {
		log_warn("served cold: backing file: %s", strerror(e));
	}
	return 0;
}

static void backing_close(struct hot *hot, int id)
{
	uint32_t arg = (uint32_t)id;

	/* ENOTCONN, ENODEV: the connection has ended and all of them with it. */
	if (ioctl(channel_device(hot->mount->channel), BACKING_CLOSE, &arg) < 0)
		log_debug("close backing file %d: %s", id, strerror(errno));
}

/* ---- which --------------------------------------------------------------------------------- */

static bool may_be_hot(const struct inode *i)
{
	return i->node.key.tag == KEY_BLOB && hot_cache_takes(&i->content);
}

/* With the lock held. NULL without memory. */
static struct hot_file *file_of(struct inode *i)
{
	if (!i->hot)
		i->hot = calloc(1, sizeof(struct hot_file));
	return i->hot;
}

/* Written down before the kernel is told, for the next server not to tell it otherwise. */
static void settle(struct hot *hot, struct handle *h, enum handle_mode mode)
{
	h->mode = mode;
	takeover_set_mode(hot->mount->takeover, h->fh, mode);
}

/* With the lock held. The mode of a handle is settled once, when its open is answered. */
int hot_settle(struct hot *hot, struct handle *h)
{
	struct inode *i = h->inode;
	struct hot_file *f = i->hot;

	if (!f->hot && !f->cold && !hot->refused) {
		struct err err = ERR_INIT;
		int fd = hot_cache_get(hot->cache, &i->content, &err);

		if (fd >= 0)
			f->backing = backing_open(hot, fd);
		else if (fd != -ENOENT)
			log_warn("%s is served cold: %s", i->name, err.msg);
		hot->nhot += f->backing > 0;
		node_set_backing(&hot->mount->nodes, &i->node, f->backing);
	}
	if (f->backing > 0) {
		f->hot++;
		settle(hot, h, HANDLE_HOT);
		stats_add(&hot->mount->stats, COUNT_HOT_OPENS, 1);
		return f->backing;
	}
	f->cold++;
	settle(hot, h, HANDLE_COLD);
	return 0;
}

/* Bytes read cold after which the file should have been hot. */
static uint64_t enough(const struct inode *i)
{
	return HOT_READS * i->content.size;
}

/* With the lock held: is it time to materialise it? */
static bool is_worth(struct hot *hot, const struct inode *i)
{
	const struct hot_file *f = i->hot;

	return hot->always || f->opens >= HOT_OPENS || atomic_load(&f->read) >= enough(i);
}

static void ask(struct hot *hot, struct inode *i)
{
	if (!hot->can_make || i->hot->asked || !is_worth(hot, i))
		return;
	if (hot->refused) {
		i->hot->asked = true;
		stats_add(&hot->mount->stats, COUNT_HOT_REFUSED, 1);
	} else {
		hot_maker_ask(hot, i, NULL, NULL);
	}
}

int hot_open(struct smfs_mount *m, struct handle *h, fuse_req_t req)
{
	struct hot *hot = m->hot;
	struct inode *i = h->inode;
	int id = 0;

	if (!hot || !may_be_hot(i))
		return 0;
	pthread_mutex_lock(&hot->lock);
	if (file_of(i)) {
		struct hot_file *f = i->hot;
		bool first = !f->hot && !f->cold;

		f->opens++;
		id = hot->always && first && !hot->refused && hot->can_make
			     ? hot_cache_get(hot->cache, &i->content, NULL)
			     : 0;
		if (id >= 0) {
			if (id > 0)
				close(id);
			id = hot_settle(hot, h);
			if (id == 0)
				ask(hot, i);
		} else if (hot_maker_ask(hot, i, h, req)) {
			id = HOT_LATER;
		} else {
			id = hot_settle(hot, h);
		}
	}
	pthread_mutex_unlock(&hot->lock);
	return id;
}

void hot_release(struct smfs_mount *m, struct handle *h)
{
	struct hot *hot = m->hot;
	struct hot_file *f = h->inode->hot;

	if (!hot || !f)
		return;
	pthread_mutex_lock(&hot->lock);
	if (h->mode == HANDLE_PLAIN) {
		/* Its open was never answered. */
	} else if (h->mode == HANDLE_COLD) {
		f->cold--;
	} else if (--f->hot == 0) {
		node_set_backing(&m->nodes, &h->inode->node, 0);
		backing_close(hot, f->backing);
		f->backing = 0;
		hot->nhot--;
	}
	pthread_mutex_unlock(&hot->lock);
}

int hot_restore(struct smfs_mount *m, struct handle *h, enum handle_mode mode)
{
	struct hot *hot = m->hot;
	struct inode *i = h->inode;
	int r = 0;

	if (!hot || mode == HANDLE_PLAIN)
		return 0;
	pthread_mutex_lock(&hot->lock);
	if (!i->hot)
		i->hot = calloc(1, sizeof(struct hot_file));
	if (!i->hot) {
		r = -ENOMEM;
	} else if (mode == HANDLE_COLD) {
		i->hot->cold++;
	} else if (i->hot->hot++ == 0) {
		i->hot->backing = node_backing(&m->nodes, &i->node);
		hot->nhot++;
	}
	h->mode = mode;
	pthread_mutex_unlock(&hot->lock);
	return r;
}

void hot_note_read(struct smfs_mount *m, struct inode *i, uint64_t n)
{
	struct hot *hot = m->hot;
	struct hot_file *f = i->hot;

	if (!hot || !f)
		return;
	uint64_t before = atomic_fetch_add(&f->read, n), mark = enough(i);

	/* Once, at the read that passes the mark. */
	if (before >= mark || before + n < mark)
		return;
	pthread_mutex_lock(&hot->lock);
	ask(hot, i);
	pthread_mutex_unlock(&hot->lock);
}

void hot_forget(struct inode *i)
{
	free(i->hot);
}

#include "smfs/mount/channel.h"

#include <fcntl.h>
#include <fuse3/fuse_lowlevel.h>
#include <linux/fuse.h>
#include <poll.h>
#include <pthread.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mount.h>
#include <sys/uio.h>
#include <time.h>
#include <unistd.h>

#include "smfs/base/log.h"
#include "smfs/base/num.h"
#include "smfs/mount/fs.h"

/* The kernel's greeting comes with the mount; later than this something is badly wrong. */
#define GREETING_MS 10000
/* As of protocol 7.40; Debian 12's header is older. */
#define NOTIFY_RESEND 7
#define UNIQUE_RESEND ((uint64_t)1 << 63)
/*
 * Written to before use: while a process is being killed its page faults fail, and with them the
 * request that is just being copied. Requests longer than this are writes.
 */
#define TOUCHED (64 * 1024)
/* How often a thread that has not noticed is told again to stop reading. */
#define RETELL_NS 1000000

/* struct fuse_init_out as of protocol 7.40. */
struct init_out {
	struct fuse_out_header h;
	uint32_t major, minor, max_readahead, flags;
	uint16_t max_background, congestion_threshold;
	uint32_t max_write, time_gran;
	uint16_t max_pages, map_alignment;
	uint32_t flags2, max_stack_depth;
	uint32_t unused[6];
};

struct thread {
	struct channel *ch;
	struct channel_slot *slot;
	int dev;
	pthread_t id;
	_Atomic bool running;
	bool begun;
	uint32_t opcode; /* of the request it is at; valid while unique is not 0 */
	uint64_t unique;
	struct fuse_buf buf;
};

struct channel {
	struct fuse_session *se;
	struct channel_record *rec, *own_rec;
	struct thread threads[CHANNEL_THREADS];
	bool own_devices, interruptible, resumed, swallow, differs;
	uint64_t offers, want, terms;
	unsigned stack_depth;
	pthread_key_t self; /* of each serving thread: its struct thread */
	pthread_mutex_t lock;
	unsigned started; /* threads, in order; under lock while serving */
	_Atomic unsigned idle;
	_Atomic bool draining;
};

/* ---- devices and mount --------------------------------------------------------------------- */

int channel_open_devices(int dev[CHANNEL_THREADS], struct err *err)
{
	for (size_t i = 0; i < CHANNEL_THREADS; i++) {
		dev[i] = open("/dev/fuse", O_RDWR | O_CLOEXEC);
		if (dev[i] >= 0)
			continue;
		int r = errno == ENOENT
				? err_set(err, ENODEV,
					  "this kernel has no /dev/fuse; try `modprobe fuse`")
				: err_errno(err, "open /dev/fuse");
		while (i-- > 0)
			close(dev[i]);
		return r;
	}
	return 0;
}

int channel_new(const int *dev, struct channel_record *rec, struct channel **out, struct err *err)
{
	struct channel *ch = calloc(1, sizeof(*ch));
	int mine[CHANNEL_THREADS], r = 0;

	if (!ch || !(ch->rec = rec ? rec : (ch->own_rec = calloc(1, sizeof(*rec))))) {
		free(ch);
		return err_set(err, ENOMEM, "mount: out of memory");
	}
	if (pthread_key_create(&ch->self, NULL) != 0)
		r = err_set(err, EAGAIN, "too many mounts in this process");
	else if (!dev && (r = channel_open_devices(mine, err)) < 0)
		pthread_key_delete(ch->self);
	if (r < 0) {
		free(ch->own_rec);
		free(ch);
		return r;
	}
	ch->own_devices = !dev;
	pthread_mutex_init(&ch->lock, NULL);
	for (size_t i = 0; i < CHANNEL_THREADS; i++) {
		struct thread *t = &ch->threads[i];

		t->ch = ch;
		t->slot = &ch->rec->slots[i];
		t->dev = dev ? dev[i] : mine[i];
	}
	*out = ch;
	return 0;
}

void channel_free(struct channel *ch)
{
	if (!ch)
		return;
	for (size_t i = 0; i < CHANNEL_THREADS; i++) {
		free(ch->threads[i].buf.mem);
		if (ch->own_devices)
			close(ch->threads[i].dev);
	}
	pthread_key_delete(ch->self);
	pthread_mutex_destroy(&ch->lock);
	free(ch->own_rec);
	free(ch);
}

int channel_mount(struct channel *ch, const char *dir, const char *source, bool read_only,
		  unsigned max_read, struct err *err)
{
	unsigned long flags = MS_NOSUID | MS_NODEV | (read_only ? MS_RDONLY : 0);
	uint32_t master = (uint32_t)ch->threads[0].dev;
	char opts[160];

	snprintf(opts, sizeof(opts),
		 "fd=%d,rootmode=40000,user_id=0,group_id=0,allow_other,default_permissions,"
		 "max_read=%u",
		 ch->threads[0].dev, max_read);
	if (mount(source, dir, "fuse.smfs", flags, opts) < 0)
		return errno == EPERM ? err_set(err, EPERM, "mount %s: needs root", dir)
				      : err_errno(err, "mount %s", dir);
	for (size_t i = 1; i < CHANNEL_THREADS; i++) {
		if (ioctl(ch->threads[i].dev, FUSE_DEV_IOC_CLONE, &master) == 0)
			continue;
		int r = err_errno(err, "mount %s: clone the device", dir);
		umount2(dir, MNT_FORCE | MNT_DETACH);
		return r;
	}
	return 0;
}

int channel_device(const struct channel *ch)
{
	return ch->threads[0].dev;
}

/* ---- requests in --------------------------------------------------------------------------- */

static uint64_t now(void)
{
	struct timespec ts;

	clock_gettime(CLOCK_MONOTONIC_COARSE, &ts);
	return (uint64_t)ts.tv_sec * 1000000000 + (uint64_t)ts.tv_nsec;
}

static void begin(struct thread *t, const struct fuse_in_header *h)
{
	t->unique = h->unique;
	t->opcode = h->opcode;
	atomic_store_explicit(&t->slot->since_ns, now(), memory_order_relaxed);
	atomic_store_explicit(&t->slot->opcode, h->opcode, memory_order_relaxed);
	atomic_store_explicit(&t->slot->node, h->nodeid, memory_order_relaxed);
	atomic_store_explicit(&t->slot->taken, t->slot->taken + 1, memory_order_relaxed);
	atomic_store_explicit(&t->slot->unique, h->unique, memory_order_release);
}

static void end(struct thread *t)
{
	t->unique = 0;
	atomic_store_explicit(&t->slot->unique, 0, memory_order_release);
}

static void record_init(struct channel *ch, const void *buf, size_t len)
{
	if (len > sizeof(ch->rec->init))
		return;
	memcpy(ch->rec->init, buf, len);
	__atomic_store_n(&ch->rec->init_len, (uint32_t)len, __ATOMIC_RELEASE);
}

static ssize_t io_read(int fd, void *buf, size_t len, void *userdata)
{
	struct channel *ch = channel_of(userdata);
	struct thread *t = pthread_getspecific(ch->self);
	const struct fuse_in_header *h = buf;
	ssize_t n = read(t->dev, buf, len);

	if (n < (ssize_t)sizeof(*h))
		return n;
	begin(t, h);
	if (h->opcode == FUSE_INIT)
		record_init(ch, buf, (size_t)n);
	return n;
}

/* ---- replies out --------------------------------------------------------------------------- */

static size_t total(const struct iovec *iov, int count)
{
	size_t n = 0;

	for (int i = 0; i < count; i++)
		n += iov[i].iov_len;
	return n;
}

/* The reply to INIT, as libfuse made it, with the terms it does not know. */
static ssize_t answer_init(struct channel *ch, struct thread *t, const struct iovec *iov, int count)
{
	union {
		struct init_out out;
		uint8_t bytes[sizeof(struct init_out)];
	} u = {0};
	size_t len = total(iov, count), at = 0;

	if (len > sizeof(u) || len < offsetof(struct init_out, unused))
		return writev(t->dev, iov, count); /* an error, or a kernel of long ago */
	for (int i = 0; i < count; at += iov[i++].iov_len)
		memcpy(u.bytes + at, iov[i].iov_base, iov[i].iov_len);
	ch->terms = (u.out.flags | (uint64_t)u.out.flags2 << 32) | (ch->want & ch->offers);
	if (ch->terms >> 32)
		ch->terms |= CHANNEL_INIT_EXT;
	u.out.flags = (uint32_t)ch->terms;
	u.out.flags2 = (uint32_t)(ch->terms >> 32);
	u.out.max_stack_depth = ch->stack_depth;

	const uint8_t *terms = u.bytes + sizeof(u.out.h);
	size_t terms_len = len - sizeof(u.out.h);
	struct channel_record *rec = ch->rec;
	if (ch->swallow) {
		ch->differs =
			rec->terms_len != terms_len || memcmp(rec->terms, terms, terms_len) != 0;
		return (ssize_t)len;
	}
	memcpy(rec->terms, terms, terms_len);
	__atomic_store_n(&rec->terms_len, (uint32_t)terms_len, __ATOMIC_RELEASE);
	return write(t->dev, u.bytes, len);
}

static ssize_t io_writev(int fd, struct iovec *iov, int count, void *userdata)
{
	struct channel *ch = channel_of(userdata);
	struct thread *t = pthread_getspecific(ch->self);
	const struct fuse_out_header *h = iov[0].iov_base;
	ssize_t n = -1;

	if (h->unique == 0) /* a notification: any device will do */
		return writev(ch->threads[0].dev, iov, count);
	if (t && t->unique == h->unique) {
		if (t->opcode == FUSE_INIT)
			n = answer_init(ch, t, iov, count);
		else
			n = writev(t->dev, iov, count);
		int e = errno;
		end(t);
		errno = e;
		return n;
	}
	/* By another thread than took it: only the device it came from knows it. */
	for (size_t i = 0; i < CHANNEL_THREADS; i++) {
		n = writev(ch->threads[i].dev, iov, count);
		if (n >= 0 || errno != ENOENT)
			break;
	}
	return n;
}

/* ---- session ------------------------------------------------------------------------------- */

struct channel *channel_of(void *userdata)
{
	return ((struct smfs_mount *)userdata)->channel;
}

int channel_attach(struct channel *ch, struct fuse_session *se, struct err *err)
{
	static const struct fuse_custom_io io = {.read = io_read, .writev = io_writev};
	/* The session closes what it was given. */
	int fd = fcntl(ch->threads[0].dev, F_DUPFD_CLOEXEC, 0), r;

	if (fd < 0)
		return err_errno(err, "mount: duplicate the device");
	r = fuse_session_custom_io(se, &io, fd);
	if (r < 0) {
		close(fd);
		return err_set(err, -r, "mount: FUSE session: %s", strerror(-r));
	}
	ch->se = se;
	return 0;
}

static int make_buffer(struct thread *t, struct err *err)
{
	if (!t->buf.mem) {
		t->buf.mem = malloc(CHANNEL_REQUEST_MAX);
		if (!t->buf.mem)
			return err_set(err, ENOMEM, "mount: out of memory");
		memset(t->buf.mem, 0, TOUCHED);
	}
	return 0;
}

/* libfuse decides by what is in INIT; so do we, by what it does not look at. */
static int take_offers(struct channel *ch, struct err *err)
{
	struct {
		struct fuse_in_header h;
		struct fuse_init_in in;
	} init;

	memset(&init, 0, sizeof(init));
	if (ch->rec->init_len < sizeof(init.h) + 16)
		return err_set(err, EPROTO, "mount: the kernel's greeting cannot be understood");
	memcpy(&init, ch->rec->init, MIN(sizeof(init), (size_t)ch->rec->init_len));
	ch->offers = init.in.flags;
	if (ch->offers & CHANNEL_INIT_EXT)
		ch->offers |= (uint64_t)init.in.flags2 << 32;
	ch->want |= CHANNEL_HAS_RESEND;
	return 0;
}

int channel_greet(struct channel *ch, struct err *err)
{
	struct thread *t = &ch->threads[0];
	struct pollfd p = {.fd = t->dev, .events = POLLIN};
	int r = make_buffer(t, err);

	if (r < 0)
		return r;
	if (poll(&p, 1, GREETING_MS) != 1 || !(p.revents & POLLIN))
		return err_set(err, EIO, "mount: the kernel did not greet the server");
	pthread_setspecific(ch->self, t);
	r = fuse_session_receive_buf(ch->se, &t->buf);
	if (r > 0 && (r = take_offers(ch, err)) == 0) {
		fuse_session_process_buf(ch->se, &t->buf);
		end(t);
		r = ch->rec->terms_len ? 0 : -EPROTO;
	} else if (r >= 0) {
		r = -EIO;
	}
	pthread_setspecific(ch->self, NULL);
	if (r < 0)
		err_set(err, -r, "mount: the kernel and this program cannot agree");
	return r;
}

int channel_resume(struct channel *ch, struct err *err)
{
	struct thread *t = &ch->threads[0];
	struct fuse_buf buf = {0};
	uint8_t init[CHANNEL_INIT_MAX];

	if (ch->rec->init_len > sizeof(init) || !ch->rec->terms_len)
		return err_set(err, EPROTO, "take over: nothing is known of the server before");
	int r = take_offers(ch, err);
	if (r < 0)
		return r;
	memcpy(init, ch->rec->init, ch->rec->init_len);
	buf.mem = init;
	buf.size = ch->rec->init_len;
	pthread_setspecific(ch->self, t);
	/* Not in the record: another process may still be serving. */
	t->unique = ((struct fuse_in_header *)init)->unique;
	t->opcode = FUSE_INIT;
	struct channel_slot nowhere = {0}, *slot = t->slot;
	t->slot = &nowhere;
	ch->swallow = ch->differs = true;
	fuse_session_process_buf(ch->se, &buf);
	ch->swallow = false;
	t->slot = slot;
	t->unique = 0;
	pthread_setspecific(ch->self, NULL);
	if (ch->differs)
		return err_set(
			err, EPROTO,
			"take over: this program and the kernel would agree other terms than "
			"the mount has; unmount and mount again");
	ch->resumed = true;
	return 0;
}

uint64_t channel_offers(const struct channel *ch)
{
	return ch->offers;
}

void channel_want(struct channel *ch, uint64_t flags)
{
	ch->want |= flags;
}

void channel_stack_depth(struct channel *ch, unsigned depth)
{
	ch->stack_depth = depth;
}

uint64_t channel_terms(const struct channel *ch)
{
	return ch->terms;
}

/* ---- serving ------------------------------------------------------------------------------- */

bool channel_resent(const struct channel *ch)
{
	const struct thread *t = pthread_getspecific(ch->self);

	return t && t->unique & UNIQUE_RESEND;
}

uint64_t channel_unique(const struct channel *ch)
{
	const struct thread *t = pthread_getspecific(ch->self);

	return t ? t->unique & ~UNIQUE_RESEND : 0;
}

void channel_suspect(struct channel_record *rec)
{
	for (size_t i = 0; i < CHANNEL_THREADS; i++) {
		uint64_t unique = atomic_load(&rec->slots[i].unique) & ~UNIQUE_RESEND;
		struct channel_suspect *s = rec->suspects, *least = s;

		atomic_store(&rec->slots[i].unique, 0);
		if (!unique)
			continue;
		for (size_t k = 0; k < CHANNEL_SUSPECTS && s->unique != unique; k++, s++)
			if (s->deaths < least->deaths)
				least = s;
		if (s == rec->suspects + CHANNEL_SUSPECTS) {
			*least = (struct channel_suspect){.unique = unique};
			s = least;
		}
		s->deaths++;
	}
}

static bool is_deadly(struct thread *t)
{
	const struct channel_suspect *s = t->ch->rec->suspects;

	if (!(t->unique & UNIQUE_RESEND))
		return false;
	for (size_t k = 0; k < CHANNEL_SUSPECTS; k++)
		if (s[k].unique == (t->unique & ~UNIQUE_RESEND))
			return s[k].deaths >= CHANNEL_DEATHS_MAX;
	return false;
}

static void refuse(struct thread *t)
{
	struct fuse_out_header h = {.len = sizeof(h), .error = -EIO, .unique = t->unique};

	log_err("request %u of inode %llu has ended %d servers: it is answered with an error",
		t->opcode, (unsigned long long)atomic_load(&t->slot->node), CHANNEL_DEATHS_MAX);
	if (write(t->dev, &h, sizeof(h)) < 0)
		log_err("answer: %s", strerror(errno));
	atomic_fetch_add(&t->ch->rec->refused, 1);
}

static void *serve(void *arg);

/* With the lock held. */
static int start_thread(struct channel *ch, struct err *err)
{
	struct thread *t = &ch->threads[ch->started];
	sigset_t all, old;
	int r = make_buffer(t, err);

	if (r < 0)
		return r;
	sigfillset(&all);
	if (ch->interruptible)
		sigdelset(&all, CHANNEL_SIGNAL);
	pthread_sigmask(SIG_SETMASK, &all, &old);
	atomic_fetch_add(&ch->idle, 1);
	atomic_store(&t->running, true);
	r = pthread_create(&t->id, NULL, serve, t);
	pthread_sigmask(SIG_SETMASK, &old, NULL);
	if (r != 0) {
		atomic_fetch_sub(&ch->idle, 1);
		atomic_store(&t->running, false);
		return err_set(err, r, "mount: start a thread: %s", strerror(r));
	}
	ch->started++;
	return 0;
}

/* The last idle thread has found work: another one waits in its place. */
static void replace(struct channel *ch)
{
	struct err err = ERR_INIT;

	pthread_mutex_lock(&ch->lock);
	if (atomic_load(&ch->idle) == 0 && ch->started < CHANNEL_THREADS &&
	    !atomic_load(&ch->draining) && start_thread(ch, &err) < 0)
		log_warn("%s; going on with %u", err.msg, ch->started);
	pthread_mutex_unlock(&ch->lock);
}

static void *serve(void *arg)
{
	struct thread *t = arg;
	struct channel *ch = t->ch;

	pthread_setspecific(ch->self, t);
	atomic_store(&t->slot->thread, (uint32_t)gettid());
	while (!fuse_session_exited(ch->se) && !atomic_load(&ch->draining)) {
		int r = fuse_session_receive_buf(ch->se, &t->buf);

		if (r == -EINTR || r == -EAGAIN)
			continue;
		if (r <= 0) {
			if (r < 0)
				log_err("read /dev/fuse: %s", strerror(-r));
			break;
		}
		if (atomic_fetch_sub(&ch->idle, 1) == 1)
			replace(ch);
		if (is_deadly(t))
			refuse(t);
		else
			fuse_session_process_buf(ch->se, &t->buf);
		end(t);
		atomic_fetch_add(&ch->idle, 1);
	}
	atomic_store(&t->running, false);
	return NULL;
}

static void nothing(int sig)
{
}

int channel_interruptible(struct channel *ch, struct err *err)
{
	struct sigaction sa = {.sa_handler = nothing}; /* without SA_RESTART */

	if (sigaction(CHANNEL_SIGNAL, &sa, NULL) < 0)
		return err_errno(err, "sigaction");
	ch->interruptible = true;
	return 0;
}

static int resend(struct channel *ch, struct err *err)
{
	struct fuse_out_header h = {.len = sizeof(h), .error = NOTIFY_RESEND};

	if (write(ch->threads[0].dev, &h, sizeof(h)) == (ssize_t)sizeof(h) || errno == ENODEV)
		return 0;
	return err_errno(err, "take over: have unanswered requests sent again");
}

int channel_serve(struct channel *ch, struct err *err)
{
	int r = 0;

	atomic_store(&ch->draining, false);
	atomic_store(&ch->idle, 0);
	if (ch->resumed)
		r = resend(ch, err);
	ch->resumed = false;
	pthread_mutex_lock(&ch->lock);
	ch->started = 0;
	if (r == 0)
		r = start_thread(ch, err);
	pthread_mutex_unlock(&ch->lock);
	return r;
}

void channel_wait(struct channel *ch)
{
	unsigned i = 0;

	for (;;) {
		/* The last to be started may start another as long as it runs. */
		pthread_mutex_lock(&ch->lock);
		bool more = i < ch->started;
		pthread_mutex_unlock(&ch->lock);
		if (!more)
			return;
		pthread_join(ch->threads[i++].id, NULL);
	}
}

void channel_drain(struct channel *ch)
{
	const struct timespec pause = {.tv_nsec = RETELL_NS};

	atomic_store(&ch->draining, true);
	/* A thread may be about to read when the signal comes: it is told until it has noticed. */
	for (bool any = true; any;) {
		any = false;
		pthread_mutex_lock(&ch->lock);
		for (unsigned i = 0; i < ch->started; i++) {
			if (!atomic_load(&ch->threads[i].running))
				continue;
			any = true;
			if (atomic_load(&ch->threads[i].slot->unique) == 0)
				pthread_kill(ch->threads[i].id, CHANNEL_SIGNAL);
		}
		pthread_mutex_unlock(&ch->lock);
		if (any)
			nanosleep(&pause, NULL);
	}
}

bool channel_draining(const struct channel *ch)
{
	return atomic_load(&ch->draining);
}

#include "smfs/store/writers.h"

#include "smfs/base/cleanup.h"

#include <fcntl.h>
#include <sys/stat.h>
#include <unistd.h>

off_t store_process_byte(void)
{
	struct stat ns;
	uint64_t space = stat("/proc/self/ns/pid", &ns) == 0 ? (uint32_t)ns.st_ino : 0;

	return (off_t)(space << 23 | (uint64_t)getpid());
}

static int set_lock(int fd, short type, off_t start, off_t len)
{
	struct flock fl = {.l_type = type, .l_whence = SEEK_SET, .l_start = start, .l_len = len};

	return fcntl(fd, F_OFD_SETLK, &fl) < 0 ? -errno : 0;
}

static int follow_journal(struct smfs_store *s, struct err *err)
{
	struct stat there, ours;

	if (fstatat(s->dirfd, "journal", &there, AT_SYMLINK_NOFOLLOW) < 0 ||
	    fstat(s->journalfd, &ours) < 0)
		return err_errno(err, "stat %s/journal", s->dir);
	if (there.st_ino == ours.st_ino && there.st_dev == ours.st_dev)
		return 0;
	cleanup_fd int fd = openat(s->dirfd, "journal", O_RDWR | O_CLOEXEC | O_NOFOLLOW);
	if (fd < 0 || dup3(fd, s->journalfd, O_CLOEXEC) < 0)
		return err_errno(err, "open %s/journal", s->dir);
	return 0;
}

static int enter(struct smfs_store *s, struct err *err)
{
	struct stat st;
	int r = set_lock(s->lockfd, F_WRLCK, WRITERS_BASE + store_process_byte(), 1);

	if (r == -EAGAIN || r == -EACCES)
		return err_set(err, EBUSY, "store %s: being repaired; try again when that is over",
			       s->dir);
	if (r < 0) {
		errno = -r;
		return err_errno(err, "lock %s/lock", s->dir);
	}
	if (fstatat(s->dirfd, REPAIR_FILE, &st, AT_SYMLINK_NOFOLLOW) == 0)
		return err_set(err, EBADMSG,
			       "store %s: a repair was cut short; run `smfs fsck --repair`",
			       s->dir);
	r = index_follow(s->ix, err);
	return r < 0 ? r : follow_journal(s, err);
}

static void leave(struct smfs_store *s)
{
	set_lock(s->lockfd, F_UNLCK, WRITERS_BASE + store_process_byte(), 1);
}

int writers_enter(struct smfs_store *s, struct err *err)
{
	int r = 0;

	pthread_mutex_lock(&s->writers_lock);
	if (s->writers == 0 && (r = enter(s, err)) < 0)
		leave(s);
	else
		s->writers++;
	pthread_mutex_unlock(&s->writers_lock);
	return r;
}

void writers_leave(struct smfs_store *s)
{
	pthread_mutex_lock(&s->writers_lock);
	if (--s->writers == 0)
		leave(s);
	pthread_mutex_unlock(&s->writers_lock);
}

int writers_exclude(int dirfd, const char *dir, struct err *err)
{
	struct flock fl = {.l_type = F_WRLCK,
			   .l_whence = SEEK_SET,
			   .l_start = WRITERS_BASE,
			   .l_len = WRITERS_SPAN};
	cleanup_fd int fd = openat(dirfd, "lock", O_RDWR | O_CREAT | O_CLOEXEC | O_NOFOLLOW, 0600);

	if (fd < 0)
		return err_errno(err, "open %s/lock", dir);
	if (fcntl(fd, F_OFD_SETLK, &fl) == 0)
		return steal_fd(&fd);
	if (errno != EAGAIN && errno != EACCES)
		return err_errno(err, "lock %s/lock", dir);
	if (fcntl(fd, F_OFD_GETLK, &fl) < 0 || fl.l_type == F_UNLCK)
		return err_set(err, EBUSY, "store %s: written to by another process; try again",
			       dir);
	if (fl.l_len != 1)
		return err_set(err, EBUSY, "store %s: being repaired by another process", dir);
	return err_set(err, EBUSY, "store %s: process %u writes to it; try again when it has ended",
		       dir, (unsigned)(fl.l_start & ((1 << 23) - 1)));
}

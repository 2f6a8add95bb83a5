#include "runner/agent/journal.h"

#include "smfs/base/cleanup.h"
#include "smfs/base/io.h"
#include "smfs/base/num.h"

#include <fcntl.h>
#include <signal.h>
#include <stdatomic.h>
#include <string.h>
#include <sys/mman.h>
#include <termios.h>
#include <unistd.h>

struct journal {
	/* Bytes from `written` to `claimed` are being written; older than claimed - SIZE are gone.
	 */
	_Atomic uint64_t claimed, written;
	char data[JOURNAL_SIZE];
};

static int map(struct journal **out, struct err *err)
{
	void *p = mmap(NULL, sizeof(struct journal), PROT_READ | PROT_WRITE,
		       MAP_SHARED | MAP_ANONYMOUS, -1, 0);

	if (p == MAP_FAILED)
		return err_errno(err, "map the journal");
	*out = p;
	return 0;
}

static void copy_in(struct journal *j, uint64_t at, const char *p, size_t n)
{
	size_t off = at % JOURNAL_SIZE, first = MIN(n, JOURNAL_SIZE - off);

	memcpy(j->data + off, p, first);
	memcpy(j->data, p + first, n - first);
}

static void add(struct journal *j, const void *data, size_t len)
{
	uint64_t at = atomic_load(&j->written);

	if (len > JOURNAL_SIZE) {
		data = (const char *)data + (len - JOURNAL_SIZE);
		at += len - JOURNAL_SIZE;
		len = JOURNAL_SIZE;
	}
	atomic_store(&j->claimed, at + len);
	copy_in(j, at, data, len);
	atomic_store(&j->written, at + len);
}

static uint64_t oldest(const struct journal *j)
{
	uint64_t end = atomic_load(&j->claimed);

	return end > JOURNAL_SIZE ? end - JOURNAL_SIZE : 0;
}

size_t journal_read(const struct journal *j, uint64_t *pos, char *buf, size_t cap)
{
	for (;;) {
		uint64_t at = MAX(*pos, oldest(j)), end = atomic_load(&j->written);
		size_t n = (size_t)MIN(end > at ? end - at : 0, (uint64_t)cap);
		size_t off = at % JOURNAL_SIZE, first = MIN(n, JOURNAL_SIZE - off);

		memcpy(buf, j->data + off, first);
		memcpy(buf + first, j->data, n - first);
		*pos = at;
		/* Overtaken while copying: what was copied may be a mixture. */
		if (oldest(j) <= at)
			return n;
	}
}

static _Noreturn void copy(struct journal *j, int master, int console)
{
	static char buf[16384];
	ssize_t n;

	for (;;) {
		n = read(master, buf, sizeof(buf));
		if (n < 0 && errno == EINTR)
			continue;
		/* A terminal whose last user is gone reads as EIO. */
		if (n <= 0)
			_exit(0);
		add(j, buf, (size_t)n);
		if (console >= 0)
			(void)write_full(console, buf, (size_t)n);
	}
}

/* Bytes pass as they are: the console has a line discipline of its own. */
static int open_pair(int *master, int *slave, struct err *err)
{
	struct termios t;
	char name[64];

	*master = posix_openpt(O_RDWR | O_NOCTTY | O_CLOEXEC);
	if (*master < 0 || grantpt(*master) < 0 || unlockpt(*master) < 0 ||
	    ptsname_r(*master, name, sizeof(name)) != 0)
		return err_errno(err, "open a terminal for the entrypoint's output");
	*slave = open(name, O_RDWR | O_NOCTTY | O_CLOEXEC);
	if (*slave < 0 || tcgetattr(*slave, &t) < 0)
		return err_errno(err, "open %s", name);
	cfmakeraw(&t);
	if (tcsetattr(*slave, TCSANOW, &t) < 0)
		return err_errno(err, "set up %s", name);
	return 0;
}

int journal_start(struct journal **out, int console, int *tty, pid_t *pid, struct err *err)
{
	cleanup_fd int master = -1, slave = -1;
	struct journal *j = NULL;
	int r = open_pair(&master, &slave, err);

	if (r == 0)
		r = map(&j, err);
	if (r < 0)
		return r;
	*pid = fork();
	if (*pid < 0) {
		r = err_errno(err, "start the journal");
		munmap(j, sizeof(*j));
		return r;
	}
	if (*pid == 0) {
		const int keep[] = {master, console};

		/* It ends with its last writer; at power off that is the workload, which ends
		 * first. */
		signal(SIGTERM, SIG_IGN);
		close_fds_except(keep, 2);
		copy(j, master, console);
	}
	*out = j;
	*tty = steal_fd(&slave);
	return 0;
}

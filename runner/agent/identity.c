#include "runner/agent/identity.h"

#include "runner/agent/guest.h"
#include "smfs/base/cleanup.h"
#include "smfs/base/io.h"

#include <fcntl.h>
#include <limits.h>
#include <linux/random.h>
#include <stdio.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/stat.h>
#include <time.h>

#define HOSTS_MARK "# written by smvm-init\n"

static int write_etc(const char *root, const char *name, const char *text, unsigned mode,
		     struct err *err)
{
	char path[PATH_MAX];

	snprintf(path, sizeof(path), "%s/etc", root);
	if (mkdir(path, 0755) < 0 && errno != EEXIST)
		return err_errno(err, "create %s", path);
	snprintf(path, sizeof(path), "%s/etc/%s", root, name);
	/* An image may have a link here; what we replace is the name, not what it points to. */
	return write_file_atomic(AT_FDCWD, path, text, strlen(text), mode, err);
}

static int write_hosts(const char *root, const char *name, struct err *err)
{
	cleanup_free char *old = NULL, *text = NULL;
	char path[PATH_MAX];
	struct err e = ERR_INIT;
	int r;

	snprintf(path, sizeof(path), "%s/etc/hosts", root);
	r = read_file(AT_FDCWD, path, 1u << 20, &old, NULL, &e);
	if (r < 0 && r != -ENOENT)
		return err_set(err, -r, "%s", e.msg);
	if (r == 0 && old[0] && strncmp(old, HOSTS_MARK, strlen(HOSTS_MARK)) != 0)
		return 0;
	if (asprintf(&text,
		     HOSTS_MARK "127.0.0.1\tlocalhost\n127.0.1.1\t%s\n"
				"::1\tlocalhost ip6-localhost ip6-loopback\n",
		     name) < 0)
		return err_set(err, ENOMEM, "write %s: out of memory", path);
	return write_etc(root, "hosts", text, 0644, err);
}

int identity_write_hostname(const char *root, const char *name, struct err *err)
{
	char line[AGENT_NAME_MAX + 2];
	int r;

	snprintf(line, sizeof(line), "%s\n", name);
	r = write_etc(root, "hostname", line, 0644, err);
	return r < 0 ? r : write_hosts(root, name, err);
}

int identity_write_machine_id(const char *root, const char *id, struct err *err)
{
	char line[AGENT_MACHINE_ID_LEN + 2];

	snprintf(line, sizeof(line), "%s\n", id);
	return write_etc(root, "machine-id", line, 0444, err);
}

/*
 * Mixed in and credited, then the generator is reseeded at once: without the latter it would go on
 * from the snapshot's key for up to a minute.
 */
static int linux_entropy(struct guest *g, const void *seed, size_t len, struct err *err)
{
	struct {
		struct rand_pool_info info;
		uint8_t seed[AGENT_ENTROPY_MAX];
	} pool = {.info = {.entropy_count = (int)len * 8, .buf_size = (int)len}};
	cleanup_fd int fd = open("/dev/urandom", O_RDWR | O_CLOEXEC);
	int r = 0;

	if (fd < 0)
		return err_errno(err, "open /dev/urandom");
	if (len > AGENT_ENTROPY_MAX)
		return err_set(err, EINVAL, "entropy: %zu bytes are too many", len);
	memcpy(pool.info.buf, seed, len);
	if (ioctl(fd, RNDADDENTROPY, &pool) < 0)
		r = err_errno(err, "add entropy");
	else if (ioctl(fd, RNDRESEEDCRNG) < 0)
		r = err_errno(err, "reseed the random generator");
	explicit_bzero(&pool, sizeof(pool));
	return r;
}

static int linux_clock(struct guest *g, uint64_t wall_ns, struct err *err)
{
	struct timespec ts = {.tv_sec = (time_t)(wall_ns / 1000000000u),
			      .tv_nsec = (long)(wall_ns % 1000000000u)};

	if (clock_settime(CLOCK_REALTIME, &ts) < 0)
		return err_errno(err, "set the clock");
	return 0;
}

static int linux_hostname(struct guest *g, const char *name, struct err *err)
{
	if (sethostname(name, strlen(name)) < 0)
		return err_errno(err, "set the hostname to %s", name);
	return identity_write_hostname(g->root, name, err);
}

static int linux_machine_id(struct guest *g, const char *id, struct err *err)
{
	return identity_write_machine_id(g->root, id, err);
}

const struct identity_ops identity_linux = {
	.entropy = linux_entropy,
	.clock = linux_clock,
	.hostname = linux_hostname,
	.machine_id = linux_machine_id,
};

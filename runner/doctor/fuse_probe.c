#include "runner/doctor/fuse_probe.h"

#include "smfs/base/cleanup.h"
#include "smfs/base/num.h"

#include <fcntl.h>
#include <linux/fuse.h>
#include <poll.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/mount.h>
#include <sys/stat.h>

/* Debian 12's header is of protocol 7.36: what came later, from include/uapi/linux/fuse.h. */
#define INIT_EXT    (1ull << 30)
#define PASSTHROUGH (1ull << 37)
#define HAS_RESEND  (1ull << 39)
struct backing_map {
	int32_t fd;
	uint32_t flags;
	uint64_t padding;
};
#define BACKING_OPEN  _IOW(229, 1, struct backing_map)
#define BACKING_CLOSE _IOW(229, 2, uint32_t)

struct init_reply {
	struct fuse_out_header h;
	uint32_t major, minor, max_readahead, flags;
	uint16_t max_background, congestion_threshold;
	uint32_t max_write, time_gran;
	uint16_t max_pages, map_alignment;
	uint32_t flags2, max_stack_depth;
	uint32_t unused[6];
};

static int superblock(int dev, struct err *err)
{
	char number[16];
	cleanup_fd int fs = fsopen("fuse", FSOPEN_CLOEXEC);

	if (fs < 0)
		return err_errno(err, "fsopen fuse");
	snprintf(number, sizeof(number), "%d", dev);
	if (fsconfig(fs, FSCONFIG_SET_STRING, "fd", number, 0) < 0 ||
	    fsconfig(fs, FSCONFIG_SET_STRING, "rootmode", "40000", 0) < 0 ||
	    fsconfig(fs, FSCONFIG_SET_STRING, "user_id", "0", 0) < 0 ||
	    fsconfig(fs, FSCONFIG_SET_STRING, "group_id", "0", 0) < 0)
		return err_errno(err, "fsconfig fuse");
	if (fsconfig(fs, FSCONFIG_CMD_CREATE, NULL, NULL, 0) < 0)
		return err_errno(err, "make a FUSE file system");
	return steal_fd(&fs);
}

static int read_init(int dev, struct fuse_in_header *h, struct fuse_init_in *in, struct err *err)
{
	static char buf[FUSE_MIN_READ_BUFFER];
	ssize_t n = read(dev, buf, sizeof(buf));

	if (n < 0)
		return err_errno(err, "read the kernel's INIT");
	memset(in, 0, sizeof(*in));
	if ((size_t)n < sizeof(*h) + offsetof(struct fuse_init_in, flags2))
		return err_set(err, EPROTO, "the kernel's INIT has %zd bytes", n);
	memcpy(h, buf, sizeof(*h));
	if (h->opcode != FUSE_INIT)
		return err_set(err, EPROTO, "the kernel's first request is %u, not INIT",
			       h->opcode);
	memcpy(in, buf + sizeof(*h), MIN((size_t)n - sizeof(*h), sizeof(*in)));
	return 0;
}

static int answer_init(int dev, uint64_t unique, uint32_t minor, struct err *err)
{
	struct init_reply r = {
		.h = {.len = sizeof(r), .unique = unique},
		.major = FUSE_KERNEL_VERSION,
		.minor = minor,
		.flags = (uint32_t)INIT_EXT,
		.max_background = 1,
		.congestion_threshold = 1,
		.max_write = 4096,
		.flags2 = (uint32_t)(PASSTHROUGH >> 32),
		.max_stack_depth = 1,
	};

	if (write(dev, &r, sizeof(r)) != (ssize_t)sizeof(r))
		return err_errno(err, "answer the kernel's INIT");
	return 0;
}

static int try_backing(int dev, const char *dir)
{
	cleanup_fd int fd = open(dir, O_TMPFILE | O_RDWR | O_CLOEXEC, 0600);

	if (fd < 0)
		return -1;
	struct backing_map map = {.fd = fd};
	int id = ioctl(dev, BACKING_OPEN, &map);
	if (id <= 0)
		return id < 0 ? errno : EIO;
	uint32_t arg = (uint32_t)id;
	return ioctl(dev, BACKING_CLOSE, &arg) < 0 ? errno : 0;
}

int fuse_probe(const char *dir, struct fuse_probe *out, struct err *err)
{
	struct fuse_in_header h = {0};
	struct fuse_init_in in;

	*out = (struct fuse_probe){.backing = -1};
	cleanup_fd int dev = open("/dev/fuse", O_RDWR | O_CLOEXEC);
	if (dev < 0)
		return err_errno(err, "open /dev/fuse");
	/* Held to the end: the connection lives as long as the superblock. */
	cleanup_fd int fs = superblock(dev, err);
	if (fs < 0)
		return fs;
	int r = read_init(dev, &h, &in, err);
	if (r < 0)
		return r;
	uint64_t offers = in.flags | (in.flags & INIT_EXT ? (uint64_t)in.flags2 << 32 : 0);
	out->major = in.major;
	out->minor = in.minor;
	out->offered = offers & PASSTHROUGH;
	out->resend = offers & HAS_RESEND;
	if (!out->offered)
		return 0;
	r = answer_init(dev, h.unique, in.minor, err);
	if (r == 0)
		out->backing = try_backing(dev, dir);
	return r;
}

#include "runner/guest/kernel.h"

#include "smfs/base/cleanup.h"
#include "smfs/base/io.h"

#include <endian.h>
#include <fcntl.h>
#include <fnmatch.h>
#include <stdbool.h>
#include <stdint.h>
#include <string.h>
#include <sys/stat.h>

/* Offsets of the x86 boot protocol (Documentation/arch/x86/boot.rst). */
#define HDR_MAGIC_OFF	0x202
#define HDR_PROTO_OFF	0x206
#define HDR_VERSION_OFF 0x20e
#define HDR_MAGIC	0x53726448u /* "HdrS" */
#define PROTO_64BIT	0x020c

static int read_version(const char *path, char out[65], struct err *err)
{
	cleanup_fd int fd = open(path, O_RDONLY | O_CLOEXEC);
	uint8_t hdr[0x240];
	uint32_t magic;
	uint16_t proto, off;
	char text[65] = "";
	ssize_t n;

	if (fd < 0)
		return err_errno(err, "open kernel %s", path);
	n = pread_upto(fd, hdr, sizeof(hdr), 0);
	if (n < 0)
		return err_set(err, (int)-n, "read kernel %s: %s", path, strerror((int)-n));
	if ((size_t)n < sizeof(hdr))
		return err_set(err, EBADMSG, "kernel %s: too short for a bzImage", path);
	memcpy(&magic, hdr + HDR_MAGIC_OFF, 4);
	memcpy(&proto, hdr + HDR_PROTO_OFF, 2);
	memcpy(&off, hdr + HDR_VERSION_OFF, 2);
	if (le32toh(magic) != HDR_MAGIC || le16toh(proto) < PROTO_64BIT)
		return err_set(err, EBADMSG,
			       "kernel %s: not an x86-64 bzImage (boot protocol 2.12 or later)",
			       path);
	/* "6.1.0-56-cloud-amd64 (builder@host) #1 ..." */
	n = pread_upto(fd, text, sizeof(text) - 1, 0x200u + le16toh(off));
	if (n < 0)
		return err_set(err, (int)-n, "read kernel %s: %s", path, strerror((int)-n));
	text[n] = '\0';
	text[strcspn(text, " ")] = '\0';
	if (!text[0] || strchr(text, '/') || text[0] == '.')
		return err_set(err, EBADMSG, "kernel %s: its header names no version", path);
	memcpy(out, text, sizeof(text));
	return 0;
}

/* The newest file in `dir` that matches; false when there is none. */
static bool newest(const char *dir, const char *pattern, char *out, size_t cap)
{
	cleanup_dir DIR *d = opendir(dir);
	char best[NAME_MAX + 1] = "";
	struct dirent *e;

	while (d && (e = readdir(d)))
		if (fnmatch(pattern, e->d_name, 0) == 0 && strverscmp(e->d_name, best) > 0)
			memcpy(best, e->d_name, strlen(e->d_name) + 1);
	if (!best[0])
		return false;
	return snprintf(out, cap, "%s/%s", dir, best) < (int)cap;
}

int guest_kernel_find_in(const char *boot_dir, const char *modules_root, const char *path,
			 struct guest_kernel *out, struct err *err)
{
	int r;

	*out = (struct guest_kernel){0};
	if (path) {
		if (snprintf(out->path, sizeof(out->path), "%s", path) >= (int)sizeof(out->path))
			return err_set(err, ENAMETOOLONG, "kernel %s: path too long", path);
	} else if (!newest(boot_dir, "vmlinuz-*-cloud-amd64", out->path, sizeof(out->path)) &&
		   !newest(boot_dir, "vmlinuz-*", out->path, sizeof(out->path))) {
		return err_set(err, ENOENT,
			       "find a guest kernel in %s: no vmlinuz-*; install "
			       "linux-image-cloud-amd64 or name one with --kernel",
			       boot_dir);
	}
	r = read_version(out->path, out->version, err);
	if (r < 0)
		return r;
	if (snprintf(out->modules_dir, sizeof(out->modules_dir), "%s/%s", modules_root,
		     out->version) >= (int)sizeof(out->modules_dir))
		return err_set(err, ENAMETOOLONG, "modules of %s: path too long", out->path);
	return 0;
}

int guest_kernel_find(const char *path, struct guest_kernel *out, struct err *err)
{
	return guest_kernel_find_in("/boot", "/lib/modules", path, out, err);
}

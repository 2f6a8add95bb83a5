/* Trees of images and layers through a real mount of this process: every attribute as stored. */
#include "tests/unit/store_util.h"

#include <dirent.h>
#include <poll.h>
#include <pthread.h>
#include <sys/mman.h>
#include <sys/statvfs.h>
#include <sys/sysmacros.h>
#include <sys/wait.h>
#include <sys/xattr.h>

#include "smfs/mount/mount.h"

#define HEX1 "aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa"

struct mounted {
	struct fixture *f;
	struct smfs_mount *m;
	char dir[64];
	struct smfs_id tree; /* of the layer */
};

static const char caps[] = "\1\0\0\2\0\4\0\0\0\0\0\0\0\0\0\0\0\0\0\0";

/* A root file system with one of everything. */
static void put_tree(struct fixture *f, struct smfs_ingest *ing, struct smfs_id *root)
{
	static const struct smfs_xattr xattrs[] = {
		{"security.capability", caps, 20},
		{"user.note", "of the image", 12},
		{"trusted.overlay.opaque", "y", 1},
	};
	struct smfs_content hello, big, zeros = {.size = 1 << 20};
	uint8_t *data = malloc(300000);
	struct smfs_id sub;

	for (size_t i = 0; i < 300000; i++)
		data[i] = (uint8_t)(i * 2654435761u >> 13);
	ok(f, smfs_ingest_mem(ing, "hello\n", 6, &hello, &f->err));
	ok(f, smfs_ingest_mem(ing, data, 300000, &big, &f->err));
	free(data);
	const struct smfs_entry in_sub[] = {
		{.name = "deep", .mode = S_IFREG | 0600, .nlink = 1, .content = hello},
		{.name = "linked-too",
		 .mode = S_IFREG | 0755,
		 .uid = 5,
		 .gid = 6,
		 .nlink = 2,
		 .link = 77,
		 .mtime_sec = 1000,
		 .content = big},
	};
	ok(f, smfs_ingest_dir(ing, in_sub, ARRAY_SIZE(in_sub), &sub, &f->err));
	const struct smfs_entry top[] = {
		{.name = "big",
		 .mode = S_IFREG | 04755,
		 .uid = 70000,
		 .gid = 70001,
		 .nlink = 1,
		 .mtime_sec = -5,
		 .mtime_nsec = 123456789,
		 .content = big,
		 .xattrs = xattrs,
		 .nxattrs = ARRAY_SIZE(xattrs)},
		{.name = "chr",
		 .mode = S_IFCHR | 0666,
		 .nlink = 1,
		 .rdev_major = 1,
		 .rdev_minor = 3},
		{.name = "copy", .mode = S_IFDIR | 0755, .dir = sub},
		{.name = "fifo", .mode = S_IFIFO | 0640, .nlink = 1},
		{.name = "linked",
		 .mode = S_IFREG | 0755,
		 .uid = 5,
		 .gid = 6,
		 .nlink = 2,
		 .link = 77,
		 .mtime_sec = 1000,
		 .content = big},
		{.name = "sub",
		 .mode = S_IFDIR | 01777,
		 .uid = 3,
		 .gid = 4,
		 .mtime_sec = 99,
		 .dir = sub},
		{.name = "sym", .mode = S_IFLNK | 0777, .nlink = 1, .target = "../etc/passwd"},
		{.name = "zeros", .mode = S_IFREG | 0644, .nlink = 1, .content = zeros},
	};
	ok(f, smfs_ingest_dir(ing, top, ARRAY_SIZE(top), root, &f->err));
}

static void put_image(struct fixture *f, struct smfs_ingest *ing, const char *ref,
		      const struct smfs_id *rootfs)
{
	struct smfs_content config, erofs;
	struct smfs_id root;

	ok(f, smfs_ingest_mem(ing, "{}", 2, &config, &f->err));
	ok(f, smfs_ingest_mem(ing, "not really an EROFS image", 25, &erofs, &f->err));
	const struct smfs_entry top[] = {
		{.name = "config.json", .mode = S_IFREG | 0644, .nlink = 1, .content = config},
		{.name = "manifest.json", .mode = S_IFREG | 0644, .nlink = 1, .content = config},
		{.name = "rootfs", .mode = S_IFDIR | 0755, .mtime_sec = 12, .dir = *rootfs},
		{.name = "rootfs.erofs", .mode = S_IFREG | 0644, .nlink = 1, .content = erofs},
	};
	ok(f, smfs_ingest_dir(ing, top, ARRAY_SIZE(top), &root, &f->err));
	ok(f, smfs_ingest_name(ing, SMFS_IMAGE, ref, &root, NULL, 0, &f->err));
}

static const char *const refs[] = {
	"docker.io/library/alpine:3.20", "docker.io/library/debian:12", "docker.io/me:1",
	"localhost:5000/a/b/c:latest",	 "localhost:5000/a/b/c:v2",	"localhost:5000/a/b:v1",
};

static void put_snapshots(struct fixture *f, struct smfs_ingest *ing, int n)
{
	struct smfs_content one;
	struct smfs_id root;

	ok(f, smfs_ingest_mem(ing, "1", 1, &one, &f->err));
	const struct smfs_entry top[] = {
		{.name = "meta", .mode = S_IFREG | 0444, .nlink = 1, .content = one},
		{.name = "ram", .mode = S_IFREG | 0444, .nlink = 1, .content = one},
		{.name = "vcpu", .mode = S_IFREG | 0444, .nlink = 1, .content = one},
	};
	ok(f, smfs_ingest_dir(ing, top, ARRAY_SIZE(top), &root, &f->err));
	for (int i = 0; i < n; i++) {
		char name[32];

		snprintf(name, sizeof(name), "snap-%03d", i);
		ok(f, smfs_ingest_name(ing, SMFS_SNAPSHOT, name, &root, NULL, 0, &f->err));
	}
}

static bool can_mount(void)
{
	return geteuid() == 0 && access("/dev/fuse", R_OK | W_OK) == 0;
}

static int setup(void **state)
{
	struct mounted *t = calloc(1, sizeof(*t));
	const struct smfs_entry root = {
		.mode = S_IFDIR | 0751, .uid = 8, .gid = 9, .mtime_sec = 77, .mtime_nsec = 5};
	struct smfs_ingest *ing;

	*state = t;
	if (!can_mount())
		return 0;
	if (fixture_setup((void **)&t->f) < 0)
		return -1;
	strcpy(t->dir, "/tmp/smfs-mount.XXXXXX");
	assert_non_null(mkdtemp(t->dir));
	ok(t->f, smfs_ingest_begin(t->f->s, &ing, &t->f->err));
	put_tree(t->f, ing, &t->tree);
	ok(t->f, smfs_ingest_name(ing, SMFS_LAYER, "sha256:" HEX1, &t->tree, &root, 0, &t->f->err));
	for (size_t i = 0; i < ARRAY_SIZE(refs); i++)
		put_image(t->f, ing, refs[i], &t->tree);
	put_snapshots(t->f, ing, 300);
	ok(t->f, smfs_ingest_commit(ing, &t->f->err));
	ok(t->f, smfs_mount_store(t->f->s, t->dir, 0, &t->m, &t->f->err));
	return 0;
}

static int teardown(void **state)
{
	struct mounted *t = *state;

	smfs_mount_stop(t->m);
	if (t->f) {
		rmdir(t->dir);
		fixture_teardown((void **)&t->f);
	}
	free(t);
	return 0;
}

/* Skips the test where nothing can be mounted. */
#define MOUNTED(state)                                                 \
	({                                                             \
		if (!can_mount()) {                                    \
			print_message("# no /dev/fuse to mount by\n"); \
			skip();                                        \
		}                                                      \
		(struct mounted *)*(state);                            \
	})

static const char *at(struct mounted *t, const char *path)
{
	static _Thread_local char buf[4][512];
	static _Thread_local int next;
	char *b = buf[next++ % 4];

	snprintf(b, sizeof(buf[0]), "%s/%s", t->dir, path);
	return b;
}

static struct stat stat_at(struct mounted *t, const char *path)
{
	struct stat st;

	if (lstat(at(t, path), &st) < 0)
		fail_msg("lstat %s: %s", path, strerror(errno));
	return st;
}

#define LAYER "layers/sha256:" HEX1 "/"

/* Sorted, separated by spaces, without the dots. */
static const char *names_in(struct mounted *t, const char *path)
{
	static char out[16384];
	struct dirent **e;
	int n = scandir(at(t, path), &e, NULL, alphasort);
	size_t used = 0;

	if (n < 0)
		fail_msg("list %s: %s", path, strerror(errno));
	out[0] = '\0';
	for (int i = 0; i < n; i++) {
		if (strcmp(e[i]->d_name, ".") != 0 && strcmp(e[i]->d_name, "..") != 0)
			used += (size_t)snprintf(out + used, sizeof(out) - used, "%s%s",
						 used ? " " : "", e[i]->d_name);
		free(e[i]);
	}
	free(e);
	return out;
}

static void references_are_paths(void **state)
{
	struct mounted *t = MOUNTED(state);

	assert_string_equal(names_in(t, "images"), "docker.io localhost:5000");
	assert_string_equal(names_in(t, "images/docker.io"), "library me:1");
	assert_string_equal(names_in(t, "images/docker.io/library"), "alpine:3.20 debian:12");
	assert_string_equal(names_in(t, "images/localhost:5000/a"), "b b:v1");
	assert_string_equal(names_in(t, "images/localhost:5000/a/b"), "c:latest c:v2");
	assert_string_equal(names_in(t, "images/localhost:5000/a/b/c:v2"),
			    "config.json manifest.json rootfs rootfs.erofs");
	for (size_t i = 0; i < ARRAY_SIZE(refs); i++) {
		char path[256];

		snprintf(path, sizeof(path), "images/%s/rootfs/sub/deep", refs[i]);
		assert_int_equal(stat_at(t, path).st_size, 6);
	}
	assert_int_equal(access(at(t, "images/docker.io/librar"), F_OK), -1);
	assert_int_equal(access(at(t, "images/docker.io/library/alpine"), F_OK), -1);
	assert_int_equal(access(at(t, "images/docker.io/library:1"), F_OK), -1);
	assert_int_equal(access(at(t, "images/.."), F_OK), 0);
}

static void three_hundred_names_are_listed_once_each(void **state)
{
	struct mounted *t = MOUNTED(state);
	DIR *d = opendir(at(t, "snapshots"));
	bool seen[300] = {0};
	struct dirent *e;
	int n = 0, i;

	assert_non_null(d);
	for (int round = 0; round < 2; round++) {
		memset(seen, 0, sizeof(seen));
		while ((e = readdir(d))) {
			if (e->d_name[0] == '.')
				continue;
			assert_int_equal(sscanf(e->d_name, "snap-%d", &i), 1);
			assert_false(seen[i]);
			seen[i] = true;
			n++;
			assert_int_equal(e->d_type, DT_DIR);
		}
		rewinddir(d);
	}
	closedir(d);
	assert_int_equal(n, 600);
}

static void attributes_are_as_stored(void **state)
{
	struct mounted *t = MOUNTED(state);
	struct stat st = stat_at(t, LAYER "big");

	assert_int_equal(st.st_mode, S_IFREG | 04755);
	assert_int_equal(st.st_uid, 70000);
	assert_int_equal(st.st_gid, 70001);
	assert_int_equal(st.st_size, 300000);
	assert_int_equal(st.st_nlink, 1);
	assert_int_equal(st.st_mtim.tv_sec, -5);
	assert_int_equal(st.st_mtim.tv_nsec, 123456789);
	st = stat_at(t, LAYER "chr");
	assert_int_equal(st.st_mode, S_IFCHR | 0666);
	assert_int_equal(st.st_rdev, makedev(1, 3));
	assert_int_equal(stat_at(t, LAYER "fifo").st_mode, S_IFIFO | 0640);
	st = stat_at(t, LAYER "sub");
	assert_int_equal(st.st_mode, S_IFDIR | 01777);
	assert_int_equal(st.st_uid, 3);
	assert_int_equal(st.st_mtim.tv_sec, 99);
	st = stat_at(t, "layers/sha256:" HEX1);
	assert_int_equal(st.st_mode, S_IFDIR | 0751);
	assert_int_equal(st.st_uid, 8);
	assert_int_equal(st.st_gid, 9);
	st = stat_at(t, "images/docker.io/me:1/rootfs");
	assert_int_equal(st.st_mode, S_IFDIR | 0755);
	assert_int_equal(st.st_mtim.tv_sec, 12);
	st = stat_at(t, "images/docker.io/me:1/rootfs.erofs");
	assert_int_equal(st.st_mode, S_IFREG | 0444);
	st = stat_at(t, "snapshots/snap-007/ram");
	assert_int_equal(st.st_mode, S_IFREG | 0400);
	assert_int_equal(stat_at(t, "snapshots/snap-007").st_mode, S_IFDIR | 0500);
}

static void symbolic_links_say_where(void **state)
{
	struct mounted *t = MOUNTED(state);
	char target[64] = "";

	assert_int_equal(stat_at(t, LAYER "sym").st_size, 13);
	assert_int_equal(readlink(at(t, LAYER "sym"), target, sizeof(target)), 13);
	assert_string_equal(target, "../etc/passwd");
}

static void hard_links_are_one_inode(void **state)
{
	struct mounted *t = MOUNTED(state);
	struct stat a = stat_at(t, LAYER "linked"), b = stat_at(t, LAYER "sub/linked-too");

	assert_int_equal(a.st_ino, b.st_ino);
	assert_int_equal(a.st_nlink, 2);
	assert_int_equal(b.st_nlink, 2);
	/* The same directory object in two places: two directories, shared files. */
	assert_int_not_equal(stat_at(t, LAYER "sub").st_ino, stat_at(t, LAYER "copy").st_ino);
	assert_int_equal(stat_at(t, LAYER "sub/deep").st_ino, stat_at(t, LAYER "copy/deep").st_ino);
}

static void equal_images_share_inodes(void **state)
{
	struct mounted *t = MOUNTED(state);
	struct stat a = stat_at(t, "images/docker.io/me:1/rootfs.erofs");
	struct stat b = stat_at(t, "images/localhost:5000/a/b:v1/rootfs.erofs");

	assert_int_equal(a.st_ino, b.st_ino);
	a = stat_at(t, "images/docker.io/me:1/rootfs");
	b = stat_at(t, "images/localhost:5000/a/b:v1/rootfs");
	assert_int_not_equal(a.st_ino, b.st_ino);
	a = stat_at(t, "images/docker.io/me:1/rootfs/big");
	b = stat_at(t, LAYER "big");
	assert_int_equal(a.st_ino, b.st_ino);
}

static void readdir_numbers_are_those_of_stat(void **state)
{
	struct mounted *t = MOUNTED(state);
	DIR *d = opendir(at(t, LAYER));
	struct dirent *e;

	assert_non_null(d);
	while ((e = readdir(d))) {
		char path[512];

		if (e->d_name[0] == '.')
			continue;
		snprintf(path, sizeof(path), LAYER "%s", e->d_name);
		assert_int_equal(stat_at(t, path).st_ino, e->d_ino);
	}
	closedir(d);
}

static void numbers_survive_a_remount(void **state)
{
	struct mounted *t = MOUNTED(state);
	static const char *const paths[] = {"snapshots",
					    "snapshots/snap-001",
					    "snapshots/snap-001/ram",
					    "images/docker.io",
					    "images/docker.io/me:1",
					    "images/docker.io/me:1/rootfs/sub/deep",
					    LAYER "sub",
					    LAYER "linked",
					    ".smfs/stats"};
	ino_t before[ARRAY_SIZE(paths)];

	for (size_t i = 0; i < ARRAY_SIZE(paths); i++)
		before[i] = stat_at(t, paths[i]).st_ino;
	smfs_mount_stop(t->m);
	t->m = NULL;
	ok(t->f, smfs_mount_store(t->f->s, t->dir, 0, &t->m, &t->f->err));
	for (size_t i = ARRAY_SIZE(paths); i-- > 0;)
		assert_int_equal(stat_at(t, paths[i]).st_ino, before[i]);
}

static void extended_attributes(void **state)
{
	struct mounted *t = MOUNTED(state);
	char buf[512];
	ssize_t n = getxattr(at(t, LAYER "big"), "security.capability", buf, sizeof(buf));

	assert_int_equal(n, 20);
	assert_memory_equal(buf, caps, 20);
	assert_int_equal(getxattr(at(t, LAYER "big"), "user.note", NULL, 0), 12);
	assert_int_equal(getxattr(at(t, LAYER "big"), "user.note", buf, 3), -1);
	assert_int_equal(errno, ERANGE);
	assert_int_equal(getxattr(at(t, LAYER "big"), "user.none", buf, 3), -1);
	assert_int_equal(errno, ENODATA);
	n = listxattr(at(t, LAYER "big"), buf, sizeof(buf));
	static const char all[] =
		"security.capability\0trusted.overlay.opaque\0user.note\0"
		"user.smfs.content\0user.smfs.digest\0user.smfs.logical\0user.smfs.stored";
	assert_int_equal(n, sizeof(all));
	assert_memory_equal(buf, all, sizeof(all));

	n = getxattr(at(t, LAYER "big"), "user.smfs.logical", buf, sizeof(buf));
	assert_int_equal(n, 6);
	assert_memory_equal(buf, "300000", 6);
	n = getxattr(at(t, LAYER "big"), "user.smfs.stored", buf, sizeof(buf) - 1);
	assert_true(n > 0);
	buf[n] = '\0';
	assert_in_range(atoi(buf), 1, 310000);
	assert_int_equal(getxattr(at(t, LAYER "big"), "user.smfs.digest", buf, sizeof(buf)), 64);
	assert_int_equal(getxattr(at(t, LAYER "sub"), "user.smfs.digest", buf, sizeof(buf)), 64);
	assert_int_equal(setxattr(at(t, LAYER "big"), "user.new", "1", 1, 0), -1);
}

static void holes_are_holes(void **state)
{
	struct mounted *t = MOUNTED(state);
	int fd = open(at(t, LAYER "zeros"), O_RDONLY);

	assert_int_equal(stat_at(t, LAYER "zeros").st_blocks, 0);
	assert_int_equal(lseek(fd, 0, SEEK_DATA), -1);
	assert_int_equal(errno, ENXIO);
	assert_int_equal(lseek(fd, 0, SEEK_HOLE), 0);
	close(fd);
	fd = open(at(t, LAYER "big"), O_RDONLY);
	assert_int_equal(lseek(fd, 5, SEEK_DATA), 5);
	assert_int_equal(lseek(fd, 5, SEEK_HOLE), 300000);
	assert_int_equal(lseek(fd, 300000, SEEK_DATA), -1);
	assert_int_equal(errno, ENXIO);
	close(fd);
}

static void *reader(void *arg)
{
	struct mounted *t = arg;
	uint8_t *buf = malloc(300000);
	long bad = 0;

	for (int round = 0; round < 20; round++) {
		int fd = open(at(t, round % 2 ? LAYER "big" : LAYER "linked"), O_RDONLY);

		posix_fadvise(fd, 0, 0, POSIX_FADV_DONTNEED);
		size_t at_byte = (size_t)round * 7919;
		ssize_t n = pread(fd, buf, 100000, (off_t)at_byte);
		bad += n != 100000;
		for (size_t i = 0; n > 0 && i < (size_t)n; i++)
			bad += buf[i] != (uint8_t)((at_byte + i) * 2654435761u >> 13);
		close(fd);
	}
	free(buf);
	return (void *)bad;
}

static void readers_do_not_disturb_each_other(void **state)
{
	struct mounted *t = MOUNTED(state);
	pthread_t tid[8];

	for (int i = 0; i < 8; i++)
		assert_int_equal(pthread_create(&tid[i], NULL, reader, t), 0);
	for (int i = 0; i < 8; i++) {
		void *bad;

		pthread_join(tid[i], &bad);
		assert_ptr_equal(bad, NULL);
	}
}

static unsigned long counter(struct mounted *t, const char *name)
{
	cleanup_file FILE *f = fopen(at(t, ".smfs/stats"), "re");
	char line[256];
	size_t n = strlen(name);

	assert_non_null(f);
	while (fgets(line, sizeof(line), f))
		if (strncmp(line, name, n) == 0 && line[n] == ' ')
			return strtoul(line + n, NULL, 10);
	fail_msg("no counter %s", name);
	return 0;
}

#define LARGE ((size_t)5 << 20)

/* O_DIRECT: the server sees each read as it is. Patterns that start, follow and break read-ahead.
 */
static void *large_reader(void *arg)
{
	struct mounted *t = arg;
	uint8_t *want = malloc(LARGE), *got = malloc(MIB);
	int fd = open(at(t, "snapshots/large/ram"), O_RDONLY | O_DIRECT);
	uint64_t x = (uintptr_t)pthread_self() | 1;
	size_t pos = 0;
	long bad = fd < 0;

	fill_mixed(want, LARGE, 9);
	for (int i = 0; i < 400 && !bad; i++) {
		size_t len = i / 20 % 2 ? 128 * KIB : 1 + rnd(&x) % MIB;

		/* Runs of reads in a row, then a jump. */
		if (i % 20 == 0 || pos >= LARGE)
			pos = rnd(&x) % 3 ? rnd(&x) % LARGE : 0;
		ssize_t n = pread(fd, got, len, (off_t)pos);
		bad += n != (ssize_t)MIN(len, LARGE - pos);
		bad += !bad && memcmp(got, want + pos, (size_t)n) != 0;
		pos += len;
	}
	close(fd);
	free(want);
	free(got);
	return (void *)bad;
}

static void reading_ahead_changes_no_byte(void **state)
{
	struct mounted *t = MOUNTED(state);
	cleanup_free uint8_t *data = malloc(LARGE);
	struct smfs_content content;
	struct smfs_ingest *ing;
	struct smfs_id root;
	pthread_t tid[4];

	fill_mixed(data, LARGE, 9);
	ok(t->f, smfs_ingest_begin(t->f->s, &ing, &t->f->err));
	ok(t->f, smfs_ingest_mem(ing, data, LARGE, &content, &t->f->err));
	const struct smfs_entry top = {
		.name = "ram", .mode = S_IFREG | 0400, .nlink = 1, .content = content};
	ok(t->f, smfs_ingest_dir(ing, &top, 1, &root, &t->f->err));
	ok(t->f, smfs_ingest_name(ing, SMFS_SNAPSHOT, "large", &root, NULL, 0, &t->f->err));
	ok(t->f, smfs_ingest_commit(ing, &t->f->err));
	for (int i = 0; i < 4; i++)
		assert_int_equal(pthread_create(&tid[i], NULL, large_reader, t), 0);
	for (int i = 0; i < 4; i++) {
		void *bad;

		pthread_join(tid[i], &bad);
		assert_ptr_equal(bad, NULL);
	}
	assert_true(counter(t, "smfs_readaheads_total") > 0);
}

/* What the puller does: one directory object, read-only, as the root of a mount of its own. */
static void a_tree_is_a_mount_of_its_own(void **state)
{
	struct mounted *t = MOUNTED(state);
	const struct smfs_entry attr = {
		.mode = S_IFDIR | 0710, .uid = 1, .gid = 2, .mtime_sec = 44};
	struct mounted tree = {.f = t->f};
	struct statvfs vfs;

	strcpy(tree.dir, "/tmp/smfs-tree.XXXXXX");
	assert_non_null(mkdtemp(tree.dir));
	ok(t->f, smfs_mount_tree(t->f->s, &t->tree, &attr, tree.dir, &tree.m, &t->f->err));
	assert_string_equal(names_in(&tree, ""), "big chr copy fifo linked sub sym zeros");
	struct stat st = stat_at(&tree, "");
	assert_int_equal(st.st_mode, S_IFDIR | 0710);
	assert_int_equal(st.st_uid, 1);
	assert_int_equal(st.st_mtim.tv_sec, 44);
	assert_int_equal(stat_at(&tree, "linked").st_nlink, 2);
	assert_int_equal(statvfs(tree.dir, &vfs), 0);
	assert_true(vfs.f_flag & ST_RDONLY);
	assert_int_equal(mkdir(at(&tree, "new"), 0755), -1);
	assert_int_equal(errno, EROFS);
	smfs_mount_stop(tree.m);
	assert_string_equal(names_in(&tree, ""), "");
	assert_int_equal(rmdir(tree.dir), 0);
}

static void stopping_while_in_use_ends_it(void **state)
{
	struct mounted *t = MOUNTED(state);
	char c;
	int fd = open(at(t, LAYER "big"), O_RDONLY);
	struct pollfd p = {.fd = smfs_mount_fd(t->m), .events = POLLIN};

	assert_true(fd >= 0);
	assert_int_equal(poll(&p, 1, 0), 0);
	smfs_mount_stop(t->m);
	t->m = NULL;
	assert_int_equal(pread(fd, &c, 1, 299999), -1);
	close(fd);
	assert_int_equal(access(at(t, ".smfs"), F_OK), -1);
}

int main(void)
{
#define MOUNT_TEST(name) cmocka_unit_test_setup_teardown(name, setup, teardown)
	static const struct CMUnitTest tests[] = {
		MOUNT_TEST(references_are_paths),
		MOUNT_TEST(three_hundred_names_are_listed_once_each),
		MOUNT_TEST(attributes_are_as_stored),
		MOUNT_TEST(symbolic_links_say_where),
		MOUNT_TEST(hard_links_are_one_inode),
		MOUNT_TEST(equal_images_share_inodes),
		MOUNT_TEST(readdir_numbers_are_those_of_stat),
		MOUNT_TEST(numbers_survive_a_remount),
		MOUNT_TEST(extended_attributes),
		MOUNT_TEST(holes_are_holes),
		MOUNT_TEST(readers_do_not_disturb_each_other),
		MOUNT_TEST(reading_ahead_changes_no_byte),
		MOUNT_TEST(a_tree_is_a_mount_of_its_own),
		MOUNT_TEST(stopping_while_in_use_ends_it),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}

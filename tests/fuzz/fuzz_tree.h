/*
 * fuzz_tree.h - for fuzzers of files and trees: a folder in memory with one below it, "t", that is
 * written to, another, "out", that nobody may touch, and trees made of few bytes.
 */
#ifndef TESTS_FUZZ_TREE_H
#define TESTS_FUZZ_TREE_H

#include "runner/proto/agent_files.h"
#include "smfs/base/cleanup.h"
#include "smfs/base/num.h"
#include "tests/fuzz/fuzz_dir.h"

#include <dirent.h>
#include <fcntl.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

static int base_fd = -1, out_fd = -1;
static struct stat out_was, file_was;

/* All of it, whatever its modes are: the fuzzer is root, or owns it. */
static inline void fuzz_remove(int at, const char *name)
{
	if (unlinkat(at, name, 0) == 0 || errno == ENOENT)
		return;
	must(errno == EISDIR || errno == EPERM);
	if (unlinkat(at, name, AT_REMOVEDIR) == 0)
		return;
	fchmodat(at, name, 0700, 0);
	int fd = openat(at, name, O_RDONLY | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC);
	cleanup_dir DIR *d = fdopendir(fd);
	struct dirent *e;

	must(d != NULL);
	while ((e = readdir(d)))
		if (strcmp(e->d_name, ".") != 0 && strcmp(e->d_name, "..") != 0)
			fuzz_remove(dirfd(d), e->d_name);
	must(unlinkat(at, name, AT_REMOVEDIR) == 0);
}

/* Removing what is there is all that changes `base`, so that out's own times stand still. */
static inline void fuzz_tree_begin(bool populated)
{
	if (base_fd < 0) {
		fuzz_dir_make();
		base_fd = open(dir, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
		must(mkdirat(base_fd, "out", 0755) == 0);
		out_fd = openat(base_fd, "out", O_RDONLY | O_DIRECTORY | O_CLOEXEC);
		int fd = openat(out_fd, "f", O_WRONLY | O_CREAT | O_CLOEXEC, 0600);
		must(write(fd, "nobody writes here", 18) == 18 && close(fd) == 0);
		must(fstat(out_fd, &out_was) == 0 && fstatat(out_fd, "f", &file_was, 0) == 0);
	}
	fuzz_remove(base_fd, "t");
	fuzz_remove(base_fd, "u");
	if (!populated)
		return;
	must(mkdirat(base_fd, "t", 0755) == 0 && mkdirat(base_fd, "t/a", 0700) == 0);
	must(symlinkat("../out", base_fd, "t/b") == 0 &&
	     symlinkat("../../out", base_fd, "t/a/b") == 0);
	must(symlinkat("../out/f", base_fd, "t/c") == 0 && symlinkat("..", base_fd, "t/d") == 0);
}

static inline bool fuzz_same(const struct stat *a, const struct stat *b)
{
	return a->st_ino == b->st_ino && a->st_mode == b->st_mode && a->st_nlink == b->st_nlink &&
	       a->st_uid == b->st_uid && a->st_gid == b->st_gid && a->st_size == b->st_size &&
	       a->st_mtim.tv_sec == b->st_mtim.tv_sec && a->st_mtim.tv_nsec == b->st_mtim.tv_nsec &&
	       a->st_ctim.tv_sec == b->st_ctim.tv_sec && a->st_ctim.tv_nsec == b->st_ctim.tv_nsec;
}

/* The change times tell of writes, links, modes and names alike. */
static inline void fuzz_tree_check(void)
{
	struct stat st;

	must(fstat(out_fd, &st) == 0 && fuzz_same(&st, &out_was));
	must(fstatat(out_fd, "f", &st, AT_SYMLINK_NOFOLLOW) == 0 && fuzz_same(&st, &file_was));
	int fd = openat(base_fd, ".", O_RDONLY | O_DIRECTORY | O_CLOEXEC);
	cleanup_dir DIR *d = fdopendir(fd);
	struct dirent *e;

	must(d != NULL);
	while ((e = readdir(d)))
		must(strchr("tu.", e->d_name[0]) ? !e->d_name[1] || !strcmp(e->d_name, "..")
						 : !strcmp(e->d_name, "out"));
}

/* ---- trees of few bytes ---------------------------------------------------------------------- */

#define FUZZ_PATHS 32

struct fuzz_paths {
	char path[FUZZ_PATHS][256]; /* of entries before; the top is one */
	unsigned n;
};

static inline void fuzz_put_frame(struct writer *w, uint16_t type, const void *p, size_t n)
{
	uint8_t hdr[AGENT_FRAME_HDR];

	agent_header_put(hdr, type, (uint32_t)n);
	put_bytes(w, hdr, sizeof(hdr));
	put_bytes(w, p, n);
}

/* A name below one of the paths before; now and then one that no path may have. */
static inline void fuzz_new_path(struct reader *r, struct fuzz_paths *all, char out[256])
{
	static const char *const names[] = {"a", "b", "c", "d", "e", "f", "out", "t"};
	static const char *const bad[] = {"..",	   ".", "", "/a", "a/", "a//b", "a/../../out/f",
					  "\xff\n"};
	const char *above = all->path[get_u8(r) % all->n];
	const uint8_t pick = get_u8(r);
	const char *name =
		pick < 240 ? names[pick % ARRAY_SIZE(names)] : bad[pick % ARRAY_SIZE(bad)];

	snprintf(out, 256, "%.200s%s%s", above, above[0] ? "/" : "", name);
	if (all->n < FUZZ_PATHS)
		memcpy(all->path[all->n++], out, 256);
}

static inline void fuzz_target(struct reader *r, const struct fuzz_paths *all, char *out,
			       size_t cap)
{
	static const char *const out_of_it[] = {"../out", "../out/f",	 "/",	"..",
						".",	  "../../out/f", "out", "t"};
	const uint8_t pick = get_u8(r);

	if (pick < 128)
		snprintf(out, cap, "%s", all->path[pick % all->n]);
	else if (pick < 160)
		snprintf(out, cap, "%s/out%s", dir, pick & 1 ? "/f" : "");
	else
		snprintf(out, cap, "%s", out_of_it[pick % ARRAY_SIZE(out_of_it)]);
}

/* `size` bytes in frames of up to `step`; a break of what was announced if `r` says so. */
static inline void fuzz_put_content(struct writer *w, struct reader *r, uint64_t size)
{
	static uint8_t bytes[AGENT_DATA_MAX];
	const uint8_t how = get_u8(r);
	const size_t step = (size_t[]){AGENT_DATA_MAX, 1, 100, 4096}[how % 4];

	memset(bytes, how & 4 ? 0 : how, sizeof(bytes));
	/* Two less to two more. */
	if (how > 250)
		size = size + how < 253 ? 0 : size + how - 253;
	while (size) {
		const size_t n = MIN((size_t)MIN(size, (uint64_t)AGENT_DATA_MAX),
				     MAX(step, (size_t)size / 50));

		fuzz_put_frame(w, AGENT_DATA, bytes, n);
		size -= n;
	}
}

static inline void fuzz_put_tree(struct writer *w, struct reader *r)
{
	static const uint32_t modes[] = {0644, 0755, 0, 04755, 01777, 02750, 0400, 07777};
	static struct fuzz_paths all;
	static struct agent_entry e;

	all.path[0][0] = '\0';
	all.n = 1;
	for (bool first = true; first || (r->left && w->len < 60000); first = false) {
		cleanup_writer struct writer x = WRITER_INIT;
		const uint8_t type = get_u8(r);

		e = (struct agent_entry){.type = type % 8 ? type % 8 : ENTRY_DIR,
					 .mode = modes[get_u8(r) % ARRAY_SIZE(modes)],
					 .mtime_ns = (int64_t)get_u8(r) * 1000000007 *
						     (type & 64 ? -1 : 1)};
		if (type & 128)
			e.uid = e.gid = 1000;
		/* Of a top that is a folder there is more to see. */
		if (first && type < 240)
			e.type = ENTRY_DIR;
		else if (!first)
			fuzz_new_path(r, &all, e.path);
		if (e.type == ENTRY_SYMLINK || e.type == ENTRY_HARDLINK)
			fuzz_target(r, &all, e.target, sizeof(e.target));
		if (e.type == ENTRY_CHAR || e.type == ENTRY_BLOCK)
			e.rdev = get_u8(r);
		if (e.type == ENTRY_FILE)
			e.size = (uint64_t)get_u8(r) << (type & 32 ? 5 : 0);
		agent_put_entry(&x, &e);
		fuzz_put_frame(w, AGENT_ENTRY, x.p, x.len);
		if (e.size)
			fuzz_put_content(w, r, e.size);
	}
	fuzz_put_frame(w, AGENT_DONE, NULL, 0);
}

#endif

#include "runner/control/where.h"

#include "smfs/base/cleanup.h"
#include "smfs/base/io.h"
#include "smfs/base/num.h"
#include "smfs/store/store.h"

#include <fcntl.h>
#include <string.h>
#include <sys/stat.h>

const char *where_mount(const char *flag)
{
	const char *e = flag ? flag : getenv("SMFS_MOUNT");

	return e && *e ? e : SMFS_DEFAULT_MOUNT;
}

int where_store(const char *mount, char out[PATH_MAX], struct err *err)
{
	const char *e = getenv("SMFS_STORE");
	cleanup_free char *text = NULL;
	char path[PATH_MAX];

	if (e && *e) {
		snprintf(out, PATH_MAX, "%s", e);
		return 0;
	}
	snprintf(path, sizeof(path), "%s/.smfs/store", mount);
	if (read_file(AT_FDCWD, path, PATH_MAX - 1, &text, NULL, err) < 0)
		return err_set(err, ENOENT,
			       "%s is not an smfs mount; run `smfs mount %s` first, or name it "
			       "with --mount",
			       mount, mount);
	text[strcspn(text, "\n")] = '\0';
	snprintf(out, PATH_MAX, "%s", text);
	return 0;
}

static bool is_dir(const char *path)
{
	struct stat st;

	return stat(path, &st) == 0 && S_ISDIR(st.st_mode);
}

static bool has_file(const char *dir, const char *file)
{
	char path[PATH_MAX];
	struct stat st;

	return (size_t)snprintf(path, sizeof(path), "%s/%s", dir, file) < sizeof(path) &&
	       stat(path, &st) == 0 && S_ISREG(st.st_mode);
}

int where_image(const char *mount, const char *what, char dir[PATH_MAX], char ref[512],
		struct err *err)
{
	/* The tag is after the last ':' that follows the last '/': "host:5000/repo" has none. */
	const char *slash = strrchr(what, '/');
	const char *tag = strchr(slash ? slash : what, ':') ? "" : ":latest";
	const char *const prefix[] = {"", "docker.io/library/", "docker.io/"};

	if (what[0] == '/' || what[0] == '.') {
		if ((size_t)snprintf(dir, PATH_MAX, "%s", what) >= PATH_MAX ||
		    !has_file(dir, "config.json"))
			return err_set(err, ENOENT, "image %s: no directory with a config.json",
				       what);
		char root[PATH_MAX];
		size_t n = (size_t)snprintf(root, sizeof(root), "%s/images/", mount);

		snprintf(ref, 512, "%s",
			 n < sizeof(root) && !strncmp(what, root, n) ? what + n : "");
		return 0;
	}
	if (strstr(what, "..") || strlen(what) > SMFS_REF_MAX)
		return err_set(err, EINVAL, "'%s' is not an image reference", what);
	for (size_t i = 0; i < ARRAY_SIZE(prefix); i++) {
		if (i && slash && i == 1)
			continue;
		snprintf(ref, 512, "%s%s%s", prefix[i], what, tag);
		if ((size_t)snprintf(dir, PATH_MAX, "%s/images/%s", mount, ref) < PATH_MAX &&
		    has_file(dir, "config.json"))
			return 0;
	}
	if (!has_file(mount, ".smfs/store"))
		return err_set(err, ENOENT,
			       "image %s: %s is not an smfs mount; run `smfs mount %s` first", what,
			       mount, mount);
	return err_set(err, ENOENT, "image %s is not in the store; run `smvm-pull %s` first", what,
		       what);
}

int where_snapshot(const char *mount, const char *what, char dir[PATH_MAX], struct err *err)
{
	const char *name = !strncmp(what, "snapshots/", 10) ? what + 10 : what;

	const int n = strchr(name, '/') || name[0] == '.'
			      ? snprintf(dir, PATH_MAX, "%s", what)
			      : snprintf(dir, PATH_MAX, "%s/snapshots/%s", mount, name);

	/* Cut short it could be another's. */
	if (n >= PATH_MAX)
		return err_set(err, ENAMETOOLONG, "snapshot %.64s...: a path of %d bytes", what, n);
	if (is_dir(dir))
		return 0;
	if (dir[0] && !strchr(name, '/') && !has_file(mount, ".smfs/store"))
		return err_set(err, ENOENT,
			       "snapshot %s: %s is not an smfs mount; run `smfs mount %s` first",
			       what, mount, mount);
	return err_set(err, ENOENT,
		       "snapshot %s: no such directory %s; `smfs ls snapshots` lists them", what,
		       dir);
}

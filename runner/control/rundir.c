#include "runner/control/rundir.h"

#include "runner/control/jsontext.h"

#include "smfs/base/cleanup.h"
#include "smfs/base/hex.h"
#include "smfs/base/io.h"
#include "smfs/base/num.h"

#include <ctype.h>
#include <fcntl.h>
#include <jansson.h>
#include <string.h>
#include <sys/file.h>
#include <sys/random.h>
#include <sys/stat.h>
#include <time.h>

#define DEFAULT_BASE "/run/smvm"
#define VM_JSON_MAX  16384

/* Every file a VM's directory may hold; removal touches nothing else. */
static const char *const known_files[] = {
	"vm.json", "vm.json.new", "control.sock", "vsock.sock", "console.log", "vmm.log", "lock",
};

const char *rundir_base(void)
{
	const char *e = getenv("SMVM_RUN_DIR");

	return e && *e ? e : DEFAULT_BASE;
}

int rundir_name_check(const char *name, struct err *err)
{
	size_t n = strlen(name);
	bool ok = n >= 1 && n <= VM_NAME_MAX && isalnum((unsigned char)name[0]);

	for (size_t i = 0; ok && i < n; i++)
		ok = isalnum((unsigned char)name[i]) || strchr("._-", name[i]);
	if (!ok)
		return err_set(
			err, EINVAL,
			"'%s' is not a VM name: use 1 to %d of [A-Za-z0-9._-], first a letter "
			"or digit",
			name, VM_NAME_MAX);
	return 0;
}

char *rundir_file(const struct rundir *d, const char *file, char buf[RUNDIR_PATH_MAX])
{
	snprintf(buf, RUNDIR_PATH_MAX, "%s/%s", d->path, file);
	return buf;
}

static int set_path(struct rundir *d, const char *id, struct err *err)
{
	int n = snprintf(d->path, sizeof(d->path), "%s/%s", rundir_base(), id);

	if ((size_t)n >= sizeof(d->path))
		return err_set(err, ENAMETOOLONG, "run directory %s: path too long for a socket",
			       rundir_base());
	return 0;
}

static void remove_files(const struct rundir *d)
{
	char f[RUNDIR_PATH_MAX];

	for (size_t i = 0; i < ARRAY_SIZE(known_files); i++)
		unlink(rundir_file(d, known_files[i], f));
	rmdir(d->path);
}

/*
 * The base directory's lock makes "is the name free" and "publish it" one step, and keeps the
 * sweeper off a directory that is only half made.
 */
static int base_lock(int flags, struct err *err)
{
	cleanup_fd int fd = open(rundir_base(), O_RDONLY | O_DIRECTORY | O_CLOEXEC);

	if (fd < 0 || flock(fd, LOCK_EX | flags) < 0)
		return err_errno(err, "lock run directory %s", rundir_base());
	return steal_fd(&fd);
}

/* Whoever else could rename what is in it could be the VM that a command talks to. */
int rundir_make_base(struct err *err)
{
	struct stat st;

	if (mkdir(rundir_base(), 0700) < 0 && errno != EEXIST)
		return err_errno(err, "create run directory %s", rundir_base());
	if (stat(rundir_base(), &st) < 0)
		return err_errno(err, "stat run directory %s", rundir_base());
	if ((st.st_uid != geteuid() && st.st_uid != 0) || st.st_mode & S_IWOTH)
		return err_set(
			err, EPERM,
			"run directory %s: others may write to it; make it your own or choose "
			"another with SMVM_RUN_DIR",
			rundir_base());
	return 0;
}

#define INFO_FORMAT "{s:s, s:s, s:i, s:I, s:i, s:I, s:s, s:s, s:s, s:I, s?s, s?b, s?s}"

static bool info_parse(const char *text, size_t len, struct vm_info *i)
{
	const char *id, *name, *image, *snapshot, *parent, *saving = "", *forwards = "";
	json_int_t created, ram, generation;
	int pid, vcpus, failed = 0;
	json_t *j = json_loadb(text, len, 0, NULL);
	bool ok = j && json_unpack(j, INFO_FORMAT, "id", &id, "name", &name, "pid", &pid,
				   "created_ns", &created, "vcpus", &vcpus, "ram_bytes", &ram,
				   "image", &image, "snapshot", &snapshot, "parent", &parent,
				   "generation", &generation, "saving", &saving, "save_failed",
				   &failed, "forwards", &forwards) == 0;

	if (ok) {
		*i = (struct vm_info){.pid = pid,
				      .created_ns = created,
				      .vcpus = (unsigned)vcpus,
				      .ram_bytes = (uint64_t)ram,
				      .generation = (uint64_t)generation,
				      .save_failed = failed != 0};
		snprintf(i->id, sizeof(i->id), "%s", id);
		snprintf(i->name, sizeof(i->name), "%s", name);
		snprintf(i->image, sizeof(i->image), "%s", image);
		snprintf(i->snapshot, sizeof(i->snapshot), "%s", snapshot);
		snprintf(i->parent, sizeof(i->parent), "%s", parent);
		snprintf(i->saving, sizeof(i->saving), "%s", saving);
		snprintf(i->forwards, sizeof(i->forwards), "%s", forwards);
	}
	json_decref(j);
	return ok;
}

int rundir_publish(struct rundir *d, struct err *err)
{
	char path[RUNDIR_PATH_MAX], fresh[RUNDIR_PATH_MAX];
	const struct vm_info *i = &d->info;
	json_t *j = json_pack("{s:s, s:s, s:i, s:I, s:i, s:I, s:o, s:o, s:s, s:I, s:s, s:b, s:s}",
			      "id", i->id, "name", i->name, "pid", (int)i->pid, "created_ns",
			      (json_int_t)i->created_ns, "vcpus", (int)i->vcpus, "ram_bytes",
			      (json_int_t)i->ram_bytes, "image", json_text(i->image), "snapshot",
			      json_text(i->snapshot), "parent", i->parent, "generation",
			      (json_int_t)i->generation, "saving", i->saving, "save_failed",
			      i->save_failed, "forwards", i->forwards);
	cleanup_free char *text = j ? json_dumps(j, JSON_INDENT(2)) : NULL;

	json_decref(j);
	if (!text)
		return err_set(err, ENOMEM, "write vm.json: out of memory");
	/* Whole or not at all for a reader, by rename; never synced: it dies with the machine. */
	rundir_file(d, "vm.json", path);
	rundir_file(d, "vm.json.new", fresh);
	cleanup_fd int fd = open(fresh, O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0600);
	if (fd < 0)
		return err_errno(err, "create %s", fresh);
	int r = write_full(fd, text, strlen(text));
	if (r < 0)
		return err_set(err, -r, "write %s: %s", fresh, strerror(-r));
	if (rename(fresh, path) < 0)
		return err_errno(err, "rename %s", fresh);
	return 0;
}

int rundir_create(const char *name, struct rundir **out, struct err *err)
{
	char path[RUNDIR_PATH_MAX];
	uint8_t rnd[VM_ID_LEN / 2];
	struct timespec now;
	int r;

	if (name && (r = rundir_name_check(name, err)) < 0)
		return r;
	if ((r = rundir_make_base(err)) < 0)
		return r;
	cleanup_fd int base = base_lock(0, err);
	if (base < 0)
		return base;
	struct rundir *other;
	if (name && rundir_find(name, &other, NULL) == 0) {
		/* Nor another's id: it is found by that as well. */
		bool taken = !strcmp(other->info.name, name) || !strcmp(other->info.id, name);

		rundir_release(other);
		if (taken)
			return err_set(err, EEXIST,
				       "VM '%s' is running already; choose another --name", name);
	}
	struct rundir *d = calloc(1, sizeof(*d));
	if (!d)
		return err_set(err, ENOMEM, "create VM: out of memory");
	d->lock_fd = -1;
	if (getrandom(rnd, sizeof(rnd), 0) != sizeof(rnd)) {
		free(d);
		return err_errno(err, "create VM id");
	}
	hex_encode(rnd, sizeof(rnd), d->info.id);
	snprintf(d->info.name, sizeof(d->info.name), "%s", name ? name : d->info.id);
	clock_gettime(CLOCK_REALTIME, &now);
	d->info.created_ns = now.tv_sec * 1000000000LL + now.tv_nsec;
	d->info.pid = getpid();
	if ((r = set_path(d, d->info.id, err)) < 0) {
		free(d);
		return r;
	}
	if (mkdir(d->path, 0700) < 0) {
		r = err_errno(err, "create %s", d->path);
		free(d);
		return r;
	}
	d->lock_fd = open(rundir_file(d, "lock", path), O_RDWR | O_CREAT | O_CLOEXEC, 0600);
	/* One that lists may just be trying the lock; it lets go at once, and cannot sweep. */
	if (d->lock_fd < 0 || flock(d->lock_fd, LOCK_EX) < 0)
		r = err_errno(err, "lock %s", path);
	/* It is told of once it runs; until then there is only a name to keep from others. */
	if (r == 0 && name)
		r = rundir_publish(d, err);
	if (r < 0) {
		rundir_remove(d);
		return r;
	}
	*out = d;
	return 0;
}

void rundir_release(struct rundir *d)
{
	if (!d)
		return;
	if (d->lock_fd >= 0)
		close(d->lock_fd);
	free(d);
}

void rundir_erase(const struct rundir *d)
{
	remove_files(d);
}

void rundir_remove(struct rundir *d)
{
	if (!d)
		return;
	remove_files(d);
	rundir_release(d);
}

/* Remove a directory whose owner is gone, unless somebody is making one just now. */
static void sweep(const struct rundir *d)
{
	cleanup_fd int base = base_lock(LOCK_NB, NULL);

	if (base >= 0)
		remove_files(d);
}

/* One entry of the base directory, NULL when it is not a live VM. */
static struct rundir *load(const char *id)
{
	struct rundir *d = calloc(1, sizeof(*d));
	cleanup_free char *text = NULL;
	char path[RUNDIR_PATH_MAX];
	size_t len;

	if (!d)
		return NULL;
	d->lock_fd = -1;
	cleanup_fd int fd = set_path(d, id, NULL) < 0
				    ? -1
				    : open(rundir_file(d, "lock", path), O_RDWR | O_CLOEXEC);
	if (fd < 0)
		goto none;
	if (flock(fd, LOCK_EX | LOCK_NB) == 0) {
		sweep(d);
		goto none;
	}
	rundir_file(d, "vm.json", path);
	if (read_file(AT_FDCWD, path, VM_JSON_MAX, &text, &len, NULL) < 0 ||
	    !info_parse(text, len, &d->info))
		goto none;
	return d;
none:
	free(d);
	return NULL;
}

static bool is_id(const char *s)
{
	return strlen(s) == VM_ID_LEN && strspn(s, "0123456789abcdef") == VM_ID_LEN;
}

static int by_age(const void *a, const void *b)
{
	const struct rundir *x = *(struct rundir *const *)a, *y = *(struct rundir *const *)b;

	return (x->info.created_ns > y->info.created_ns) -
	       (x->info.created_ns < y->info.created_ns);
}

int rundir_list(struct rundir ***out, size_t *n, struct err *err)
{
	cleanup_dir DIR *dir = opendir(rundir_base());
	struct rundir **all = NULL;
	size_t count = 0;
	struct dirent *e;

	*out = NULL;
	*n = 0;
	if (!dir)
		return errno == ENOENT ? 0 : err_errno(err, "open run directory %s", rundir_base());
	while ((e = readdir(dir))) {
		struct rundir *d = is_id(e->d_name) ? load(e->d_name) : NULL;

		if (!d)
			continue;
		struct rundir **more = reallocarray(all, count + 1, sizeof(struct rundir *));
		if (!more) {
			rundir_release(d);
			break;
		}
		all = more;
		all[count++] = d;
	}
	if (count)
		qsort(all, count, sizeof(struct rundir *), by_age);
	*out = all;
	*n = count;
	return 0;
}

int rundir_find(const char *what, struct rundir **out, struct err *err)
{
	size_t n, len = strlen(what), hits = 0, hit = 0;
	struct rundir **all;
	int r = rundir_list(&all, &n, err);

	if (r < 0)
		return r;
	for (size_t i = 0; i < n; i++) {
		if (!strcmp(all[i]->info.name, what) || !strcmp(all[i]->info.id, what)) {
			hit = i;
			hits = 1;
			break;
		}
		if (len >= 2 && !strncmp(all[i]->info.id, what, len)) {
			hit = i;
			hits++;
		}
	}
	if (hits == 1) {
		*out = all[hit];
		all[hit] = NULL;
	} else if (hits > 1) {
		r = err_set(err, EINVAL, "VM '%s' is ambiguous: %zu ids begin so", what, hits);
	} else {
		r = err_set(err, ENOENT, "no running VM '%s'; `smvm-runner ps` lists them", what);
	}
	for (size_t i = 0; i < n; i++)
		rundir_release(all[i]);
	free(all);
	return r;
}

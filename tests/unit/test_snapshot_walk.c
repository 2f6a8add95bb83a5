/*
 * A random walk over machines and snapshots, against a model: boots, paints (tests/guest/paint.S),
 * snapshots full, diff and live, restores, forks, stops, removals of snapshots that others came
 * from, collections beside all of it. The model is a plain copy of the painted memory for each
 * machine and each snapshot; every snapshot must hold the model's bytes and restore to them.
 *
 * WALK_STEPS (40) steps from WALK_SEED (the time); both are printed, and a failure prints the steps
 * that led to it.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>
#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <jansson.h>
#include <limits.h>
#include <poll.h>
#include <signal.h>
#include <spawn.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#include "runner/control/control.h"
#include "smfs/base/clock.h"
#include "smfs/base/io.h"
#include "smfs/base/num.h"

#define AREA	      (16ull << 20)
#define AREA_LEN      (4u << 20)
#define RAM	      (32ull << 20)
#define WORDS	      (AREA_LEN / 8)
#define VMS_MAX	      5
#define SNAPSHOTS_MAX 12
#define ANSWER_MS     30000
#define CHECK_EVERY   50

/* What paint.S keeps: 4 MiB, and a count in a register. */
struct paint {
	uint64_t word[WORDS];
	uint64_t paints;
};

struct vm {
	char name[32], dir[256];
	int console;
	struct paint *p; /* NULL: this slot is free */
};

struct snap {
	char name[32];
	struct paint *p;
};

struct walk {
	char dir[64], bin[PATH_MAX];
	struct vm vm[VMS_MAX];
	struct snap snap[SNAPSHOTS_MAX];
	uint64_t random, steps, seed;
	unsigned named; /* how many names were given */
	FILE *trace;
	char *trace_text;
	size_t trace_len;
};

/* ---- the model
 * ---------------------------------------------------------------------------------------------- */

static uint64_t xorshift(uint64_t x)
{
	x ^= x << 13;
	x ^= x >> 7;
	return x ^ x << 17;
}

static void paint(struct paint *p, uint64_t seed)
{
	uint64_t x = seed;

	for (unsigned i = 0; i <= (seed & 127); i++) {
		x = xorshift(x);
		uint64_t *page = p->word + ((x >> 20) & 1023) * 512;

		if ((x & 7) == 1)
			page[(x >> 32) & 511] = x;
		for (uint64_t k = 0; (x & 7) != 1 && k < 512; k++)
			page[k] = (x & 7) ? x + k * 0xd1b54a32d192ed03u : 0;
	}
	p->paints++;
}

static uint64_t sum(const struct paint *p)
{
	uint64_t s = 0;

	for (size_t i = 0; i < WORDS; i++)
		s = (s << 1 | s >> 63) + p->word[i];
	return s;
}

static struct paint *copy(const struct paint *p)
{
	struct paint *c = p ? malloc(sizeof(*c)) : calloc(1, sizeof(*c));

	assert_non_null(c);
	if (p)
		*c = *p;
	return c;
}

/* ---- failing, and running the commands
 * ------------------------------------------------------------------------ */

static void note(struct walk *w, const char *fmt, ...) __attribute__((format(printf, 2, 3)));
static void note(struct walk *w, const char *fmt, ...)
{
	va_list ap;

	va_start(ap, fmt);
	vfprintf(w->trace, fmt, ap);
	va_end(ap);
	fputc('\n', w->trace);
}

static void wrong(struct walk *w, const char *fmt, ...) __attribute__((format(printf, 2, 3)));
static void wrong(struct walk *w, const char *fmt, ...)
{
	char why[1024];
	va_list ap;

	va_start(ap, fmt);
	vsnprintf(why, sizeof(why), fmt, ap);
	va_end(ap);
	fflush(w->trace);
	print_error("%s", w->trace_text);
	fail_msg("WALK_SEED=%" PRIu64 " WALK_STEPS=%" PRIu64 ": %s", w->seed, w->steps, why);
}

/* Status of `command`, a shell line with $B the build directory; output in *out (free it) unless
 * NULL. */
static int try(struct walk *w, char **out, const char *fmt, ...)
	__attribute__((format(printf, 3, 4)));
static int try(struct walk *w, char **out, const char *fmt, ...)
{
	char line[1024], path[96], all[1400];
	struct err e = ERR_INIT;
	va_list ap;
	int status;

	va_start(ap, fmt);
	vsnprintf(line, sizeof(line), fmt, ap);
	va_end(ap);
	/* To files: what a command leaves running would hold a pipe open. */
	snprintf(path, sizeof(path), "%s/out", w->dir);
	snprintf(all, sizeof(all), "%s >%s 2>%s/err </dev/null", line, path, w->dir);
	note(w, "    %s", line);
	status = system(all);
	if (out && read_file(AT_FDCWD, path, MIB, out, NULL, &e) < 0)
		wrong(w, "%s", e.msg);
	return WIFEXITED(status) ? WEXITSTATUS(status) : -1;
}

#define must(w, out, ...)                                                  \
	do {                                                               \
		int must_status = try(w, out, __VA_ARGS__);                \
		if (must_status)                                           \
			wrong(w, "status %d: %s", must_status, errors(w)); \
	} while (0)

static const char *errors(struct walk *w)
{
	static char text[600];
	char path[96];
	int fd;
	ssize_t n;

	snprintf(path, sizeof(path), "%s/err", w->dir);
	fd = open(path, O_RDONLY | O_CLOEXEC);
	n = read(fd, text, sizeof(text) - 1);
	text[MAX(n, (ssize_t)0)] = '\0';
	close(fd);
	return text;
}

/* ---- machines
 * -----------------------------------------------------------------------------------------------
 */

static uint64_t below(struct walk *w, uint64_t n)
{
	w->random = xorshift(w->random);
	return (w->random >> 11) % n;
}

static struct vm *free_vm(struct walk *w)
{
	for (unsigned i = 0; i < VMS_MAX; i++)
		if (!w->vm[i].p)
			return &w->vm[i];
	return NULL;
}

static struct vm *some_vm(struct walk *w)
{
	for (unsigned i = 0, from = (unsigned)below(w, VMS_MAX); i < VMS_MAX; i++)
		if (w->vm[(from + i) % VMS_MAX].p)
			return &w->vm[(from + i) % VMS_MAX];
	return NULL;
}

static struct snap *some_snap(struct walk *w, bool taken)
{
	for (unsigned i = 0, from = (unsigned)below(w, SNAPSHOTS_MAX); i < SNAPSHOTS_MAX; i++)
		if (!w->snap[(from + i) % SNAPSHOTS_MAX].p != taken)
			return &w->snap[(from + i) % SNAPSHOTS_MAX];
	return NULL;
}

/* The next line of the guest's that begins with `word`, without it. */
static void answer(struct walk *w, struct vm *v, const char *word, char *line, size_t size)
{
	const uint64_t end = monotonic_us() + ANSWER_MS * 1000ull;
	size_t n = 0;

	for (;;) {
		struct pollfd p = {.fd = v->console, .events = POLLIN};
		int64_t left = (int64_t)(end - monotonic_us()) / 1000;

		if (left <= 0 || poll(&p, 1, (int)left) != 1)
			wrong(w, "%s: no answer \"%s\"", v->name, word);
		if (read(v->console, line + n, 1) != 1)
			wrong(w, "%s: its console ended", v->name);
		if (line[n] == '\n') {
			line[n] = '\0';
			if (strncmp(line, word, strlen(word)) == 0) {
				memmove(line, line + strlen(word), n - strlen(word) + 1);
				return;
			}
			n = 0;
		} else if (line[n] != '\r' && n < size - 1) {
			n++;
		}
	}
}

static void type(struct walk *w, struct vm *v, const char *text)
{
	if (write_full(v->console, text, strlen(text)) < 0)
		wrong(w, "%s: type into its console", v->name);
}

/* The guest's own word for all its memory, and for what it has in a register. */
static void agree(struct walk *w, struct vm *v, const char *word)
{
	char line[128], want[64];

	answer(w, v, word, line, sizeof(line));
	snprintf(want, sizeof(want), " %016" PRIx64 " %016" PRIx64, v->p->paints, sum(v->p));
	if (strcmp(line, want) != 0)
		wrong(w, "%s says%s, the model%s", v->name, line, want);
}

static void ask(struct walk *w, struct vm *v)
{
	type(w, v, "?");
	agree(w, v, "sum");
}

/* `j` (stolen) has "dir"; from then on the model of it is `p` (stolen). */
static void came_up(struct walk *w, struct vm *v, const char *name, const char *dir,
		    struct paint *p)
{
	char path[300];
	struct err e = ERR_INIT;

	snprintf(v->name, sizeof(v->name), "%s", name);
	snprintf(v->dir, sizeof(v->dir), "%s", dir);
	snprintf(path, sizeof(path), "%s/control.sock", dir);
	v->p = p;
	if (control_call(path, json_pack("{s:s}", "op", "console"), ANSWER_MS, NULL, &v->console,
			 &e) < 0)
		wrong(w, "%s", e.msg);
	ask(w, v);
}

static void gone(struct vm *v)
{
	close(v->console);
	free(v->p);
	v->p = NULL;
}

/* ---- steps
 * --------------------------------------------------------------------------------------------------
 */

static void step_boot(struct walk *w)
{
	struct vm *v = free_vm(w);
	char name[32], dir[256];
	char *out;

	if (!v)
		return;
	snprintf(name, sizeof(name), "vm%u", w->named++);
	must(w, NULL, "$B/smvm-runner boot --kernel $B/guest/paint -m 32M --name %s", name);
	must(w, &out, "$B/smvm-runner info %s", name);
	json_t *j = json_loads(out, 0, NULL);

	snprintf(dir, sizeof(dir), "%s", json_string_value(json_object_get(j, "dir")));
	json_decref(j);
	free(out);
	came_up(w, v, name, dir, copy(NULL));
}

static void step_paint(struct walk *w, struct vm *v)
{
	uint64_t seed = below(w, UINT64_MAX) * 2 + 1; /* xorshift knows no way out of 0 */
	char line[32];

	if (!v)
		return;
	note(w, "    paint %s %016" PRIx64, v->name, seed);
	snprintf(line, sizeof(line), "p%016" PRIx64 "\n", seed);
	type(w, v, line);
	paint(v->p, seed);
	agree(w, v, "painted");
}

static void step_gc(struct walk *w)
{
	static const char *const how[] = {"", " --compact 1", " --compact 101"};

	must(w, NULL, "$B/smfs gc%s", how[below(w, ARRAY_SIZE(how))]);
}

static bool is_ready(struct walk *w, const struct vm *v, const char *name)
{
	bool ready;
	char *out;

	must(w, &out, "$B/smvm-runner info %s", v->name);
	json_t *j = json_loads(out, 0, NULL), *s = json_object_get(j, "snapshot");
	const char *state = json_string_value(json_object_get(s, "state"));

	free(out);
	if (!state || strcmp(json_string_value(json_object_get(s, "name")), name) != 0 ||
	    strcmp(state, "failed") == 0)
		wrong(w, "snapshot %s of %s: %s", name, v->name, state ? state : "unknown");
	ready = strcmp(state, "ready") == 0;
	json_decref(j);
	return ready;
}

/* Written while the guest is painted anew and the store collected: neither is to be seen in it. */
static void step_live_beside(struct walk *w, struct vm *v, const char *name)
{
	const uint64_t end = monotonic_us() + ANSWER_MS * 1000ull;

	must(w, NULL, "$B/smvm-runner snapshot --live --no-wait %s %s", v->name, name);
	for (uint64_t n = below(w, 4); n > 0; n--)
		step_paint(w, v);
	if (below(w, 2))
		step_gc(w);
	while (!is_ready(w, v, name))
		if (monotonic_us() > end)
			wrong(w, "snapshot %s is not ready in time", name);
}

static void step_snapshot(struct walk *w)
{
	struct snap *s = some_snap(w, false);
	struct vm *v = some_vm(w);

	if (!s || !v)
		return;
	snprintf(s->name, sizeof(s->name), "snap%u", w->named++);
	struct paint *p = copy(v->p);

	switch (below(w, 3)) {
	case 0:
		must(w, NULL, "$B/smvm-runner snapshot --still %s %s", v->name, s->name);
		break;
	case 1:
		must(w, NULL, "$B/smvm-runner snapshot %s %s", v->name, s->name);
		break;
	default:
		step_live_beside(w, v, s->name);
	}
	s->p = p;
}

static struct vm *restore(struct walk *w, const struct snap *s)
{
	struct vm *v = free_vm(w);
	char name[32], dir[256];
	char *out;

	if (!v || !s)
		return NULL;
	snprintf(name, sizeof(name), "vm%u", w->named++);
	must(w, &out, "$B/smvm-runner restore --json --name %s %s", name, s->name);
	json_t *j = json_loads(out, 0, NULL);

	snprintf(dir, sizeof(dir), "%s", json_string_value(json_object_get(j, "dir")));
	json_decref(j);
	free(out);
	came_up(w, v, name, dir, copy(s->p));
	return v;
}

static void step_fork(struct walk *w)
{
	struct vm *parent = some_vm(w);
	unsigned room = 0, n;
	char *out;

	for (unsigned i = 0; i < VMS_MAX; i++)
		room += !w->vm[i].p;
	if (!parent || !room)
		return;
	n = 1 + (unsigned)below(w, MIN(room, 3u));
	must(w, &out, "$B/smvm-runner fork --json -n %u --name vm%u %s", n, w->named++,
	     parent->name);
	json_t *j = json_loads(out, 0, NULL), *children = json_object_get(j, "children");

	if (json_array_size(children) != n)
		wrong(w, "fork of %u: %s", n, out);
	for (unsigned i = 0; i < n; i++) {
		const json_t *c = json_array_get(children, i);

		came_up(w, free_vm(w), json_string_value(json_object_get(c, "name")),
			json_string_value(json_object_get(c, "dir")), copy(parent->p));
	}
	json_decref(j);
	free(out);
	ask(w, parent);
}

static void stop(struct walk *w, struct vm *v)
{
	if (!v)
		return;
	must(w, NULL, "$B/smvm-runner stop -f %s", v->name);
	gone(v);
}

static void step_remove(struct walk *w)
{
	struct snap *s = some_snap(w, true);

	if (!s)
		return;
	must(w, NULL, "$B/smfs rm snapshots/%s", s->name);
	free(s->p);
	s->p = NULL;
}

/* What the file says, without a machine: the painted memory, and zeros above it. */
static void check_bytes(struct walk *w, const struct snap *s)
{
	struct paint *got = malloc(sizeof(*got));
	char path[160];
	int fd;

	snprintf(path, sizeof(path), "%s/mnt/snapshots/%s/ram", w->dir, s->name);
	fd = open(path, O_RDONLY | O_CLOEXEC);
	if (fd < 0 || pread_full(fd, got->word, AREA_LEN, AREA) < 0)
		wrong(w, "read %s: %s", path, strerror(errno));
	for (size_t i = 0; i < WORDS; i++)
		if (got->word[i] != s->p->word[i])
			wrong(w,
			      "%s: word %zu of page %zu is %016" PRIx64
			      ", the model says %016" PRIx64,
			      s->name, i % 512, i / 512, got->word[i], s->p->word[i]);
	if (lseek(fd, 0, SEEK_END) != RAM || lseek(fd, AREA + AREA_LEN, SEEK_DATA) >= 0)
		wrong(w, "%s: data beyond what the guest has ever touched", s->name);
	close(fd);
	free(got);
}

/* Every snapshot there is, its bytes and the machine it restores to; room is made for that. */
static void check_all(struct walk *w)
{
	for (unsigned i = 0; i < SNAPSHOTS_MAX; i++) {
		if (!w->snap[i].p)
			continue;
		check_bytes(w, &w->snap[i]);
		if (!free_vm(w))
			stop(w, some_vm(w));
		struct vm *v = restore(w, &w->snap[i]);

		stop(w, v);
	}
	for (unsigned i = 0; i < VMS_MAX; i++)
		if (w->vm[i].p)
			ask(w, &w->vm[i]);
}

static void step(struct walk *w)
{
	const struct snap *s;

	if (!some_vm(w)) {
		s = some_snap(w, true);
		if (s && below(w, 4))
			restore(w, s);
		else
			step_boot(w);
		return;
	}
	switch (below(w, 16)) {
	case 0:
		step_boot(w);
		break;
	case 1 ... 4:
		step_paint(w, some_vm(w));
		break;
	case 5 ... 7:
		step_snapshot(w);
		break;
	case 8 ... 9:
		restore(w, some_snap(w, true));
		break;
	case 10:
		step_fork(w);
		break;
	case 11 ... 12:
		stop(w, some_vm(w));
		break;
	case 13:
		step_remove(w);
		break;
	case 14:
		step_gc(w);
		break;
	default:
		s = some_snap(w, true);
		if (s)
			check_bytes(w, s);
	}
}

/* ---- set up, walk, tear down
 * ---------------------------------------------------------------------------------- */

static uint64_t number(const char *name, uint64_t otherwise)
{
	const char *s = getenv(name);

	return s && *s ? strtoull(s, NULL, 10) : otherwise;
}

static int setup(void **state)
{
	const char *build = getenv("BUILD");
	struct walk *w;
	char path[96];

	if (access("/dev/kvm", R_OK | W_OK) < 0 || access("/dev/fuse", R_OK | W_OK) < 0)
		return 0;
	w = calloc(1, sizeof(*w));
	assert_non_null(w);
	signal(SIGPIPE, SIG_IGN);
	w->seed = number("WALK_SEED", (uint64_t)time(NULL));
	w->steps = number("WALK_STEPS", 40);
	w->random = w->seed * 2 + 1;
	w->trace = open_memstream(&w->trace_text, &w->trace_len);
	strcpy(w->dir, "/tmp/test-walk.XXXXXX");
	assert_non_null(mkdtemp(w->dir));
	assert_non_null(realpath(build ? build : "build", w->bin));
	setenv("B", w->bin, 1);
	static const char *const env[][2] = {
		{"SMFS_STORE", "store"}, {"SMFS_MOUNT", "mnt"}, {"SMVM_RUN_DIR", "run"}};
	for (size_t i = 0; i < ARRAY_SIZE(env); i++) {
		snprintf(path, sizeof(path), "%s/%s", w->dir, env[i][1]);
		setenv(env[i][0], path, 1);
	}
	*state = w;
	must(w, NULL, "mkdir $SMFS_MOUNT $SMVM_RUN_DIR");
	must(w, NULL, "$B/smfs init $SMFS_STORE");
	must(w, NULL, "$B/smfs mount $SMFS_STORE $SMFS_MOUNT");
	return 0;
}

static int teardown(void **state)
{
	struct walk *w = *state;

	if (!w)
		return 0;
	try(w, NULL, "for v in $($B/smvm-runner ps -q); do $B/smvm-runner stop -f $v; done");
	try(w, NULL, "$B/smfs unmount $SMFS_MOUNT");
	for (unsigned i = 0; i < VMS_MAX; i++)
		if (w->vm[i].p)
			gone(&w->vm[i]);
	for (unsigned i = 0; i < SNAPSHOTS_MAX; i++)
		free(w->snap[i].p);
	try(w, NULL, "rm -rf %s/store %s/run && rmdir %s/mnt", w->dir, w->dir, w->dir);
	fclose(w->trace);
	free(w->trace_text);
	char line[96];

	snprintf(line, sizeof(line), "rm -rf %s", w->dir);
	int r = system(line);

	free(w);
	return r;
}

static void every_snapshot_is_what_the_model_says(void **state)
{
	struct walk *w = *state;

	if (!w) {
		print_message("# no /dev/kvm or no /dev/fuse\n");
		skip();
	}
	print_message("# WALK_SEED=%" PRIu64 " WALK_STEPS=%" PRIu64 "\n", w->seed, w->steps);
	for (uint64_t i = 0; i < w->steps; i++) {
		note(w, "# step %" PRIu64, i);
		step(w);
		if (i % CHECK_EVERY == CHECK_EVERY - 1)
			check_all(w);
	}
	check_all(w);
	must(w, NULL, "$B/smfs fsck --read-data");
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test_setup_teardown(every_snapshot_is_what_the_model_says, setup,
						teardown),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}

/*
 * The table of state items is the machine: what a machine with everything in it has is in the
 * table, and what the table lists is there. Walked for devices, sections, descriptors of the
 * process, what the agent gives the guest, and the documentation.
 */
#include "tests/unit/agent_session.h"

#include <dirent.h>
#include <fnmatch.h>

#include "runner/agent/control.h"
#include "runner/snapshot/capture.h"
#include "runner/snapshot/sections.h"
#include "runner/snapshot/state_items.h"
#include "runner/x86/layout.h"

#define VCPUS 2
#define RAM   (64ull << 20)

static unsigned seen[128]; /* how often each line of the table was met */

static bool is(const struct state_item *s, enum state_where where)
{
	return s->where == where;
}

/* Every line of one kind has been met. */
static void all_met(enum state_where where, const char *except)
{
	for (size_t i = 0; i < state_items_n; i++)
		if (is(&state_items[i], where) && !seen[i] &&
		    (!except || strcmp(state_items[i].name, except) != 0))
			fail_msg("the table lists %s, and nothing here is that",
				 state_items[i].name);
}

static void file_in(const char *dir, const char *name, size_t size, char path[96])
{
	int fd;

	snprintf(path, 96, "%s/%s", dir, name);
	fd = open(path, O_CREAT | O_RDWR | O_CLOEXEC, 0600);
	assert_true(fd >= 0);
	assert_int_equal(ftruncate(fd, (off_t)size), 0);
	close(fd);
}

/* A machine with everything in it that there is; as restored if `ram_fd` is one. */
static void full_machine(const char *dir, int ram_fd, struct machine *m)
{
	char rootfs[96], disk[96], vsock[96];
	struct machine_config cfg = {.vcpus = VCPUS,
				     .ram_bytes = RAM,
				     .ram_fd = ram_fd,
				     .ram_path = "ram",
				     .linux_guest = true,
				     .rootfs = rootfs,
				     .disk = {{.id = "disk-a", .path = disk, .readonly = true},
					      {.id = "disk-b", .path = ""}},
				     .ndisks = 2,
				     .vsock_path = vsock};
	struct err e = ERR_INIT;

	file_in(dir, "rootfs.erofs", 4 << 20, rootfs);
	file_in(dir, "disk-a.img", 1 << 20, disk);
	if (disk_view_of_file(open(disk, O_RDONLY | O_CLOEXEC), 1 << 20, &cfg.disk[1].base, &e) < 0)
		fail_msg("%s", e.msg);
	setenv("SMVM_CACHE_DIR", dir, 1);
	snprintf(vsock, sizeof(vsock), "%s/vsock.sock%d", dir, ram_fd);
	if (machine_new(&cfg, m, &e) < 0)
		fail_msg("%s", e.msg);
	disk_view_put(cfg.disk[1].base);
}

static bool no_kvm(void)
{
	if (access("/dev/kvm", R_OK | W_OK) == 0)
		return false;
	print_message("# no /dev/kvm\n");
	return true;
}

static void devices(void **state)
{
	struct fixture *x = *state;
	struct machine m;
	struct err e = ERR_INIT;

	if (no_kvm())
		skip();
	full_machine(x->root, -1, &m);
	memset(seen, 0, sizeof(seen));
	for (struct device *d = m.vm->devices; d; d = d->next) {
		const struct state_item *s = state_item_of_device(d->ops->type);

		if (!s)
			fail_msg("device %s (%s) is not in the table", d->id, d->ops->type);
		seen[s - state_items]++;
		assert_true(!d->ops->save == !d->ops->load);
		/* What is kept or survives a reset has bytes; what is made anew has none. */
		if (s->class == STATE_KEPT || s->class == STATE_RESET)
			assert_non_null(d->ops->save);
		if (s->class == STATE_DERIVED || s->class == STATE_IDENTIFIED)
			assert_null(d->ops->save);
	}
	all_met(STATE_DEVICE, NULL);
	assert_int_equal(capture_check(&m, &e), 0);

	/* A device that nobody has thought about is not captured by the way. */
	struct device_ops stranger = {.type = "stranger"};
	struct device extra = {.ops = &stranger, .id = "stranger0", .next = m.vm->devices};

	m.vm->devices = &extra;
	assert_int_equal(capture_check(&m, &e), -ENOTSUP);
	assert_non_null(strstr(e.msg, "stranger"));
	m.vm->devices = extra.next;
	machine_free(&m);
}

static void sections(void **state)
{
	struct fixture *x = *state;
	struct snapshot_meta *meta = calloc(1, sizeof(*meta));
	struct sections *file = calloc(1, sizeof(*file));
	struct writer w = WRITER_INIT;
	struct machine m;
	struct err e = ERR_INIT;

	assert_true(meta && file);
	if (no_kvm())
		skip();
	full_machine(x->root, -1, &m);
	if (capture_machine(&m, meta, &w, &e) < 0 || sections_parse(w.p, w.len, file, &e) < 0)
		fail_msg("%s", e.msg);
	memset(seen, 0, sizeof(seen));
	for (unsigned i = 0; i < file->n; i++) {
		const struct state_item *s = state_item_of_section(file->s[i].type);

		if (!s)
			fail_msg("section 0x%x is not in the table", file->s[i].type);
		seen[s - state_items]++;
		if (s->where == STATE_DEVICE)
			continue;
		assert_true(s->where == STATE_VCPU || s->where == STATE_VM);
		assert_true(file->s[i].index < (s->where == STATE_VCPU ? VCPUS : s->count));
	}
	assert_int_equal(file->n, state_sections(VCPUS) + meta->ndevices);
	for (size_t i = 0; i < state_items_n; i++) {
		if (is(&state_items[i], STATE_VCPU))
			assert_int_equal(seen[i], VCPUS);
		if (is(&state_items[i], STATE_VM))
			assert_int_equal(seen[i], state_items[i].count);
	}
	writer_free(&w);
	machine_free(&m);
	free(meta);
	free(file);
}

/* The links of this process's descriptors that are at least `from`. */
static unsigned links(char link[][256], unsigned max)
{
	DIR *d = opendir("/proc/self/fd");
	unsigned n = 0;

	assert_non_null(d);
	for (struct dirent *e; (e = readdir(d));) {
		char path[300];
		ssize_t len;

		snprintf(path, sizeof(path), "/proc/self/fd/%s", e->d_name);
		len = e->d_name[0] == '.' || atoi(e->d_name) == dirfd(d)
			      ? -1
			      : readlink(path, link[n], sizeof(link[n]) - 1);
		if (len < 0)
			continue;
		link[n][len] = '\0';
		assert_true(++n < max);
	}
	closedir(d);
	return n;
}

static bool take_away(char link[][256], unsigned n, const char *what)
{
	for (unsigned i = 0; i < n; i++)
		if (strcmp(link[i], what) == 0) {
			link[i][0] = '\0';
			return true;
		}
	return false;
}

static void descriptors(void **state)
{
	static char before[64][256], after[256][256];
	struct fixture *x = *state;
	struct machine m;
	char ram[96];
	unsigned nb, na;
	int fd;

	if (no_kvm())
		skip();
	nb = links(before, ARRAY_SIZE(before));
	file_in(x->root, "ram", RAM, ram);
	fd = open(ram, O_RDONLY | O_CLOEXEC);
	assert_true(fd >= 0);
	full_machine(x->root, fd, &m);
	close(fd);
	na = links(after, ARRAY_SIZE(after));
	memset(seen, 0, sizeof(seen));
	for (unsigned k = 0; k < na; k++) {
		unsigned matches = 0;

		if (take_away(before, nb, after[k]))
			continue;
		for (size_t i = 0; i < state_items_n; i++)
			if (is(&state_items[i], STATE_HOST) &&
			    fnmatch(state_items[i].name, after[k], 0) == 0) {
				seen[i]++;
				matches++;
			}
		if (matches != 1)
			fail_msg("descriptor %s matches %u lines of the table", after[k], matches);
	}
	all_met(STATE_HOST, NULL);
	machine_free(&m);
}

static void met_memory(const char *name)
{
	for (size_t i = 0; i < state_items_n; i++)
		if (is(&state_items[i], STATE_MEMORY) && strcmp(state_items[i].name, name) == 0) {
			seen[i]++;
			return;
		}
	fail_msg("memory: %s is not in the table", name);
}

static void memory(void **state)
{
	static const char *const kinds[] = {[MEMORY_RAM] = "ram", [MEMORY_PMEM] = "pmem"};
	struct fixture *x = *state;
	struct machine m;

	if (no_kvm())
		skip();
	full_machine(x->root, -1, &m);
	memset(seen, 0, sizeof(seen));
	for (unsigned i = 0; i < m.vm->mem.n; i++) {
		assert_in_range(m.vm->mem.region[i].kind, MEMORY_RAM, MEMORY_PMEM);
		met_memory(kinds[m.vm->mem.region[i].kind]);
	}
	/* The pages of it that are the machine's. */
	assert_int_equal(LAYOUT_VMGENID - LAYOUT_MAILBOX, MAILBOX_SIZE);
	assert_int_equal(LAYOUT_RESERVED_END - LAYOUT_VMGENID, 4096);
	met_memory("mailbox");
	met_memory("vmgenid");
	all_met(STATE_MEMORY, NULL);
	machine_free(&m);
}

static void what_the_guest_is_given(void **state)
{
	static struct agent_results rs;
	struct fixture *x = *state;
	const struct agent_generation gen = {.number = 2,
					     .entropy_len = 32,
					     .wall_ns = 1,
					     .hostname = "h",
					     .machine_id = "0123456789abcdef0123456789abcdef"};
	struct mailbox box = {.generation = 2};
	struct err e = ERR_INIT;

	mailbox_put(x->mailbox, &box);
	x->g.mailbox = x->mailbox;
	rs.n = 0;
	assert_int_equal(control_generation(&x->g, &gen, &rs, &e), 0);
	memset(seen, 0, sizeof(seen));
	for (unsigned k = 0; k < rs.n; k++) {
		size_t i = 0;

		while (i < state_items_n && !(is(&state_items[i], STATE_GUEST) &&
					      strcmp(state_items[i].name, rs.r[k].item) == 0))
			i++;
		if (i == state_items_n)
			fail_msg("the agent sets %s, which is not in the table", rs.r[k].item);
		assert_int_equal(state_items[i].class, STATE_IDENTIFIED);
		seen[i]++;
	}
	/* Processes are what the freezer holds; a test of its own (test_agent_control). */
	all_met(STATE_GUEST, "processes");
}

/* One line per item: | `name` | class | rule | */
static void the_document_has_the_table(void **state)
{
	char *text, line[600];
	struct err e = ERR_INIT;

	if (read_file(AT_FDCWD, "doc/snapshot-format.md", 1 << 20, &text, NULL, &e) < 0)
		fail_msg("%s", e.msg);
	const char *at = strstr(text, "## State items");

	assert_non_null(at);
	for (size_t i = 0; i < state_items_n; i++) {
		const struct state_item *s = &state_items[i];

		snprintf(line, sizeof(line), "| `%s` | %s | %s |\n", s->name,
			 state_class_name(s->class), s->rule);
		const char *found = strstr(at, line);

		if (!found)
			fail_msg("doc/snapshot-format.md lacks, after what precedes it: %s", line);
		at = found + strlen(line);
	}
	free(text);
}

static void names_are_unique(void **state)
{
	assert_true(state_items_n <= ARRAY_SIZE(seen));
	for (size_t i = 0; i < state_items_n; i++)
		for (size_t k = 0; k < i; k++) {
			const struct state_item *a = &state_items[i], *b = &state_items[k];

			assert_false(a->where == b->where && strcmp(a->name, b->name) == 0);
			assert_false(a->section && a->section == b->section &&
				     a->section != SECTION_DEVICE);
		}
}

int main(void)
{
#define T(f) cmocka_unit_test_setup_teardown(f, setup, teardown)
	const struct CMUnitTest tests[] = {
		T(devices),
		T(sections),
		T(descriptors),
		T(memory),
		T(what_the_guest_is_given),
		cmocka_unit_test(the_document_has_the_table),
		cmocka_unit_test(names_are_unique),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}

/* What outlives a server: the table of inodes and open files, killed at any point, and read again.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#include "smfs/mount/takeover.h"

struct fixture {
	int fd;
	struct takeover *t;
};

static int setup(void **state)
{
	struct fixture *f = calloc(1, sizeof(*f));

	f->fd = takeover_create(NULL);
	*state = f;
	if (f->fd < 0 || takeover_map(f->fd, &f->t, NULL) < 0)
		return -1;
	takeover_begin(f->t);
	return 0;
}

static int teardown(void **state)
{
	struct fixture *f = *state;

	takeover_unmap(f->t);
	close(f->fd);
	free(f);
	return 0;
}

/* As the next server finds it. */
static void next_server(struct fixture *f)
{
	takeover_unmap(f->t);
	assert_int_equal(takeover_map(f->fd, &f->t, NULL), 0);
	takeover_begin(f->t);
}

static struct node node(uint64_t ino, struct node *parent)
{
	return (struct node){.ino = ino,
			     .parent = parent,
			     .lookups = 1,
			     .detail = ino * 3,
			     .key = {.tag = 5, .a = ino}};
}

static size_t count_nodes(struct fixture *f)
{
	size_t n = 0;

	for (uint32_t slot = 0; takeover_next_node(f->t, &slot);)
		n++;
	return n;
}

static void nodes_are_found_again(void **state)
{
	struct fixture *f = *state;
	struct node root = node(1, NULL), a = node(100, &root), b = node(200, &a);
	uint8_t text[TAKEOVER_TEXT_MAX];
	uint32_t slot = 0;

	takeover_add_node(f->t, &a, "text of a", 9);
	uint32_t at = takeover_add_node(f->t, &b, NULL, 0);
	takeover_set_lookups(f->t, at, 7);
	takeover_set_backing(f->t, at, 3);
	next_server(f);
	const struct takeover_node *e = takeover_next_node(f->t, &slot);
	assert_int_equal(e->ino, 100);
	assert_int_equal(e->parent, 1);
	assert_int_equal(takeover_text(f->t, e, text), 9);
	assert_memory_equal(text, "text of a", 9);
	e = takeover_next_node(f->t, &slot);
	assert_int_equal(e->ino, 200);
	assert_int_equal(e->parent, 100);
	assert_int_equal(e->key.a, 200);
	assert_int_equal(e->detail, 600);
	assert_int_equal(e->lookups, 7);
	assert_int_equal(e->backing, 3);
	assert_null(takeover_next_node(f->t, &slot));
}

static void long_texts_take_several_cells_and_give_them_back(void **state)
{
	struct fixture *f = *state;
	struct node a = node(100, NULL);
	uint8_t in[TAKEOVER_TEXT_MAX], out[TAKEOVER_TEXT_MAX];
	uint32_t slot = 0;

	for (size_t i = 0; i < sizeof(in); i++)
		in[i] = (uint8_t)(i * 7);
	for (int round = 0; round < 100; round++) {
		uint32_t at = takeover_add_node(f->t, &a, in, sizeof(in));

		assert_int_not_equal(at, TAKEOVER_NONE);
		if (round < 99)
			takeover_drop_node(f->t, at);
		if (round % 10 == 0)
			next_server(f);
	}
	assert_true(takeover_area(f->t)->cells_high <= 9);
	const struct takeover_node *e = takeover_next_node(f->t, &slot);
	assert_int_equal(takeover_text(f->t, e, out), sizeof(out));
	assert_memory_equal(in, out, sizeof(in));
}

static void freed_slots_are_used_again(void **state)
{
	struct fixture *f = *state;
	struct node a = node(100, NULL);

	for (int i = 0; i < 1000; i++) {
		takeover_drop_node(f->t, takeover_add_node(f->t, &a, "x", 1));
		takeover_drop_handle(f->t, takeover_add_handle(f->t, 100, 0, 1));
	}
	assert_int_equal(takeover_area(f->t)->nodes_high, 1);
	assert_int_equal(takeover_area(f->t)->handles_high, 1);
	assert_int_equal(count_nodes(f), 0);
	assert_int_equal(takeover_area(f->t)->nodes, 0);
}

static void a_file_handle_is_never_given_twice(void **state)
{
	struct fixture *f = *state;
	uint64_t first = takeover_add_handle(f->t, 100, 2, 10), fh;

	takeover_drop_handle(f->t, first);
	next_server(f);
	uint64_t second = takeover_add_handle(f->t, 200, 4, 12);
	assert_int_equal(takeover_handle_slot(first), takeover_handle_slot(second));
	assert_int_not_equal(first, second);
	takeover_set_mode(f->t, second, 2);
	next_server(f);
	uint32_t slot = 0;
	const struct takeover_handle *e = takeover_next_handle(f->t, &slot, &fh);
	assert_int_equal(fh, second);
	assert_int_equal(e->ino, 200);
	assert_int_equal(e->flags, 4);
	assert_int_equal(e->unique, 12);
	assert_int_equal(e->mode, 2);
	assert_null(takeover_next_handle(f->t, &slot, &fh));
}

static void another_version_is_refused(void **state)
{
	struct fixture *f = *state;
	struct takeover *t;
	struct err err = ERR_INIT;

	takeover_area(f->t)->version++;
	assert_int_equal(takeover_map(f->fd, &t, &err), -EPROTO);
	takeover_area(f->t)->version--;
	assert_int_equal(ftruncate(f->fd, 4096), 0);
	assert_int_equal(takeover_map(f->fd, &t, &err), -EPROTO);
	/* The fixture's mapping is of what there was. */
	takeover_unmap(f->t);
	assert_int_equal(ftruncate(f->fd, 0), 0);
	close(f->fd);
	f->fd = takeover_create(NULL);
	assert_int_equal(takeover_map(f->fd, &f->t, NULL), 0);
}

/* ---- full ---------------------------------------------------------------------------------- */

/* As if all but `left` entries of each kind had been used. */
static void nearly_fill(struct fixture *f, uint32_t left)
{
	struct takeover_area *a = takeover_area(f->t);

	a->nodes_high = TAKEOVER_NODES - left;
	a->handles_high = TAKEOVER_HANDLES - left;
	a->cells_high = TAKEOVER_CELLS - left;
}

static void without_room_an_inode_is_not_written_down(void **state)
{
	struct fixture *f = *state;
	struct node a = node(100, NULL);

	nearly_fill(f, 2);
	uint32_t first = takeover_add_node(f->t, &a, NULL, 0);
	uint32_t second = takeover_add_node(f->t, &a, NULL, 0);
	assert_int_equal(first, TAKEOVER_NODES - 2);
	assert_int_equal(second, TAKEOVER_NODES - 1);
	assert_int_equal(takeover_area(f->t)->unprotected, 0);
	for (int i = 0; i < 3; i++) {
		uint32_t none = takeover_add_node(f->t, &a, NULL, 0);

		assert_int_equal(none, TAKEOVER_NONE);
		/* It is served like any other. */
		takeover_set_lookups(f->t, none, 5);
		takeover_set_backing(f->t, none, 5);
		takeover_drop_node(f->t, none);
	}
	assert_int_equal(takeover_area(f->t)->unprotected, 3);
	takeover_drop_node(f->t, first);
	assert_int_equal(takeover_add_node(f->t, &a, NULL, 0), first);
}

static void without_room_for_its_text_an_inode_is_not_written_down(void **state)
{
	struct fixture *f = *state;
	struct node a = node(100, NULL);
	uint8_t text[TAKEOVER_TEXT_MAX] = {1}, out[TAKEOVER_TEXT_MAX];
	uint32_t at = 0;

	nearly_fill(f, 2);
	/* Of the two cells it found it gives back both. */
	for (int i = 0; i < 3; i++)
		assert_int_equal(takeover_add_node(f->t, &a, text, 150), TAKEOVER_NONE);
	assert_int_not_equal(takeover_add_node(f->t, &a, text, 120), TAKEOVER_NONE);
	assert_int_equal(takeover_add_node(f->t, &a, text, 1), TAKEOVER_NONE);
	assert_int_not_equal(takeover_add_node(f->t, &a, NULL, 0), TAKEOVER_NONE);
	assert_int_equal(takeover_area(f->t)->unprotected, 4);
	at = TAKEOVER_NODES - 2;
	assert_int_equal(takeover_text(f->t, takeover_next_node(f->t, &at), out), 120);
	assert_memory_equal(out, text, 120);
}

static void without_room_an_open_file_is_refused(void **state)
{
	struct fixture *f = *state;

	nearly_fill(f, 1);
	uint64_t last = takeover_add_handle(f->t, 100, 0, 1);
	assert_int_equal(takeover_handle_slot(last), TAKEOVER_HANDLES - 1);
	assert_true(takeover_add_handle(f->t, 100, 0, 1) == TAKEOVER_NO_HANDLE);
	takeover_drop_handle(f->t, last);
	assert_true(takeover_add_handle(f->t, 100, 0, 1) != TAKEOVER_NO_HANDLE);
}

/* ---- killed -------------------------------------------------------------------------------- */

#define SET 64

/*
 * Enters and crosses out SET nodes and handles for ever. What belongs to inode i is derived from i,
 * so that a mixture of two shows.
 */
static void work(struct takeover *t)
{
	struct node root = node(1, NULL);
	uint32_t slots[SET];
	uint64_t fhs[SET];
	bool there[SET] = {false};
	uint8_t text[200];

	for (unsigned n = (unsigned)getpid();; n = n * 1103515245 + 12345) {
		unsigned k = n >> 16 & (SET - 1), len = (n >> 8) % 199 + 1;

		if (there[k]) {
			takeover_drop_handle(t, fhs[k]);
			takeover_drop_node(t, slots[k]);
		} else {
			/* Numbers no other round of this slot has. */
			uint64_t ino = (uint64_t)len << 32 | n;
			struct node a = node(ino, &root);

			memset(text, (int)(ino & 0xff), len);
			slots[k] = takeover_add_node(t, &a, text, len);
			fhs[k] = takeover_add_handle(t, ino, (uint32_t)ino, ino * 5);
		}
		there[k] = !there[k];
	}
}

static void check_whole(struct fixture *f)
{
	uint8_t text[TAKEOVER_TEXT_MAX];
	const struct takeover_node *e;
	const struct takeover_handle *h;
	uint64_t fh;

	for (uint32_t slot = 0; (e = takeover_next_node(f->t, &slot));) {
		uint64_t ino = e->ino;

		assert_int_equal(e->key.a, ino);
		assert_int_equal(e->parent, 1);
		assert_int_equal(e->detail, ino * 3);
		assert_int_equal(e->lookups, 1);
		assert_int_equal(takeover_text(f->t, e, text), ino >> 32);
		for (uint64_t i = 0; i < ino >> 32; i++)
			assert_int_equal(text[i], ino & 0xff);
	}
	for (uint32_t slot = 0; (h = takeover_next_handle(f->t, &slot, &fh));) {
		assert_int_equal(h->flags, (uint32_t)h->ino);
		assert_int_equal(h->unique, h->ino * 5);
	}
}

static void a_kill_at_any_moment_leaves_whole_entries(void **state)
{
	struct fixture *f = *state;

	for (int round = 0; round < 200; round++) {
		pid_t pid = fork();

		assert_true(pid >= 0);
		if (pid == 0)
			work(f->t);
		const struct timespec t = {.tv_nsec = 50000 + round * 7919 % 1000000};
		nanosleep(&t, NULL);
		kill(pid, SIGKILL);
		waitpid(pid, NULL, 0);
		next_server(f);
		check_whole(f);
		/* What the killed one left would otherwise add up to more than there is room for.
		 */
		uint64_t fh;
		for (uint32_t slot = 0; takeover_next_node(f->t, &slot);)
			takeover_drop_node(f->t, slot - 1);
		for (uint32_t slot = 0; takeover_next_handle(f->t, &slot, &fh);)
			takeover_drop_handle(f->t, fh);
	}
	/* Nothing leaks either: the killed rounds fit where one would. */
	assert_true(takeover_area(f->t)->nodes_high <= SET + 1);
	assert_true(takeover_area(f->t)->handles_high <= SET + 1);
	assert_true(takeover_area(f->t)->cells_high <= 2 * 4 * (SET + 1));
}

/* ---- suspects ------------------------------------------------------------------------------ */

static void a_request_is_suspect_after_it_has_cost_three_servers(void **state)
{
	struct fixture *f = *state;
	struct channel_record *rec = &takeover_area(f->t)->channel;

	for (unsigned death = 1; death <= CHANNEL_DEATHS_MAX; death++) {
		/* Sent again, a request has its highest bit set; others come and go. */
		rec->slots[3].unique = 42 | (death > 1 ? (uint64_t)1 << 63 : 0);
		rec->slots[5].unique = 1000 + death;
		channel_suspect(rec);
		assert_int_equal(rec->slots[3].unique, 0);
	}
	unsigned deaths = 0;
	for (size_t i = 0; i < CHANNEL_SUSPECTS; i++)
		if (rec->suspects[i].unique == 42)
			deaths = rec->suspects[i].deaths;
	assert_int_equal(deaths, CHANNEL_DEATHS_MAX);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test_setup_teardown(nodes_are_found_again, setup, teardown),
		cmocka_unit_test_setup_teardown(long_texts_take_several_cells_and_give_them_back,
						setup, teardown),
		cmocka_unit_test_setup_teardown(freed_slots_are_used_again, setup, teardown),
		cmocka_unit_test_setup_teardown(a_file_handle_is_never_given_twice, setup,
						teardown),
		cmocka_unit_test_setup_teardown(another_version_is_refused, setup, teardown),
		cmocka_unit_test_setup_teardown(without_room_an_inode_is_not_written_down, setup,
						teardown),
		cmocka_unit_test_setup_teardown(
			without_room_for_its_text_an_inode_is_not_written_down, setup, teardown),
		cmocka_unit_test_setup_teardown(without_room_an_open_file_is_refused, setup,
						teardown),
		cmocka_unit_test_setup_teardown(a_kill_at_any_moment_leaves_whole_entries, setup,
						teardown),
		cmocka_unit_test_setup_teardown(
			a_request_is_suspect_after_it_has_cost_three_servers, setup, teardown),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}

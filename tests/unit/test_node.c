/* The inode table: numbers, lookups, references, and who goes when. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>
#include <pthread.h>
#include <stdlib.h>
#include <string.h>

#include "smfs/mount/node.h"

static _Atomic int destroyed;

static void destroy(struct node *n)
{
	destroyed++;
	free(n);
}

static struct node *fresh(uint64_t what, struct node *parent)
{
	struct node *n = calloc(1, sizeof(*n));

	n->key = (struct node_key){.tag = 1, .a = what};
	n->parent = parent;
	return n;
}

static int setup(void **state)
{
	struct node_table *t = calloc(1, sizeof(*t));

	destroyed = 0;
	*state = t;
	return node_table_init(t, destroy, NULL);
}

static int teardown(void **state)
{
	node_table_free(*state);
	free(*state);
	return 0;
}

static void equal_keys_are_one_node(void **state)
{
	struct node_table *t = *state;
	struct node *a = node_intern(t, fresh(7, NULL));
	struct node *b = node_intern(t, fresh(7, NULL));
	struct node *c = node_intern(t, fresh(8, NULL));

	assert_ptr_equal(a, b);
	assert_ptr_not_equal(a, c);
	assert_int_not_equal(a->ino, c->ino);
	assert_int_equal(destroyed, 1);
	assert_ptr_equal(node_find(t, a->ino), a);
	assert_int_equal(node_table_count(t), 2);
}

static void a_number_comes_from_the_key_alone(void **state)
{
	struct node_table *t = *state, other;
	struct node_key key = {.tag = 1, .a = 9};

	assert_int_equal(node_table_init(&other, destroy, NULL), 0);
	node_intern(&other, fresh(1, NULL));
	uint64_t ino = node_ino(t, &key);
	assert_int_equal(ino, node_ino(&other, &key));
	assert_int_equal(node_intern(t, fresh(9, NULL))->ino, ino);
	assert_int_equal(node_ino(t, &key), ino);
	node_table_free(&other);
}

static void forgetting_all_lookups_destroys(void **state)
{
	struct node_table *t = *state;
	uint64_t ino = node_intern(t, fresh(1, NULL))->ino;

	node_intern(t, fresh(1, NULL));
	node_intern(t, fresh(1, NULL));
	destroyed = 0;
	node_forget(t, ino, 2);
	assert_non_null(node_find(t, ino));
	node_forget(t, ino, 1);
	assert_null(node_find(t, ino));
	assert_int_equal(destroyed, 1);
	/* Numbers the kernel made up, and too much at once. */
	node_forget(t, ino, 1);
	node_forget(t, 12345, 1);
	ino = node_intern(t, fresh(2, NULL))->ino;
	node_forget(t, ino, UINT64_MAX);
	assert_null(node_find(t, ino));
}

static void a_reference_keeps_a_forgotten_node(void **state)
{
	struct node_table *t = *state;
	struct node *n = node_intern(t, fresh(1, NULL));
	uint64_t ino = n->ino;

	node_ref(t, n);
	node_forget(t, ino, 1);
	assert_ptr_equal(node_find(t, ino), n);
	/* Looked up again while only referenced: the same one. */
	assert_ptr_equal(node_intern(t, fresh(1, NULL)), n);
	node_unref(t, n);
	assert_ptr_equal(node_find(t, ino), n);
	node_forget(t, ino, 1);
	assert_null(node_find(t, ino));
}

static void a_child_keeps_its_ancestors(void **state)
{
	struct node_table *t = *state;
	struct node *n = node_intern(t, fresh(0, NULL));
	uint64_t ino[2000];

	ino[0] = n->ino;
	for (size_t i = 1; i < 2000; i++) {
		n = node_intern(t, fresh(i, n));
		ino[i] = n->ino;
	}
	for (size_t i = 0; i < 1999; i++)
		node_forget(t, ino[i], 1);
	assert_int_equal(destroyed, 0);
	node_forget(t, ino[1999], 1);
	assert_int_equal(destroyed, 2000);
	assert_int_equal(node_table_count(t), 0);
}

static void the_root_stays(void **state)
{
	struct node_table *t = *state;
	struct node *root = fresh(0, NULL);

	node_set_root(t, root);
	assert_int_equal(root->ino, NODE_ROOT_INO);
	node_forget(t, NODE_ROOT_INO, 100);
	assert_ptr_equal(node_find(t, NODE_ROOT_INO), root);
}

static void it_grows(void **state)
{
	struct node_table *t = *state;
	struct node *n[20000];

	for (size_t i = 0; i < 20000; i++)
		n[i] = node_intern(t, fresh(i, NULL));
	assert_int_equal(node_table_count(t), 20000);
	for (size_t i = 0; i < 20000; i++)
		assert_ptr_equal(node_find(t, n[i]->ino), n[i]);
	for (size_t i = 0; i < 20000; i += 2)
		node_forget(t, n[i]->ino, 1);
	assert_int_equal(node_table_count(t), 10000);
	for (size_t i = 1; i < 20000; i += 2)
		assert_ptr_equal(node_find(t, n[i]->ino), n[i]);
}

static void *churn(void *arg)
{
	struct node_table *t = arg;

	for (uint64_t i = 0; i < 20000; i++) {
		struct node *n = node_intern(t, fresh(i % 16, NULL));

		node_ref(t, n);
		node_forget(t, n->ino, 1);
		node_unref(t, n);
	}
	return NULL;
}

static void many_threads_agree(void **state)
{
	struct node_table *t = *state;
	pthread_t tid[4];

	for (int i = 0; i < 4; i++)
		assert_int_equal(pthread_create(&tid[i], NULL, churn, t), 0);
	for (int i = 0; i < 4; i++)
		pthread_join(tid[i], NULL);
	assert_int_equal(node_table_count(t), 0);
	assert_int_equal(destroyed, 4 * 20000);
}

int main(void)
{
	static const struct CMUnitTest tests[] = {
		cmocka_unit_test_setup_teardown(equal_keys_are_one_node, setup, teardown),
		cmocka_unit_test_setup_teardown(a_number_comes_from_the_key_alone, setup, teardown),
		cmocka_unit_test_setup_teardown(forgetting_all_lookups_destroys, setup, teardown),
		cmocka_unit_test_setup_teardown(a_reference_keeps_a_forgotten_node, setup,
						teardown),
		cmocka_unit_test_setup_teardown(a_child_keeps_its_ancestors, setup, teardown),
		cmocka_unit_test_setup_teardown(the_root_stays, setup, teardown),
		cmocka_unit_test_setup_teardown(it_grows, setup, teardown),
		cmocka_unit_test_setup_teardown(many_threads_agree, setup, teardown),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}

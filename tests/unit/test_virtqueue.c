/* The device's side of a virtqueue, against honest and hostile drivers. */
#include "tests/unit/virtio_driver.h"

#include "runner/devices/virtqueue.h"

#define SIZE  8
#define DESC  0x10000ull
#define AVAIL 0x11000ull
#define USED  0x12000ull
#define DATA  0x20000ull

struct ring {
	struct memory mem;
	struct virtqueue q;
	struct drv_queue drv;
};

static struct ring *ring_new(bool event_idx)
{
	struct ring *r = calloc(1, sizeof(*r));

	assert_int_equal(memory_layout(&r->mem, RAM_BYTES, NULL), 0);
	assert_int_equal(memory_map_anon(&r->mem, NULL), 0);
	virtqueue_init(&r->q, &r->mem, 16, 1 << 20);
	r->q.size = SIZE;
	r->q.desc_gpa = DESC;
	r->q.avail_gpa = AVAIL;
	r->q.used_gpa = USED;
	r->q.event_idx = event_idx;
	assert_int_equal(virtqueue_enable(&r->q), 0);
	r->drv.size = SIZE;
	r->drv.desc = memory_at(&r->mem, DESC, 1);
	r->drv.avail = memory_at(&r->mem, AVAIL, 1);
	r->drv.used = memory_at(&r->mem, USED, 1);
	return r;
}

static int set_up(void **state)
{
	*state = ring_new(false);
	return 0;
}

static int set_up_event(void **state)
{
	*state = ring_new(true);
	return 0;
}

static int tear_down(void **state)
{
	struct ring *r = *state;

	memory_free(&r->mem);
	free(r);
	return 0;
}

static void assert_broken(struct ring *r, const char *why)
{
	struct virtqueue_chain c;

	assert_int_equal(virtqueue_pop(&r->q, &c), -EBADMSG);
	assert_non_null(strstr(r->q.fault, why));
	/* And it stays so: no more is read from the ring. */
	assert_int_equal(virtqueue_pop(&r->q, &c), 0);
}

static void chain_becomes_segments(void **state)
{
	struct ring *r = *state;
	struct virtqueue_chain c;
	char text[12] = "";

	memcpy(memory_at(&r->mem, DATA, 5), "hello", 5);
	memcpy(memory_at(&r->mem, DATA + 100, 6), " world", 6);
	drv_add(&r->drv,
		(struct seg[]){{DATA, 5, false}, {DATA + 100, 6, false}, {DATA + 200, 7, true}}, 3);
	assert_int_equal(virtqueue_pop(&r->q, &c), 1);
	assert_int_equal(c.nout, 2);
	assert_int_equal(c.nin, 1);
	assert_int_equal(c.out_bytes, 11);
	assert_int_equal(c.in_bytes, 7);
	assert_int_equal(iov_to_buf(c.out, c.nout, 0, text, 11), 11);
	assert_string_equal(text, "hello world");
	assert_int_equal(iov_from_buf(c.in, c.nin, 0, "answers", 7), 7);
	virtqueue_push(&r->q, &c, 7);
	assert_memory_equal(memory_at(&r->mem, DATA + 200, 7), "answers", 7);
	assert_int_equal(drv_take(&r->drv, NULL), 7);
	assert_int_equal(virtqueue_pop(&r->q, &c), 0);
}

static void written_is_never_more_than_there_was(void **state)
{
	struct ring *r = *state;
	struct virtqueue_chain c;

	drv_add(&r->drv, (struct seg[]){{DATA, 4, true}}, 1);
	assert_int_equal(virtqueue_pop(&r->q, &c), 1);
	virtqueue_push(&r->q, &c, 100);
	assert_int_equal(drv_take(&r->drv, NULL), 4);
}

static void rewound_chain_comes_again(void **state)
{
	struct ring *r = *state;
	struct virtqueue_chain c;

	drv_add(&r->drv, (struct seg[]){{DATA, 4, true}}, 1);
	assert_int_equal(virtqueue_pop(&r->q, &c), 1);
	virtqueue_rewind(&r->q);
	assert_int_equal(virtqueue_pop(&r->q, &c), 1);
	assert_int_equal(virtqueue_pop(&r->q, &c), 0);
}

static void indices_wrap(void **state)
{
	struct ring *r = *state;
	struct virtqueue_chain c;

	for (unsigned i = 0; i < 70000; i++) {
		uint16_t head = drv_add(&r->drv, (struct seg[]){{DATA + i % 7, 1 + i % 9, true}},
					1),
			 got;

		assert_int_equal(virtqueue_pop(&r->q, &c), 1);
		assert_int_equal(c.in_bytes, 1 + i % 9);
		virtqueue_push(&r->q, &c, 1);
		drv_take(&r->drv, &got);
		assert_int_equal(got, head);
	}
}

static void iov_slices(void **state)
{
	char a[4], b[4], c[4], out[12];
	struct iovec v[] = {{a, 4}, {b, 4}, {c, 4}}, *at = v;

	assert_int_equal(iov_from_buf(v, 3, 2, "abcdefgh", 8), 8);
	assert_int_equal(iov_to_buf(v, 3, 2, out, 8), 8);
	assert_memory_equal(out, "abcdefgh", 8);
	assert_int_equal(iov_from_buf(v, 3, 10, "xyz", 3), 2); /* only as far as it goes */
	assert_int_equal(iov_to_buf(v, 3, 12, out, 1), 0);
	assert_int_equal(iov_skip(&at, 3, 6), 2);
	assert_ptr_equal(at->iov_base, b + 2);
	assert_int_equal(iov_cut(at, 2, 3), 2);
	assert_int_equal(at[0].iov_len + at[1].iov_len, 3);
	assert_int_equal(iov_cut(at, 2, 0), 0);
	assert_int_equal(iov_skip(&at, 2, 100), 0);
}

/* ---- interrupts and kicks ------------------------------------------------------------------- */

static void serve_one(struct ring *r)
{
	struct virtqueue_chain c;

	drv_add(&r->drv, (struct seg[]){{DATA, 4, true}}, 1);
	assert_int_equal(virtqueue_pop(&r->q, &c), 1);
	virtqueue_push(&r->q, &c, 0);
}

static void no_interrupt_flag_is_heeded(void **state)
{
	struct ring *r = *state;

	assert_false(virtqueue_wants_irq(&r->q)); /* nothing pushed */
	serve_one(r);
	assert_true(virtqueue_wants_irq(&r->q));
	assert_false(virtqueue_wants_irq(&r->q)); /* once is enough */
	r->drv.avail[0] = VRING_AVAIL_F_NO_INTERRUPT;
	serve_one(r);
	assert_false(virtqueue_wants_irq(&r->q));
}

static void event_index_suppresses_interrupts(void **state)
{
	struct ring *r = *state;
	uint16_t *used_event = &r->drv.avail[2 + SIZE];

	*used_event = 2; /* tell me when the third is done */
	serve_one(r);
	assert_false(virtqueue_wants_irq(&r->q));
	serve_one(r);
	assert_false(virtqueue_wants_irq(&r->q));
	serve_one(r);
	assert_true(virtqueue_wants_irq(&r->q));
	serve_one(r);
	assert_false(virtqueue_wants_irq(&r->q));
	*used_event = 5; /* passed in one go */
	serve_one(r);
	serve_one(r);
	serve_one(r);
	assert_true(virtqueue_wants_irq(&r->q));
}

static void event_index_asks_for_a_kick_when_empty(void **state)
{
	struct ring *r = *state;
	uint16_t *avail_event = &r->drv.used[2 + 4 * SIZE];
	struct virtqueue_chain c;

	for (unsigned i = 0; i < 5; i++)
		serve_one(r);
	assert_int_equal(*avail_event, 0);
	assert_int_equal(virtqueue_pop(&r->q, &c), 0);
	assert_int_equal(*avail_event, 5);
	virtqueue_ask_kick(&r->q, 77);
	assert_int_equal(*avail_event, 77);
}

/* ---- hostile rings -------------------------------------------------------------------------- */

static void loop_ends(void **state)
{
	struct ring *r = *state;

	r->drv.desc[0] = (struct vring_desc){DATA, 4, VRING_DESC_F_NEXT, 1};
	r->drv.desc[1] = (struct vring_desc){DATA, 4, VRING_DESC_F_NEXT, 0};
	drv_offer(&r->drv, 0);
	assert_broken(r, "loops");
}

static void self_loop_ends(void **state)
{
	struct ring *r = *state;

	r->drv.desc[3] = (struct vring_desc){DATA, 4, VRING_DESC_F_NEXT | VRING_DESC_F_WRITE, 3};
	drv_offer(&r->drv, 3);
	assert_broken(r, "loops");
}

static void head_beyond_table(void **state)
{
	drv_offer(&((struct ring *)*state)->drv, SIZE);
	assert_broken(*state, "beyond the table");
}

static void next_beyond_table(void **state)
{
	struct ring *r = *state;

	r->drv.desc[0] = (struct vring_desc){DATA, 4, VRING_DESC_F_NEXT, 0xffff};
	drv_offer(&r->drv, 0);
	assert_broken(r, "beyond the table");
}

static void one_segment(struct ring *r, uint64_t gpa, uint32_t len, const char *why)
{
	drv_add(&r->drv, (struct seg[]){{gpa, len, true}}, 1);
	assert_broken(r, why);
}

static void address_beyond_ram(void **state)
{
	one_segment(*state, RAM_BYTES, 1, "outside RAM");
}

static void address_across_the_end_of_ram(void **state)
{
	one_segment(*state, RAM_BYTES - 4, 5, "outside RAM");
}

static void address_that_wraps(void **state)
{
	one_segment(*state, UINT64_MAX - 3, 8, "outside RAM");
}

static void huge_length(void **state)
{
	one_segment(*state, DATA, UINT32_MAX, "too many bytes");
}

static void empty_segment(void **state)
{
	one_segment(*state, DATA, 0, "empty");
}

static void bytes_of_a_chain_are_bounded(void **state)
{
	struct ring *r = *state;

	drv_add(&r->drv,
		(struct seg[]){{DATA, 1 << 19, false}, {DATA, 1 << 19, false}, {DATA, 1, true}}, 3);
	assert_broken(r, "too many bytes");
}

static void readable_after_writable(void **state)
{
	struct ring *r = *state;

	drv_add(&r->drv, (struct seg[]){{DATA, 4, true}, {DATA, 4, false}}, 2);
	assert_broken(r, "readable descriptor after a writable one");
}

static void indirect_was_not_negotiated(void **state)
{
	struct ring *r = *state;

	r->drv.desc[0] = (struct vring_desc){DATA, 32, VRING_DESC_F_INDIRECT, 0};
	drv_offer(&r->drv, 0);
	assert_broken(r, "flags");
}

static void avail_index_jumps(void **state)
{
	struct ring *r = *state;

	r->drv.avail[1] = SIZE + 1;
	assert_broken(r, "jumped");
}

static void avail_index_goes_back(void **state)
{
	struct ring *r = *state;

	serve_one(r);
	r->drv.avail[1] = 0;
	assert_broken(r, "jumped");
}

static void bad_setups_are_refused(void **state)
{
	static const struct {
		uint16_t size;
		uint64_t desc, avail, used;
		const char *why;
	} bad[] = {
		{0, DESC, AVAIL, USED, "size"},
		{3, DESC, AVAIL, USED, "size"},
		{32, DESC, AVAIL, USED, "size"},
		{SIZE, DESC + 8, AVAIL, USED, "misaligned"},
		{SIZE, DESC, AVAIL + 1, USED, "misaligned"},
		{SIZE, DESC, AVAIL, USED + 2, "misaligned"},
		{SIZE, RAM_BYTES, AVAIL, USED, "outside"},
		{SIZE, DESC, RAM_BYTES - 4, USED, "outside"},
		{SIZE, DESC, AVAIL, RAM_BYTES - 4, "outside"},
		{SIZE, 0xfffffffffffffff0, AVAIL, USED, "outside"},
	};
	struct ring *r = *state;

	for (unsigned i = 0; i < ARRAY_SIZE(bad); i++) {
		virtqueue_reset(&r->q);
		r->q.size = bad[i].size;
		r->q.desc_gpa = bad[i].desc;
		r->q.avail_gpa = bad[i].avail;
		r->q.used_gpa = bad[i].used;
		assert_int_equal(virtqueue_enable(&r->q), -EBADMSG);
		assert_non_null(strstr(r->q.fault, bad[i].why));
		assert_false(r->q.ready);
	}
}

#define TEST(f)	 cmocka_unit_test_setup_teardown(f, set_up, tear_down)
#define EVENT(f) cmocka_unit_test_setup_teardown(f, set_up_event, tear_down)

int main(void)
{
	const struct CMUnitTest tests[] = {
		TEST(chain_becomes_segments),
		TEST(written_is_never_more_than_there_was),
		TEST(rewound_chain_comes_again),
		TEST(indices_wrap),
		cmocka_unit_test(iov_slices),
		TEST(no_interrupt_flag_is_heeded),
		EVENT(event_index_suppresses_interrupts),
		EVENT(event_index_asks_for_a_kick_when_empty),
		TEST(loop_ends),
		TEST(self_loop_ends),
		TEST(head_beyond_table),
		TEST(next_beyond_table),
		TEST(address_beyond_ram),
		TEST(address_across_the_end_of_ram),
		TEST(address_that_wraps),
		TEST(huge_length),
		TEST(empty_segment),
		TEST(bytes_of_a_chain_are_bounded),
		TEST(readable_after_writable),
		TEST(indirect_was_not_negotiated),
		TEST(avail_index_jumps),
		TEST(avail_index_goes_back),
		TEST(bad_setups_are_refused),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}

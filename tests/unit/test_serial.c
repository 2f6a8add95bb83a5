/* The serial port as Linux's 8250 driver sees it, and its state across a snapshot. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>
#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <stdlib.h>
#include <string.h>
#include <sys/eventfd.h>
#include <unistd.h>

#include "runner/devices/serial.h"
#include "runner/vm/vm.h"
#include "smfs/base/clock.h"
#include "smfs/base/num.h"

enum { DATA, IER, IIR, LCR, MCR, LSR, MSR, SCR };
#define FCR IIR

struct port {
	struct vm vm;
	struct device *d;
	uint8_t out[256];
	size_t nout;
};

static void sink(void *arg, const uint8_t *p, size_t n)
{
	struct port *t = arg;

	assert_true(t->nout + n <= sizeof(t->out));
	memcpy(t->out + t->nout, p, n);
	t->nout += n;
}

static int set_up(void **state)
{
	struct port *t = calloc(1, sizeof(*t));

	assert_int_equal(loop_new(&t->vm.loop, NULL), 0);
	assert_int_equal(serial_new(&t->vm, sink, t, &t->d, NULL), 0);
	t->d->irq_fd = eventfd(0, EFD_NONBLOCK | EFD_CLOEXEC);
	*state = t;
	return 0;
}

static int tear_down(void **state)
{
	struct port *t = *state;

	close(t->d->irq_fd);
	t->d->ops->free(t->d);
	loop_free(t->vm.loop);
	free(t);
	return 0;
}

static uint8_t in(struct port *t, unsigned reg)
{
	return t->d->ops->read(t->d, reg, 1);
}

static void out(struct port *t, unsigned reg, uint8_t v)
{
	t->d->ops->write(t->d, reg, 1, v);
}

/* Interrupts since last asked. */
static uint64_t irqs(struct port *t)
{
	uint64_t n = 0;

	return read(t->d->irq_fd, &n, sizeof(n)) == sizeof(n) ? n : 0;
}

static void output_goes_to_the_sink(void **state)
{
	struct port *t = *state;

	out(t, DATA, 'o');
	out(t, DATA, 'k');
	assert_int_equal(t->nout, 2);
	assert_memory_equal(t->out, "ok", 2);
	assert_int_equal(in(t, LSR), 0x60); /* transmitter empty */
	assert_int_equal(irqs(t), 0);
}

/* The steps of Linux's autoconfig(). */
static void it_is_recognised_as_a_16550a(void **state)
{
	struct port *t = *state;

	out(t, IER, 0);
	assert_int_equal(in(t, IER), 0);
	out(t, IER, 0x0f);
	assert_int_equal(in(t, IER), 0x0f);
	out(t, IER, 0);
	out(t, MCR, 0x10 | 0x0a); /* loop, OUT2, RTS */
	assert_int_equal(in(t, MSR) & 0xf0, 0x90);
	out(t, MCR, 0);
	out(t, LCR, 0);
	out(t, FCR, 1);
	assert_int_equal(in(t, IIR) >> 6, 3);
	out(t, SCR, 0x5a);
	assert_int_equal(in(t, SCR), 0x5a);
}

static void the_divisor_hides_behind_dlab(void **state)
{
	struct port *t = *state;

	out(t, LCR, 0x83);
	out(t, DATA, 0x0c);
	out(t, IER, 0x01);
	assert_int_equal(in(t, DATA), 0x0c);
	assert_int_equal(in(t, IER), 0x01);
	out(t, LCR, 0x03);
	assert_int_equal(in(t, IER), 0);
	assert_int_equal(t->nout, 0);
}

static void an_empty_transmitter_interrupts_once_per_byte(void **state)
{
	struct port *t = *state;

	out(t, IER, 2);
	assert_int_equal(irqs(t), 1);
	assert_int_equal(in(t, IIR) & 0x0f, 2);
	assert_int_equal(in(t, IIR) & 0x0f, 1); /* reading took it back */
	assert_int_equal(irqs(t), 0);
	out(t, DATA, 'x');
	assert_int_equal(irqs(t), 1);
	out(t, DATA, 'y'); /* not heard yet: the edge comes again */
	assert_int_equal(irqs(t), 1);
	assert_int_equal(in(t, IIR) & 0x0f, 2);
	out(t, IER, 0);
	out(t, IER, 2); /* enabling says it at once */
	assert_int_equal(irqs(t), 1);
}

static void input_interrupts_and_is_read_in_order(void **state)
{
	struct port *t = *state;

	out(t, IER, 1);
	assert_int_equal(irqs(t), 0);
	assert_int_equal(serial_input(t->d, "abc", 3), 3);
	assert_int_equal(irqs(t), 1);
	assert_int_equal(in(t, IIR) & 0x0f, 4);
	assert_int_equal(in(t, LSR) & 1, 1);
	assert_int_equal(in(t, DATA), 'a');
	assert_int_equal(in(t, DATA), 'b');
	assert_int_equal(in(t, LSR) & 1, 1);
	assert_int_equal(in(t, DATA), 'c');
	assert_int_equal(in(t, LSR) & 1, 0);
	assert_int_equal(in(t, IIR) & 0x0f, 1);
	assert_int_equal(serial_input(t->d, "d", 1), 1);
	assert_int_equal(irqs(t), 1);
}

static void input_waits_for_the_driver(void **state)
{
	struct port *t = *state;

	assert_int_equal(serial_input(t->d, "a", 1), 1);
	assert_int_equal(irqs(t), 0);
	out(t, IER, 1);
	assert_int_equal(irqs(t), 1);
}

static void a_full_buffer_takes_no_more(void **state)
{
	static uint8_t many[10000];
	struct port *t = *state;
	size_t took;

	for (size_t i = 0; i < sizeof(many); i++)
		many[i] = i * 7;
	took = serial_input(t->d, many, sizeof(many));
	assert_in_range(took, 16, sizeof(many) - 1);
	assert_int_equal(serial_input(t->d, many, 1), 0);
	for (size_t i = 0; i < took; i++)
		assert_int_equal(in(t, DATA), many[i]);
	assert_int_equal(in(t, DATA), 0);
	assert_int_equal(in(t, LSR) & 3, 0); /* empty, nothing overrun */
	out(t, FCR, 1);
	assert_int_equal(serial_input(t->d, "xy", 2), 2);
	out(t, FCR, 3); /* clear */
	assert_int_equal(in(t, LSR) & 1, 0);
}

static void loopback_stays_inside(void **state)
{
	struct port *t = *state;

	out(t, MCR, 0x10);
	out(t, DATA, 'l');
	assert_int_equal(t->nout, 0);
	assert_int_equal(in(t, DATA), 'l');
}

static void *run_loop(void *arg)
{
	loop_run(arg, NULL);
	return NULL;
}

struct drain {
	struct port *port;
	const uint8_t *want;
	size_t got;
};

static void drain(void *arg)
{
	struct drain *d = arg;

	for (int k = 0; k < 64 && in(d->port, LSR) & 1; k++)
		assert_int_equal(in(d->port, DATA), d->want[d->got++]);
}

static void input_comes_from_a_descriptor_while_there_is_room(void **state)
{
	static uint8_t many[20000];
	struct port *t = *state;
	struct drain d = {.port = t, .want = many};
	pthread_t thread;
	int fd[2];

	for (size_t i = 0; i < sizeof(many); i++)
		many[i] = i * 13;
	assert_int_equal(pipe2(fd, O_NONBLOCK | O_CLOEXEC), 0);
	assert_int_equal(write(fd[1], many, sizeof(many)), sizeof(many));
	assert_int_equal(serial_watch_input(t->d, fd[0], NULL), 0);
	assert_int_equal(pthread_create(&thread, NULL, run_loop, t->vm.loop), 0);
	/* Each call is a turn of the loop, on the loop's thread, once that has begun. */
	const int64_t end = monotonic_ms() + 60000;
	while (d.got < sizeof(many) && monotonic_ms() < end)
		loop_call(t->vm.loop, drain, &d);
	assert_int_equal(d.got, sizeof(many));
	close(fd[1]);
	loop_stop(t->vm.loop);
	pthread_join(thread, NULL);
	assert_int_equal(serial_watch_input(t->d, -1, NULL), 0);
	close(fd[0]);
}

static void state_survives_a_snapshot(void **state)
{
	cleanup_writer struct writer a = WRITER_INIT, b = WRITER_INIT;
	struct port *t = *state;
	void *other;

	out(t, FCR, 1);
	out(t, LCR, 0x83);
	out(t, DATA, 0x0c);
	out(t, LCR, 0x03);
	out(t, IER, 3);
	out(t, MCR, 0x0b);
	out(t, SCR, 0x77);
	out(t, DATA, 'x');
	serial_input(t->d, "abc", 3);
	assert_int_equal(in(t, DATA), 'a');
	t->d->ops->quiesce(t->d, NULL);
	assert_int_equal(serial_input(t->d, "z", 1), 0); /* stays with its source */
	t->d->ops->save(t->d, &a);

	set_up(&other);
	struct port *u = other;
	struct reader r = reader_of(a.p, a.len);
	assert_int_equal(u->d->ops->load(u->d, 1, &r, NULL), 0);
	u->d->ops->save(u->d, &b);
	assert_int_equal(a.len, b.len);
	assert_memory_equal(a.p, b.p, a.len);
	assert_int_equal(irqs(u), 0);
	u->d->ops->resume(u->d);
	assert_int_equal(irqs(u), 1); /* its edge may have been lost on the way */
	assert_int_equal(in(u, SCR), 0x77);
	assert_int_equal(in(u, IIR) & 0x0f, 4); /* input first */
	assert_int_equal(in(u, DATA), 'b');
	assert_int_equal(in(u, DATA), 'c');
	assert_int_equal(in(u, IIR) & 0x0f, 2); /* and the transmitter's is not lost */
	tear_down(&other);
}

/* Every cut, and every byte changed: loaded whole or refused, never outside the buffer. */
static void damaged_state_is_refused_or_harmless(void **state)
{
	cleanup_writer struct writer w = WRITER_INIT;
	struct port *t = *state;
	struct err err;

	serial_input(t->d, "abc", 3);
	t->d->ops->save(t->d, &w);
	for (size_t n = 0; n < w.len; n++) {
		struct reader r = reader_of(w.p, n);

		assert_int_equal(t->d->ops->load(t->d, 1, &r, &err), -EBADMSG);
	}
	for (size_t at = 0; at < w.len; at++) {
		uint8_t was = w.p[at];

		for (int v = 1; v < 256; v++) {
			struct reader r = reader_of(w.p, w.len);

			w.p[at] = was ^ v;
			if (t->d->ops->load(t->d, 1, &r, &err) < 0)
				assert_int_equal(err.code, EBADMSG);
			out(t, LCR, 3);
			for (int i = 0; i < 5000 && in(t, LSR) & 1; i++)
				in(t, DATA);
			assert_int_equal(in(t, LSR) & 1, 0);
		}
		w.p[at] = was;
	}
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test_setup_teardown(output_goes_to_the_sink, set_up, tear_down),
		cmocka_unit_test_setup_teardown(it_is_recognised_as_a_16550a, set_up, tear_down),
		cmocka_unit_test_setup_teardown(the_divisor_hides_behind_dlab, set_up, tear_down),
		cmocka_unit_test_setup_teardown(an_empty_transmitter_interrupts_once_per_byte,
						set_up, tear_down),
		cmocka_unit_test_setup_teardown(input_interrupts_and_is_read_in_order, set_up,
						tear_down),
		cmocka_unit_test_setup_teardown(input_waits_for_the_driver, set_up, tear_down),
		cmocka_unit_test_setup_teardown(a_full_buffer_takes_no_more, set_up, tear_down),
		cmocka_unit_test_setup_teardown(loopback_stays_inside, set_up, tear_down),
		cmocka_unit_test_setup_teardown(input_comes_from_a_descriptor_while_there_is_room,
						set_up, tear_down),
		cmocka_unit_test_setup_teardown(state_survives_a_snapshot, set_up, tear_down),
		cmocka_unit_test_setup_teardown(damaged_state_is_refused_or_harmless, set_up,
						tear_down),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}

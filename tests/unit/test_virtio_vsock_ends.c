/* The vsock device: how connections end, hostile guests, snapshots. */
#include "tests/unit/vsock_driver.h"

/* ---- ends ----------------------------------------------------------------------------------- */

static void host_half_close_leaves_the_other_half(void **state)
{
	struct fixture *f = *state;
	uint32_t port;
	int fd;

	guest_up(f, 8);
	fd = opened(f, &port);
	host_say(fd, "last");
	shutdown(fd, SHUT_WR);
	expect(f, VIRTIO_VSOCK_OP_RW, NULL);
	assert_int_equal(expect_shutdown(f), VIRTIO_VSOCK_SHUTDOWN_SEND);
	guest_send(f, PORT, port, VIRTIO_VSOCK_OP_RW, "answer", 6);
	host_expect(fd, "answer");
	guest_shutdown(f, PORT, port, SHUT_BOTH);
	host_expect_eof(fd);
	expect(f, VIRTIO_VSOCK_OP_RST, NULL);
	close(fd);
}

static void guest_half_close_leaves_the_other_half(void **state)
{
	struct fixture *f = *state;
	struct packet *p;
	uint32_t port;
	int fd;

	guest_up(f, 8);
	fd = opened(f, &port);
	guest_send(f, PORT, port, VIRTIO_VSOCK_OP_RW, "bye", 3);
	guest_shutdown(f, PORT, port, VIRTIO_VSOCK_SHUTDOWN_SEND);
	host_expect(fd, "bye");
	host_expect_eof(fd);
	host_say(fd, "still here");
	p = guest_recv(f);
	assert_memory_equal(p->data, "still here", 10);
	free(p);
	close(fd);
	assert_int_equal(expect_shutdown(f), SHUT_BOTH);
	guest_send(f, PORT, port, VIRTIO_VSOCK_OP_RST, NULL, 0);
}

static void host_close_is_told_after_its_last_byte(void **state)
{
	struct fixture *f = *state;
	static uint8_t bulk[20000];
	uint32_t port, flags = 0, got = 0;
	int fd;

	guest_up(f, 2);
	fd = opened(f, &port);
	assert_int_equal(send(fd, bulk, sizeof(bulk), 0), sizeof(bulk));
	close(fd);
	while (flags != SHUT_BOTH) {
		struct packet *p = guest_recv(f);

		got += p->len;
		if (le16toh(p->h.op) == VIRTIO_VSOCK_OP_SHUTDOWN) {
			flags = le32toh(p->h.flags);
			assert_true(!(flags & VIRTIO_VSOCK_SHUTDOWN_SEND) || got == sizeof(bulk));
		}
		free(p);
	}
	guest_shutdown(f, PORT, port, SHUT_BOTH);
	expect(f, VIRTIO_VSOCK_OP_RST, NULL);
	/* Gone: the name means nothing any more. */
	guest_send(f, PORT, port, VIRTIO_VSOCK_OP_RW, "x", 1);
	expect(f, VIRTIO_VSOCK_OP_RST, NULL);
}

static void guest_close_delivers_what_it_sent(void **state)
{
	struct fixture *f = *state;
	static uint8_t bulk[60000], got[60000];
	uint32_t port;
	size_t n = 0;
	int fd, small = 4096;

	for (size_t i = 0; i < sizeof(bulk); i++)
		bulk[i] = (uint8_t)(i * 7 >> 2);
	guest_up(f, 8);
	fd = opened(f, &port);
	setsockopt(fd, SOL_SOCKET, SO_RCVBUF, &small, sizeof(small));
	guest_send(f, PORT, port, VIRTIO_VSOCK_OP_RW, bulk, sizeof(bulk));
	guest_shutdown(f, PORT, port, SHUT_BOTH);
	for (ssize_t k; (k = recv(fd, got + n, sizeof(got) - n, 0)) > 0;)
		n += (size_t)k;
	assert_int_equal(n, sizeof(bulk));
	assert_memory_equal(got, bulk, n);
	host_expect_eof(fd);
	expect(f, VIRTIO_VSOCK_OP_RST, NULL);
	close(fd);
}

static void unread_bytes_of_the_host_do_not_spoil_the_end(void **state)
{
	struct fixture *f = *state;
	uint32_t port;
	int fd;

	guest_up(f, 8);
	fd = opened(f, &port);
	pause_device(f->d); /* so that the bytes stay in the socket */
	host_say(fd, "never read");
	resume_device(f->d);
	guest_shutdown(f, PORT, port, SHUT_BOTH);
	host_expect_eof(fd);
	close(fd);
}

static void guest_reset_is_the_end(void **state)
{
	struct fixture *f = *state;
	uint32_t port;
	int fd;

	guest_up(f, 8);
	fd = opened(f, &port);
	guest_send(f, PORT, port, VIRTIO_VSOCK_OP_RST, NULL, 0);
	host_expect_eof(fd);
	close(fd);
}

/* ---- hostile guest -------------------------------------------------------------------------- */

static void packets_out_of_place_are_answered_or_dropped(void **state)
{
	struct fixture *f = *state;
	struct virtio_vsock_hdr h;

	guest_up(f, 8);
	/* To no connection: reset, except for a reset. */
	guest_send(f, 1, 2, VIRTIO_VSOCK_OP_RW, "x", 1);
	expect(f, VIRTIO_VSOCK_OP_RST, NULL);
	guest_send(f, 1, 2, 77, NULL, 0);
	expect(f, VIRTIO_VSOCK_OP_RST, NULL);
	guest_send(f, 1, 2, VIRTIO_VSOCK_OP_RST, NULL, 0);
	/* A forged sender, and another receiver than the host: nothing. */
	h = header(f, 1, 2, VIRTIO_VSOCK_OP_RW, 0);
	h.src_cid = htole64(4);
	send_raw(f, h, NULL, 0);
	h = header(f, 1, 2, VIRTIO_VSOCK_OP_RW, 0);
	h.dst_cid = htole64(9);
	send_raw(f, h, NULL, 0);
	/* Of a type we do not do: reset. This is also the proof that the others got no answer. */
	h = header(f, 1, 5, VIRTIO_VSOCK_OP_REQUEST, 0);
	h.type = htole16(VIRTIO_VSOCK_TYPE_SEQPACKET);
	send_raw(f, h, NULL, 0);
	uint32_t port;
	expect(f, VIRTIO_VSOCK_OP_RST, &port);
	assert_int_equal(port, 5);
	assert_false(needs_reset(f->d));
}

static void packet_longer_than_its_chain_breaks_the_device(void **state)
{
	struct fixture *f = *state;
	uint32_t port;
	int fd;

	guest_up(f, 8);
	fd = opened(f, &port);
	send_raw(f, header(f, PORT, port, VIRTIO_VSOCK_OP_RW, 100), "x", 1);
	wait_for(needs_reset(f->d));
	host_expect_eof(fd); /* no client is left hanging */
	close(fd);
	/* And it works again after a reset. */
	guest_up(f, 8);
	fd = opened(f, &port);
	close(fd);
}

static void short_header_breaks_the_device(void **state)
{
	struct fixture *f = *state;

	guest_up(f, 8);
	drv_add(&f->drv.q[TX], (struct seg[]){{f->tx_mem, HDR - 1, false}}, 1);
	drv_kick(&f->drv.q[TX]);
	wait_for(needs_reset(f->d));
}

static void tiny_receive_buffer_breaks_the_device(void **state)
{
	struct fixture *f = *state;

	guest_up(f, 0);
	drv_add(&f->drv.q[RX], (struct seg[]){{f->rx_mem, HDR, true}}, 1);
	drv_kick(&f->drv.q[RX]);
	guest_send(f, 1, 2, VIRTIO_VSOCK_OP_RW, NULL, 0);
	wait_for(needs_reset(f->d));
}

/* No receive buffers, and more packets that want an answer than are remembered: the ring waits. */
static void flood_without_buffers_is_held_back(void **state)
{
	struct fixture *f = *state;
	struct drv_queue *q = &f->drv.q[TX];
	unsigned taken = 0, answers = 0;

	guest_up(f, 0);
	for (unsigned i = 0; i < 200; i++) {
		struct virtio_vsock_hdr h = header(f, i, 2, VIRTIO_VSOCK_OP_REQUEST, 0);
		double end = seconds() + 2;

		send_raw(f, h, NULL, 0);
		while (drv_used_idx(q) == q->last_used && seconds() < end)
			poll(NULL, 0, 1);
		if (drv_used_idx(q) == q->last_used)
			break;
		drv_take(q, NULL);
		taken++;
	}
	assert_in_range(taken, 8, 100);
	for (unsigned i = 0; i < 8; i++)
		give_rx(f, i);
	drv_kick(&f->drv.q[RX]);
	for (; answers < taken + 1; answers++)
		expect(f, VIRTIO_VSOCK_OP_RST, NULL);
	drv_take(q, NULL); /* the one that had to wait */
	assert_false(needs_reset(f->d));
}

static void connections_are_bounded(void **state)
{
	struct fixture *f = *state;
	struct rlimit files;
	char path[108];
	unsigned open = 0, refused = 0;
	int l, fds[VSOCK_MAX_CONNS + 16];

	/* Both ends are in this process. */
	assert_int_equal(getrlimit(RLIMIT_NOFILE, &files), 0);
	files.rlim_cur = files.rlim_max;
	if (files.rlim_max < 2 * VSOCK_MAX_CONNS + 100)
		skip();
	assert_int_equal(setrlimit(RLIMIT_NOFILE, &files), 0);
	guest_up(f, TEST_QUEUE_SIZE);
	l = host_listen_on(f, 52, path);
	for (unsigned i = 0; i < VSOCK_MAX_CONNS + 16; i++) {
		struct packet *p;

		guest_send(f, 10000 + i, 52, VIRTIO_VSOCK_OP_REQUEST, NULL, 0);
		p = guest_recv(f);
		if (le16toh(p->h.op) == VIRTIO_VSOCK_OP_RESPONSE)
			fds[open++] = accept4(l, NULL, NULL, SOCK_CLOEXEC);
		else
			refused++;
		free(p);
	}
	assert_int_equal(open, VSOCK_MAX_CONNS);
	assert_int_equal(refused, 16);
	/* One goes, one may come. */
	guest_send(f, 10000, 52, VIRTIO_VSOCK_OP_RST, NULL, 0);
	guest_send(f, 9, 52, VIRTIO_VSOCK_OP_REQUEST, NULL, 0);
	expect(f, VIRTIO_VSOCK_OP_RESPONSE, NULL);
	for (unsigned i = 0; i < open; i++)
		close(fds[i]);
	close(l);
	unlink(path);
}

/* ---- snapshot ------------------------------------------------------------------------------- */

static void snapshot_leaves_the_running_connections_alone(void **state)
{
	struct fixture *f = *state;
	struct packet *p;
	struct writer w;
	uint32_t port;
	int fd;

	guest_up(f, 8);
	fd = opened(f, &port);
	pause_device(f->d);
	w = save_device(f->d);
	host_say(fd, "while paused");
	for (unsigned i = 0; i < 20; i++) {
		poll(NULL, 0, 1);
		assert_int_equal(drv_used_idx(&f->drv.q[RX]), f->drv.q[RX].last_used);
	}
	resume_device(f->d);
	p = guest_recv(f);
	assert_memory_equal(p->data, "while paused", 12);
	free(p);
	guest_send(f, PORT, port, VIRTIO_VSOCK_OP_RW, "and back", 8);
	host_expect(fd, "and back");
	close(fd);
	writer_free(&w);
}

static void restored_guest_is_told_before_new_clients_come(void **state)
{
	struct fixture *f = *state, g = {0};
	struct err err = ERR_INIT;
	struct writer w;
	uint32_t port, event;
	uint16_t head;
	int fd, fd2;

	guest_up(f, 8);
	fd = opened(f, &port);
	pause_device(f->d);
	w = save_device(f->d);

	snprintf(g.path, sizeof(g.path), "%s/w.sock", f->dir);
	g.vm = vsock_machine(&g.d, g.path);
	machine_start(g.vm);
	memcpy(g.vm->mem.region[0].hva, f->vm->mem.region[0].hva, RAM_BYTES);
	assert_int_equal(load_device(g.d, w.p, w.len, &err), 0);
	g.drv = f->drv;
	for (unsigned i = 0; i < 3; i++) {
		struct drv_queue *q = &g.drv.q[i];

		q->d = g.d;
		q->desc = guest(g.vm, q->desc_gpa);
		q->avail = guest(g.vm, q->avail_gpa);
		q->used = guest(g.vm, q->used_gpa);
	}
	g.rx_mem = f->rx_mem;
	g.tx_mem = f->tx_mem;
	g.event_mem = f->event_mem;
	fd2 = host_connect(g.path);
	host_say(fd2, "CONNECT 1024\n");
	resume_device(g.d);

	assert_int_equal(drv_take(&g.drv.q[EVENT], &head), 4);
	memcpy(&event, guest(g.vm, g.event_mem), 4);
	assert_int_equal(event, VIRTIO_VSOCK_EVENT_TRANSPORT_RESET);
	wait_for(irqs(g.d));
	for (unsigned i = 0; i < 20; i++) { /* the client waits */
		poll(NULL, 0, 1);
		assert_int_equal(drv_used_idx(&g.drv.q[RX]), g.drv.q[RX].last_used);
	}
	/* The driver asks for a kick exactly here: at the buffer after the event's. */
	assert_int_equal(g.drv.q[EVENT].used[2 + 4 * TEST_QUEUE_SIZE], g.drv.q[EVENT].avail_idx);
	drv_offer(&g.drv.q[EVENT], head);
	drv_kick(&g.drv.q[EVENT]);
	expect(&g, VIRTIO_VSOCK_OP_REQUEST, &port);
	guest_send(&g, PORT, port, VIRTIO_VSOCK_OP_RESPONSE, NULL, 0);
	/* Nothing of the original's connections is known here, and the original goes on. */
	guest_send(&g, 999, 998, VIRTIO_VSOCK_OP_RW, "x", 1);
	expect(&g, VIRTIO_VSOCK_OP_RST, NULL);
	resume_device(f->d);
	host_say(fd, "alive");
	expect(f, VIRTIO_VSOCK_OP_RW, NULL);
	close(fd2);
	close(fd);
	machine_free(g.vm);
	writer_free(&w);
}

static void hostile_state_is_refused_or_harmless(void **state)
{
	struct fixture *f = *state;
	struct err err = ERR_INIT;
	unsigned refused = 0;
	struct writer w;

	guest_up(f, 8);
	pause_device(f->d);
	w = save_device(f->d);
	for (size_t n = 0; n < w.len; n++)
		assert_int_equal(load_device(f->d, w.p, n, &err), -EBADMSG);
	for (size_t i = 0; i < 8 * w.len; i++) {
		w.p[i / 8] ^= 1u << i % 8;
		if (load_device(f->d, w.p, w.len, &err) < 0)
			refused++;
		resume_device(f->d);
		pause_device(f->d);
		w.p[i / 8] ^= 1u << i % 8;
	}
	assert_true(refused > 200);
	writer_free(&w);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		TEST(host_half_close_leaves_the_other_half),
		TEST(guest_half_close_leaves_the_other_half),
		TEST(host_close_is_told_after_its_last_byte),
		TEST(guest_close_delivers_what_it_sent),
		TEST(unread_bytes_of_the_host_do_not_spoil_the_end),
		TEST(guest_reset_is_the_end),
		TEST(packets_out_of_place_are_answered_or_dropped),
		TEST(packet_longer_than_its_chain_breaks_the_device),
		TEST(short_header_breaks_the_device),
		TEST(tiny_receive_buffer_breaks_the_device),
		TEST(flood_without_buffers_is_held_back),
		TEST(connections_are_bounded),
		TEST(snapshot_leaves_the_running_connections_alone),
		TEST(restored_guest_is_told_before_new_clients_come),
		TEST(hostile_state_is_refused_or_harmless),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}

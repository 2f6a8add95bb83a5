/* The vsock device: connecting, credit, where its socket may be. */
#include "tests/unit/vsock_driver.h"

/* ---- connecting ----------------------------------------------------------------------------- */

static void says_its_cid(void **state)
{
	struct fixture *f = *state;
	struct stat st;

	assert_int_equal(reg_read(f->d, VIRTIO_MMIO_DEVICE_ID), VIRTIO_ID_VSOCK);
	assert_int_equal(config64(f->d, 0), CID);
	assert_int_equal(stat(f->path, &st), 0);
	assert_int_equal(st.st_mode & 0777, 0600);
}

static void host_connects_and_bytes_flow_both_ways(void **state)
{
	struct fixture *f = *state;
	struct packet *p;
	uint32_t port;
	int fd;

	guest_up(f, 8);
	fd = opened(f, &port);
	host_say(fd, "ping");
	p = guest_recv(f);
	assert_int_equal(le16toh(p->h.op), VIRTIO_VSOCK_OP_RW);
	assert_int_equal(le32toh(p->h.dst_port), PORT);
	assert_int_equal(p->len, 4);
	assert_memory_equal(p->data, "ping", 4);
	free(p);
	guest_send(f, PORT, port, VIRTIO_VSOCK_OP_RW, "pong!", 5);
	host_expect(fd, "pong!");
	close(fd);
}

static void bytes_sent_with_the_greeting_follow_it(void **state)
{
	struct fixture *f = *state;
	struct packet *p;
	uint32_t port;
	int fd;

	guest_up(f, 8);
	fd = host_connect(f->path);
	host_say(fd, "CONN");
	host_say(fd, "ECT 1024\nearly");
	expect(f, VIRTIO_VSOCK_OP_REQUEST, &port);
	guest_send(f, PORT, port, VIRTIO_VSOCK_OP_RESPONSE, NULL, 0);
	p = guest_recv(f);
	assert_int_equal(p->len, 5);
	assert_memory_equal(p->data, "early", 5);
	free(p);
	close(fd);
}

static void to_the_early_port_first_bytes_go_along_with_the_request(void **state)
{
	struct fixture *f = *state;
	struct packet *p;
	uint32_t port;
	int fd;

	virtio_vsock_early(f->d, PORT);
	guest_up(f, 8);
	fd = host_connect(f->path);
	host_say(fd, "CONNECT 1024\nearly");
	expect(f, VIRTIO_VSOCK_OP_REQUEST, &port);
	p = guest_recv(f);
	assert_int_equal(le16toh(p->h.op), VIRTIO_VSOCK_OP_RW);
	assert_int_equal(le32toh(p->h.src_port), port);
	assert_int_equal(p->len, 5);
	assert_memory_equal(p->data, "early", 5);
	free(p);
	guest_send(f, PORT, port, VIRTIO_VSOCK_OP_RESPONSE, NULL, 0);
	host_expect(fd, "OK ");
	host_say(fd, "later");
	p = guest_recv(f);
	assert_int_equal(p->len, 5);
	assert_memory_equal(p->data, "later", 5);
	free(p);
	close(fd);
}

static void to_another_port_bytes_wait_for_the_answer(void **state)
{
	struct fixture *f = *state;
	uint32_t port;
	int fd;

	virtio_vsock_early(f->d, PORT + 1);
	guest_up(f, 8);
	fd = host_connect(f->path);
	host_say(fd, "CONNECT 1024\nearly");
	expect(f, VIRTIO_VSOCK_OP_REQUEST, &port);
	/* The device has read on: a second client's request is there, and nothing before it. */
	int second = host_connect(f->path);
	host_say(second, "CONNECT 1024\n");
	expect(f, VIRTIO_VSOCK_OP_REQUEST, NULL);
	guest_send(f, PORT, port, VIRTIO_VSOCK_OP_RESPONSE, NULL, 0);
	expect(f, VIRTIO_VSOCK_OP_RW, NULL);
	close(fd);
	close(second);
}

/* Of more than the guest is known to have room for the rest waits for what it says; and what it has
 * been sent counts against that. */
static void early_bytes_are_no_more_than_agreed(void **state)
{
	struct fixture *f = *state;
	static char line[] = "CONNECT 1024\n";
	static uint8_t much[3 * VSOCK_EARLY];
	uint64_t got = 0;
	uint32_t port;
	int fd;

	virtio_vsock_early(f->d, PORT);
	guest_up(f, TEST_QUEUE_SIZE);
	fd = host_connect(f->path);
	struct iovec v[] = {{line, sizeof(line) - 1}, {much, sizeof(much)}};
	assert_int_equal(writev(fd, v, 2), sizeof(line) - 1 + sizeof(much));
	expect(f, VIRTIO_VSOCK_OP_REQUEST, &port);
	while (got < VSOCK_EARLY) {
		struct packet *p = guest_recv(f);

		assert_int_equal(le16toh(p->h.op), VIRTIO_VSOCK_OP_RW);
		got += p->len;
		free(p);
	}
	assert_int_equal(got, VSOCK_EARLY);
	/* The guest has room for 1000 more, then for everything. */
	struct virtio_vsock_hdr h = header(f, PORT, port, VIRTIO_VSOCK_OP_RESPONSE, 0);
	h.buf_alloc = htole32(VSOCK_EARLY + 1000);
	send_raw(f, h, NULL, 0);
	drv_take(&f->drv.q[TX], NULL);
	for (bool asked = false; !asked;) {
		struct packet *p = guest_recv(f);

		asked = le16toh(p->h.op) == VIRTIO_VSOCK_OP_CREDIT_REQUEST;
		got += p->len;
		free(p);
	}
	assert_int_equal(got, VSOCK_EARLY + 1000);
	guest_send(f, PORT, port, VIRTIO_VSOCK_OP_CREDIT_UPDATE, NULL, 0);
	while (got < sizeof(much)) {
		struct packet *p = guest_recv(f);

		got += p->len;
		free(p);
	}
	close(fd);
}

/* Linux answers each of the two by a reset when nobody listens, or when too many wait. */
static void refused_by_the_guest_with_early_bytes(void **state)
{
	struct fixture *f = *state;
	uint32_t port, next;
	int fd;

	virtio_vsock_early(f->d, PORT);
	guest_up(f, 8);
	fd = host_connect(f->path);
	host_say(fd, "CONNECT 1024\nearly");
	expect(f, VIRTIO_VSOCK_OP_REQUEST, &port);
	expect(f, VIRTIO_VSOCK_OP_RW, NULL);
	guest_send(f, PORT, port, VIRTIO_VSOCK_OP_RST, NULL, 0);
	guest_send(f, PORT, port, VIRTIO_VSOCK_OP_RST, NULL, 0);
	host_expect_eof(fd);
	close(fd);
	/* The second reset was nobody's. */
	fd = opened(f, &next);
	assert_int_not_equal(next, port);
	host_say(fd, "x");
	expect(f, VIRTIO_VSOCK_OP_RW, NULL);
	close(fd);
}

/* All of a stream at once, its end too: the guest is told that when the stream has begun. */
static void early_bytes_may_be_all_there_is(void **state)
{
	struct fixture *f = *state;
	uint32_t port;
	int fd;

	virtio_vsock_early(f->d, PORT);
	guest_up(f, 8);
	fd = host_connect(f->path);
	host_say(fd, "CONN");
	host_say(fd, "ECT 1024");
	/* The line's end, the bytes and their end at once: it is quiet in between. */
	pause_device(f->d);
	host_say(fd, "\nall");
	shutdown(fd, SHUT_WR);
	resume_device(f->d);
	expect(f, VIRTIO_VSOCK_OP_REQUEST, &port);
	expect(f, VIRTIO_VSOCK_OP_RW, NULL);
	guest_send(f, PORT, port, VIRTIO_VSOCK_OP_RESPONSE, NULL, 0);
	assert_int_equal(expect_shutdown(f), VIRTIO_VSOCK_SHUTDOWN_SEND);
	host_expect(fd, "OK ");
	guest_send(f, PORT, port, VIRTIO_VSOCK_OP_RW, "seen", 4);
	guest_shutdown(f, PORT, port, SHUT_BOTH);
	expect(f, VIRTIO_VSOCK_OP_RST, NULL);
	close(fd);
}

static void bad_greetings_are_hung_up_on(void **state)
{
	static const char *const bad[] = {
		"GET / HTTP/1.0\r\n",	"CONNECT\n",
		"CONNECT x\n",		"CONNECT -1\n",
		"CONNECT 4294967295\n", "CONNECT 99999999999\n",
		"connect 1\n",		"CONNECT 000000000000000000000000000000000000001\n",
	};
	struct fixture *f = *state;

	guest_up(f, 8);
	for (unsigned i = 0; i < ARRAY_SIZE(bad); i++) {
		int fd = host_connect(f->path);
		char c;

		host_say(fd, bad[i]);
		assert_true(recv(fd, &c, 1, 0) <= 0);
		close(fd);
	}
	assert_int_equal(f->drv.q[RX].last_used, drv_used_idx(&f->drv.q[RX]));
}

static void without_a_driver_clients_are_hung_up_on(void **state)
{
	struct fixture *f = *state;
	int fd = host_connect(f->path);

	host_say(fd, "CONNECT 1024\n");
	host_expect_eof(fd);
	close(fd);
}

static void refused_by_the_guest(void **state)
{
	struct fixture *f = *state;
	uint32_t port;
	int fd;

	guest_up(f, 8);
	fd = host_connect(f->path);
	host_say(fd, "CONNECT 1024\n");
	expect(f, VIRTIO_VSOCK_OP_REQUEST, &port);
	guest_send(f, PORT, port, VIRTIO_VSOCK_OP_RST, NULL, 0);
	host_expect_eof(fd);
	close(fd);
}

static void client_that_leaves_early_is_withdrawn(void **state)
{
	struct fixture *f = *state;
	uint32_t port;
	int fd;

	guest_up(f, 8);
	fd = host_connect(f->path);
	host_say(fd, "CONNECT 1024\n");
	expect(f, VIRTIO_VSOCK_OP_REQUEST, &port);
	close(fd);
	expect(f, VIRTIO_VSOCK_OP_RST, NULL);
}

static void guest_connects_to_a_host_socket(void **state)
{
	struct fixture *f = *state;
	char path[108];
	int l, fd;

	guest_up(f, 8);
	l = host_listen_on(f, 52, path);
	guest_send(f, 7000, 52, VIRTIO_VSOCK_OP_REQUEST, NULL, 0);
	expect(f, VIRTIO_VSOCK_OP_RESPONSE, NULL);
	fd = accept(l, NULL, NULL);
	guest_send(f, 7000, 52, VIRTIO_VSOCK_OP_RW, "from guest", 10);
	host_expect(fd, "from guest");
	/* The same name again while it is open is an error of the guest. */
	guest_send(f, 7000, 52, VIRTIO_VSOCK_OP_REQUEST, NULL, 0);
	expect(f, VIRTIO_VSOCK_OP_RST, NULL);
	host_expect_eof(fd);
	close(fd);
	close(l);
	unlink(path);
}

static void guest_connect_to_nothing_is_reset(void **state)
{
	struct fixture *f = *state;

	guest_up(f, 8);
	guest_send(f, 7000, 53, VIRTIO_VSOCK_OP_REQUEST, NULL, 0);
	expect(f, VIRTIO_VSOCK_OP_RST, NULL);
}

/* ---- credit --------------------------------------------------------------------------------- */

static void host_cannot_send_beyond_the_guests_credit(void **state)
{
	struct fixture *f = *state;
	uint8_t chunk[4096] = {7};
	uint64_t sent = 0, got = 0;
	bool asked = false;
	uint32_t port;
	int fd;

	guest_up(f, TEST_QUEUE_SIZE);
	fd = opened(f, &port);
	fcntl(fd, F_SETFL, O_NONBLOCK);
	while (!asked) {
		struct packet *p;

		for (ssize_t n; (n = send(fd, chunk, sizeof(chunk), MSG_NOSIGNAL)) > 0;)
			sent += (uint64_t)n;
		p = guest_recv(f);
		asked = le16toh(p->h.op) == VIRTIO_VSOCK_OP_CREDIT_REQUEST;
		got += p->len;
		free(p);
	}
	assert_int_equal(got, GUEST_BUF);
	assert_true(sent > got);
	/* The guest reads half: that much more comes, and no more. */
	f->fwd_cnt = GUEST_BUF / 2;
	guest_send(f, PORT, port, VIRTIO_VSOCK_OP_CREDIT_UPDATE, NULL, 0);
	for (asked = false; !asked;) {
		struct packet *p = guest_recv(f);

		asked = le16toh(p->h.op) == VIRTIO_VSOCK_OP_CREDIT_REQUEST;
		got += p->len;
		free(p);
	}
	assert_int_equal(got, GUEST_BUF + GUEST_BUF / 2);
	close(fd);
}

static void guest_gets_credit_back_as_the_host_reads(void **state)
{
	struct fixture *f = *state;
	static uint8_t chunk[60000];
	uint32_t port, used = 0, forwarded = 0;
	uint64_t total = 0;
	int fd;

	guest_up(f, TEST_QUEUE_SIZE);
	fd = opened(f, &port);
	for (unsigned i = 0; i < 40; i++) {
		for (uint32_t k = 0; k < sizeof(chunk); k++)
			chunk[k] = (uint8_t)(total + k);
		/* Wait for credit by receiving updates, as a driver does; the host reads meanwhile.
		 */
		while (used - forwarded + sizeof(chunk) > VSOCK_BUF) {
			static uint8_t buf[65536];
			ssize_t n = recv(fd, buf, sizeof(buf), MSG_DONTWAIT);

			(void)n;
			if (drv_used_idx(&f->drv.q[RX]) != f->drv.q[RX].last_used) {
				struct packet *p = guest_recv(f);

				assert_int_equal(le16toh(p->h.op), VIRTIO_VSOCK_OP_CREDIT_UPDATE);
				assert_int_equal(le32toh(p->h.buf_alloc), VSOCK_BUF);
				forwarded = le32toh(p->h.fwd_cnt);
				free(p);
			}
		}
		guest_send(f, PORT, port, VIRTIO_VSOCK_OP_RW, chunk, sizeof(chunk));
		used += sizeof(chunk);
		total += sizeof(chunk);
	}
	close(fd);
}

static void every_byte_arrives_in_order_at_a_slow_reader(void **state)
{
	struct fixture *f = *state;
	static uint8_t chunk[VSOCK_BUF / 4], buf[VSOCK_BUF];
	uint32_t port, used = 0, forwarded = 0;
	uint64_t sent = 0, seen = 0;
	int fd;

	guest_up(f, TEST_QUEUE_SIZE);
	fd = opened(f, &port);
	while (seen < 2 * MIB) {
		ssize_t n;

		while (sent < 2 * MIB && used - forwarded + sizeof(chunk) <= VSOCK_BUF) {
			for (uint32_t k = 0; k < sizeof(chunk); k++)
				chunk[k] = (uint8_t)((sent + k) * 31 >> 3);
			guest_send(f, PORT, port, VIRTIO_VSOCK_OP_RW, chunk, sizeof(chunk));
			sent += sizeof(chunk);
			used += sizeof(chunk);
		}
		n = recv(fd, buf, 10007, MSG_DONTWAIT);
		for (ssize_t i = 0; i < n; i++, seen++)
			if (buf[i] != (uint8_t)(seen * 31 >> 3))
				fail_msg("byte %llu is wrong", (unsigned long long)seen);
		while (drv_used_idx(&f->drv.q[RX]) != f->drv.q[RX].last_used) {
			struct packet *p = guest_recv(f);

			forwarded = le32toh(p->h.fwd_cnt);
			free(p);
		}
		if (n < 0)
			poll(NULL, 0, 1);
	}
	close(fd);
}

static void guest_that_ignores_credit_is_reset(void **state)
{
	struct fixture *f = *state;
	static uint8_t chunk[64 << 10];
	uint32_t port;
	int fd;

	guest_up(f, 8);
	fd = opened(f, &port);
	/* The host does not read, so its socket's own buffer fills first, then ours. */
	for (unsigned i = 0; drv_used_idx(&f->drv.q[RX]) == f->drv.q[RX].last_used; i++) {
		assert_true(i < 1000);
		guest_send(f, PORT, port, VIRTIO_VSOCK_OP_RW, chunk, sizeof(chunk));
		poll(NULL, 0, 1);
		while (drv_used_idx(&f->drv.q[RX]) != f->drv.q[RX].last_used) {
			struct packet *p = guest_recv(f);
			uint16_t op = le16toh(p->h.op);

			free(p);
			if (op == VIRTIO_VSOCK_OP_RST) {
				close(fd);
				return;
			}
		}
	}
	fail_msg("never reset");
}

static void credit_request_is_answered(void **state)
{
	struct fixture *f = *state;
	struct packet *p;
	uint32_t port;
	int fd;

	guest_up(f, 8);
	fd = opened(f, &port);
	guest_send(f, PORT, port, VIRTIO_VSOCK_OP_RW, "abc", 3);
	host_expect(fd, "abc");
	guest_send(f, PORT, port, VIRTIO_VSOCK_OP_CREDIT_REQUEST, NULL, 0);
	p = guest_recv(f);
	assert_int_equal(le16toh(p->h.op), VIRTIO_VSOCK_OP_CREDIT_UPDATE);
	assert_int_equal(le32toh(p->h.fwd_cnt), 3);
	free(p);
	close(fd);
}

/* ---- constructor ---------------------------------------------------------------------------- */

static void bad_places_are_refused(void **state)
{
	struct vm *vm = machine();
	struct err err = ERR_INIT;
	char path[200];

	memset(path, 'x', sizeof(path) - 1);
	path[0] = '/';
	path[sizeof(path) - 1] = '\0';
	assert_int_equal(virtio_vsock_new(vm, "v", CID, path, &err), -ENAMETOOLONG);
	assert_int_equal(virtio_vsock_new(vm, "v", CID, "/no/such/dir/s", &err), -ENOENT);
	assert_int_equal(virtio_vsock_new(vm, "v", CID, "/etc/passwd", &err), -EEXIST);
	assert_int_equal(virtio_vsock_new(vm, "v", 2, "/tmp/x", &err), -EINVAL);
	machine_free(vm);
}

/* The driver asks to be told of the next one. */
static void ask_irq(struct drv_queue *q)
{
	__atomic_store_n(&q->avail[2 + q->size], q->last_used, __ATOMIC_SEQ_CST);
}

/* Sends `n` bytes: whether the driver is told within `limit` seconds that they were taken; it is in
 * the end. */
static bool told_within(struct fixture *f, int fd, uint32_t host_port, uint32_t n, double limit)
{
	static uint8_t data[2048], got[2048];
	const double t = seconds();
	bool told = false;

	ask_irq(&f->drv.q[TX]);
	guest_send(f, PORT, host_port, VIRTIO_VSOCK_OP_RW, data, n);
	while (!told && seconds() - t < limit)
		told = irqs(f->d) > 0;
	if (!told)
		wait_for(irqs(f->d));
	assert_int_equal(recv(fd, got, n, MSG_WAITALL), n);
	return told;
}

/* A large one at once. Each is tried until this process was on time. */
static void that_a_small_packet_was_taken_is_told_later(void **state)
{
	struct fixture *f = *state;
	bool small_waits = false, large_does_not = false;
	uint32_t host_port;

	guest_up(f, 8);
	int fd = opened(f, &host_port);
	told_within(f, fd, host_port, 1, 0);
	for (int i = 0; i < 20 && !(small_waits && large_does_not); i++) {
		small_waits |= !told_within(f, fd, host_port, 1, 0.015);
		large_does_not |= told_within(f, fd, host_port, 2048, 0.015);
	}
	assert_true(small_waits);
	assert_true(large_does_not);
	close(fd);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		TEST(says_its_cid),
		TEST(host_connects_and_bytes_flow_both_ways),
		TEST(bytes_sent_with_the_greeting_follow_it),
		TEST(to_the_early_port_first_bytes_go_along_with_the_request),
		TEST(to_another_port_bytes_wait_for_the_answer),
		TEST(early_bytes_are_no_more_than_agreed),
		TEST(refused_by_the_guest_with_early_bytes),
		TEST(early_bytes_may_be_all_there_is),
		TEST(bad_greetings_are_hung_up_on),
		TEST(without_a_driver_clients_are_hung_up_on),
		TEST(refused_by_the_guest),
		TEST(client_that_leaves_early_is_withdrawn),
		TEST(guest_connects_to_a_host_socket),
		TEST(guest_connect_to_nothing_is_reset),
		TEST(host_cannot_send_beyond_the_guests_credit),
		TEST(guest_gets_credit_back_as_the_host_reads),
		TEST(every_byte_arrives_in_order_at_a_slow_reader),
		TEST(guest_that_ignores_credit_is_reset),
		TEST(credit_request_is_answered),
		TEST(that_a_small_packet_was_taken_is_told_later),
		cmocka_unit_test(bad_places_are_refused),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}

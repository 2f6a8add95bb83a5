/*
 * The vsock device: the test plays the guest's driver on the rings and the host's programs on
 * Unix sockets.
 */
#include "tests/unit/virtio_driver.h"

#include <endian.h>
#include <errno.h>
#include <fcntl.h>
#include <linux/virtio_ids.h>
#include <linux/virtio_vsock.h>
#include <stdio.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>

#include "runner/devices/virtio_vsock.h"

#define CID	  3
#define HOST	  2
#define PORT	  1024
#define GUEST_BUF (64u << 10) /* the credit the test's guest gives */
#define RX_BUF	  4096u
#define SHUT_BOTH (VIRTIO_VSOCK_SHUTDOWN_RCV | VIRTIO_VSOCK_SHUTDOWN_SEND)
#define HDR	  sizeof(struct virtio_vsock_hdr)

enum { RX, TX, EVENT };

struct fixture {
	char dir[64], path[96];
	struct vm *vm;
	struct device *d;
	struct drv drv;
	uint64_t rx_mem, tx_mem, event_mem;
	uint32_t fwd_cnt; /* what the guest says it has consumed */
};

/* A packet the guest got: header and payload, copied out. */
struct packet {
	struct virtio_vsock_hdr h;
	uint8_t data[RX_BUF];
	uint32_t len;
};

static void give_rx(struct fixture *f, unsigned slot)
{
	drv_add(&f->drv.q[RX], (struct seg[]){{f->rx_mem + slot * RX_BUF, RX_BUF, true}}, 1);
}

/* The driver comes up, with `rx` receive buffers. */
static void guest_up(struct fixture *f, unsigned rx)
{
	drv_start(&f->drv, f->d, 3, VIRTIO_BIT(VIRTIO_RING_F_EVENT_IDX));
	f->rx_mem = drv_alloc(&f->drv, TEST_QUEUE_SIZE * RX_BUF);
	f->tx_mem = drv_alloc(&f->drv, 128 * KIB);
	f->event_mem = drv_alloc(&f->drv, 64);
	for (unsigned i = 0; i < rx; i++)
		give_rx(f, i);
	drv_add(&f->drv.q[EVENT], (struct seg[]){{f->event_mem, 4, true}}, 1);
	drv_kick(&f->drv.q[EVENT]);
	drv_kick(&f->drv.q[RX]);
}

static struct vm *vsock_machine(struct device **d, const char *path)
{
	struct vm *vm = machine();
	struct err err = ERR_INIT;

	assert_int_equal(virtio_vsock_new(vm, "vsock0", CID, path, &err), 0);
	*d = vm_find_device(vm, "vsock0");
	count_irqs(*d);
	return vm;
}

static int set_up(void **state)
{
	struct fixture *f = calloc(1, sizeof(*f));

	strcpy(f->dir, "/tmp/vsock-test.XXXXXX");
	assert_non_null(mkdtemp(f->dir));
	snprintf(f->path, sizeof(f->path), "%s/v.sock", f->dir);
	f->vm = vsock_machine(&f->d, f->path);
	machine_start(f->vm);
	*state = f;
	return 0;
}

static int tear_down(void **state)
{
	struct fixture *f = *state;

	machine_free(f->vm);
	assert_int_equal(access(f->path, F_OK), -1); /* the socket went with the device */
	assert_int_equal(rmdir(f->dir), 0);
	free(f);
	return 0;
}

/* ---- the guest ------------------------------------------------------------------------------ */

static struct packet *guest_recv(struct fixture *f)
{
	struct packet *p = calloc(1, sizeof(*p));
	struct drv_queue *q = &f->drv.q[RX];
	uint16_t head;
	uint32_t n = drv_take(q, &head);

	assert_in_range(n, HDR, RX_BUF);
	memcpy(&p->h, guest(f->vm, q->desc[head].addr), HDR);
	p->len = le32toh(p->h.len);
	assert_int_equal(p->len, n - HDR);
	memcpy(p->data, (uint8_t *)guest(f->vm, q->desc[head].addr) + HDR, p->len);
	assert_int_equal(le64toh(p->h.src_cid), HOST);
	assert_int_equal(le64toh(p->h.dst_cid), CID);
	drv_offer(q, head);
	drv_kick(q);
	return p;
}

/* The next packet is `op`: its ports (the guest's, then the host's). */
static void expect(struct fixture *f, uint16_t op, uint32_t *host_port)
{
	struct packet *p = guest_recv(f);

	assert_int_equal(le16toh(p->h.op), op);
	if (host_port)
		*host_port = le32toh(p->h.src_port);
	free(p);
}

static uint32_t expect_shutdown(struct fixture *f)
{
	struct packet *p = guest_recv(f);
	uint32_t flags = le32toh(p->h.flags);

	assert_int_equal(le16toh(p->h.op), VIRTIO_VSOCK_OP_SHUTDOWN);
	free(p);
	return flags;
}

static struct virtio_vsock_hdr header(struct fixture *f, uint32_t guest_port, uint32_t host_port,
				      uint16_t op, uint32_t len)
{
	return (struct virtio_vsock_hdr){
		.src_cid = htole64(CID),
		.dst_cid = htole64(HOST),
		.src_port = htole32(guest_port),
		.dst_port = htole32(host_port),
		.len = htole32(len),
		.type = htole16(VIRTIO_VSOCK_TYPE_STREAM),
		.op = htole16(op),
		.buf_alloc = htole32(GUEST_BUF),
		.fwd_cnt = htole32(f->fwd_cnt),
	};
}

static void send_raw(struct fixture *f, struct virtio_vsock_hdr h, const void *data, uint32_t len)
{
	memcpy(guest(f->vm, f->tx_mem), &h, HDR);
	if (len)
		memcpy(guest(f->vm, f->tx_mem + HDR), data, len);
	drv_add(&f->drv.q[TX],
		(struct seg[]){{f->tx_mem, HDR, false}, {f->tx_mem + HDR, len, false}},
		len ? 2 : 1);
	drv_kick(&f->drv.q[TX]);
}

static void guest_send(struct fixture *f, uint32_t guest_port, uint32_t host_port, uint16_t op,
		       const void *data, uint32_t len)
{
	send_raw(f, header(f, guest_port, host_port, op, len), data, len);
	drv_take(&f->drv.q[TX], NULL);
}

static void guest_shutdown(struct fixture *f, uint32_t guest_port, uint32_t host_port,
			   uint32_t flags)
{
	struct virtio_vsock_hdr h = header(f, guest_port, host_port, VIRTIO_VSOCK_OP_SHUTDOWN, 0);

	h.flags = htole32(flags);
	send_raw(f, h, NULL, 0);
	drv_take(&f->drv.q[TX], NULL);
}

/* ---- the host ------------------------------------------------------------------------------- */

static int host_connect(const char *path)
{
	struct sockaddr_un a = {.sun_family = AF_UNIX};
	struct timeval limit = {.tv_sec = 10};
	int fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);

	strcpy(a.sun_path, path);
	assert_int_equal(connect(fd, (struct sockaddr *)&a, sizeof(a)), 0);
	setsockopt(fd, SOL_SOCKET, SO_RCVTIMEO, &limit, sizeof(limit));
	return fd;
}

static void host_say(int fd, const char *s)
{
	assert_int_equal(send(fd, s, strlen(s), MSG_NOSIGNAL), strlen(s));
}

static void host_expect(int fd, const char *s)
{
	char got[64] = "";

	assert_int_equal(recv(fd, got, strlen(s), MSG_WAITALL), strlen(s));
	assert_string_equal(got, s);
}

static void host_expect_eof(int fd)
{
	char c;

	assert_int_equal(recv(fd, &c, 1, 0), 0);
}

static int host_listen_on(struct fixture *f, uint32_t port, char path[static 108])
{
	struct sockaddr_un a = {.sun_family = AF_UNIX};
	int fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);

	snprintf(path, 108, "%s_%u", f->path, port);
	strcpy(a.sun_path, path);
	assert_int_equal(bind(fd, (struct sockaddr *)&a, sizeof(a)), 0);
	assert_int_equal(listen(fd, 8), 0);
	return fd;
}

/* A connection from the host, open: its fd and the host's port. */
static int opened(struct fixture *f, uint32_t *host_port)
{
	int fd = host_connect(f->path);
	char ok[32];

	host_say(fd, "CONNECT 1024\n");
	expect(f, VIRTIO_VSOCK_OP_REQUEST, host_port);
	guest_send(f, PORT, *host_port, VIRTIO_VSOCK_OP_RESPONSE, NULL, 0);
	snprintf(ok, sizeof(ok), "OK %u\n", *host_port);
	host_expect(fd, ok);
	return fd;
}

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
		double end = seconds() + 0.05;

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

#define TEST(f) cmocka_unit_test_setup_teardown(f, set_up, tear_down)

int main(void)
{
	const struct CMUnitTest tests[] = {
		TEST(says_its_cid),
		TEST(host_connects_and_bytes_flow_both_ways),
		TEST(bytes_sent_with_the_greeting_follow_it),
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
		cmocka_unit_test(bad_places_are_refused),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}

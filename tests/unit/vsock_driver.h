/*
 * vsock_driver.h - for the tests of the vsock device: the test plays the guest's driver on the
 * rings and the host's programs on Unix sockets.
 */
#ifndef TESTS_UNIT_VSOCK_DRIVER_H
#define TESTS_UNIT_VSOCK_DRIVER_H

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

static inline void give_rx(struct fixture *f, unsigned slot)
{
	drv_add(&f->drv.q[RX], (struct seg[]){{f->rx_mem + slot * RX_BUF, RX_BUF, true}}, 1);
}

/* The driver comes up, with `rx` receive buffers. */
static inline void guest_up(struct fixture *f, unsigned rx)
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

static inline struct vm *vsock_machine(struct device **d, const char *path)
{
	struct vm *vm = machine();
	struct err err = ERR_INIT;

	assert_int_equal(virtio_vsock_new(vm, "vsock0", CID, path, &err), 0);
	*d = vm_find_device(vm, "vsock0");
	count_irqs(*d);
	return vm;
}

static inline int set_up(void **state)
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

static inline int tear_down(void **state)
{
	struct fixture *f = *state;

	machine_free(f->vm);
	assert_int_equal(access(f->path, F_OK), -1); /* the socket went with the device */
	assert_int_equal(rmdir(f->dir), 0);
	free(f);
	return 0;
}

/* ---- the guest ------------------------------------------------------------------------------ */

static inline struct packet *guest_recv(struct fixture *f)
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
static inline void expect(struct fixture *f, uint16_t op, uint32_t *host_port)
{
	struct packet *p = guest_recv(f);

	assert_int_equal(le16toh(p->h.op), op);
	if (host_port)
		*host_port = le32toh(p->h.src_port);
	free(p);
}

static inline uint32_t expect_shutdown(struct fixture *f)
{
	struct packet *p = guest_recv(f);
	uint32_t flags = le32toh(p->h.flags);

	assert_int_equal(le16toh(p->h.op), VIRTIO_VSOCK_OP_SHUTDOWN);
	free(p);
	return flags;
}

static inline struct virtio_vsock_hdr header(struct fixture *f, uint32_t guest_port,
					     uint32_t host_port, uint16_t op, uint32_t len)
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

static inline void send_raw(struct fixture *f, struct virtio_vsock_hdr h, const void *data,
			    uint32_t len)
{
	memcpy(guest(f->vm, f->tx_mem), &h, HDR);
	if (len)
		memcpy(guest(f->vm, f->tx_mem + HDR), data, len);
	drv_add(&f->drv.q[TX],
		(struct seg[]){{f->tx_mem, HDR, false}, {f->tx_mem + HDR, len, false}},
		len ? 2 : 1);
	drv_kick(&f->drv.q[TX]);
}

static inline void guest_send(struct fixture *f, uint32_t guest_port, uint32_t host_port,
			      uint16_t op, const void *data, uint32_t len)
{
	send_raw(f, header(f, guest_port, host_port, op, len), data, len);
	drv_take(&f->drv.q[TX], NULL);
}

static inline void guest_shutdown(struct fixture *f, uint32_t guest_port, uint32_t host_port,
				  uint32_t flags)
{
	struct virtio_vsock_hdr h = header(f, guest_port, host_port, VIRTIO_VSOCK_OP_SHUTDOWN, 0);

	h.flags = htole32(flags);
	send_raw(f, h, NULL, 0);
	drv_take(&f->drv.q[TX], NULL);
}

/* ---- the host ------------------------------------------------------------------------------- */

static inline int host_connect(const char *path)
{
	struct sockaddr_un a = {.sun_family = AF_UNIX};
	struct timeval limit = {.tv_sec = 60};
	int fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);

	strcpy(a.sun_path, path);
	assert_int_equal(connect(fd, (struct sockaddr *)&a, sizeof(a)), 0);
	setsockopt(fd, SOL_SOCKET, SO_RCVTIMEO, &limit, sizeof(limit));
	return fd;
}

static inline void host_say(int fd, const char *s)
{
	assert_int_equal(send(fd, s, strlen(s), MSG_NOSIGNAL), strlen(s));
}

static inline void host_expect(int fd, const char *s)
{
	char got[64] = "";

	assert_int_equal(recv(fd, got, strlen(s), MSG_WAITALL), strlen(s));
	assert_string_equal(got, s);
}

static inline void host_expect_eof(int fd)
{
	char c;

	assert_int_equal(recv(fd, &c, 1, 0), 0);
}

static inline int host_listen_on(struct fixture *f, uint32_t port, char path[static 108])
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
static inline int opened(struct fixture *f, uint32_t *host_port)
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

#define TEST(f) cmocka_unit_test_setup_teardown(f, set_up, tear_down)

#endif

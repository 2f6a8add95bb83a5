/*
 * virtio_vsock_conn.h - private to virtio_vsock*.c: the device, its connections, and who calls
 * whom.
 *
 *     virtio_vsock.c       queues, packets in and out, events, state. Calls conn_*.
 *     virtio_vsock_conn.c  one connection: its states, credit, and its Unix socket.
 *     virtio_vsock_host.c  how connections begin on the host's side: listener, greeting, dialling.
 *
 * A CONNECTION has a name of two ports, and what it still has to tell the guest as bits in `todo`:
 * nothing is queued as a packet. While it has something to tell it is in the device's ready list;
 * when the receive queue has a buffer, conn_packet() turns the next bit into a packet. So the
 * guest's not supplying buffers costs no memory.
 *
 *     GREETING   host client, CONNECT line not whole         -> REQUESTED | gone
 *     REQUESTED  guest asked, or about to be                 -> OPEN | gone
 *     OPEN       bytes flow; each direction ends on its own  -> CLOSING | gone
 *     CLOSING    the Unix socket is done with; the guest has been told, or is about to be -> gone
 *
 * CREDIT. From the guest: it may have VSOCK_BUF bytes with us that the Unix socket has not taken
 * (received - forwarded); more is a violation and resets the connection. To the guest: sent -
 * peer_forwarded never passes peer_alloc; without credit the Unix socket is left unread. To the
 * early port there is some before the guest has told any. All counters are 32 bits and wrap.
 *
 * `gone`: conn_free() takes a connection out of everything at once. A function that may do so
 * says so; the caller then must not touch it.
 *
 * Threads: the I/O thread, with the device lock held.
 */
#ifndef RUNNER_DEVICES_VIRTIO_VSOCK_CONN_H
#define RUNNER_DEVICES_VIRTIO_VSOCK_CONN_H

#include <linux/virtio_vsock.h>
#include <sys/queue.h>
#include <sys/uio.h>
#include <sys/un.h>

#include "runner/devices/virtio_mmio.h"
#include "runner/devices/virtio_vsock.h"

#define VSOCK_HOST_CID 2
#define VSOCK_PORT_ANY 0xffffffffu
#define VSOCK_BUCKETS  256
#define VSOCK_LINE_MAX 32
#define VSOCK_MAX_RSTS 64
/* Leaves room in sun_path for "_<port>", so that no guest-to-host connection fails for it. */
#define VSOCK_PATH_MAX	   (sizeof(((struct sockaddr_un *)0)->sun_path) - (sizeof("_4294967295") - 1))
#define VSOCK_GREETING_SEC 30 /* to say CONNECT, and for the guest to accept */
#define VSOCK_CLOSING_SEC  10 /* for the guest to agree that it is over */
#define VSOCK_EVENT_SEC	   20 /* for the guest to take in TRANSPORT_RESET */

enum conn_state { CONN_GREETING, CONN_REQUESTED, CONN_OPEN, CONN_CLOSING };

/* What the guest is still to be told. RST is the last packet of a connection. */
enum conn_todo {
	TODO_REQUEST = 1,
	TODO_RESPONSE = 2,
	TODO_CREDIT_UPDATE = 4,
	TODO_SHUTDOWN = 8,
	TODO_RST = 16,
};

struct vsock_conn {
	struct vsock *s;
	LIST_ENTRY(vsock_conn) all;
	LIST_ENTRY(vsock_conn) hash; /* when named */
	TAILQ_ENTRY(vsock_conn) ready;
	bool named, is_ready;
	enum conn_state state;
	uint32_t host_port, guest_port;
	unsigned todo;
	uint64_t deadline; /* seconds of CLOCK_MONOTONIC, 0: none */

	int fd; /* -1: done with */
	struct loop_watch *watch;
	uint32_t watched;
	char line[VSOCK_LINE_MAX + 1];
	unsigned line_len;

	bool readable;			/* the Unix socket may have bytes */
	bool eof;			/* … and will have no more */
	bool hup;			/* its peer is gone altogether */
	bool deaf;			/* its peer takes no more bytes */
	uint32_t guest_shut, told_shut; /* VIRTIO_VSOCK_SHUTDOWN_* the guest said, we said */
	bool write_shut, read_shut;	/* … and it is done to the Unix socket */

	uint8_t *buf; /* VSOCK_BUF bytes, allocated while needed: what the Unix socket did not take
		       */
	size_t buf_at, buf_len;
	uint32_t received, forwarded, told_forwarded;
	uint32_t peer_alloc, peer_forwarded, sent;
	bool asked_credit;
};

enum vsock_event { EVENT_NONE, EVENT_PENDING, EVENT_SENT };

struct vsock {
	struct virtio_device v;
	struct virtio_vsock_config config;
	LIST_HEAD(, vsock_conn) all, hash[VSOCK_BUCKETS];
	TAILQ_HEAD(, vsock_conn) ready;
	unsigned nconns;
	uint32_t next_port;
	uint32_t early_port; /* VSOCK_PORT_ANY: none */

	/* Resets owed to what has no connection. */
	struct vsock_rst {
		uint32_t host_port, guest_port;
	} rst[VSOCK_MAX_RSTS];
	unsigned nrst;
	bool tx_held; /* transmit queue not read on, for want of room there */

	char path[VSOCK_PATH_MAX];
	int listen_fd;
	struct loop_watch *listen_watch;
	uint64_t listen_again; /* deadline: not before, for want of descriptors */
	int work_fd;	       /* has vsock_work() run on the I/O thread */
	struct loop_watch *work_watch;
	int timer_fd; /* ticks each second while anything has a deadline */
	struct loop_watch *timer_watch;
	bool ticking;
	int taken_fd; /* a timer: the guest is to be told by then that its packets were taken */
	struct loop_watch *taken_watch;
	bool taken_armed;

	bool forget; /* the driver reset or broke the device: drop all connections */
	bool loaded; /* the connections the guest believes in are another machine's */
	enum vsock_event event;
	uint16_t event_at;
	uint64_t event_deadline;
};

/* ---- virtio_vsock.c */
/* Tell the guest what there is to tell, as far as it has buffers. May free. */
void vsock_pump(struct vsock *s);
/* Have the ticks look at *when, `seconds` from now. */
void vsock_deadline(struct vsock *s, uint64_t *when, unsigned seconds);

/* ---- virtio_vsock_conn.c */
/* Takes over `fd` unless it returns NULL (out of memory). */
struct vsock_conn *conn_new(struct vsock *s, int fd, enum conn_state state);
void conn_free(struct vsock_conn *c);
struct vsock_conn *conn_find(struct vsock *s, uint32_t host_port, uint32_t guest_port);
void conn_name(struct vsock_conn *c, uint32_t host_port, uint32_t guest_port);
/* There is `todo` to tell, or (0) maybe bytes. */
void conn_ready(struct vsock_conn *c, unsigned todo);
/* Watch the Unix socket for exactly what can be acted on now. */
void conn_watch(struct vsock_conn *c);
/* Over, at once; the guest is told by RST. */
void conn_abort(struct vsock_conn *c);
/* A packet of the guest for this connection, its `len` bytes in `data`. May free. */
void conn_receive(struct vsock_conn *c, const struct virtio_vsock_hdr *h, struct iovec *data,
		  unsigned n, uint32_t len);
/*
 * The next packet, if there is one: fills `h`, and for RW the room `data` with h->len bytes. Called
 * with `c` taken off the ready list; puts it back if there may be more. May free.
 */
bool conn_packet(struct vsock_conn *c, struct virtio_vsock_hdr *h, struct iovec *data, unsigned n);

/* ---- virtio_vsock_host.c */
int host_listen(struct vsock *s, const char *uds_path, struct err *err);
void host_close(struct vsock *s);
void host_watch(struct vsock *s); /* accept clients exactly when there is room */
/* More of a client's CONNECT line may be there. May free. */
void host_greeting(struct vsock_conn *c);
/* The guest accepted: say so. -errno: the client is gone. */
int host_greet(struct vsock_conn *c);
/* A connected socket to <path>_<port>, or -errno. */
int host_dial(struct vsock *s, uint32_t port);

#endif

/*
 * virtio_vsock.h - sockets between guest and host without a network, the host's end as Unix
 * sockets.
 *
 * HOST TO GUEST. A client connects to `uds_path` and sends "CONNECT <port>\n". When a listener in
 * the guest accepts it gets "OK <hostport>\n", and from then on the stream is the guest's. When
 * none does, or no driver is up, the connection is closed without a word. GUEST TO HOST. A connect
 * of the guest to CID 2, port P goes to the Unix socket `<uds_path>_P`.
 *
 * STREAM sockets only. Memory is bounded: VSOCK_MAX_CONNS connections, VSOCK_BUF bytes each from
 * the guest (its credit), nothing buffered towards it (the Unix socket is not read without credit).
 *
 * What a client sends right behind its line waits for the guest to accept, and so costs the guest
 * an interrupt and a wake-up of its own; unless it is for the early port, see virtio_vsock_early().
 *
 * SNAPSHOT. Connections belong to the machine that has them: nothing of them is saved, and a
 * snapshot does not touch those of the running machine. A restored guest is told by a
 * TRANSPORT_RESET event: it drops its connections and keeps its listeners. Clients of the restored
 * machine wait until the guest has taken that event in, or their new connections would be
 * reset with the old ones.
 *
 * `uds_path` is made (an old socket there is replaced) by the constructor and removed with the
 * device.
 */
#ifndef RUNNER_DEVICES_VIRTIO_VSOCK_H
#define RUNNER_DEVICES_VIRTIO_VSOCK_H

#include <stdbool.h>
#include <stdint.h>

#include "runner/vm/vm.h"

#define VSOCK_MAX_CONNS 1024
#define VSOCK_BUF	(128u << 10)
#define VSOCK_EARLY	(16u << 10)

int virtio_vsock_new(struct vm *vm, const char *id, uint64_t guest_cid, const char *uds_path,
		     struct err *err);
/*
 * A client's first VSOCK_EARLY bytes to guest port `port` go along with the request for the
 * connection, in one interrupt. What room a listener has is known only from its answer, so virtio
 * leaves that to who knows it beforehand: `port` is to be one whose listener takes as much. Linux's
 * gives a socket 256 KiB unless it asks for less, and connects it when it takes in the request, so
 * that bytes right behind find it; where it refuses, each of the two is answered by a reset, and
 * the client is hung up on as ever. `d` is one of these. None by default.
 */
void virtio_vsock_early(struct device *d, uint32_t port);
/*
 * For a machine that becomes another in place, its devices quiet and the device lock held. `d` is
 * one of these. First every connection is closed, and the listener with what waits there: nobody
 * reaches the new guest through what was meant for the old one. Then, the new state loaded, it
 * listens again.
 */
void virtio_vsock_drop(struct device *d);
int virtio_vsock_reopen(struct device *d, struct err *err);
/* Bytes are on their way between the guest and a client. The device lock is held. */
bool virtio_vsock_busy(const struct device *d);

#endif

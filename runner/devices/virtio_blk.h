/*
 * virtio_blk.h - a raw file or block device as a guest's disk.
 *
 * I/O runs on one worker thread, in the order of the ring, through a buffer of the host's own:
 * guest memory is touched under the device lock only, so that a request cannot outlive a reset or
 * tear a snapshot. One thread also makes a flush mean what it says: everything before it is
 * written. At most VIRTIO_BLK_INFLIGHT bytes are on their way; the rest waits in the ring.
 *
 * The disk's serial number is the device's id. Sizes are whole sectors of 512 bytes; an odd tail of
 * the file is out of reach. The file is held open and locked (flock: shared for a
 * read-only disk, exclusive otherwise) as long as the device lives.
 *
 * A snapshot has the device's registers, not the medium's content: the size is checked on load,
 * keeping the file as it was is the caller's business.
 */
#ifndef RUNNER_DEVICES_VIRTIO_BLK_H
#define RUNNER_DEVICES_VIRTIO_BLK_H

#include <stdbool.h>

#include "runner/vm/vm.h"

#define VIRTIO_BLK_INFLIGHT (8u << 20)
#define VIRTIO_BLK_REQUEST  (1u << 20) /* data bytes of one request */

int virtio_blk_new(struct vm *vm, const char *id, const char *path, bool readonly, struct err *err);

#endif

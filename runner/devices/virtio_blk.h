/*
 * virtio_blk.h - a guest's disk (disk.h).
 *
 * I/O runs on one worker thread, in the order of the ring, through a buffer of the host's own:
 * guest memory is touched under the device lock only, so that a request cannot outlive a reset or
 * tear a snapshot. One thread also makes a flush mean what it says: everything before it is
 * written. At most VIRTIO_BLK_INFLIGHT bytes are on their way; the rest waits in the ring.
 *
 * The disk's serial number is the device's id.
 *
 * The state that is saved is the device's registers. The content is apart from that:
 * virtio_blk_freeze(), between quiesce and resume, gives what belongs to the same instant. On load
 * the size is checked.
 */
#ifndef RUNNER_DEVICES_VIRTIO_BLK_H
#define RUNNER_DEVICES_VIRTIO_BLK_H

#include "runner/devices/disk.h"
#include "runner/vm/vm.h"

#define VIRTIO_BLK_INFLIGHT (8u << 20)
#define VIRTIO_BLK_REQUEST  (1u << 20) /* data bytes of one request */

/* `disk` is taken over in any case. */
int virtio_blk_new(struct vm *vm, const char *id, struct disk *disk, struct err *err);
/* With the device quiet. `d` is one of these. */
int virtio_blk_freeze(struct device *d, struct disk_view **out, struct err *err);
/*
 * Likewise quiet: another content for a machine that becomes another. `disk` is taken over in any
 * case. ENOTSUP: it is not of the same kind and size.
 */
int virtio_blk_replace(struct device *d, struct disk *disk, struct err *err);

#endif

/*
 * virtio_rng.h - the host's random numbers for the guest.
 *
 * RATE. getrandom(2) costs the host a core at some 400 MB/s, and a guest may ask for ever. At most
 * VIRTIO_RNG_BUDGET bytes are given per VIRTIO_RNG_PERIOD_MS, and at most VIRTIO_RNG_REQUEST at
 * once; what is beyond waits in the ring for the next period.
 *
 * AFTER A RESTORE a Linux guest may still hold a buffer (64 bytes) that was filled before the
 * snapshot, the same in every copy. So this device does not make copies differ; the generation
 * contract does.
 */
#ifndef RUNNER_DEVICES_VIRTIO_RNG_H
#define RUNNER_DEVICES_VIRTIO_RNG_H

#include "runner/vm/vm.h"

#define VIRTIO_RNG_PERIOD_MS 100
#define VIRTIO_RNG_BUDGET    (256u << 10)
#define VIRTIO_RNG_REQUEST   (64u << 10)

int virtio_rng_new(struct vm *vm, const char *id, struct err *err);

#endif

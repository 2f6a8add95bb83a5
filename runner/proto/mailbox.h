/*
 * mailbox.h - the generation mailbox: one reserved page of guest RAM, written by the runner while
 * no vCPU runs (cold boot and each restore) and read by the guest. Little endian.
 *
 *     0  u32  magic "SMgm" 0x6d674d53
 *     4  u32  version 1
 *     8  u64  generation number
 *    16  u8[16] generation uuid
 *    32  u64  host CLOCK_REALTIME in ns when written
 *
 * The page is E820-reserved, so a guest maps it through /dev/mem at bootconf's mailbox_gpa.
 */
#ifndef RUNNER_PROTO_MAILBOX_H
#define RUNNER_PROTO_MAILBOX_H

#include <stdbool.h>
#include <stdint.h>

#define MAILBOX_SIZE	4096u
#define MAILBOX_MAGIC	0x6d674d53u
#define MAILBOX_VERSION 1u
#define MAILBOX_LEN	40u

struct mailbox {
	uint64_t generation;
	uint8_t uuid[16];
	uint64_t wall_ns;
};

/* Writes MAILBOX_LEN bytes. */
void mailbox_put(uint8_t page[MAILBOX_LEN], const struct mailbox *m);
/* false when the page holds no mailbox (magic or version). */
bool mailbox_get(const uint8_t page[MAILBOX_LEN], struct mailbox *m);

#endif

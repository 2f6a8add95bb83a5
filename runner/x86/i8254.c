#include "runner/x86/i8254.h"

#include <stdbool.h>

#define HZ		1193182ull
#define NS_PER_S	1000000000ull
#define COUNT_MAX	0x10000u
#define READ_BACK	3
#define READ_NO_COUNT	0x20
#define READ_NO_STATUS	0x10
#define GATE		0x01
#define SPEAKER_DATA	0x02
#define REFRESH_SHIFT	4
#define OUT_SHIFT	5
#define REFRESH_NS_BITS 14 /* the refresh clock turns over every 16 us */

/* Since Linux 5.18. */
#ifndef KVM_PIT_FLAGS_SPEAKER_DATA_ON
#define KVM_PIT_FLAGS_SPEAKER_DATA_ON 0x2
#endif

/* Of rw_mode, read_state, write_state and count_latched: which byte is next. */
enum { LSB = 1, MSB, WORD0, WORD1 };

static uint32_t count_of(const struct kvm_pit_channel_state *c)
{
	return c->count && c->count <= COUNT_MAX ? c->count : COUNT_MAX;
}

static uint64_t ticks_since_load(const struct kvm_pit_channel_state *c, uint64_t now)
{
	const uint64_t loaded = c->count_load_time > 0 ? (uint64_t)c->count_load_time : 0;

	return now > loaded ? (uint64_t)((unsigned __int128)(now - loaded) * HZ / NS_PER_S) : 0;
}

static uint16_t counter(const struct kvm_pit_channel_state *c, uint64_t now)
{
	const uint64_t d = ticks_since_load(c, now);
	const uint32_t n = count_of(c);

	switch (c->mode) {
	case 0:
	case 1:
	case 4:
	case 5:
		return (uint16_t)(n - d);
	case 3: /* counts by two */
		return (uint16_t)(n - 2 * d % n);
	default:
		return (uint16_t)(n - d % n);
	}
}

static bool output(const struct kvm_pit_channel_state *c, uint64_t now)
{
	const uint64_t d = ticks_since_load(c, now);
	const uint32_t n = count_of(c);

	switch (c->mode) {
	case 1:
		return d < n;
	case 2:
		return d && d % n == 0;
	case 3:
		return d % n < (n + 1) / 2;
	case 4:
	case 5:
		return d == n;
	default:
		return d >= n;
	}
}

static void latch_count(struct kvm_pit_channel_state *c, uint64_t now)
{
	if (c->count_latched)
		return;
	c->latched_count = counter(c, now);
	c->count_latched = c->rw_mode;
}

static void latch_status(struct kvm_pit_channel_state *c, uint64_t now)
{
	if (c->status_latched)
		return;
	c->status = (uint8_t)(output(c, now) << 7 | c->rw_mode << 4 | c->mode << 1 | c->bcd);
	c->status_latched = 1;
}

static void control(struct kvm_pit_state2 *s, uint8_t v, uint64_t now)
{
	const unsigned which = v >> 6, access = v >> 4 & 3;

	if (which == READ_BACK) {
		for (unsigned i = 0; i < I8254_CHANNELS; i++) {
			if (!(v & 2u << i))
				continue;
			if (!(v & READ_NO_COUNT))
				latch_count(&s->channels[i], now);
			if (!(v & READ_NO_STATUS))
				latch_status(&s->channels[i], now);
		}
		return;
	}
	struct kvm_pit_channel_state *c = &s->channels[which];
	if (!access) {
		latch_count(c, now);
		return;
	}
	c->rw_mode = c->read_state = c->write_state = (uint8_t)access;
	c->mode = v >> 1 & 7;
	if (c->mode > 5)
		c->mode -= 4;
	c->bcd = v & 1;
}

static void load(struct kvm_pit_channel_state *c, uint32_t count, uint64_t now)
{
	c->count = count ? count : COUNT_MAX;
	c->count_load_time = (int64_t)now;
}

void i8254_write(struct kvm_pit_state2 *s, unsigned port, uint8_t v, uint64_t now)
{
	if (port >= I8254_CHANNELS) {
		control(s, v, now);
		return;
	}
	struct kvm_pit_channel_state *c = &s->channels[port];
	switch (c->write_state) {
	case MSB:
		load(c, (uint32_t)v << 8, now);
		break;
	case WORD0:
		c->write_latch = v;
		c->write_state = WORD1;
		break;
	case WORD1:
		load(c, c->write_latch | (uint32_t)v << 8, now);
		c->write_state = WORD0;
		break;
	default:
		load(c, v, now);
	}
}

static uint8_t read_latched(struct kvm_pit_channel_state *c)
{
	const uint8_t which = c->count_latched;

	c->count_latched = which == WORD0 ? MSB : 0;
	return (uint8_t)(which == MSB ? c->latched_count >> 8 : c->latched_count);
}

uint8_t i8254_read(struct kvm_pit_state2 *s, unsigned port, uint64_t now)
{
	if (port >= I8254_CHANNELS)
		return 0;
	struct kvm_pit_channel_state *c = &s->channels[port];
	if (c->status_latched) {
		c->status_latched = 0;
		return c->status;
	}
	if (c->count_latched)
		return read_latched(c);
	const uint16_t n = counter(c, now);
	const uint8_t which = c->read_state;
	if (which == WORD0)
		c->read_state = WORD1;
	else if (which == WORD1)
		c->read_state = WORD0;
	return (uint8_t)(which == MSB || which == WORD1 ? n >> 8 : n);
}

void i8254_speaker_write(struct kvm_pit_state2 *s, uint8_t v, uint64_t now)
{
	struct kvm_pit_channel_state *c = &s->channels[2];
	const uint8_t gate = v & GATE;

	if (v & SPEAKER_DATA)
		s->flags |= KVM_PIT_FLAGS_SPEAKER_DATA_ON;
	else
		s->flags &= ~(uint32_t)KVM_PIT_FLAGS_SPEAKER_DATA_ON;
	/* A rising gate starts these anew. */
	if (gate && !c->gate && c->mode != 0 && c->mode != 4)
		c->count_load_time = (int64_t)now;
	c->gate = gate;
}

uint8_t i8254_speaker_read(const struct kvm_pit_state2 *s, uint64_t now)
{
	const struct kvm_pit_channel_state *c = &s->channels[2];

	return (uint8_t)((s->flags & KVM_PIT_FLAGS_SPEAKER_DATA_ON ? SPEAKER_DATA : 0) |
			 (c->gate ? GATE : 0) | output(c, now) << OUT_SHIFT |
			 (now >> REFRESH_NS_BITS & 1) << REFRESH_SHIFT);
}

enum i8254_irq i8254_irq(const struct kvm_pit_state2 *s)
{
	switch (s->channels[0].mode) {
	case 0:
	case 1:
	case 4:
		return I8254_ONCE;
	case 2:
	case 3:
		return I8254_PERIODIC;
	default:
		return I8254_SILENT;
	}
}

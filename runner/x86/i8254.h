/*
 * i8254.h - what an access to the interval timer's ports does to its state, as KVM's own model has
 * it.
 *
 * For a machine whose timer KVM has not been asked for yet (vm/pit.h): the access that finds it so
 * is answered here. `now` is CLOCK_MONOTONIC in nanoseconds, which KVM keeps count_load_time in.
 * Reading has side effects (latches), so it changes the state too.
 *
 * HOSTILE INPUT. A state comes from a snapshot: any value of any field is taken, and none of them
 * is an index or a divisor unchecked.
 */
#ifndef RUNNER_X86_I8254_H
#define RUNNER_X86_I8254_H

#include <linux/kvm.h>
#include <stdint.h>

#define I8254_PORT     0x40 /* three counters and the control word */
#define I8254_PORTS    4
#define I8254_CHANNELS 3
#define I8254_SPEAKER  0x61 /* gate and output of the third counter */

/* `port` from 0 to I8254_PORTS - 1. */
void i8254_write(struct kvm_pit_state2 *s, unsigned port, uint8_t v, uint64_t now);
uint8_t i8254_read(struct kvm_pit_state2 *s, unsigned port, uint64_t now);
void i8254_speaker_write(struct kvm_pit_state2 *s, uint8_t v, uint64_t now);
uint8_t i8254_speaker_read(const struct kvm_pit_state2 *s, uint64_t now);

/* What the first counter's interrupts are. */
enum i8254_irq { I8254_SILENT, I8254_ONCE, I8254_PERIODIC };
enum i8254_irq i8254_irq(const struct kvm_pit_state2 *s);

#endif

#include "runner/devices/serial.h"

#include "runner/vm/loop.h"
#include "runner/vm/vm.h"
#include "runner/x86/aml.h"
#include "runner/x86/layout.h"
#include "smfs/base/num.h"

#include <errno.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <unistd.h>

/* Registers and bits of the 16550A (National Semiconductor PC16550D data sheet). */
enum { DATA, IER, IIR_FCR, LCR, MCR, LSR, MSR, SCR, SERIAL_PORTS };

#define IER_RX	     0x01
#define IER_TX	     0x02
#define IER_LINE     0x04
#define IER_MASK     0x0f
#define IIR_NONE     0x01
#define IIR_TX	     0x02
#define IIR_RX	     0x04
#define IIR_LINE     0x06
#define IIR_FIFO     0xc0
#define FCR_ENABLE   0x01
#define FCR_CLEAR_RX 0x02
#define LCR_DLAB     0x80
#define MCR_MASK     0x1f
#define MCR_LOOP     0x10
#define LSR_DATA     0x01
#define LSR_OVERRUN  0x02
#define LSR_TX_EMPTY 0x60 /* holding register and shift register */
#define MSR_HERE     0xb0 /* carrier, data set ready, clear to send */

/*
 * More than the 16 bytes of the real chip: the guest sees a line that never overruns, whatever a
 * person pastes into a console.
 */
#define RX_MAX 4096

struct serial {
	struct device dev;
	serial_sink sink;
	void *sink_arg;

	uint8_t ier, lcr, mcr, scr, dll, dlm;
	bool fifo, overrun;
	bool tx_pending; /* the "transmitter empty" interrupt waits to be told */
	uint8_t rx[RX_MAX];
	unsigned rx_at, rx_len;

	bool raised; /* the interrupt condition as last signalled */
	bool quiet;  /* between quiesce and resume: input stays with its source */
	int input_fd;
	struct loop_watch *watch;
};

static struct serial *serial_of(struct device *d)
{
	return container_of(d, struct serial, dev);
}

static unsigned room(const struct serial *s)
{
	return RX_MAX - s->rx_len;
}

/* The highest of the pending interrupts the guest wants to hear of. */
static uint8_t cause(const struct serial *s)
{
	if (s->ier & IER_LINE && s->overrun)
		return IIR_LINE;
	if (s->ier & IER_RX && s->rx_len)
		return IIR_RX;
	if (s->ier & IER_TX && s->tx_pending)
		return IIR_TX;
	return IIR_NONE;
}

/* The line is edge-triggered: say each time the condition begins. */
static void update_irq(struct serial *s)
{
	bool now = cause(s) != IIR_NONE;

	if (now && !s->raised)
		device_irq(&s->dev);
	s->raised = now;
}

/* Listen to the input only while a byte of it could be taken. */
static void update_watch(struct serial *s)
{
	bool want = !s->quiet && room(s);

	if (s->watch)
		loop_modify(s->dev.vm->loop, s->watch, want ? EPOLLIN : 0, NULL);
}

static void rx_push(struct serial *s, uint8_t byte)
{
	s->rx[(s->rx_at + s->rx_len) % RX_MAX] = byte;
	s->rx_len++;
}

static uint8_t rx_pop(struct serial *s)
{
	uint8_t byte = 0;

	if (s->rx_len) {
		byte = s->rx[s->rx_at];
		s->rx_at = (s->rx_at + 1) % RX_MAX;
		s->rx_len--;
		update_watch(s);
	}
	return byte;
}

static void transmit(struct serial *s, uint8_t byte)
{
	s->tx_pending = false;
	update_irq(s);
	if (s->mcr & MCR_LOOP) {
		if (room(s))
			rx_push(s, byte);
		else
			s->overrun = true;
	} else if (s->sink) {
		s->sink(s->sink_arg, &byte, 1);
	}
	s->tx_pending = true; /* sent at once */
}

static uint8_t modem_status(const struct serial *s)
{
	if (!(s->mcr & MCR_LOOP))
		return MSR_HERE;
	/* Loopback: DTR, RTS, OUT1, OUT2 come back as DSR, CTS, RI, DCD. */
	return (s->mcr & 0x01) << 5 | (s->mcr & 0x02) << 3 | (s->mcr & 0x0c) << 4;
}

static uint8_t read_iir(struct serial *s)
{
	uint8_t c = cause(s);

	if (c == IIR_TX)
		s->tx_pending = false; /* reading says "heard" */
	return c | (s->fifo ? IIR_FIFO : 0);
}

static uint8_t read_lsr(struct serial *s)
{
	uint8_t v = LSR_TX_EMPTY | (s->rx_len ? LSR_DATA : 0) | (s->overrun ? LSR_OVERRUN : 0);

	s->overrun = false;
	return v;
}

static uint64_t serial_read(struct device *d, uint64_t off, unsigned len)
{
	struct serial *s = serial_of(d);
	uint8_t v = 0;

	switch (off) {
	case DATA:
		v = s->lcr & LCR_DLAB ? s->dll : rx_pop(s);
		break;
	case IER:
		v = s->lcr & LCR_DLAB ? s->dlm : s->ier;
		break;
	case IIR_FCR:
		v = read_iir(s);
		break;
	case LCR:
		v = s->lcr;
		break;
	case MCR:
		v = s->mcr;
		break;
	case LSR:
		v = read_lsr(s);
		break;
	case MSR:
		v = modem_status(s);
		break;
	case SCR:
		v = s->scr;
		break;
	}
	update_irq(s);
	return v;
}

static void write_ier(struct serial *s, uint8_t v)
{
	/* Enabling it while the transmitter is empty, which it always is, interrupts at once. */
	if (v & ~s->ier & IER_TX)
		s->tx_pending = true;
	s->ier = v & IER_MASK;
}

static void write_fcr(struct serial *s, uint8_t v)
{
	bool fifo = v & FCR_ENABLE;

	if (fifo != s->fifo || v & FCR_CLEAR_RX)
		s->rx_at = s->rx_len = 0;
	s->fifo = fifo;
	update_watch(s);
}

static void serial_write(struct device *d, uint64_t off, unsigned len, uint64_t value)
{
	struct serial *s = serial_of(d);
	uint8_t v = value;

	switch (off) {
	case DATA:
		if (s->lcr & LCR_DLAB)
			s->dll = v;
		else
			transmit(s, v);
		break;
	case IER:
		if (s->lcr & LCR_DLAB)
			s->dlm = v;
		else
			write_ier(s, v);
		break;
	case IIR_FCR:
		write_fcr(s, v);
		break;
	case LCR:
		s->lcr = v;
		break;
	case MCR:
		s->mcr = v & MCR_MASK;
		break;
	case SCR:
		s->scr = v;
		break;
	}
	update_irq(s);
}

size_t serial_input(struct device *d, const void *p, size_t n)
{
	struct serial *s = serial_of(d);
	size_t take = s->quiet ? 0 : MIN(n, room(s));

	for (size_t i = 0; i < take; i++)
		rx_push(s, ((const uint8_t *)p)[i]);
	update_watch(s);
	update_irq(s);
	return take;
}

static void input_ready(void *arg, uint32_t events)
{
	struct serial *s = arg;
	uint8_t buf[RX_MAX];
	unsigned want = s->quiet ? 0 : room(s);

	if (!want && !(events & (EPOLLHUP | EPOLLERR)))
		return;
	ssize_t n = want ? read(s->input_fd, buf, want) : 0;
	if (n > 0) {
		serial_input(&s->dev, buf, n);
	} else if (want ? n == 0 || (errno != EAGAIN && errno != EINTR) : true) {
		/* Hung up with the guest not reading: epoll would report it for ever. */
		loop_unwatch(s->dev.vm->loop, s->watch);
		s->watch = NULL;
		s->input_fd = -1;
	}
}

int serial_watch_input(struct device *d, int fd, struct err *err)
{
	struct serial *s = serial_of(d);

	loop_unwatch(d->vm->loop, s->watch);
	s->watch = NULL;
	s->input_fd = fd;
	if (fd < 0)
		return 0;
	int r = loop_watch(d->vm->loop, fd, EPOLLIN, input_ready, s, &s->watch, err);
	if (r < 0)
		return err_wrap(err, r, "%s: watch its input", d->id);
	update_watch(s);
	return 0;
}

static int serial_quiesce(struct device *d, struct err *err)
{
	struct serial *s = serial_of(d);

	s->quiet = true;
	update_watch(s);
	return 0;
}

static void serial_resume(struct device *d)
{
	struct serial *s = serial_of(d);

	s->quiet = false;
	update_watch(s);
	/*
	 * KVM may have been on its way to the interrupt controller with the edge when that was
	 * read: a snapshot then has it nowhere. A second one finds its reason still there, or not.
	 */
	if (s->raised)
		device_irq(&s->dev);
}

static void serial_save(struct device *d, struct writer *w)
{
	const struct serial *s = serial_of(d);

	put_u8(w, s->ier);
	put_u8(w, s->lcr);
	put_u8(w, s->mcr);
	put_u8(w, s->scr);
	put_u8(w, s->dll);
	put_u8(w, s->dlm);
	put_u8(w, s->fifo);
	put_u8(w, s->overrun);
	put_u8(w, s->tx_pending);
	put_u8(w, s->raised);
	put_u16(w, s->rx_len);
	for (unsigned i = 0; i < s->rx_len; i++)
		put_u8(w, s->rx[(s->rx_at + i) % RX_MAX]);
}

static int serial_load(struct device *d, uint16_t version, struct reader *r, struct err *err)
{
	struct serial *s = serial_of(d), n = *s;

	n.ier = get_u8(r);
	n.lcr = get_u8(r);
	n.mcr = get_u8(r);
	n.scr = get_u8(r);
	n.dll = get_u8(r);
	n.dlm = get_u8(r);
	uint8_t fifo = get_u8(r), overrun = get_u8(r), tx = get_u8(r), raised = get_u8(r);
	n.rx_at = 0;
	n.rx_len = get_u16(r);
	if (n.rx_len > RX_MAX || (n.ier & ~IER_MASK) || (n.mcr & ~MCR_MASK) ||
	    (fifo | overrun | tx | raised) > 1)
		return err_set(err, EBADMSG, "load %s: register out of range", d->id);
	get_bytes(r, n.rx, n.rx_len);
	if (!reader_done(r))
		return err_set(err, EBADMSG, "load %s: wrong length", d->id);
	n.fifo = fifo;
	n.overrun = overrun;
	n.tx_pending = tx;
	n.raised = raised;
	*s = n;
	return 0;
}

static void serial_aml(struct device *d, struct writer *w)
{
	size_t dev = aml_device(w, "COM1");

	aml_name_eisaid(w, "_HID", "PNP0501");
	aml_name_int(w, "_UID", 0);
	size_t crs = aml_resources(w);
	aml_io(w, d->base, d->size);
	aml_interrupt(w, d->gsi);
	aml_resources_end(w, crs);
	aml_end(w, dev);
}

static void serial_free(struct device *d)
{
	struct serial *s = serial_of(d);

	loop_unwatch(d->vm->loop, s->watch);
	free(s);
}

static const struct device_ops serial_ops = {
	.type = "serial",
	.version = 1,
	.read = serial_read,
	.write = serial_write,
	.quiesce = serial_quiesce,
	.save = serial_save,
	.load = serial_load,
	.resume = serial_resume,
	.aml = serial_aml,
	.free = serial_free,
};

int serial_new(struct vm *vm, serial_sink sink, void *arg, struct device **out, struct err *err)
{
	struct serial *s = calloc(1, sizeof(*s));

	if (!s)
		return err_set(err, ENOMEM, "create serial port: out of memory");
	s->dev = (struct device){
		.ops = &serial_ops,
		.bus = BUS_PIO,
		.base = LAYOUT_SERIAL_PORT,
		.size = SERIAL_PORTS,
		.gsi = LAYOUT_SERIAL_GSI,
	};
	snprintf(s->dev.id, sizeof(s->dev.id), "serial0");
	s->sink = sink;
	s->sink_arg = arg;
	s->input_fd = -1;
	s->dll = 1; /* 115,200 baud */
	int r = vm_add_device(vm, &s->dev, err);
	if (r < 0) {
		free(s);
		return r;
	}
	if (out)
		*out = &s->dev;
	return 0;
}

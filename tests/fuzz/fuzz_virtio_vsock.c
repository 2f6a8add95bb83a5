/*
 * A vsock device between a guest that sends any packet at any time and host programs that connect,
 * write, and leave at any time. Input: one byte of command, a few of arguments, and so on.
 *
 * The loop runs on its own thread as it does in a machine; after each command it is let through, so
 * that an input means much the same each time.
 */
#include <endian.h>
#include <linux/virtio_mmio.h>
#include <linux/virtio_vsock.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <unistd.h>

#include "runner/devices/virtio_mmio.h"
#include "runner/devices/virtio_vsock.h"
#include "smfs/base/log.h"

#define RAM	  (2 * MIB)
#define SIZE	  16u
#define FDS	  8
#define DATA	  0x10000u
#define GUEST_CID 3

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

#define must(x)                  \
	do {                     \
		if (!(x))        \
			abort(); \
	} while (0)

struct fuzz {
	struct vm *vm;
	struct device *d;
	uint16_t avail[3], desc[3];
	char path[64], guest_path[80];
	int fd[FDS], listener;
};

static void nothing(void *arg)
{
}

/* Let the loop handle what is ready, and what that makes ready. */
static void settle(struct fuzz *f)
{
	for (unsigned i = 0; i < 3; i++)
		loop_call(f->vm->loop, nothing, NULL);
}

static void enter(void *vm)
{
	pthread_mutex_lock(&((struct vm *)vm)->dev_lock);
}

static void leave(void *vm)
{
	pthread_mutex_unlock(&((struct vm *)vm)->dev_lock);
}

static void *loop_thread(void *vm)
{
	loop_run(((struct vm *)vm)->loop, NULL);
	return NULL;
}

static void reg(struct fuzz *f, uint64_t off, uint32_t value)
{
	enter(f->vm);
	f->d->ops->write(f->d, off, 4, value);
	leave(f->vm);
}

static uint8_t *ram(struct fuzz *f, uint64_t gpa)
{
	return f->vm->mem.region[0].hva + gpa;
}

static void guest_up(struct fuzz *f)
{
	uint32_t status = VIRTIO_CONFIG_S_ACKNOWLEDGE | VIRTIO_CONFIG_S_DRIVER;

	reg(f, VIRTIO_MMIO_STATUS, 0);
	reg(f, VIRTIO_MMIO_STATUS, status);
	reg(f, VIRTIO_MMIO_DRIVER_FEATURES_SEL, 1);
	reg(f, VIRTIO_MMIO_DRIVER_FEATURES, 1);
	reg(f, VIRTIO_MMIO_STATUS, status |= VIRTIO_CONFIG_S_FEATURES_OK);
	for (unsigned i = 0; i < 3; i++) {
		memset(ram(f, i * 0x1000), 0, 0x1000);
		f->avail[i] = f->desc[i] = 0;
		reg(f, VIRTIO_MMIO_QUEUE_SEL, i);
		reg(f, VIRTIO_MMIO_QUEUE_NUM, SIZE);
		reg(f, VIRTIO_MMIO_QUEUE_DESC_LOW, i * 0x1000);
		reg(f, VIRTIO_MMIO_QUEUE_AVAIL_LOW, i * 0x1000 + 0x400);
		reg(f, VIRTIO_MMIO_QUEUE_USED_LOW, i * 0x1000 + 0x800);
		reg(f, VIRTIO_MMIO_QUEUE_READY, 1);
	}
	reg(f, VIRTIO_MMIO_STATUS, status | VIRTIO_CONFIG_S_DRIVER_OK);
}

static void offer(struct fuzz *f, unsigned q, uint64_t gpa, uint32_t len, bool write)
{
	uint16_t head = f->desc[q]++ % SIZE;
	struct vring_desc d = {gpa, len, write ? VRING_DESC_F_WRITE : 0, 0};
	uint16_t *avail = (uint16_t *)ram(f, q * 0x1000 + 0x400);

	memcpy(ram(f, q * 0x1000 + 16ull * head), &d, sizeof(d));
	avail[2 + f->avail[q] % SIZE] = head;
	__atomic_store_n(&avail[1], ++f->avail[q], __ATOMIC_SEQ_CST);
	reg(f, VIRTIO_MMIO_QUEUE_NOTIFY, q);
}

static void guest_sends(struct fuzz *f, struct reader *r)
{
	static const uint32_t lens[] = {0, 1, 1000, 65536, 131072, 131073};
	uint8_t what = get_u8(r), ports = get_u8(r), how = get_u8(r);
	uint32_t len = lens[how % 6];
	struct virtio_vsock_hdr h = {
		.src_cid = htole64(GUEST_CID),
		.dst_cid = htole64(2),
		.src_port = htole32(ports & 8 ? 1024 : 1025),
		.dst_port = htole32(ports & 0x80 ? 52 : 0x40000000u + (ports & 7)),
		.len = htole32(what & 0x80 ? len + 1 : len),
		.type = htole16(what & 0x40 ? 2 : 1),
		.op = htole16(what & 0x0f),
		.flags = htole32(how >> 6),
		.buf_alloc = htole32(how & 0x20 ? 100 : 1 << 20),
		.fwd_cnt = htole32(how & 0x10 ? 0xffffff00u : 0),
	};

	memcpy(ram(f, DATA), &h, sizeof(h));
	offer(f, 1, DATA, (uint32_t)sizeof(h) + len, false);
}

static void host_connects(struct fuzz *f, unsigned k, uint8_t how)
{
	static const char *const greeting[] = {"CONNECT 1024\n", "CONNECT 1025\nmore", "CONN",
					       "x\n"};
	const char *g = greeting[how % 4];
	struct sockaddr_un a = {.sun_family = AF_UNIX};

	if (f->fd[k] >= 0)
		close(f->fd[k]);
	f->fd[k] = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
	strcpy(a.sun_path, f->path);
	if (connect(f->fd[k], (struct sockaddr *)&a, sizeof(a)) == 0)
		(void)!send(f->fd[k], g, strlen(g), MSG_NOSIGNAL);
}

static void restore_itself(struct fuzz *f)
{
	cleanup_writer struct writer w = WRITER_INIT;
	struct reader r;

	enter(f->vm);
	must(f->d->ops->quiesce(f->d, NULL) == 0);
	f->d->ops->save(f->d, &w);
	leave(f->vm);
	settle(f);
	enter(f->vm);
	r = reader_of(w.p, w.len);
	must(f->d->ops->load(f->d, f->d->ops->version, &r, NULL) == 0);
	f->d->ops->resume(f->d);
	leave(f->vm);
}

static void host_acts(struct fuzz *f, struct reader *r)
{
	static uint8_t bytes[1 << 17];
	uint8_t what = get_u8(r);
	unsigned k = what % FDS;

	switch (what / FDS % 6) {
	case 0:
		host_connects(f, k, get_u8(r));
		break;
	case 1:
		(void)!send(f->fd[k], bytes, (size_t)get_u8(r) << 9 | 1,
			    MSG_NOSIGNAL | MSG_DONTWAIT);
		break;
	case 2:
		(void)!recv(f->fd[k], bytes, (size_t)get_u8(r) << 9 | 1, MSG_DONTWAIT);
		break;
	case 3:
		shutdown(f->fd[k], get_u8(r) % 3);
		break;
	case 4:
		if (f->fd[k] >= 0)
			close(f->fd[k]);
		f->fd[k] = -1;
		break;
	default:
		if (f->fd[k] >= 0)
			close(f->fd[k]);
		f->fd[k] = accept4(f->listener, NULL, NULL, SOCK_NONBLOCK | SOCK_CLOEXEC);
	}
}

static void commands(struct fuzz *f, struct reader *r)
{
	static const uint32_t room[] = {4096, 4096, 65, 45, 44, 70000};

	while (reader_ok(r) && r->left) {
		uint8_t c = get_u8(r);

		switch (c % 8) {
		case 0:
		case 1:
			guest_sends(f, r);
			break;
		case 2:
			offer(f, 0, DATA + 0x40000, room[c / 8 % 6], true);
			break;
		case 3:
		case 4:
			host_acts(f, r);
			break;
		case 5:
			offer(f, 2, DATA + 0x80000, c & 0x80 ? 3 : 4, true);
			break;
		case 6:
			restore_itself(f);
			break;
		default:
			guest_up(f);
		}
		settle(f);
	}
}

static void set_up(struct fuzz *f)
{
	struct sockaddr_un a = {.sun_family = AF_UNIX};

	log_init("fuzz", LOG_ERR);
	f->vm = calloc(1, sizeof(*f->vm));
	must(f->vm != NULL);
	f->vm->fd = f->vm->kvm_fd = f->vm->end_fd = -1;
	f->vm->next_gsi = 6;
	f->vm->next_mmio = VM_MMIO_BASE;
	pthread_mutex_init(&f->vm->dev_lock, NULL);
	must(memory_layout(&f->vm->mem, RAM, NULL) == 0 && memory_map_anon(&f->vm->mem, NULL) == 0);
	must(loop_new(&f->vm->loop, NULL) == 0);
	loop_set_guard(f->vm->loop, enter, leave, f->vm);
	snprintf(f->path, sizeof(f->path), "/tmp/fuzz-vsock.%d", getpid());
	snprintf(f->guest_path, sizeof(f->guest_path), "%s_52", f->path);
	unlink(f->guest_path);
	must(virtio_vsock_new(f->vm, "vsock0", GUEST_CID, f->path, NULL) == 0);
	f->d = f->vm->devices;
	virtio_vsock_early(f->d, 1025);
	f->listener = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
	strcpy(a.sun_path, f->guest_path);
	must(bind(f->listener, (struct sockaddr *)&a, sizeof(a)) == 0 &&
	     listen(f->listener, 4) == 0);
	for (unsigned i = 0; i < FDS; i++)
		f->fd[i] = -1;
	must(pthread_create(&f->vm->loop_thread, NULL, loop_thread, f->vm) == 0);
	guest_up(f);
}

static void tear_down(struct fuzz *f)
{
	loop_stop(f->vm->loop);
	pthread_join(f->vm->loop_thread, NULL);
	f->d->ops->free(f->d);
	for (unsigned i = 0; i < FDS; i++)
		if (f->fd[i] >= 0)
			close(f->fd[i]);
	close(f->listener);
	unlink(f->guest_path);
	loop_free(f->vm->loop);
	memory_free(&f->vm->mem);
	pthread_mutex_destroy(&f->vm->dev_lock);
	free(f->vm);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	struct reader r = reader_of(data, size);
	struct fuzz f = {0};

	set_up(&f);
	commands(&f, &r);
	tear_down(&f);
	return 0;
}

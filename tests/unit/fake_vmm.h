/*
 * fake_vmm.h - a VM's process without a VM: its directory, its control socket, and an agent of the
 * test's own behind vsock.sock, which serves one connection after the other.
 */
#ifndef TESTS_UNIT_FAKE_VMM_H
#define TESTS_UNIT_FAKE_VMM_H

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include <pthread.h>
#include <stdlib.h>
#include <string.h>
#include <sys/eventfd.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <unistd.h>

#include "runner/control/vmm_internal.h"
#include "runner/guest/agent_client.h"
#include "smfs/base/cleanup.h"
#include "smfs/base/clock.h"
#include "smfs/base/unix_socket.h"

#define LONG_MS 30000

static char fake_base[] = "/tmp/fake_vmm.XXXXXX";

struct fake_vmm {
	struct vmm v;
	struct vm *vm;
	char control[RUNDIR_PATH_MAX], vsock[RUNDIR_PATH_MAX];
	int agent_fd;	/* listens */
	int served_fd;	/* an eventfd: control_serve() has served the last of whom it was to */
	int running_fd; /* an eventfd: the program runs */
	bool ends;	/* the program does, at once */
	unsigned runs;
	pthread_t agent;
};

/* Sessions, one after the other, until the listener is shut: HELLO, STARTED, and EXIT if it ends.
 */
static inline void fake_session(struct fake_vmm *m, int fd)
{
	static const uint8_t pid[4] = {1}, hello[] = {0x53, 0x4d, 0x76, 0x61, 2, 0};
	cleanup_writer struct writer w = WRITER_INIT;
	const struct agent_exit exited = {.kind = AGENT_EXIT_CODE};
	struct agent_frame f = {0};
	char c = 0;

	while (c != '\n')
		if (recv(fd, &c, 1, 0) != 1)
			return;
	(void)!send(fd, "OK 1\n", 5, MSG_NOSIGNAL);
	while (agent_frame_read(fd, &f, LONG_MS, NULL) == 0) {
		if (f.type == AGENT_HELLO)
			agent_frame_write(fd, AGENT_HELLO, hello, sizeof(hello), LONG_MS, NULL);
		/* A guest that stands still does nothing. */
		if (f.type == AGENT_STOP && !m->vm->paused) {
			agent_frame_write(fd, AGENT_RESULTS, "", 0, LONG_MS, NULL);
			vm_end(m->vm, VM_SHUTDOWN);
		}
		if (f.type != AGENT_EXEC)
			continue;
		m->runs++;
		agent_frame_write(fd, AGENT_STARTED, pid, sizeof(pid), LONG_MS, NULL);
		eventfd_write(m->running_fd, 1);
		if (!m->ends)
			continue;
		agent_put_exit(&w, &exited);
		agent_frame_write(fd, AGENT_EXIT, w.p, w.len, LONG_MS, NULL);
	}
	agent_frame_free(&f);
}

static inline void *fake_agent(void *arg)
{
	struct fake_vmm *m = arg;
	int fd;

	while ((fd = accept4(m->agent_fd, NULL, NULL, SOCK_CLOEXEC)) >= 0) {
		fake_session(m, fd);
		close(fd);
	}
	return NULL;
}

static inline int fake_begin(void **state, const struct control_op *ops)
{
	struct fake_vmm *m = calloc(1, sizeof(*m));
	struct sockaddr_un a = {.sun_family = AF_UNIX};
	struct err err = ERR_INIT;

	assert_non_null(m);
	m->vm = calloc(1, sizeof(*m->vm));
	assert_non_null(m->vm);
	m->v.machine.vm = m->vm;
	m->v.has_agent = true;
	m->vm->end = VM_RUNNING;
	m->vm->running = true;
	pthread_mutex_init(&m->vm->dev_lock, NULL);
	pthread_mutex_init(&m->vm->park_lock, NULL);
	pthread_cond_init(&m->vm->park_cond, NULL);
	m->vm->end_fd = eventfd(0, EFD_CLOEXEC);
	m->served_fd = eventfd(0, EFD_CLOEXEC);
	m->running_fd = eventfd(0, EFD_CLOEXEC);
	assert_int_equal(rundir_create("w", &m->v.dir, &err), 0);
	rundir_file(m->v.dir, "control.sock", m->control);
	rundir_file(m->v.dir, "vsock.sock", m->vsock);
	assert_int_equal(control_listen(m->control, ops, m, &m->v.control, &err), 0);
	snprintf(a.sun_path, sizeof(a.sun_path), "%s", m->vsock);
	m->agent_fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);
	assert_int_equal(bind(m->agent_fd, (struct sockaddr *)&a, sizeof(a)), 0);
	assert_int_equal(listen(m->agent_fd, 8), 0);
	assert_int_equal(pthread_create(&m->agent, NULL, fake_agent, m), 0);
	*state = m;
	return 0;
}

static inline int fake_end(void **state)
{
	struct fake_vmm *m = *state;

	shutdown(m->agent_fd, SHUT_RDWR);
	pthread_join(m->agent, NULL);
	close(m->agent_fd);
	unlink(m->vsock);
	control_free(m->v.control);
	rundir_remove(m->v.dir);
	close(m->vm->end_fd);
	close(m->served_fd);
	close(m->running_fd);
	free(m->vm);
	free(m);
	return 0;
}

static int fake_setup(void **state)
{
	return mkdtemp(fake_base) ? setenv("SMVM_RUN_DIR", fake_base, 1) : -1;
}

static int fake_teardown(void **state)
{
	return rmdir(fake_base);
}

#endif

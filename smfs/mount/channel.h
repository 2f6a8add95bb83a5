/*
 * channel.h - the line to the kernel: /dev/fuse, the mount made with it, and the serving threads.
 *
 * libfuse decodes requests and encodes replies; this file moves the bytes (through
 * fuse_session_custom_io) and so sees each of them. That is what libfuse 3.14 lacks for three
 * things:
 *
 *   - terms it does not know: flags above bit 31 and the stacking depth are put into the reply to
 *     INIT (channel_want(), channel_stack_depth(), called from the init operation);
 *   - taking over: INIT and the reply to it are kept in a struct channel_record. A session in
 *     another process that has the same devices is shown the recorded INIT, what it answers is
 *     compared and swallowed, and channel_serve() asks the kernel to send again what the process
 *     before had taken and not answered;
 *   - watching: the record tells which request each thread is at, and since when.
 *
 * DEVICES. One per serving thread: the kernel files a request under the device it was read from,
 * and only there can it be answered; without clones all threads would share one lock. A device
 * that is closed for good ends its unanswered requests with an error, so who wants to survive a
 * server keeps all of them open. The kernel ends the connection with the last.
 *
 * RAW REPLIES need no hook: fuse_reply_buf(req, &out, sizeof(out)) sends any structure of the
 * protocol, such as a fuse_open_out with a backing id.
 *
 * THREADS. Start and end: one thread. Requests are read by the channel's threads, with all signals
 * but CHANNEL_SIGNAL blocked; replies may come from any thread.
 */
#ifndef SMFS_MOUNT_CHANNEL_H
#define SMFS_MOUNT_CHANNEL_H

#include <signal.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <stdint.h>

#include "smfs/base/err.h"

struct fuse_session;
struct channel;

/* More than the cores, as a thread may wait for the disk; bounded, as each has its buffers. */
#define CHANNEL_THREADS 16
/* A request is at most this: FS_IO_MAX of data behind headers that fit a page. */
#define CHANNEL_REQUEST_MAX ((1u << 20) + 4096)

/* ---- what is kept: plain memory, shared between processes if there are several ----------------
 */

#define CHANNEL_INIT_MAX 256

struct channel_slot {
	_Atomic uint64_t unique;   /* of the request the thread is at; 0: none, or left to another
				      thread to answer */
	_Atomic uint64_t since_ns; /* CLOCK_MONOTONIC */
	_Atomic uint32_t opcode;
	_Atomic uint32_t thread; /* its id */
	_Atomic uint64_t node;
	_Atomic uint64_t taken; /* requests ever */
};

/* Requests that were being served when a server crashed; see channel_suspect(). */
#define CHANNEL_SUSPECTS   16
#define CHANNEL_DEATHS_MAX 3

struct channel_suspect {
	uint64_t unique;
	uint32_t deaths;
};

/* All zero at first. */
struct channel_record {
	uint32_t init_len, terms_len; /* written after the bytes: 0 until they are whole */
	uint8_t init[CHANNEL_INIT_MAX], terms[CHANNEL_INIT_MAX];
	struct channel_slot slots[CHANNEL_THREADS];
	struct channel_suspect suspects[CHANNEL_SUSPECTS];
	_Atomic uint64_t refused; /* requests answered EIO for the servers they cost */
};

/* ---- devices and mount --------------------------------------------------------------------------
 */

/* Open CHANNEL_THREADS devices, not yet connected. ENODEV: no /dev/fuse. */
int channel_open_devices(int dev[CHANNEL_THREADS], struct err *err);

/* `dev` and `rec` are borrowed; both may be NULL, then the channel has its own. */
int channel_new(const int *dev, struct channel_record *rec, struct channel **out, struct err *err);
/* After channel_wait(), or if channel_serve() was never called. NULL is fine. */
void channel_free(struct channel *ch);

/*
 * Mount on `dir` (absolute), connecting the devices. The kernel's INIT waits in them then.
 * max_read is what the session was told, too.
 */
int channel_mount(struct channel *ch, const char *dir, const char *source, bool read_only,
		  unsigned max_read, struct err *err);

/* ---- session
 * --------------------------------------------------------------------------------------- */

/* Right after fuse_session_new(); the session's userdata must lead back: channel_of(). */
int channel_attach(struct channel *ch, struct fuse_session *se, struct err *err);
struct channel *channel_of(void *userdata);

/* Answer the kernel's INIT. */
int channel_greet(struct channel *ch, struct err *err);
/*
 * In place of channel_greet(), over a record that has an INIT: the session goes on where another
 * left off. EPROTO: it would agree other terms with the kernel than the one before it.
 */
int channel_resume(struct channel *ch, struct err *err);

/* From the init operation: what the kernel offers (bits 32..63 are flags2), what is wanted of it.
 */
uint64_t channel_offers(const struct channel *ch);
void channel_want(struct channel *ch, uint64_t flags);
void channel_stack_depth(struct channel *ch, unsigned depth);
/* What was agreed; also after channel_resume(). */
uint64_t channel_terms(const struct channel *ch);

#define CHANNEL_INIT_EXT    ((uint64_t)1 << 30)
#define CHANNEL_PASSTHROUGH ((uint64_t)1 << 37)
#define CHANNEL_HAS_RESEND  ((uint64_t)1 << 39)

/* A device, for ioctls. */
int channel_device(const struct channel *ch);

/* ---- serving
 * ----------------------------------------------------------------------------------------- */

/*
 * Start the threads. After channel_resume(), first has the kernel send again what is unanswered:
 * whoever served before must be dead.
 */
int channel_serve(struct channel *ch, struct err *err);
/* Wait for the threads: until the kernel ends the connection, or channel_drain(). */
void channel_wait(struct channel *ch);

/*
 * Take no further requests; those taken are finished. Returns when the threads have ended, which
 * are still to be waited for; then channel_serve() may be called again. Needs
 * channel_interruptible() before channel_serve().
 */
#define CHANNEL_SIGNAL SIGUSR2
int channel_interruptible(struct channel *ch, struct err *err);
void channel_drain(struct channel *ch);
bool channel_draining(const struct channel *ch);

/*
 * Is the request this thread is at one that an earlier server may have carried out already? Then
 * finding it done is success.
 */
bool channel_resent(const struct channel *ch);
/* The number of that request, the same when it is sent again; 0 outside of a request. */
uint64_t channel_unique(const struct channel *ch);

/*
 * A server died by itself while at these requests: count them against each. A request that has cost
 * CHANNEL_DEATHS_MAX servers is answered EIO by the next. Called with no server running.
 */
void channel_suspect(struct channel_record *rec);

#endif

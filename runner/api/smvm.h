/* clang-format off: the manual has tables */
/*
 * smvm.h - libsmvm: microVMs from a C program. This header is the manual.
 *
 *     struct smvm_error err;
 *     struct smvm_restored t;
 *     struct smvm_vm *vm;
 *
 *     if (smvm_vm_start(NULL, NULL, &vm, &err) < 0 ||      // a worker without a machine yet
 *         smvm_vm_restore(vm, "python", &t, &err) < 0)     // ... with one, in t.us microseconds
 *             errx(1, "%s", err.message);
 *     smvm_vm_restore(vm, "python", &t, &err);             // as it was, in place
 *     smvm_vm_stop(vm, &err);
 *     smvm_vm_free(vm);
 *
 * Build with `pkg-config --cflags --libs smvm`. doc/examples has a program for each call.
 *
 * A MACHINE is a process of its own, `smvm-runner worker`, found by $SMVM_RUNNER or in PATH. What a
 * guest does to it does not reach the program, and the library needs no privilege beyond those of
 * running it. It listens to the program on a socket and ends when that closes: no machine outlives
 * its handle, or a program that crashed. smvm_vm_open() is for those that were started otherwise.
 *
 * A POOL, `smvm-runner pool`, keeps machines of one snapshot warm. A claim of one is a handle as
 * well: closing it, or the program's end, gives the machine back.
 *
 * ERRORS. Calls return 0 or a negative errno. `err` (may be NULL) is the caller's; it is filled on
 * failure only: `code` is the positive errno, `message` one line: what failed, on what, why, what
 * to do. Beside those of the system:
 *
 *     EPIPE      "command closed": the machine's process has gone, or smvm_vm_drop()
 *     EBUSY      "restore in flight", "snapshot in flight": one at a time, also after a time-out
 *     ETIMEDOUT  no answer in time; what was asked for goes on, and is in flight until it is over
 *     EALREADY   "already joined"; a pool that "has a worker already"
 *     ENOENT     no such snapshot, image, machine
 *     EEXIST, EBUSY  the name is taken
 *     ENOTSUP    the machine has no agent, or the snapshot does not fit this host
 *
 * Anything a worker says of a failure is the message, word for word.
 *
 * THREADS. There is no state but in handles, and the environment, which is read. A handle is for
 * one thread at a time; different ones are independent. No call starts threads or changes signal
 * dispositions, and none blocks signals but SIGPIPE, which is not raised. Children are reaped by
 * the handle that made them: a program that waits for any child at all must leave those alone.
 *
 * BLOCKING. Calls wait for their answer: restores and snapshots for 60 s unless told otherwise. To
 * wait for several things at once, begin with smvm_vm_restore_begin(), smvm_vm_snapshot_begin() or
 * smvm_pool_claim_begin(), poll smvm_vm_fd() for POLLIN, and take what has happened with
 * smvm_vm_next().
 *
 * STRUCTS that may grow begin with `size`: set it to sizeof, and everything else to 0 that is not
 * meant. So a program built with this header runs with later libraries; one whose struct is larger
 * than the library's gets EINVAL. Those without `size` are filled by the library and never grow.
 *
 * OWNERSHIP. What is passed in stays the caller's and is not looked at after the call, strings and
 * arrays included, but for descriptors that a call says it takes over. Strings that are returned
 * are the handle's, and end with it. What `out` is set to is the caller's to free; on failure it is
 * not touched, but by smvm_vm_fork().
 *
 * STABILITY. Symbols have versions (SMVM_0); before 1.0 they may change with the soname.
 */
/* clang-format on */
#ifndef SMVM_H
#define SMVM_H

#include <stddef.h>
#include <stdint.h>

#ifdef __cplusplus
extern "C" {
#endif

#define SMVM_API __attribute__((visibility("default")))

#define SMVM_MESSAGE_MAX 1024
struct smvm_error {
	int code; /* a positive errno; 0: no error */
	char message[SMVM_MESSAGE_MAX];
};

struct smvm_image; /* an image of the store */
struct smvm_vm;	   /* a machine, and the process that runs it */
struct smvm_pool;  /* machines kept warm, and the process that does it */

/* "0.1.0", of the library that is loaded. */
SMVM_API const char *smvm_version(void);

/* ---- images -------------------------------------------------------------------------------- */

/*
 * An image as it was pulled: "alpine:3.20", "localhost:5000/app:1", or the path of an image's
 * directory. `mount` is where the store is mounted; NULL: $SMFS_MOUNT, or /mnt/smfs. ENOENT says
 * what to do.
 */
SMVM_API int smvm_image_open(const char *mount, const char *reference, struct smvm_image **out,
			     struct smvm_error *err);
/* Its name in the store ("" for a path elsewhere), and its directory. As long as the handle. */
SMVM_API const char *smvm_image_reference(const struct smvm_image *image);
SMVM_API const char *smvm_image_directory(const struct smvm_image *image);
/* NULL is fine. */
SMVM_API void smvm_image_close(struct smvm_image *image);

/* ---- machines: start, find, end ------------------------------------------------------------ */

struct smvm_vm_options {
	size_t size;
	const char *name;	    /* NULL: the machine's id */
	const char *mount;	    /* NULL: as for images */
	const char *kernel;	    /* a bzImage, or an ELF file, which boots without an image */
	unsigned cpus;		    /* 0: 1 */
	uint64_t memory_bytes;	    /* 0: 512 MiB; otherwise a multiple of 1 MiB */
	const char *const *command; /* NULL-terminated, in place of the image's Cmd; or NULL */
	const char *const *env;	    /* NULL-terminated "NAME=value"; or NULL */
	const char *entrypoint, *user, *directory; /* NULL: the image's */
	/* When the image is: "agent" (NULL), "port:N", "file:PATH", "log:RE", "exec:COMMAND". */
	const char *ready;
	unsigned timeout_ms; /* for all of it; 0: 180,000 */
	/*
	 * NULL-terminated "[[ADDRESS:]PORT:]TARGET", 16 at most; or NULL. PORT of this host (of
	 * 127.0.0.1 unless ADDRESS is given) leads to TARGET, a TCP port or the absolute path of a
	 * Unix socket in the guest, from now until the worker ends: through every restore, though
	 * connections end with the machine they were made to. 0, or no PORT: a free one, which
	 * smvm_vm_host_port() tells. A port that is taken fails the start.
	 */
	const char *const *publish;
};

/*
 * Start a worker. With an image, or a kernel in the options, it boots that and the call returns
 * when it is ready; with neither it has no machine until smvm_vm_restore(). Options NULL: all
 * defaults. On failure nothing is left.
 */
SMVM_API int smvm_vm_start(const struct smvm_image *image, const struct smvm_vm_options *options,
			   struct smvm_vm **out, struct smvm_error *err);
/*
 * Drive a worker that has connected to a socket of the program's own (doc/protocol.md); `fd` is
 * taken over, also on failure. Waits up to `timeout_ms` for its READY. A worker that does not know
 * HELLO is driven in the original protocol: then there are no smvm_vm_id() and no calls that need
 * it.
 */
SMVM_API int smvm_vm_attach(int fd, int timeout_ms, struct smvm_vm **out, struct smvm_error *err);
/*
 * A machine that runs already, by name, id or the beginning of an id. It is not this program's: it
 * can be snapshotted, forked, stopped and programs run in it, but not restored (ENOTSUP), and it
 * outlives the handle.
 */
SMVM_API int smvm_vm_open(const char *name, struct smvm_vm **out, struct smvm_error *err);

/* The machine's id (12 hexadecimal digits) and run directory; "" where that is not known. */
SMVM_API const char *smvm_vm_id(const struct smvm_vm *vm);
SMVM_API const char *smvm_vm_directory(const struct smvm_vm *vm);
/*
 * The host's port of the one at `index` (0: the first) of what was published into the machine, by
 * smvm_vm_start(), a pool, or smvm-runner's -p; 0: there is none.
 */
SMVM_API unsigned smvm_vm_host_port(const struct smvm_vm *vm, unsigned index);

/*
 * End it: a worker finishes what it is writing and ends (QUIT); another's machine is asked to power
 * off and ended after 10 s. EPIPE "command closed" when the worker has gone already.
 */
SMVM_API int smvm_vm_stop(struct smvm_vm *vm, struct smvm_error *err);
/*
 * Wait for the worker's process to end; its exit status goes to *status: 0 after smvm_vm_stop(),
 * 128 + N after signal N. Once: EALREADY "already joined" then. ENOTSUP for machines and workers
 * that this handle did not start. `timeout_ms` -1: for ever.
 */
SMVM_API int smvm_vm_join(struct smvm_vm *vm, int timeout_ms, int *status, struct smvm_error *err);
/*
 * Close the connection to the worker, which then ends, or to the pool, which then has its machine
 * back. Whatever is asked for after is EPIPE.
 */
SMVM_API void smvm_vm_drop(struct smvm_vm *vm);
/*
 * smvm_vm_drop(), and wait for what smvm_vm_start() started: 65 s at most, then it is killed. NULL
 * is fine.
 */
SMVM_API void smvm_vm_free(struct smvm_vm *vm);

/* ---- restore ------------------------------------------------------------------------------- */

/* All times in microseconds. doc/protocol.md has what each phase is. */
struct smvm_restored {
	uint64_t us;	    /* from the request to a running guest with its new identity */
	unsigned host_port; /* forwarded to the guest; 0: none */
	uint64_t reset_vsock_us, remap_cow_us, load_meta_us, restore_snapshot_us, ram_copy_us,
		gic_restore_us, vcpu_restore_us, vtimer_offset_us, mmio_restore_us,
		listener_restore_us;
	uint64_t generation; /* the guest's new one; 0: not told */
	char how[16];	     /* "new", "warm" (in place), "rebuilt" (a new KVM VM), "": not told */
};

/*
 * Make the machine what it was in `snapshot`, a name or a directory: in place if there is one
 * already. A guest with an agent has its new identity when this returns. On failure the old machine
 * runs on, if the snapshot was refused before it was touched; the message says so.
 */
SMVM_API int smvm_vm_restore(struct smvm_vm *vm, const char *snapshot, struct smvm_restored *out,
			     struct smvm_error *err);
/*
 * The same with a limit. ETIMEDOUT: it goes on, and is in flight until smvm_vm_next() has told how
 * it ended; meanwhile restores and snapshots are refused, "restore in flight".
 */
SMVM_API int smvm_vm_restore_timeout(struct smvm_vm *vm, const char *snapshot, unsigned timeout_ms,
				     struct smvm_restored *out, struct smvm_error *err);
/* The same without waiting: SMVM_EVENT_RESTORED or SMVM_EVENT_RESTORE_FAILED comes. */
SMVM_API int smvm_vm_restore_begin(struct smvm_vm *vm, const char *snapshot,
				   struct smvm_error *err);

/* ---- snapshot ------------------------------------------------------------------------------ */

struct smvm_snapshotted {
	uint64_t bytes_written; /* RAM that was read for it */
	uint64_t capture_us;	/* reading registers and devices, the guest standing still */
	uint64_t save_us;	/* writing it out */
};

/*
 * Store the machine as snapshots/`name`; `base` (NULL: none) names what to differ from. Returns
 * when the snapshot can be restored. A failure has the worker's message, and the machine runs on.
 */
SMVM_API int smvm_vm_snapshot(struct smvm_vm *vm, const char *name, const char *base,
			      struct smvm_snapshotted *out, struct smvm_error *err);
/*
 * The same without waiting, the guest running on while it is written: SMVM_EVENT_SNAPSHOTTED or
 * SMVM_EVENT_SNAPSHOT_FAILED comes. Only of workers.
 */
SMVM_API int smvm_vm_snapshot_begin(struct smvm_vm *vm, const char *name, const char *base,
				    struct smvm_error *err);

/* ---- events -------------------------------------------------------------------------------- */

enum smvm_event_kind {
	SMVM_EVENT_NONE = 0,
	SMVM_EVENT_RESTORED,	    /* `restored` */
	SMVM_EVENT_RESTORE_FAILED,  /* `error` */
	SMVM_EVENT_SNAPSHOTTED,	    /* `snapshotted` */
	SMVM_EVENT_SNAPSHOT_FAILED, /* `error` */
	SMVM_EVENT_ENDED,	    /* the machine is over by itself; `error` tells how */
	SMVM_EVENT_CLOSED, /* so is its worker, or pool. The last, and comes again if asked again */
	SMVM_EVENT_CLAIMED,	 /* the handle's machine is there */
	SMVM_EVENT_CLAIM_FAILED, /* `error`; the handle never has one */
};
struct smvm_event {
	size_t size;
	enum smvm_event_kind kind;
	struct smvm_error error;
	struct smvm_restored restored;
	struct smvm_snapshotted snapshotted;
};

/* A descriptor to poll for POLLIN, then call smvm_vm_next(); the handle's. -1: has no worker. */
SMVM_API int smvm_vm_fd(const struct smvm_vm *vm);
/*
 * What has happened since: of what was begun, of what had timed out, and what the machine did by
 * itself. Waits up to `timeout_ms` (0: not at all, -1: for ever); SMVM_EVENT_NONE and 0 for
 * nothing. Call until then: the descriptor does not tell of what other calls have read already. The
 * 16 latest are kept for who does not ask.
 */
SMVM_API int smvm_vm_next(struct smvm_vm *vm, int timeout_ms, struct smvm_event *event,
			  struct smvm_error *err);

/* ---- programs in the guest ----------------------------------------------------------------- */

struct smvm_exec {
	size_t size;
	const char *const *argv; /* NULL-terminated; argv[0] is looked up in the guest's PATH */
	const char *const *env;	 /* NULL-terminated "NAME=value", beside the workload's; or NULL */
	const char *user, *directory; /* NULL: the workload's */
	int in;			      /* to its standard input; -1: end of file at once */
	int out;		      /* where its standard output goes; -1: dropped */
	int err;		      /* where its standard error goes; -1: dropped */
	unsigned timeout_ms;	      /* after which it is killed; 0: never */
};
struct smvm_exit {
	int code;      /* 0 to 255; 128 + N after signal N, 124 after the time-out, as in a shell */
	int signal;    /* that ended it; 0: none */
	int timed_out; /* it was killed for `timeout_ms` */
	uint64_t peak_bytes; /* of memory, by it and its children; 0: the agent does not measure */
};
/*
 * Run a program and wait for its end; its output is carried meanwhile. Descriptors stay the
 * caller's. ENOENT: no such program. ENOTSUP: the guest has no agent. ETIMEDOUT: the guest does not
 * answer, or does not say within 30 s after `timeout_ms` that the program has ended. Several may
 * run at once, from handles of smvm_vm_open().
 */
SMVM_API int smvm_vm_exec(struct smvm_vm *vm, const struct smvm_exec *exec, struct smvm_exit *out,
			  struct smvm_error *err);

/* ---- fork ---------------------------------------------------------------------------------- */

/*
 * Start `n` copies of the running machine over the same memory. They are no workers: their handles
 * are those of smvm_vm_open(), and stop with smvm_vm_stop(). `name`: theirs, NAME-1, NAME-2 ... of
 * several; NULL: their ids. Handles of those that came up are in out[0] and on, *made of them; when
 * some did not, that is the error.
 */
SMVM_API int smvm_vm_fork(struct smvm_vm *vm, unsigned n, const char *name, struct smvm_vm **out,
			  unsigned *made, struct smvm_error *err);

/* ---- pools --------------------------------------------------------------------------------- */

/*
 * A pool that runs, by its name or the path of its socket (anything with a '/'). ENOENT: none does.
 */
SMVM_API int smvm_pool_open(const char *name, struct smvm_pool **out, struct smvm_error *err);

struct smvm_pool_options {
	size_t size;
	const char *snapshot; /* a name or a directory */
	const char *name;     /* NULL: one that nobody else has */
	const char *mount;    /* NULL: as for images */
	unsigned min;	      /* kept ready beside those claimed; 0: made when they are claimed */
	unsigned max;	      /* that there may be, those claimed among them; 0: 4 */
	unsigned idle_timeout_s; /* after which those beyond `min` are ended; 0: 60 */
	uint64_t vm_bytes;	 /* what one may come to take of the host's memory; 0: its RAM */
	uint64_t reserve_bytes;	 /* of the host's memory that is to stay available; 0: 256 MiB */
	/*
	 * As of struct smvm_vm_options, of each machine its own: PORT is 0 or left out unless `max`
	 * is 1.
	 */
	const char *const *publish;
	/*
	 * A program of the image that is run twice, without arguments, in each machine that nobody
	 * waits for, so that what is run in it after it is claimed starts faster. NULL: true; "":
	 * none.
	 */
	const char *warm_up;
};
/*
 * One that does not run yet. EINVAL: options that contradict each other, or a `snapshot` or
 * `warm_up` that does not fit a request to a worker: 4,095 bytes, and 16,128 once what is no text
 * in it is quoted.
 */
SMVM_API int smvm_pool_new(const struct smvm_pool_options *options, struct smvm_pool **out,
			   struct smvm_error *err);
/*
 * Start its process, which lives as long as the handle, and not longer than the program. Returns
 * when it takes claims; its machines come meanwhile. EALREADY: the pool has a worker already, be it
 * that it was started, be it that it is one of smvm_pool_open(). One that was stopped, or that died
 * (its claims are lost, SMVM_EVENT_CLOSED), can be started again. EBUSY: another has the name.
 */
SMVM_API int smvm_pool_start(struct smvm_pool *pool, struct smvm_error *err);
/* As others open it. As long as the handle. */
SMVM_API const char *smvm_pool_name(const struct smvm_pool *pool);

/*
 * A machine that is as the snapshot, and that nobody has had since it became so. Waits up to
 * `timeout_ms` for one (0: only if one is ready), behind those who asked before: ETIMEDOUT, with
 * the reason if there is one; ENOMEM: the host has too little memory left. The handle is as one of
 * smvm_vm_open(), and is the claim: the pool takes the machine back when it is released, dropped,
 * freed, or the program ends. Then, or when the machine's worker died, calls are EPIPE, "command
 * closed".
 */
SMVM_API int smvm_pool_claim(struct smvm_pool *pool, unsigned timeout_ms, struct smvm_vm **out,
			     struct smvm_error *err);
/*
 * The same without waiting: the handle is there at once, SMVM_EVENT_CLAIMED or
 * SMVM_EVENT_CLAIM_FAILED comes; until then it is good for smvm_vm_fd(), smvm_vm_next() and
 * smvm_vm_free(), which is the claim's end too, and else EINPROGRESS. Later SMVM_EVENT_ENDED tells
 * that the machine was lost.
 */
SMVM_API int smvm_pool_claim_begin(struct smvm_pool *pool, unsigned timeout_ms,
				   struct smvm_vm **out, struct smvm_error *err);
/*
 * Give it back, and free the handle, also on failure: smvm_vm_free() that waits until the pool has
 * it, and the cheaper one, for the connection is used again. EPIPE, ENOENT: it was lost before.
 * EINVAL: it is no claim, and is not freed.
 */
SMVM_API int smvm_pool_release(struct smvm_pool *pool, struct smvm_vm *vm, struct smvm_error *err);

struct smvm_pool_status {
	size_t size;
	unsigned min, max;
	unsigned ready;		  /* to be claimed at once */
	unsigned coming;	  /* starting, or being reset */
	unsigned claimed;	  /* by anybody */
	unsigned waiting;	  /* claims */
	unsigned short_of_memory; /* how many more would be started if there was memory */
	/* Since it began: */
	uint64_t claims, released;
	uint64_t refused, timed_out;	     /* claims */
	uint64_t lost;			     /* claims whose worker died */
	uint64_t started, died;		     /* workers */
	char last_failure[SMVM_MESSAGE_MAX]; /* of starting a worker, while that fails; or "" */
};
/* `status`, the caller's, with its size set. */
SMVM_API int smvm_pool_status(struct smvm_pool *pool, struct smvm_pool_status *status,
			      struct smvm_error *err);

/* End the process that smvm_pool_start() started, and with it all claims. ENOTSUP: none of ours. */
SMVM_API int smvm_pool_stop(struct smvm_pool *pool, struct smvm_error *err);
/* smvm_pool_stop(), if it was started here. Machines of smvm_pool_open() stay claimed. NULL is
 * fine. */
SMVM_API void smvm_pool_free(struct smvm_pool *pool);

#ifdef __cplusplus
}
#endif

#endif

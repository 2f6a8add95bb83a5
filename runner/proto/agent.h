/*
 * agent.h - the wire protocol between the host and smvm-init, the guest's process 1.
 *
 * doc/agent-protocol.md is the byte-for-byte description. In short: a vsock stream to guest port
 * AGENT_PORT carries frames, each an 8-byte header (payload length, type, zero) and a payload;
 * integers are little endian. Both sides open with HELLO, which settles the version: an agent lives
 * in snapshots, and meets runners much newer than itself. One connection serves one exec session or
 * forwarded stream, or any number of other requests one after the other; several connections may be
 * open at once and flow control is the socket's. Payloads are a list of items (tag, length, value)
 * but for the stream frames, which are raw bytes; unknown tags are skipped, so a field can be added
 * without a new version.
 *
 * Both sides treat the other as hostile: lengths and counts are bounded before anything is
 * allocated, and every decoder fails whole, with what was wrong in `err` (EPROTO).
 *
 * Decoded structures point into the frame's payload where they say "view", and own what their
 * *_free() frees. Nothing here does I/O but frame_read() and frame_write(); no state, any thread.
 */
#ifndef RUNNER_PROTO_AGENT_H
#define RUNNER_PROTO_AGENT_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "smfs/base/bytes.h"
#include "smfs/base/err.h"

#define AGENT_PORT	     1024u
#define AGENT_MAGIC	     0x61764d53u /* "SMva" */
#define AGENT_VERSION	     2u
#define AGENT_FRAME_HDR	     8u
#define AGENT_FRAME_MAX	     (256u << 10) /* payload bytes */
#define AGENT_DATA_MAX	     (64u << 10)  /* payload bytes of a stream frame */
#define AGENT_ARGS_MAX	     4096u	  /* entries in argv, and in env */
#define AGENT_NAME_MAX	     255u	  /* user spec, hostname, item name */
#define AGENT_PATH_MAX	     4095u
#define AGENT_ENTROPY_MIN    32u
#define AGENT_ENTROPY_MAX    512u
#define AGENT_RESULTS_MAX    128u
#define AGENT_UUID_LEN	     16u
#define AGENT_MACHINE_ID_LEN 32u /* hexadecimal digits */

enum agent_type {
	AGENT_HELLO = 1,       /* both: magic u32, version u16 (raw, the one fixed payload) */
	AGENT_ERROR = 2,       /* agent: the request failed; the connection stays usable */
	AGENT_EXEC = 3,	       /* host: struct agent_exec */
	AGENT_STARTED = 4,     /* agent: the program runs; pid u32 */
	AGENT_STDIN = 5,       /* host: bytes; none = end of file */
	AGENT_STDOUT = 6,      /* agent: bytes; none = end of file */
	AGENT_STDERR = 7,      /* agent: bytes; none = end of file */
	AGENT_WINSIZE = 8,     /* host: rows u16, cols u16 */
	AGENT_SIGNAL = 9,      /* host: signal number u32, to the process group */
	AGENT_EXIT = 10,       /* agent: struct agent_exit, the session's last frame */
	AGENT_PREPARE = 11,    /* host: freeze for a snapshot -> RESULTS */
	AGENT_THAW = 12,       /* host: -> RESULTS */
	AGENT_GENERATION = 13, /* host: struct agent_generation -> RESULTS */
	AGENT_STOP = 14,       /* host: struct agent_stop -> RESULTS, then the guest powers off */
	AGENT_INFO = 15,       /* host -> INFO_IS */
	AGENT_INFO_IS = 16,
	AGENT_RESULTS = 17,
	AGENT_WAIT = 18,  /* host: answered by EXIT once the entrypoint has ended */
	AGENT_CLOCK = 19, /* host: struct agent_clock -> RESULTS */
	/* Since version 2; the messages are in agent_reach.h and agent_files.h. */
	AGENT_READY = 20,   /* host: struct agent_ready -> RESULTS once all of it holds */
	AGENT_CONNECT = 21, /* host: struct agent_target -> OPENED, then DATA and DONE both ways */
	AGENT_OPENED = 22,  /* agent: struct agent_opened; what was asked for goes on */
	AGENT_READ = 23,    /* host: struct agent_read -> OPENED, DATA ..., DONE */
	AGENT_WRITE = 24,   /* host: struct agent_write -> OPENED; host: DATA ..., DONE -> DONE */
	AGENT_FETCH = 25,   /* host: struct agent_fetch -> OPENED, ENTRY and DATA ..., DONE */
	AGENT_PUT = 26,	    /* host: struct agent_put -> OPENED; host: the same, DONE -> DONE */
	AGENT_DATA = 27,    /* both: bytes, at least one */
	AGENT_ENTRY = 28,   /* both: struct agent_entry */
	AGENT_DONE = 29,    /* both: struct agent_done */
};

struct agent_frame {
	uint16_t type;
	uint32_t len;
	uint8_t *data; /* AGENT_FRAME_MAX bytes, owned; reused by the next frame_read() */
};

void agent_frame_free(struct agent_frame *f);

/*
 * Parse a header: EPROTO when the length is above what the type may carry, the type is unknown or
 * the reserved bytes are not zero.
 */
int agent_header_parse(const uint8_t hdr[AGENT_FRAME_HDR], uint16_t *type, uint32_t *len,
		       struct err *err);
void agent_header_put(uint8_t hdr[AGENT_FRAME_HDR], uint16_t type, uint32_t len);

/*
 * One whole frame from / to a descriptor, blocking or not (poll is used), within `timeout_ms`
 * (-1: none). ETIMEDOUT, ECONNRESET when the peer is gone, EPROTO.
 */
int agent_frame_read(int fd, struct agent_frame *f, int timeout_ms, struct err *err);
/* The same; ECANCELED when it is not there yet and `end_fd` (-1: none) is readable. */
int agent_frame_read_unless(int fd, int end_fd, struct agent_frame *f, int timeout_ms,
			    struct err *err);
/*
 * The same, but the payload of a frame of `type` stays in the socket where it is there whole: f has
 * a copy of it, and *held how many bytes agent_frame_take() is still to take out; else 0. Linux
 * tells a vsock's peer at once when all it has sent was taken out, in a packet of its own. Taken
 * out behind the answer, it goes along with that.
 */
int agent_frame_read_holding(int fd, uint16_t type, struct agent_frame *f, size_t *held,
			     int timeout_ms, struct err *err);
/* Takes out *held bytes, which becomes 0. */
void agent_frame_take(int fd, size_t *held);
int agent_frame_write(int fd, uint16_t type, const void *data, size_t len, int timeout_ms,
		      struct err *err);
/* Writes `w` as the payload; an allocation failure recorded in `w` is reported. */
int agent_frame_send(int fd, uint16_t type, const struct writer *w, int timeout_ms,
		     struct err *err);

const char *agent_type_name(uint16_t type);
/* The first version of the protocol that has it. */
unsigned agent_type_since(uint16_t type);

/* ---- messages ------------------------------------------------------------------------------ */

/* HELLO: agree on the lower of the two versions. */
void agent_put_hello(struct writer *w);
int agent_get_hello(const struct agent_frame *f, uint16_t *version, struct err *err);

struct agent_exec {
	char **argv; /* NULL-terminated, at least one; argv[0] is looked up in env's PATH */
	/*
	 * NULL-terminated "NAME=value", over those the workload was booted with; the agent adds
	 * PATH, HOME and (with a tty) TERM where neither has them.
	 */
	char **env;
	const char *cwd;  /* NULL or "": the workload's */
	const char *user; /* "uid[:gid]" or names; NULL or "": the workload's */
	bool tty;	  /* a pseudo-terminal; stdout carries everything */
	bool stdin_open;  /* false: the program reads /dev/null */
	uint16_t rows, cols;
	uint32_t timeout_ms; /* 0: none; after it the process group is killed */
	/*
	 * Version 2: give it a cgroup of its own, so that agent_exit.peak is known and the time
	 * limit ends all it has started. What it leaves running then joins the workload.
	 */
	bool measure;
	/* Not sent: an agent of version 1, which skips that, is asked all the same. */
	bool measure_or_not;
};
/* put: pointers stay the caller's. get: all are owned, agent_exec_free(). */
void agent_put_exec(struct writer *w, const struct agent_exec *x);
int agent_get_exec(const struct agent_frame *f, struct agent_exec *x, struct err *err);
void agent_exec_free(struct agent_exec *x);

enum agent_exit_kind {
	AGENT_EXIT_CODE = 0,	/* value: exit status 0..255 */
	AGENT_EXIT_SIGNAL = 1,	/* value: signal number */
	AGENT_EXIT_TIMEOUT = 2, /* killed after timeout_ms; value: 9 */
};
struct agent_exit {
	uint8_t kind;
	uint32_t value;
	uint64_t peak; /* bytes of memory at most in use by it and its children, 0: not measured */
};
void agent_put_exit(struct writer *w, const struct agent_exit *x);
int agent_get_exit(const struct agent_frame *f, struct agent_exit *x, struct err *err);
/* What a shell would report: the status, or 128 + signal; 124 for a timeout. */
int agent_exit_status(const struct agent_exit *x);

struct agent_generation {
	uint64_t number;
	uint8_t uuid[AGENT_UUID_LEN];
	uint8_t entropy[AGENT_ENTROPY_MAX];
	uint32_t entropy_len;			   /* AGENT_ENTROPY_MIN..AGENT_ENTROPY_MAX */
	uint64_t wall_ns;			   /* CLOCK_REALTIME for the guest; 0: leave */
	char hostname[AGENT_NAME_MAX + 1];	   /* "": leave */
	char machine_id[AGENT_MACHINE_ID_LEN + 1]; /* 32 lower-case digits, or "": leave */
};
void agent_put_generation(struct writer *w, const struct agent_generation *g);
int agent_get_generation(const struct agent_frame *f, struct agent_generation *g, struct err *err);

struct agent_stop {
	uint32_t grace_ms; /* between SIGTERM and SIGKILL */
};
void agent_put_stop(struct writer *w, const struct agent_stop *s);
int agent_get_stop(const struct agent_frame *f, struct agent_stop *s, struct err *err);

/* The right time, for a guest whose own clock started or stood wrong. */
struct agent_clock {
	uint64_t wall_ns; /* CLOCK_REALTIME of the host */
};
void agent_put_clock(struct writer *w, const struct agent_clock *c);
int agent_get_clock(const struct agent_frame *f, struct agent_clock *c, struct err *err);

/* What PREPARE, THAW, GENERATION, STOP and CLOCK did, in order. */
struct agent_result {
	char item[AGENT_NAME_MAX + 1]; /* "freeze", "entropy", "hook:10-net" */
	uint32_t code;		       /* 0, a positive errno, or a hook's exit status + 256 */
	uint64_t us;
	char detail[256];  /* "": nothing to add */
	uint32_t limit_ms; /* what it was allowed, 0: no limit of its own */
};
struct agent_results {
	unsigned n;
	struct agent_result r[AGENT_RESULTS_MAX];
};
/* Past AGENT_RESULTS_MAX the last entry is replaced by one that says so. */
struct agent_result *agent_result_add(struct agent_results *rs, const char *item, int code,
				      uint64_t us, const char *fmt, ...)
	__attribute__((format(printf, 5, 6)));
void agent_put_results(struct writer *w, const struct agent_results *rs);
int agent_get_results(const struct agent_frame *f, struct agent_results *rs, struct err *err);

enum agent_entry_state { AGENT_ENTRY_NONE = 0, AGENT_ENTRY_RUNNING = 1, AGENT_ENTRY_EXITED = 2 };
struct agent_info {
	uint64_t uptime_ms; /* CLOCK_BOOTTIME */
	uint64_t ready_ms;  /* uptime at which the agent began to serve */
	uint8_t entry_state;
	struct agent_exit entry_exit; /* when exited */
	uint32_t entry_pid;	      /* when running */
	bool frozen;
	uint64_t generation; /* last applied */
	uint8_t uuid[AGENT_UUID_LEN];
	bool mailbox;		     /* the mailbox page can be read */
	uint64_t mailbox_generation; /* the number found there */
	uint32_t sessions;	     /* connections being served, this one included */
	char kernel[65];	     /* uname release */
	char rootfs[128];	     /* "erofs dax on /dev/pmem0" */
	char agent[32];		     /* the agent's version */
};
void agent_put_info(struct writer *w, const struct agent_info *i);
int agent_get_info(const struct agent_frame *f, struct agent_info *i, struct err *err);

void agent_put_error(struct writer *w, int code, const char *message);
/* Fills *err with the peer's error and returns -code: for use as `return agent_get_error(..)`. */
int agent_get_error(const struct agent_frame *f, struct err *err);

#endif

#include "smfs/base/err.h"

#include <stdarg.h>
#include <stdio.h>
#include <string.h>

/* One line is the contract: what came from outside (paths, servers) may not break it. */
static void one_line(char *s)
{
	for (; *s; s++)
		if ((unsigned char)*s < 0x20 || *s == 0x7f)
			*s = '?';
}

static void vset(struct err *err, int code, const char *fmt, va_list ap)
{
	if (!err)
		return;
	err->code = code;
	vsnprintf(err->msg, sizeof(err->msg), fmt, ap);
	one_line(err->msg);
}

int(err_set)(struct err *err, int code, const char *fmt, ...)
{
	va_list ap;

	va_start(ap, fmt);
	vset(err, code, fmt, ap);
	va_end(ap);
	return -code;
}

int(err_errno)(struct err *err, const char *fmt, ...)
{
	int code = errno ? errno : EIO;
	char buf[128];
	va_list ap;

	if (!err)
		return -code;
	va_start(ap, fmt);
	vset(err, code, fmt, ap);
	va_end(ap);
	size_t n = strlen(err->msg);
	snprintf(err->msg + n, sizeof(err->msg) - n, ": %s", strerror_r(code, buf, sizeof(buf)));
	return -code;
}

int(err_wrap)(struct err *err, int ret, const char *fmt, ...)
{
	char old[ERR_MSG_MAX];
	va_list ap;

	if (!err)
		return ret;
	memcpy(old, err->msg, sizeof(old));
	old[sizeof(old) - 1] = '\0';
	va_start(ap, fmt);
	vset(err, err->code ? err->code : -ret, fmt, ap);
	va_end(ap);
	size_t n = strlen(err->msg);
	snprintf(err->msg + n, sizeof(err->msg) - n, ": %s", old);
	return ret;
}

void err_clear(struct err *err)
{
	if (err) {
		err->code = 0;
		err->msg[0] = '\0';
	}
}

int err_exit_code(int code)
{
	switch (code) {
	case 0:
		return EXIT_OK;
	case EINVAL:
		return EXIT_USAGE;
	case ENOENT:
	case ESRCH:
		return EXIT_NOT_FOUND;
	case EEXIST:
	case EBUSY:
	case EAGAIN:
		return EXIT_BUSY;
	case EBADMSG:
	case EPROTO:
	case ENOTSUP:
		return EXIT_REFUSED;
	case EINTR:
	case ECANCELED:
		return EXIT_INTERRUPTED;
	default:
		return EXIT_FAILED;
	}
}

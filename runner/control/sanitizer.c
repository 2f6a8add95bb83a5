#include "runner/control/sanitizer.h"

#if defined(__SANITIZE_ADDRESS__) || defined(__SANITIZE_THREAD__)
#include "smfs/base/num.h"

#include <pthread.h>
#include <sanitizer/common_interface_defs.h>
#include <sanitizer/lsan_interface.h>
#include <stdbool.h>
#include <sys/stat.h>
#include <unistd.h>

/* What only a thread of the parent's has hold of is lost here, and no leak. */
static bool of_threads;

static void *nothing(void *arg)
{
	return arg;
}

/* ThreadSanitizer knows a thread by where its stack is, and does not know that a fork's child has
 * only one, while the C library gives the stacks of the others to new ones. They are to have stacks
 * that are too large for that. */
static void own_stacks(void)
{
	pthread_attr_t a;
	size_t size;

	if (pthread_getattr_default_np(&a) != 0)
		return;
	if (pthread_attr_getstacksize(&a, &size) == 0 &&
	    pthread_attr_setstacksize(&a, size + MIB) == 0)
		pthread_setattr_default_np(&a);
	pthread_attr_destroy(&a);
}

static void in_child(void)
{
	of_threads = true;
	own_stacks();
}

void sanitizer_confine(void)
{
	struct stat st;
	pthread_t thread;

	/* A fork's child has one of the sanitizer's threads from the beginning, and it is with the
	 * first one made that the sanitizer begins to listen for the notice. */
	if (pthread_create(&thread, NULL, nothing, NULL) == 0)
		pthread_join(thread, NULL);
	__sanitizer_sandbox_on_notify(NULL);
	/* The kernel counts a thread that has been joined for a moment more. */
	for (int ms = 0; ms < 1000 && stat("/proc/self/task", &st) == 0 && st.st_nlink > 2 + 1;
	     ms++)
		usleep(1000);
	pthread_atfork(NULL, NULL, in_child);
}

#ifdef __SANITIZE_ADDRESS__
void sanitizer_end(void)
{
	if (!of_threads)
		__lsan_do_leak_check();
}
#endif
#endif

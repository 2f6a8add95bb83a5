#include "runner/agent/guest.h"

#include <sys/mman.h>
#include <time.h>
#include <unistd.h>

int shared_new(struct shared **out, struct err *err)
{
	struct shared *s =
		mmap(NULL, sizeof(*s), PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
	pthread_mutexattr_t a;

	if (s == MAP_FAILED)
		return err_errno(err, "map the agent's shared page");
	pthread_mutexattr_init(&a);
	pthread_mutexattr_setpshared(&a, PTHREAD_PROCESS_SHARED);
	pthread_mutexattr_setrobust(&a, PTHREAD_MUTEX_ROBUST);
	pthread_mutex_init(&s->lock, &a);
	pthread_mutexattr_destroy(&a);
	*out = s;
	return 0;
}

void guest_lock(struct guest *g)
{
	/* Every critical section is a few plain stores: a dead holder left nothing to repair. */
	if (pthread_mutex_lock(&g->shared->lock) == EOWNERDEAD)
		pthread_mutex_consistent(&g->shared->lock);
}

void guest_unlock(struct guest *g)
{
	pthread_mutex_unlock(&g->shared->lock);
}

int control_claim(struct guest *g, struct err *err)
{
	pid_t holder;

	guest_lock(g);
	holder = g->shared->control;
	if (!holder)
		g->shared->control = getpid();
	guest_unlock(g);
	if (holder)
		return err_set(err, EBUSY, "another control request is being served (session %d)",
			       (int)holder);
	return 0;
}

void control_release(struct guest *g)
{
	control_release_dead(g, getpid());
}

void control_release_dead(struct guest *g, pid_t pid)
{
	guest_lock(g);
	if (g->shared->control == pid)
		g->shared->control = 0;
	guest_unlock(g);
}

uint64_t boottime_ms(void)
{
	struct timespec ts;

	clock_gettime(CLOCK_BOOTTIME, &ts);
	return (uint64_t)ts.tv_sec * 1000 + (uint64_t)ts.tv_nsec / 1000000;
}

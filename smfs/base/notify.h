/* notify.h - tell a service manager how this service is (sd_notify(3)), without its library. */
#ifndef SMFS_BASE_NOTIFY_H
#define SMFS_BASE_NOTIFY_H

/*
 * Send `state`, such as "READY=1", to $NOTIFY_SOCKET. Does nothing without one; what cannot be sent
 * is logged, and the service manager will notice by itself.
 */
void service_notify(const char *state);

#endif

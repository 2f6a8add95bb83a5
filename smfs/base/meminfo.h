/* meminfo.h - what memory the host has to give. No locks, no allocation: any thread may ask. */
#ifndef SMFS_BASE_MEMINFO_H
#define SMFS_BASE_MEMINFO_H

#include <stdint.h>

/* MemAvailable of /proc/meminfo, in bytes; 1 GiB where that cannot be read. */
uint64_t meminfo_available(void);

#endif

/* zero.h - where zeros begin: RAM is half zeros, so this runs at memory speed. */
#ifndef SMFS_STORE_ZERO_H
#define SMFS_STORE_ZERO_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

/* The length of [p, p + n) without the zeros at its end; 0 = all zero. */
size_t zero_trim(const uint8_t *p, size_t n);

#endif

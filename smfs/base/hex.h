/* hex.h - lower-case hexadecimal. */
#ifndef SMFS_BASE_HEX_H
#define SMFS_BASE_HEX_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

/* Writes 2*n digits and a NUL into `out` (2*n + 1 bytes); returns out. */
char *hex_encode(const void *data, size_t n, char *out);

/* Exactly 2*n lower-case digits into `out`. false on anything else. */
bool hex_decode(const char *hex, size_t hexlen, void *out, size_t n);

#endif

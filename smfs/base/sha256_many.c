/*
 * SHA-256 of many messages at once, one in each lane of AVX-512 registers: the function of FIPS
 * 180-4, sixteen times. What is the same length of all is hashed here; each one's rest, and its
 * padding, is libcrypto's.
 */
#define OPENSSL_API_COMPAT 0x10100000L

#include "smfs/base/sha256.h"

#include "smfs/base/num.h"

#include <stdbool.h>
#include <string.h>

#define LANES 16u
#define BLOCK 64u

#ifdef __x86_64__

#include <immintrin.h>

#define WIDE __attribute__((target("avx512f,avx512bw")))

static const uint32_t K[64] = {
	0x428a2f98, 0x71374491, 0xb5c0fbcf, 0xe9b5dba5, 0x3956c25b, 0x59f111f1, 0x923f82a4,
	0xab1c5ed5, 0xd807aa98, 0x12835b01, 0x243185be, 0x550c7dc3, 0x72be5d74, 0x80deb1fe,
	0x9bdc06a7, 0xc19bf174, 0xe49b69c1, 0xefbe4786, 0x0fc19dc6, 0x240ca1cc, 0x2de92c6f,
	0x4a7484aa, 0x5cb0a9dc, 0x76f988da, 0x983e5152, 0xa831c66d, 0xb00327c8, 0xbf597fc7,
	0xc6e00bf3, 0xd5a79147, 0x06ca6351, 0x14292967, 0x27b70a85, 0x2e1b2138, 0x4d2c6dfc,
	0x53380d13, 0x650a7354, 0x766a0abb, 0x81c2c92e, 0x92722c85, 0xa2bfe8a1, 0xa81a664b,
	0xc24b8b70, 0xc76c51a3, 0xd192e819, 0xd6990624, 0xf40e3585, 0x106aa070, 0x19a4c116,
	0x1e376c08, 0x2748774c, 0x34b0bcb5, 0x391c0cb3, 0x4ed8aa4a, 0x5b9cca4f, 0x682e6ff3,
	0x748f82ee, 0x78a5636f, 0x84c87814, 0x8cc70208, 0x90befffa, 0xa4506ceb, 0xbef9a3f7,
	0xc67178f2,
};

/* Row r of 16 words becomes word r of each of 16 rows. */
WIDE static inline void transpose(__m512i r[LANES])
{
	__m512i t[LANES], u[LANES];

#pragma GCC unroll 8
	for (unsigned i = 0; i < LANES; i += 2) {
		t[i] = _mm512_unpacklo_epi32(r[i], r[i + 1]);
		t[i + 1] = _mm512_unpackhi_epi32(r[i], r[i + 1]);
	}
#pragma GCC unroll 4
	for (unsigned i = 0; i < LANES; i += 4) {
		u[i] = _mm512_unpacklo_epi64(t[i], t[i + 2]);
		u[i + 1] = _mm512_unpackhi_epi64(t[i], t[i + 2]);
		u[i + 2] = _mm512_unpacklo_epi64(t[i + 1], t[i + 3]);
		u[i + 3] = _mm512_unpackhi_epi64(t[i + 1], t[i + 3]);
	}
	/* Each u is four words of four rows: what is left is a transposition of 4 x 4 quarters. */
#pragma GCC unroll 4
	for (unsigned i = 0; i < 4; i++) {
		__m512i a = _mm512_shuffle_i32x4(u[i], u[4 + i], 0x88);
		__m512i b = _mm512_shuffle_i32x4(u[i], u[4 + i], 0xdd);
		__m512i c = _mm512_shuffle_i32x4(u[8 + i], u[12 + i], 0x88);
		__m512i d = _mm512_shuffle_i32x4(u[8 + i], u[12 + i], 0xdd);

		r[i] = _mm512_shuffle_i32x4(a, c, 0x88);
		r[4 + i] = _mm512_shuffle_i32x4(b, d, 0x88);
		r[8 + i] = _mm512_shuffle_i32x4(a, c, 0xdd);
		r[12 + i] = _mm512_shuffle_i32x4(b, d, 0xdd);
	}
}

/* The truth tables of three bits' xor, choice and majority. */
#define XOR3(a, b, c) _mm512_ternarylogic_epi32(a, b, c, 0x96)
#define CH(e, f, g)   _mm512_ternarylogic_epi32(e, f, g, 0xca)
#define MAJ(a, b, c)  _mm512_ternarylogic_epi32(a, b, c, 0xe8)
#define ROR(x, n)     _mm512_ror_epi32(x, n)
#define ADD(a, b)     _mm512_add_epi32(a, b)

/* One block of each lane's message into the states. */
WIDE static void round64(__m512i h[8], const uint8_t *const p[LANES], size_t off)
{
	const __m512i big_endian = _mm512_broadcast_i32x4(
		_mm_set_epi32(0x0c0d0e0f, 0x08090a0b, 0x04050607, 0x00010203));
	__m512i s[8], w[LANES];

	for (unsigned i = 0; i < LANES; i++)
		w[i] = _mm512_shuffle_epi8(_mm512_loadu_si512(p[i] + off), big_endian);
	transpose(w);
	memcpy(s, h, sizeof(s));
#pragma GCC unroll 64
	for (unsigned i = 0; i < 64; i++) {
		/* a to h are the eight of s, turned by one each round. */
#define S(k) s[(k + 64 - i) % 8]
		__m512i t = ADD(ADD(S(7), w[i % 16]), _mm512_set1_epi32((int)K[i]));

		t = ADD(t, XOR3(ROR(S(4), 6), ROR(S(4), 11), ROR(S(4), 25)));
		t = ADD(t, CH(S(4), S(5), S(6)));
		S(3) = ADD(S(3), t);
		t = ADD(t, XOR3(ROR(S(0), 2), ROR(S(0), 13), ROR(S(0), 22)));
		S(7) = ADD(t, MAJ(S(0), S(1), S(2)));
#undef S
		if (i >= 48)
			continue;
		__m512i x = w[(i + 1) % 16], y = w[(i + 14) % 16];
		x = XOR3(ROR(x, 7), ROR(x, 18), _mm512_srli_epi32(x, 3));
		y = XOR3(ROR(y, 17), ROR(y, 19), _mm512_srli_epi32(y, 10));
		w[i % 16] = ADD(ADD(w[i % 16], x), ADD(w[(i + 9) % 16], y));
	}
	for (unsigned i = 0; i < 8; i++)
		h[i] = ADD(h[i], s[i]);
}

/* `n` messages, of which the first `blocks` blocks are taken. */
WIDE static void wide(struct sha256_msg *const *m, unsigned n, struct sha256 *out, size_t blocks)
{
	const uint8_t *p[LANES];
	__m512i h[8];
	uint32_t words[8][LANES];

	for (unsigned i = 0; i < LANES; i++)
		p[i] = m[MIN(i, n - 1)]->p;
	sha256_init(&out[0]);
	for (unsigned i = 0; i < 8; i++)
		h[i] = _mm512_set1_epi32((int)out[0].ctx.h[i]);
	for (size_t b = 0; b < blocks; b++)
		round64(h, p, b * BLOCK);
	memcpy(words, h, sizeof(words));
	for (unsigned i = 0; i < n; i++) {
		uint64_t bits = (uint64_t)blocks * BLOCK * 8;

		sha256_init(&out[i]);
		for (unsigned k = 0; k < 8; k++)
			out[i].ctx.h[k] = words[k][i];
		out[i].ctx.Nl = (SHA_LONG)bits;
		out[i].ctx.Nh = (SHA_LONG)(bits >> 32);
	}
}

static bool is_wide(void)
{
	return __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw");
}

#else

static void wide(struct sha256_msg *const *m, unsigned n, struct sha256 *out, size_t blocks)
{
}

static bool is_wide(void)
{
	return false;
}

#endif

/* All lanes cost as much as this many messages with the SHA extensions, one after the other. */
#define WORTH 7u
/* Shorter messages would shorten what all lanes have in common. */
#define LONG_LEN 32768u

static void hash_wide(struct sha256_msg *const *m, unsigned n)
{
	struct sha256 h[LANES];
	size_t blocks = SIZE_MAX;

	for (unsigned i = 0; i < n; i++)
		blocks = MIN(blocks, m[i]->len / BLOCK);
	wide(m, n, h, blocks);
	for (unsigned i = 0; i < n; i++) {
		sha256_update(&h[i], (const uint8_t *)m[i]->p + blocks * BLOCK,
			      m[i]->len - blocks * BLOCK);
		sha256_final(&h[i], m[i]->out);
	}
}

void sha256_many(struct sha256_msg *m, size_t n)
{
	struct sha256_msg *lane[LANES];
	unsigned lanes = 0;
	bool can = is_wide();

	for (size_t i = 0; i < n; i++) {
		if (!can || m[i].len < LONG_LEN)
			sha256(m[i].p, m[i].len, m[i].out);
		else
			lane[lanes++] = &m[i];
		if (lanes == LANES || (i + 1 == n && lanes >= WORTH)) {
			hash_wide(lane, lanes);
			lanes = 0;
		}
	}
	for (unsigned i = 0; i < lanes; i++)
		sha256(lane[i]->p, lane[i]->len, lane[i]->out);
}

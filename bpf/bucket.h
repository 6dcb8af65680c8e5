/* SPDX-License-Identifier: (Apache-2.0 OR GPL-2.0-only) */
/*
 * The bucket of a latency. Apart from the programs, so that a test can compile
 * it for user space and try every bound (tests/unit/test_layout.py).
 */
#ifndef HVTRACE_BUCKET_H
#define HVTRACE_BUCKET_H

#include "hvtrace.h"

/* Log-linear: see HVT_BUCKETS. */
static inline __attribute__((always_inline)) __u32 hvt_bucket(__u64 ns)
{
	__u32 units, rest, log2;

	if (ns > 4000000000ULL)
		return HVT_BUCKETS - 1;
	/* In units of 2^-30 s, rounded down from just below the exact value
	 * (2^62 / 1e9 = 4611686018.4), so that a bound falls into the bucket it
	 * closes: (low, high]. 4e9 * 4611686018 is still below 2^64. */
	units = ns * 4611686018ULL >> 32;
	if (units < 1 << (30 + HVT_MIN_EXP))
		return 0;
	log2 = (units > 0xffff) << 4;
	rest = units >> log2;
	log2 |= (rest > 0xff) << 3;
	rest = units >> log2;
	log2 |= (rest > 0xf) << 2;
	rest = units >> log2;
	log2 |= (rest > 0x3) << 1;
	rest = units >> log2;
	log2 |= rest >> 1;
	return 1 + (log2 - (30 + HVT_MIN_EXP)) * 4 + (units >> (log2 - 2) & 3);
}

#endif

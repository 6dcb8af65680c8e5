/* SPDX-License-Identifier: (Apache-2.0 OR GPL-2.0-only) */
/*
 * The bucket of a latency, and of a size. Apart from the programs, so that a test can
 * compile them for user space and try every bound (tests/unit/test_layout.py).
 */
#ifndef HVTRACE_BUCKET_H
#define HVTRACE_BUCKET_H

#include "hvtrace.h"

/* Halve `units` until `least` to less than twice that are left. A branch, because BPF has
 * no conditional move, and the compiler would take a dozen instructions instead. */
#define HVT_HALVE(least, times)                                                                    \
	if (units >= (least) << (times)) {                                                         \
		__asm__ volatile("" : "+r"(units));                                                \
		units >>= (times);                                                                 \
		bucket += (least) * (times);                                                       \
	}

/* Log-linear: see HVT_BUCKETS. */
static inline __attribute__((always_inline)) __u64 hvt_bucket(__u64 ns)
{
	__u64 units, bucket = 0;

	if (ns > 4000000000ULL)
		return HVT_BUCKETS - 1;
	/* Quarters of the first octave, rounded down from just below the exact value
	 * (2^62 / 1e9 = 4611686018.4), so that a bound falls into the bucket it
	 * closes: (low, high]. 4e9 * 4611686018 is still below 2^64. */
	units = ns * 4611686018ULL >> (62 + HVT_MIN_EXP - 2);
	if (units < 4)
		return 0;
	HVT_HALVE(4, 16)
	HVT_HALVE(4, 8)
	HVT_HALVE(4, 4)
	HVT_HALVE(4, 2)
	HVT_HALVE(4, 1)
	/* The mask changes nothing. The verifier of 6.1 follows HVT_HALVE(4, 1) where `units`
	 * is 7 at most, and takes the sum's contradictory bounds for none without it. */
	return (bucket + units - 3) & 127;
}

/* The highest bit of 16, of which one is set. */
static inline __attribute__((always_inline)) __u64 hvt_log2(__u64 units)
{
	__u64 bucket = 0;

	HVT_HALVE(1, 8)
	HVT_HALVE(1, 4)
	HVT_HALVE(1, 2)
	HVT_HALVE(1, 1)
	return bucket;
}

#endif

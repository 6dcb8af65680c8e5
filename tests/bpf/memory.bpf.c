// SPDX-License-Identifier: (Apache-2.0 OR GPL-2.0-only)
/* Kernel memory that a test writes: a mapped array, which tells its own address. */
#include <linux/types.h>

struct memory {
	u64 address;
	u64 words[63];
};
BPF_F_TABLE("array", u32, struct memory, memory, 1, BPF_F_MMAPABLE);

int hvt_address(struct bpf_raw_tracepoint_args *ctx)
{
	u32 first = 0;
	struct memory *own = memory.lookup(&first);

	if (own)
		own->address = (u64)own;
	return 0;
}

/* SPDX-License-Identifier: (Apache-2.0 OR GPL-2.0-only) */
/*
 * Reading KVM's own structures: every offset comes from this kernel's BTF as a
 * -D flag (hvtrace/kernel/structures.py), none is assumed.
 */
#ifndef HVTRACE_KVM_H
#define HVTRACE_KVM_H

static __always_inline u64 read_u64(u64 at)
{
	u64 value = 0;

	bpf_probe_read_kernel(&value, sizeof(value), (void *)at);
	return value;
}

static __always_inline u32 read_u32(u64 at)
{
	u32 value = 0;

	bpf_probe_read_kernel(&value, sizeof(value), (void *)at);
	return value;
}

static __always_inline u8 read_u8(u64 at)
{
	u8 value = 0;

	bpf_probe_read_kernel(&value, sizeof(value), (void *)at);
	return value;
}

#endif

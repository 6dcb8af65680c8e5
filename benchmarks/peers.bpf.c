// SPDX-License-Identifier: (Apache-2.0 OR GPL-2.0-only)
/*
 * What hvtrace's programs are measured against, on the same two tracepoints.
 *
 * floor: only reads the clock twice, which any latency needs.
 * textbook: as tutorials do it: a start entry inserted and deleted, and one
 * hash key for each (process, code, fast, power-of-two bucket).
 */
#include <linux/types.h>

struct start {
	u64 ns;
	u32 code;
	u32 fast;
};

struct key {
	u32 tgid;
	u32 code;
	u32 fast;
	u32 bucket;
};

BPF_ARRAY(sink, u64, 1);
BPF_HASH(starts, u32, struct start, 1024);
BPF_HASH(counts, struct key, u64, 16384);

static __always_inline int read_clock(void)
{
	u32 zero = 0;
	u64 *slot = sink.lookup(&zero);

	if (slot)
		*slot = bpf_ktime_get_ns();
	return 0;
}

int hvt_floor_start(struct bpf_raw_tracepoint_args *ctx)
{
	return read_clock();
}

int hvt_floor_done(struct bpf_raw_tracepoint_args *ctx)
{
	return read_clock();
}

int hvt_textbook_start(struct bpf_raw_tracepoint_args *ctx)
{
	u32 tid = bpf_get_current_pid_tgid();
	struct start start = {.ns = bpf_ktime_get_ns(), .code = ctx->args[0], .fast = ctx->args[1]};

	starts.update(&tid, &start);
	return 0;
}

int hvt_textbook_done(struct bpf_raw_tracepoint_args *ctx)
{
	u64 pid_tgid = bpf_get_current_pid_tgid(), zero = 0, *count;
	u32 tid = pid_tgid;
	struct start *start = starts.lookup(&tid);
	struct key key = {.tgid = pid_tgid >> 32};

	if (!start)
		return 0;
	key.code = start->code;
	key.fast = start->fast;
	key.bucket = bpf_log2l(bpf_ktime_get_ns() - start->ns);
	count = counts.lookup_or_try_init(&key, &zero);
	if (count)
		__sync_fetch_and_add(count, 1);
	starts.delete(&tid);
	return 0;
}

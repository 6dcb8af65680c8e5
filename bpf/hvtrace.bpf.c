// SPDX-License-Identifier: (Apache-2.0 OR GPL-2.0-only)
/*
 * Hyper-V hypercalls of KVM guests: one state machine per vCPU thread, and
 * counters added up here, so that nothing leaves the kernel per call.
 *
 *   kvm_hv_hypercall       a call opens (one still open closes as unfinished)
 *   kvm_userspace_exit     an open call is forwarded to the VMM
 *   kvm_hv_hypercall_done  the open call completes (none open: an orphan)
 *   sched_process_exit     the thread ends (one still open: unfinished)
 *
 * Compiled by BCC with bpf/headers in place of kernel headers. Sizes come as -D
 * flags from hvtrace/kernel/programs.py, the tracepoints' from shape.py there:
 * HVT_MAX_THREADS, HVT_MAX_SLOTS, HVT_CACHE (a power of 2), and where a field of
 * an event is: HVT_CODE, HVT_FAST, HVT_VAR_CNT (absent before 5.18), HVT_REP_CNT,
 * HVT_RESULT, HVT_REASON, HVT_ERRNO. That is the number of an argument for raw
 * tracepoints, and with HVT_RECORD an offset into the record of normal ones.
 */
#include <linux/types.h>

#include "hvtrace.h"
#include "bucket.h"

#define KVM_EXIT_HYPERV 27 /* include/uapi/linux/kvm.h */
#define XMM_PAIR_BYTES 16  /* TLFS 3.7.2: RDX+R8, then XMM0 ... XMM5 */
#define XMM_PAIRS 7

#ifndef HVT_NO_VERDICTS
#define HVT_NO_VERDICTS 0 /* 1 in benchmarks only, to know what they cost */
#endif

#define CALL_VAR(call) ((u32)((call) >> HVT_CALL_VAR_SHIFT) & 0x3ff)
#define CALL_REP(call) ((u32)((call) >> HVT_CALL_REP_SHIFT) & 0xfff)

BPF_F_TABLE("array", u32, struct hvt_slot, slots, HVT_MAX_SLOTS, BPF_F_MMAPABLE);
BPF_F_TABLE("array", u32, struct hvt_thread, threads, HVT_MAX_THREADS, BPF_F_MMAPABLE);
BPF_F_TABLE("array", u32, struct hvt_control, control, 1, BPF_F_MMAPABLE);

/* Free indices, filled by user space; popped on a thread's or a call's first
 * sight only. */
BPF_STACK(free_slots, u32, HVT_MAX_SLOTS);
BPF_STACK(free_threads, u32, HVT_MAX_THREADS);

/* tid -> index into threads: the authority. `cache` stands in front of it, for
 * array look-ups are inlined and hash look-ups are calls: indexed by the low
 * bits of the tid, one word holds tid and index, so a race can miss, never mix. */
BPF_HASH(tids, u32, u32, HVT_MAX_THREADS);
BPF_ARRAY(cache, u64, HVT_CACHE);

BPF_HASH(abis, u32, struct hvt_abi, 1024);
BPF_HASH(statuses, struct hvt_status_key, u64, HVT_MAX_SLOTS);

/* Not BCC's own macros: programs of their names attach by themselves, and we
 * attach only when the free lists are filled. */
#if HVT_RECORD
#define PROBE(tp) int hvt_##tp(void *ctx)
#define FIELD(type, at) (*(type *)(ctx + (at)))
#else
/* Raw arguments are 64-bit words: the cast masks them to their width. */
#define PROBE(tp) int hvt_##tp(struct bpf_raw_tracepoint_args *ctx)
#define FIELD(type, at) ((type)ctx->args[at])
#endif

static __always_inline struct hvt_control *get_control(void)
{
	u32 zero = 0;

	return control.lookup(&zero);
}

static __always_inline bool filtered_out(const struct hvt_control *ctl, u64 pid_tgid)
{
	return ctl->filter_tgid && ctl->filter_tgid != (u32)(pid_tgid >> 32);
}

static __always_inline struct hvt_thread *find_thread(u32 tid, u32 *index)
{
	u32 at = tid & (HVT_CACHE - 1);
	u64 *word = cache.lookup(&at);
	u32 *known;
	u64 seen;

	if (!word)
		return 0;
	seen = *word;
	if (seen >> 32 == tid) {
		*index = (u32)seen;
	} else {
		known = tids.lookup(&tid);
		if (!known)
			return 0;
		*index = *known;
		*word = (u64)tid << 32 | *index;
	}
	return threads.lookup(index);
}

static __always_inline struct hvt_thread *new_thread(struct hvt_control *ctl, u64 pid_tgid,
						     u32 *index)
{
	u32 tid = pid_tgid;
	struct hvt_thread *t = 0;

	if (!free_threads.pop(index))
		t = threads.lookup(index);
	if (!t || tids.update(&tid, index)) {
		__sync_fetch_and_add(&ctl->no_thread, 1);
		return 0;
	}
	/* Its table is zero: user space clears an entry before it frees it. */
	t->call = 0;
	t->tid = tid;
	t->tgid = pid_tgid >> 32;
	bpf_get_current_comm(t->comm, sizeof(t->comm));
	t->state = HVT_LIVE;
	return t;
}

static __always_inline struct hvt_slot *new_slot(struct hvt_thread *t, u32 index, u32 at, u32 key,
						 u32 *slot_index)
{
	struct hvt_slot *slot;
	struct hvt_abi *abi;
	u32 code = key & 0xffff;

	if (free_slots.pop(slot_index))
		return 0;
	slot = slots.lookup(slot_index);
	if (!slot)
		return 0;
	*(u32 *)&slot->code = key;
	slot->min_ns = ~0ULL;
	abi = abis.lookup(&code);
	if (abi)
		slot->abi = *abi;
	t->table[at & (HVT_TABLE - 1)] = *slot_index + 1;
	t->slots++;
	/* Last: what makes the slot visible to a reader. */
	barrier();
	slot->thread = index + 1;
	return slot;
}

/* The slot of (code, fast, handler), made on first use: open addressing in the
 * thread's own table, the key checked in the slot, which is touched anyhow. */
static __always_inline struct hvt_slot *find_slot(struct hvt_thread *t, u32 index, u64 call,
						  u32 *slot_index)
{
	u32 fast = !!(call & HVT_CALL_FAST);
	u32 vmm = !!(call & HVT_CALL_VMM);
	u32 key = (u16)call | fast << 16 | vmm << 24; /* as in struct hvt_slot */
	u32 at = (u16)call ^ fast << 6 ^ vmm << 5;
	struct hvt_slot *slot;
	int i;

	for (i = 0; i < HVT_TABLE; i++) {
		at &= HVT_TABLE - 1;
		*slot_index = t->table[at];
		if (!*slot_index)
			return new_slot(t, index, at, key, slot_index);
		*slot_index -= 1;
		slot = slots.lookup(slot_index);
		if (!slot)
			return 0;
		if (*(u32 *)&slot->code == key)
			return slot;
		at++;
	}
	return 0;
}

static __always_inline u32 pairs(u32 bytes)
{
	return (bytes + XMM_PAIR_BYTES - 1) / XMM_PAIR_BYTES;
}

#ifdef HVT_EVIDENCE /* evidence.bpf.c, joined to this file */
static __always_inline void note_exit(u32 index);
static __always_inline void count_exit(struct hvt_control *ctl, const struct hvt_thread *t,
				       u32 index, const struct hvt_abi abi, bool success, u32 reps);
static __always_inline void forget_vcpu(u32 tid);
#else
#define note_exit(...)
#define count_exit(...)
#define forget_vcpu(...)
#endif

/* XMM input and the verdict on output of a fast call (TLFS 3.7.2 and 3.8.1);
 * hvtrace/hyperv/xmm.py says the same in Python, and tests/bpf compares. */
static __always_inline void count_xmm(struct hvt_slot *slot, u64 call, bool success, u32 reps)
{
	const struct hvt_abi abi = slot->abi;
	u32 var = CALL_VAR(call), rep = CALL_REP(call);
	u32 in, used;

	if (!(call & HVT_CALL_FAST) || !(abi.flags & HVT_ABI_INPUT))
		return;
	in = abi.in_fixed + 8 * var + abi.in_elem * rep;
	if (in > XMM_PAIR_BYTES)
		slot->xmm_input++;
	if (HVT_NO_VERDICTS || !(abi.flags & HVT_ABI_OUTPUT))
		return;
	used = pairs(abi.out_fixed + abi.out_elem * reps);
	if (pairs(in) + pairs(abi.out_fixed + abi.out_elem * rep) > XMM_PAIRS)
		slot->xmm_output[HVT_IMPOSSIBLE]++;
	else if (!success)
		slot->xmm_output[HVT_REFUSED]++;
	else if (used && pairs(in) + used > 1)
		slot->xmm_output[HVT_USED_XMM]++;
	else
		slot->xmm_output[HVT_USED_GPR]++;
}

static __always_inline void count_failure(struct hvt_control *ctl, struct hvt_slot *slot,
					  u32 slot_index, u16 status)
{
	struct hvt_status_key key = {.slot = slot_index, .status = status};
	u64 one = 1, *count;
	int i;

#pragma unroll
	for (i = 0; i < HVT_STATUSES; i++) {
		if (!slot->status[i])
			slot->status[i] = status;
		if (slot->status[i] == status) {
			slot->status_count[i]++;
			return;
		}
	}
	count = statuses.lookup(&key);
	if (count)
		(*count)++;
	else if (statuses.update(&key, &one))
		__sync_fetch_and_add(&ctl->no_status, 1);
}

static __always_inline void close_completed(struct hvt_control *ctl, struct hvt_thread *t,
					    u32 index, u64 result)
{
	u64 call = t->call, ns = bpf_ktime_get_ns() - t->start_ns;
	u32 slot_index, bucket = hvt_bucket(ns), reps = result >> 32 & 0xfff;
	struct hvt_slot *slot = find_slot(t, index, call, &slot_index);
	u16 status = result;

	if (!slot) {
		__sync_fetch_and_add(&ctl->no_slot, 1);
		return;
	}
	if (bucket < HVT_BUCKETS) /* for the verifier */
		slot->buckets[bucket]++;
	slot->sum_ns += ns;
	if (ns < slot->min_ns)
		slot->min_ns = ns;
	if (ns > slot->max_ns)
		slot->max_ns = ns;
	slot->reps += reps;
	count_xmm(slot, call, !status, reps);
	if (status)
		count_failure(ctl, slot, slot_index, status);
	count_exit(ctl, t, index, slot->abi, !status, reps);
}

static __always_inline void close_unfinished(struct hvt_control *ctl, struct hvt_thread *t,
					     u32 index)
{
	u32 slot_index;
	struct hvt_slot *slot = find_slot(t, index, t->call, &slot_index);

	if (!slot) {
		__sync_fetch_and_add(&ctl->no_slot, 1);
		return;
	}
	slot->unfinished++;
	count_xmm(slot, t->call, false, 0);
	count_exit(ctl, t, index, slot->abi, false, 0);
}

/* Open, and under the filters of now. */
static __always_inline bool is_open(const struct hvt_control *ctl, u64 call)
{
	return call & HVT_CALL_OPEN && (u16)(call >> HVT_CALL_EPOCH_SHIFT) == (u16)ctl->epoch;
}

PROBE(kvm_hv_hypercall)
{
	u64 pid_tgid = bpf_get_current_pid_tgid();
	struct hvt_control *ctl = get_control();
	struct hvt_thread *t;
	u32 index = 0;
	u64 call;

	if (!ctl || filtered_out(ctl, pid_tgid))
		return 0;
	t = find_thread(pid_tgid, &index);
	if (!t) {
		t = new_thread(ctl, pid_tgid, &index);
		if (!t)
			return 0;
	}
	if (is_open(ctl, t->call))
		close_unfinished(ctl, t, index);

	call = FIELD(u16, HVT_CODE);
	if (ctl->filter_code != HVT_ANY_CODE && ctl->filter_code != call) {
		t->call = HVT_CALL_SKIPPED;
		return 0;
	}
	if (FIELD(u8, HVT_FAST) & 1)
		call |= HVT_CALL_FAST;
#ifdef HVT_VAR_CNT
	call |= (FIELD(u16, HVT_VAR_CNT) & 0x3ffULL) << HVT_CALL_VAR_SHIFT;
#endif
	call |= (FIELD(u16, HVT_REP_CNT) & 0xfffULL) << HVT_CALL_REP_SHIFT;
	t->call = call | (ctl->epoch & 0xffff) << HVT_CALL_EPOCH_SHIFT | HVT_CALL_OPEN;
	t->start_ns = bpf_ktime_get_ns();
	return 0;
}

/* The same thread in all common VMMs, even after a forwarded
 * call (then in its next KVM_RUN); on another thread it is an orphan. */
PROBE(kvm_hv_hypercall_done)
{
	u64 pid_tgid = bpf_get_current_pid_tgid();
	struct hvt_control *ctl = get_control();
	struct hvt_thread *t;
	u32 index = 0;

	if (!ctl || filtered_out(ctl, pid_tgid))
		return 0;
	t = find_thread(pid_tgid, &index);
	if (t && is_open(ctl, t->call))
		close_completed(ctl, t, index, FIELD(u64, HVT_RESULT));
	else if (!t || !t->call)
		__sync_fetch_and_add(&ctl->orphans, 1);
	if (t)
		t->call = 0;
	return 0;
}

/* After a failed run `reason` is the one before, so
 * errno decides; 27 is also SynIC's and SynDBG's, so a call must be open. */
PROBE(kvm_userspace_exit)
{
	struct hvt_thread *t;
	u32 index = 0;

	if (FIELD(u32, HVT_REASON) != KVM_EXIT_HYPERV || FIELD(s32, HVT_ERRNO) < 0)
		return 0;
	t = find_thread(bpf_get_current_pid_tgid(), &index);
	if (t && t->call & HVT_CALL_OPEN) {
		t->call |= HVT_CALL_VMM;
		note_exit(index);
	}
	return 0;
}

/* A thread that ends will not complete its call, and its tid may come again. */
PROBE(sched_process_exit)
{
	u32 tid = bpf_get_current_pid_tgid(), at = tid & (HVT_CACHE - 1), index = 0;
	struct hvt_thread *t = find_thread(tid, &index);
	struct hvt_control *ctl = get_control();
	u64 *word;

	if (!t || !ctl)
		return 0;
	if (is_open(ctl, t->call))
		close_unfinished(ctl, t, index);
	t->call = 0;
	forget_vcpu(tid);
	tids.delete(&tid);
	word = cache.lookup(&at);
	if (word && *word >> 32 == tid)
		*word = 0;
	barrier();
	t->state = HVT_DEAD;
	return 0;
}

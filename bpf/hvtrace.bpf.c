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
 * HVT_MAX_THREADS and HVT_CACHE (powers of 2), HVT_MAX_SLOTS, HVT_MAX_FAILURES, and where a field
 * of an event is: HVT_CODE, HVT_FAST, HVT_VAR_CNT (absent before 5.18), HVT_REP_CNT, HVT_RESULT,
 * HVT_REASON, HVT_ERRNO. That is the number of an argument for raw tracepoints, and with HVT_RECORD
 * an offset into the record of normal ones.
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

/* A value as it is: the compiler may not keep its parts instead. */
#define WHOLE(x) asm volatile("" : "+r"(x))

/* Fast and handler move to bits 5 and 6. */
#define HASH(call) ((call) ^ (call) >> 11)
#define CALL_VAR(call) ((call) >> HVT_CALL_VAR_SHIFT & 0x3ff)
#define CALL_REP(call) ((call) >> HVT_CALL_REP_SHIFT & 0xfff)
#define INPUT_BYTES(abi, call)                                                                     \
	((abi).in_fixed + 8 * CALL_VAR(call) + (abi).in_elem * CALL_REP(call))
#define PAIRS(bytes) (((bytes) + XMM_PAIR_BYTES - 1) / XMM_PAIR_BYTES)

/* Where it stands: the compiler would make one of several, with an address worked out. */
#define COUNT(counter)                                                                             \
	do {                                                                                       \
		asm volatile("" ::"i"(__COUNTER__));                                               \
		(counter)++;                                                                       \
	} while (0)

/* A mapped array of bytes, as many as `type` has: BCC makes code for each member of an
 * element's type, which would take longer than all the rest. */
#define MAPPED_ARRAY(name, type, count)                                                            \
	enum { name##_bytes = sizeof(type) };                                                      \
	struct name##_element {                                                                    \
		u8 bytes[name##_bytes];                                                            \
	};                                                                                         \
	BPF_F_TABLE("array", u32, struct name##_element, name, count, BPF_F_MMAPABLE)

/* The address of an element (BPF_PSEUDO_MAP_VALUE) is one instruction where a look-up
 * is a dozen. BCC knows no such thing: the map's number and the offset stand together
 * where hvtrace/kernel/child.py puts the map's descriptor, and the offset behind it. */
MAPPED_ARRAY(state, struct hvt_state, 1);
#define STATE_AT(member)                                                                           \
	((typeof(&((struct hvt_state *)0)->member))bpf_pseudo_fd(                                  \
	    2, HVT_STATE << 24 | __builtin_offsetof(struct hvt_state, member)))
#define CONTROL STATE_AT(control)
#define COUNT_LOST(what) __sync_fetch_and_add(&CONTROL->what, 1)

/* Too large for one element. The first is never used: 0 is "none" in the tables. */
MAPPED_ARRAY(slots, struct hvt_slot, HVT_MAX_SLOTS + 1);

static __always_inline struct hvt_slot *get_slot(u32 *index)
{
	return (struct hvt_slot *)slots.lookup(index);
}

/* Free indices, filled by user space; popped on a thread's or a call's first
 * sight only. */
BPF_STACK(free_slots, u32, HVT_MAX_SLOTS);
BPF_STACK(free_threads, u32, HVT_MAX_THREADS);
BPF_STACK(free_failures, u32, HVT_MAX_FAILURES);

/* tid -> index into threads: the authority. */
BPF_HASH(tids, u32, u32, HVT_MAX_THREADS);

BPF_HASH(abis, u32, struct hvt_abi, 1024);
MAPPED_ARRAY(failures, struct hvt_failure, HVT_MAX_FAILURES + 1);

/* Not BCC's own macros: programs of their names attach by themselves, and we
 * attach only when the free lists are filled. */
#if HVT_RECORD
#define CONTEXT void
#define FIELD(type, at) (*(type *)(ctx + (at)))
#else
/* Raw arguments are 64-bit words: the cast masks them to their width. */
#define CONTEXT struct bpf_raw_tracepoint_args
#define FIELD(type, at) ((type)ctx->args[at])
#endif
#define PROBE(tp) int hvt_##tp(CONTEXT *ctx)

static __always_inline u64 *cache_word(u64 pid_tgid)
{
	return STATE_AT(cache[0]) + (pid_tgid & (HVT_CACHE - 1));
}

/* What is rare starts from memory again behind a barrier: what it needs would
 * else take registers from the usual path, and the compiler knows no rare. */
static __always_inline struct hvt_thread *find_thread(u64 pid_tgid)
{
	u64 index = *cache_word(pid_tgid) ^ pid_tgid << 32; /* where the word is of this tid */
	struct hvt_thread *t;
	u32 tid, *known;

	if (index > HVT_MAX_THREADS - 1) {
		barrier();
		tid = bpf_get_current_pid_tgid();
		known = tids.lookup(&tid);
		if (!known)
			return 0;
		index = *known & (HVT_MAX_THREADS - 1);
		*cache_word(tid) = (u64)tid << 32 | index;
	}
	t = STATE_AT(threads[0]) + index;
	if (!t) /* as the compiler does not know */
		__builtin_unreachable();
	return t;
}

static __always_inline struct hvt_thread *new_thread(void)
{
	u64 pid_tgid = bpf_get_current_pid_tgid();
	u32 tid = pid_tgid, index;
	struct hvt_thread *t;

	if (free_threads.pop(&index) || tids.update(&tid, &index))
		return 0;
	t = STATE_AT(threads[0]) + (index & (HVT_MAX_THREADS - 1));
	/* Its table is zero: user space clears an entry before it frees it. */
	t->call = 0;
	t->tid = tid;
	t->tgid = pid_tgid >> 32;
	bpf_get_current_comm(t->comm, sizeof(t->comm));
	t->state = HVT_LIVE;
	return t;
}

/* What the sizes of a fast call come to (TLFS 3.7.2 and 3.8.1). Kept in the slot,
 * because a guest makes the same call many times over. */
static __always_inline void set_shape(struct hvt_slot *slot, u64 call)
{
	u8 flags = slot->abi.flags, xmm = 0;
	u64 in, out;

	if (call & HVT_CALL_FAST && flags & HVT_ABI_INPUT) {
		in = INPUT_BYTES(slot->abi, call);
		out = slot->abi.out_fixed + slot->abi.out_elem * CALL_REP(call);
		if (in > XMM_PAIR_BYTES)
			xmm = HVT_XMM_INPUT;
		if (flags & HVT_ABI_OUTPUT)
			xmm |= PAIRS(in) + PAIRS(out) > XMM_PAIRS ? HVT_XMM_IMPOSSIBLE
								  : HVT_XMM_OUTPUT;
	}
	slot->abi.xmm = xmm;
	slot->shape = call & HVT_CALL_SHAPE;
}

static __always_inline struct hvt_slot *new_slot(u16 *entry, u64 call, u32 *index)
{
	struct hvt_slot *slot;
	struct hvt_abi *abi;
	u32 code = (u16)call;

	if (free_slots.pop(index))
		return 0;
	slot = get_slot(index);
	if (!slot)
		return 0;
	slot->min_ns = ~0ULL;
	abi = abis.lookup(&code);
	if (abi)
		slot->abi = *abi;
	set_shape(slot, call);
	/* Last: what makes the slot visible to a reader. */
	barrier();
	*entry = *index;
	return slot;
}

static __always_inline bool is_of(const struct hvt_slot *slot, u64 call, u64 mask)
{
	return !((slot->shape ^ call) & mask);
}

static __always_inline struct hvt_slot *search_slot(struct hvt_thread *t, u32 *index)
{
	u64 call = t->call;
	u32 at = HASH(call), i;
	struct hvt_slot *slot;
	u16 *entry;

	for (i = 0; i < HVT_TABLE; i++) {
		entry = &t->table[at++ & (HVT_TABLE - 1)];
		*index = *entry;
		if (!*index) {
			slot = new_slot(entry, call, index);
			if (slot)
				return slot;
			break;
		}
		slot = get_slot(index);
		if (slot && is_of(slot, call, HVT_CALL_KEY)) {
			set_shape(slot, call);
			return slot;
		}
	}
	COUNT_LOST(no_slot);
	return 0;
}

/* The slot of the thread's open call, made on first use: open addressing in the
 * thread's own table, the key checked in the slot, which is touched anyhow. */
static __always_inline struct hvt_slot *find_slot(struct hvt_thread *t, u32 *index)
{
	struct hvt_slot *slot;

	*index = t->table[HASH(t->call) & (HVT_TABLE - 1)];
	slot = get_slot(index); /* of "none", too: its shape is no call's */
	if (slot) {
		if (is_of(slot, t->call, HVT_CALL_SHAPE))
			return slot;
		barrier();
		if (is_of(slot, t->call, HVT_CALL_KEY)) {
			set_shape(slot, t->call);
			return slot;
		}
	}
	barrier();
	return search_slot(t, index);
}

#ifdef HVT_EVIDENCE /* evidence.bpf.c, joined to this file */
static __always_inline void note_exit(u32 tid);
static __always_inline void count_exit(const struct hvt_thread *t, const struct hvt_abi abi,
				       bool success, u32 reps);
static __always_inline void forget_vcpu(u32 tid);
#else
#define note_exit(...)
#define count_exit(...)
#define forget_vcpu(...)
#endif

#ifdef HVT_ROUND_TRIP /* roundtrip.bpf.c, joined to this file */
static __always_inline void note_trip(struct hvt_thread *t, u32 index);
static __always_inline void forget_trip(struct hvt_thread *t);
#else
#define note_trip(...)
#define forget_trip(...)
#endif

/* XMM input and the verdict on output of a fast call (TLFS 3.7.2 and 3.8.1);
 * hvtrace/hyperv/xmm.py says the same in Python, and tests/bpf compares. */
static __always_inline void count_xmm(struct hvt_slot *slot, bool success, u32 reps)
{
	u64 xmm = slot->abi.xmm, in, out;

	if (!xmm)
		return;
	if (xmm & HVT_XMM_INPUT)
		COUNT(slot->xmm_input);
	if (HVT_NO_VERDICTS || xmm == HVT_XMM_INPUT)
		return;
	if (xmm & HVT_XMM_IMPOSSIBLE) {
		COUNT(slot->xmm_output[HVT_IMPOSSIBLE]);
		return;
	}
	if (!success) {
		COUNT(slot->xmm_output[HVT_REFUSED]);
		return;
	}
	in = INPUT_BYTES(slot->abi, slot->shape);
	out = slot->abi.out_fixed + slot->abi.out_elem * reps;
	if (out && PAIRS(in) + PAIRS(out) > 1) {
		COUNT(slot->xmm_output[HVT_USED_XMM]);
		return;
	}
	COUNT(slot->xmm_output[HVT_USED_GPR]);
}

static __always_inline void count_more(struct hvt_slot *slot, u16 status)
{
	struct hvt_failure *failure;
	u32 *link = &slot->more, index;
	int i;

	for (i = 0; i < HVT_MORE_STATUSES; i++) {
		index = *link;
		if (!index && free_failures.pop(&index))
			break;
		failure = (struct hvt_failure *)failures.lookup(&index);
		if (!failure)
			break;
		if (!failure->status)
			failure->status = status;
		if (failure->status == status) {
			failure->count++;
			barrier(); /* what makes it visible, where it is new */
			*link = index;
			return;
		}
		link = &failure->next;
	}
	COUNT_LOST(no_status);
}

static __always_inline void count_failure(struct hvt_slot *slot, u16 status)
{
	int i;

	if (slot->status[0] == status) { /* the usual case */
		slot->status_count[0]++;
		return;
	}
	barrier();
#pragma unroll
	for (i = 0; i < HVT_STATUSES; i++) {
		if (!slot->status[i])
			slot->status[i] = status;
		if (slot->status[i] == status) {
			slot->status_count[i]++;
			return;
		}
	}
	count_more(slot, status);
}

static __always_inline void close_completed(struct hvt_thread *t, CONTEXT *ctx)
{
	u64 ns = bpf_ktime_get_ns() - t->start_ns, result;
	struct hvt_slot *slot;
	u32 slot_index, reps;
	u64 bucket;
	u16 status;

	WHOLE(ns);
	slot = find_slot(t, &slot_index);
	if (!slot)
		return;
	slot->sum_ns += ns;
	if (ns < slot->min_ns)
		slot->min_ns = ns;
	if (ns > slot->max_ns)
		slot->max_ns = ns;
	result = FIELD(u64, HVT_RESULT);
	status = result;
	reps = result >> 32 & 0xfff;
	count_xmm(slot, !status, reps);
	if (result) {
		slot->reps += reps;
		if (status)
			count_failure(slot, status);
	}
	count_exit(t, slot->abi, !status, reps);
	note_trip(t, slot_index);
	/* Last: the verifier follows each of its branches to the end of the program. */
	bucket = hvt_bucket(ns);
	if (bucket < HVT_BUCKETS)
		slot->buckets[bucket]++;
}

static __always_inline void close_unfinished(struct hvt_thread *t)
{
	u32 slot_index;
	struct hvt_slot *slot = find_slot(t, &slot_index);

	if (!slot)
		return;
	slot->unfinished++;
	count_xmm(slot, false, 0);
	count_exit(t, slot->abi, false, 0);
}

/* Under a filter of now, and not over. */
static __always_inline bool is_open(u64 call)
{
	return !((call ^ CONTROL->epoch) >> HVT_CALL_EPOCH_SHIFT);
}

static __always_inline bool filtered_out(u64 pid_tgid)
{
	u32 tgid = CONTROL->filter_tgid;

	return tgid && tgid != pid_tgid >> 32;
}

PROBE(kvm_hv_hypercall)
{
	u64 pid_tgid = bpf_get_current_pid_tgid(), call;
	struct hvt_thread *t;
	u32 wanted;

	if (filtered_out(pid_tgid))
		return 0;
	t = find_thread(pid_tgid);
	if (!t) {
		t = new_thread();
		if (!t) {
			COUNT_LOST(no_thread);
			return 0;
		}
	}
	WHOLE(t);
	if (t->call && is_open(t->call))
		close_unfinished(t);

	call = FIELD(u16, HVT_CODE);
	wanted = CONTROL->filter_code;
	if (wanted && wanted != call + 1) {
		t->call = HVT_CALL_SKIPPED;
		return 0;
	}
	if (FIELD(u8, HVT_FAST) & 1) {
		call |= HVT_CALL_FAST;
#ifdef HVT_VAR_CNT
		call |= (FIELD(u16, HVT_VAR_CNT) & 0x3ffULL) << HVT_CALL_VAR_SHIFT;
#endif
		call |= (FIELD(u16, HVT_REP_CNT) & 0xfffULL) << HVT_CALL_REP_SHIFT;
	}
	t->call = call | CONTROL->epoch;
	t->start_ns = bpf_ktime_get_ns();
	return 0;
}

/* The same thread in all common VMMs, even after a forwarded
 * call (then in its next KVM_RUN); on another thread it is an orphan. */
PROBE(kvm_hv_hypercall_done)
{
	u64 pid_tgid = bpf_get_current_pid_tgid();
	struct hvt_thread *t = find_thread(pid_tgid);

	if (!t) {
		if (!filtered_out(pid_tgid))
			COUNT_LOST(orphans);
		return 0;
	}
	WHOLE(t);
	if (is_open(t->call))
		close_completed(t, ctx);
	else if (!t->call && !filtered_out(bpf_get_current_pid_tgid()))
		COUNT_LOST(orphans);
	t->call = 0;
	return 0;
}

/* After a failed run `reason` is the one before, so
 * errno decides; 27 is also SynIC's and SynDBG's, so a call must be open. */
PROBE(kvm_userspace_exit)
{
	struct hvt_thread *t;

	if (FIELD(u32, HVT_REASON) != KVM_EXIT_HYPERV || FIELD(s32, HVT_ERRNO) < 0)
		return 0;
	t = find_thread(bpf_get_current_pid_tgid());
	if (t && t->call & HVT_CALL_OPEN) {
		t->call |= HVT_CALL_VMM;
		note_exit(t->tid);
	}
	return 0;
}

/* A thread that ends will not complete its call, and its tid may come again. */
PROBE(sched_process_exit)
{
	u64 pid_tgid = bpf_get_current_pid_tgid();
	u64 *word = cache_word(pid_tgid);
	struct hvt_thread *t = find_thread(pid_tgid);
	u32 tid = pid_tgid;

	if (!t)
		return 0;
	if (is_open(t->call))
		close_unfinished(t);
	t->call = 0;
	forget_vcpu(tid);
	forget_trip(t);
	tids.delete(&tid);
	if (*word >> 32 == tid)
		*word = 0;
	barrier();
	t->state = HVT_DEAD;
	return 0;
}

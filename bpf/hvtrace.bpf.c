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
 * The second part of one text, after state.bpf.c. Compiled by BCC with bpf/headers
 * in place of kernel headers. Where a field of an event is comes as a -D flag from
 * hvtrace/kernel/shape.py: HVT_CODE, HVT_FAST, HVT_VAR_CNT (absent before 5.18),
 * HVT_REP_CNT, HVT_RESULT, HVT_REASON, HVT_ERRNO. That is the number of an argument for
 * raw tracepoints, and with HVT_RECORD an offset into the record of normal ones.
 */
#define KVM_EXIT_HYPERV 27 /* include/uapi/linux/kvm.h */

#ifndef HVT_NO_VERDICTS
#define HVT_NO_VERDICTS 0 /* 1 in benchmarks only, to know what they cost */
#endif

/* Whether sizes are kept of memory calls, too: the programs' own look is at fast ones. */
#if defined(HVT_SIZES) || defined(HVT_SLOW_PAGES)
#define HVT_EVERY_SIZE 1
#else
#define HVT_EVERY_SIZE 0
#endif

/* Where it stands: the compiler would make one of several, with an address worked out. */
#define COUNT(counter)                                                                             \
	do {                                                                                       \
		asm volatile("" ::"i"(__COUNTER__));                                               \
		(counter)++;                                                                       \
	} while (0)

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

#ifdef HVT_SIZES /* sizes.bpf.c, joined to this file */
static __always_inline void count_sizes(u64 call, u32 index);
#else
#define count_sizes(...)
#endif

#ifdef HVT_SLOW_PAGES /* slow.bpf.c, joined to this file */
static __always_inline void note_slow(struct hvt_thread *t, u64 ns, u64 result);
#else
#define note_slow(...)
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
	note_slow(t, ns, result);
	count_sizes(t->call, slot_index);
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
	count_sizes(t->call, slot_index);
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
	bool fast;

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
	fast = FIELD(u8, HVT_FAST) & 1;
	if (fast || HVT_EVERY_SIZE) {
		if (fast)
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

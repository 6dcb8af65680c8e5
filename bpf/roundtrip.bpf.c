// SPDX-License-Identifier: (Apache-2.0 OR GPL-2.0-only)
/*
 * The round trip of a hypercall: from the exit that made it to the vCPU's next entry.
 *
 *   kvm_exit     of a hypercall: the thread notes when, and which vCPU
 *   (completion) the thread notes the call's slot
 *   kvm_entry    of that vCPU: the trip is over
 *
 * Both events fire for every exit there is, so all others leave early: an exit by
 * its reason, an entry by a look at whether any thread waits for such a vCPU.
 * Always raw tracepoints: they fire where interrupts are off (6.1's kvm_exit of
 * kvm_amd does not, but there raw ones disable preemption). KVM's structures are
 * read at this kernel's own offsets, -D flags from hvtrace/kernel/structures.py.
 * The text is joined to that of hvtrace.bpf.c, as evidence.bpf.c is.
 */
#include "kvm.h"

#define KVM_ISA_VMX 1 /* arch/x86/include/asm/kvm_host.h */
#define KVM_ISA_SVM 2
#define EXIT_VMCALL 18 /* EXIT_REASON_VMCALL: bits 15:0 are the basic reason */
#define SVM_EXIT_VMMCALL 0x81
#define WAITING_BITS 12

/* By a hash of the vCPU's address: threads that wait for its entry. A count, not a
 * mark, because two vCPUs may share one: it is 0 where nobody waits, and never
 * while somebody does. */
struct waiting {
	u32 threads[1 << WAITING_BITS];
};
MAPPED_ARRAY(waiting, struct waiting, 1);
MAPPED_ARRAY(trips, struct hvt_trip, HVT_MAX_SLOTS + 1);

static __always_inline u32 *waiting_for(u64 vcpu)
{
	return (u32 *)bpf_pseudo_fd(2, HVT_WAITING << 24) +
	       (vcpu * 0x9e3779b97f4a7c15ULL >> (64 - WAITING_BITS));
}

/* The only place that changes what a thread waits for; 0: nothing. */
static __always_inline void wait_for(struct hvt_thread *t, u64 vcpu)
{
	if (t->vcpu)
		__sync_fetch_and_add(waiting_for(t->vcpu), -1);
	t->vcpu = vcpu;
	t->trip = 0;
	if (vcpu)
		__sync_fetch_and_add(waiting_for(vcpu), 1);
}

/* The thread's call has completed and is counted in slot `index`. */
static __always_inline void note_trip(struct hvt_thread *t, u32 index)
{
	if (!t->vcpu || t->trip)
		COUNT_LOST(no_trip);
	else
		t->trip = index;
}

static __always_inline void forget_trip(struct hvt_thread *t)
{
	wait_for(t, 0);
}

static __always_inline bool by_hypercall(struct bpf_raw_tracepoint_args *ctx)
{
	u64 vcpu = ctx->args[HVT_EXIT_VCPU];
	u32 isa = ctx->args[HVT_EXIT_VCPU + 1];

#if HVT_EXIT_VCPU /* before 5.16 the reason came first */
	u32 reason = ctx->args[0];

	return isa == KVM_ISA_SVM ? reason == SVM_EXIT_VMMCALL : (u16)reason == EXIT_VMCALL;
#endif
#ifdef HVT_SVM_VMCB
	if (isa == KVM_ISA_SVM)
		return read_u32(read_u64(vcpu + HVT_SVM_VMCB) + HVT_SVM_CODE) == SVM_EXIT_VMMCALL;
#endif
#ifdef HVT_VMX_REASON
	if (isa == KVM_ISA_VMX)
		return (u16)read_u32(vcpu + HVT_VMX_REASON) == EXIT_VMCALL;
#endif
	return false;
}

int hvt_trip_begin(struct bpf_raw_tracepoint_args *ctx)
{
	u64 vcpu = ctx->args[HVT_EXIT_VCPU], pid_tgid, now;
	struct hvt_thread *t;

	if (!by_hypercall(ctx))
		return 0;
	now = bpf_ktime_get_ns();
	pid_tgid = bpf_get_current_pid_tgid();
	if (filtered_out(pid_tgid))
		return 0;
	t = find_thread(pid_tgid);
	if (!t) {
		/* KVM's own hypercalls come by the same exit: a guest that makes no
		 * others needs no entry. */
		if (!read_u8(vcpu + HVT_VCPU_ENABLED))
			return 0;
		t = new_thread();
		if (!t)
			return 0;
	}
	if (t->trip) /* left without an entry, and now the thread runs another vCPU */
		COUNT_LOST(no_trip);
	wait_for(t, vcpu);
	t->exit_ns = now;
	return 0;
}

static __always_inline void count_trip(u32 index, u64 ns)
{
	struct hvt_trip *trip = (struct hvt_trip *)trips.lookup(&index);
	u64 bucket = hvt_bucket(ns);

	if (!trip)
		return;
	trip->sum_ns += ns;
	if (!trip->min_ns || ns < trip->min_ns)
		trip->min_ns = ns;
	if (ns > trip->max_ns)
		trip->max_ns = ns;
	if (bucket < HVT_BUCKETS)
		trip->buckets[bucket]++;
}

int hvt_trip_end(struct bpf_raw_tracepoint_args *ctx)
{
	u64 vcpu = ctx->args[HVT_ENTRY_VCPU], now;
	struct hvt_thread *t;
	u32 index;

	if (!*waiting_for(vcpu))
		return 0;
	now = bpf_ktime_get_ns();
	t = find_thread(bpf_get_current_pid_tgid());
	if (!t || t->vcpu != vcpu)
		return 0;
	index = t->trip;
	wait_for(t, 0);
	if (!index) /* the hypercall was none of Hyper-V's, or faulted, or is not counted */
		return 0;
	/* A vCPU that never exited is a new one, where the old one's memory was. */
	if (read_u64(vcpu + HVT_VCPU_EXITS))
		count_trip(index, now - t->exit_ns);
	else
		COUNT_LOST(no_trip);
	return 0;
}

// SPDX-License-Identifier: (Apache-2.0 OR GPL-2.0-only)
/*
 * What a forwarded call's exit to user space really was: its type, and whether the
 * VMM wrote the output registers of the exit structure. Every offset is this
 * kernel's own, a -D flag from hvtrace/kernel/programs.py: where a structure has no
 * registers, its flag is HVT_NONE. The text is joined to that of hvtrace.bpf.c,
 * for the reason that state.bpf.c gives.
 */
#include "kvm.h"

#define KVM_EXIT_HYPERV_HCALL 2
#define KVM_EXIT_HYPERV_SYNDBG 3 /* the last type of a released kernel (7.2) */
#define HVT_NONE 0xffff
#define PT_REGS_DI 112		    /* first argument: struct pt_regs, x86-64 */
#define BLOCK_WORDS (2 * XMM_PAIRS) /* RDX, R8, XMM0 ... XMM5 */

/* The exit of a thread's open call. */
struct exit_seen {
	u64 registers[BLOCK_WORDS]; /* as KVM showed them to the VMM */
	u64 answered[BLOCK_WORDS];  /* as the VMM left them */
	u64 params;		    /* address of the first two; 0: none known */
	u64 xmm;		    /* of the others; 0: none */
	u32 type;		    /* 0: not seen */
	u32 pad;
};

BPF_HASH(running, u32, u64, HVT_MAX_THREADS); /* tid -> struct kvm_vcpu * */
BPF_ARRAY(seen, struct exit_seen, HVT_MAX_THREADS);
BPF_HASH(exits, struct hvt_exit_key, struct hvt_exit, HVT_MAX_SLOTS);

static __always_inline int remember_vcpu(u64 vcpu)
{
	u32 tid = bpf_get_current_pid_tgid();

	running.update(&tid, &vcpu);
	return 0;
}

static __always_inline void forget_vcpu(u32 tid)
{
	running.delete(&tid);
}

/* kvm_hv_hypercall(struct kvm_vcpu *): once per call. */
int hvt_vcpu_by_kprobe(void *ctx)
{
	return remember_vcpu(*(u64 *)(ctx + PT_REGS_DI));
}

/* Where there are no kprobes: at every entry to a guest, which costs more. */
int hvt_vcpu_by_entry(struct bpf_raw_tracepoint_args *ctx)
{
	return remember_vcpu(ctx->args[0]);
}

static __always_inline void read_registers(const struct exit_seen *exit, u64 *to)
{
	if (exit->params)
		bpf_probe_read_kernel(to, 16, (void *)exit->params);
	if (exit->xmm)
		bpf_probe_read_kernel(to + 2, 96, (void *)exit->xmm);
}

static __always_inline struct exit_seen *find_exit(u32 tid)
{
	u32 *index = tids.lookup(&tid);

	return index ? seen.lookup(index) : 0;
}

/* An open call leaves for user space. */
static __always_inline void note_exit(u32 tid)
{
	struct exit_seen *exit = find_exit(tid);
	u64 *vcpu = running.lookup(&tid), run;
	u32 type, params, xmm;

	if (!exit)
		return;
	exit->type = 0;
	exit->params = 0;
	exit->xmm = 0;
	if (!vcpu)
		return;
	run = read_u64(*vcpu + HVT_VCPU_RUN);
	type = read_u32(run + HVT_RUN_TYPE);
	params = type == KVM_EXIT_HYPERV_HCALL ? HVT_HCALL_PARAMS : HVT_NEW_PARAMS;
	xmm = type == KVM_EXIT_HYPERV_HCALL ? HVT_HCALL_XMM : HVT_NEW_XMM;
	if (type != KVM_EXIT_HYPERV_HCALL && type <= KVM_EXIT_HYPERV_SYNDBG)
		params = xmm = HVT_NONE;
	exit->type = type;
	if (params != HVT_NONE)
		exit->params = run + HVT_RUN_UNION + params;
	if (xmm != HVT_NONE)
		exit->xmm = run + HVT_RUN_UNION + xmm;
	read_registers(exit, exit->registers);
}

/* Whether the VMM left `count` pairs of registers from `first` on as they were. */
static __always_inline bool left_alone(struct exit_seen *exit, u32 first, u32 count)
{
	u64 changed = 0;
	u32 i;

	if (!exit->xmm || !count)
		return false;
	read_registers(exit, exit->answered);
#pragma unroll
	for (i = 0; i < BLOCK_WORDS; i++)
		if (i / 2 >= first && i / 2 < first + count)
			changed |= exit->registers[i] ^ exit->answered[i];
	return !changed;
}

/* A call is over; `reps` are those it completed, `success` whether it did. */
static __always_inline void count_exit(const struct hvt_thread *t, const struct hvt_abi abi,
				       bool success, u32 reps)
{
	u32 in = INPUT_BYTES(abi, t->call);
	struct hvt_exit_key key = {.tgid = t->tgid, .tid = t->tid};
	struct hvt_exit *known, new = {};
	struct exit_seen *exit;

	if (!(t->call & HVT_CALL_VMM))
		return;
	exit = find_exit(t->tid);
	if (!exit || !exit->type) {
		COUNT_LOST(no_exit);
		return;
	}
	key.call = t->call & (HVT_CALL_FAST | 0xffff);
	key.type = exit->type;
	known = exits.lookup(&key);
	if (!known) {
		exits.update(&key, &new);
		known = exits.lookup(&key);
	}
	if (!known) {
		COUNT_LOST(no_exit);
		return;
	}
	known->calls++;
	if (success && t->call & HVT_CALL_FAST && abi.flags & HVT_ABI_INPUT &&
	    abi.flags & HVT_ABI_OUTPUT &&
	    left_alone(exit, PAIRS(in), PAIRS(abi.out_fixed + abi.out_elem * reps)))
		known->untouched++;
}

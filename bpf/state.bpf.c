// SPDX-License-Identifier: (Apache-2.0 OR GPL-2.0-only)
/*
 * Where everything is kept, and how it is found: the thread of an event, and the
 * slot of its call. The first part of one text, hvtrace.bpf.c is the second: BCC
 * rewrites map functions in no file that is included.
 *
 * Sizes come as -D flags from hvtrace/kernel/programs.py: HVT_MAX_THREADS and
 * HVT_CACHE (powers of 2), HVT_MAX_SLOTS, HVT_MAX_FAILURES; HVT_STATE is a map's number.
 * HVT_TASK_LEADER and HVT_TASK_STARTED are offsets into the kernel's task_struct.
 */
#include <linux/types.h>

#include "hvtrace.h"
#include "bucket.h"
#include "kvm.h"

#define XMM_PAIR_BYTES 16 /* TLFS 3.7.2: RDX+R8, then XMM0 ... XMM5 */
#define XMM_PAIRS 7

/* A value as it is: the compiler may not keep its parts instead. */
#define WHOLE(x) asm volatile("" : "+r"(x))

/* Fast and handler move to bits 5 and 6. */
#define HASH(call) ((call) ^ (call) >> 11)
#define CALL_VAR(call) ((call) >> HVT_CALL_VAR_SHIFT & 0x3ff)
#define CALL_REP(call) ((call) >> HVT_CALL_REP_SHIFT & 0xfff)
#define INPUT_BYTES(abi, call)                                                                     \
	((abi).in_fixed + 8 * CALL_VAR(call) + (abi).in_elem * CALL_REP(call))
#define PAIRS(bytes) (((bytes) + XMM_PAIR_BYTES - 1) / XMM_PAIR_BYTES)

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

/* What is /proc/PID/stat's start time in clock ticks: with the pid, a process' identity
 * also when it has gone before user space looked, and its pid came again. */
static __always_inline u64 process_began(void)
{
#ifdef HVT_TASK_STARTED
	return read_u64(read_u64(bpf_get_current_task() + HVT_TASK_LEADER) + HVT_TASK_STARTED);
#else
	return 0;
#endif
}

static __always_inline struct hvt_thread *new_thread(void)
{
	u64 pid_tgid = bpf_get_current_pid_tgid();
	u32 tid = pid_tgid, index;
	struct hvt_thread *t;

	if (free_threads.pop(&index) || tids.update(&tid, &index))
		return 0;
	*(STATE_AT(process_ns[0]) + (index & (HVT_MAX_THREADS - 1))) = process_began();
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

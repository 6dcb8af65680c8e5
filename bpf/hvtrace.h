/* SPDX-License-Identifier: (Apache-2.0 OR GPL-2.0-only) */
/*
 * The one contract between the BPF programs and hvtrace/kernel/layout.py.
 * tests/unit/test_layout.py compiles this file with gcc and compares every
 * size, offset and constant with the Python side.
 *
 * Needs fixed-width __u8 ... __u64 from the includer.
 */
#ifndef HVTRACE_H
#define HVTRACE_H

/* ABI number of everything below; raised with every change of meaning. */
#define HVT_LAYOUT 4

/*
 * Latency buckets, log-linear: 25 octaves from 2^-23 s (119 ns) to 2^2 s,
 * four equal buckets to the octave, each (low, high], like Prometheus' "le".
 * Bucket 0 holds everything up to 2^-23 s, the last everything above 2^2 s.
 */
#define HVT_MIN_EXP -23
#define HVT_OCTAVES 25
#define HVT_BUCKETS (HVT_OCTAVES * 4 + 2)

/* Failure statuses held in the slot itself; more go to a list in `failures`. */
#define HVT_STATUSES 4
#define HVT_MORE_STATUSES 64 /* at most, in a list */

/* Entries of a thread's table (code, fast, handler) -> slot; a power of 2. */
#define HVT_TABLE 128

#define HVT_COMM 16

/* Verdicts on fast calls that have output (reference: TLFS 3.8.1). Calls
 * without output parameters, memory calls and unknown codes are the same for
 * every call of a slot, so user space tells them from (code, fast). */
enum hvt_xmm_output {
	HVT_IMPOSSIBLE = 0, /* input and output exceed the 112-byte block */
	HVT_REFUSED = 1,    /* fits, but failed or never completed */
	HVT_USED_GPR = 2,   /* succeeded, output within RDX and R8 */
	HVT_USED_XMM = 3,   /* succeeded, output reaches an XMM register */
	HVT_XMM_OUTPUTS = 4,
};

enum hvt_abi_flags {
	HVT_ABI_INPUT = 1,  /* input size known */
	HVT_ABI_OUTPUT = 2, /* output size known, and not zero */
};

/* Parameter sizes of a call code in bytes, from hvtrace/hyperv. */
struct hvt_abi {
	__u16 in_fixed;
	__u16 out_fixed;
	__u8 in_elem;
	__u8 out_elem;
	__u8 flags; /* enum hvt_abi_flags */
	__u8 xmm;   /* of a slot: enum hvt_xmm, what its last call's sizes come to */
};

enum hvt_xmm {
	HVT_XMM_INPUT = 1,	/* input reaches an XMM register */
	HVT_XMM_OUTPUT = 2,	/* has output, and room for it */
	HVT_XMM_IMPOSSIBLE = 4, /* has output, and no room */
};

/*
 * One (vCPU thread, code, fast, handler). Single writer: the thread. User space
 * reads it through mmap and writes it only after the thread's end. 15 cache
 * lines; a successful call touches the first and one of the buckets'.
 */
struct hvt_slot {
	__u64 shape; /* of its last call: HVT_CALL_SHAPE */
	struct hvt_abi abi;
	__u64 sum_ns; /* completed calls only, as min and max */
	__u64 min_ns; /* ~0 before the first */
	__u64 max_ns;
	__u64 reps; /* reps completed, bits 43:32 of the result */
	__u64 xmm_input;
	__u64 unfinished; /* superseded, or pending when the thread ended */
	__u64 xmm_output[HVT_XMM_OUTPUTS];
	__u64 status_count[HVT_STATUSES]; /* failures; success is the rest */
	__u16 status[HVT_STATUSES];	  /* 0: entry unused */
	__u64 buckets[HVT_BUCKETS];	  /* completed calls are their sum */
	__u32 more; /* index into `failures`: statuses beyond those; 0: none */
	__u32 pad;
};

/* Round trips of the completed calls of the slot of the same index (--round-trip). */
struct hvt_trip {
	__u64 sum_ns;
	__u64 min_ns; /* 0 before the first */
	__u64 max_ns;
	__u64 buckets[HVT_BUCKETS];
};

/* Input values of the calls of the slot of the same index (--sizes): entry i counts rep
 * counts, and variable headers in 8 bytes, in [2^i, 2^(i+1)); of 0, nothing is counted. */
#define HVT_REP_SIZES 12 /* bits, as the fields have */
#define HVT_VAR_SIZES 10
struct hvt_sizes {
	__u64 reps[HVT_REP_SIZES];
	__u64 var[HVT_VAR_SIZES];
};

enum hvt_thread_state {
	HVT_FREE = 0,
	HVT_LIVE = 1,
	HVT_DEAD = 2, /* ended: user space may collect and recycle it */
};

/* One vCPU thread: the state machine in one cache line, and its table of slots. */
struct hvt_thread {
	__u64 call; /* the open call (HVT_CALL_*), 0 when there is none */
	__u64 start_ns;
	__u64 exit_ns; /* --round-trip: of the exit that made the call, */
	__u64 vcpu;    /* the struct kvm_vcpu that exited and has not entered since; 0: none, */
	__u32 trip;    /* and the call's slot, once it has completed; 0: none */
	__u32 tid;
	__u32 tgid;
	__u32 state; /* enum hvt_thread_state */
	char comm[HVT_COMM];
	__u16 table[HVT_TABLE]; /* indices into `slots`; 0: unused */
};

/*
 * hvt_thread.call: the traced fields of the input value (code in bits 15:0),
 * how the call was seen, and the filter epoch it was made under.
 */
#define HVT_CALL_FAST (1ULL << 16)
#define HVT_CALL_VMM (1ULL << 17)  /* left for user space */
#define HVT_CALL_VAR_SHIFT 18	   /* 10 bits, 8-byte units; as the next, of fast calls */
#define HVT_CALL_REP_SHIFT 28	   /* 12 bits;   only, unless HVT_EVERY_SIZE */
#define HVT_CALL_NONE (1ULL << 40) /* of no call: the shape of slot 0 */
#define HVT_CALL_EPOCH_SHIFT 41	   /* 16 bits */
#define HVT_CALL_SIZES (0x3fffffULL << HVT_CALL_VAR_SHIFT)
#define HVT_CALL_SHAPE ((1ULL << HVT_CALL_EPOCH_SHIFT) - 1)
#define HVT_CALL_KEY (HVT_CALL_NONE | 0x3ffff) /* code, fast, handler: what a slot counts */
#define HVT_CALL_SKIPPED (1ULL << 62)	       /* filtered out: its end is no orphan */
#define HVT_CALL_OPEN (1ULL << 63)

/* Filters, written by user space; losses, by the programs. A cache line each. */
struct hvt_control {
	__u32 filter_tgid; /* 0: every process */
	__u32 filter_code; /* the code + 1; 0: every code */
	__u64 epoch;	   /* HVT_CALL_OPEN and the epoch, as in hvt_thread.call. Raised with
			    * every change of a filter: calls open across one are not
			    * counted at all */
	__u64 slow_ns;	   /* calls that took so long are told one by one (--slow); 0: none */
	__u64 pad[5];
	__u64 orphans;	 /* completions without a start */
	__u64 no_slot;	 /* calls not counted: no free slot, or table full */
	__u64 no_thread; /* calls not counted: no free thread entry */
	__u64 no_status; /* failures whose status found no room */
	__u64 no_exit;	 /* forwarded calls whose exit was not seen (--evidence) */
	__u64 no_trip;	 /* completed calls whose exit or entry was not seen (--round-trip) */
	__u64 no_event;	 /* slow calls for which the ring had no room (--slow) */
	__u64 pad_to_line[1];
};

#ifdef HVT_MAX_THREADS
/* What every event needs, in one map element: reached by address, not by look-up. */
struct hvt_state {
	struct hvt_control control;
	/* In front of the hash `tids`, for hash look-ups are calls: indexed by the low
	 * bits of the tid, one word holds tid and index, so a race can miss, never mix. */
	__u64 cache[HVT_CACHE];
	struct hvt_thread threads[HVT_MAX_THREADS];
	/* When each thread's process began, in ns since boot (CLOCK_BOOTTIME); 0: not known. */
	__u64 process_ns[HVT_MAX_THREADS];
};
#endif

/* A status for which the slot had no entry left. A list by slot, so that reading it is
 * memory access, too: system calls on maps keep programs of Linux 7 from running. */
struct hvt_failure {
	__u32 next; /* index of the slot's next; 0: none */
	__u16 status;
	__u16 pad;
	__u64 count;
};

/* Key and value of `exits` (--evidence): forwarded calls by the exit they took. */
struct hvt_exit_key {
	__u32 tgid;
	__u32 tid;
	__u32 call; /* code, HVT_CALL_FAST */
	__u32 type; /* kvm_run.hyperv.type */
};
struct hvt_exit {
	__u64 calls;
	__u64 untouched; /* succeeded with output in registers that the VMM left as they were */
};

/* A record of `slow` (--slow): a completed call. */
struct hvt_slow {
	__u64 start_ns; /* CLOCK_MONOTONIC */
	__u64 duration_ns;
	__u64 call; /* as hvt_thread.call */
	__u64 result;
	__u32 entry; /* index of its thread */
	__u32 tid;
};

/* Value of `vcpus`, by thread: what KVM keeps of a vCPU's CPUID (vcpus.bpf.c). */
#define HVT_CPUID_WORDS 8 /* of struct kvm_vcpu_hv.cpuid_cache */
struct hvt_vcpu {
	__u32 tgid;
	__u32 vcpu_id;
	__u8 hyperv;   /* its CPUID has Hyper-V at all */
	__u8 enforced; /* KVM_CAP_HYPERV_ENFORCE_CPUID */
	__u8 pad[2];
	__u32 cpuid[HVT_CPUID_WORDS];
};

#endif

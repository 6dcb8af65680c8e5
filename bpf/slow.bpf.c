// SPDX-License-Identifier: (Apache-2.0 OR GPL-2.0-only)
/*
 * Completed calls that took long, one by one, in a ring that user space looks into now
 * and then: nobody is woken. The text is joined to that of hvtrace.bpf.c, as
 * evidence.bpf.c is.
 */
BPF_RINGBUF_OUTPUT(slow, HVT_SLOW_PAGES);

/* The thread's call has completed and is counted. */
static __always_inline void note_slow(struct hvt_thread *t, u64 ns, u64 result)
{
	struct hvt_slow call = {};

	if (ns <= CONTROL->slow_ns - 1) /* of none, too: 0 - 1 is the longest there is */
		return;
	barrier();
	call.start_ns = t->start_ns;
	call.duration_ns = ns;
	call.call = t->call;
	call.result = result;
	call.entry = ((u64)t - (u64)STATE_AT(threads[0])) / sizeof(*t);
	call.tid = t->tid;
	if (slow.ringbuf_output(&call, sizeof(call), BPF_RB_NO_WAKEUP))
		COUNT_LOST(no_event);
}

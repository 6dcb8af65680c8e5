// SPDX-License-Identifier: (Apache-2.0 OR GPL-2.0-only)
/*
 * How large the calls of a slot are, by the rep count and the size of the variable
 * header in their input values. The text is joined to that of hvtrace.bpf.c, as
 * evidence.bpf.c is.
 */
MAPPED_ARRAY(sizes, struct hvt_sizes, HVT_MAX_SLOTS + 1);

/* A call of slot `index` is over. */
static __always_inline void count_sizes(u64 call, u32 index)
{
	struct hvt_sizes *sized;
	u64 rep, var;

	if (!(call & HVT_CALL_SIZES))
		return;
	sized = (struct hvt_sizes *)sizes.lookup(&index);
	if (!sized)
		return;
	rep = CALL_REP(call);
	if (rep) {
		rep = hvt_log2(rep);
		if (rep < HVT_REP_SIZES)
			sized->reps[rep]++;
	}
	var = CALL_VAR(call);
	if (var) {
		var = hvt_log2(var);
		if (var < HVT_VAR_SIZES)
			sized->var[var]++;
	}
}

// SPDX-License-Identifier: (Apache-2.0 OR GPL-2.0-only)
/*
 * Which Hyper-V features a vCPU's CPUID has: KVM keeps them by vCPU, and its
 * kvm_entry event has the vCPU as first argument. Each thread is looked at once.
 * Attached for a moment only: the event fires at every entry to a guest.
 *
 * Offsets come as -D flags from hvtrace/kernel/structures.py.
 */
#include <linux/types.h>

#include "hvtrace.h"
#include "kvm.h"

BPF_HASH(vcpus, u32, struct hvt_vcpu, HVT_MAX_VCPUS);

int hvt_kvm_entry(struct bpf_raw_tracepoint_args *ctx)
{
	u64 pid_tgid = bpf_get_current_pid_tgid(), vcpu = ctx->args[0], hyperv;
	struct hvt_vcpu found = {};
	u32 tid = pid_tgid;

	if (vcpus.lookup(&tid))
		return 0;
	found.tgid = pid_tgid >> 32;
	found.vcpu_id = read_u32(vcpu + HVT_VCPU_ID);
	/* KVM makes vcpu->arch.hyperv when user space sets a CPUID with Hyper-V in it. */
	hyperv = read_u64(vcpu + HVT_VCPU_HYPERV);
	if (hyperv && read_u8(vcpu + HVT_VCPU_ENABLED)) {
		found.hyperv = 1;
		found.enforced = read_u8(hyperv + HVT_HV_ENFORCE);
		bpf_probe_read_kernel(found.cpuid, sizeof(found.cpuid),
				      (void *)(hyperv + HVT_HV_CPUID));
	}
	vcpus.update(&tid, &found);
	return 0;
}

# A well-behaved enlightened guest in one file: it makes known numbers of Hyper-V
# hypercalls and counts them itself, in its own memory, which the test reads.
#
# Started by PVH, 32-bit, no paging. Every vCPU makes the same rounds of calls, one at a tick
# of its local APIC's timer, and halts in between, as an idle guest does. A round has the
# calls that CPUID offers *and* the test wants; the test also says how many rounds there are
# to be. Without Hyper-V in CPUID there is no hypercall at all.
#
# Addresses, offsets and bits in capitals that are not defined here are those of
# payload.py, which has them assembled in.

.intel_syntax noprefix

.set GUEST_OS_ID_MSR, 0x40000000        # TLFS 3.13: establishing the hypercall interface
.set HYPERCALL_MSR, 0x40000001
.set GUEST_OS_ID, 1 << 63 | 1           # open source, of no type that TLFS knows
.set APIC, 0xfee00000
.set TIMER_VECTOR, 0x40
.set IPI_VECTOR, 0x41
.set TRAMPOLINE, 0x8000                 # free below 1 MiB: a SIPI names a page there
.set CODE_SELECTOR, 8
.set DATA_SELECTOR, 16

.section .note, "a"
        .long   4, 4, 18                # XEN_ELFNOTE_PHYS32_ENTRY: where PVH begins
        .asciz  "Xen"
        .long   start

.text
# The boot CPU alone. It uses no stack, and leaves through the door that the others take.
.globl start
start:
        cli
        mov     al, 0xff                # the BIOS left the timer ticking at vector 8
        out     0x21, al
        out     0xa1, al

        mov     ebx, offset timer_tick
        mov     edi, offset idt + 8 * TIMER_VECTOR
1:      mov     [edi], bx               # an interrupt gate, in four words
        mov     word ptr [edi + 2], CODE_SELECTOR
        mov     word ptr [edi + 4], 0x8e00
        shr     ebx, 16
        mov     [edi + 6], bx
        mov     ebx, offset ipi_arrived
        add     edi, 8
        cmp     edi, offset idt_end
        jb      1b

        mov     eax, 0x40000001         # is it Hyper-V's interface?
        cpuid
        cmp     eax, 0x31237648         # "Hv#1"
        jne     start_all
        mov     eax, 0x40000003
        cpuid
        bt      eax, 5                  # the two MSRs below
        jnc     start_all
        mov     edi, OUTPUT             # asked for whatever CPUID says: nothing offers it
        mov     esi, edx                # bit 4: XMM input
        bt      ebx, 5                  # SignalEvents
        jnc     1f
        or      edi, SIGNAL
1:      mov     eax, 0x40000004
        cpuid
        bt      eax, 10                 # cluster IPI by hypercall
        jnc     1f
        or      edi, IPI
1:      bt      eax, 2                  # remote TLB flush by hypercall
        jnc     2f
        bt      esi, 4
        jnc     1f
        or      edi, FLUSH_FAST
        jmp     2f
1:      or      edi, FLUSH_MEMORY
2:      mov     [OFFERED], edi

        mov     ecx, GUEST_OS_ID_MSR    # both MSRs are the partition's, not the vCPU's
        mov     eax, GUEST_OS_ID & 0xffffffff
        mov     edx, GUEST_OS_ID >> 32
        wrmsr
        mov     ecx, HYPERCALL_MSR
        mov     eax, offset hypercall_page + 1
        xor     edx, edx
        wrmsr

start_all:
        mov     esi, offset trampoline
        mov     edi, TRAMPOLINE
        mov     ecx, offset trampoline_end - trampoline
        rep movsb
        # INIT and SIPI to all but this one. Real hardware wants pauses here, KVM does not.
        mov     dword ptr [APIC + 0x300], 0xc4500
        mov     dword ptr [APIC + 0x300], 0xc4600 + (TRAMPOLINE >> 12)
        lgdt    [gdt_pointer]
        jmp     CODE_SELECTOR:cpu

# A CPU from here on. EBP: its own ledger.
cpu:
        mov     eax, DATA_SELECTOR
        mov     ds, eax
        mov     es, eax
        mov     ss, eax
        mov     eax, 1
        cpuid
        shr     ebx, 24                 # APIC id, which is QEMU's and KVM's number of the vCPU
        imul    ebp, ebx, LEDGER_BYTES
        add     ebp, LEDGERS
        shl     ebx, 12
        lea     esp, [ebx + stacks + 4096]
        lidt    [idt_pointer]
        mov     eax, 0x11               # PE and ET: caches on, no EM and no TS
        mov     cr0, eax
        mov     eax, 0x200              # OSFXSR: SSE
        mov     cr4, eax
        mov     dword ptr [APIC + 0xf0], 0x1ff          # on
        mov     dword ptr [APIC + 0x3e0], 0xb           # divide by 1: KVM counts ns
        mov     dword ptr [APIC + 0x320], 0x20000 + TIMER_VECTOR
        mov     dword ptr [APIC + 0x380], TICK_NS
        mov     dword ptr [ebp + IS_UP], 1

idle:
        sti
        hlt                             # no interrupt comes between the two
        cli
        xor     eax, eax
        xchg    eax, [ebp + TICKED]
        test    eax, eax
        jz      idle
        mov     eax, [ebp + ROUNDS]
        cmp     eax, [ROUNDS_WANTED]
        jae     idle
        xor     edi, edi                # EDI: kind of call, a bit of the words above
next_kind:
        mov     eax, [OFFERED]
        and     eax, [WANTED]
        bt      eax, edi
        jnc     no_such_calls
        mov     esi, edi
        shl     esi, 5
        add     esi, offset kinds
        mov     ecx, [esi + 28]
again:
        push    ecx
        push    esi
        push    edi
        movd    xmm0, [esi + 24]        # and zeros above
        mov     eax, [esi]              # TLFS 3.7, 32-bit caller: input value in EDX:EAX,
        mov     edx, [esi + 4]          # parameters in EBX:ECX and EDI:ESI
        mov     ecx, [esi + 8]
        mov     ebx, [esi + 12]
        mov     edi, [esi + 20]
        mov     esi, [esi + 16]
        call    hypercall_page
        pop     edi
        pop     esi
        pop     ecx
        inc     dword ptr [ebp + CALLS + 4 * edi]
        and     eax, 0xffff             # status
        jz      1f
        inc     dword ptr [ebp + FAILED + 4 * edi]
        mov     [ebp + STATUS + 4 * edi], eax
1:      dec     ecx
        jnz     again
no_such_calls:
        inc     edi
        cmp     edi, KINDS
        jb      next_kind
        inc     dword ptr [ebp + ROUNDS]
        jmp     idle

timer_tick:
        mov     dword ptr [ebp + TICKED], 1
        mov     dword ptr [APIC + 0xb0], 0              # end of interrupt
        iret

ipi_arrived:
        inc     dword ptr [ebp + IPIS]
        mov     dword ptr [APIC + 0xb0], 0
        iret

# The other CPUs' first steps, in real mode at TRAMPOLINE.
.code16
trampoline:
        cli
        data32 lgdt cs:[gdt_pointer - trampoline]
        mov     eax, cr0
        or      al, 1
        mov     cr0, eax
        .byte   0x66, 0xea              # jmp CODE_SELECTOR:cpu, 32 bits wide
        .long   cpu
        .word   CODE_SELECTOR
gdt_pointer:
        .word   23
        .long   gdt
trampoline_end:

.data
.balign 8
gdt:    .quad   0, 0x00cf9b000000ffff, 0x00cf93000000ffff
idt_pointer:
        .word   idt_end - idt - 1
        .long   idt

# Each kind: input value, low and high; first parameter, low and high; second parameter, low
# and high; XMM0, lowest 32 bits; calls in a round (primes).
.balign 32
kinds:
        # HvCallFlushVirtualAddressSpace: space 0, all processors and all spaces, no mask
        .long   0x10002, 0, 0, 0, 3, 0, 0, 17
        .long   0x00002, 0, flush_parameters, 0, 0, 0, 0, 13
        # HvCallSendSyntheticClusterIpi: vector, to every processor
        .long   0x1000b, 0, IPI_VECTOR, 0, 0xffffffff, 0xffffffff, 0, 11
        # HvCallGetVpRegisters, one rep: this partition, this VP; HvX64RegisterRip
        .long   0x10050, 1, 0xffffffff, 0xffffffff, 0xfffffffe, 0, 0x20010, 5
        # HvCallSignalEvent: a connection that nobody made
        .long   0x1005d, 0, 0x99, 0, 0, 0, 0, 3
flush_parameters:
        .quad   0, 3, 0

.bss
.balign 4096
hypercall_page:
        .skip   4096
stacks: .skip   4096 * MOST_VCPUS
idt:    .skip   8 * (IPI_VECTOR + 1)
idt_end:

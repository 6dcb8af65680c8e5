"""The guest's machine code, as a listing: bytes, the assembly they come from, and why.

The guest is a loop over a table of call descriptors (hvtrace.guest.memory.Descriptor). It counts
everything itself, in its own memory, and leaves for the VMM only at the end of a slice; so the
ledger is what a guest saw, not what a VMM planned.

No assembler is needed at run time. tests/unit/test_guest_code.py assembles the right-hand column
with GNU as, names of fields taken from the structures, and compares every byte: to change the
code, change the assembly and copy the bytes that the test prints.
"""

from __future__ import annotations

LISTING = """\
start:                      ; RDI: this vCPU's control page, set by the VMM, never changed
  44 8b 77 10             | mov r14d, [rdi+MSR_COUNT]       ; first the MSRs that make it a guest
  48 8d 77 40             | lea rsi, [rdi+MSRS]
next_msr:
  41 83 ee 01             | sub r14d, 1
  78 10                   | js stop
  8b 0e                   | mov ecx, [rsi]
  8b 46 08                | mov eax, [rsi+8]
  8b 56 0c                | mov edx, [rsi+12]
  0f 30                   | wrmsr
  48 83 c6 10             | add rsi, 16
  eb ea                   | jmp next_msr
stop:                       ; nothing left to do: the VMM writes FIRST and END
  e6 10                   | out STOP_PORT, al               ; to the VMM, and back with a new slice
  48 8b 1f                | mov rbx, [rdi+FIRST]
  4c 8b 6f 08             | mov r13, [rdi+END]
next_call:                  ; RBX: descriptor, R13: end of the slice
  4c 39 eb                | cmp rbx, r13
  73 f2                   | jae stop
  48 89 5f 18             | mov [rdi+CURRENT], rbx
  4c 8b a3 88 00 00 00    | mov r12, [rbx+REPEAT]           ; R12: calls left
again:
  49 83 ec 01             | sub r12, 1
  0f 88 fd 00 00 00       | js advance
  0f 28 43 20             | movaps xmm0, [rbx+REGISTERS_IN+16]
  0f 28 4b 30             | movaps xmm1, [rbx+REGISTERS_IN+32]
  0f 28 53 40             | movaps xmm2, [rbx+REGISTERS_IN+48]
  0f 28 5b 50             | movaps xmm3, [rbx+REGISTERS_IN+64]
  0f 28 63 60             | movaps xmm4, [rbx+REGISTERS_IN+80]
  0f 28 6b 70             | movaps xmm5, [rbx+REGISTERS_IN+96]
  48 8b 0b                | mov rcx, [rbx+INPUT]            ; RCX, RDX, R8, XMM0-5: TLFS 3.7
  48 8b 53 10             | mov rdx, [rbx+REGISTERS_IN]
  4c 8b 43 18             | mov r8, [rbx+REGISTERS_IN+8]
  48 ff 83 90 00 00 00    | inc qword ptr [rbx+STARTED]     ; before it: it may never complete
  ff 53 08                | call [rbx+ENTRY]                ; the hypercall; #UD: invalid_opcode
  48 8b b3 98 00 00 00    | mov rsi, [rbx+COMPLETED]
  48 ff 83 98 00 00 00    | inc qword ptr [rbx+COMPLETED]
  48 3b b3 a0 00 00 00    | cmp rsi, [rbx+CONFIRMED]        ; one had wrong registers: the ledger
  75 6e                   | jne result                      ; wants to see what that one left
  48 89 83 b8 00 00 00    | mov [rbx+RAX_OUT], rax
  48 89 93 c0 00 00 00    | mov [rbx+REGISTERS_OUT], rdx
  4c 89 83 c8 00 00 00    | mov [rbx+REGISTERS_OUT+8], r8
  0f 29 83 d0 00 00 00    | movaps [rbx+REGISTERS_OUT+16], xmm0
  0f 29 8b e0 00 00 00    | movaps [rbx+REGISTERS_OUT+32], xmm1
  0f 29 93 f0 00 00 00    | movaps [rbx+REGISTERS_OUT+48], xmm2
  0f 29 9b 00 01 00 00    | movaps [rbx+REGISTERS_OUT+64], xmm3
  0f 29 a3 10 01 00 00    | movaps [rbx+REGISTERS_OUT+80], xmm4
  0f 29 ab 20 01 00 00    | movaps [rbx+REGISTERS_OUT+96], xmm5
  48 8d b3 30 01 00 00    | lea rsi, [rbx+WANTED]
  48 8d 53 10             | lea rdx, [rbx+REGISTERS_IN]
  66 85 c0                | test ax, ax
  48 0f 45 f2             | cmovnz rsi, rdx                 ; a failure leaves registers alone
  b9 0e 00 00 00          | mov ecx, REGISTER_WORDS
compare:
  48 8b 54 ce f8          | mov rdx, [rsi+rcx*8-8]
  48 3b 94 cb b8 00 00 00 | cmp rdx, [rbx+rcx*8+REGISTERS_OUT-8]
  75 09                   | jne result
  e2 ef                   | loop compare
  48 ff 83 a0 00 00 00    | inc qword ptr [rbx+CONFIRMED]
result:
  48 89 c6                | mov rsi, rax
  48 c1 ee 20             | shr rsi, 32                     ; reps completed: result bits 43:32
  81 e6 ff 0f 00 00       | and esi, 0xfff
  48 01 b3 b0 00 00 00    | add [rbx+REPS], rsi
  0f b7 c0                | movzx eax, ax                   ; status: result bits 15:0
  48 8d b3 80 02 00 00    | lea rsi, [rbx+STATUSES]
  48 8d ab 00 04 00 00    | lea rbp, [rbx+DESCRIPTOR_BYTES]
find:                       ; one entry for each status, in order of appearance
  48 83 7e 08 00          | cmp qword ptr [rsi+8], 0        ; free entry?
  74 13                   | je new
  48 39 06                | cmp [rsi], rax                  ; this status's entry?
  74 11                   | je count
  48 83 c6 10             | add rsi, 16
  48 39 ee                | cmp rsi, rbp
  72 eb                   | jb find                         ; no room: the ledger reports it
  e9 05 ff ff ff          | jmp again
new:
  48 89 06                | mov [rsi], rax
count:
  48 ff 46 08             | inc qword ptr [rsi+8]
  e9 f9 fe ff ff          | jmp again
advance:
  48 81 c3 00 04 00 00    | add rbx, DESCRIPTOR_BYTES
  e9 dd fe ff ff          | jmp next_call
site_vmcall:                ; Intel's instruction; on AMD KVM rewrites it in place
  0f 01 c1                | vmcall
  c3                      | ret
site_vmmcall:               ; AMD's instruction, the other way round
  0f 01 d9                | vmmcall
  c3                      | ret
site_user:                  ; the call from ring 3: KVM answers #UD before any event
  6a 1b                   | push USER_DATA_SELECTOR
  54                      | push rsp                        ; SS:RSP; ring 3 never uses the stack
  9c                      | pushfq
  6a 23                   | push USER_CODE_SELECTOR
  ff b3 80 00 00 00       | push [rbx+TARGET]               ; RIP: the hypercall page
  48 cf                   | iretq
invalid_opcode:             ; the call faulted: count it, and go on after it
  48 ff 83 a8 00 00 00    | inc qword ptr [rbx+FAULTED]
  48 8b 67 20             | mov rsp, [rdi+STACK_TOP]        ; as good as IRET: no interrupts here
  e9 c7 fe ff ff          | jmp again
panic:                      ; any other exception: a defect
  48 89 67 28             | mov [rdi+PANIC_FRAME], rsp      ; for the VMM's message
  e6 11                   | out PANIC_PORT, al
"""


def _assemble(listing: str) -> tuple[bytes, dict[str, int]]:
    """The bytes of a listing, and the offset of each of its labels."""
    code = bytearray()
    symbols = {}
    for line in listing.splitlines():
        if "|" in line:
            code += bytes.fromhex(line.partition("|")[0])
        else:
            symbols[line.partition(":")[0]] = len(code)
    return bytes(code), symbols


CODE, SYMBOLS = _assemble(LISTING)

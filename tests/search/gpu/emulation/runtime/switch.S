// void emulation_switch(void** from, void* to): saves the callee-saved registers on this stack and
// its top in *from, and takes up `to`.
#if defined(__x86_64__) && !defined(EMULATION_UCONTEXT)
    .text
    .hidden emulation_switch
    .globl emulation_switch
    .type emulation_switch, @function
emulation_switch:
    pushq %rbp
    pushq %rbx
    pushq %r12
    pushq %r13
    pushq %r14
    pushq %r15
    movq %rsp, (%rdi)
    movq %rsi, %rsp
    popq %r15
    popq %r14
    popq %r13
    popq %r12
    popq %rbx
    popq %rbp
    ret
    .size emulation_switch, . - emulation_switch
#endif
    .section .note.GNU-stack, "", @progbits

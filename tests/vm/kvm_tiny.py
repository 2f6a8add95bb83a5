"""Create a VM on /dev/kvm, run six bytes of real-mode code in it, and check what comes out.

The least that shows hardware virtualization to work: used by test_outer.sh inside the outer machine.
"""
import ctypes
import fcntl
import mmap
import os
import struct
import sys

KVM_GET_API_VERSION, KVM_CREATE_VM, KVM_GET_VCPU_MMAP_SIZE = 0xAE00, 0xAE01, 0xAE04
KVM_CREATE_VCPU, KVM_RUN = 0xAE41, 0xAE80
KVM_SET_USER_MEMORY_REGION, KVM_GET_SREGS, KVM_SET_SREGS, KVM_SET_REGS = (
    0x4020AE46, 0x8138AE83, 0x4138AE84, 0x4090AE82)
KVM_EXIT_IO, KVM_EXIT_HLT = 2, 5

# mov $0x2a, %al; out %al, $0x80; hlt
CODE = bytes([0xB0, 0x2A, 0xE6, 0x80, 0xF4])
LOAD_AT = 0x1000


def main():
    kvm = os.open("/dev/kvm", os.O_RDWR)
    assert fcntl.ioctl(kvm, KVM_GET_API_VERSION) == 12
    vm = fcntl.ioctl(kvm, KVM_CREATE_VM, 0)
    ram = mmap.mmap(-1, 0x10000)
    ram[LOAD_AT:LOAD_AT + len(CODE)] = CODE
    address = ctypes.addressof(ctypes.c_char.from_buffer(ram))
    fcntl.ioctl(vm, KVM_SET_USER_MEMORY_REGION, struct.pack("IIQQQ", 0, 0, 0, len(ram), address))
    vcpu = fcntl.ioctl(vm, KVM_CREATE_VCPU, 0)
    run = mmap.mmap(vcpu, fcntl.ioctl(kvm, KVM_GET_VCPU_MMAP_SIZE))

    sregs = bytearray(0x138)
    fcntl.ioctl(vcpu, KVM_GET_SREGS, sregs)
    struct.pack_into("QIH", sregs, 0, 0, 0xFFFF, 0)  # cs: base, limit, selector
    fcntl.ioctl(vcpu, KVM_SET_SREGS, bytes(sregs))
    regs = [0] * 18
    regs[16], regs[17] = LOAD_AT, 2  # rip, rflags
    fcntl.ioctl(vcpu, KVM_SET_REGS, struct.pack("18Q", *regs))

    fcntl.ioctl(vcpu, KVM_RUN, 0)
    reason, = struct.unpack_from("I", run, 8)
    direction, size, port, count, offset = struct.unpack_from("BBHIQ", run, 32)
    print("exit", reason, "port", hex(port), "value", run[offset])
    if (reason, direction, size, port, count, run[offset]) != (KVM_EXIT_IO, 1, 1, 0x80, 1, 0x2A):
        return 1
    fcntl.ioctl(vcpu, KVM_RUN, 0)
    reason, = struct.unpack_from("I", run, 8)
    print("exit", reason)
    return 0 if reason == KVM_EXIT_HLT else 1


sys.exit(main())

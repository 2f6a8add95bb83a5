/*
 * layout.h - the fixed addresses of the machine: one page a reader can hold against a guest's
 * /proc/iomem.
 *
 *     0x00000500  GDT                        0x00020000  kernel command line
 *     0x00007000  boot_params ("zero page")  0x0009e000  mailbox page    } e820 reserved
 *     0x00008000  first stack (grows down)   0x0009f000  VMGenID page    }
 *     0x00009000  first page tables          0x000e0000  ACPI tables     e820 reserved
 *     0x000ffff0  reset vector           e820 reserved
 *     0x00100000  RAM: kernel from here, initramfs at the top below the hole
 *     0xc0000000  hole: virtio-mmio 0xd0000000, IOAPIC 0xfec00000, kept free 0xfed00000, LAPIC
 *                 0xfee00000
 *     0x100000000 RAM above 3 GiB, then pmem
 *
 * What only the first instructions of a guest need (GDT, page tables, stack, boot_params) lies in
 * ordinary RAM, free for the guest to reuse.
 */
#ifndef RUNNER_X86_LAYOUT_H
#define RUNNER_X86_LAYOUT_H

#define LAYOUT_GDT	   0x500ull
#define LAYOUT_ZERO_PAGE   0x7000ull
#define LAYOUT_STACK_TOP   0x9000ull
#define LAYOUT_PML4	   0x9000ull
#define LAYOUT_PDPT	   0xa000ull
#define LAYOUT_PD	   0xb000ull /* four pages: 4 GiB in 2 MiB steps */
#define LAYOUT_CMDLINE	   0x20000ull
#define LAYOUT_CMDLINE_MAX 4096u

/*
 * Reserved pages. Below 1 MiB on purpose: a guest with CONFIG_STRICT_DEVMEM still lets its root
 * read them through /dev/mem, which is how the agent gets at the mailbox without a driver.
 */
#define LAYOUT_MAILBOX	    0x9e000ull
#define LAYOUT_VMGENID	    0x9f000ull
#define LAYOUT_RESERVED_END 0xa0000ull

#define LAYOUT_ACPI	0xe0000ull
#define LAYOUT_ACPI_END 0xff000ull

#define LAYOUT_RESET_VECTOR 0xffff0ull /* real mode f000:fff0, where a PC's firmware begins */
#define LAYOUT_FIRMWARE_END 0x100000ull

#define LAYOUT_HIGH_RAM 0x100000ull

#define LAYOUT_IOAPIC 0xfec00000ull
#define LAYOUT_LAPIC  0xfee00000ull
#define LAYOUT_TSS    0xfffbd000ull /* three pages KVM wants for real mode on Intel */

/* Legacy ports and interrupts. */
#define LAYOUT_SERIAL_PORT   0x3f8
#define LAYOUT_SERIAL_GSI    4
#define LAYOUT_I8042_COMMAND 0x64  /* status and command; no data port, no keyboard */
#define LAYOUT_PM_PORT	     0x600 /* sleep control, sleep status, reset: see devices/pm.h */
#define LAYOUT_SCI_GSI	     9	   /* named in the FADT, otherwise unused */
#define LAYOUT_GED_GSI	     5	   /* generation change */
#define LAYOUT_GSI_MAX	     23

#endif

/* The CPUID table: what is hidden, what differs per vCPU. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>
#include <errno.h>
#include <string.h>

#include "runner/x86/cpuid.h"
#include "smfs/base/num.h"

static void add(struct vcpu_cpuid *t, uint32_t leaf, uint32_t sub, uint32_t eax, uint32_t ebx,
		uint32_t ecx, uint32_t edx)
{
	static const uint32_t indexed[] = {4, 7, 0xb, 0xd, 0x14, 0x1d, 0x8000001d};
	uint32_t flags = 0;

	for (size_t i = 0; i < ARRAY_SIZE(indexed); i++)
		if (leaf == indexed[i])
			flags = KVM_CPUID_FLAG_SIGNIFCANT_INDEX;
	t->entry[t->n++] = (struct kvm_cpuid_entry2){.function = leaf,
						     .index = sub,
						     .flags = flags,
						     .eax = eax,
						     .ebx = ebx,
						     .ecx = ecx,
						     .edx = edx};
}

/* A host with everything: each bit of the filtered leaves set. */
static void sapphire_rapids(struct vcpu_cpuid *t)
{
	memset(t, 0, sizeof(*t));
	add(t, 0x0, 0, 0x20, 0x756e6547, 0x6c65746e, 0x49656e69);
	add(t, 0x1, 0, 0x806f8, 0x12100800, ~0u, ~0u);
	add(t, 0x4, 0, 0x7c004121, 0, 0, 0);
	add(t, 0x4, 3, 0x7c0fc163, 0, 0, 0);
	add(t, 0x7, 0, 2, ~0u, ~0u, ~0u);
	add(t, 0x7, 1, ~0u, 0, 0, ~0u);
	add(t, 0xa, 0, 8, 0, 0, 0);
	add(t, 0xd, 0, 0x602e7, 11008, 11008, 0);
	add(t, 0xd, 1, 0x1f, 0, 0x9900, 0);
	add(t, 0xd, 2, 256, 576, 0, 0);
	add(t, 0xd, 5, 64, 1088, 0, 0);
	add(t, 0xd, 6, 512, 1152, 0, 0);
	add(t, 0xd, 7, 1024, 1664, 0, 0);
	add(t, 0xd, 9, 8, 2688, 0, 0);
	add(t, 0xd, 17, 64, 2752, 2, 0);
	add(t, 0xd, 18, 8192, 2816, 6, 0);
	add(t, 0x12, 0, 1, 0, 0, 0);
	add(t, 0x14, 0, 1, 0, 0, 0);
	add(t, 0x1d, 0, 1, 0, 0, 0);
	add(t, 0x1d, 1, 1, 0, 0, 0);
	add(t, 0x1e, 0, 0, 1, 0, 0);
	add(t, 0x40000000, 0, 0x40000001, 0x4b4d564b, 0x564b4d56, 0x4d);
	add(t, 0x80000001, 0, 0, 0, ~0u, ~0u);
	add(t, 0x80000008, 0, 0x3039, 0, 0, 0);
	add(t, 0x8000000a, 0, 1, 0, 0, 0);
}

static void hidden_features_are_gone(void **state)
{
	struct vcpu_cpuid t;

	sapphire_rapids(&t);
	cpuid_filter(&t);
	assert_null(cpuid_find(&t, 0xa, 0));
	assert_null(cpuid_find(&t, 0x12, 0));
	assert_null(cpuid_find(&t, 0x14, 0));
	assert_null(cpuid_find(&t, 0x1d, 0));
	assert_null(cpuid_find(&t, 0x1d, 1));
	assert_null(cpuid_find(&t, 0x1e, 0));
	assert_null(cpuid_find(&t, 0x8000000a, 0));
	assert_false(cpuid_find(&t, 1, 0)->ecx & (1u << 5 | 1u << 15));		    /* VMX, PDCM */
	assert_false(cpuid_find(&t, 7, 0)->ebx & (1u << 2 | 1u << 25));		    /* SGX, PT */
	assert_false(cpuid_find(&t, 7, 0)->ecx & 1u << 5);			    /* WAITPKG */
	assert_false(cpuid_find(&t, 7, 0)->edx & (1u << 22 | 1u << 24 | 1u << 25)); /* AMX */
	assert_false(cpuid_find(&t, 0x80000001, 0)->ecx & 1u << 2);		    /* SVM */
	/* What is not hidden stays, kvmclock's leaf too. */
	assert_true(cpuid_find(&t, 7, 0)->ebx & 1u << 5); /* AVX2 */
	assert_non_null(cpuid_find(&t, 0x40000000, 0));
}

static void without_amx_the_xsave_area_is_small(void **state)
{
	struct vcpu_cpuid t;

	sapphire_rapids(&t);
	cpuid_filter(&t);
	const struct kvm_cpuid_entry2 *d = cpuid_find(&t, 0xd, 0);
	assert_int_equal(d->eax, 0x2e7);
	assert_int_equal(d->ecx, 2688 + 8);
	assert_true(d->ecx <= VCPU_XSAVE_MAX);
	assert_null(cpuid_find(&t, 0xd, 17));
	assert_null(cpuid_find(&t, 0xd, 18));
	assert_false(cpuid_find(&t, 0xd, 1)->eax & 1u << 4); /* XFD */
}

static void a_table_that_shows_the_hidden_is_told(void **state)
{
	struct vcpu_cpuid t;

	sapphire_rapids(&t);
	assert_false(cpuid_is_filtered(&t));
	cpuid_filter(&t);
	assert_true(cpuid_is_filtered(&t));
	/* A second entry of the leaf, behind the clean one; no index, so it stands for them all. */
	add(&t, 0x1, 0, 0, 0, 1u << 5, 0);
	assert_false(cpuid_is_filtered(&t));
	t.n--;
	add(&t, 0x7, 0, 0, 1u << 2, 0, 0);
	t.entry[t.n - 1].flags = 0;
	t.entry[t.n - 1].index = 9;
	assert_false(cpuid_is_filtered(&t));
	t.n--;
	add(&t, 0x40000001, 0, 0x31237648, 0, 0, 0);
	assert_false(cpuid_is_filtered(&t));
	t.n--;
	assert_true(cpuid_is_filtered(&t));
}

static void filtering_twice_changes_nothing(void **state)
{
	struct vcpu_cpuid a, b;

	sapphire_rapids(&a);
	cpuid_filter(&a);
	b = a;
	cpuid_filter(&b);
	assert_memory_equal(&a, &b, sizeof(a));
}

static void empty_and_odd_tables_are_survived(void **state)
{
	struct vcpu_cpuid t = {0};

	cpuid_filter(&t);
	assert_int_equal(t.n, 0);
	assert_int_equal(cpuid_for_vcpu(&t, 0, 1, true, NULL), 0);
	/* Component sizes that would wrap. */
	add(&t, 0xd, 0, 4, 0, 0, 0);
	add(&t, 0xd, 2, UINT32_MAX, UINT32_MAX, 0, 0);
	cpuid_filter(&t);
	assert_int_equal(cpuid_find(&t, 0xd, 0)->ecx, 576);
}

static void each_vcpu_has_its_apic_id(void **state)
{
	static const unsigned shift[] = {[1] = 0, [2] = 1, [3] = 2, [4] = 2, [5] = 3, [8] = 3};
	static const unsigned counts[] = {1, 2, 3, 4, 5, 8};

	for (size_t c = 0; c < ARRAY_SIZE(counts); c++) {
		unsigned n = counts[c];

		for (unsigned i = 0; i < n; i++) {
			struct vcpu_cpuid t;

			sapphire_rapids(&t);
			cpuid_filter(&t);
			assert_int_equal(cpuid_for_vcpu(&t, i, n, true, NULL), 0);
			const struct kvm_cpuid_entry2 *one = cpuid_find(&t, 1, 0);
			assert_int_equal(one->ebx >> 24, i);
			assert_int_equal(one->ebx & 0xff00, 0x0800); /* CLFLUSH size stays */
			assert_int_equal(!!(one->edx & 1u << 28), n > 1);
			const struct kvm_cpuid_entry2 *core = cpuid_find(&t, 0xb, 1);
			assert_int_equal(core->edx, i);
			assert_int_equal(core->ebx, n);
			assert_int_equal(core->eax, shift[n]);
			assert_int_equal(core->ecx, 0x201);
			assert_int_equal(cpuid_find(&t, 0xb, 0)->ecx, 0x100);
			assert_int_equal(cpuid_find(&t, 0xb, 2)->ecx, 2);
			assert_int_equal(cpuid_find(&t, 0x1f, 1)->edx, i);
			/* One core's own cache, and everybody's. */
			assert_int_equal(cpuid_find(&t, 4, 0)->eax >> 14 & 0xfff, 0);
			assert_int_equal(cpuid_find(&t, 4, 3)->eax >> 14 & 0xfff, n - 1);
		}
	}
}

static void the_local_apic_brings_its_bits(void **state)
{
	const uint32_t bits = 1u << 24 | 1u << 21; /* TSC_DEADLINE, x2APIC */
	struct vcpu_cpuid t;

	sapphire_rapids(&t);
	assert_int_equal(cpuid_for_vcpu(&t, 0, 1, true, NULL), 0);
	assert_int_equal(cpuid_find(&t, 1, 0)->ecx & bits, bits);
	assert_true(cpuid_find(&t, 1, 0)->ecx & 1u << 31); /* HYPERVISOR */
	assert_int_equal(cpuid_for_vcpu(&t, 0, 1, false, NULL), 0);
	assert_int_equal(cpuid_find(&t, 1, 0)->ecx & bits, 0);
}

static void amd_counts_its_cores_elsewhere(void **state)
{
	struct vcpu_cpuid t = {0};

	add(&t, 0x0, 0, 0x10, 0x68747541, 0x444d4163, 0x69746e65);
	add(&t, 0x80000001, 0, 0, 0, 0, 0);
	add(&t, 0x80000008, 0, 0x3030, 0, 0x5003, 0);
	add(&t, 0x8000001e, 0, 9, 9, 9, 0);
	assert_int_equal(cpuid_for_vcpu(&t, 2, 4, true, NULL), 0);
	assert_int_equal(cpuid_find(&t, 0x80000008, 0)->ecx, 0x2003);
	assert_int_equal(cpuid_find(&t, 0x8000001e, 0)->eax, 2);
	assert_int_equal(cpuid_find(&t, 0x8000001e, 0)->ebx, 2);
	assert_int_equal(cpuid_find(&t, 0x80000001, 0)->ecx, 2); /* CmpLegacy */
}

static void a_full_table_is_an_error_not_an_overrun(void **state)
{
	struct vcpu_cpuid t;
	struct err err;

	sapphire_rapids(&t);
	while (t.n < VCPU_CPUID_MAX)
		add(&t, 0x80000002, 0, 0, 0, 0, 0);
	assert_int_equal(cpuid_for_vcpu(&t, 0, 1, true, &err), -E2BIG);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(hidden_features_are_gone),
		cmocka_unit_test(without_amx_the_xsave_area_is_small),
		cmocka_unit_test(a_table_that_shows_the_hidden_is_told),
		cmocka_unit_test(filtering_twice_changes_nothing),
		cmocka_unit_test(empty_and_odd_tables_are_survived),
		cmocka_unit_test(each_vcpu_has_its_apic_id),
		cmocka_unit_test(the_local_apic_brings_its_bits),
		cmocka_unit_test(amd_counts_its_cores_elsewhere),
		cmocka_unit_test(a_full_table_is_an_error_not_an_overrun),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}

/* A plugin of QEMU's user-mode emulation that counts the guest's instructions. Each call of getppid, which the guest
 * makes as a mark, prints "instructions COUNT VCPUS" on standard error.
 *
 * The declarations are the few that are needed of plugin interface version 1 (QEMU 7.2, docs/devel/tcg-plugins), so
 * that no header of QEMU's has to be installed; a QEMU that knows that version no more says so and ends.
 *
 *     cc -shared -fPIC -O2 instructions_plugin.c -o instructions_plugin.so
 */
#include <inttypes.h>
#include <stddef.h>
#include <stdio.h>

#define EXPORT __attribute__((visibility("default")))
#define ADD_U64 0          /* the only inline operation of version 1 */
#define GETPPID_AARCH64 173 /* Linux, asm-generic/unistd.h */

typedef uint64_t plugin_id;
struct qemu_plugin_tb;
typedef void (*on_vcpu)(plugin_id, unsigned);
typedef void (*on_translation)(plugin_id, struct qemu_plugin_tb *);
typedef void (*on_syscall)(plugin_id, unsigned, int64_t, uint64_t, uint64_t, uint64_t, uint64_t, uint64_t, uint64_t,
                           uint64_t, uint64_t);

extern size_t qemu_plugin_tb_n_insns(const struct qemu_plugin_tb *);
extern void qemu_plugin_register_vcpu_init_cb(plugin_id, on_vcpu);
extern void qemu_plugin_register_vcpu_tb_trans_cb(plugin_id, on_translation);
extern void qemu_plugin_register_vcpu_tb_exec_inline(struct qemu_plugin_tb *, int, void *, uint64_t);
extern void qemu_plugin_register_vcpu_syscall_cb(plugin_id, on_syscall);

EXPORT int qemu_plugin_version = 1;

static uint64_t instructions; /* not atomic: exact while one thread runs, which is why the vCPUs are printed too */
static unsigned vcpus;

static void vcpu_begun(plugin_id id, unsigned vcpu)
{
    (void)id, (void)vcpu;
    vcpus++;
}

static void block_translated(plugin_id id, struct qemu_plugin_tb *block)
{
    (void)id;
    qemu_plugin_register_vcpu_tb_exec_inline(block, ADD_U64, &instructions, qemu_plugin_tb_n_insns(block));
}

static void syscall_made(plugin_id id, unsigned vcpu, int64_t number, uint64_t a1, uint64_t a2, uint64_t a3,
                         uint64_t a4, uint64_t a5, uint64_t a6, uint64_t a7, uint64_t a8)
{
    (void)id, (void)vcpu, (void)a1, (void)a2, (void)a3, (void)a4, (void)a5, (void)a6, (void)a7, (void)a8;
    if (number == GETPPID_AARCH64)
        fprintf(stderr, "instructions %" PRIu64 " %u\n", instructions, vcpus);
}

EXPORT int qemu_plugin_install(plugin_id id, const void *info, int argc, char **argv)
{
    (void)info, (void)argc, (void)argv;
    qemu_plugin_register_vcpu_init_cb(id, vcpu_begun);
    qemu_plugin_register_vcpu_tb_trans_cb(id, block_translated);
    qemu_plugin_register_vcpu_syscall_cb(id, syscall_made);
    return 0;
}

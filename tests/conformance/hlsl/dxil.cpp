// dxil.cpp: what dxil.ll asks of the machine, for run.cpp: buffers by their registers, places in the grid, barriers.

#include <atomic>
#include <cstdio>
#include <cstdlib>
#include <cstring>

#include "dxil.hpp"

/// What this thread runs.
static thread_local Invocation const* current = nullptr;

void run_dxil(void (*entry_point)(), Invocation const& at) {
    current = &at;
    entry_point();
}

static void fail(char const* what, std::uint32_t value) {
    std::fprintf(stderr, "DXIL: %s %u\n", what, value);
    std::exit(1);
}

/// A word of a buffer, or none past its end: there loads are 0 and stores do nothing.
static char* word(std::uint64_t handle, std::uint32_t at) {
    auto const& bound = current->bound[handle];
    return at < bound.size && bound.size - at >= 4 ? static_cast<char*>(bound.start) + at : nullptr;
}

extern "C" {

/// Registers of a kind are counted by themselves, in the order of bindings.
std::uint64_t cpu_handle(std::uint32_t kind, std::uint32_t wanted) {
    Access const accesses[] = {Access::read, Access::read_write, Access::uniform};
    if (kind >= 3) fail("an unknown kind of resource:", kind);
    for (std::uint64_t slot = 0; current->bound[slot].access != Access::internal; ++slot) {
        if (current->bound[slot].access == accesses[kind] && wanted-- == 0) return slot;
    }
    fail("no such register of kind", kind);
    return 0;
}

std::uint32_t cpu_load(std::uint64_t handle, std::uint32_t at) {
    std::uint32_t value = 0;
    if (char const* const found = word(handle, at)) std::memcpy(&value, found, sizeof value);
    return value;
}

void cpu_store(std::uint64_t handle, std::uint32_t at, std::uint32_t value) {
    if (current->bound[handle].access != Access::read_write) fail("a store to a binding that is only read, slot", handle);
    if (char* const found = word(handle, at)) std::memcpy(found, &value, sizeof value);
}

std::uint32_t cpu_atomic(std::uint64_t handle, std::uint32_t what, std::uint32_t at, std::uint32_t value) {
    char* const found = word(handle, at);
    if (!found) return 0;
    std::atomic_ref<std::uint32_t> atomic(*reinterpret_cast<std::uint32_t*>(found));
    if (what == 0) return atomic.fetch_add(value);
    if (what == 1) return atomic.fetch_and(value);
    if (what == 2) return atomic.fetch_or(value);
    if (what == 8) return atomic.exchange(value);
    fail("an unknown atomic operation:", what);
    return 0;
}

std::uint32_t cpu_group(std::uint32_t axis) { return current->workgroup[axis]; }

std::uint32_t cpu_local() { return current->local; }

void cpu_barrier() { workgroup_barrier(); }

std::uint32_t cpu_unknown(std::uint32_t operation) {
    fail("an unknown operation:", operation);
    return 0;
}
}

// kernel.hpp: how a translated pipeline is called on the CPU. For each of them there is a function that turns an Invocation into what
// the translation wants: parameters, or answers to its questions.
#pragma once

#include <cstdint>

/// A parameter that is a reference to memory: to whatever type it is declared.
struct Memory {
    void* start;

    template <class T>
    operator T&() const {
        return *static_cast<T*>(start);
    }
};

/// A parameter that is memory of the workgroup: one of several of the same size.
struct Shared {
    static constexpr unsigned size = 8192;
    void* start;

    template <class T>
    operator T&() const {
        static_assert(sizeof(T) <= size);
        return *static_cast<T*>(start);
    }
};

/// The place of a workgroup in the grid, as any vector of three.
struct Group {
    std::uint32_t const* at;

    template <class T>
    operator T() const {
        return T(at[0], at[1], at[2]);
    }
};

enum class Access { uniform, read, read_write, internal };

/// The part of a buffer that is bound.
struct Bound {
    void* start;
    std::uint32_t size;
    Access access;
};

/// One invocation of a dispatch.
struct Invocation {
    /// In the order of bindings; the last is internal and holds the sizes of those that the list (src/translate.rs) names.
    Bound const* bound;
    std::uint32_t workgroup[3];
    std::uint32_t local;

    Memory buffer(unsigned slot) const { return {bound[slot].start}; }
    Shared shared(unsigned number) const;
    Group group() const { return {workgroup}; }
};

/// By number of the pipeline.
extern void (*const kernels[])(Invocation const&);

/// Memory of the workgroup that runs, for eight variables. It is never cleared: the crate asks for that and writes before it
/// reads.
alignas(256) extern char workgroup_memory[65536];

inline Shared Invocation::shared(unsigned number) const { return {workgroup_memory + number * Shared::size}; }

/// Waits for all invocations of the workgroup.
void workgroup_barrier();

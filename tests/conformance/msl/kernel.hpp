// kernel.hpp: how a translated entry point is called. The files that `conformance msl` writes have a function for each pipeline
// that turns an Invocation into the entry point's parameters.
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

/// The place of a workgroup in the grid, as any vector of three.
struct Group {
    std::uint32_t const* at;

    template <class T>
    operator T() const {
        return T(at[0], at[1], at[2]);
    }
};

/// One invocation of a dispatch.
struct Invocation {
    /// By slot; behind the buffers that are bound, the sizes of some of them.
    void* const* buffers;
    void* workgroup_memory;
    std::uint32_t workgroup[3];
    std::uint32_t local;

    Memory buffer(unsigned slot) const { return {buffers[slot]}; }
    Memory shared() const { return {workgroup_memory}; }
    Group group() const { return {workgroup}; }
};

/// By number of the pipeline.
extern void (*const kernels[])(Invocation const&);

/// Waits for all invocations of the workgroup.
void workgroup_barrier();

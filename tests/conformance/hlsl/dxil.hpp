// dxil.hpp: how the files that `conformance dxil` writes call an entry point of DXIL.
#pragma once

#include "kernel.hpp"

/// DXIL's entry points have no parameters: they ask.
void run_dxil(void (*entry_point)(), Invocation const& at);

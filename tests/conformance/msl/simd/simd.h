// simd.h: naga's text includes it and uses nothing of it.

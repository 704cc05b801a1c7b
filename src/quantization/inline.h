// Words of compilers for loops that are compiled once per instruction set (quantization/isa.h).
#pragma once

#ifdef __GNUC__
#define STEADYFLUX_INLINE __attribute__((always_inline)) inline
#define STEADYFLUX_RESTRICT __restrict__
#else
#define STEADYFLUX_INLINE inline
#define STEADYFLUX_RESTRICT
#endif

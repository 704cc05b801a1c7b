// Words of compilers for loops that are compiled once per instruction set (quantization/isa.h).
#pragma once

#if defined(__SANITIZE_ADDRESS__)
#define STEADYFLUX_SANITIZED 1
#elif defined(__has_feature)
#if __has_feature(address_sanitizer)
#define STEADYFLUX_SANITIZED 1
#endif
#endif

// With sanitizers compilers take minutes for what is inlined by force; calls give the same values.
#if defined(__GNUC__) && !defined(STEADYFLUX_SANITIZED)
#define STEADYFLUX_INLINE __attribute__((always_inline)) inline
#else
#define STEADYFLUX_INLINE inline
#endif

#ifdef __GNUC__
#define STEADYFLUX_RESTRICT __restrict__
#else
#define STEADYFLUX_RESTRICT
#endif

#include "base/cpu.h"

#if defined(__x86_64__) && defined(__GNUC__)
#include <cpuid.h>
#endif

namespace steadyflux {

#if defined(__x86_64__) && defined(__GNUC__)
namespace {

// CPUID's leaf 7: what compilers older than the instructions have no names for.
struct Features {
  bool bf16 = false, fp16 = false;
};

Features read_features() {
  __builtin_cpu_init();
  if (!__builtin_cpu_supports("avx512bw") || !__builtin_cpu_supports("avx512vl") ||
      !__builtin_cpu_supports("avx512dq")) {
    return {};
  }
  unsigned a = 0, b = 0, c = 0, d = 0;
  Features features;
  if (__get_cpuid_count(7, 0, &a, &b, &c, &d) != 0) features.fp16 = (d >> 23 & 1) != 0;
  if (__get_cpuid_count(7, 1, &a, &b, &c, &d) != 0) features.bf16 = (a >> 5 & 1) != 0;
  return features;
}

const Features& features() {
  static const Features found = read_features();
  return found;
}

}  // namespace

bool cpu_multiplies_bf16() { return features().bf16; }
bool cpu_multiplies_fp16() { return features().fp16; }

#else

// Elsewhere libtorch is trusted to know.
bool cpu_multiplies_bf16() { return true; }
bool cpu_multiplies_fp16() { return true; }

#endif

}  // namespace steadyflux

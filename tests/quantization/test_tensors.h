// Tensors to quantise, made from integers alone, so that scripts/make_quantization_goldens.py makes
// the same ones for other programs' quantisers. Their values are about as large as weights are.
#pragma once

#include <array>
#include <bit>
#include <cstdint>
#include <string>
#include <vector>

namespace steadyflux::testing {

inline constexpr std::array<const char*, 5> kTensorKinds = {"bell", "heavy-tailed", "outliers",
                                                            "near-constant", "zeros"};

// splitmix64
inline std::uint64_t mixed(std::uint64_t x) {
  x *= 0x9e3779b97f4a7c15;
  x = (x ^ (x >> 30)) * 0xbf58476d1ce4e5b9;
  x = (x ^ (x >> 27)) * 0x94d049bb133111eb;
  return x ^ (x >> 31);
}

inline std::vector<float> test_tensor(const std::string& kind, std::int64_t count) {
  std::vector<float> values;
  for (std::int64_t i = 0; i < count; ++i) {
    const auto a = mixed(2 * static_cast<std::uint64_t>(i) + 1);
    const auto b = mixed(2 * static_cast<std::uint64_t>(i) + 2);
    // The sum of four numbers of 16 bits looks like a bell.
    const auto sum = (a & 0xffff) + (a >> 16 & 0xffff) + (a >> 32 & 0xffff) + (a >> 48);
    const float bell = static_cast<float>(static_cast<std::int64_t>(sum) - 131070) / 65536;
    float value = bell;
    if (kind == "heavy-tailed") value *= static_cast<float>(1 << std::countr_zero(b | 0x100));
    if (kind == "outliers" && b % 128 == 0) value *= 32;
    if (kind == "near-constant") value = 1 + bell / 64;
    if (kind == "zeros") value = 0;
    values.push_back(value / 32);
  }
  return values;
}

}  // namespace steadyflux::testing

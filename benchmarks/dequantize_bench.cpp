// How fast packed weights become bf16: for each format the time per value, and the bytes read and
// written per second, on one core, beside memcpy of the bf16 values as a roof. The weights are more
// than caches hold, unless said otherwise. Prints one JSON line for each format.
// Use: dequantize_bench [MILLION_VALUES [REPEATS]]
#include <fmt/format.h>

#include <algorithm>
#include <array>
#include <chrono>
#include <cstdlib>
#include <cstring>
#include <random>
#include <string>
#include <vector>

#include "quantization/instruction_set.h"
#include "quantization/packed_values.h"

using namespace steadyflux;

namespace {

// The least of several times: others on the machine only add to it.
template <typename F>
double best_seconds(int repeats, F f) {
  double best = 1e30;
  for (int i = 0; i < repeats; ++i) {
    const auto start = std::chrono::steady_clock::now();
    f();
    const std::chrono::duration<double> taken = std::chrono::steady_clock::now() - start;
    best = std::min(best, taken.count());
  }
  return best;
}

std::vector<std::byte> random_bytes(std::size_t count) {
  std::mt19937_64 random(1);
  std::vector<std::byte> bytes(count + 8);
  for (std::size_t i = 0; i < count; i += 8) {
    const auto word = random();
    std::memcpy(bytes.data() + i, &word, sizeof word);
  }
  return bytes;
}

const char* name_of(InstructionSet set) {
  constexpr std::array<const char*, 3> kNames = {"portable", "avx2", "avx512"};
  return kNames[static_cast<std::size_t>(set)];
}

void report(const std::string& format, const char* with, double seconds, std::int64_t values,
            double bytes_read) {
  const auto count = static_cast<double>(values);
  fmt::print(R"({{"format": "{}", "with": "{}", "ns_per_value": {:.3f}, "gb_per_s": {:.1f}}})"
             "\n",
             format, with, seconds * 1e9 / count, (bytes_read + 2 * count) / seconds / 1e9);
}

}  // namespace

int main(int argc, char** argv) {
  const auto values = std::int64_t{1 << 20} * (argc > 1 ? std::atoi(argv[1]) : 64);
  const int repeats = argc > 2 ? std::atoi(argv[2]) : 7;
  constexpr std::int64_t kRow = 4096;
  const auto codes = random_bytes(static_cast<std::size_t>(values) * 34 / 32);
  std::vector<BFloat16Bits> out(static_cast<std::size_t>(values)), copy(out.size());

  const double roof = best_seconds(
      repeats, [&] { std::memcpy(copy.data(), out.data(), out.size() * sizeof(BFloat16Bits)); });
  report("memcpy", "", roof, values, 2 * static_cast<double>(values));

  const std::vector<float> scales(static_cast<std::size_t>(values / 64), 0.01f);
  const auto* scale_bytes = reinterpret_cast<const std::byte*>(scales.data());
  std::array<float, 256> code{};
  for (std::size_t i = 0; i < code.size(); ++i) code[i] = static_cast<float>(i) / 16 - 1;

  const auto measure = [&](const std::string& name, const PackedValues& from, double bits) {
    for (const auto set : instruction_sets()) {
      const double seconds =
          best_seconds(repeats, [&] { unpack_with(set, from, 0, values, out.data()); });
      report(name, name_of(set), seconds, values, bits / 8 * static_cast<double>(values));
    }
  };
  for (const DType type :
       {DType::kQ4_0, DType::kQ4_1, DType::kQ5_0, DType::kQ5_1, DType::kQ8_0, DType::kQ2_K,
        DType::kQ3_K, DType::kQ4_K, DType::kQ5_K, DType::kQ6_K, DType::kIQ4_NL, DType::kIQ4_XS}) {
    measure(to_string(type), {.dtype = type, .row_values = kRow, .data = codes.data()},
            8.0 * static_cast<double>(item_size(type)) / static_cast<double>(item_values(type)));
  }
  for (const DType type : {DType::kF8E4M3, DType::kF8E5M2, DType::kI8}) {
    measure(to_string(type) + ", scale per row",
            {.packing = Packing::kScaled,
             .dtype = type,
             .row_values = kRow,
             .data = codes.data(),
             .scales = scale_bytes,
             .scale_count = values / kRow},
            8);
  }
  PackedValues codes4 = {.packing = Packing::kCodes4,
                         .dtype = DType::kU8,
                         .row_values = kRow,
                         .data = codes.data(),
                         .code = code.data(),
                         .absmax = scale_bytes};
  measure("NF4, blocks of 64", codes4, 4.5);
  codes4.absmax = codes.data();
  codes4.nested_code = code.data();
  codes4.nested_absmax = scale_bytes;
  measure("NF4, double quantised", codes4, 4.127);
  return 0;
}

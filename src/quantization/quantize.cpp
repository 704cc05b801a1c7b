#include "quantization/quantize.h"

#include <fmt/format.h>

#include "quantization/block_packers.h"
#include "quantization/instruction_set.h"
#include "quantization/isa.h"
#include "quantization/k_block_packers.h"
#include "steadyflux/error.h"

namespace steadyflux {
namespace {

template <DType kType>
struct PackRun {
  const float* values;
  std::int64_t blocks;
  std::uint8_t* to;
  template <typename Isa>
  STEADYFLUX_INLINE void operator()() const {
    for (std::int64_t i = 0; i < blocks; ++i) {
      Packer<kType>::pack(values + i * Packer<kType>::kValues, to + i * Packer<kType>::kBytes);
    }
  }
};

template <DType kType>
void pack_blocks(InstructionSet with, const float* values, std::int64_t count, std::byte* to) {
  run_with(with, PackRun<kType>{values, count / Packer<kType>::kValues,
                                reinterpret_cast<std::uint8_t*>(to)});
}

}  // namespace

bool can_quantize(DType type) {
  switch (type) {
    case DType::kQ4_0:
    case DType::kQ4_1:
    case DType::kQ5_0:
    case DType::kQ5_1:
    case DType::kQ8_0:
    case DType::kQ4_K:
    case DType::kQ5_K:
    case DType::kQ6_K:
      return true;
    default:
      return false;
  }
}

void quantize_with(InstructionSet with, DType type, const float* values, std::int64_t count,
                   std::byte* to) {
  if (can_quantize(type) && count % item_values(type) != 0) {
    throw Error(ErrorKind::kInternal,
                fmt::format("quantize: {} values are not whole {} blocks", count, to_string(type)));
  }
  switch (type) {
    case DType::kQ4_0:
      return pack_blocks<DType::kQ4_0>(with, values, count, to);
    case DType::kQ4_1:
      return pack_blocks<DType::kQ4_1>(with, values, count, to);
    case DType::kQ5_0:
      return pack_blocks<DType::kQ5_0>(with, values, count, to);
    case DType::kQ5_1:
      return pack_blocks<DType::kQ5_1>(with, values, count, to);
    case DType::kQ8_0:
      return pack_blocks<DType::kQ8_0>(with, values, count, to);
    case DType::kQ4_K:
      return pack_blocks<DType::kQ4_K>(with, values, count, to);
    case DType::kQ5_K:
      return pack_blocks<DType::kQ5_K>(with, values, count, to);
    case DType::kQ6_K:
      return pack_blocks<DType::kQ6_K>(with, values, count, to);
    default:
      throw Error(ErrorKind::kInternal,
                  fmt::format("quantize: no quantiser for {}", to_string(type)));
  }
}

void quantize(DType type, const float* values, std::int64_t count, std::byte* to) {
  quantize_with(best_instruction_set(), type, values, count, to);
}

}  // namespace steadyflux

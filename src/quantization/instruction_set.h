// Which instruction set `unpack` uses: the best there is. Tests and benchmarks ask for others,
// which must give the same values.
#pragma once

#include <cstddef>
#include <cstdint>
#include <vector>

#include "quantization/packed_values.h"

namespace steadyflux {

enum class InstructionSet { kPortable, kAvx2, kAvx512 };

InstructionSet best_instruction_set();
// All that this machine has, kPortable first.
std::vector<InstructionSet> instruction_sets();

void unpack_with(InstructionSet with, const PackedValues& from, std::int64_t first,
                 std::int64_t count, float* to);
void unpack_with(InstructionSet with, const PackedValues& from, std::int64_t first,
                 std::int64_t count, BFloat16Bits* to);
void unpack_with(InstructionSet with, const PackedValues& from, std::int64_t first,
                 std::int64_t count, Half16* to);

void quantize_with(InstructionSet with, DType type, const float* values, std::int64_t count,
                   std::byte* to);

}  // namespace steadyflux

// Carries out a conversion: values are read, packed and written in pieces of some MiB, so that the
// memory it takes does not depend on the size of the model. What it writes does not depend on the
// number of threads.
#pragma once

#include <cstddef>
#include <cstdint>
#include <functional>
#include <span>
#include <string>
#include <vector>

#include "conversion/conversion_plan.h"

namespace steadyflux {

struct ConversionOutput {
  std::function<void(std::span<const std::byte>)> append;
  // Writes over the beginning of what was appended: scales are known last and stand first.
  std::function<void(std::span<const std::byte>)> rewrite_start;
  // Forgets what was written: some tensor turned out to need another type.
  std::function<void()> restart;
};

// Called between pieces, from the thread that converts; what it throws ends the conversion.
using ConversionProgress = std::function<void(std::int64_t values_done, std::int64_t values)>;

struct TypeReport {
  DType dtype = DType::kF32;
  std::int64_t tensors = 0;
  std::int64_t values = 0;
  std::uint64_t bytes_before = 0;
  std::uint64_t bytes_after = 0;
  double relative_rms_error = 0;  // sqrt(sum (new - old)^2 / sum old^2) over its tensors
};

struct ConversionReport {
  std::vector<TypeReport> types;  // the one that takes most bytes first
  std::vector<std::string> warnings;
  std::uint64_t file_bytes = 0;
};

// Bytes of the file to come, if all values are in the range of their types. Throws Error{kInternal}
// for a plan that the format cannot hold.
std::uint64_t converted_file_bytes(const ConversionPlan& plan);

// Tensors whose values are out of the range of their type get a wider one, with a warning; that is
// known when all are done, and then it begins anew. `threads`: at least 1. Throws Error{kBadInput}
// for values that are NaN or infinite.
ConversionReport convert(const ConversionPlan& plan, const ConversionOutput& output, int threads,
                         const ConversionProgress& progress);

}  // namespace steadyflux

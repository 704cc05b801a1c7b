// Statistics of GroupNorm over a whole picture, gathered while its rows are made. They are summed
// row by row (CPU) or over fixed stretches of rows (other devices) and put together in fp64 in the
// order of the rows, so that they have the same bits however the rows came.
#pragma once

#include <ATen/core/Tensor.h>

#include <vector>

#include "nn/layers.h"

namespace steadyflux {

// Of one GroupNorm and one picture: normalised = value * scale + shift.
struct NormFactors {
  at::Tensor scale, shift;  // [C] fp32, on the computing device
};

class GroupMoments {
 public:
  GroupMoments(std::int64_t height, std::int64_t width, std::int64_t channels,
               std::int64_t norm_num_groups)
      : height_(height), width_(width), channels_(channels), groups_(norm_num_groups) {}

  // out = in, or out += in, and the sums of what was stored, as rows [first, first + n) of the
  // picture. in, out [n, W, C] contiguous, on the computing device. Rows come in order.
  void store(const at::Tensor& in, bool add, std::int64_t first, const at::Tensor& out);

  // The sums of rows that are stored already (not on the CPU).
  void take(const at::Tensor& rows);

  // After the last row; forgets the sums.
  NormFactors finish(const GroupNorm& norm, double eps);

 private:
  std::int64_t height_, width_, channels_, groups_;
  std::vector<double> sums_;              // CPU: [height][groups][2], sums and sums of squares
  std::vector<at::Tensor> means_, vars_;  // other devices: [groups] fp32 each
  std::vector<double> counts_;            // values behind each of them
};

// out = the rows normalised, rounded to their dtype, then SiLU if wanted; [n, W, C] contiguous.
// `out` may be `in` on other devices than the CPU.
void normalise_rows(const at::Tensor& in, const NormFactors& norm, bool silu,
                    const at::Tensor& out);

}  // namespace steadyflux

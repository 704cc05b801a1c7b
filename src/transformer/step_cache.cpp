#include "transformer/step_cache.h"

#include <ATen/ATen.h>

#include "config/row_chunks.h"

namespace steadyflux {
namespace {

// Into a tensor in RAM that keeps its place from pass to pass.
void keep(at::Tensor& kept, const at::Tensor& values) {
  if (!kept.defined()) kept = at::empty(values.sizes(), values.options().device(at::kCPU));
  kept.copy_(values);
}

}  // namespace

double relative_change(const at::Tensor& now, const at::Tensor& before) {
  // Sums in fp64: the order of adding, which depends on the number of threads, is rounded away.
  auto sums = at::zeros({2}, now.options().dtype(at::kDouble));
  for_row_chunks(now.size(1), kElementRows, [&](std::int64_t begin, std::int64_t count) {
    const auto old = before.narrow(1, begin, count).to(now.device());
    sums.select(0, 0).add_((now.narrow(1, begin, count) - old).abs_().sum(at::kDouble));
    sums.select(0, 1).add_(old.abs().sum(at::kDouble));
  });
  const auto means = (sums / static_cast<double>(now.numel())).to(now.scalar_type());
  return (means.select(0, 0) / means.select(0, 1)).to(at::kDouble).item<double>();
}

bool StepCache::reuse(at::Tensor before, at::Tensor& hidden_states) {
  const auto residual = before.neg_().add_(hidden_states);
  if (decision == Decision::kOpen) {
    const bool is_close =  // not a number is not
        rest_residual.defined() && relative_change(residual, first_residual) <= threshold;
    decision = is_close ? Decision::kReuse : Decision::kCompute;
  }
  if (decision == Decision::kReuse) {
    for_row_chunks(hidden_states.size(1), kElementRows,
                   [&](std::int64_t begin, std::int64_t count) {
                     hidden_states.narrow(1, begin, count)
                         .add_(rest_residual.narrow(1, begin, count).to(hidden_states.device()));
                   });
    return true;
  }
  keep(first_residual, residual);
  keep(rest_residual, hidden_states);  // until keep_rest
  return false;
}

void StepCache::keep_rest(const at::Tensor& hidden_states) {
  for_row_chunks(hidden_states.size(1), kElementRows, [&](std::int64_t begin, std::int64_t count) {
    auto rest = rest_residual.narrow(1, begin, count);
    rest.copy_(hidden_states.narrow(1, begin, count) - rest.to(hidden_states.device()));
  });
}

}  // namespace steadyflux

// What a pass through the blocks leaves for later ones of the same picture. Where the first block
// changes the picture about as it did in the last whole pass, the others would too: what they
// changed then is taken again and they are left out. As diffusers' FirstBlockCache has it.
#pragma once

#include <ATen/core/Tensor.h>

#include <cstdint>

namespace steadyflux {

struct StepCache {
  double threshold = 0;
  // Of the last whole pass, [B, S_img, dim] in RAM: what the first block added to hidden_states,
  // and what all others added behind it. Undefined before the first pass.
  at::Tensor first_residual = {}, rest_residual = {};
  // Of the pass that is under way. Should that break off and begin anew, it stands: a whole pass
  // writes over what was there.
  enum class Decision : std::uint8_t { kOpen, kCompute, kReuse };
  Decision decision = Decision::kOpen;

  // After the first block, which made `hidden_states` of `before`; `before` is used up. True: the
  // others are left out, and hidden_states is what they would make of it.
  bool reuse(at::Tensor before, at::Tensor& hidden_states);
  // After the last block of a pass that was not reused.
  void keep_rest(const at::Tensor& hidden_states);
};

// mean |now - before| / mean |before|, [B, S, dim] each: where `now` is, and in RAM. The
// difference, the means and the quotient are rounded to their dtype, as in diffusers.
double relative_change(const at::Tensor& now, const at::Tensor& before);

}  // namespace steadyflux

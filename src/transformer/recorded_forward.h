// Passes of the transformer that a device starts as one. A pass is a thousand small operators or
// more, each of which the host asks for; where the device has graphs (CUDA has), they are recorded
// once and started all together from then on.
#pragma once

#include <ATen/core/Tensor.h>
#include <c10/core/Device.h>

#include <memory>
#include <optional>
#include <span>
#include <string>
#include <vector>

#include "transformer/flux_transformer.h"

namespace steadyflux {

class RecordedForward {
 public:
  using Input = FluxTransformer::Input;  // without a cache

  static bool is_possible(c10::Device device);

  // The transformer's weights stay where they are while this lives: a recording knows them by their
  // addresses.
  RecordedForward(const FluxTransformer& transformer, c10::Device device);
  ~RecordedForward();  // its memory goes back to libtorch
  RecordedForward(const RecordedForward&) = delete;
  RecordedForward& operator=(const RecordedForward&) = delete;

  // As FluxTransformer::forward, to the bit. The first pass with inputs of these shapes goes
  // operator by operator, and hears `after_block`; the second is recorded, and carried out as
  // recorded, like those behind it. The device keeps what a pass needs, and the inputs, until the
  // shapes change. What cannot be recorded goes operator by operator for good: see problem().
  // Throws Error{kUsage} where the device cannot go on after that.
  std::vector<at::Tensor> forward(std::span<const Input> inputs, WeightProvider& weights,
                                  const FluxTransformer::AfterBlock& after_block = {});

  // Why nothing is recorded, once that is known.
  const std::optional<std::string>& problem() const { return problem_; }

 private:
  struct Recording;

  void record(std::span<const Input> inputs, WeightProvider& weights);

  const FluxTransformer& transformer_;
  c10::Device device_;
  std::vector<std::vector<std::int64_t>> shapes_;  // of the last pass
  std::unique_ptr<Recording> recording_;
  std::optional<std::string> problem_;
};

}  // namespace steadyflux

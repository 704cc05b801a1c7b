#include "transformer/recorded_forward.h"

#include <ATen/ATen.h>
#include <ATen/DeviceAccelerator.h>
#include <ATen/accelerator/Graph.h>
#include <c10/core/StreamGuard.h>
#include <c10/core/impl/VirtualGuardImpl.h>

#include <array>

#include "steadyflux/error.h"

namespace steadyflux {
namespace {

using Input = RecordedForward::Input;

std::array<at::Tensor*, 5> tensors(Input& input) {
  return {&input.hidden_states, &input.encoder_hidden_states, &input.modulations,
          &input.image_rotary_emb.cos, &input.image_rotary_emb.sin};
}

std::vector<std::vector<std::int64_t>> shapes_of(std::span<const Input> inputs) {
  std::vector<std::vector<std::int64_t>> shapes;
  for (auto input : inputs) {
    for (const auto* tensor : tensors(input)) shapes.push_back(tensor->sizes().vec());
  }
  return shapes;
}

}  // namespace

struct RecordedForward::Recording {
  std::vector<Input> inputs;            // where the graph reads
  at::accelerator::Graph graph;         // goes before what it reads and writes
  std::vector<at::Tensor> noise_preds;  // where it writes
};

bool RecordedForward::is_possible(c10::Device device) {
  return !device.is_cpu() && at::has_graph_impl(device.type());
}

RecordedForward::RecordedForward(const FluxTransformer& transformer, c10::Device device)
    : transformer_(transformer), device_(device) {}

RecordedForward::~RecordedForward() = default;

// On a stream of its own, as CUDA wants it. Nothing is computed meanwhile.
void RecordedForward::record(std::span<const Input> inputs, WeightProvider& weights) {
  auto recording = std::make_unique<Recording>();
  for (auto input : inputs) {
    for (auto* tensor : tensors(input)) *tensor = tensor->clone();
    recording->inputs.push_back(std::move(input));
  }
  at::accelerator::synchronizeDevice(device_.index());
  at::accelerator::emptyCache();  // the recording has memory of its own for all of a pass
  const c10::impl::VirtualGuardImpl streams(device_.type());
  const c10::StreamGuard on_it(streams.getStreamFromGlobalPool(device_));
  recording->graph.capture_begin({0, 0}, at::GraphCaptureMode::ThreadLocal);
  try {
    recording->noise_preds = transformer_.forward(recording->inputs, weights);
  } catch (...) {
    try {
      recording->graph.capture_end();
    } catch (const c10::Error&) {
      // CUDA ends a capture that met something forbidden so, and libtorch's allocator with it.
      throw Error(ErrorKind::kUsage,
                  "--cuda-graphs on: a pass of this model cannot be recorded on this card; run it "
                  "without");
    }
    throw;
  }
  recording->graph.capture_end();
  recording_ = std::move(recording);
}

std::vector<at::Tensor> RecordedForward::forward(std::span<const Input> inputs,
                                                 WeightProvider& weights,
                                                 const FluxTransformer::AfterBlock& after_block) {
  if (problem_) return transformer_.forward(inputs, weights, after_block);
  if (auto shapes = shapes_of(inputs); shapes != shapes_) {
    recording_.reset();
    auto noise_preds = transformer_.forward(inputs, weights, after_block);
    shapes_ = std::move(shapes);
    return noise_preds;
  }
  if (recording_) {
    for (std::size_t i = 0; i < inputs.size(); ++i) {
      auto from = inputs[i];
      const auto sources = tensors(from), targets = tensors(recording_->inputs[i]);
      for (std::size_t t = 0; t < sources.size(); ++t) targets[t]->copy_(*sources[t]);
    }
  } else {
    try {
      record(inputs, weights);
    } catch (const c10::Error& e) {
      const std::string what = e.what_without_backtrace();
      problem_ = what.substr(0, what.find('\n'));
      return transformer_.forward(inputs, weights, after_block);
    }
  }
  recording_->graph.replay();
  std::vector<at::Tensor> noise_preds;  // the next pass writes there again
  for (const auto& noise_pred : recording_->noise_preds) noise_preds.push_back(noise_pred.clone());
  return noise_preds;
}

}  // namespace steadyflux

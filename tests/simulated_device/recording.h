// Graphs of the simulated device: kernels that are called while one is recorded are carried out
// anew when it is replayed, on the same memory. As on CUDA, whoever records may neither wait for
// the device nor copy from or to the host, and what the kernels gave while they were recorded
// means nothing: it is NaN.
#pragma once

#include <ATen/core/Tensor.h>
#include <c10/util/Exception.h>

#include <functional>
#include <string>
#include <utility>
#include <vector>

namespace steadyflux::testing {

class Recording {
 public:
  // That of this thread, or null.
  static Recording*& current() {
    static thread_local Recording* recording = nullptr;
    return recording;
  }
  static void refuse_while_recording(const std::string& what) {
    TORCH_CHECK(current() == nullptr, what, ": not permitted while a graph is recorded");
  }

  // What a kernel does with host views of its tensors; `keeps` stays allocated as long as this.
  void add(std::function<void()> kernel, const std::vector<at::Tensor>& keeps) {
    kernels_.push_back(std::move(kernel));
    kept_.insert(kept_.end(), keeps.begin(), keeps.end());
  }
  const std::vector<at::Tensor>& tensors() const { return kept_; }
  void replay() const {
    for (const auto& kernel : kernels_) kernel();
  }

 private:
  std::vector<std::function<void()>> kernels_;
  std::vector<at::Tensor> kept_;
};

}  // namespace steadyflux::testing

#include "nn/pinned_copy.h"

#include <ATen/ATen.h>
#include <ATen/DeviceAccelerator.h>

#include <algorithm>

#include "nn/convert_values.h"

namespace steadyflux {
namespace {
constexpr std::int64_t kLargestElement = 8;
}

PinnedCopier::PinnedCopier(c10::Device device, std::int64_t buffer_bytes)
    : device_(device), buffers_{Buffer(device.type()), Buffer(device.type())} {
  const auto rounded = (buffer_bytes + kLargestElement - 1) / kLargestElement * kLargestElement;
  for (auto& buffer : buffers_) {
    buffer.bytes = at::empty({std::max(rounded, kLargestElement)},
                             at::TensorOptions().dtype(at::kByte).pinned_memory(true));
  }
}

at::Tensor PinnedCopier::copy(const at::Tensor& source, at::ScalarType dtype) {
  auto result = at::empty(source.sizes(), at::TensorOptions().dtype(dtype).device(device_));
  copy_into(result, source);
  return result;
}

void PinnedCopier::copy_into(const at::Tensor& target, const at::Tensor& source) {
  const auto from = source.view(-1), to = target.view(-1);
  const auto dtype = to.scalar_type();
  const auto element = static_cast<std::int64_t>(c10::elementSize(dtype));
  const auto step = buffers_[0].bytes.numel() / element;
  for (std::int64_t begin = 0; begin < from.numel(); begin += step) {
    const auto count = std::min(step, from.numel() - begin);
    auto& buffer = buffers_[next_];
    next_ = 1 - next_;
    if (buffer.copied.was_marked_for_recording()) buffer.copied.synchronize();
    auto staged = buffer.bytes.narrow(0, 0, count * element).view(dtype);
    convert_values(from.narrow(0, begin, count), staged);
    to.narrow(0, begin, count).copy_(staged, /*non_blocking=*/true);
    buffer.copied.record(at::accelerator::getCurrentStream(device_.index()));
  }
}

}  // namespace steadyflux

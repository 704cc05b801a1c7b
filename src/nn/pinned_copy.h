// Weights from mapped files to an accelerator. Two pinned buffers take turns: while the device
// copies from one, the host fills the other, which reads the file and converts the dtype in the
// same pass. Pinned memory stays at twice the buffer size, however large the model is.
#pragma once

#include <ATen/core/Tensor.h>
#include <c10/core/Device.h>
#include <c10/core/Event.h>

#include <array>
#include <cstdint>

#include "config/transfer_sizes.h"

namespace steadyflux {

class PinnedCopier {
 public:
  // `device` is no CPU. A smaller buffer will do if all tensors are smaller.
  explicit PinnedCopier(c10::Device device, std::int64_t buffer_bytes = kPinnedBufferBytes);

  // `source` (contiguous, on the CPU) as a tensor of `dtype` on the device. Returns before the copy
  // has ended; work queued behind it on the device's current stream sees the values.
  at::Tensor copy(const at::Tensor& source, at::ScalarType dtype);
  // The same into a contiguous tensor of the device, of any dtype, with as many elements.
  void copy_into(const at::Tensor& to, const at::Tensor& source);

 private:
  struct Buffer {
    explicit Buffer(c10::DeviceType type) : copied(type) {}
    at::Tensor bytes;
    c10::Event copied;  // the device is done with what was in the buffer
  };

  c10::Device device_;
  std::array<Buffer, kPinnedBuffers> buffers_;
  std::size_t next_ = 0;
};

}  // namespace steadyflux

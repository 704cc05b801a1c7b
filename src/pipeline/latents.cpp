#include "pipeline/latents.h"

#include <ATen/ATen.h>
#include <ATen/CPUGeneratorImpl.h>

namespace steadyflux {

at::Tensor pack_latents(const at::Tensor& latents) {
  const auto b = latents.size(0), c = latents.size(1), h = latents.size(2), w = latents.size(3);
  return latents.view({b, c, h / 2, 2, w / 2, 2})
      .permute({0, 2, 4, 1, 3, 5})
      .reshape({b, (h / 2) * (w / 2), c * 4});
}

at::Tensor unpack_latents(const at::Tensor& packed, std::int64_t height, std::int64_t width) {
  const auto b = packed.size(0), channels = packed.size(2) / 4;
  return packed.view({b, height / 2, width / 2, channels, 2, 2})
      .permute({0, 3, 1, 4, 2, 5})
      .reshape({b, channels, height, width});
}

at::Tensor scale_noise(const at::Tensor& image, float sigma, const at::Tensor& noise) {
  const auto level = at::full({1}, sigma, image.options());
  return level * noise + (1.0 - level) * image;
}

at::Tensor prepare_latents(std::int64_t channels, std::int64_t height, std::int64_t width,
                           std::uint64_t seed, at::ScalarType dtype) {
  auto generator = at::make_generator<at::CPUGeneratorImpl>(seed);
  return pack_latents(at::randn({1, channels, height, width}, generator,
                                at::TensorOptions().dtype(dtype).device(at::kCPU)));
}

}  // namespace steadyflux

// Weights to the device through two pinned buffers that take turns: right values when a tensor
// needs many turns, while the device copies late, and no more pinned memory than the two buffers.
#include "nn/pinned_copy.h"

#include <ATen/ATen.h>
#include <c10/core/InferenceMode.h>
#include <gtest/gtest.h>

#include "simulated_device/simulated_device.h"

namespace steadyflux {
namespace {

using testing::pinned_bytes_in_use;
using testing::simulated_device;

TEST(PinnedCopy, ManyTensorsThroughSmallBuffers) {
  const c10::InferenceMode inference_mode;
  PinnedCopier copier(simulated_device(), 64);
  EXPECT_EQ(pinned_bytes_in_use(), 128);
  std::vector<at::Tensor> sources, copies;
  // Below, at and above the buffer's 16 floats, several turns with a rest, and none at all.
  for (const std::int64_t count : {1, 15, 16, 17, 32, 100, 0, 3, 257}) {
    sources.push_back(at::randn({count, 1}));
    copies.push_back(copier.copy(sources.back(), at::kFloat));
    EXPECT_EQ(pinned_bytes_in_use(), 128);
  }
  for (std::size_t i = 0; i < sources.size(); ++i) {
    EXPECT_EQ(copies[i].device(), simulated_device());
    EXPECT_TRUE(at::equal(copies[i].cpu(), sources[i])) << i;
  }
}

TEST(PinnedCopy, ConvertsOnTheWay) {
  const c10::InferenceMode inference_mode;
  PinnedCopier copier(simulated_device(), 50);  // not a multiple of an element
  const auto source = at::randn({7, 9});
  for (const auto dtype : {at::kBFloat16, at::kHalf, at::kFloat, at::kDouble}) {
    const auto copy = copier.copy(source, dtype);
    EXPECT_EQ(copy.scalar_type(), dtype);
    EXPECT_TRUE(at::equal(copy.cpu(), source.to(dtype)));
    const auto back = copier.copy(source.to(dtype), at::kFloat);
    EXPECT_TRUE(at::equal(back.cpu(), source.to(dtype).to(at::kFloat)));
  }
}

TEST(PinnedCopy, GivesItsBuffersBack) {
  const c10::InferenceMode inference_mode;
  const auto source = at::randn({40});
  at::Tensor copy;
  {
    PinnedCopier copier(simulated_device(), 64);
    copy = copier.copy(source, at::kFloat);
  }
  EXPECT_TRUE(at::equal(copy.cpu(), source));
  EXPECT_EQ(pinned_bytes_in_use(), 0);
}

}  // namespace
}  // namespace steadyflux

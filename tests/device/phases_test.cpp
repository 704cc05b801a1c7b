// The phases on an accelerator that is not the CPU: no tensor is left on the wrong side, the
// results are those of the CPU, and what a phase allocated is gone when it returns.
#include <gtest/gtest.h>

#include <algorithm>
#include <cstdlib>
#include <tuple>

#include "device/run_phases.h"
#include "golden_file.h"

namespace steadyflux {
namespace {

using testing::device_bytes;
using testing::expect_close;
using testing::golden_model;
using testing::kRuns;
using testing::PhaseResults;
using testing::run_phases;
using testing::simulated_device;
using testing::small_request;

class PhasesOnDevice : public ::testing::TestWithParam<const char*> {};

// The simulated device runs the CPU's kernels, so almost all is equal to the bit. Attention is not:
// there libtorch takes its plain path (softmax of the whole score matrix) instead of the CPU's
// blocked kernel, and sums are rounded in another order. That is what the tolerances of
// golden_file.h are made for; the later phases go on from the differences of the earlier, so they
// get twice that per denoising step and once more for the decoder.
TEST_P(PhasesOnDevice, GiveWhatTheCpuGives) {
  const auto model = golden_model(GetParam());
  const auto request = small_request();
  const auto steps = static_cast<double>(request.num_inference_steps);
  for (const auto& run : kRuns) {
    PromptEmbeddings expected_embeds;
    const auto expected = run_phases(model, c10::Device(c10::kCPU), run.dtype, {request},
                                     [&](const char* phase, const PhaseResults& results) {
                                       if (std::string(phase) == "encode")
                                         expected_embeds = results.embeddings.front();
                                     });
    const auto found =
        run_phases(model, simulated_device(), run.dtype, {request},
                   [&](const char* phase, const PhaseResults& results) {
                     if (std::string(phase) != "encode") return;
                     const auto& embeds = results.embeddings.front();
                     EXPECT_TRUE(embeds.prompt_embeds.device().is_cpu());  // they wait in RAM
                     EXPECT_TRUE(embeds.pooled_prompt_embeds.device().is_cpu());
                     expect_close(run.name + " prompt_embeds", embeds.prompt_embeds,
                                  expected_embeds.prompt_embeds, run.tolerance);
                     expect_close(run.name + " pooled_prompt_embeds", embeds.pooled_prompt_embeds,
                                  expected_embeds.pooled_prompt_embeds, run.tolerance);
                   });

    const auto &latents = found.denoising.latents, &expected_latents = expected.denoising.latents;
    ASSERT_EQ(latents.size(), expected_latents.size());
    for (std::size_t i = 0; i < latents.size(); ++i) {
      EXPECT_TRUE(latents[i].device().is_cpu());
      expect_close(run.name + " latents", latents[i], expected_latents[i],
                   2 * steps * run.tolerance);
    }

    ASSERT_EQ(found.images.size(), expected.images.size());
    for (std::size_t i = 0; i < found.images.size(); ++i) {
      const auto& a = found.images[i].rgb;
      const auto& b = expected.images[i].rgb;
      ASSERT_EQ(a.size(), b.size());
      int largest = 0;
      double sum = 0;
      for (std::size_t j = 0; j < a.size(); ++j) {
        const int difference = std::abs(int{a[j]} - int{b[j]});
        largest = std::max(largest, difference);
        sum += difference;
      }
      const double mean = sum / static_cast<double>(a.size());
      std::cout << run.name << " picture " << i << ": largest difference " << largest << ", mean "
                << mean << " of 255\n";
      // What the project promises between two correct programs: see pipeline_golden_test.cpp.
      if (run.dtype == at::kFloat) {
        EXPECT_LE(largest, 2);
      }
      EXPECT_LE(mean, run.dtype == at::kFloat ? 0.05 : 3.0);
    }
  }
}

TEST_P(PhasesOnDevice, LeaveNothingOnTheDevice) {
  const auto model = golden_model(GetParam());
  ASSERT_EQ(device_bytes(), 0);
  std::vector<std::string> phases;
  run_phases(model, simulated_device(), at::kBFloat16, {small_request()},
             [&](const char* phase, const PhaseResults&) {
               phases.emplace_back(phase);
               EXPECT_EQ(device_bytes(), 0) << "after " << phase;  // results wait in RAM
               EXPECT_EQ(testing::pinned_bytes_in_use(), 0) << "after " << phase;
             });
  EXPECT_EQ(phases, (std::vector<std::string>{"encode", "modulate", "denoise", "decode"}));
}

INSTANTIATE_TEST_SUITE_P(Goldens, PhasesOnDevice, ::testing::Values("a", "b"));

}  // namespace
}  // namespace steadyflux

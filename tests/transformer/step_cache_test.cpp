// Passes that leave blocks out: when they do, what they give, and that one which breaks off can
// begin anew. That pictures are those of diffusers, tests/cli/step_cache_cases.py says.
#include "transformer/step_cache.h"

#include <c10/core/InferenceMode.h>

#include <limits>

#include "golden_file.h"
#include "transformer/flux_transformer.h"

namespace steadyflux {
namespace {

using testing::Goldens;
using Decision = StepCache::Decision;

TEST(RelativeChange, IsThatOfTheMeans) {
  const auto before = at::tensor({1.0f, -2.0f, 3.0f, -2.0f}).view({1, 2, 2});
  const auto now = at::tensor({1.0f, -1.0f, 4.0f, 0.0f}).view({1, 2, 2});
  EXPECT_EQ(relative_change(now, before), 0.5);
  EXPECT_EQ(relative_change(before, before), 0.0);
  EXPECT_EQ(relative_change(now, at::zeros({1, 2, 2})), std::numeric_limits<double>::infinity());
  // Rounded as bf16 has it: 0.1 / 1 is 0.10009765625 there.
  const auto ones = at::ones({1, 1, 4}, at::kBFloat16);
  EXPECT_EQ(relative_change(ones + 0.125, ones), 0.125);
  const auto tenth = at::full({1, 1, 4}, 0.1, at::kBFloat16);
  EXPECT_EQ(relative_change(at::zeros({1, 1, 4}, at::kBFloat16) + tenth, ones), 0.8984375);
}

// More rows than are compared at once.
TEST(RelativeChange, OfManyRows) {
  const auto before = at::ones({1, 1300, 8});
  auto now = before.clone();
  now.select(1, 1299).fill_(1301);
  EXPECT_FLOAT_EQ(static_cast<float>(relative_change(now, before)), 1.0f);
}

TEST(StepCache, NumbersThatAreNoneAreComputed) {
  StepCache cache{1.0};
  auto hidden_states = at::ones({1, 2, 4});
  EXPECT_FALSE(cache.reuse(at::ones({1, 2, 4}), hidden_states));  // the first block changed nothing
  cache.keep_rest(hidden_states);
  cache.decision = Decision::kOpen;
  EXPECT_FALSE(cache.reuse(at::ones({1, 2, 4}), hidden_states));  // 0 / 0
}

// Counts leases; breaks off at one of them.
class CountedWeights final : public WeightProvider {
 public:
  std::int64_t leases = 0, ended = 0;
  std::int64_t fail_at = -1;

  void end_pass() override { ++ended; }

 private:
  void bind(std::size_t unit) override {
    if (static_cast<std::int64_t>(unit) == fail_at) throw std::bad_alloc();
    ++leases;
  }
  void release(std::size_t) noexcept override {}
};

class StepCacheForward : public ::testing::TestWithParam<const char*> {
 protected:
  StepCacheForward()
      : model_(read_flux_transformer_config(goldens_.model() / "transformer" / "config.json")) {
    LoadOptions options;
    options.dtype = at::kFloat;
    load_slots(Checkpoint::open(goldens_.model() / "transformer"), model_.slots(), options);
    const auto prompt = goldens_.tensor("fp32.prompt_embeds");
    const auto guidance = model_.config.guidance_embeds ? at::full({1}, 3.5) : at::Tensor();
    input_ = {goldens_.tensor("fp32.noise"), prompt,
              model_.modulations(at::full({1}, 0.5), guidance,
                                 goldens_.tensor("fp32.pooled_prompt_embeds")),
              make_rotary_embedding(
                  make_position_ids(prompt.size(1), {1, goldens_.tensor("fp32.noise").size(1)}),
                  model_.config.axes_dims_rope)};
    units_ = static_cast<std::int64_t>(model_.units().size());
  }

  // The picture a step later.
  FluxTransformer::Input later(double change) const {
    auto input = input_;
    input.hidden_states = input.hidden_states + change * input.hidden_states.flip({1, 2});
    return input;
  }
  at::Tensor plain(const FluxTransformer::Input& input) const { return model_.forward(input); }
  std::vector<at::Tensor> run(std::vector<FluxTransformer::Input> inputs,
                              std::vector<StepCache>& caches) {
    for (std::size_t i = 0; i < inputs.size(); ++i) inputs[i].cache = &caches[i];
    return model_.forward(inputs, weights_);
  }
  static void next_step(std::vector<StepCache>& caches) {
    for (auto& cache : caches) cache.decision = Decision::kOpen;
  }

  const c10::InferenceMode inference_mode_;
  const Goldens goldens_{GetParam()};
  FluxTransformer model_;
  FluxTransformer::Input input_;
  CountedWeights weights_;
  std::int64_t units_ = 0;
};

TEST_P(StepCacheForward, LeavesOutWhatWouldChangeLittle) {
  std::vector<StepCache> caches(1, StepCache{0.1});
  const auto first = run({input_}, caches)[0];
  EXPECT_TRUE(at::equal(first, plain(input_)));
  EXPECT_EQ(caches[0].decision, Decision::kCompute);
  EXPECT_EQ(weights_.leases, units_);
  next_step(caches);
  const auto second = run({later(0.001)}, caches)[0];
  EXPECT_EQ(caches[0].decision, Decision::kReuse);
  EXPECT_EQ(weights_.leases, units_ + 3);  // of a double block
  EXPECT_EQ(weights_.ended, 1);
  const auto whole = plain(later(0.001));
  EXPECT_FALSE(at::equal(second, whole));
  const auto off = [&](const at::Tensor& t) { return (t - whole).abs().max().item<float>(); };
  EXPECT_LT(off(second), off(first));  // the first block saw the change
  next_step(caches);
  const auto third = run({later(1)}, caches)[0];
  EXPECT_EQ(caches[0].decision, Decision::kCompute);
  EXPECT_TRUE(at::equal(third, plain(later(1))));
}

// Compared is with the last whole pass: what reused ones differ by adds up.
TEST_P(StepCacheForward, SmallChangesAddUp) {
  std::vector<StepCache> caches(1, StepCache{0.05});
  std::vector<Decision> decisions;
  for (int step = 0; step < 12; ++step) {
    next_step(caches);
    run({later(0.02 * step)}, caches);
    decisions.push_back(caches[0].decision);
  }
  EXPECT_EQ(decisions[1], Decision::kReuse);
  EXPECT_GT(std::count(decisions.begin() + 1, decisions.end(), Decision::kCompute), 0);
}

TEST_P(StepCacheForward, PicturesOfAGroupDecideAlone) {
  std::vector<StepCache> together(2, StepCache{0.1}), alone(1, StepCache{0.1});
  run({input_, input_}, together);
  run({input_}, alone);
  next_step(together);
  next_step(alone);
  weights_ = {};
  const auto found = run({later(0.001), later(1)}, together);
  EXPECT_EQ(together[0].decision, Decision::kReuse);
  EXPECT_EQ(together[1].decision, Decision::kCompute);
  EXPECT_EQ(weights_.leases, units_);
  EXPECT_EQ(weights_.ended, 0);
  EXPECT_TRUE(at::equal(found[0], run({later(0.001)}, alone)[0]));
  EXPECT_TRUE(at::equal(found[1], plain(later(1))));
}

// The step that breaks off is made again, with the decision and the result that it would have had.
TEST_P(StepCacheForward, APassThatBreaksOffBeginsAnew) {
  for (const double change : {0.001, 1.0}) {
    std::vector<StepCache> expected(1, StepCache{0.1});
    run({input_}, expected);
    next_step(expected);
    const auto whole = run({later(change)}, expected)[0];
    next_step(expected);
    const auto after = run({later(change + 0.001)}, expected)[0];
    for (std::int64_t unit = 0; unit < units_; ++unit) {
      std::vector<StepCache> caches(1, StepCache{0.1});
      run({input_}, caches);
      next_step(caches);
      weights_.fail_at = unit;
      const bool is_reached = change == 1.0 || unit < 3;
      if (is_reached) {
        EXPECT_THROW(run({later(change)}, caches), std::bad_alloc);
      }
      weights_.fail_at = -1;
      EXPECT_TRUE(at::equal(run({later(change)}, caches)[0], whole)) << change << ", " << unit;
      next_step(caches);
      EXPECT_TRUE(at::equal(run({later(change + 0.001)}, caches)[0], after)) << unit;
    }
  }
}

INSTANTIATE_TEST_SUITE_P(Goldens, StepCacheForward, ::testing::Values("a", "b"));

}  // namespace
}  // namespace steadyflux

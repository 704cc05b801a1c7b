// How the VAE is cut into bands, and by how many threads it is computed, changes no bit where it
// must not; its GroupNorm and its halos are exact.
#include <ATen/ATen.h>
#include <ATen/Parallel.h>
#include <c10/core/InferenceMode.h>
#include <gtest/gtest.h>

#include <cmath>

#include "config/vae_bands.h"
#include "vae/autoencoder_kl.h"

namespace steadyflux {
namespace {

constexpr std::int64_t kWhole = std::int64_t{1} << 40;

AutoencoderKlConfig narrow_config() {
  AutoencoderKlConfig config;
  config.block_out_channels = {8, 16, 32, 32};
  config.norm_num_groups = 4;
  config.use_quant_conv = true;
  config.use_post_quant_conv = true;
  return config;
}

void fill_randomly(const std::vector<TensorSlot>& slots, at::ScalarType dtype) {
  at::manual_seed(3);
  for (const auto& slot : slots) {
    auto values = at::randn(slot.shape) * 0.3;
    if (slot.shape.size() > 1) values /= std::sqrt(static_cast<double>(values[0].numel())) * 0.3;
    *slot.tensor = values.to(dtype);
  }
}

TEST(VaeBands, UnitsAndBandsCoverEveryRow) {
  for (std::int64_t width = 1; width < 20000; width = width * 3 / 2 + 1) {
    for (std::int64_t height = 1; height < 20000; height = height * 3 / 2 + 1) {
      const auto unit = vae_unit_rows(height, width, false);
      ASSERT_GE(unit, 2);  // a window hands two rows on
      ASSERT_EQ(unit % 2, 0);
      // No more than asked for, but for what makes it even.
      ASSERT_LE((unit - 2) * width, kVaeUnitPositions) << height << " x " << width;
      ASSERT_GE(vae_unit_rows(height, width, true), unit);
      for (std::int64_t bytes = 1; bytes < kWhole; bytes *= 64) {
        const auto band = vae_band_rows(height, unit, width, bytes);
        ASSERT_TRUE(band == height || (band % unit == 0 && band < height && band > 0));
        ASSERT_TRUE(band * width <= bytes || band <= unit);
      }
    }
  }
}

class VaeBandsOf : public ::testing::TestWithParam<at::ScalarType> {
 protected:
  VaeBandsOf() { at::set_num_threads(1); }  // many small operations: threads would be in the way
  ~VaeBandsOf() override { at::set_num_threads(threads_); }

  const int threads_ = at::get_num_threads();
  const c10::InferenceMode inference_mode_;
};

// So wide that the levels have from one unit to nine.
TEST_P(VaeBandsOf, DecodeToTheSameBits) {
  AutoencoderKlDecoder decoder(narrow_config());
  fill_randomly(decoder.slots(), GetParam());
  const auto latents = at::randn({2, 16, 2, 1030}).to(GetParam());
  std::int64_t stages = 0;
  const auto expected =
      decoder.decode(latents, {.band_bytes = kWhole}, [&](std::int64_t done) { stages = done; });
  EXPECT_EQ(stages, 2 * decoder.num_stages());
  ASSERT_TRUE(at::isfinite(expected).all().item<bool>());
  EXPECT_GT(expected.to(at::kFloat).std().item<double>(), 0.1);
  for (const std::int64_t band_bytes : {std::int64_t{1}, std::int64_t{1} << 20}) {
    EXPECT_TRUE(at::equal(decoder.decode(latents, {.band_bytes = band_bytes}), expected));
  }
  const auto second = decoder.decode(latents.narrow(0, 1, 1), {.band_bytes = kWhole});
  EXPECT_TRUE(at::equal(second, expected.narrow(0, 1, 1)));
}

TEST_P(VaeBandsOf, EncodeToTheSameBits) {
  AutoencoderKlEncoder encoder(narrow_config());
  fill_randomly(encoder.slots(), GetParam());
  const auto picture = at::randn({1, 3, 16, 8192}).to(GetParam());
  const auto expected = encoder.encode(picture, {.band_bytes = kWhole});
  EXPECT_EQ(expected.sizes(), (at::IntArrayRef{1, 32, 2, 1024}));
  for (const std::int64_t band_bytes : {std::int64_t{1}, std::int64_t{1} << 20}) {
    EXPECT_TRUE(at::equal(encoder.encode(picture, {.band_bytes = band_bytes}), expected));
  }
}

// Against libtorch's own operators on the whole picture. Values are rounded at the same places, but
// sums are taken in another order. In 16 bits that shows as the last place of what is rounded, 2
// ulps of the largest; in fp32 as what rounding in a sum of 108 products comes to, whichever way
// the processor's vectors cut it: its square root.
TEST_P(VaeBandsOf, EveryLayerIsExact) {
  const double ulp = GetParam() == at::kFloat ? 1.2e-7 : 1.0 / 256;
  const auto close = [&](const at::Tensor& found, const at::Tensor& expected) {
    const auto difference = (found.to(at::kDouble) - expected.to(at::kDouble)).abs().max();
    return difference.item<double>() <= (GetParam() == at::kFloat ? 10 : 2) * ulp *
                                            expected.abs().max().to(at::kDouble).item<double>();
  };
  at::manual_seed(5);
  const std::int64_t height = 23, width = 1500, channels = 12, groups = 3;
  const auto x = (at::randn({1, channels, height, width}) * 2 + 1).to(GetParam());
  GroupNorm norm{at::randn({channels}).to(GetParam()), at::randn({channels}).to(GetParam())};
  Conv2d conv{(at::randn({8, channels, 3, 3}) / 10).to(GetParam()), at::randn({8}).to(GetParam())};
  for (const std::int64_t band_bytes : {std::int64_t{1}, kWhole}) {
    const RowBands bands({.band_bytes = band_bytes}, x.device(), GetParam(), groups);
    auto plane = bands.plane(height, width, channels);
    bands.put(plane, 0, picture_to_rows(bands, x[0]));
    const auto factors = plane.moments.finish(norm, kVaeNormEps);

    const auto run = [&](std::int64_t h, std::int64_t w, const auto& convolve) {
      const auto out = bands.empty({h, w, 8});
      convolve([&](std::int64_t first, const at::Tensor& y) {
        out.narrow(0, first, y.size(0)).copy_(y);
      });
      return rows_to_pictures(out.unsqueeze(0));
    };
    const auto plain = [&](const at::Tensor& in) {
      return at::conv2d(in, conv.weight, conv.bias, at::IntArrayRef{1}, at::IntArrayRef{1});
    };
    const auto normed = at::silu(at::group_norm(x, groups, norm.weight, norm.bias, kVaeNormEps));
    EXPECT_TRUE(
        close(run(height, width,
                  [&](const auto& take) { bands.convolve(conv, plane.rows, factors, take); }),
              plain(normed)));
    EXPECT_TRUE(
        close(run(2 * height, 2 * width,
                  [&](const auto& take) { bands.convolve_upsampled(conv, plane.rows, take); }),
              plain(at::upsample_nearest2d(x, {2 * height, 2 * width}))));
    EXPECT_TRUE(
        close(run(height / 2, width / 2,
                  [&](const auto& take) { bands.convolve_downsampled(conv, plane.rows, take); }),
              at::conv2d(at::constant_pad_nd(x, {0, 1, 0, 1}), conv.weight, conv.bias,
                         at::IntArrayRef{2})));
  }
}

// Rows are summed each by one thread, and together in their order.
TEST_P(VaeBandsOf, NormDoesNotDependOnThreadsOrOnHowRowsCame) {
  at::manual_seed(6);
  const std::int64_t height = 37, width = 53, channels = 12;
  const auto x = at::randn({height, width, channels}).to(GetParam());
  GroupNorm norm{at::randn({channels}).to(GetParam()), at::randn({channels}).to(GetParam())};
  at::Tensor expected;
  for (const int n : {1, 2, 3}) {
    at::set_num_threads(n);
    for (const std::int64_t step : {height, std::int64_t{5}}) {
      const RowBands bands({}, x.device(), GetParam(), 3);
      auto plane = bands.plane(height, width, channels);
      for (std::int64_t first = 0; first < height; first += step) {
        bands.put(plane, first, x.narrow(0, first, std::min(step, height - first)));
      }
      const auto found = at::empty_like(x);
      normalise_rows(plane.rows, plane.moments.finish(norm, kVaeNormEps), /*silu=*/true, found);
      if (!expected.defined()) expected = found;
      EXPECT_TRUE(at::equal(found, expected)) << n << " threads, " << step << " rows at once";
    }
  }
}

// The statistics see NaN, and so does every pixel; nothing turns it into a number.
TEST_P(VaeBandsOf, NanSpreads) {
  AutoencoderKlDecoder decoder(narrow_config());
  fill_randomly(decoder.slots(), GetParam());
  auto latents = at::randn({1, 16, 4, 4}).to(GetParam());
  latents[0][3][2][1].fill_(std::nan(""));
  EXPECT_TRUE(decoder.decode(latents).isnan().all().item<bool>());
}

INSTANTIATE_TEST_SUITE_P(Dtypes, VaeBandsOf,
                         ::testing::Values(at::kFloat, at::kBFloat16, at::kHalf),
                         [](const auto& param) { return std::string(c10::toString(param.param)); });

// Rows are converted in steps; this picture has more than one.
TEST(ToRgb8, RoundsEveryRowOfEveryPicture) {
  const auto picture = at::rand({2, 3, 300, 500}) * 2.4 - 1.2;
  const auto expected =
      ((picture * 0.5 + 0.5).clamp(0, 1) * 255).round().to(at::kByte).permute({0, 2, 3, 1});
  EXPECT_TRUE(at::equal(to_rgb8(picture), expected));
}

}  // namespace
}  // namespace steadyflux

// The VAE's footprint with FLUX.1's real configuration: what it must be, and how it moves. That it
// is what decoding and encoding take is measured in tests/device/vae_bands_test.cpp.
#include "memory/vae_footprint.h"

#include <gtest/gtest.h>

#include "memory/plan.h"

namespace steadyflux {
namespace {

constexpr std::int64_t kMiB = std::int64_t{1} << 20;
constexpr std::int64_t kWhole = std::int64_t{1} << 40;
const AutoencoderKlConfig kFlux;

TEST(VaeFootprint, OfFluxAt1024Pixels) {
  EXPECT_EQ(vae_decoder_weight_bytes(kFlux, 2), 2 * 49545475);  // the checkpoint's parameters
  EXPECT_EQ(vae_smallest_band_bytes(kFlux, 2), 2 * kMiB);
  const auto smallest = vae_smallest_band_bytes(kFlux, 2);

  // Resnet 0 of the last block: its input of 256 channels, 128 that become its output, the picture;
  // a window of 8 rows and 2, and 8 rows of its convolution.
  const std::int64_t planes = (256 + 128 + 3) * 1024 * 1024 * 2;
  const auto host = vae_decode_footprint(kFlux, 128, 128, 2, smallest, false, false);
  EXPECT_EQ(host.device_peak, 0);
  EXPECT_EQ(host.host_peak, planes + (10 * 256 + 8 * 128) * 1024 * 2);
  EXPECT_EQ(host.band_rows, 8);
  EXPECT_TRUE(host.tiled);

  const auto parked = vae_decode_footprint(kFlux, 128, 128, 2, smallest, true, true);
  EXPECT_EQ(parked.host_peak, planes);
  EXPECT_LT(parked.device_peak, 100 * kMiB);

  const auto whole = vae_decode_footprint(kFlux, 128, 128, 2, kWhole, true, false);
  EXPECT_EQ(whole.band_rows, 1024);
  EXPECT_FALSE(whole.tiled);
  EXPECT_GT(whole.device_peak, planes + 512 * kMiB);
}

// of(band_bytes, park_on_host), on a device.
template <typename Of>
void expect_smaller_take_no_more(std::int64_t smallest, Of of) {
  std::int64_t last = 0, last_parked = 0;
  for (auto bytes = smallest; bytes < kWhole; bytes *= 4) {
    const VaeFootprint device = of(bytes, false), parked = of(bytes, true);
    EXPECT_GE(device.device_peak, last);
    EXPECT_GE(parked.device_peak, last_parked);
    EXPECT_GE(device.device_peak, parked.device_peak);
    EXPECT_GE(device.device_peak, parked.host_peak);
    EXPECT_EQ(device.host_peak, 0);
    last = device.device_peak;
    last_parked = parked.device_peak;
  }
}

TEST(VaeFootprint, SmallerBandsAndParkingNeverTakeMore) {
  for (const std::int64_t element_size : {2, 4}) {
    for (std::int64_t h = 2; h <= 256; h = 2 * h + 6) {
      for (std::int64_t w = 2; w <= 256; w = 2 * w + 6) {
        const auto smallest = vae_smallest_band_bytes(kFlux, element_size);
        const auto of = [&](std::int64_t bytes, bool park) {
          return vae_decode_footprint(kFlux, h, w, element_size, bytes, true, park);
        };
        EXPECT_EQ(of(1, false).device_peak, of(smallest, false).device_peak);
        EXPECT_EQ(of(1, true).device_peak, of(smallest, true).device_peak);
        expect_smaller_take_no_more(smallest, of);
      }
    }
  }
}

TEST(VaeFootprint, OfFluxEncoding1024Pixels) {
  EXPECT_EQ(vae_encoder_weight_bytes(kFlux, 2), 2 * 34274208);  // the checkpoint's parameters
  const auto smallest = vae_smallest_band_bytes(kFlux, 2);
  // The first resnet: its input and h, of 128 channels each; a window of 32 rows and 2, 16 rows of
  // its convolution. The picture and the moments wait all the while.
  const std::int64_t planes = (128 + 128) * 1024 * 1024 * 2;
  const std::int64_t waiting = (3 * 1024 * 1024 + 32 * 128 * 128) * 2;
  const auto host = vae_encode_footprint(kFlux, 1024, 1024, 2, smallest, false, false);
  EXPECT_EQ(host.device_peak, 0);
  EXPECT_GE(host.host_peak, planes + waiting);
  EXPECT_LT(host.host_peak, planes + waiting + 40 * kMiB);
  EXPECT_TRUE(host.tiled);

  const auto parked = vae_encode_footprint(kFlux, 1024, 1024, 2, smallest, true, true);
  EXPECT_EQ(parked.host_peak, planes);
  EXPECT_LT(parked.device_peak, 110 * kMiB);

  const auto whole = vae_encode_footprint(kFlux, 1024, 1024, 2, kWhole, true, false);
  EXPECT_FALSE(whole.tiled);
  EXPECT_EQ(whole.host_peak, 0);
  EXPECT_GT(whole.device_peak, planes + waiting + 256 * kMiB);
}

TEST(VaeFootprint, EncodingInSmallerBandsAndParkingNeverTakeMore) {
  for (const std::int64_t element_size : {2, 4}) {
    for (std::int64_t height = 16; height <= 2048; height = 2 * height + 48) {
      for (std::int64_t width = 16; width <= 2048; width = 2 * width + 48) {
        expect_smaller_take_no_more(
            vae_smallest_band_bytes(kFlux, element_size), [&](std::int64_t bytes, bool park) {
              return vae_encode_footprint(kFlux, height, width, element_size, bytes, true, park);
            });
      }
    }
  }
}

Plan plan_with_picture(bool has_device, std::int64_t load_bytes) {
  Workload work;
  work.width = work.height = 512;
  work.num_init_images = load_bytes > 0 ? 1 : 0;
  work.image_load_bytes = load_bytes;
  const std::int64_t plenty = std::int64_t{1} << 42;
  return make_plan(FluxModel{}, work,
                   {.has_device = has_device, .vram = has_device ? plenty : 0, .ram = plenty});
}

TEST(PlanOfAPicture, HasAPhaseToEncodeIt) {
  for (const bool has_device : {false, true}) {
    const auto plan = plan_with_picture(has_device, 1);
    ASSERT_EQ(plan.phases.size(), plan_with_picture(has_device, 0).phases.size() + 1);
    EXPECT_EQ(plan.phases[1].name, "encode_image");
    EXPECT_GE(has_device ? plan.phases[1].device_peak_bytes : plan.phases[1].ram_peak_bytes,
              vae_encoder_weight_bytes(kFlux, 2));
  }
}

// A large file is read before the encoder begins: the larger of the two counts.
TEST(PlanOfAPicture, KnowsWhatReadingItTakes) {
  for (const bool has_device : {false, true}) {
    const auto small = plan_with_picture(has_device, 1).phase("encode_image");
    const auto large = plan_with_picture(has_device, std::int64_t{4} << 30).phase("encode_image");
    EXPECT_EQ(large.device_peak_bytes, small.device_peak_bytes);
    EXPECT_GT(large.ram_peak_bytes, std::int64_t{4} << 30);
    if (has_device) continue;
    EXPECT_LT(large.ram_peak_bytes, small.ram_peak_bytes + (std::int64_t{4} << 30));
  }
}

// The device's share in the leanest mode is bounded: it does not grow with the picture, but for the
// attention's keys and values and lines that are very long.
TEST(VaeFootprint, ParkedBandsAreBounded) {
  const auto at = [](std::int64_t side) {
    return vae_decode_footprint(kFlux, side, side, 2, 1, true, true).device_peak;
  };
  EXPECT_LT(at(64), 110 * kMiB);
  EXPECT_LT(at(256), 200 * kMiB);
  EXPECT_LE(at(256) - at(128), 110 * kMiB);
}

}  // namespace
}  // namespace steadyflux

// What the planner thinks a model is made of is what the model says of itself: unit by unit, in the
// same order, of the same bytes.
#include "memory/footprint.h"

#include <gtest/gtest.h>

#include <filesystem>

#include "checkpoints/open_model.h"
#include "image_encoder/redux_image_encoder.h"
#include "image_encoder/siglip_vision_model.h"
#include "memory/vae_footprint.h"
#include "nn/load.h"
#include "text_encoder/clip_text_model.h"
#include "text_encoder/t5_encoder.h"
#include "transformer/flux_transformer.h"
#include "vae/autoencoder_kl.h"

namespace steadyflux {
namespace {

std::int64_t bytes_in_buffer(const std::vector<TensorSlot>& slots, at::ScalarType dtype) {
  std::int64_t bytes = 0;
  for (const auto& slot : slots) {
    if (slot.host_table) continue;
    const auto size = slot_bytes({slot}, slot_dtype(slot, dtype));
    bytes += (size + 511) / 512 * 512;
  }
  return bytes;
}

void expect_same(const WeightsFootprint& footprint, const std::vector<TensorSlot>& fixed,
                 const std::vector<WeightUnit>& units, at::ScalarType dtype, std::int64_t stored) {
  EXPECT_EQ(footprint.fixed_bytes, bytes_in_buffer(fixed, dtype)) << footprint.component;
  ASSERT_EQ(footprint.units.size(), units.size()) << footprint.component;
  for (std::size_t i = 0; i < units.size(); ++i) {
    EXPECT_EQ(footprint.units[i].name, units[i].name);
    EXPECT_EQ(footprint.units[i].bytes, bytes_in_buffer(units[i].slots, dtype)) << units[i].name;
    EXPECT_EQ(footprint.units[i].file_bytes,
              slot_bytes(units[i].slots, stored == 4 ? at::kFloat : at::kHalf))
        << units[i].name;
  }
}

void expect_same_everywhere(const FluxModel& model, const std::string& dtype_name,
                            at::ScalarType dtype, std::int64_t stored_size) {
  const StoredWeights stored{.dtype = stored_size == 4 ? "fp32" : "bf16"};
  ClipTextModel clip(model.text_encoder);
  expect_same(clip_weights(model.text_encoder, dtype_name, stored), clip.fixed_slots(),
              clip.units(), dtype, stored_size);
  T5Encoder t5(model.text_encoder_2);
  expect_same(t5_weights(model.text_encoder_2, dtype_name, stored), t5.fixed_slots(), t5.units(),
              dtype, stored_size);
  FluxTransformer transformer(model.transformer);
  expect_same(transformer_weights(model.transformer, dtype_name, stored), transformer.fixed_slots(),
              transformer.units(), dtype, stored_size);
  expect_same(modulation_weights(model.transformer, dtype_name, stored),
              transformer.modulation_fixed_slots(), transformer.modulation_units(), dtype,
              stored_size);
  EXPECT_EQ(modulation_row_bytes(model.transformer, dtype_name),
            transformer.modulation_width() * element_size(dtype_name));
  AutoencoderKlDecoder vae(model.vae);
  EXPECT_EQ(vae_decoder_weight_bytes(model.vae, element_size(dtype_name)),
            slot_bytes(vae.slots(), dtype));
}

void expect_same_redux(const ReduxConfig& redux, const std::string& dtype_name,
                       at::ScalarType dtype) {
  const StoredWeights stored{.dtype = "bf16"};
  SiglipVisionModel encoder(redux.image_encoder);
  expect_same(image_encoder_weights(redux.image_encoder, dtype_name, stored), encoder.fixed_slots(),
              encoder.units(), dtype, 2);
  ReduxImageEncoder embedder(redux.image_embedder);
  expect_same(image_embedder_weights(redux.image_embedder, dtype_name, stored), {},
              embedder.units(), dtype, 2);
}

TEST(Footprint, IsThatOfRedux) {
  const auto folder = std::filesystem::path(STEADYFLUX_SOURCE_DIR) / "tests/goldens/redux/model";
  expect_same_redux(open_redux(folder).config, "fp32", at::kFloat);
  expect_same_redux({}, "bf16", at::kBFloat16);
}

TEST(Footprint, IsThatOfTheModels) {
  const auto source = std::filesystem::path(STEADYFLUX_SOURCE_DIR);
  for (const char* name : {"a", "b"}) {
    const auto model = FluxModel::open(source / "tests/goldens" / name / "model");
    expect_same_everywhere(model, "fp32", at::kFloat, 4);
    expect_same_everywhere(model, "bf16", at::kBFloat16, 4);
    expect_same_everywhere(model, "fp16", at::kHalf, 2);
  }
}

TEST(Footprint, IsThatOfFlux1) {
  const auto folder = std::filesystem::path(STEADYFLUX_SOURCE_DIR) / ".." / "shared" / "flux1";
  if (!std::filesystem::exists(folder)) GTEST_SKIP() << "no FLUX.1 configurations beside this";
  for (const char* name : {"schnell", "dev"}) {
    const auto model = FluxModel::open(folder / name);
    expect_same_everywhere(model, "bf16", at::kBFloat16, 2);
    expect_same_everywhere(model, "fp16", at::kHalf, 2);
  }
}

}  // namespace
}  // namespace steadyflux

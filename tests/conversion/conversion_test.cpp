// Conversions from end to end on tiny models: names, types, values, metadata, and what is refused.
#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <string>

#include "checkpoints/config_metadata.h"
#include "conversion/convert_for_tests.h"
#include "expect_error.h"
#include "weights/gguf.h"
#include "weights/safetensors.h"

namespace steadyflux {
namespace {

using Conversion = testing::ConversionTest;
using testing::bfl_named;
using testing::convert_file;
using testing::error_of;
using testing::expect_values;
using testing::safetensors_text;
using testing::tiny_flux;
using testing::tiny_t5;
using testing::TinyTensors;

TEST_F(Conversion, NamesTypesAndMetadataOfATransformer) {
  const auto source = put("flux.safetensors", safetensors_text(tiny_flux()));
  const auto done = convert_file(source, DType::kQ4_K);
  const auto file = GgufFile::open(put("new.gguf", done.bytes));
  const auto dtype = [&](const char* name) { return file.tensors.at(name).dtype; };
  EXPECT_EQ(dtype("double_blocks.0.img_attn.qkv.weight"), DType::kQ4_K);
  EXPECT_EQ(dtype("double_blocks.0.txt_mlp.2.weight"), DType::kQ4_K);
  EXPECT_EQ(dtype("single_blocks.1.linear1.weight"), DType::kQ4_K);
  EXPECT_EQ(dtype("single_blocks.1.linear1.bias"), DType::kF32);
  EXPECT_EQ(dtype("single_blocks.1.norm.query_norm.scale"), DType::kF32);
  for (const char* name : {"img_in", "txt_in", "time_in.in_layer", "vector_in.out_layer",
                           "final_layer.linear", "final_layer.adaLN_modulation.1"}) {
    EXPECT_EQ(dtype((std::string(name) + ".weight").c_str()), DType::kBF16) << name;
  }
  EXPECT_EQ(file.tensors.at("single_blocks.0.linear1.weight").shape,
            (std::vector<std::int64_t>{7 * 256, 256}));
  const nlohmann::json expected = {{"general.architecture", "flux"},
                                   {"general.quantization_version", 2},
                                   {"general.file_type", 14}};
  EXPECT_EQ(file.metadata, expected);
  EXPECT_TRUE(done.report.warnings.empty());
  EXPECT_EQ(done.report.types.front().dtype, DType::kQ4_K);
}

// Loose bounds, from the bits that a normal distribution's values get; quantize_test.cpp has tight
// ones for the packers. bf16's values are exact in F16 but for those near 0.
TEST_F(Conversion, ValuesOfEveryType) {
  const auto tensors = tiny_flux();
  const auto source = put("flux.safetensors", safetensors_text(tensors));
  const std::pair<DType, double> kBounds[] = {
      {DType::kQ8_0, 0.006}, {DType::kQ6_K, 0.02}, {DType::kQ5_K, 0.045}, {DType::kQ4_K, 0.09},
      {DType::kQ5_1, 0.05},  {DType::kQ5_0, 0.06}, {DType::kQ4_1, 0.10},  {DType::kQ4_0, 0.12},
      {DType::kBF16, 0},     {DType::kF16, 1e-8},  {DType::kF8E4M3, 0.03}};
  for (const auto& [type, bound] : kBounds) {
    SCOPED_TRACE(to_string(type));
    const auto done = convert_file(source, type);
    const auto file = put("new" + conversion_extension(type), done.bytes);
    expect_values(file, Component::kTransformer, tensors, done.report);
    EXPECT_LE(error_of(done.report, type), bound);
    EXPECT_GE(error_of(done.report, type), bound / 20);
  }
}

TEST_F(Conversion, TheSameFileFromEveryNamingAndThreadCount) {
  const auto tensors = tiny_flux();
  const auto bfl = put("bfl.safetensors", safetensors_text(bfl_named(tensors)));
  const auto comfy =
      put("comfy.safetensors", safetensors_text(bfl_named(tensors, "model.diffusion_model.")));
  put("model/diffusion_pytorch_model.safetensors", safetensors_text(tensors));
  for (const DType type : {DType::kQ8_0, DType::kQ5_K, DType::kF8E4M3}) {
    const auto expected = convert_file(folder_ / "model", type).bytes;
    EXPECT_TRUE(convert_file(bfl, type).bytes == expected);
    EXPECT_TRUE(convert_file(comfy, type).bytes == expected);
    EXPECT_TRUE(convert_file(bfl, type, {}, 3).bytes == expected);
  }
  const auto t5 = put("t5.safetensors", safetensors_text(tiny_t5()));
  EXPECT_TRUE(convert_file(t5, DType::kQ4_0).bytes == convert_file(t5, DType::kQ4_0, {}, 4).bytes);
}

TEST_F(Conversion, ScaledFp8) {
  const auto source = put("flux.safetensors", safetensors_text(tiny_flux()));
  const auto done = convert_file(source, DType::kF8E4M3);
  const auto file = SafetensorsFile::open(put("fp8.safetensors", done.bytes));
  EXPECT_EQ(file.tensors.at("scaled_fp8").dtype, DType::kF8E4M3);
  EXPECT_EQ(file.tensors.at("double_blocks.0.img_mlp.0.weight").dtype, DType::kF8E4M3);
  const auto& scale = file.tensors.at("double_blocks.0.img_mlp.0.scale_weight");
  EXPECT_EQ(scale.dtype, DType::kF32);
  EXPECT_TRUE(scale.shape.empty());
  EXPECT_EQ(reinterpret_cast<std::uintptr_t>(scale.data) % sizeof(float), 0U);
  for (const char* name :
       {"double_blocks.0.img_mlp.0.bias", "img_in.weight", "single_blocks.0.norm.key_norm.scale"}) {
    EXPECT_EQ(file.tensors.at(name).dtype, DType::kBF16) << name;
  }
  EXPECT_EQ(file.tensors.count("img_in.scale_weight"), 0U);
}

TEST_F(Conversion, T5) {
  const auto tensors = tiny_t5();
  const auto source = put("t5.safetensors", safetensors_text(tensors));
  const auto done = convert_file(source, DType::kQ5_0);
  const auto path = put("t5.gguf", done.bytes);
  const auto file = GgufFile::open(path);
  EXPECT_EQ(file.tensors.at("token_embd.weight").dtype, DType::kQ8_0);
  EXPECT_EQ(file.tensors.at("enc.blk.1.ffn_down.weight").dtype, DType::kQ5_0);
  EXPECT_EQ(file.tensors.at("enc.blk.0.attn_rel_b.weight").dtype, DType::kF32);
  EXPECT_EQ(file.tensors.at("enc.output_norm.weight").dtype, DType::kF32);
  EXPECT_EQ(file.metadata.at("general.architecture"), "t5encoder");
  EXPECT_EQ(file.metadata.at("t5encoder.block_count"), 2);
  EXPECT_EQ(file.metadata.at("t5encoder.attention.key_length"), 64);
  EXPECT_EQ(file.metadata.at("t5encoder.vocab_size"), 9000);
  expect_values(path, Component::kTextEncoder2, tensors, done.report);

  const auto fp8 = convert_file(source, DType::kF8E4M3);
  const auto scaled = put("t5_fp8.safetensors", fp8.bytes);
  expect_values(scaled, Component::kTextEncoder2, tensors, fp8.report);
  EXPECT_EQ(SafetensorsFile::open(scaled).tensors.at("shared.weight").dtype, DType::kBF16);
}

TEST_F(Conversion, RowsThatBlocksDoNotFitInto) {
  const auto t5 = put("t5.safetensors", safetensors_text(tiny_t5(64)));
  const auto done = convert_file(t5, DType::kQ4_K);
  const auto file = GgufFile::open(put("t5.gguf", done.bytes));
  EXPECT_EQ(file.tensors.at("enc.blk.0.attn_q.weight").dtype, DType::kQ5_0);    // rows of 128
  EXPECT_EQ(file.tensors.at("enc.blk.0.ffn_down.weight").dtype, DType::kQ4_K);  // of 256
  ASSERT_EQ(done.report.warnings.size(), 1U);
  EXPECT_NE(done.report.warnings[0].find("12 tensors have rows that are no multiple of 256 values: "
                                         "Q5_0 instead of Q4_K (enc.blk.0.attn_q.weight, ...)"),
            std::string::npos)
      << done.report.warnings[0];

  auto tensors = tiny_flux({.heads = 3, .head_dim = 16});  // width 48
  put("model/diffusion_pytorch_model.safetensors", safetensors_text(tensors, DType::kF16));
  put("model/config.json", R"({"_class_name": "FluxTransformer2DModel", "num_layers": 1,
      "num_single_layers": 2, "attention_head_dim": 16, "num_attention_heads": 3,
      "joint_attention_dim": 96, "pooled_projection_dim": 32, "axes_dims_rope": [4, 6, 6]})");
  const auto small =
      GgufFile::open(put("small.gguf", convert_file(folder_ / "model", DType::kQ8_0).bytes));
  EXPECT_EQ(small.tensors.at("single_blocks.0.linear1.weight").dtype, DType::kF16);
  EXPECT_EQ(small.tensors.at("double_blocks.0.img_mlp.2.weight").dtype, DType::kQ8_0);  // 192
}

TEST_F(Conversion, PreciseTensorsKeepTheTypeOfTheSource) {
  const auto tensors = tiny_flux();
  for (const DType dtype : {DType::kF32, DType::kF16, DType::kBF16}) {
    const auto source = put("flux.safetensors", safetensors_text(tensors, dtype));
    const auto file = GgufFile::open(put("new.gguf", convert_file(source, DType::kQ4_0).bytes));
    EXPECT_EQ(file.tensors.at("txt_in.weight").dtype, dtype);
    EXPECT_EQ(file.tensors.at("double_blocks.0.txt_mod.lin.weight").dtype, DType::kQ4_0);
  }
}

TEST_F(Conversion, ConfigThatTensorsDoNotTell) {
  const auto tensors = tiny_flux();
  put("model/diffusion_pytorch_model.safetensors", safetensors_text(tensors));
  const std::string same = R"({"_class_name": "FluxTransformer2DModel", "num_layers": 1,
      "num_single_layers": 2, "attention_head_dim": 64, "num_attention_heads": 4,
      "joint_attention_dim": 96, "pooled_projection_dim": 32, "axes_dims_rope": )";
  const auto key = config_metadata_key(Component::kTransformer);
  put("model/config.json", same + "[8, 28, 28]}");
  auto file = GgufFile::open(put("a.gguf", convert_file(folder_ / "model", DType::kQ8_0).bytes));
  EXPECT_FALSE(file.metadata.contains(key));
  put("model/config.json", same + "[16, 24, 24]}");
  file = GgufFile::open(put("b.gguf", convert_file(folder_ / "model", DType::kQ8_0).bytes));
  const auto config = config_in_metadata(file.metadata, Component::kTransformer);
  ASSERT_TRUE(config);
  EXPECT_EQ(nlohmann::json::parse(*config).at("axes_dims_rope"), nlohmann::json({16, 24, 24}));
  EXPECT_FALSE(config_in_metadata(file.metadata, Component::kTextEncoder2));
  // As a configuration file it says the same.
  put("config.json", *config);
  EXPECT_EQ(read_flux_transformer_config(folder_ / "config.json").axes_dims_rope,
            (std::vector<std::int64_t>{16, 24, 24}));

  // From file to file it goes along.
  const auto fp8 = convert_file(folder_ / "b.gguf", DType::kF8E4M3);
  const auto metadata = Checkpoint::open(put("c.safetensors", fp8.bytes)).metadata();
  EXPECT_EQ(config_in_metadata(metadata, Component::kTransformer), config);
}

TEST_F(Conversion, QuantisedSourcesAreSaidToBe) {
  const auto source = put("flux.safetensors", safetensors_text(tiny_flux()));
  const auto once = convert_file(source, DType::kQ8_0);
  const auto twice = convert_file(put("q8.gguf", once.bytes), DType::kQ8_0);
  ASSERT_EQ(twice.report.warnings.size(), 1U);
  EXPECT_NE(twice.report.warnings[0].find("is quantised already (Q8_0)"), std::string::npos);
  // The values of Q8_0 are nearly those it would choose for them.
  EXPECT_LT(error_of(twice.report, DType::kQ8_0), 5e-4);
  const auto wide =
      GgufFile::open(put("bf16.gguf", convert_file(folder_ / "q8.gguf", DType::kBF16).bytes));
  EXPECT_EQ(wide.tensors.at("single_blocks.0.linear2.weight").dtype, DType::kBF16);
}

TEST_F(Conversion, WhatIsRefused) {
  const auto tensors = tiny_flux();
  const auto refused = [&](const TinyTensors& changed, const std::string& says,
                           std::optional<Component> component = {}) {
    const auto source = put("flux.safetensors", safetensors_text(changed));
    expect_error(ErrorKind::kBadInput, says,
                 [&] { convert_file(source, DType::kQ8_0, component); });
  };
  auto less = tensors;
  less.erase("transformer_blocks.0.attn.add_k_proj.weight");
  refused(less, "transformer_blocks.0.attn.add_k_proj.weight is missing");
  less = tensors;
  less.erase("single_transformer_blocks.1.proj_out.bias");
  refused(less, "tensor single_blocks.1.linear2.bias is missing");
  less.erase("single_transformer_blocks.0.proj_out.bias");  // from all blocks alike
  refused(less, "tensor single_transformer_blocks.0.proj_out.bias is missing");
  auto more = tensors;
  more["somewhere.else"] = more["proj_out.bias"];
  refused(more, "tensor somewhere.else is none of FLUX.1's");
  auto uneven = tensors;
  uneven["transformer_blocks.0.attn.to_k.weight"].shape = {128, 512};
  refused(uneven,
          "tensor transformer_blocks.0.attn.to_k.weight has shape [128, 512], expected [256, 256]");
  // As many rows as can be shared out, and more than the model has.
  auto longer = bfl_named(tensors);
  auto& fused = longer["double_blocks.0.txt_attn.qkv.bias"];
  fused.shape = {3 * 257};
  fused.values.resize(3 * 257);
  refused(longer,
          "tensor transformer_blocks.0.attn.add_k_proj.bias has shape [257], expected [256]");
  auto t5 = tiny_t5(64);
  t5["encoder.block.1.layer.0.layer_norm.weight"] = {{64}, std::vector<float>(64, 1.0F)};
  refused(t5, "layer_norm.weight has shape [64], expected [128]");
  refused(tensors, "a FLUX.1-schnell transformer in diffusers' names, expected a T5 encoder",
          Component::kTextEncoder2);
  refused({{"a", tensors.at("proj_out.bias")}}, "expected a FLUX.1 transformer or a T5 encoder");
  EXPECT_THROW(open_conversion_source(folder_ / "nowhere", {}), Error);
}

TEST_F(Conversion, ProgressReachesTheEndAndCanStopIt) {
  const auto source =
      open_conversion_source(put("t5.safetensors", safetensors_text(tiny_t5())), {});
  const auto plan = plan_conversion(source, DType::kQ8_0);
  const ConversionOutput output{
      .append = [](std::span<const std::byte>) {}, .rewrite_start = {}, .restart = {}};
  std::int64_t last = -1, all = 0;
  convert(plan, output, 2, [&](std::int64_t done, std::int64_t total) {
    EXPECT_GE(done, last);
    last = done;
    all = total;
  });
  EXPECT_EQ(last, all);
  EXPECT_GT(all, 9000 * 128);
  EXPECT_THROW(convert(plan, output, 2,
                       [](std::int64_t done, std::int64_t) {
                         if (done > 0) throw Interrupted(2);
                       }),
               Interrupted);
}

TEST(ConversionTypes, NamesAndBack) {
  for (const std::string& name : conversion_type_names()) {
    const auto type = conversion_type(name);
    ASSERT_TRUE(type) << name;
    EXPECT_EQ(conversion_type_name(*type), name);
  }
  EXPECT_FALSE(conversion_type("Q8_0"));
  EXPECT_FALSE(conversion_type("q2_k"));
}

}  // namespace
}  // namespace steadyflux

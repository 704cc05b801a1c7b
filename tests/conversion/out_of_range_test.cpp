// Values that a type does not hold: the tensor gets a wider one, or the source is refused.
#include <gtest/gtest.h>

#include <bit>
#include <cmath>
#include <cstdint>
#include <string>

#include "conversion/convert_for_tests.h"
#include "expect_error.h"
#include "weights/gguf.h"
#include "weights/safetensors.h"

namespace steadyflux {
namespace {

using OutOfRange = testing::ConversionTest;
using testing::convert_file;
using testing::expect_values;
using testing::safetensors_text;
using testing::tiny_flux;
using testing::values_of;

// One value too large for the type, all others in range: the tensor keeps the source's type, with
// its values, and no other tensor changes.
TEST_F(OutOfRange, ValuesBeyondTheTypeKeepAWiderOne) {
  const char* kName = "single_transformer_blocks.0.proj_out.weight";
  const char* kBfl = "single_blocks.0.linear2.weight";
  const float huge = std::bit_cast<float>(std::uint32_t{0x7149'0000});  // near 1e30, exact in bf16
  auto tensors = tiny_flux();
  tensors[kName].values[5] = huge;
  for (const DType stored : {DType::kBF16, DType::kF32}) {
    const auto source = put("flux.safetensors", safetensors_text(tensors, stored));
    for (const std::string& type_name : conversion_type_names()) {
      SCOPED_TRACE(type_name + " from " + to_string(stored));
      const auto type = *conversion_type(type_name);
      if (stored == DType::kF32 && type != DType::kQ8_0 && type != DType::kF8E4M3) continue;
      const auto done = convert_file(source, type);
      const auto path = put("new" + conversion_extension(type), done.bytes);
      const auto weights = ComponentWeights::open(path, Component::kTransformer);
      const auto& tensor = *weights.find(kName);
      EXPECT_EQ(values_of(tensor), tensors[kName].values);
      if (type == DType::kBF16) {
        EXPECT_TRUE(done.report.warnings.empty());
        continue;
      }
      EXPECT_EQ(tensor.dtype(), stored);
      EXPECT_EQ(weights.find("single_transformer_blocks.1.proj_out.weight")->dtype(), type);
      EXPECT_EQ(done.report.warnings,
                std::vector<std::string>{std::string("tensor ") + kBfl +
                                         " has values out of the range of " + to_string(type) +
                                         ": kept as " + to_string(stored)});
      expect_values(path, Component::kTransformer, tensors, done.report);
    }
  }
}

// So small that scales in fp16 are 0, and with them every value.
TEST_F(OutOfRange, ValuesBelowTheTypeKeepAWiderOne) {
  auto tensors = tiny_flux();
  for (float& value : tensors["transformer_blocks.0.ff.net.2.weight"].values) value *= 0x1p-40F;
  const auto source = put("flux.safetensors", safetensors_text(tensors));
  for (const DType type : {DType::kQ8_0, DType::kQ4_K, DType::kQ5_1, DType::kF16}) {
    const auto file = GgufFile::open(put("new.gguf", convert_file(source, type).bytes));
    EXPECT_EQ(file.tensors.at("double_blocks.0.img_mlp.2.weight").dtype, DType::kBF16)
        << to_string(type);
    EXPECT_EQ(file.tensors.at("double_blocks.0.txt_mlp.2.weight").dtype, type);
  }
  // Its scale is in F32, and its own.
  EXPECT_TRUE(convert_file(source, DType::kF8E4M3).report.warnings.empty());
}

// What BF16 rounds to infinity is F32, also among tensors that would be 16 bits wide.
TEST_F(OutOfRange, ValuesBeyondBf16AreF32) {
  auto tensors = tiny_flux();
  tensors["proj_out.bias"].values[0] = 3.4e38F;
  const auto source = put("flux.safetensors", safetensors_text(tensors, DType::kF32));
  const auto done = convert_file(source, DType::kF8E4M3);
  const auto file = SafetensorsFile::open(put("new.safetensors", done.bytes));
  EXPECT_EQ(file.tensors.at("final_layer.linear.bias").dtype, DType::kF32);
  EXPECT_EQ(file.tensors.at("img_in.bias").dtype, DType::kBF16);
  expect_values(folder_ / "new.safetensors", Component::kTransformer, tensors, done.report);
}

TEST_F(OutOfRange, SourcesWithNanOrInfinityAreRefused) {
  for (const float value : {NAN, -INFINITY}) {
    auto tensors = tiny_flux();
    tensors["proj_out.weight"].values[7] = value;
    const auto source = put("flux.safetensors", safetensors_text(tensors));
    for (const DType type : {DType::kQ8_0, DType::kBF16, DType::kF8E4M3}) {
      expect_error(ErrorKind::kBadInput,
                   "flux.safetensors: tensor final_layer.linear.weight has values that are NaN",
                   [&] { convert_file(source, type); });
    }
  }
}

}  // namespace
}  // namespace steadyflux

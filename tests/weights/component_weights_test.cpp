// Files in other programs' names and packings, seen by a model: which rows come from where, and
// what is refused.
#include "weights/component_weights.h"

#include <gtest/gtest.h>

#include <cstring>
#include <numeric>
#include <span>

#include "expect_error.h"
#include "temp_folder.h"
#include "weights/safetensors_writer.h"

namespace steadyflux {
namespace {

using Shape = std::vector<std::int64_t>;

// A file whose tensors hold 0, 1, 2, ... as bytes.
class FileOfBytes {
 public:
  FileOfBytes& add(const std::string& name, DType dtype, Shape shape) {
    const TensorLayout layout{name, dtype, std::move(shape)};
    std::vector<std::byte> data(tensor_bytes(layout));
    for (std::size_t i = 0; i < data.size(); ++i) data[i] = static_cast<std::byte>(i);
    return add(layout, std::move(data));
  }
  FileOfBytes& add_text(const std::string& name, const std::string& text) {
    const auto* begin = reinterpret_cast<const std::byte*>(text.data());
    return add({name, DType::kU8, {static_cast<std::int64_t>(text.size())}},
               {begin, begin + text.size()});
  }
  FileOfBytes& add_float(const std::string& name, float value) {
    std::vector<std::byte> data(sizeof value);
    std::memcpy(data.data(), &value, sizeof value);
    return add({name, DType::kF32, {1}}, std::move(data));
  }
  FileOfBytes& add_bits(const std::string& name, DType dtype,
                        const std::vector<std::uint16_t>& bits) {
    const auto bytes = std::as_bytes(std::span(bits));
    return add({name, dtype, {static_cast<std::int64_t>(bits.size())}},
               {bytes.begin(), bytes.end()});
  }
  ComponentWeights open(Component component) const {
    std::vector<TensorToWrite> tensors;
    for (const auto& [layout, data] : tensors_) tensors.push_back({layout, data});
    const auto bytes = safetensors_bytes(tensors, {});
    folder_.write("x.safetensors",
                  std::string(reinterpret_cast<const char*>(bytes.data()), bytes.size()));
    return ComponentWeights::open(folder_ / "x.safetensors", component);
  }

 private:
  FileOfBytes& add(TensorLayout layout, std::vector<std::byte> data) {
    tensors_.emplace_back(std::move(layout), std::move(data));
    return *this;
  }

  TempFolder folder_;
  std::vector<std::pair<TensorLayout, std::vector<std::byte>>> tensors_;
};

std::vector<float> values_of(const StoredTensor& tensor) {
  std::vector<float> values;
  for (const auto& rows : tensor.rows) {
    const auto& shape = rows.values.shape;
    std::vector<float> part(static_cast<std::size_t>(
        std::accumulate(shape.begin(), shape.end(), std::int64_t{1}, std::multiplies<>())));
    read_values(rows, 0, static_cast<std::int64_t>(part.size()), part.data());
    values.insert(values.end(), part.begin(), part.end());
  }
  return values;
}

constexpr const char* kLayer = "double_blocks.0.img_attn.qkv";

TEST(ComponentWeights, FusedRowsGoToTheirLayers) {
  FileOfBytes file;
  file.add("model.diffusion_model.double_blocks.0.img_attn.qkv.weight", DType::kF8E4M3, {6, 4});
  const auto weights = file.open(Component::kTransformer);
  ASSERT_EQ(weights.tensors().size(), 3u);
  int first = 0;
  for (const char* name : {"to_q", "to_k", "to_v"}) {
    const auto* tensor = weights.find(std::string("transformer_blocks.0.attn.") + name + ".weight");
    ASSERT_NE(tensor, nullptr) << name;
    EXPECT_EQ(tensor->shape, (Shape{2, 4}));
    EXPECT_TRUE(tensor->keeps_packed());
    EXPECT_EQ(static_cast<int>(tensor->first().values.data[0]), first);
    first += 8;
  }
}

TEST(ComponentWeights, HalvesThatAreTheOtherWayRound) {
  FileOfBytes file;
  file.add("final_layer.adaLN_modulation.1.weight", DType::kBF16, {4, 2});
  const auto weights = file.open(Component::kTransformer);
  const auto* tensor = weights.find("norm_out.linear.weight");
  ASSERT_NE(tensor, nullptr);
  EXPECT_EQ(tensor->shape, (Shape{4, 2}));
  EXPECT_FALSE(tensor->plain_in_place());
  ASSERT_EQ(tensor->rows.size(), 2u);
  EXPECT_EQ(static_cast<int>(tensor->rows[0].values.data[0]), 8);
  EXPECT_EQ(static_cast<int>(tensor->rows[1].values.data[0]), 0);
}

TEST(ComponentWeights, ScalesAreOfTheirRows) {
  FileOfBytes file;
  file.add(std::string(kLayer) + ".weight", DType::kF8E4M3, {6, 4})
      .add(std::string(kLayer) + ".scale_weight", DType::kF32, {6});
  const auto weights = file.open(Component::kTransformer);
  const auto* k = weights.find("transformer_blocks.0.attn.to_k.weight");
  ASSERT_NE(k, nullptr);
  EXPECT_EQ(k->first().packed->scales.nbytes, 8u);
  EXPECT_EQ(static_cast<int>(k->first().packed->scales.data[0]), 8);
}

// Numbers that both 16-bit floats have, so that the bits are easily made.
TEST(ComponentWeights, ScalesOf16BitsAreOfTheirRows) {
  const std::pair<DType, std::vector<std::uint16_t>> kTypes[] = {
      {DType::kBF16, {0x3f80, 0x3fc0, 0x4000, 0x3f00, 0x4040, 0x3e80}},
      {DType::kF16, {0x3c00, 0x3e00, 0x4000, 0x3800, 0x4200, 0x3400}}};
  const std::vector<float> kScales = {1, 1.5F, 2, 0.5F, 3, 0.25F};
  for (const auto& [dtype, bits] : kTypes) {
    SCOPED_TRACE(to_string(dtype));
    FileOfBytes file, one;
    file.add(std::string(kLayer) + ".weight", DType::kF8E4M3, {6, 4})
        .add_bits(std::string(kLayer) + ".weight_scale", dtype, bits);
    one.add(std::string(kLayer) + ".weight", DType::kF8E4M3, {6, 4})
        .add_bits(std::string(kLayer) + ".scale_weight", dtype, {bits[4]});
    FileOfBytes plain;
    plain.add(std::string(kLayer) + ".weight", DType::kF8E4M3, {6, 4});
    const auto rows_scaled = file.open(Component::kTransformer);
    const auto all_scaled = one.open(Component::kTransformer);
    const auto not_scaled = plain.open(Component::kTransformer);
    std::size_t row = 0;
    for (const char* layer : {"to_q", "to_k", "to_v"}) {
      const auto name = std::string("transformer_blocks.0.attn.") + layer + ".weight";
      const auto values = values_of(*not_scaled.find(name));
      const auto by_row = values_of(*rows_scaled.find(name));
      const auto by_one = values_of(*all_scaled.find(name));
      for (std::size_t i = 0; i < values.size(); ++i) {
        EXPECT_EQ(by_row[i], values[i] * kScales[row + i / 4]) << name << " " << i;
        EXPECT_EQ(by_one[i], values[i] * kScales[4]) << name << " " << i;
      }
      row += 2;
    }
  }
  // Beside plain weights a scale of 1 says nothing.
  FileOfBytes file;
  file.add(std::string(kLayer) + ".weight", DType::kBF16, {6, 4})
      .add_bits(std::string(kLayer) + ".scale_weight", DType::kBF16, {0x3f80});
  EXPECT_NO_THROW(file.open(Component::kTransformer));
}

std::string state(const std::string& more) {
  return R"({"quant_type":"nf4","dtype":"bfloat16","blocksize":64,)" + more + "}";
}

TEST(ComponentWeights, CodesCutBetweenBlocksAreThoseOfTheWhole) {
  const std::string name = std::string(kLayer) + ".weight";
  FileOfBytes file;
  // Rows of 96 values: layers begin within blocks of absmax and of what scales those.
  file.add(name, DType::kU8, {288, 1})
      .add(name + ".absmax", DType::kU8, {9})
      .add(name + ".quant_map", DType::kF32, {16})
      .add(name + ".nested_absmax", DType::kF32, {3})
      .add(name + ".nested_quant_map", DType::kF32, {256})
      .add_text(name + ".quant_state.bitsandbytes__nf4",
                state(R"("shape":[6,96],"nested_blocksize":4,"nested_offset":0.5)"));
  const auto cut = file.open(Component::kTransformer);
  std::vector<float> together;
  for (const char* layer : {"to_q", "to_k", "to_v"}) {
    const auto* tensor = cut.find(std::string("transformer_blocks.0.attn.") + layer + ".weight");
    ASSERT_NE(tensor, nullptr);
    EXPECT_EQ(tensor->shape, (Shape{2, 96}));
    const auto values = values_of(*tensor);
    together.insert(together.end(), values.begin(), values.end());
  }
  // As T5's checkpoint nobody cuts it.
  FileOfBytes whole;
  const std::string shared = "shared.weight";
  whole.add(shared, DType::kU8, {288, 1})
      .add(shared + ".absmax", DType::kU8, {9})
      .add(shared + ".quant_map", DType::kF32, {16})
      .add(shared + ".nested_absmax", DType::kF32, {3})
      .add(shared + ".nested_quant_map", DType::kF32, {256})
      .add_text(shared + ".quant_state.bitsandbytes__nf4",
                state(R"("shape":[6,96],"nested_blocksize":4,"nested_offset":0.5)"));
  const auto weights = whole.open(Component::kTextEncoder2);
  EXPECT_EQ(together, values_of(*weights.find(shared)));
}

TEST(ComponentWeights, PartsThatDoNotFitTogetherAreRefused) {
  const std::string name = std::string(kLayer) + ".weight";
  const auto refuse = [&](const std::string& what, const FileOfBytes& file) {
    expect_error(ErrorKind::kBadInput, what, [&] { file.open(Component::kTransformer); });
  };
  FileOfBytes scales;
  scales.add(name, DType::kF8E4M3, {6, 4})
      .add(std::string(kLayer) + ".scale_weight", DType::kF32, {5});
  refuse("one value of F32, BF16 or F16, or one for each of 6 rows", scales);
  FileOfBytes beside_plain;
  beside_plain.add(name, DType::kBF16, {6, 4})
      .add_float(std::string(kLayer) + ".scale_weight", 2.0F);
  refuse("scale_weight beside it", beside_plain);
  FileOfBytes odd;
  odd.add(name, DType::kBF16, {7, 4});
  refuse("no multiple of 3", odd);
  for (const auto& [text, what] : std::vector<std::pair<std::string, std::string>>{
           {"[]", "is not an object"},
           {state(R"("shape":[6,96])"), "lacks its quant_map"},
           {state(R"("shape":[6,-96])"), "has no shape"},
           {state(R"("shape":[6,98])"), "codes of 4 bits"},
           {state(R"("shape":[1000000000,1000000000,1000000000])"), "codes of 4 bits"},
           {R"({"shape":[6,96],"blocksize":0})", "no blocksize"},
           {R"({"shape":[6,96],"blocksize":1e99})", "no blocksize"}}) {
    FileOfBytes codes;
    codes.add(name, DType::kU8, {288, 1}).add_text(name + ".quant_state.bitsandbytes__nf4", text);
    refuse(what, codes);
  }
  FileOfBytes none;
  none.add("something.else", DType::kBF16, {2});
  refuse("holds no FLUX.1 transformer", none);
}

TEST(ComponentWeights, OneTensorUnderTwoNamesIsOne) {
  FileOfBytes file;
  file.add("encoder.embed_tokens.weight", DType::kBF16, {2, 2})
      .add("shared.weight", DType::kBF16, {2, 2});
  // The same tensor under both of its names.
  EXPECT_EQ(file.open(Component::kTextEncoder2).tensors().size(), 1u);
}

}  // namespace
}  // namespace steadyflux

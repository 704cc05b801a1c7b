// Packed weights: what libtorch's operations make of them on a device is what the CPU makes of
// them, bit for bit; a Linear on them computes what it computes on their values.
#include "nn/packed_tensor.h"

#include <ATen/ATen.h>
#include <gtest/gtest.h>

#include <random>

#include "nn/layers.h"
#include "nn/unpack_on_device.h"

namespace steadyflux {
namespace {

constexpr std::int64_t kRows = 6, kColumns = 512;

at::Tensor random_bytes(std::int64_t count, unsigned seed) {
  std::mt19937 engine(seed);
  const auto bytes = at::empty({count}, at::kByte);
  auto* data = bytes.mutable_data_ptr<std::uint8_t>();
  for (std::int64_t i = 0; i < count; ++i) data[i] = static_cast<std::uint8_t>(engine());
  return bytes;
}

at::Tensor random_floats(std::int64_t count, unsigned seed) {
  std::mt19937 engine(seed);
  std::uniform_real_distribution<float> between(0.001F, 2.0F);
  const auto values = at::empty({count}, at::kFloat);
  for (std::int64_t i = 0; i < count; ++i) values.mutable_data_ptr<float>()[i] = between(engine);
  return values;
}

struct Packed {
  StoredRows rows;
  std::array<at::Tensor, kPackedParts> parts;

  PackedTensor tensor(at::ScalarType dtype) const {
    return {{kRows, kColumns}, rows, parts, dtype};
  }
};

// Views only say how much there is: the bytes are those of `parts`.
TensorView view_of(DType dtype, std::vector<std::int64_t> shape, const at::Tensor& bytes) {
  return {dtype, std::move(shape), static_cast<const std::byte*>(bytes.const_data_ptr()),
          static_cast<std::size_t>(bytes.nbytes()), nullptr};
}

at::Tensor bytes_of(const at::Tensor& floats) { return floats.contiguous().view(at::kByte); }

Packed make(Packing packing, DType dtype) {
  const auto size = static_cast<std::int64_t>(item_size(dtype));
  Packed packed;
  packed.parts[0] = random_bytes(kRows * kColumns / item_values(dtype) * size, 3);
  packed.rows = {view_of(dtype, {kRows, kColumns}, packed.parts[0]), PackedCompanions{}};
  packed.rows.packed->packing = packing;
  return packed;
}

at::ScalarType torch_type(DType dtype) {
  switch (dtype) {
    case DType::kBF16:
      return at::kBFloat16;
    case DType::kF16:
      return at::kHalf;
    case DType::kF8E4M3:
      return at::kFloat8_e4m3fn;
    case DType::kF8E5M2:
      return at::kFloat8_e5m2;
    default:
      return at::kFloat;
  }
}

Packed scaled(DType dtype, std::int64_t scales, float factor = 1, DType type = DType::kF32) {
  auto packed = make(Packing::kScaled, dtype);
  packed.rows.packed->scale_factor = factor;
  if (scales > 0) {
    packed.parts[1] = bytes_of(random_floats(scales, 5).to(torch_type(type)));
    packed.rows.packed->scales = view_of(type, {scales}, packed.parts[1]);
  }
  return packed;
}

Packed codes(bool nested, std::int64_t first_value) {
  auto packed = make(Packing::kCodes4, DType::kU8);
  auto& companions = *packed.rows.packed;
  packed.parts[0] = random_bytes(kRows * kColumns / 2, 3);
  packed.rows.values = view_of(DType::kU8, {kRows, kColumns}, packed.parts[0]);
  const auto tables = std::make_shared<CodeTables>();
  const auto code = random_floats(16, 7), nested_code = random_floats(256, 8);
  std::copy_n(code.const_data_ptr<float>(), 16, tables->code.begin());
  std::copy_n(nested_code.const_data_ptr<float>(), 256, tables->nested_code.begin());
  companions.tables = tables;
  companions.block = 64;
  companions.nested_block = 16;
  companions.nested_offset = 0.125F;
  companions.first_value = first_value;
  const auto blocks = (first_value + kRows * kColumns + 63) / 64;
  packed.parts[2] = nested ? random_bytes(blocks, 9) : bytes_of(random_floats(blocks, 9));
  companions.absmax = view_of(nested ? DType::kU8 : DType::kF32, {blocks}, packed.parts[2]);
  if (nested) {
    packed.parts[3] = bytes_of(random_floats((blocks + 15) / 16, 10));
    companions.nested_absmax = view_of(DType::kF32, {(blocks + 15) / 16}, packed.parts[3]);
  }
  return packed;
}

void expect_same_on_devices(const Packed& packed, const std::string& what) {
  for (const auto dtype : {at::kFloat, at::kBFloat16, at::kHalf}) {
    const auto tensor = packed.tensor(dtype);
    const auto here = tensor.unpacked();
    const auto there =
        unpack_on_device(packed_values(packed.rows), packed.parts, {kRows, kColumns}, dtype);
    ASSERT_EQ(here.sizes(), there.sizes()) << what;
    // Random bytes may be scales that are no numbers: those have to be none on both sides.
    EXPECT_TRUE(at::equal(here.isnan(), there.isnan())) << what << " " << dtype;
    EXPECT_TRUE(at::equal(here.nan_to_num(), there.nan_to_num())) << what << " " << dtype;
    EXPECT_GT((here.nan_to_num() != here.nan_to_num().flatten()[0]).sum().item<std::int64_t>(), 0)
        << what;
  }
}

TEST(PackedTensor, BlocksAreTheSameOnDevices) {
  for (const auto dtype :
       {DType::kQ4_0, DType::kQ4_1, DType::kQ5_0, DType::kQ5_1, DType::kQ8_0, DType::kQ2_K,
        DType::kQ3_K, DType::kQ4_K, DType::kQ5_K, DType::kQ6_K, DType::kIQ4_NL, DType::kIQ4_XS}) {
    expect_same_on_devices(make(Packing::kBlocks, dtype), to_string(dtype));
  }
}

TEST(PackedTensor, ScaledValuesAreTheSameOnDevices) {
  for (const std::int64_t scales : {std::int64_t{0}, std::int64_t{1}, kRows}) {
    expect_same_on_devices(scaled(DType::kF8E4M3, scales), "e4m3");
    expect_same_on_devices(scaled(DType::kF8E5M2, scales), "e5m2");
  }
  expect_same_on_devices(scaled(DType::kI8, kRows, 1.0F / 127.0F), "LLM.int8");
}

// Scales of 16 bits multiply as the fp32 numbers that they are: what torch gives for
// weight.to(float32) * scale.to(float32).
TEST(PackedTensor, ScalesOf16Bits) {
  for (const auto type : {DType::kBF16, DType::kF16}) {
    for (const auto dtype : {DType::kF8E4M3, DType::kF8E5M2}) {
      for (const std::int64_t scales : {std::int64_t{1}, kRows}) {
        const auto packed = scaled(dtype, scales, 1, type);
        expect_same_on_devices(packed, to_string(dtype) + " with " + to_string(type));
        const auto values = packed.parts[0].view(torch_type(dtype)).to(at::kFloat);
        const auto expected = values.view({kRows, kColumns}) *
                              packed.parts[1].view(torch_type(type)).to(at::kFloat).view({-1, 1});
        const auto found = packed.tensor(at::kFloat).unpacked();
        EXPECT_TRUE(at::equal(found.isnan(), expected.isnan()));
        EXPECT_TRUE(at::equal(found.nan_to_num(), expected.nan_to_num()));
      }
    }
  }
}

TEST(PackedTensor, CodesAreTheSameOnDevices) {
  for (const bool nested : {false, true}) {
    for (const std::int64_t first : {0, 2, 64, 1000}) {
      expect_same_on_devices(codes(nested, first), nested ? "nested" : "plain absmax");
    }
  }
}

TEST(PackedTensor, RowsOfATableAreThoseOfTheWhole) {
  const auto packed = scaled(DType::kF8E4M3, kRows).tensor(at::kFloat);
  const auto ids = at::tensor({4, 0, 4}, at::kLong);
  EXPECT_TRUE(at::equal(packed.unpacked_rows(ids, at::kFloat).nan_to_num(),
                        packed.unpacked().index_select(0, ids).nan_to_num()));
}

TEST(PackedTensor, LinearComputesWithTheValues) {
  const auto packed = codes(true, 0);
  Linear on_packed, on_values;
  on_packed.packed = packed.tensor(at::kBFloat16);
  on_values.weight = on_packed.packed->unpacked();
  on_packed.bias = on_values.bias = at::randn({kRows}, at::kBFloat16);
  const auto x = at::randn({3, kColumns}, at::kBFloat16);
  EXPECT_TRUE(at::equal(on_packed(x), on_values(x)));
  EXPECT_EQ(on_packed.out_features(), kRows);
  EXPECT_EQ(on_packed.dtype(), at::kBFloat16);
}

}  // namespace
}  // namespace steadyflux

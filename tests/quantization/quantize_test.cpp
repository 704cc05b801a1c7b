// What quantisers leave of a tensor is no worse than what GGML's and gguf-py's own leave; hostile
// values do no harm; every instruction set packs the same bytes.
#include "quantization/quantize.h"

#include <gtest/gtest.h>

#include <cmath>
#include <cstring>
#include <limits>
#include <string>
#include <vector>

#include "expect_error.h"
#include "quantization/goldens.h"
#include "quantization/instruction_set.h"
#include "quantization/packed_values.h"
#include "quantization/test_tensors.h"

namespace steadyflux {
namespace {

using testing::test_tensor;

constexpr std::array<DType, 8> kTypes = {DType::kQ4_0, DType::kQ4_1, DType::kQ5_0, DType::kQ5_1,
                                         DType::kQ8_0, DType::kQ4_K, DType::kQ5_K, DType::kQ6_K};
constexpr std::int64_t kCount = 65536;

std::vector<std::byte> packed(DType type, const std::vector<float>& values,
                              InstructionSet with = best_instruction_set()) {
  const auto blocks = values.size() / static_cast<std::size_t>(item_values(type));
  // Room behind the blocks shows what is written too far.
  std::vector<std::byte> bytes(blocks * item_size(type) + 64, std::byte{0x5a});
  quantize_with(with, type, values.data(), static_cast<std::int64_t>(values.size()), bytes.data());
  for (std::size_t i = blocks * item_size(type); i < bytes.size(); ++i) {
    EXPECT_EQ(bytes[i], std::byte{0x5a}) << "written past the end";
  }
  bytes.resize(blocks * item_size(type));
  return bytes;
}

std::vector<float> unpacked(DType type, const std::vector<std::byte>& blocks, std::size_t count) {
  std::vector<float> values(count);
  unpack({.dtype = type, .row_values = static_cast<std::int64_t>(count), .data = blocks.data()}, 0,
         static_cast<std::int64_t>(count), values.data());
  return values;
}

double error_of(const std::vector<float>& values, const std::vector<float>& found) {
  double squares = 0;
  for (std::size_t i = 0; i < values.size(); ++i) {
    squares += std::pow(static_cast<double>(values[i]) - static_cast<double>(found[i]), 2);
  }
  return std::sqrt(squares / static_cast<double>(values.size()));
}

double error_of(DType type, const std::vector<float>& values) {
  return error_of(values, unpacked(type, packed(type, values), values.size()));
}

void expect_error_at_most(DType type, const std::string& tensor, double limit) {
  const double error = error_of(type, test_tensor(tensor, kCount));
  std::cout << to_string(type) << ", " << tensor << ": error " << error << ", theirs " << limit
            << "\n";
  EXPECT_LE(error, limit) << to_string(type) << ", " << tensor;
}

TEST(Quantize, NoWorseThanGgufPy) {
  const auto& errors = testing::goldens().at("errors");
  EXPECT_EQ(errors.size(), 25u);
  for (const auto& entry : errors) {
    expect_error_at_most(testing::dtype_named(entry.at(0)), entry.at(1), entry.at(2));
  }
}

// ggml at commit d99724f2b1, quantize_row_q4_K_ref and its like (no importance matrix), on the same
// tensors.
TEST(Quantize, NoWorseThanGgmlsReference) {
  struct Reference {
    DType type;
    std::array<double, 5> errors;  // in the order of kTensorKinds
  };
  const std::array<Reference, 3> references = {{
      {DType::kQ4_K, {1.233921e-03, 2.348478e-02, 5.337623e-03, 3.320856e-04, 0}},
      {DType::kQ5_K, {6.248636e-04, 1.535162e-02, 2.922294e-03, 2.611960e-04, 0}},
      {DType::kQ6_K, {3.066740e-04, 9.035647e-03, 1.907742e-03, 2.472932e-04, 0}},
  }};
  for (const auto& reference : references) {
    for (std::size_t i = 0; i < testing::kTensorKinds.size(); ++i) {
      expect_error_at_most(reference.type, testing::kTensorKinds[i], reference.errors[i]);
    }
  }
}

// What was packed once is on the grid of the format: packing it again may find other scales, but
// hardly worse ones. (Not the same bytes: the search is greedy.)
TEST(Quantize, PackingAgainLosesLittle) {
  for (const DType type : kTypes) {
    const auto values = test_tensor("bell", 4096);
    const auto once = unpacked(type, packed(type, values), values.size());
    EXPECT_LE(error_of(type, once), error_of(values, once) * 0.5) << to_string(type);
  }
}

TEST(Quantize, EveryInstructionSetPacksTheSameBytes) {
  for (const DType type : kTypes) {
    for (const char* tensor : {"heavy-tailed", "near-constant"}) {
      const auto values = test_tensor(tensor, 8192);
      const auto expected = packed(type, values, InstructionSet::kPortable);
      for (const auto set : instruction_sets()) {
        EXPECT_EQ(packed(type, values, set), expected) << to_string(type) << ", " << tensor;
      }
    }
  }
}

TEST(Quantize, AConstantComesBack) {
  for (const DType type : kTypes) {
    for (const float constant : {0.5f, -0.5f, 1.0f}) {
      const auto values = std::vector<float>(256, constant);
      // The scales are fp16 numbers, 2^-11 apart at worst; in K formats times an integer.
      EXPECT_LE(error_of(type, values), std::fabs(constant) / 512) << to_string(type);
    }
  }
}

TEST(Quantize, HostileValuesStayFinite) {
  const float infinity = std::numeric_limits<float>::infinity();
  for (const DType type : kTypes) {
    for (const float value : {std::nanf(""), infinity, -infinity, 3e38f, 1e5f, 1e-8f, 1e-40f}) {
      auto values = test_tensor("bell", 512);
      values[3] = value;
      for (std::size_t i = 256; i < 512; ++i) values[i] = value * (i % 3 == 0 ? -1.0f : 1.0f);
      for (const float found : unpacked(type, packed(type, values), values.size())) {
        EXPECT_TRUE(std::isfinite(found)) << to_string(type) << ", " << value;
      }
    }
    // A NaN counts as 0: its neighbours are as good as beside a 0.
    auto values = test_tensor("bell", 256), with_nan = values;
    values[7] = 0;
    with_nan[7] = std::nanf("");
    EXPECT_EQ(packed(type, with_nan), packed(type, values)) << to_string(type);
  }
}

TEST(Quantize, WholeBlocksOfKnownTypesOnly) {
  const std::vector<float> values(512);
  std::vector<std::byte> to(1024);
  expect_error(ErrorKind::kInternal, "not whole Q4_K blocks",
               [&] { quantize(DType::kQ4_K, values.data(), 300, to.data()); });
  expect_error(ErrorKind::kInternal, "Q3_K",
               [&] { quantize(DType::kQ3_K, values.data(), 256, to.data()); });
  EXPECT_TRUE(can_quantize(DType::kQ5_K));
  EXPECT_FALSE(can_quantize(DType::kQ2_K));
  EXPECT_FALSE(can_quantize(DType::kBF16));
  quantize(DType::kQ4_K, values.data(), 0, nullptr);
}

TEST(QuantizeFloat8, RoundsAsPyTorchDoes) {
  const auto& golden = testing::goldens().at("float8_cast");
  const auto values = testing::floats(golden.at("values"));
  const auto codes = testing::from_hex(golden.at("codes"));
  ASSERT_GT(values.size(), 1000u);
  std::vector<std::byte> found(values.size());
  quantize_float8_e4m3(values.data(), static_cast<std::int64_t>(values.size()), 1, found.data());
  for (std::size_t i = 0; i < values.size(); ++i) {
    EXPECT_EQ(std::to_integer<int>(found[i]), std::to_integer<int>(codes[i])) << values[i];
  }
}

TEST(QuantizeFloat8, ScaleAndValuesComeBack) {
  for (const char* tensor : testing::kTensorKinds) {
    const auto values = test_tensor(tensor, 4096);
    const float scale = float8_e4m3_scale(values.data(), 4096);
    std::vector<std::byte> codes(values.size());
    quantize_float8_e4m3(values.data(), 4096, scale, codes.data());
    std::vector<float> found(values.size());
    unpack({.packing = Packing::kScaled,
            .dtype = DType::kF8E4M3,
            .row_values = 4096,
            .data = codes.data(),
            .scales = reinterpret_cast<const std::byte*>(&scale),
            .scale_count = 1},
           0, 4096, found.data());
    for (std::size_t i = 0; i < values.size(); ++i) {
      // Half a step of 3 bits of mantissa, or of the denormals.
      EXPECT_LE(std::fabs(found[i] - values[i]),
                std::max(std::fabs(values[i]) * 0x1.01p-4f, scale * 0x1.01p-10f));
    }
  }
}

TEST(QuantizeFloat8, NoScaleForNothing) {
  const std::vector<float> zeros(8);
  EXPECT_EQ(float8_e4m3_scale(zeros.data(), 8), 1.0f);
  EXPECT_EQ(float8_e4m3_scale(nullptr, 0), 1.0f);
  const std::vector<float> odd = {std::nanf(""), std::numeric_limits<float>::infinity(), -896};
  EXPECT_EQ(float8_e4m3_scale(odd.data(), 3), 2.0f);
  std::vector<std::byte> codes(3);
  quantize_float8_e4m3(odd.data(), 3, 2, codes.data());
  EXPECT_EQ(std::to_integer<int>(codes[0]) & 0x7f, 0x7f);  // NaN
  EXPECT_EQ(std::to_integer<int>(codes[1]), 0x7e);         // 448
  EXPECT_EQ(std::to_integer<int>(codes[2]), 0xfe);
}

}  // namespace
}  // namespace steadyflux

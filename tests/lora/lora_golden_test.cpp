// LoRA files in many formats against what diffusers' converters and peft make of them; the files
// are made by scripts/make_lora_goldens.py.
#include <gtest/gtest.h>

#include <cmath>
#include <map>
#include <string>

#include "lora/lora_file.h"
#include "lora_files.h"
#include "weights/safetensors.h"

namespace steadyflux {
namespace {

// diffusers multiplies alpha / rank into float32 factors, peft multiplies float32 matrices; values
// are of the order of 1, sums have at most eight addends.
constexpr double kTolerance = 1e-5;

const std::filesystem::path kFolder =
    std::filesystem::path(STEADYFLUX_SOURCE_DIR) / "tests/lora/goldens";

void expect_near(const Matrix& found, const Matrix& expected, const std::string& name) {
  ASSERT_EQ(found.rows, expected.rows) << name;
  ASSERT_EQ(found.columns, expected.columns) << name;
  double largest = 0;
  for (std::size_t i = 0; i < found.values.size(); ++i) {
    largest = std::max(largest, std::abs(found.values[i] - expected.values[i]));
  }
  EXPECT_LE(largest, kTolerance) << name;
}

// Control LoRAs replace the scales of norms.
constexpr std::pair<const char*, const char*> kNorms[] = {
    {"double_blocks.0.img_attn.norm.query_norm", "transformer.transformer_blocks.0.attn.norm_q"},
    {"double_blocks.0.img_attn.norm.key_norm", "transformer.transformer_blocks.0.attn.norm_k"},
    {"double_blocks.0.txt_attn.norm.query_norm",
     "transformer.transformer_blocks.0.attn.norm_added_q"},
    {"double_blocks.0.txt_attn.norm.key_norm",
     "transformer.transformer_blocks.0.attn.norm_added_k"},
    {"single_blocks.0.norm.query_norm", "transformer.single_transformer_blocks.0.attn.norm_q"},
    {"single_blocks.0.norm.key_norm", "transformer.single_transformer_blocks.0.attn.norm_k"}};

class LoraGoldenTest : public testing::TestWithParam<std::string> {};

TEST_P(LoraGoldenTest, HasTheTargetsAndValuesOfDiffusers) {
  const LoraFile lora = read_lora(kFolder / (GetParam() + ".safetensors"));
  const auto golden = SafetensorsFile::open(kFolder / (GetParam() + "_expected.safetensors"));
  std::map<std::string, Matrix> expected;
  for (const auto& [key, view] : golden.tensors) {
    if (key.ends_with(".up")) {
      const std::string name = key.substr(0, key.size() - 3);
      expected[name] = multiply(to_matrix(view), to_matrix(golden.tensors.at(name + ".down")));
    } else if (key.ends_with(".delta")) {
      expected[key.substr(0, key.size() - 6)] = to_matrix(view);
    }
  }
  for (const auto& [key, name] : kNorms) {
    const auto stored = SafetensorsFile::open(kFolder / (GetParam() + ".safetensors"));
    const auto norm = stored.tensors.find(std::string(key) + ".scale");
    if (norm != stored.tensors.end()) expected[name] = to_matrix(norm->second);
  }
  for (const LoraTarget& target : lora.targets) {
    const std::string name = name_of(target);
    ASSERT_EQ(target.terms.size(), 1U) << name;
    ASSERT_TRUE(expected.contains(name)) << name;
    expect_near(delta_of(target.terms[0]), expected[name], name);
    expected.erase(name);
    const auto bias = golden.tensors.find(name + ".bias");
    ASSERT_EQ(target.terms[0].bias.has_value(), bias != golden.tensors.end()) << name;
    if (target.terms[0].bias) {
      expect_near(select(to_matrix(*target.terms[0].bias), target.terms[0].rows),
                  to_matrix(bias->second), name);
    }
  }
  EXPECT_TRUE(expected.empty()) << "missing: " << expected.begin()->first;
  EXPECT_TRUE(lora.unmatched.empty()) << lora.unmatched.front();
}

INSTANTIATE_TEST_SUITE_P(Formats, LoraGoldenTest,
                         testing::Values("kohya", "kohya_split", "comfyui", "onetrainer", "xlabs",
                                         "control", "fal_kontext", "diffusers", "peft",
                                         "peft_rslora"),
                         [](const auto& format) { return format.param; });

}  // namespace
}  // namespace steadyflux

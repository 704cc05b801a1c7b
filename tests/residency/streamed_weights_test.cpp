// Weights that come and go: right values in every pass, whatever part stays in place; plans changed
// in between; files that break off while they are read.
#include "residency/streamed_weights.h"

#include <ATen/ATen.h>
#include <c10/core/InferenceMode.h>
#include <fmt/format.h>
#include <gtest/gtest.h>

#include <filesystem>
#include <fstream>
#include <nlohmann/json.hpp>

#include "expect_error.h"
#include "nn/allocate_aligned.h"
#include "residency/unit_layout.h"
#include "weights/uncached_file.h"

namespace steadyflux {
namespace {

namespace fs = std::filesystem;

constexpr std::int64_t kUnits = 5;

// Five units of a large and a small tensor, in one file; `shift` bytes of metadata move the data
// off its usual alignment.
class StreamedWeightsTest : public ::testing::TestWithParam<at::ScalarType> {
 protected:
  StreamedWeightsTest() {
    std::string name = (fs::temp_directory_path() / "steadyflux-streamed-XXXXXX").string();
    folder_ = ::mkdtemp(name.data());
    nlohmann::json header = nlohmann::json::object();
    std::int64_t end = 0;
    std::vector<at::Tensor> flat;
    for (std::int64_t i = 0; i < kUnits; ++i) {
      large_.push_back(at::randn({300 + 40 * i, 17}).to(at::kBFloat16));
      small_.push_back(at::randn({3 + i}).to(at::kBFloat16));
      for (const auto& [suffix, value] :
           {std::pair(".large", large_.back()), std::pair(".small", small_.back())}) {
        const auto begin = end;
        end += value.numel() * 2;
        header[fmt::format("u{}{}", i, suffix)] = {
            {"dtype", "BF16"}, {"shape", value.sizes().vec()}, {"data_offsets", {begin, end}}};
        flat.push_back(value);
      }
    }
    const auto text = header.dump() + " ";  // an odd length moves the data to odd addresses
    const auto length = static_cast<std::uint64_t>(text.size());
    std::ofstream out(file(), std::ios::binary);
    out.write(reinterpret_cast<const char*>(&length), sizeof length);
    out << text;
    for (const auto& value : flat) {
      out.write(static_cast<const char*>(value.const_data_ptr()),
                static_cast<std::streamsize>(value.nbytes()));
    }
    out.close();
    bound_large_.resize(kUnits);
    bound_small_.resize(kUnits);
  }
  ~StreamedWeightsTest() override { fs::remove_all(folder_); }

  fs::path file() const { return folder_ / "model.safetensors"; }

  std::vector<WeightUnit> units() {
    std::vector<WeightUnit> units;
    for (std::size_t i = 0; i < kUnits; ++i) {
      units.push_back({fmt::format("u{}", i), {}});
      const SlotScope scope(units.back().slots, fmt::format("u{}.", i));
      scope.tensor("large", bound_large_[i], large_[i].sizes().vec());
      scope.tensor("small", bound_small_[i], small_[i].sizes().vec());
    }
    return units;
  }

  // `residents`: one letter a unit, r(esident) or d(isk).
  static WeightsPlan plan(const std::string& places, std::int64_t buffers, std::int64_t passes) {
    WeightsPlan plan;
    for (const char c : places) {
      plan.places.push_back(c == 'r' ? UnitPlace::kResident : UnitPlace::kDisk);
    }
    plan.buffers = buffers;
    plan.passes = passes;
    return plan;
  }

  LoadOptions options() const {
    LoadOptions options;
    options.dtype = GetParam();
    return options;
  }

  void expect_pass(StreamedWeights& weights) { expect_units(weights, kUnits); }
  void expect_units(StreamedWeights& weights, std::size_t count) {
    for (std::size_t i = 0; i < count; ++i) {
      const auto lease = weights.acquire(i);
      ASSERT_TRUE(bound_large_[i].defined());
      EXPECT_EQ(bound_large_[i].scalar_type(), GetParam());
      EXPECT_TRUE(at::equal(bound_large_[i], large_[i].to(GetParam()))) << i;
      EXPECT_TRUE(at::equal(bound_small_[i], small_[i].to(GetParam()))) << i;
    }
  }

  const c10::InferenceMode inference_mode_;
  fs::path folder_;
  std::vector<at::Tensor> large_, small_, bound_large_, bound_small_;
};

TEST_P(StreamedWeightsTest, EveryPassHasTheRightValues) {
  for (const char* places : {"ddddd", "rdrdr", "drddr", "rrrrr"}) {
    for (const std::int64_t buffers : {1, 2, 3}) {
      StreamedWeights weights(units(), Checkpoint::open(folder_), options(),
                              plan(places, buffers, 4));
      for (int pass = 0; pass < 4; ++pass) expect_pass(weights);
    }
    for (const auto& tensor : bound_large_) EXPECT_FALSE(tensor.defined());
  }
}

TEST_P(StreamedWeightsTest, ReadsResidentsOnce) {
  const auto read = [&](const std::string& places, std::int64_t passes) {
    StreamedWeights weights(units(), Checkpoint::open(folder_), options(), plan(places, 2, passes));
    for (std::int64_t pass = 0; pass < passes; ++pass) expect_pass(weights);
    return weights.bytes_read();
  };
  const auto once = read("ddddd", 1);
  EXPECT_EQ(read("ddddd", 3), 3 * once);
  EXPECT_EQ(read("rrrrr", 3), once);
  const auto mixed = read("rdddd", 3);
  EXPECT_GT(mixed, once);
  EXPECT_LT(mixed, 3 * once);
}

TEST_P(StreamedWeightsTest, RestartKeepsWhatStays) {
  StreamedWeights weights(units(), Checkpoint::open(folder_), options(), plan("rrrdd", 2, 100));
  expect_pass(weights);
  const auto kept = bound_large_[0].const_data_ptr();
  weights.restart(plan("rdddd", 1, 3));
  for (int pass = 0; pass < 3; ++pass) expect_pass(weights);
  EXPECT_EQ(bound_large_[0].const_data_ptr(), kept);
  weights.restart(plan("ddddd", 1, 1));
  expect_pass(weights);
  weights.restart(plan("rrrrr", 0, 2));
  for (int pass = 0; pass < 2; ++pass) expect_pass(weights);
}

// Passes that end behind the first two units, and whole ones in between.
TEST_P(StreamedWeightsTest, APassMayEndBehindWhatAllWant) {
  for (const char* places : {"ddddd", "rdrdr", "rrddd", "rrrrr", "ddrrr"}) {
    for (const std::int64_t buffers : {1, 2, 3}) {
      auto planned = plan(places, buffers, 8);
      planned.always = 2;
      StreamedWeights weights(units(), Checkpoint::open(folder_), options(), planned);
      for (const bool whole : {false, true, false, false, true, true, false, true}) {
        expect_units(weights, whole ? kUnits : 2);
        if (!whole) weights.end_pass();
      }
    }
  }
}

// Nothing where units in front have to come again; what fits into the buffers and waits there where
// they need not.
TEST_P(StreamedWeightsTest, WhatIsLeftOutIsNotRead) {
  const auto read = [&](const std::string& places, const std::vector<bool>& passes) {
    auto planned = plan(places, 2, static_cast<std::int64_t>(passes.size()));
    planned.always = 2;
    StreamedWeights weights(units(), Checkpoint::open(folder_), options(), planned);
    for (const bool whole : passes) {
      expect_units(weights, whole ? kUnits : 2);
      if (!whole) weights.end_pass();
    }
    return weights.bytes_read();
  };
  const auto two = read("ddddd", {false}), all = read("ddddd", {true});
  EXPECT_LT(two, all);
  // The loader goes on to the next pass, of which it may have read as much as it has buffers for.
  EXPECT_EQ(read("ddddd", {true, false, false, false}), all + 3 * two);
  EXPECT_EQ(read("ddddd", {true, false, true, false}), 2 * all + 2 * two);
  // Two of the three units behind the residents are there already when the next pass begins.
  EXPECT_LT(read("rrddd", {true, false, false, false}), 2 * all - two);
  EXPECT_EQ(read("rrrrr", {true, false, true}), all);
}

TEST_P(StreamedWeightsTest, MorePassesThanPlannedIsAnErrorAndNotAHang) {
  StreamedWeights weights(units(), Checkpoint::open(folder_), options(), plan("ddrdd", 2, 1));
  expect_pass(weights);
  expect_error(ErrorKind::kInternal, "passes", [&] { weights.acquire(0); });
}

TEST_P(StreamedWeightsTest, EndsAtAnyTime) {
  for (std::size_t stop = 0; stop < kUnits; ++stop) {
    StreamedWeights weights(units(), Checkpoint::open(folder_), options(), plan("ddddd", 1, 50));
    for (std::size_t i = 0; i < stop; ++i) const auto lease = weights.acquire(i);
  }
}

TEST_P(StreamedWeightsTest, AFileThatBreaksOffIsBadInput) {
  const auto checkpoint = Checkpoint::open(folder_);
  fs::resize_file(file(), fs::file_size(file()) / 2);
  StreamedWeights weights(units(), checkpoint, options(), plan("ddddd", 2, 2));
  expect_error(ErrorKind::kBadInput, "model.safetensors", [&] { expect_pass(weights); });
}

INSTANTIATE_TEST_SUITE_P(Dtypes, StreamedWeightsTest, ::testing::Values(at::kBFloat16, at::kFloat));

TEST(UncachedFile, ReadsWhatIsThere) {
  std::string name = (fs::temp_directory_path() / "steadyflux-uncached-XXXXXX").string();
  const fs::path folder = ::mkdtemp(name.data());
  const auto path = folder / "file";
  {
    std::ofstream out(path, std::ios::binary);
    for (int i = 0; i < 10000; ++i) out.put(static_cast<char>(i * 7));
  }
  const auto file = UncachedFile::open(path);
  const auto bytes = allocate_aligned(3 * 4096);
  auto* data = reinterpret_cast<std::byte*>(bytes.mutable_data_ptr<std::uint8_t>());
  file->read(4096, 8192, 10000 - 4096, data);
  for (int i = 4096; i < 10000; ++i) {
    ASSERT_EQ(static_cast<std::uint8_t>(data[i - 4096]), static_cast<std::uint8_t>(i * 7)) << i;
  }
  expect_error(ErrorKind::kBadInput, "shorter", [&] { file->read(8192, 4096, 4096, data); });
  expect_error(ErrorKind::kBadInput, "not found", [&] { UncachedFile::open(folder / "none"); });
  fs::remove_all(folder);
}

}  // namespace
}  // namespace steadyflux

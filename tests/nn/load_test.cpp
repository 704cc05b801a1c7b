// Binding weights to slots: what is used in place, what is copied, converted, kept in fp32, and
// under which names it is found. (Refusals are tested in
// tests/transformer/bad_checkpoint_test.cpp.)
#include "nn/load.h"

#include <ATen/ATen.h>
#include <c10/core/InferenceMode.h>
#include <gtest/gtest.h>

#include <cstring>
#include <nlohmann/json.hpp>

#include "steadyflux/error.h"
#include "temp_folder.h"

namespace steadyflux {
namespace {

using Tensors = std::vector<std::pair<std::string, at::Tensor>>;

class Load : public ::testing::Test {
 protected:
  // Writes model.safetensors. `shift` moves the data by that many bytes from an 8-byte boundary.
  Checkpoint checkpoint(const Tensors& tensors, std::size_t shift = 0) const {
    nlohmann::json header;
    std::string data;
    for (const auto& [name, tensor] : tensors) {
      const auto begin = data.size();
      data.append(static_cast<const char*>(tensor.const_data_ptr()), tensor.nbytes());
      const auto type = tensor.scalar_type();
      header[name] = {{"dtype", type == at::kFloat      ? "F32"
                                : type == at::kHalf     ? "F16"
                                : type == at::kBFloat16 ? "BF16"
                                : type == at::kLong     ? "I64"
                                                        : "F64"},
                      {"shape", tensor.sizes().vec()},
                      {"data_offsets", {begin, data.size()}}};
    }
    auto text = header.dump();
    while (text.size() % 8 != shift) text += ' ';
    std::string length(8, '\0');
    const std::uint64_t size = text.size();
    std::memcpy(length.data(), &size, sizeof(size));
    folder_.write("model.safetensors", length + text + data);
    return Checkpoint::open(folder_.path());
  }

  const c10::InferenceMode inference_mode_;
  const TempFolder folder_;
  at::Tensor a_, b_;
};

TensorSlot slot_for(const std::string& name, at::Tensor& tensor, std::vector<std::int64_t> shape) {
  return {name, &tensor, std::move(shape), false, {}};
}

std::uintptr_t address(const at::Tensor& tensor) {
  return reinterpret_cast<std::uintptr_t>(tensor.const_data_ptr());
}

TEST_F(Load, AlignedTensorsLieInTheFile) {
  const auto x = at::randn({2, 3});
  const auto file = checkpoint({{"x", x}});
  load_slots(file, {slot_for("x", a_, {2, 3})}, {});
  EXPECT_TRUE(at::equal(a_, x));
  EXPECT_EQ(a_.const_data_ptr(), file.find("x")->data);
}

TEST_F(Load, TheMappingLivesAsLongAsItsTensors) {
  const auto x = at::randn({2, 3});
  load_slots(checkpoint({{"x", x}}), {slot_for("x", a_, {2, 3})}, {});
  EXPECT_TRUE(at::equal(a_, x));
}

TEST_F(Load, UnalignedTensorsAreCopied) {
  for (const std::size_t shift : {1, 2, 3, 4, 5, 6, 7}) {
    const auto x = at::randn({5, 3}), y = at::randn({7}).to(at::kBFloat16);
    const auto file = checkpoint({{"x", x}, {"y", y}}, shift);
    load_slots(file, {slot_for("x", a_, {5, 3}), slot_for("y", b_, {7})}, {});
    EXPECT_TRUE(at::equal(a_, x)) << "shift " << shift;
    EXPECT_TRUE(at::equal(b_, y.to(at::kFloat))) << "shift " << shift;
    EXPECT_EQ(address(a_) % sizeof(float), 0u);
    const auto raw = to_tensor(*file.find("y"));
    EXPECT_TRUE(at::equal(raw, y)) << "shift " << shift;
    EXPECT_EQ(address(raw) % 2, 0u);
  }
}

TEST_F(Load, EmptyAndScalarTensors) {
  const auto x = at::empty({0, 4}), y = at::scalar_tensor(2.5, at::kFloat);
  load_slots(checkpoint({{"x", x}, {"y", y}}, 3),
             {slot_for("x", a_, {0, 4}), slot_for("y", b_, {})}, {});
  EXPECT_EQ(a_.sizes(), x.sizes());
  EXPECT_EQ(b_.item<float>(), 2.5f);
}

TEST_F(Load, KeepInFp32CountsInFp16Only) {
  const auto x = at::randn({4}), y = at::randn({4});
  for (const auto dtype : {at::kFloat, at::kBFloat16, at::kHalf}) {
    auto kept = slot_for("x", a_, {4});
    kept.keep_in_fp32 = true;
    LoadOptions options;
    options.dtype = dtype;
    load_slots(checkpoint({{"x", x}, {"y", y}}), {kept, slot_for("y", b_, {4})}, options);
    EXPECT_EQ(b_.scalar_type(), dtype);
    EXPECT_EQ(a_.scalar_type(), dtype == at::kHalf ? at::kFloat : dtype);
    EXPECT_TRUE(at::equal(a_, x.to(a_.scalar_type())));
  }
}

// A Control LoRA's x_embedder has more columns than the file.
TEST_F(Load, ColumnsThatTheFileLacksAre0) {
  const auto stored = at::randn({3, 2});
  const auto file = checkpoint({{"x", stored}});
  auto slot = slot_for("x", a_, {3, 5});
  EXPECT_THROW(load_slots(file, {slot}, {}), Error);
  slot.stored_columns = 4;
  EXPECT_THROW(load_slots(file, {slot}, {}), Error);
  slot.stored_columns = 2;
  for (const auto dtype : {at::kFloat, at::kBFloat16}) {
    LoadOptions options;
    options.dtype = dtype;
    load_slots(file, {slot}, options);
    EXPECT_TRUE(at::equal(a_.narrow(1, 0, 2), stored.to(dtype)));
    EXPECT_TRUE(at::equal(a_.narrow(1, 2, 3), at::zeros({3, 3}, dtype)));
  }
  const auto whole = at::randn({3, 5});  // as Depth and Canny themselves have it
  load_slots(checkpoint({{"x", whole}}), {slot}, {});
  EXPECT_TRUE(at::equal(a_, whole));
}

TEST_F(Load, FindsATensorUnderItsOtherNames) {
  const auto x = at::randn({4});
  auto slot = slot_for("shared.weight", a_, {4});
  slot.aliases = {"encoder.embed_tokens.weight"};
  for (const auto* name : {"shared.weight", "encoder.embed_tokens.weight"}) {
    a_.reset();
    load_slots(checkpoint({{name, x}}), {slot}, {});
    EXPECT_TRUE(at::equal(a_, x)) << name;
  }
  // Both: the tied copy is not left over, and the first name counts.
  load_slots(checkpoint({{"encoder.embed_tokens.weight", x + 1}, {"shared.weight", x}}), {slot},
             {});
  EXPECT_TRUE(at::equal(a_, x));
}

TEST_F(Load, PrefixesThatSomeWritersAdd) {
  const auto x = at::randn({4});
  LoadOptions options;
  options.optional_prefix = "text_model.";
  for (const auto* name : {"final_layer_norm.weight", "text_model.final_layer_norm.weight"}) {
    a_.reset();
    load_slots(checkpoint({{name, x}}), {slot_for("final_layer_norm.weight", a_, {4})}, options);
    EXPECT_TRUE(at::equal(a_, x)) << name;
  }
  EXPECT_THROW(load_slots(checkpoint({{"other.final_layer_norm.weight", x}}),
                          {slot_for("final_layer_norm.weight", a_, {4})}, options),
               Error);
}

TEST_F(Load, IgnoredPrefixesMayHoldAnything) {
  const auto x = at::randn({4});
  const auto ids = at::arange(3, at::kLong);
  LoadOptions options;
  options.ignored_prefixes = {"encoder.", "position_ids"};
  const auto file = checkpoint({{"encoder.x", x}, {"position_ids", ids}, {"x", x}});
  load_slots(file, {slot_for("x", a_, {4})}, options);
  options.ignored_prefixes.pop_back();
  EXPECT_THROW(load_slots(file, {slot_for("x", a_, {4})}, options), Error);
}

TEST_F(Load, ProgressRunsFromNothingToAll) {
  const auto x = at::randn({4}), y = at::randn({2}).to(at::kHalf);
  LoadOptions options;
  std::vector<std::int64_t> done;
  options.progress = [&](std::int64_t bytes, std::int64_t total) {
    done.push_back(bytes);
    EXPECT_EQ(total, 20);
  };
  load_slots(checkpoint({{"x", x}, {"y", y}}), {slot_for("x", a_, {4}), slot_for("y", b_, {2})},
             options);
  EXPECT_EQ(done, (std::vector<std::int64_t>{0, 16, 20}));
}

TEST_F(Load, SlotBytes) {
  const std::vector<TensorSlot> slots = {slot_for("x", a_, {3, 5}), slot_for("y", b_, {})};
  EXPECT_EQ(slot_bytes(slots, at::kFloat), 64);
  EXPECT_EQ(slot_bytes(slots, at::kBFloat16), 32);
}

}  // namespace
}  // namespace steadyflux

// A checkpoint that does not fit its config is refused before anything is computed, with a message
// that names file and tensor. The good checkpoint is that of tests/goldens/a; each test changes the
// header of a copy.
#include <gtest/gtest.h>
#include <unistd.h>

#include <algorithm>
#include <cstring>
#include <fstream>
#include <iterator>
#include <nlohmann/json.hpp>

#include "config/model_config.h"
#include "nn/load.h"
#include "steadyflux/error.h"
#include "transformer/flux_transformer.h"

namespace steadyflux {
namespace {

constexpr const char* kFileName = "diffusion_pytorch_model.safetensors";

class BadCheckpoint : public ::testing::Test {
 protected:
  BadCheckpoint()
      : good_(std::filesystem::path(STEADYFLUX_SOURCE_DIR) / "tests/goldens/a/model/transformer"),
        folder_(std::filesystem::temp_directory_path() /
                ("steadyflux-bad-checkpoint-" + std::to_string(getpid()))) {
    std::filesystem::create_directories(folder_);
  }
  ~BadCheckpoint() override { std::filesystem::remove_all(folder_); }

  // Writes the good file with its header edited, loads it, and gives the message of the refusal.
  template <typename Edit>
  std::string refusal(Edit edit) const {
    std::ifstream in(good_ / kFileName, std::ios::binary);
    const std::string bytes((std::istreambuf_iterator<char>(in)), {});
    std::uint64_t length = 0;
    std::memcpy(&length, bytes.data(), sizeof(length));
    auto header = nlohmann::json::parse(bytes.substr(sizeof(length), length));
    edit(header);
    const auto text = header.dump();
    const std::uint64_t new_length = text.size();
    std::ofstream out(folder_ / kFileName, std::ios::binary);
    out.write(reinterpret_cast<const char*>(&new_length), sizeof(new_length));
    out << text << bytes.substr(sizeof(length) + length);
    out.close();
    try {
      FluxTransformer model(read_flux_transformer_config(good_ / "config.json"));
      load_slots(Checkpoint::open(folder_), model.slots(), LoadOptions{});
    } catch (const Error& error) {
      EXPECT_EQ(error.kind(), ErrorKind::kBadInput);
      const std::string message = error.what();
      EXPECT_NE(message.find(folder_.string()), std::string::npos) << message;
      EXPECT_EQ(message.find('\n'), std::string::npos) << message;
      return message;
    }
    return "(accepted)";
  }

  static void expect_names(const std::string& message, const std::string& tensor) {
    EXPECT_NE(message.find(tensor), std::string::npos) << message;
  }

  std::filesystem::path good_, folder_;
};

TEST_F(BadCheckpoint, UnchangedIsAccepted) {
  EXPECT_EQ(refusal([](nlohmann::json&) {}), "(accepted)");
}

TEST_F(BadCheckpoint, WrongShape) {
  const std::string name = "transformer_blocks.0.attn.to_q.weight";  // [20, 20], same byte count
  const auto message = refusal([&](nlohmann::json& header) { header[name]["shape"] = {10, 40}; });
  expect_names(message, name);
  expect_names(message, "[10, 40]");
  expect_names(message, "[20, 20]");
}

TEST_F(BadCheckpoint, MissingTensor) {
  // Renamed rather than removed: a gap in the data is another error.
  const std::string name = "single_transformer_blocks.0.proj_out.weight";
  const auto message = refusal([&](nlohmann::json& header) {
    header["single_transformer_blocks.0.proj_away.weight"] = header[name];
    header.erase(name);
  });
  expect_names(message, name);
}

TEST_F(BadCheckpoint, ExtraTensor) {
  const std::string name = "transformer_blocks.0.attn.to_x.bias";
  const auto message = refusal([&](nlohmann::json& header) {
    // An empty tensor at the end of the data: correct in itself, but nothing asks for it.
    std::uint64_t end = 0;
    for (const auto& [key, value] : header.items()) {
      if (key != "__metadata__") end = std::max(end, value["data_offsets"][1].get<std::uint64_t>());
    }
    header[name] = {{"dtype", "F32"}, {"shape", {0}}, {"data_offsets", {end, end}}};
  });
  expect_names(message, name);
}

TEST_F(BadCheckpoint, IntegerWeights) {
  const std::string name = "proj_out.bias";
  expect_names(refusal([&](nlohmann::json& header) { header[name]["dtype"] = "I32"; }), name);
}

}  // namespace
}  // namespace steadyflux

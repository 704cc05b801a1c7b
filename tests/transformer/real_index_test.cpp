// The real FLUX.1 transformer, without its weights: every tensor name of the published index has
// its place in our structs, none is left over, and the shapes that follow from the config add up to
// the size the index states. Needs the folder ../shared/flux1 beside the checkout.
#include <gtest/gtest.h>

#include <filesystem>
#include <fstream>
#include <nlohmann/json.hpp>
#include <set>

#include "config/model_config.h"
#include "nn/load.h"
#include "transformer/flux_transformer.h"

namespace steadyflux {
namespace {

class RealTransformerIndex : public ::testing::TestWithParam<const char*> {};

TEST_P(RealTransformerIndex, NamesAndTotalSize) {
  const auto folder = std::filesystem::path(STEADYFLUX_SOURCE_DIR).parent_path() / "shared" /
                      "flux1" / GetParam() / "transformer";
  if (!std::filesystem::exists(folder)) GTEST_SKIP() << "no " << folder;
  std::ifstream file(folder / "diffusion_pytorch_model.safetensors.index.json");
  const auto index = nlohmann::json::parse(file);
  std::set<std::string> expected;
  for (const auto& item : index.at("weight_map").items()) expected.insert(item.key());

  FluxTransformer model(read_flux_transformer_config(folder / "config.json"));
  std::set<std::string> found;
  for (const auto& slot : model.slots()) {
    EXPECT_TRUE(found.insert(slot.name).second) << slot.name << " has two slots";
    EXPECT_TRUE(expected.count(slot.name)) << slot.name << " is not in the index";
  }
  for (const auto& name : expected) {
    EXPECT_TRUE(found.count(name)) << name << " has no place in our structs";
  }
  EXPECT_EQ(slot_bytes(model.slots(), at::kBFloat16),
            index.at("metadata").at("total_size").get<std::int64_t>());
}

INSTANTIATE_TEST_SUITE_P(Flux1, RealTransformerIndex, ::testing::Values("schnell", "dev"));

}  // namespace
}  // namespace steadyflux

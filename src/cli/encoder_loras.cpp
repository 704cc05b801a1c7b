#include "cli/encoder_loras.h"

#include <fmt/format.h>
#include <fmt/ranges.h>

#include <algorithm>

#include "embeddings/kept_identity.h"
#include "lora/lora_file.h"

namespace steadyflux::cli {
namespace {

bool changes_an_encoder(const LoraUse& use) {
  if (use.strength == 0) return false;
  const auto lora = read_lora(use.path);
  return std::any_of(lora.targets.begin(), lora.targets.end(), [](const LoraTarget& target) {
    return target.component != LoraComponent::kTransformer;
  });
}

}  // namespace

std::string encoder_loras(const std::vector<LoraUse>& loras,
                          const std::filesystem::path& cache_folder) {
  std::vector<std::string> names;
  for (const LoraUse& use : loras) {
    if (!changes_an_encoder(use)) continue;
    const auto identity = kept_identity({{"lora", use.path}}, cache_folder);
    names.push_back(fmt::format("{}:{}", identity, use.strength));
  }
  if (names.empty()) return "none";
  std::sort(names.begin(), names.end());
  return fmt::format("{}", fmt::join(names, ","));
}

}  // namespace steadyflux::cli

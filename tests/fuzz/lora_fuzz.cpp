// LoRA files. The first byte says what the rest of the input is: a safetensors file as it is; lines
// of keys and shapes, "KEY 2,3", from which a sound file is made ("@TEXT" is its adapter metadata);
// or what someone typed for a LoRA. Whatever read_lora hands out must be consistent in itself: the
// program multiplies these matrices without asking again.
#include <cmath>
#include <cstddef>
#include <cstdint>
#include <map>
#include <sstream>
#include <string>
#include <vector>

#include "lora/lora_file.h"
#include "lora/lora_spec.h"
#include "lora/lora_summary.h"
#include "steadyflux/error.h"
#include "temp_folder.h"
#include "weights/safetensors_writer.h"

namespace {

using steadyflux::LoraFactor;
using steadyflux::LoraTerm;
using steadyflux::TensorView;

void require(bool holds) {
  if (!holds) __builtin_trap();
}

void check(const TensorView& view, std::size_t dimensions) {
  const auto file = view.file->bytes();
  require(view.shape.size() == dimensions);
  std::size_t expected = steadyflux::item_size(view.dtype);
  for (const std::int64_t side : view.shape) {
    require(side > 0);
    expected *= static_cast<std::size_t>(side);
  }
  require(expected == view.nbytes && view.data >= file.data());
  require(view.data + view.nbytes <= file.data() + file.size());
}

void check(const LoraFactor& factor, std::size_t dimensions) {
  check(factor.left, dimensions);
  if (!factor.right) return;
  check(*factor.right, 2);
  require(factor.left.shape[1] == factor.right->shape[0]);
}

void check(const LoraTerm& term) {
  using steadyflux::LoraKind;
  require(term.first || (term.kind == LoraKind::kFull && term.bias));
  const bool has_second = term.kind == LoraKind::kLoha || term.kind == LoraKind::kLokr;
  require(has_second == term.second.has_value());
  require(std::isfinite(term.scale) && term.rank >= 0);
  if (term.first) {
    const bool is_vector = term.kind == LoraKind::kFull && term.first->left.shape.size() == 1;
    check(*term.first, is_vector ? 1 : 2);
  }
  if (term.second) check(*term.second, 2);
  if (term.bias) check(*term.bias, 1);
  if (term.dora_scale) {
    check(*term.dora_scale, 1);
    require(term.dora_scale->shape[0] ==
            (term.dora_on_output ? term.delta_rows() : term.delta_columns()));
  }
  const std::int64_t rows = term.first ? term.delta_rows() : term.bias->shape[0];
  if (term.bias) require(term.bias->shape[0] == rows);
  require(term.selected_rows() > 0 && term.selected_rows() <= rows);
  for (const auto& range : term.rows) {
    require(range.begin >= 0 && range.begin < range.end && range.end <= rows);
  }
}

// A file of zeros with the listed tensors; small, whatever the shapes say.
std::string make_file(const std::string& lines) {
  static const std::vector<std::byte> zeros(4096);
  std::vector<steadyflux::TensorToWrite> tensors;
  std::map<std::string, std::string> metadata;
  std::istringstream in(lines);
  for (std::string line; std::getline(in, line);) {
    if (line.starts_with('@')) {
      metadata["lora_adapter_metadata"] = line.substr(1);
      continue;
    }
    const std::size_t space = line.rfind(' ');
    if (space == std::string::npos) continue;
    steadyflux::TensorLayout layout{line.substr(0, space), steadyflux::DType::kBF16, {}};
    std::istringstream shape(line.substr(space + 1));
    for (std::string side; std::getline(shape, side, ',') && layout.shape.size() < 16;) {
      layout.shape.push_back(std::strtoll(side.c_str(), nullptr, 10));
      if (layout.shape.back() < 0) layout.shape.back() = 0;
    }
    const std::size_t bytes = steadyflux::tensor_bytes(layout);
    if (bytes <= zeros.size()) tensors.push_back({layout, {zeros.data(), bytes}});
  }
  const auto bytes = steadyflux::safetensors_bytes(std::move(tensors), metadata);
  return {bytes.begin(), bytes.end()};
}

void read(const std::filesystem::path& path) {
  steadyflux::LoraFile lora = steadyflux::read_lora(path);
  require(!lora.targets.empty() && !lora.format.empty());
  std::map<std::string, const LoraTerm*> first_terms;
  for (const auto& target : lora.targets) {
    require(!target.terms.empty());
    for (const LoraTerm& term : target.terms) check(term);
    // As one layer, one target.
    require(
        first_terms.emplace(to_string(target.component) + target.layer, &target.terms[0]).second);
  }
  const auto summary = steadyflux::summarize(lora);
  require(summary.targets.size() == lora.targets.size());
  const std::size_t count = lora.targets.size();
  std::map<std::string, steadyflux::LoraLayerShape> shapes;
  for (const auto& [name, term] : first_terms) {
    shapes[name] = {term->selected_rows(), term->delta_columns()};
  }
  check_targets(lora, [&](steadyflux::LoraComponent component, const std::string& layer) {
    return std::optional(shapes.at(to_string(component) + layer));
  });
  require(lora.targets.size() == count);
}

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
  static const TempFolder folder;
  if (size == 0) return 0;
  const std::string input(reinterpret_cast<const char*>(data) + 1, size - 1);
  try {
    if (data[0] % 3 == 2) {
      require(std::isfinite(steadyflux::parse_lora_spec(input).scale));
      return 0;
    }
    std::filesystem::remove(folder / "x.safetensors");
    folder.write("x.safetensors", data[0] % 3 == 0 ? input : make_file(input));
    read(folder / "x.safetensors");
  } catch (const steadyflux::Error&) {
  }
  return 0;
}

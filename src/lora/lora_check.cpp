// A LoRA file against the model it is to change.
#include <fmt/format.h>

#include <algorithm>
#include <set>
#include <utility>

#include "base/utf8.h"
#include "lora/lora_file.h"
#include "steadyflux/error.h"

namespace steadyflux {
namespace {

void check_term(const LoraFile& lora, const LoraTarget& target, const LoraTerm& term,
                const LoraLayerShape& layer) {
  const auto fail = [&](const std::string& what) {
    return Error(ErrorKind::kBadInput,
                 fmt::format("{}: '{}' {}", lora.path.string(), printable(term.source), what));
  };
  const std::string name = to_string(target.component) + "." + target.layer;
  const std::int64_t rows = term.selected_rows();
  if (!term.first) {
    if (rows == layer.out) return;
    throw fail(fmt::format("changes {} biases of {}, which has {} rows; is this LoRA for FLUX.1?",
                           rows, name, layer.out));
  }
  const std::int64_t columns = term.delta_columns();
  const bool narrow = layer.narrow_in > 0 && columns == layer.narrow_in;
  if (rows == layer.out && (columns == layer.in || narrow)) return;
  throw fail(fmt::format("changes a [{}, {}], but {} is [{}, {}]; is this LoRA for FLUX.1?", rows,
                         columns, name, layer.out, layer.in));
}

}  // namespace

void check_targets(LoraFile& lora, const FindLoraLayer& find_layer) {
  std::vector<LoraTarget> known;
  std::set<std::string> unknown;
  for (LoraTarget& target : lora.targets) {
    const auto layer = find_layer(target.component, target.layer);
    if (!layer) {
      for (const LoraTerm& term : target.terms) unknown.insert(term.source);
      continue;
    }
    for (const LoraTerm& term : target.terms) check_term(lora, target, term, *layer);
    known.push_back(std::move(target));
  }
  if (known.empty()) {
    throw Error(
        ErrorKind::kBadInput,
        fmt::format("{}: the model has none of the layers that this LoRA changes (the "
                    "first is '{}'); is it for another model?",
                    lora.path.string(), unknown.empty() ? "" : printable(*unknown.begin())));
  }
  lora.targets = std::move(known);
  lora.unmatched.insert(lora.unmatched.end(), unknown.begin(), unknown.end());
  std::sort(lora.unmatched.begin(), lora.unmatched.end());
}

}  // namespace steadyflux

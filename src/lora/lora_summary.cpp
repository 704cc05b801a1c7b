#include "lora/lora_summary.h"

#include <algorithm>
#include <set>

namespace steadyflux {

LoraSummary summarize(const LoraFile& lora) {
  LoraSummary summary;
  summary.format = lora.format;
  std::set<LoraKind> kinds;
  bool has_dora = false;
  for (const LoraTarget& target : lora.targets) {
    const std::string component = to_string(target.component);
    ++summary.components[component];
    summary.targets.push_back(component + "." + target.layer);
    for (const LoraTerm& term : target.terms) {
      kinds.insert(term.kind);
      has_dora = has_dora || term.dora_scale;
      if (term.rank == 0) continue;
      summary.min_rank = summary.min_rank == 0 ? term.rank : std::min(summary.min_rank, term.rank);
      summary.max_rank = std::max(summary.max_rank, term.rank);
    }
  }
  for (const LoraKind kind : kinds) summary.kinds.push_back(to_string(kind));
  if (has_dora) summary.kinds.emplace_back("DoRA");
  summary.unmatched = lora.unmatched;
  return summary;
}

}  // namespace steadyflux

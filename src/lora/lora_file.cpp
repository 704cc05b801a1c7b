#include "lora/lora_file.h"

#include <fmt/format.h>

#include <algorithm>
#include <cmath>
#include <initializer_list>
#include <map>
#include <set>
#include <utility>

#include "base/utf8.h"
#include "lora/lora_keys.h"
#include "lora/lora_metadata.h"
#include "lora/lora_terms.h"
#include "steadyflux/error.h"
#include "weights/checkpoint.h"

namespace steadyflux {
namespace {

// A term and how its file called the layer.
struct PlacedTerm {
  LoraTerm term;
  LoraNaming naming;
};

class LoraReader {
 public:
  explicit LoraReader(const std::filesystem::path& path) : path_(path) {}

  LoraFile read() {
    const Checkpoint file = Checkpoint::open(path_);
    if (file.is_gguf()) {
      throw Error(ErrorKind::kBadInput,
                  path_.string() + ": is a GGUF file; LoRAs are read from safetensors");
    }
    configs_ = read_peft_configs(file.metadata(), path_);
    std::vector<std::string> all_keys;
    for (const auto& [key, view] : file.tensors()) {
      all_keys.push_back(key);
      sort_in(key, view);
    }
    for (const auto& [stem, group] : groups_) place(stem, group);
    // Norms alone are those of a model.
    if (std::none_of(targets_.begin(), targets_.end(), [](const auto& target) {
          return target.second.front().term.kind != LoraKind::kWhole;
        })) {
      throw Error(ErrorKind::kBadInput,
                  fmt::format("{}: no layer of FLUX.1 in it, it seems to be {}; expected a LoRA "
                              "for FLUX.1",
                              path_.string(), guess_other_model(all_keys)));
    }
    return result();
  }

 private:
  Error fail(const std::string& what) const {
    return Error(ErrorKind::kBadInput, fmt::format("{}: {}", path_.string(), what));
  }

  void sort_in(const std::string& key, TensorView view) {
    const auto parts = split_lora_key(key);
    if (!parts) {
      unmatched_.push_back(key);
      return;
    }
    const auto [it, inserted] = groups_[std::string(parts->stem)].try_emplace(
        parts->role, LoraTensor{key, std::move(view)});
    if (!inserted) {
      throw fail(fmt::format("'{}' and '{}' say the same thing twice; expected one adapter",
                             printable(it->second.key), printable(key)));
    }
  }

  void leave_out(const LoraGroup& group) {
    for (const auto& [role, tensor] : group) {
      static_cast<void>(role);
      unmatched_.push_back(tensor.key);
    }
  }

  void place(const std::string& stem, const LoraGroup& group) {
    const auto places = place_lora_stem(stem);
    if (!places) {
      leave_out(group);
      return;
    }
    const LoraGroupTerms read = read_lora_group(group, stem, path_);
    if (read.terms.empty()) {
      leave_out(group);
      return;
    }
    for (const LoraPlace& place : places->places) {
      auto& terms = targets_[{place.component, place.layer}];
      for (LoraTerm term : read.terms) {
        cut(term, place);
        if (!read.alpha) set_scale(term, place);
        terms.push_back({std::move(term), places->naming});
      }
    }
  }

  // Narrows a fused layer's term to the rows of `place`.
  void cut(LoraTerm& term, const LoraPlace& place) const {
    if (place.shares.empty()) return;
    const std::int64_t rows = term.first ? term.delta_rows() : term.bias->shape[0];
    if (rows % place.parts != 0) {
      throw fail(fmt::format("'{}' changes {} rows of a layer that consists of {} equal parts",
                             printable(term.source), rows, place.parts));
    }
    if (term.dora_scale && !term.dora_on_output && place.shares.size() == 1) {
      throw fail(
          fmt::format("'{}' is a DoRA with magnitudes per column over layers that are "
                      "separate here (q, k, v); only magnitudes per row can be split",
                      printable(term.source)));
    }
    const std::int64_t part = rows / place.parts;
    for (const RowRange& share : place.shares) {
      term.rows.push_back({share.begin * part, share.end * part});
    }
  }

  void set_scale(LoraTerm& term, const LoraPlace& place) const {
    const auto config = configs_.find(place.component);
    if (config == configs_.end()) return;
    auto rank = static_cast<double>(term.rank);
    if (term.kind == LoraKind::kLokr && rank == 0) rank = config->second.lokr_rank_of(place.layer);
    if (rank < 1) return;
    term.scale =
        config->second.alpha_of(place.layer) / (config->second.use_rslora ? std::sqrt(rank) : rank);
  }

  // Some files hold the same LoRA in diffusers' and in kohya's names, for programs that know only
  // one of them. diffusers takes its own names then, and so do we; the others count as unmatched.
  void drop_copies() {
    const auto named_by = [](const PlacedTerm& placed, std::initializer_list<LoraNaming> namings) {
      return std::find(namings.begin(), namings.end(), placed.naming) != namings.end();
    };
    std::set<std::string> copies;  // stems
    for (const auto& [place, terms] : targets_) {
      static_cast<void>(place);
      const bool has_own = std::any_of(terms.begin(), terms.end(), [&](const PlacedTerm& placed) {
        return named_by(placed, {LoraNaming::kDiffusers});
      });
      for (const PlacedTerm& placed : terms) {
        if (has_own && named_by(placed, {LoraNaming::kKohya, LoraNaming::kOneTrainer})) {
          copies.insert(placed.term.source);
        }
      }
    }
    for (auto& [place, terms] : targets_) {
      static_cast<void>(place);
      std::erase_if(terms,
                    [&](const PlacedTerm& placed) { return copies.contains(placed.term.source); });
    }
    for (const std::string& stem : copies) leave_out(groups_.at(stem));
  }

  LoraFile result() {
    LoraFile lora;
    lora.path = path_;
    std::set<LoraNaming> namings;
    drop_copies();
    for (auto& [place, terms] : targets_) {
      if (terms.empty()) continue;
      LoraTarget target{place.first, place.second, {}};
      const std::string source = terms.front().term.source;
      for (PlacedTerm& placed : terms) {
        if (placed.term.source != source) {
          throw fail(fmt::format("'{}' and '{}' both change {}.{}; expected one of them",
                                 printable(source), printable(placed.term.source),
                                 to_string(place.first), place.second));
        }
        namings.insert(placed.naming);
        target.terms.push_back(std::move(placed.term));
      }
      lora.targets.push_back(std::move(target));
    }
    for (const LoraNaming naming : namings) {
      lora.format += (lora.format.empty() ? "" : " + ") + to_string(naming);
    }
    std::sort(unmatched_.begin(), unmatched_.end());
    lora.unmatched = std::move(unmatched_);
    return lora;
  }

  const std::filesystem::path& path_;
  std::map<LoraComponent, PeftConfig> configs_;
  std::map<std::string, LoraGroup> groups_;  // by stem
  std::map<std::pair<LoraComponent, std::string>, std::vector<PlacedTerm>> targets_;
  std::vector<std::string> unmatched_;
};

}  // namespace

std::string to_string(LoraComponent component) {
  switch (component) {
    case LoraComponent::kTransformer:
      return "transformer";
    case LoraComponent::kTextEncoder:
      return "text_encoder";
    case LoraComponent::kTextEncoder2:
      return "text_encoder_2";
  }
  return "";
}

std::string to_string(LoraKind kind) {
  switch (kind) {
    case LoraKind::kLora:
      return "LoRA";
    case LoraKind::kLoha:
      return "LoHa";
    case LoraKind::kLokr:
      return "LoKr";
    case LoraKind::kFull:
      return "full";
    case LoraKind::kWhole:
      return "whole";
  }
  return "";
}

std::int64_t LoraTerm::delta_rows() const {
  if (!first) return 0;
  return kind == LoraKind::kLokr ? first->rows() * second->rows() : first->rows();
}

std::int64_t LoraTerm::delta_columns() const {
  if (!first) return 0;
  return kind == LoraKind::kLokr ? first->columns() * second->columns() : first->columns();
}

std::int64_t LoraTerm::selected_rows() const {
  if (rows.empty()) return first ? delta_rows() : bias->shape[0];
  std::int64_t sum = 0;
  for (const RowRange& range : rows) sum += range.end - range.begin;
  return sum;
}

std::int64_t input_channels(const LoraFile& lora) {
  std::int64_t channels = 0;
  for (const LoraTarget& target : lora.targets) {
    if (target.component != LoraComponent::kTransformer || target.layer != "x_embedder") continue;
    for (const LoraTerm& term : target.terms) channels = std::max(channels, term.delta_columns());
  }
  return channels;
}

LoraFile read_lora(const std::filesystem::path& path) { return LoraReader(path).read(); }

}  // namespace steadyflux

// FLUX.1's transformer: BFL's names <-> diffusers' names. The tables say it once; both directions
// walk them.
#include <array>

#include "weights/key_names_parse.h"

namespace steadyflux {
namespace {

using key_names::is_weight_or_bias;
using key_names::join;
using key_names::ours_of;
using key_names::Rename;
using key_names::split_leaf;
using key_names::stored_of;
using key_names::take;
using key_names::take_number;
using key_names::whole;

// A module, and the modules whose rows follow each other in it.
struct Fused {
  std::string_view stored;
  std::array<std::string_view, 4> ours;  // unused ones are empty
  std::array<int, 4> rows;               // in shares
};

constexpr Rename kTop[] = {
    {"img_in", "x_embedder"},
    {"txt_in", "context_embedder"},
    {"time_in.in_layer", "time_text_embed.timestep_embedder.linear_1"},
    {"time_in.out_layer", "time_text_embed.timestep_embedder.linear_2"},
    {"vector_in.in_layer", "time_text_embed.text_embedder.linear_1"},
    {"vector_in.out_layer", "time_text_embed.text_embedder.linear_2"},
    {"guidance_in.in_layer", "time_text_embed.guidance_embedder.linear_1"},
    {"guidance_in.out_layer", "time_text_embed.guidance_embedder.linear_2"},
    {"final_layer.linear", "proj_out"},
};
// Its halves change places.
constexpr Rename kLastModulation = {"final_layer.adaLN_modulation.1", "norm_out.linear"};

// The modules of a kind of block: plain ones, norms (weight only, BFL says "scale"), fused ones.
constexpr Rename kDouble[] = {
    {"img_mod.lin", "norm1.linear"},        {"txt_mod.lin", "norm1_context.linear"},
    {"img_attn.proj", "attn.to_out.0"},     {"txt_attn.proj", "attn.to_add_out"},
    {"img_mlp.0", "ff.net.0.proj"},         {"img_mlp.2", "ff.net.2"},
    {"txt_mlp.0", "ff_context.net.0.proj"}, {"txt_mlp.2", "ff_context.net.2"},
};
constexpr Rename kDoubleNorms[] = {
    {"img_attn.norm.query_norm", "attn.norm_q"},
    {"img_attn.norm.key_norm", "attn.norm_k"},
    {"txt_attn.norm.query_norm", "attn.norm_added_q"},
    {"txt_attn.norm.key_norm", "attn.norm_added_k"},
};
constexpr Fused kDoubleFused[] = {
    {"img_attn.qkv", {"attn.to_q", "attn.to_k", "attn.to_v"}, {1, 1, 1, 0}},
    {"txt_attn.qkv", {"attn.add_q_proj", "attn.add_k_proj", "attn.add_v_proj"}, {1, 1, 1, 0}},
};

constexpr Rename kSingle[] = {{"modulation.lin", "norm.linear"}, {"linear2", "proj_out"}};
constexpr Rename kSingleNorms[] = {
    {"norm.query_norm", "attn.norm_q"},
    {"norm.key_norm", "attn.norm_k"},
};
// FLUX.1's MLP is four times as wide as the model.
constexpr Fused kSingleFused[] = {
    {"linear1", {"attn.to_q", "attn.to_k", "attn.to_v", "proj_mlp"}, {1, 1, 1, 4}},
};

struct BlockKind {
  std::string_view stored;
  std::string_view ours;
  std::span<const Rename> plain;
  std::span<const Rename> norms;
  std::span<const Fused> fused;
};
constexpr BlockKind kBlockKinds[] = {
    {"double_blocks.", "transformer_blocks.", kDouble, kDoubleNorms, kDoubleFused},
    {"single_blocks.", "single_transformer_blocks.", kSingle, kSingleNorms, kSingleFused},
};

std::vector<RowPlacement> block_placements(const BlockKind& kind, std::string_view rest) {
  const auto number = take_number(rest);
  if (number.empty()) return {};
  const auto [module, leaf] = split_leaf(rest);
  const std::string block = join(kind.ours, number, ".");
  if (const auto norm = ours_of(kind.norms, module); !norm.empty()) {
    if (leaf != "scale" && leaf != "weight") return {};
    return whole(join(block, norm, ".weight"));
  }
  if (!is_weight_or_bias(leaf)) return {};
  if (const auto plain = ours_of(kind.plain, module); !plain.empty()) {
    return whole(join(block, plain, ".", leaf));
  }
  for (const Fused& fused : kind.fused) {
    if (fused.stored != module) continue;
    int of = 0;
    for (const int rows : fused.rows) of += rows;
    std::vector<RowPlacement> result;
    int begin = 0;
    for (std::size_t i = 0; i < fused.ours.size() && fused.rows[i] > 0; ++i) {
      const int end = begin + fused.rows[i];
      result.push_back(
          {.name = join(block, fused.ours[i], ".", leaf), .begin = begin, .end = end, .of = of});
      begin = end;
    }
    return result;
  }
  return {};
}

std::string block_bfl_name(const BlockKind& kind, std::string_view rest) {
  const auto number = take_number(rest);
  if (number.empty()) return {};
  const auto [module, leaf] = split_leaf(rest);
  const std::string block = join(kind.stored, number, ".");
  if (const auto norm = stored_of(kind.norms, module); !norm.empty()) {
    return leaf == "weight" ? join(block, norm, ".scale") : "";
  }
  if (!is_weight_or_bias(leaf)) return {};
  if (const auto plain = stored_of(kind.plain, module); !plain.empty()) {
    return join(block, plain, ".", leaf);
  }
  for (const Fused& fused : kind.fused) {
    for (const auto ours : fused.ours) {
      if (!ours.empty() && ours == module) return join(block, fused.stored, ".", leaf);
    }
  }
  return {};
}

}  // namespace

std::vector<RowPlacement> transformer_placements(const std::string& stored) {
  for (const BlockKind& kind : kBlockKinds) {
    std::string_view rest = stored;
    if (take(rest, kind.stored)) return block_placements(kind, rest);
  }
  const auto [module, leaf] = split_leaf(stored);
  if (is_weight_or_bias(leaf)) {
    if (const auto top = ours_of(kTop, module); !top.empty()) return whole(join(top, ".", leaf));
    if (module == kLastModulation.stored) {
      const std::string name = join(kLastModulation.ours, ".", leaf);
      return {{.name = name, .begin = 0, .end = 1, .of = 2, .position = 1, .stretches = 2},
              {.name = name, .begin = 1, .end = 2, .of = 2, .position = 0, .stretches = 2}};
    }
  }
  if (!transformer_bfl_name(stored).empty()) return whole(stored);
  return {};
}

std::string transformer_bfl_name(const std::string& diffusers) {
  for (const BlockKind& kind : kBlockKinds) {
    std::string_view rest = diffusers;
    if (take(rest, kind.ours)) return block_bfl_name(kind, rest);
  }
  const auto [module, leaf] = split_leaf(diffusers);
  if (!is_weight_or_bias(leaf)) return {};
  if (module == kLastModulation.ours) return join(kLastModulation.stored, ".", leaf);
  const auto top = stored_of(kTop, module);
  return top.empty() ? "" : join(top, ".", leaf);
}

std::vector<RowSource> transformer_sources(const std::string& bfl) {
  if (!transformer_bfl_name(bfl).empty()) return {};  // a diffusers name
  std::vector<RowSource> result;
  for (const RowPlacement& part : transformer_placements(bfl)) {
    result.push_back({part.name, part.position, part.position + 1, part.stretches});
  }
  return result;
}

}  // namespace steadyflux

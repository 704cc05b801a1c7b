#include "text_encoder/t5_encoder.h"

#include <ATen/ATen.h>

#include <cmath>
#include <map>
#include <numbers>
#include <utility>

#include "nn/reused_buffers.h"
#include "nn/row_kernels.h"

namespace steadyflux {
namespace {

// T5LayerNorm: statistics in fp32, the product rounded to the weight's dtype, then the weight.
at::Tensor t5_layer_norm(const at::Tensor& x, const at::Tensor& weight, double eps) {
  if (const auto rows = x.flatten(0, -2);
      has_row_kernels(rows) && x.scalar_type() == weight.scalar_type()) {
    return rms_norm_cpu(rows, weight, eps).view(x.sizes());
  }
  const auto variance = x.to(at::kFloat).pow(2).mean(-1, /*keepdim=*/true);
  return weight * (x * at::rsqrt(variance + eps)).to(weight.scalar_type());
}

// The two spellings of the tanh-GELU. "gelu_new" is computed operation by operation, which in half
// precision rounds at each: so does the reference, so must we.
at::Tensor activate(const at::Tensor& x, const std::string& dense_act_fn) {
  if (dense_act_fn != "gelu_new") return at::gelu(x, "tanh");
  const auto inner = (x + at::pow(x, 3.0) * 0.044715) * std::sqrt(2.0 / std::numbers::pi);
  return x * 0.5 * (at::tanh(inner) + 1.0);
}

// fp16 overflows in T5; transformers clamps after each half of a block.
at::Tensor clamp_half(const at::Tensor& x) {
  if (x.scalar_type() != at::kHalf) return x;
  const double largest = 65504.0;
  const double limit = at::isinf(x).any().item<bool>() ? largest - 1000.0 : largest;
  return at::clamp(x, -limit, limit);
}

}  // namespace

std::vector<WeightUnit> T5Block::units(const std::string& name, const T5Config& config) {
  const auto d = config.d_model;
  const auto inner = config.num_heads * config.d_kv;
  WeightUnit attention_unit{name + ".layer.0", {}};
  {
    const SlotScope layer(attention_unit.slots, name + ".layer.0.");
    const auto attn = layer.scope("SelfAttention");
    auto& self_attention = attention_layer.self_attention;
    self_attention.q.visit(attn.scope("q"), d, inner, false);
    self_attention.k.visit(attn.scope("k"), d, inner, false);
    self_attention.v.visit(attn.scope("v"), d, inner, false);
    self_attention.o.visit(attn.scope("o"), inner, d, false);
    layer.scope("layer_norm").tensor("weight", attention_layer.layer_norm, {d});
  }
  const auto dense_name = name + ".layer.1.DenseReluDense";
  auto& dense = ff_layer.dense_relu_dense;
  WeightUnit wi{dense_name + ".wi", {}};
  dense.wi_0.visit(SlotScope(wi.slots, dense_name + ".wi_0."), d, config.d_ff, false);
  dense.wi_1.visit(SlotScope(wi.slots, dense_name + ".wi_1."), d, config.d_ff, false);
  SlotScope(wi.slots, name + ".layer.1.layer_norm.").tensor("weight", ff_layer.layer_norm, {d});
  WeightUnit wo{dense_name + ".wo", {}};
  dense.wo.visit(SlotScope(wo.slots, dense_name + ".wo."), config.d_ff, d, false);
  wo.slots.back().keep_in_fp32 = true;
  return {std::move(attention_unit), std::move(wi), std::move(wo)};
}

at::Tensor T5Block::attend(const at::Tensor& hidden_states, const at::Tensor& position_bias,
                           const T5Config& config) const {
  const auto& attn = attention_layer.self_attention;
  const auto x =
      t5_layer_norm(hidden_states, attention_layer.layer_norm, config.layer_norm_epsilon);
  // No 1/sqrt(d): T5's initialisation has it in the weights.
  const auto attn_output =
      attention(split_heads(attn.q(x), config.d_kv), split_heads(attn.k(x), config.d_kv),
                split_heads(attn.v(x), config.d_kv), position_bias, false, /*scale=*/1.0);
  return clamp_half(hidden_states + attn.o(attn_output));
}

at::Tensor T5Block::widen(const at::Tensor& hidden_states, const T5Config& config) const {
  const auto& ff = ff_layer.dense_relu_dense;
  const auto y = t5_layer_norm(hidden_states, ff_layer.layer_norm, config.layer_norm_epsilon);
  auto gate = ff.wi_0(y);
  const auto up = ff.wi_1(y);
  if (const auto rows = gate.view({-1, gate.size(-1)}); has_row_kernels(rows)) {
    gated_gelu_cpu_(
        rows, up.view({-1, up.size(-1)}),
        config.dense_act_fn == "gelu_new" ? TanhGelu::kEightOperations : TanhGelu::kOneOperation);
    return gate;
  }
  return activate(gate, config.dense_act_fn) * up;
}

at::Tensor T5Block::narrow(const at::Tensor& hidden_states, const at::Tensor& gated) const {
  const auto& wo = ff_layer.dense_relu_dense.wo;
  const auto ff_output = wo(gated.to(wo.dtype()));
  // With wo in fp32 the sum, and all that follows, would be fp32 in transformers too: the residual
  // stream is promoted there, and T5LayerNorm rounds it back.
  return clamp_half(hidden_states + ff_output);
}

T5Encoder::T5Encoder(T5Config config_in)
    : config(std::move(config_in)), block(static_cast<std::size_t>(config.num_layers)) {}

std::vector<TensorSlot> T5Encoder::fixed_slots() {
  std::vector<TensorSlot> slots;
  const SlotScope root(slots);
  shared.visit(root.scope("shared"), config.vocab_size, config.d_model).aliases = {
      "encoder.embed_tokens.weight"};
  const auto encoder = root.scope("encoder");
  block.front().attention_layer.self_attention.relative_attention_bias.visit(
      encoder.scope("block", 0)
          .scope("layer", 0)
          .scope("SelfAttention")
          .scope("relative_attention_bias"),
      config.relative_attention_num_buckets, config.num_heads);
  encoder.scope("final_layer_norm").tensor("weight", final_layer_norm, {config.d_model});
  return slots;
}

std::vector<WeightUnit> T5Encoder::units() {
  std::vector<WeightUnit> units;
  for (std::size_t i = 0; i < block.size(); ++i) {
    for (auto& unit : block[i].units("encoder.block." + std::to_string(i), config)) {
      units.push_back(std::move(unit));
    }
  }
  return units;
}

std::vector<TensorSlot> T5Encoder::slots() { return all_slots(fixed_slots(), units()); }

at::Tensor t5_position_bias(const Embedding& relative_attention_bias, std::int64_t length,
                            const T5Config& config) {
  const auto options =
      at::TensorOptions().dtype(at::kLong).device(relative_attention_bias.weight.device());
  auto relative = at::arange(1 - length, length, options);  // memory - query
  // Half of the buckets for each direction; in each, half exact, half logarithmic.
  const auto num_buckets = config.relative_attention_num_buckets / 2;
  const auto max_exact = num_buckets / 2;
  auto bucket = relative.gt(0).to(at::kLong) * num_buckets;
  relative = relative.abs();
  const double log_range = std::log(static_cast<double>(config.relative_attention_max_distance) /
                                    static_cast<double>(max_exact));
  auto large = max_exact + (at::log(relative.to(at::kFloat) / static_cast<double>(max_exact)) /
                            log_range * static_cast<double>(num_buckets - max_exact))
                               .to(at::kLong);
  large = at::clamp_max(large, num_buckets - 1);
  bucket = bucket + at::where(relative.lt(max_exact), relative, large);
  // A row is a stretch of this; the first one, of the first query, begins at distance 0.
  const auto by_distance = relative_attention_bias(bucket).t().contiguous();  // [heads, 2 S - 1]
  return by_distance.unfold(1, length, 1).flip(1).unsqueeze(0);
}

at::Tensor T5Encoder::forward(const at::Tensor& input_ids) const {
  BoundWeights weights;
  return forward({&input_ids, 1}, weights).front();
}

std::vector<at::Tensor> T5Encoder::forward(std::span<const at::Tensor> input_ids,
                                           WeightProvider& weights,
                                           const AfterBlock& after_block) const {
  const ReusedBuffers reused;
  std::vector<at::Tensor> hidden_states;             // [B, S, d_model]
  std::map<std::int64_t, at::Tensor> position_bias;  // by length
  for (const auto& ids : input_ids) {
    hidden_states.push_back(shared.lookup(ids, final_layer_norm));
    auto& bias = position_bias[ids.size(1)];
    if (!bias.defined()) {
      bias = t5_position_bias(block.front().attention_layer.self_attention.relative_attention_bias,
                              ids.size(1), config);
    }
  }
  const auto dtype = final_layer_norm.scalar_type();
  std::vector<at::Tensor> gated(hidden_states.size());  // [B, S, d_ff]
  std::size_t unit = 0;
  // part(i): what the next unit of weights does for prompt i.
  const auto for_all = [&](auto part) {
    const auto lease = weights.acquire(unit++);
    for (std::size_t i = 0; i < hidden_states.size(); ++i) part(i);
  };
  for (std::size_t b = 0; b < block.size(); ++b) {
    for_all([&](std::size_t i) {
      auto& h = hidden_states[i];
      h = block[b].attend(h, position_bias.at(input_ids[i].size(1)), config);
    });
    for_all([&](std::size_t i) { gated[i] = block[b].widen(hidden_states[i], config); });
    for_all([&](std::size_t i) {
      hidden_states[i] = block[b].narrow(hidden_states[i], std::exchange(gated[i], {}));
    });
    if (after_block) after_block(static_cast<std::int64_t>(b) + 1);
  }
  for (auto& h : hidden_states) {
    h = t5_layer_norm(h, final_layer_norm, config.layer_norm_epsilon).to(dtype);
  }
  return hidden_states;
}

}  // namespace steadyflux

#include "transformer/flux_transformer.h"

#include <ATen/ATen.h>

#include <algorithm>
#include <cmath>
#include <utility>

#include "config/row_chunks.h"
#include "nn/reused_buffers.h"

namespace steadyflux {
namespace {
constexpr std::int64_t kTimeEmbedDim = 256;
// Fewer bits in the first blocks can tip what a picture becomes.
constexpr std::size_t kBlocksInDtype = 2;

// t [n, ...] with its last row repeated up to `rows` rows.
at::Tensor padded_rows(const at::Tensor& t, std::int64_t rows) {
  const auto index = at::arange(rows, at::kLong).clamp_max(t.size(0) - 1).to(t.device());
  return t.index_select(0, index);
}

// Row by row: libtorch's vectorised loops finish with scalar code, which rounds otherwise, and of a
// whole table that end, of each thread's share, would lie in rows that depend on how many there
// are.
at::Tensor silu_of_rows(const at::Tensor& t) {  // [n, dim]
  auto result = at::empty_like(t);
  for (std::int64_t row = 0; row < t.size(0); ++row) {
    auto out = result.narrow(0, row, 1);
    at::silu_out(out, t.narrow(0, row, 1));
  }
  return result;
}
}  // namespace

void TimeTextEmbed::Embedder::visit(const SlotScope& scope, std::int64_t in, std::int64_t dim) {
  linear_1.visit(scope.scope("linear_1"), in, dim);
  linear_2.visit(scope.scope("linear_2"), dim, dim);
}

at::Tensor TimeTextEmbed::Embedder::forward(const at::Tensor& x) const {
  return linear_2(silu_of_rows(linear_1(x)));
}

void TimeTextEmbed::visit(const SlotScope& scope, const FluxTransformerConfig& config) {
  const auto dim = config.inner_dim();
  timestep_embedder.visit(scope.scope("timestep_embedder"), kTimeEmbedDim, dim);
  if (config.guidance_embeds) {
    guidance_embedder.visit(scope.scope("guidance_embedder"), kTimeEmbedDim, dim);
  }
  text_embedder.visit(scope.scope("text_embedder"), config.pooled_projection_dim, dim);
}

at::Tensor TimeTextEmbed::forward(const at::Tensor& timestep, const at::Tensor& guidance,
                                  const at::Tensor& pooled_projections) const {
  const auto dtype = pooled_projections.scalar_type();
  auto temb = timestep_embedder.forward(sinusoidal_embedding(timestep).to(dtype));
  if (guidance.defined()) {
    temb = temb + guidance_embedder.forward(sinusoidal_embedding(guidance).to(dtype));
  }
  return temb + text_embedder.forward(pooled_projections);
}

FluxTransformer::FluxTransformer(FluxTransformerConfig config_in, Compute compute_in)
    : config(std::move(config_in)),
      compute(compute_in),
      transformer_blocks(static_cast<std::size_t>(config.num_layers)),
      single_transformer_blocks(static_cast<std::size_t>(config.num_single_layers)) {}

std::vector<TensorSlot> FluxTransformer::fixed_slots() {
  std::vector<TensorSlot> slots;
  const SlotScope root(slots);
  const auto dim = config.inner_dim();
  context_embedder.visit(root.scope("context_embedder"), config.joint_attention_dim, dim);
  const auto first = slots.size();
  x_embedder.visit(root.scope("x_embedder"), config.in_channels, dim);
  slots[first].stored_columns = config.widened_from;
  proj_out.visit(root.scope("proj_out"), dim,
                 config.patch_size * config.patch_size * config.out_channels);
  return slots;
}

std::vector<WeightUnit> FluxTransformer::units() {
  const bool in_8_bits = compute == Compute::kInt8 || compute == Compute::kFp8;
  auto in_dtype = in_8_bits ? std::min(transformer_blocks.size(), kBlocksInDtype) : 0;
  std::vector<WeightUnit> units;
  for_each_block([&](auto& block, const std::string& name) {
    const bool rounds = in_dtype == 0;
    if (!rounds) --in_dtype;
    for (auto& unit : block.units(name, config)) {
      for (const auto& slot : unit.slots) {
        if (slot.compute != nullptr && rounds) *slot.compute = compute;
      }
      units.push_back(std::move(unit));
    }
  });
  return units;
}

std::vector<TensorSlot> FluxTransformer::modulation_fixed_slots() {
  std::vector<TensorSlot> slots;
  time_text_embed.visit(SlotScope(slots).scope("time_text_embed"), config);
  return slots;
}

std::vector<WeightUnit> FluxTransformer::modulation_units() {
  std::vector<WeightUnit> units;
  for_each_block([&](auto& block, const std::string& name) {
    for (auto& unit : block.modulation_units(name, config)) units.push_back(std::move(unit));
  });
  WeightUnit last{"norm_out", {}};
  const auto dim = config.inner_dim();
  norm_out.linear.visit(SlotScope(last.slots, "norm_out.linear."), dim, 2 * dim);
  units.push_back(std::move(last));
  return units;
}

std::vector<TensorSlot> FluxTransformer::slots() {
  return all_slots(all_slots(fixed_slots(), units()),
                   {{"", modulation_fixed_slots()}, {"", all_slots({}, modulation_units())}});
}

std::int64_t FluxTransformer::modulation_width() const {
  return config.inner_dim() * (12 * config.num_layers + 3 * config.num_single_layers + 2);
}

at::Tensor FluxTransformer::modulation_table(const at::Tensor& timesteps,
                                             const at::Tensor& guidance,
                                             const at::Tensor& pooled_projections,
                                             WeightProvider& weights,
                                             const std::function<void()>& after_unit) const {
  const auto steps = timesteps.size(0);
  // The reference multiplies by 1000 in the model's dtype: in bf16, 988.41 becomes 988.
  const auto dtype = pooled_projections.scalar_type();
  const auto rows = modulation_gemm_rows(steps);
  const auto scaled = [&](const at::Tensor& t) {
    return t.defined() ? padded_rows(t.to(dtype) * 1000, rows) : t;
  };
  const auto t = scaled(timesteps), g = scaled(guidance),
             pooled = padded_rows(pooled_projections, rows);
  auto silu_temb = at::empty({rows, config.inner_dim()}, pooled.options());
  for_row_chunks(rows, kMostModulationRows, [&](std::int64_t begin, std::int64_t count) {
    const auto part = [&](const at::Tensor& x) {
      return x.defined() ? x.narrow(0, begin, count) : x;
    };
    silu_temb.narrow(0, begin, count)
        .copy_(silu_of_rows(time_text_embed.forward(part(t), part(g), part(pooled))));
  });
  auto table = at::empty({steps, modulation_width()}, silu_temb.options().device(at::kCPU));
  std::int64_t column = 0;
  std::size_t unit = 0;
  const auto add = [&](const Linear& linear) {
    const auto lease = weights.acquire(unit++);
    const auto width = linear.out_features();
    for_row_chunks(rows, kMostModulationRows, [&](std::int64_t begin, std::int64_t count) {
      const auto values = linear(silu_temb.narrow(0, begin, count));
      const auto kept = std::min(count, steps - begin);
      if (kept <= 0) return;  // padding
      table.narrow(0, begin, kept).narrow(1, column, width).copy_(values.narrow(0, 0, kept));
    });
    column += width;
    if (after_unit) after_unit();
  };
  for (const auto& block : transformer_blocks) {
    add(block.norm1.linear);
    add(block.norm1_context.linear);
  }
  for (const auto& block : single_transformer_blocks) add(block.norm.linear);
  add(norm_out.linear);
  return table;
}

FluxTransformer::Modulations FluxTransformer::split_modulations(const at::Tensor& rows) const {
  const auto dim = config.inner_dim();
  std::int64_t column = 0;
  const auto next = [&](std::int64_t parts) {
    const auto part = rows.narrow(1, column, parts * dim);
    column += parts * dim;
    return part;
  };
  Modulations result;
  for (std::size_t i = 0; i < transformer_blocks.size(); ++i) {
    const auto norm1 = next(6);
    result.transformer_blocks.push_back({norm1, next(6)});
  }
  for (std::size_t i = 0; i < single_transformer_blocks.size(); ++i) {
    result.single_transformer_blocks.push_back(next(3));
  }
  result.norm_out = next(2);
  return result;
}

at::Tensor FluxTransformer::modulations(const at::Tensor& timestep, const at::Tensor& guidance,
                                        const at::Tensor& pooled_projections) const {
  BoundWeights weights;
  return modulation_table(timestep, guidance, pooled_projections, weights)
      .to(pooled_projections.device());
}

at::Tensor FluxTransformer::forward(const Input& input, const AfterBlock& after_block) const {
  BoundWeights weights;
  return forward({&input, 1}, weights, after_block).front();
}

JointStream FluxTransformer::embed(const Input& input) const {
  const auto batch = input.hidden_states.size(0);
  const auto text_len = input.encoder_hidden_states.size(1);
  const auto image_len = input.hidden_states.size(1);
  JointStream stream;
  stream.joint =
      at::empty({batch, text_len + image_len, config.inner_dim()}, input.hidden_states.options());
  stream.encoder_hidden_states = stream.joint.narrow(1, 0, text_len);
  stream.hidden_states = stream.joint.narrow(1, text_len, image_len);
  stream.encoder_hidden_states.copy_(context_embedder(input.encoder_hidden_states));
  stream.hidden_states.copy_(x_embedder(input.hidden_states));
  stream.image_rotary_emb = input.image_rotary_emb;
  return stream;
}

bool FluxTransformer::reuses_rest(const Input& input, JointStream& stream) const {
  if (input.cache == nullptr) return false;
  // Embedded anew: cheaper than keeping it beside the first block.
  return input.cache->reuse(x_embedder(input.hidden_states), stream.hidden_states);
}

// -> [B, S_img, out_channels]
at::Tensor FluxTransformer::project_out(const JointStream& stream,
                                        const at::Tensor& scale_shift) const {
  const auto m = scale_shift.chunk(2, -1);  // scale, shift: the other way round than BFL's
  const auto batch = stream.hidden_states.size(0), image_len = stream.hidden_states.size(1);
  auto noise_pred = at::empty({batch, image_len, proj_out.out_features()}, stream.joint.options());
  for (std::int64_t b = 0; b < batch; ++b) {
    for_row_chunks(image_len, kGemmRows, [&](std::int64_t begin, std::int64_t count) {
      const auto rows = stream.hidden_states.select(0, b).narrow(0, begin, count);
      noise_pred.select(0, b)
          .narrow(0, begin, count)
          .copy_(proj_out(modulated_layer_norm(rows, m[1].select(0, b), m[0].select(0, b))));
    });
  }
  return noise_pred;
}

std::vector<at::Tensor> FluxTransformer::forward(std::span<const Input> inputs,
                                                 WeightProvider& weights,
                                                 const AfterBlock& after_block) const {
  const ReusedBuffers reused;
  std::vector<JointStream> streams;
  std::vector<Modulations> modulations;
  for (const auto& input : inputs) {
    streams.push_back(embed(input));
    modulations.push_back(split_modulations(input.modulations));
  }
  std::size_t unit = 0;
  std::int64_t done = 0;
  std::vector<bool> reuses(streams.size());  // behind the first block
  bool all_reuse = false;
  // part(i): what the next unit of weights does for picture i.
  const auto for_all = [&](auto part) {
    const auto lease = weights.acquire(unit++);
    for (std::size_t i = 0; i < streams.size(); ++i) {
      if (!reuses[i]) part(i);
    }
  };
  const auto block_done = [&] {
    if (after_block) after_block(done + 1, streams);
    if (++done > 1) return;
    for (std::size_t i = 0; i < streams.size(); ++i) reuses[i] = reuses_rest(inputs[i], streams[i]);
    all_reuse = std::find(reuses.begin(), reuses.end(), false) == reuses.end();
  };
  for (std::size_t b = 0; b < transformer_blocks.size() && !all_reuse; ++b) {
    const auto& block = transformer_blocks[b];
    const auto modulation = [&](std::size_t i) -> const FluxTransformerBlock::Modulation& {
      return modulations[i].transformer_blocks[b];
    };
    for_all([&](std::size_t i) { block.attend_(streams[i], modulation(i), config); });
    for_all([&](std::size_t i) { block.feed_forward_(streams[i], modulation(i)); });
    for_all([&](std::size_t i) { block.feed_forward_context_(streams[i], modulation(i)); });
    block_done();
  }
  std::vector<at::Tensor> attn_outputs(streams.size());
  for (std::size_t b = 0; b < single_transformer_blocks.size() && !all_reuse; ++b) {
    const auto& block = single_transformer_blocks[b];
    const auto modulation = [&](std::size_t i) -> const FluxSingleTransformerBlock::Modulation& {
      return modulations[i].single_transformer_blocks[b];
    };
    for_all(
        [&](std::size_t i) { attn_outputs[i] = block.attend(streams[i], modulation(i), config); });
    for_all([&](std::size_t i) {
      block.finish_(streams[i], modulation(i), std::exchange(attn_outputs[i], {}));
    });
    block_done();
  }
  if (all_reuse) weights.end_pass();
  std::vector<at::Tensor> noise_preds;
  for (std::size_t i = 0; i < streams.size(); ++i) {
    if (inputs[i].cache != nullptr && !reuses[i]) {
      inputs[i].cache->keep_rest(streams[i].hidden_states);
    }
    noise_preds.push_back(project_out(streams[i], modulations[i].norm_out));
    streams[i] = {};
  }
  return noise_preds;
}

at::Tensor sinusoidal_embedding(const at::Tensor& t) {
  const auto half = kTimeEmbedDim / 2;
  const auto options = at::TensorOptions().dtype(at::kFloat).device(t.device());
  const auto exponent = at::arange(half, options) * -std::log(10000.0) / static_cast<double>(half);
  const auto angles = t.to(at::kFloat).unsqueeze(1) * at::exp(exponent).unsqueeze(0);
  return at::cat({at::cos(angles), at::sin(angles)}, -1);
}

at::Tensor make_position_ids(std::int64_t text_len, const TokenGrid& picture,
                             const TokenGrid& reference) {
  auto ids = at::zeros({text_len + picture.tokens() + reference.tokens(), 3}, at::kFloat);
  const auto fill = [&](std::int64_t first, const TokenGrid& grid, double which) {
    const auto [height, width] = grid;
    auto part = ids.narrow(0, first, grid.tokens()).view({height, width, 3});
    part.select(2, 0).fill_(which);
    part.select(2, 1).copy_(at::arange(height, at::kFloat).unsqueeze(1).expand({height, width}));
    part.select(2, 2).copy_(at::arange(width, at::kFloat).unsqueeze(0).expand({height, width}));
  };
  fill(text_len, picture, 0);
  if (reference.tokens() > 0) fill(text_len + picture.tokens(), reference, 1);
  return ids;
}

}  // namespace steadyflux

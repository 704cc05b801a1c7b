#include "nn/layers.h"

#include <ATen/ATen.h>
#include <ATen/record_function.h>

#include <cmath>

#include "nn/flash_attention_cpu.h"
#include "nn/lora_layers.h"
#include "nn/products.h"

namespace steadyflux {

void Linear::visit(const SlotScope& scope, std::int64_t in_features, std::int64_t out_features,
                   bool has_bias) {
  auto& slot = scope.tensor("weight", weight, {out_features, in_features});
  slot.packed = &packed;
  slot.branches = &branches;
  slot.compute = &compute;
  if (has_bias) scope.tensor("bias", bias, {out_features});
}

at::Tensor Linear::operator()(const at::Tensor& x) const {
  return branches ? linear_with_branches(x) : product(x, bias);
}

at::Tensor Linear::product(const at::Tensor& x, const at::Tensor& offset) const {
  RECORD_FUNCTION("steadyflux::linear", {});
  return linear_as(compute, x, packed ? packed->unpacked() : weight, offset);
}

at::Tensor Linear::linear_with_branches(const at::Tensor& x) const {
  auto y = product(x, {});
  at::Tensor change;
  for (const auto& branch : *branches) {
    auto added = (*branch)(x, y);
    change = change.defined() ? change.add_(added) : std::move(added);
  }
  if (change.defined()) y.add_(change);
  return bias.defined() ? y.add_(bias) : y;
}

void LayerNorm::visit(const SlotScope& scope, std::int64_t dim) {
  scope.tensor("weight", weight, {dim});
  scope.tensor("bias", bias, {dim});
}

at::Tensor LayerNorm::operator()(const at::Tensor& x, double eps) const {
  return at::layer_norm(x, {x.size(-1)}, weight, bias, eps);
}

void GroupNorm::visit(const SlotScope& scope, std::int64_t channels) {
  scope.tensor("weight", weight, {channels});
  scope.tensor("bias", bias, {channels});
}

at::Tensor GroupNorm::operator()(const at::Tensor& x, std::int64_t groups, double eps) const {
  return at::group_norm(x, groups, weight, bias, eps);
}

void Conv2d::visit(const SlotScope& scope, std::int64_t in_channels, std::int64_t out_channels,
                   std::int64_t kernel) {
  scope.tensor("weight", weight, {out_channels, in_channels, kernel, kernel});
  scope.tensor("bias", bias, {out_channels});
}

at::Tensor Conv2d::operator()(const at::Tensor& x) const {
  const auto padding = weight.size(-1) / 2;
  return products::conv2d(x, weight, bias, /*stride=*/{1, 1}, {padding, padding});
}

TensorSlot& Embedding::visit(const SlotScope& scope, std::int64_t num, std::int64_t dim) {
  return scope.tensor("weight", weight, {num, dim});
}

at::Tensor Embedding::operator()(const at::Tensor& ids) const { return at::embedding(weight, ids); }

TensorSlot& HostEmbedding::visit(const SlotScope& scope, std::int64_t num, std::int64_t dim) {
  auto& slot = scope.tensor("weight", weight, {num, dim});
  slot.host_table = true;
  slot.packed = &packed;
  return slot;
}

at::Tensor HostEmbedding::lookup(const at::Tensor& ids, const at::Tensor& like) const {
  if (packed) {
    const auto rows = packed->unpacked_rows(ids, like.scalar_type());
    return rows.unflatten(0, ids.sizes()).to(like.device());
  }
  return at::embedding(weight, ids).to(like.options());
}

at::Tensor layer_norm_no_affine(const at::Tensor& x, double eps) {
  return at::layer_norm(x, {x.size(-1)}, {}, {}, eps);
}

at::Tensor attention(const at::Tensor& q, const at::Tensor& k, const at::Tensor& v,
                     const at::Tensor& mask, bool is_causal, std::optional<double> scale) {
  RECORD_FUNCTION("steadyflux::attention", {});
  if (!is_causal && flash_attention_cpu_usable(q, k, v, mask)) {
    const double default_scale = 1.0 / std::sqrt(static_cast<double>(q.size(3)));
    return flash_attention_cpu(q, k, v, scale.value_or(default_scale), mask);
  }
  const auto out = products::scaled_dot_product_attention(q, k, v, mask, is_causal,
                                                          scale);  // [B, heads, S, head_dim]
  return out.transpose(1, 2).flatten(2);                           // [B, S, heads * head_dim]
}

at::Tensor split_heads(const at::Tensor& x, std::int64_t head_dim) {
  return x.unflatten(-1, {-1, head_dim}).transpose(1, 2);
}

}  // namespace steadyflux

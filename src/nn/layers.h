// The layers every FLUX component is made of, with the names of their checkpoint keys.
#pragma once

#include <ATen/core/Tensor.h>

#include <cstdint>

#include "nn/compute.h"
#include "nn/tensor_slots.h"

namespace steadyflux {

// y = x W^T + b; weight [out, in], bias [out] or absent. The weight is plain or packed.
struct Linear {
  at::Tensor weight;
  std::optional<PackedTensor> packed;
  at::Tensor bias;
  std::shared_ptr<const LoraBranches> branches;  // of LoRAs on a packed weight
  Compute compute = Compute::kDtype;

  void visit(const SlotScope& scope, std::int64_t in_features, std::int64_t out_features,
             bool has_bias = true);
  std::int64_t out_features() const { return packed ? packed->shape()[0] : weight.size(0); }
  at::ScalarType dtype() const { return packed ? packed->dtype() : weight.scalar_type(); }
  at::Tensor operator()(const at::Tensor& x) const;

 private:
  at::Tensor product(const at::Tensor& x, const at::Tensor& offset) const;
  at::Tensor linear_with_branches(const at::Tensor& x) const;
};

// LayerNorm with affine parameters over the last dimension.
struct LayerNorm {
  at::Tensor weight;
  at::Tensor bias;

  void visit(const SlotScope& scope, std::int64_t dim);
  at::Tensor operator()(const at::Tensor& x, double eps) const;
};

// GroupNorm over [B, C, H, W] (or [B, C, L]).
struct GroupNorm {
  at::Tensor weight;
  at::Tensor bias;

  void visit(const SlotScope& scope, std::int64_t channels);
  at::Tensor operator()(const at::Tensor& x, std::int64_t groups, double eps) const;
};

// Convolution with stride 1 and padding kernel / 2: keeps height and width.
struct Conv2d {
  at::Tensor weight;  // [out, in, kernel, kernel]
  at::Tensor bias;    // [out]

  void visit(const SlotScope& scope, std::int64_t in_channels, std::int64_t out_channels,
             std::int64_t kernel);
  at::Tensor operator()(const at::Tensor& x) const;
};

// Rows of a table. weight [num, dim].
struct Embedding {
  at::Tensor weight;

  TensorSlot& visit(const SlotScope& scope, std::int64_t num, std::int64_t dim);
  at::Tensor operator()(const at::Tensor& ids) const;  // ids [...] -> [..., dim]
};

// A table of which few rows are wanted: it stays in the file, mapped, and what is looked up goes to
// where and in what dtype it is computed with.
struct HostEmbedding {
  at::Tensor weight;  // on the CPU, in the file's dtype
  std::optional<PackedTensor> packed;

  TensorSlot& visit(const SlotScope& scope, std::int64_t num, std::int64_t dim);
  // ids [...], on the CPU -> [..., dim] like `like`.
  at::Tensor lookup(const at::Tensor& ids, const at::Tensor& like) const;
};

// LayerNorm over the last dimension without parameters.
at::Tensor layer_norm_no_affine(const at::Tensor& x, double eps);

// softmax(q k^T * scale + mask) v; q, k, v [B, heads, S, head_dim]; mask broadcastable to
// [B, heads, S, S] or undefined. Gives [B, S, heads * head_dim].
at::Tensor attention(const at::Tensor& q, const at::Tensor& k, const at::Tensor& v,
                     const at::Tensor& mask = {}, bool is_causal = false,
                     std::optional<double> scale = std::nullopt);

// [B, S, heads * head_dim] -> [B, heads, S, head_dim], a view.
at::Tensor split_heads(const at::Tensor& x, std::int64_t head_dim);

}  // namespace steadyflux

// Which layers of a transformer multiply in what --compute says.
#include <gtest/gtest.h>

#include "transformer/flux_transformer.h"

namespace steadyflux {
namespace {

FluxTransformer transformer_in(Compute compute) {
  FluxTransformerConfig config;
  config.num_layers = 3;
  config.num_single_layers = 2;
  FluxTransformer transformer(config, compute);
  transformer.units();
  return transformer;
}

TEST(ComputeOfLayers, TheFirstBlocksAreNotMadeIn8Bits) {
  for (const auto compute : {Compute::kInt8, Compute::kFp8}) {
    const auto transformer = transformer_in(compute);
    for (const std::size_t i : {0, 1}) {
      const auto& block = transformer.transformer_blocks[i];
      EXPECT_EQ(block.attn.to_q.compute, Compute::kDtype);
      EXPECT_EQ(block.attn.add_v_proj.compute, Compute::kDtype);
      EXPECT_EQ(block.attn.to_out_0.compute, Compute::kDtype);
      EXPECT_EQ(block.ff.net_2.compute, Compute::kDtype);
    }
    EXPECT_EQ(transformer.transformer_blocks[2].attn.to_q.compute, compute);
    EXPECT_EQ(transformer.transformer_blocks[2].ff.net_2.compute, compute);
    EXPECT_EQ(transformer.single_transformer_blocks[0].attn.to_q.compute, compute);
    EXPECT_EQ(transformer.proj_out.compute, Compute::kDtype);
  }
}

TEST(ComputeOfLayers, AllBlocksAreMadeInBf16) {
  const auto transformer = transformer_in(Compute::kBf16);
  EXPECT_EQ(transformer.transformer_blocks.front().attn.to_q.compute, Compute::kBf16);
  EXPECT_EQ(transformer.single_transformer_blocks[1].proj_out.compute, Compute::kBf16);
}

}  // namespace
}  // namespace steadyflux

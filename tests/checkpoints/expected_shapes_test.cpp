// What configurations ask for, against FLUX.1's real names and shapes.
#include "checkpoints/expected_shapes.h"

#include <gtest/gtest.h>

#include "checkpoints/flux1_names.h"
#include "expect_error.h"

namespace steadyflux {
namespace {

using testing::flux1_names;
using testing::shapes_of;

TEST(ExpectedShapes, Flux1) {
  FluxTransformerConfig dev;
  dev.guidance_embeds = true;
  EXPECT_EQ(expected_shapes(dev), shapes_of(flux1_names("transformer")));
  auto schnell = shapes_of(flux1_names("transformer"));
  std::erase_if(schnell, [](const auto& tensor) {
    return tensor.first.find("guidance_embedder") != std::string::npos;
  });
  EXPECT_EQ(expected_shapes(FluxTransformerConfig()), schnell);
  EXPECT_EQ(expected_shapes(T5Config()), shapes_of(flux1_names("text_encoder_2")));
}

TEST(ExpectedShapes, AnotherShapeIsNamed) {
  const auto expected = expected_shapes(FluxTransformerConfig());
  auto found = expected;
  found.erase("proj_out.weight");
  found["somewhere.else"] = {1};
  EXPECT_NO_THROW(check_shapes(found, expected, "file.x"));
  found["proj_out.bias"] = {65};
  expect_error(ErrorKind::kBadInput,
               "file.x: tensor proj_out.bias has shape [65], expected [64] by its configuration",
               [&] { check_shapes(found, expected, "file.x"); });
}

}  // namespace
}  // namespace steadyflux

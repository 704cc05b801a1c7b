// What the planner is told about a model's files, whole, cut short or absent.
#include "pipeline/workload.h"

#include <fmt/format.h>
#include <gtest/gtest.h>

#include <filesystem>
#include <memory>

#include "expect_error.h"
#include "pipeline/stored_model.h"
#include "temp_folder.h"

namespace steadyflux {
namespace {

// One tensor of `bytes` bytes of zeros.
std::string safetensors(const std::string& dtype, int count, int bytes) {
  const std::string header = fmt::format(
      R"({{"w":{{"dtype":"{}","shape":[{}],"data_offsets":[0,{}]}}}})", dtype, count, bytes);
  std::string file;
  for (int i = 0; i < 8; ++i) {
    file += static_cast<char>(i == 0 ? header.size() : 0);  // below 256
  }
  return file + header + std::string(static_cast<std::size_t>(bytes), '\0');
}

constexpr char kIndex[] =
    R"({{"metadata":{{"total_size":{}}},"weight_map":{{"a":"{}","b":"{}"}}}})";

class StoredDtype : public ::testing::Test {
 protected:
  StoredDtype() {
    model_.root = folder_.path();
    model_.paths = {.text_encoder = folder_ / "text_encoder",
                    .text_encoder_2 = folder_ / "text_encoder_2",
                    .transformer = folder_ / "transformer",
                    .vae = folder_ / "vae",
                    .tokenizer = {},
                    .tokenizer_2 = {}};
    for (const char* part : {"text_encoder", "text_encoder_2", "transformer", "vae"}) {
      std::filesystem::create_directory(folder_ / part);
    }
  }
  StoredModel find() const { return find_stored_model(model_); }

  TempFolder folder_;
  FluxModel model_;  // the sizes of FLUX.1-schnell
};

TEST_F(StoredDtype, IsThatOfFluxWithoutAnyWeightFile) {
  EXPECT_EQ(find().text_encoder.dtype, "bf16");
  EXPECT_EQ(find().transformer.dtype, "bf16");
}

TEST_F(StoredDtype, ComesFromHeaders) {
  folder_.write("text_encoder/model.safetensors", safetensors("F16", 3, 6));
  folder_.write("vae/diffusion_pytorch_model.safetensors", safetensors("F32", 2, 8));
  folder_.write("transformer/diffusion_pytorch_model.safetensors", safetensors("F64", 2, 16));
  folder_.write("text_encoder_2/model.fp16.safetensors", safetensors("F16", 1, 2));
  EXPECT_EQ(find().text_encoder.dtype, "fp16");
  EXPECT_EQ(find().vae.dtype, "fp32");
  EXPECT_EQ(find().transformer.dtype, "fp64");
  EXPECT_EQ(find().text_encoder_2.dtype, "fp16");
}

TEST_F(StoredDtype, ComesFromTheShardsThatAreThere) {
  folder_.write("transformer/diffusion_pytorch_model.safetensors.index.json",
                fmt::format(kIndex, 23782357120, "1.safetensors", "2.safetensors"));
  folder_.write("transformer/2.safetensors", safetensors("F16", 1, 2));
  EXPECT_EQ(find().transformer.dtype, "fp16");
}

TEST_F(StoredDtype, ComesFromTheSizeInTheIndex) {
  // Those of the real FLUX.1-schnell, and twice as much.
  const std::string t5 = "text_encoder_2/model.safetensors.index.json";
  const std::string flux = "transformer/diffusion_pytorch_model.safetensors.index.json";
  folder_.write(t5, fmt::format(kIndex, 9524621312, "1.safetensors", "2.safetensors"));
  folder_.write(flux, fmt::format(kIndex, 2 * 23782357120, "1.safetensors", "2.safetensors"));
  EXPECT_EQ(find().text_encoder_2.dtype, "bf16");
  EXPECT_EQ(find().transformer.dtype, "fp32");
  folder_.write(t5, fmt::format(kIndex, 2 * 9524621312, "1.safetensors", "2.safetensors"));
  folder_.write(flux, fmt::format(kIndex, 23782357120, "1.safetensors", "2.safetensors"));
  EXPECT_EQ(find().text_encoder_2.dtype, "fp32");
  EXPECT_EQ(find().transformer.dtype, "bf16");
}

TEST_F(StoredDtype, TheIndexNamesNothingOutsideOfItsFolder) {
  folder_.write("vae/diffusion_pytorch_model.safetensors", safetensors("F32", 2, 8));
  folder_.write("transformer/diffusion_pytorch_model.safetensors.index.json",
                fmt::format(kIndex, 1, "../vae/diffusion_pytorch_model.safetensors", "b"));
  EXPECT_EQ(find().transformer.dtype, "bf16");
}

TEST_F(StoredDtype, DamagedFilesAreNamed) {
  folder_.write("vae/diffusion_pytorch_model.safetensors", "short");
  expect_error(ErrorKind::kBadInput, "vae/diffusion_pytorch_model.safetensors", [&] { find(); });
  std::filesystem::remove(folder_ / "vae/diffusion_pytorch_model.safetensors");
  folder_.write("transformer/diffusion_pytorch_model.safetensors.index.json", "{");
  expect_error(ErrorKind::kBadInput, "index.json", [&] { find(); });
}

Chunk chunk_of(const std::vector<Request>& requests) {
  const auto source = std::filesystem::path(STEADYFLUX_SOURCE_DIR);
  return make_chunk(FluxModel::open(source / "tests/goldens/b/model"), requests);
}

TEST(MakeWorkload, TakesTheRequestAndTheDtypes) {
  Request request;
  request.width = 512;
  request.height = 768;
  request.num_inference_steps = 7;
  request.num_images = 3;
  request.max_sequence_length = 256;
  StoredModel stored;
  const std::vector<Request> requests{request};
  const Workload work = make_workload(chunk_of(requests), stored, "auto", 5);
  EXPECT_EQ(work.width, 512);
  EXPECT_EQ(work.height, 768);
  EXPECT_EQ(work.num_inference_steps, 7);
  EXPECT_EQ(work.num_images, 3);
  EXPECT_EQ(work.num_prompts, 1);
  EXPECT_EQ(work.num_tables, 1);
  EXPECT_EQ(work.max_sequence_length, 256);
  EXPECT_EQ(work.num_threads, 5);
  EXPECT_EQ(work.dtype, "bf16");
  EXPECT_EQ(work.stored.text_encoder_2.dtype, "bf16");
}

TEST(MakeWorkload, IsTheLargestOfAllRequests) {
  std::vector<Request> requests(4);
  requests[0] = {.prompt = "x", .width = 512, .height = 256, .num_inference_steps = 9};
  requests[1] = {.prompt = "y", .width = 256, .height = 768, .num_images = 2};
  requests[1].max_sequence_length = 128;
  requests[2] = requests[0];
  requests[2].seed = 5;  // nothing that modulations depend on
  requests[3] = requests[0];
  requests[3].guidance_scale = 1;
  const Workload work = make_workload(chunk_of(requests), {}, "auto", 1);
  EXPECT_EQ(work.width, 256);
  EXPECT_EQ(work.height, 768);
  EXPECT_EQ(work.num_inference_steps, 9);
  EXPECT_EQ(work.max_sequence_length, 512);
  EXPECT_EQ(work.num_images, 5);
  EXPECT_EQ(work.num_prompts, 2);
  EXPECT_EQ(work.num_encoded, 2);
  EXPECT_EQ(work.num_tables, 3);
}

TEST(MakeWorkload, HasTheStepsThatAreMadeOnly) {
  auto init = std::make_shared<InitImage>();
  init->strength = 0.3;
  std::vector<Request> requests(1);
  requests[0] = {.prompt = "x", .num_inference_steps = 28, .init_image = init, .tile = 512};
  const Workload work = make_workload(chunk_of(requests), {}, "auto", 1);
  EXPECT_EQ(work.num_inference_steps, 9);
  EXPECT_EQ(work.tile, 512);
}

TEST(MakeWorkload, CountsWhatSolversTake) {
  std::vector<Request> requests(2);
  EXPECT_EQ(make_workload(chunk_of(requests), {}, "auto", 1).passes_per_step, 1);
  EXPECT_EQ(make_workload(chunk_of(requests), {}, "auto", 1).solver_latents, 0);
  requests[0].sampling.scheduler = "dpmpp_2m";
  auto work = make_workload(chunk_of(requests), {}, "auto", 1);
  EXPECT_EQ(work.num_tables, 2);
  EXPECT_EQ(work.passes_per_step, 1);
  EXPECT_EQ(work.solver_latents, 1);
  requests[1].sampling.scheduler = "heun";
  work = make_workload(chunk_of(requests), {}, "auto", 1);
  EXPECT_EQ(work.passes_per_step, 2);
  EXPECT_EQ(work.solver_latents, 2);
  requests[0] = requests[1];
  requests[0].sampling.shift = 2;  // other levels, so other modulations
  EXPECT_EQ(make_workload(chunk_of(requests), {}, "auto", 1).num_tables, 2);
}

TEST(MakeWorkload, CountsStepCaches) {
  std::vector<Request> requests(3);
  EXPECT_EQ(make_workload(chunk_of(requests), {}, "auto", 1).num_step_caches, 0);
  requests[0].sampling.cache_threshold = 0.1;
  auto work = make_workload(chunk_of(requests), {}, "auto", 1);
  EXPECT_EQ(work.num_step_caches, 1);
  EXPECT_EQ(work.num_tables, 1);  // no modulation depends on it
  requests[1].sampling.cache_threshold = 0.2;
  requests[1].negative_prompt = "x";
  requests[1].true_cfg_scale = 2;
  requests[1].num_images = 2;
  EXPECT_EQ(make_workload(chunk_of(requests), {}, "auto", 1).num_step_caches, 1 + 2 * 2);
  requests[2].sampling.cache_threshold = 0.2;
  requests[2].sampling.scheduler = "heun";
  EXPECT_EQ(make_workload(chunk_of(requests), {}, "auto", 1).num_step_caches, 1 + 2 * 2 + 2);
}

TEST(MakeWorkload, OneComponentOfAnotherDtypeIsConverted) {
  StoredModel stored;
  stored.vae.dtype = "fp32";
  EXPECT_EQ(make_workload({}, stored, "auto", 1).stored.vae.dtype, "fp32");
}

TEST(MakeWorkload, ComputesInFp32WhatIsStoredInFp64) {
  StoredModel stored;
  stored.transformer.dtype = "fp64";
  const Workload work = make_workload({}, stored, "auto", 1);
  EXPECT_EQ(work.dtype, "fp32");
  EXPECT_EQ(work.stored.transformer.dtype, "fp64");
}

}  // namespace
}  // namespace steadyflux

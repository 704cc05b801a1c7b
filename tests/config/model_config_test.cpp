#include "config/model_config.h"

#include <gtest/gtest.h>
#include <unistd.h>

#include <cstdlib>
#include <filesystem>
#include <fstream>
#include <nlohmann/json.hpp>
#include <string>

#include "steadyflux/error.h"

namespace steadyflux {
namespace {

namespace fs = std::filesystem;
using nlohmann::json;

class ConfigTest : public testing::Test {
 protected:
  ConfigTest() {
    std::string pattern = (fs::temp_directory_path() / "steadyflux-XXXXXX").string();
    folder_ = ::mkdtemp(pattern.data());
  }
  ~ConfigTest() override { fs::remove_all(folder_); }

  fs::path write(const fs::path& name, const std::string& text) const {
    fs::create_directories((folder_ / name).parent_path());
    std::ofstream(folder_ / name) << text;
    return folder_ / name;
  }

  // A pipeline whose parts fit together; `change` breaks it.
  void write_pipeline() const {
    write("model_index.json", R"({"_class_name":"FluxPipeline"})");
    write("text_encoder/config.json", R"({"hidden_size":32,"num_attention_heads":4})");
    write("text_encoder_2/config.json", R"({"d_model":48,"feed_forward_proj":"gated-gelu"})");
    write("transformer/config.json",
          R"({"_class_name":"FluxTransformer2DModel","in_channels":16,"attention_head_dim":16,)"
          R"("axes_dims_rope":[4,4,8],"joint_attention_dim":48,"pooled_projection_dim":32})");
    write("vae/config.json", R"({"_class_name":"AutoencoderKL"})");
    write("scheduler/scheduler_config.json",
          R"({"_class_name":"FlowMatchEulerDiscreteScheduler"})");
  }

  template <typename Read>
  static std::string message(Read read) {
    try {
      read();
    } catch (const Error& error) {
      EXPECT_EQ(error.kind(), ErrorKind::kBadInput) << error.what();
      return error.what();
    }
    return "";
  }

  fs::path folder_;
};

TEST_F(ConfigTest, MissingKeysMeanTheLibrariesDefaults) {
  write_pipeline();
  const FluxModel model = FluxModel::open(folder_);
  EXPECT_EQ(model.text_encoder.eos_token_id, 49407);
  EXPECT_EQ(model.text_encoder.intermediate_size, 2048);
  EXPECT_EQ(model.text_encoder_2.num_layers, 6);
  EXPECT_EQ(model.transformer.out_channels, 16);
  EXPECT_FALSE(model.transformer.guidance_embeds);
  EXPECT_EQ(model.vae.latent_channels, 4);
  EXPECT_EQ(model.vae.block_out_channels, std::vector<std::int64_t>{64});
  EXPECT_EQ(model.vae.shift_factor, 0);
  EXPECT_TRUE(model.vae.use_post_quant_conv);
  EXPECT_EQ(model.scheduler.shift, 1.0);
  EXPECT_EQ(model.defaults.num_inference_steps, 4);
}

struct BadValue {
  const char* file;
  const char* key;
  const char* value;
};

TEST_F(ConfigTest, BadValuesAreRefusedByName) {
  const BadValue kBad[] = {
      {"text_encoder/config.json", "hidden_size", "0"},
      {"text_encoder/config.json", "hidden_size", "33"},
      {"text_encoder/config.json", "hidden_size", "32.0"},
      {"text_encoder/config.json", "vocab_size", "\"many\""},
      {"text_encoder/config.json", "hidden_act", "\"relu\""},
      {"text_encoder_2/config.json", "d_ff", "-1"},
      {"text_encoder_2/config.json", "d_kv", "18446744073709551615"},
      {"text_encoder_2/config.json", "dense_act_fn", "\"relu\""},
      {"text_encoder_2/config.json", "feed_forward_proj", "\"relu\""},
      {"text_encoder_2/config.json", "is_gated_act", "false"},
      {"transformer/config.json", "num_layers", "1001"},
      {"transformer/config.json", "num_layers", "null"},
      {"transformer/config.json", "axes_dims_rope", "[4,4,4]"},
      {"transformer/config.json", "axes_dims_rope", "[3,5,8]"},
      {"transformer/config.json", "guidance_embeds", "1"},
      {"transformer/config.json", "_class_name", "\"SD3Transformer2DModel\""},
      {"vae/config.json", "act_fn", "\"relu\""},
      {"vae/config.json", "norm_num_groups", "1e9"},
      {"vae/config.json", "block_out_channels", "[33]"},
      {"vae/config.json", "up_block_types", "[\"AttnUpDecoderBlock2D\"]"},
      {"scheduler/scheduler_config.json", "use_karras_sigmas", "true"},
      {"scheduler/scheduler_config.json", "time_shift_type", "\"cubic\""},
      {"scheduler/scheduler_config.json", "max_image_seq_len", "256"},
      {"steadyflux.json", "width", "100"},
      {"steadyflux.json", "max_sequence_length", "513"},
  };
  for (const BadValue& bad : kBad) {
    write_pipeline();
    json config = json::object();
    if (fs::exists(folder_ / bad.file)) std::ifstream(folder_ / bad.file) >> config;
    config[bad.key] = json::parse(bad.value);
    write(bad.file, config.dump());
    const std::string text = message([&] { FluxModel::open(folder_); });
    EXPECT_NE(text.find(bad.file), std::string::npos)
        << bad.key << " " << bad.value << ": " << text;
    EXPECT_NE(text.find(bad.key), std::string::npos) << bad.key << " " << bad.value << ": " << text;
    fs::remove(folder_ / "steadyflux.json");
  }
}

TEST_F(ConfigTest, SiglipAloneOrAsAHalf) {
  // What a key that is missing means to transformers.
  const auto own = read_siglip_vision_config(
      write("a.json", R"({"model_type":"siglip_vision_model","image_size":384})"));
  EXPECT_EQ(own.hidden_size, 768);
  EXPECT_EQ(own.num_patches(), 24 * 24);
  const auto half = read_siglip_vision_config(write(
      "b.json", R"({"model_type":"siglip","vision_config":{"hidden_size":1152,"patch_size":14,)"
                R"("num_attention_heads":16,"image_size":384}})"));
  EXPECT_EQ(half.hidden_size, 1152);
  EXPECT_EQ(half.num_patches(), 27 * 27);
  for (const auto& [text, key] : {std::pair{R"({"hidden_act":"gelu"})", "hidden_act"},
                                  {R"({"model_type":"clip_vision_model"})", "model_type"},
                                  {R"({"hidden_size":100})", "hidden_size"},
                                  {R"({"patch_size":300})", "patch_size"}}) {
    const auto file = write("c.json", text);
    EXPECT_NE(message([&] { read_siglip_vision_config(file); }).find(key), std::string::npos);
  }
}

TEST_F(ConfigTest, HowSiglipsPicturesArePrepared) {
  const auto problem = [&](const std::string& text) {
    const auto file = write("p.json", text);
    return message([&] { check_siglip_image_processor(file, SiglipVisionConfig{}); });
  };
  EXPECT_EQ(problem("{}"), "");
  EXPECT_EQ(problem(R"({"do_normalize":true,"image_mean":[0.5,0.5,0.5],"resample":3,)"
                    R"("rescale_factor":0.00392156862745098,"size":{"height":384,"width":384}})"),
            "");
  for (const auto& [text, key] : {std::pair{R"({"resample":2})", "resample"},
                                  {R"({"do_rescale":false})", "do_rescale"},
                                  {R"({"rescale_factor":1})", "rescale_factor"},
                                  {R"({"image_std":[0.2,0.5,0.5]})", "image_std"},
                                  {R"({"size":{"height":224,"width":224}})", "384 x 384"}}) {
    EXPECT_NE(problem(text).find(key), std::string::npos) << text;
  }
}

TEST_F(ConfigTest, PartsThatDoNotBelongTogether) {
  write_pipeline();
  write("text_encoder_2/config.json", R"({"d_model":64,"feed_forward_proj":"gated-gelu"})");
  EXPECT_NE(message([&] { FluxModel::open(folder_); }).find("joint_attention_dim is 48"),
            std::string::npos);
  write("model_index.json", R"({"_class_name":"StableDiffusionXLPipeline"})");
  EXPECT_NE(message([&] {
              FluxModel::open(folder_);
            }).find("this is a StableDiffusionXLPipeline, steadyflux runs FluxPipeline"),
            std::string::npos);
}

TEST_F(ConfigTest, VariantsOfTheTransformer) {
  struct Case {
    const char* pipeline;
    std::int64_t in_channels;
    FluxVariant variant;
    std::int64_t steps;
    double guidance;
  };
  for (const auto& [pipeline, in_channels, variant, steps, guidance] :
       {Case{"FluxPipeline", 16, FluxVariant::kDev, 28, 3.5},
        {"FluxKontextPipeline", 16, FluxVariant::kKontext, 28, 2.5},
        {"FluxFillPipeline", 96, FluxVariant::kFill, 50, 30},
        {"FluxControlPipeline", 32, FluxVariant::kControl, 30, 10}}) {
    SCOPED_TRACE(pipeline);
    write_pipeline();
    write("model_index.json", json{{"_class_name", pipeline}}.dump());
    auto config = json::parse(std::ifstream(folder_ / "transformer/config.json"));
    config.update({{"in_channels", in_channels}, {"out_channels", 16}, {"guidance_embeds", true}});
    write("transformer/config.json", config.dump());
    // A mask of 4 x 4 pixels a cell: 2 * 16 + 4 * 16 channels.
    if (variant == FluxVariant::kFill) {
      write(
          "vae/config.json",
          R"({"_class_name":"AutoencoderKL","block_out_channels":[32,32,32],)"
          R"("down_block_types":["DownEncoderBlock2D","DownEncoderBlock2D","DownEncoderBlock2D"],)"
          R"("up_block_types":["UpDecoderBlock2D","UpDecoderBlock2D","UpDecoderBlock2D"]})");
    }
    const FluxModel model = FluxModel::open(folder_);
    EXPECT_EQ(model.variant(), variant);
    EXPECT_EQ(model.transformer.condition_channels(), in_channels - 16);
    EXPECT_EQ(model.defaults.num_inference_steps, steps);
    EXPECT_EQ(model.defaults.guidance_scale, guidance);
    for (const auto other : {17, 48}) {
      config["in_channels"] = other;
      write("transformer/config.json", config.dump());
      EXPECT_NE(message([&] { FluxModel::open(folder_); }).find("in_channels is"),
                std::string::npos);
    }
  }
}

TEST_F(ConfigTest, CannyIsToldByItsName) {
  FluxModel model;
  model.transformer.in_channels = 128;
  for (const auto& [path, guidance] :
       {std::pair{"/models/FLUX.1-Depth-dev", 10.0},
        {"/models/FLUX.1-Canny-dev/", 30.0},
        {"/models/flux1-canny-dev-Q4_K.gguf", 30.0},
        {"/canny/flux1-depth-dev.safetensors", 10.0},
        {"/hub/models--black-forest-labs--FLUX.1-Canny-dev/snapshots/0123abc", 30.0}}) {
    model.root = path;
    EXPECT_EQ(read_generation_defaults(folder_, model).guidance_scale, guidance) << path;
  }
}

TEST_F(ConfigTest, ReadsTheRealConfigurations) {
  const fs::path real = STEADYFLUX_SOURCE_DIR "/../shared/flux1";
  if (!fs::exists(real)) GTEST_SKIP() << "no ../shared/flux1 beside the checkout";
  for (const bool dev : {false, true}) {
    const FluxModel model = FluxModel::open(real / (dev ? "dev" : "schnell"));
    EXPECT_EQ(model.name, dev ? "dev" : "schnell");
    EXPECT_EQ(model.transformer.guidance_embeds, dev);
    EXPECT_EQ(model.transformer.inner_dim(), 3072);
    EXPECT_EQ(model.transformer.num_single_layers, 38);
    EXPECT_EQ(model.text_encoder_2.num_layers, 24);
    EXPECT_EQ(model.text_encoder.eos_token_id, 2);
    EXPECT_EQ(model.vae.scale_factor(), 8);
    EXPECT_DOUBLE_EQ(model.vae.shift_factor, 0.1159);
    EXPECT_FALSE(model.vae.use_post_quant_conv);
    EXPECT_EQ(model.scheduler.use_dynamic_shifting, dev);
    EXPECT_EQ(model.scheduler.shift, dev ? 3.0 : 1.0);
    EXPECT_EQ(model.defaults.num_inference_steps, dev ? 28 : 4);
  }
}

TEST_F(ConfigTest, ResolvesModels) {
  ::setenv("HF_HUB_CACHE", folder_.c_str(), 1);
  ::unsetenv("STEADYFLUX_MODEL");
  EXPECT_NE(message([] { resolve_model("org/name", {}); }).find("hf download org/name"),
            std::string::npos);
  fs::create_directories(folder_ / "models--org--name/snapshots/abc123");
  EXPECT_EQ(resolve_model("org/name", {}), folder_ / "models--org--name/snapshots/abc123");
  fs::create_directories(folder_ / "models--org--name/snapshots/def456");
  write("models--org--name/refs/main", "def456\n");
  EXPECT_EQ(resolve_model("org/name", {}), folder_ / "models--org--name/snapshots/def456");
  EXPECT_EQ(resolve_model(folder_.string(), {}), folder_);
  EXPECT_NE(message([] { resolve_model("flux.gguf", {}); }).find("no such file"),
            std::string::npos);
  EXPECT_NE(message([] {
              resolve_model("org/name/x/flux.gguf", {});
            }).find("hf download org/name x/flux.gguf"),
            std::string::npos);
  write("bundled/b/model_index.json", "{}");
  write("bundled/a/other.json", "{}");
  EXPECT_EQ(resolve_model(std::nullopt, {folder_ / "absent", folder_ / "bundled"}),
            folder_ / "bundled/b");
  EXPECT_NE(message([] { resolve_model(std::nullopt, {}); }).find("no bundled model"),
            std::string::npos);
  try {
    resolve_model("", {folder_ / "bundled"});
    ADD_FAILURE() << "an empty name is a model's";
  } catch (const Error& error) {
    EXPECT_EQ(error.kind(), ErrorKind::kUsage) << error.what();
  }
  ::setenv("STEADYFLUX_MODEL", "", 1);
  EXPECT_EQ(resolve_model(std::nullopt, {folder_ / "bundled"}), folder_ / "bundled/b");
  ::unsetenv("STEADYFLUX_MODEL");
  ::unsetenv("HF_HUB_CACHE");
}

}  // namespace
}  // namespace steadyflux

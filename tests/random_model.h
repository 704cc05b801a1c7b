// A FLUX pipeline of any shape with random weights, in a folder of its own that goes away with it:
// for tests of memory, where the shapes matter and the pictures do not. The tokenizers are those of
// the goldens' model "a", so the vocabularies are as large as theirs.
#pragma once

#include <ATen/ATen.h>

#include <cstdlib>
#include <filesystem>
#include <fstream>
#include <nlohmann/json.hpp>
#include <optional>
#include <string>
#include <vector>

#include "image_encoder/redux_image_encoder.h"
#include "image_encoder/siglip_vision_model.h"
#include "text_encoder/clip_text_model.h"
#include "text_encoder/t5_encoder.h"
#include "transformer/flux_transformer.h"
#include "vae/autoencoder_kl.h"

namespace steadyflux::testing {

struct RandomModelShape {
  std::int64_t heads = 6, head_dim = 64;  // of the transformer
  std::vector<std::int64_t> axes = {8, 28, 28};
  std::int64_t double_blocks = 2, single_blocks = 4;
  std::int64_t t5_dim = 256, t5_heads = 8, t5_ff = 640, t5_layers = 3;
  std::int64_t clip_dim = 64, clip_layers = 2;
  std::vector<std::int64_t> vae_channels = {32, 64, 64, 64};
  at::ScalarType dtype = at::kBFloat16;
  bool guidance = true;
  std::int64_t in_channels = 64;  // of 64 that go out
  // Of a Redux beside it, of three layers; 0: none.
  std::int64_t siglip_dim = 0;
};

class RandomModel {
 public:
  explicit RandomModel(const RandomModelShape& shape) {
    namespace fs = std::filesystem;
    std::string name = (fs::temp_directory_path() / "steadyflux-model-XXXXXX").string();
    root_ = ::mkdtemp(name.data());
    const auto golden = fs::path(STEADYFLUX_SOURCE_DIR) / "tests/goldens/a/model";
    for (const char* part : {"tokenizer", "tokenizer_2", "scheduler"}) {
      fs::copy(golden / part, root_ / part, fs::copy_options::recursive);
    }
    fs::copy(golden / "model_index.json", root_ / "model_index.json");
    auto clip = read_json(golden / "text_encoder/config.json");
    clip.update({{"hidden_size", shape.clip_dim},
                 {"intermediate_size", 4 * shape.clip_dim},
                 {"num_hidden_layers", shape.clip_layers},
                 {"num_attention_heads", 4}});
    write_json("text_encoder/config.json", clip);
    auto t5 = read_json(golden / "text_encoder_2/config.json");
    t5.update({{"d_model", shape.t5_dim},
               {"d_kv", shape.t5_dim / shape.t5_heads},
               {"d_ff", shape.t5_ff},
               {"num_layers", shape.t5_layers},
               {"num_heads", shape.t5_heads}});
    write_json("text_encoder_2/config.json", t5);
    write_json("transformer/config.json", {{"_class_name", "FluxTransformer2DModel"},
                                           {"num_layers", shape.double_blocks},
                                           {"num_single_layers", shape.single_blocks},
                                           {"num_attention_heads", shape.heads},
                                           {"attention_head_dim", shape.head_dim},
                                           {"axes_dims_rope", shape.axes},
                                           {"joint_attention_dim", shape.t5_dim},
                                           {"pooled_projection_dim", shape.clip_dim},
                                           {"guidance_embeds", shape.guidance},
                                           {"in_channels", shape.in_channels},
                                           {"out_channels", 64}});
    auto vae = read_json(golden / "vae/config.json");
    vae["block_out_channels"] = shape.vae_channels;
    vae["down_block_types"] =
        std::vector<std::string>(shape.vae_channels.size(), "DownEncoderBlock2D");
    vae["up_block_types"] = std::vector<std::string>(shape.vae_channels.size(), "UpDecoderBlock2D");
    vae["latent_channels"] = 16;
    vae["norm_num_groups"] = 16;
    write_json("vae/config.json", vae);

    const auto model = folder();
    write_weights("text_encoder/model.safetensors", ClipTextModel(model.text_encoder).slots(),
                  shape.dtype);
    write_weights("text_encoder_2/model.safetensors", T5Encoder(model.text_encoder_2).slots(),
                  shape.dtype);
    write_weights("transformer/diffusion_pytorch_model.safetensors",
                  FluxTransformer(model.transformer).slots(), shape.dtype);
    AutoencoderKlDecoder decoder(model.vae);
    AutoencoderKlEncoder encoder(model.vae);
    auto vae_slots = decoder.slots();
    for (auto& slot : encoder.slots()) vae_slots.push_back(std::move(slot));
    write_weights("vae/diffusion_pytorch_model.safetensors", vae_slots, shape.dtype);
    if (shape.siglip_dim == 0) return;
    auto& redux = redux_.emplace();
    redux.image_encoder = {.hidden_size = shape.siglip_dim,
                           .intermediate_size = 3 * shape.siglip_dim,
                           .num_hidden_layers = 3,
                           .num_attention_heads = 4,
                           .image_size = 90};
    redux.image_embedder = {.redux_dim = shape.siglip_dim, .txt_in_features = shape.t5_dim};
    fs::create_directories(root_ / "image_encoder");
    fs::create_directories(root_ / "image_embedder");
    write_weights("image_encoder/model.safetensors", SiglipVisionModel(redux.image_encoder).slots(),
                  shape.dtype);
    write_weights("image_embedder/model.safetensors",
                  ReduxImageEncoder(redux.image_embedder).slots(), shape.dtype);
  }
  ~RandomModel() { std::filesystem::remove_all(root_); }
  RandomModel(const RandomModel&) = delete;
  RandomModel& operator=(const RandomModel&) = delete;

  FluxModel folder() const {
    auto model = FluxModel::open(root_);
    model.redux = redux_;
    if (redux_) {
      model.paths.image_encoder = root_ / "image_encoder";
      model.paths.image_embedder = root_ / "image_embedder";
    }
    return model;
  }

 private:
  using Json = nlohmann::json;

  static Json read_json(const std::filesystem::path& path) {
    return Json::parse(std::ifstream(path));
  }

  void write_json(const std::string& name, const Json& value) const {
    std::filesystem::create_directories((root_ / name).parent_path());
    std::ofstream(root_ / name) << value.dump(1);
  }

  void write_weights(const std::string& name, const std::vector<TensorSlot>& slots,
                     at::ScalarType dtype) const {
    const char* dtype_name = dtype == at::kFloat ? "F32" : dtype == at::kHalf ? "F16" : "BF16";
    const auto element = static_cast<std::int64_t>(c10::elementSize(dtype));
    Json header = Json::object();
    std::int64_t end = 0;
    std::vector<at::Tensor> values;
    for (const auto& slot : slots) {
      auto value = slot.shape.size() == 1 ? at::ones(slot.shape) : at::randn(slot.shape) * 0.05;
      if (slot.name.ends_with(".bias")) value = at::randn(slot.shape) * 0.02;
      values.push_back(value.to(dtype).contiguous());
      const auto begin = end;
      end += values.back().numel() * element;
      header[slot.name] = {
          {"dtype", dtype_name}, {"shape", slot.shape}, {"data_offsets", {begin, end}}};
    }
    auto text = header.dump();
    text.resize((text.size() + 7) / 8 * 8, ' ');
    const auto length = static_cast<std::uint64_t>(text.size());
    std::ofstream out(root_ / name, std::ios::binary);
    out.write(reinterpret_cast<const char*>(&length), sizeof length);  // little-endian machines
    out << text;
    for (const auto& value : values) {
      out.write(static_cast<const char*>(value.const_data_ptr()),
                static_cast<std::streamsize>(value.nbytes()));
    }
  }

  std::filesystem::path root_;
  std::optional<ReduxConfig> redux_;
};

}  // namespace steadyflux::testing

// How a picture was made: everything needed to make it again bit for bit, or to say what differs.
// Written into PNG files as JSON, and in the form that other programs' users know (A1111).
#pragma once

#include <cstdint>
#include <map>
#include <nlohmann/json_fwd.hpp>
#include <optional>
#include <string>
#include <vector>

#include "steadyflux/pipeline.h"
#include "steadyflux/sampling.h"

namespace steadyflux {

struct LoraRecord {
  std::string path;  // as it was opened
  double strength = 1.0;
  std::string hash;  // files_identity() of it

  bool operator==(const LoraRecord&) const = default;
};

// What image to image began from.
struct InitImageRecord {
  std::string image;  // as it was opened
  std::string image_hash;
  std::string mask = {};  // likewise; empty: none
  std::string mask_hash = {};
  double strength = 0;

  bool operator==(const InitImageRecord&) const = default;
};

// "reference", "fill", "control"
std::string role_name(ConditionImage::Role role);

// What the model was shown in every step.
struct ConditionRecord {
  ConditionImage::Role role = ConditionImage::Role::kReference;
  std::string image;  // as it was opened
  std::string image_hash;
  std::string mask = {};  // likewise, of kFill
  std::string mask_hash = {};
  std::int64_t width = 0;   // pixels, of a kReference as it was shown
  std::int64_t height = 0;  // pixels, likewise

  bool operator==(const ConditionRecord&) const = default;
};

// Pictures that were taken up beside the prompt.
struct ReduxRecord {
  struct Image {
    std::string image;  // as it was opened
    std::string hash;
    double scale = 1.0;

    bool operator==(const Image&) const = default;
  };
  std::vector<Image> images;
  std::string model_hash;  // files_identity() of the Redux model's files
  bool has_prompt = true;  // false: zeros stood for the prompt, which is empty

  bool operator==(const ReduxRecord&) const = default;
};

// Stages that a picture was made in.
struct ProgressiveRecord {
  std::int64_t base = 0;  // pixels of the first stage's longer side
  double strength = 0;    // of the later ones
  // The size that was asked for. Memory may have allowed less.
  std::int64_t goal_width = 0;
  std::int64_t goal_height = 0;

  bool operator==(const ProgressiveRecord&) const = default;
};

// True classifier-free guidance.
struct NegativeRecord {
  std::string prompt;
  std::string prompt_2 = {};  // what T5 read; empty: the same
  double true_cfg_scale = 0;  // above 1

  bool operator==(const NegativeRecord&) const = default;
};

struct PictureMetadata {
  std::string prompt;
  std::string prompt_2 = {};  // what T5 read; empty: the same
  std::optional<NegativeRecord> negative = {};
  std::int64_t width = 0;   // pixels
  std::int64_t height = 0;  // pixels
  std::int64_t num_inference_steps = 0;
  Sampling sampling = {};
  std::optional<double> guidance_scale;  // absent when the model has no guidance embedding
  std::uint64_t seed = 0;                // of this picture, not of the first of its batch
  std::int64_t max_sequence_length = 0;
  std::string model;       // its folder's name
  std::string model_path;  // as it was opened
  // Parts that were named apart: "vae", "clip-l", "t5", "tokenizers",
  // "redux", "image-encoder" -> where.
  std::map<std::string, std::string> model_parts;
  std::string model_hash;  // files_identity() of its files
  std::vector<LoraRecord> loras;
  std::optional<InitImageRecord> init_image = {};
  std::optional<ConditionRecord> condition = {};
  std::optional<ReduxRecord> redux = {};
  std::optional<ProgressiveRecord> progressive = {};
  std::int64_t tile = 0;         // pixels; 0: made as a whole
  std::string dtype;             // "bf16", "fp16", "fp32"
  std::string compute = "auto";  // what blocks multiplied in: "auto" (dtype), "bf16", "int8", "fp8"
  std::string device;            // "cpu", "cuda:0"
  std::int64_t num_threads = 1;
  std::string steadyflux_version;
  std::string libtorch_version;
  std::string cpu_capability;  // as libtorch says it: "AVX2", "AVX512"

  bool operator==(const PictureMetadata&) const = default;
};

// scheduler, compat, sigmas, shift and cache_threshold, as far as they differ from Sampling's own
// values.
nlohmann::ordered_json sampling_json(const Sampling& sampling);

// One line of JSON, keys in the order above. Bytes that are no UTF-8 become U+FFFD.
std::string to_json(const PictureMetadata& metadata);

// The inverse. Unknown keys are ignored. Throws Error{kBadInput} that names `file` and the key
// whose value is missing, of another type or out of range.
PictureMetadata metadata_from_json(const std::string& text, const std::string& file);

// "prompt\nNegative prompt: ...\nSteps: 4, Sampler: Euler, ..." as Forge writes it for Flux;
// newlines of the prompts stay.
std::string a1111_parameters(const PictureMetadata& metadata);

}  // namespace steadyflux

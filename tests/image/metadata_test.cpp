#include "image/metadata.h"

#include <gtest/gtest.h>

#include <limits>
#include <nlohmann/json.hpp>
#include <string>

#include "base/file_identity.h"
#include "expect_error.h"
#include "temp_folder.h"

namespace steadyflux {
namespace {

PictureMetadata example() {
  PictureMetadata metadata;
  metadata.prompt = "a \"red\" apple,\nca\u00e9 \U0001F600";
  metadata.width = 512;
  metadata.height = 768;
  metadata.num_inference_steps = 28;
  metadata.guidance_scale = 3.5;
  metadata.seed = std::numeric_limits<std::uint64_t>::max();
  metadata.max_sequence_length = 256;
  metadata.model = "FLUX.1-dev";
  metadata.model_path = "models/FLUX.1-dev";
  metadata.model_hash = "0123456789abcdef";
  metadata.dtype = "bf16";
  metadata.device = "cpu";
  metadata.num_threads = 8;
  metadata.steadyflux_version = "0.1.0";
  metadata.libtorch_version = "2.15.0";
  metadata.cpu_capability = "AVX512";
  return metadata;
}

TEST(Metadata, JsonBringsAllBack) {
  PictureMetadata metadata = example();
  EXPECT_EQ(metadata_from_json(to_json(metadata), "x.png"), metadata);
  metadata.guidance_scale.reset();
  EXPECT_EQ(metadata_from_json(to_json(metadata), "x.png"), metadata);
  EXPECT_EQ(to_json(metadata).find("guidance"), std::string::npos);
  for (const double guidance : {0.0, -1.0, 0.1, 1.0 / 3.0}) {
    metadata.guidance_scale = guidance;
    EXPECT_EQ(metadata_from_json(to_json(metadata), "x.png"), metadata) << guidance;
  }
  for (const std::uint64_t seed : {0ull, (1ull << 53) + 1, (1ull << 63) + 1}) {
    metadata.seed = seed;
    EXPECT_EQ(metadata_from_json(to_json(metadata), "x.png").seed, seed);
  }
}

PictureMetadata example_from_picture() {
  PictureMetadata metadata = example();
  metadata.init_image = {.image = "/pictures/\u00e9 \"1\".png",
                         .image_hash = "00112233aabbccdd",
                         .mask = "/pictures/mask.jpg",
                         .mask_hash = "ffeeddcc00112233",
                         .strength = 1.0 / 3.0};
  return metadata;
}

TEST(Metadata, JsonBringsOtherTextsBack) {
  auto metadata = example();
  EXPECT_EQ(to_json(metadata).find("prompt_2"), std::string::npos);
  EXPECT_EQ(to_json(metadata).find("negative"), std::string::npos);
  metadata.prompt_2 = "\"two\"\n";
  EXPECT_EQ(metadata_from_json(to_json(metadata), "x.png"), metadata);
  metadata.negative = {.prompt = "", .true_cfg_scale = 1.0 + 1.0 / 3.0};
  EXPECT_EQ(metadata_from_json(to_json(metadata), "x.png"), metadata);
  metadata.negative->prompt_2 = "blurry";
  EXPECT_EQ(metadata_from_json(to_json(metadata), "x.png"), metadata);
}

TEST(Metadata, OtherTextsAreChecked) {
  auto metadata = example();
  metadata.prompt_2 = "two";
  metadata.negative = {.prompt = "a", .prompt_2 = "b", .true_cfg_scale = 4};
  const auto good = nlohmann::json::parse(to_json(metadata));
  const auto refuse = [&](const std::string& key, const nlohmann::json& value) {
    auto changed = good;
    changed[key] = value;
    expect_error(ErrorKind::kBadInput, "'" + key + "'",
                 [&] { metadata_from_json(changed.dump(), "x.png"); });
  };
  for (const char* key : {"prompt_2", "negative_prompt", "negative_prompt_2", "true_cfg_scale"}) {
    refuse(key, nlohmann::json::array());
  }
  for (const double scale : {1.0, 0.0, -2.0}) refuse("true_cfg_scale", scale);
  auto changed = good;
  changed.erase("true_cfg_scale");
  expect_error(ErrorKind::kBadInput, "'true_cfg_scale'",
               [&] { metadata_from_json(changed.dump(), "x.png"); });
}

TEST(Metadata, JsonBringsThePictureToBeginFromBack) {
  auto metadata = example_from_picture();
  EXPECT_EQ(metadata_from_json(to_json(metadata), "x.png"), metadata);
  metadata.init_image->mask.clear();
  metadata.init_image->mask_hash.clear();
  metadata.init_image->strength = 1;
  EXPECT_EQ(metadata_from_json(to_json(metadata), "x.png"), metadata);
  EXPECT_EQ(to_json(metadata).find("mask"), std::string::npos);
  EXPECT_EQ(to_json(example()).find("init_image"), std::string::npos);
}

ConditionRecord example_condition(ConditionImage::Role role) {
  ConditionRecord record{.role = role, .image = "/a \"1\".png", .image_hash = "0123"};
  if (role == ConditionImage::Role::kFill) {
    record.mask = "/m.png";
    record.mask_hash = "4567";
  }
  if (role == ConditionImage::Role::kReference) {
    record.width = 1568;
    record.height = 672;
  }
  return record;
}

TEST(Metadata, JsonBringsWhatWasShownBack) {
  EXPECT_EQ(to_json(example()).find("condition"), std::string::npos);
  for (const auto& [role, keys] :
       {std::pair{ConditionImage::Role::kReference,
                  std::vector<std::string>{"image", "image_hash", "width", "height"}},
        {ConditionImage::Role::kFill, {"image", "image_hash", "mask", "mask_hash"}},
        {ConditionImage::Role::kControl, {"image", "image_hash"}}}) {
    SCOPED_TRACE(role_name(role));
    auto metadata = example();
    metadata.condition = example_condition(role);
    EXPECT_EQ(metadata_from_json(to_json(metadata), "x.png"), metadata);
    const auto good = nlohmann::json::parse(to_json(metadata));
    for (const auto& key : keys) {
      auto changed = good;
      changed["condition"][key] = nlohmann::json::array();
      expect_error(ErrorKind::kBadInput, "'" + key + "'",
                   [&] { metadata_from_json(changed.dump(), "x.png"); });
      changed["condition"].erase(key);
      expect_error(ErrorKind::kBadInput, "'" + key + "'",
                   [&] { metadata_from_json(changed.dump(), "x.png"); });
    }
    auto changed = good;
    changed["condition"]["role"] = "frame";
    expect_error(ErrorKind::kBadInput, "expected reference, fill or control",
                 [&] { metadata_from_json(changed.dump(), "x.png"); });
    changed["condition"] = "a.png";
    expect_error(ErrorKind::kBadInput, "'condition'",
                 [&] { metadata_from_json(changed.dump(), "x.png"); });
  }
}

TEST(Metadata, ThePictureToBeginFromIsChecked) {
  const auto good = nlohmann::json::parse(to_json(example_from_picture()));
  const auto refuse = [&](const char* names, const nlohmann::json& init) {
    auto changed = good;
    changed["init_image"] = init;
    expect_error(ErrorKind::kBadInput, names, [&] { metadata_from_json(changed.dump(), "x.png"); });
  };
  refuse("'init_image'", nullptr);
  refuse("'init_image'", nlohmann::json::array());
  for (const char* key : {"image", "image_hash", "mask", "mask_hash", "strength"}) {
    auto init = good["init_image"];
    init[key] = nlohmann::json::array();
    refuse(key, init);
    init.erase(key);
    if (std::string(key) != "mask") refuse(key, init);  // may be absent
  }
  for (const double strength : {0.0, -0.5, 1.001}) {
    auto init = good["init_image"];
    init["strength"] = strength;
    refuse("strength", init);
  }
}

TEST(Metadata, SamplingComesBackWhereItIsNotTheUsual) {
  auto metadata = example();
  for (const char* key : {"scheduler", "compat", "sigmas", "shift", "cache_threshold"}) {
    EXPECT_EQ(to_json(metadata).find(key), std::string::npos) << key;
  }
  metadata.sampling = {.scheduler = "heun",
                       .compat = "bfl",
                       .sigmas = {1, 0.1, 1.0 / 3e9},
                       .shift = 1.0 / 3.0,
                       .cache_threshold = 0.1};
  EXPECT_EQ(metadata_from_json(to_json(metadata), "x.png"), metadata);
  const auto good = nlohmann::json::parse(to_json(metadata));
  for (const auto& [key, value] :
       std::vector<std::pair<const char*, nlohmann::json>>{{"scheduler", 1},
                                                           {"compat", nullptr},
                                                           {"sigmas", 1},
                                                           {"sigmas", nlohmann::json::array()},
                                                           {"sigmas", {1, "0.5"}},
                                                           {"sigmas", {1, 0}},
                                                           {"sigmas", {1.5}},
                                                           {"sigmas", {{"a", 1}}},
                                                           {"shift", 0},
                                                           {"shift", "1"},
                                                           {"cache_threshold", "0.1"},
                                                           {"cache_threshold", -0.1},
                                                           {"cache_threshold", 1.01}}) {
    auto changed = good;
    changed[key] = value;
    expect_error(ErrorKind::kBadInput, key, [&] { metadata_from_json(changed.dump(), "x.png"); });
  }
}

TEST(Metadata, BytesThatAreNoUtf8AreReplaced) {
  PictureMetadata metadata = example();
  metadata.model_path = "models/\xff";
  EXPECT_EQ(metadata_from_json(to_json(metadata), "x.png").model_path, "models/\ufffd");
}

TEST(Metadata, EveryKeyIsCheckedAndNamed) {
  const auto good = nlohmann::json::parse(to_json(example()));
  const nlohmann::json wrong = nlohmann::json::array();
  for (const auto& [key, value] : good.items()) {
    SCOPED_TRACE(key);
    nlohmann::json changed = good;
    changed[key] = wrong;
    expect_error(ErrorKind::kBadInput, "'" + key + "'",
                 [&] { metadata_from_json(changed.dump(), "x.png"); });
    changed.erase(key);
    if (key == "guidance_scale") continue;  // may be absent
    expect_error(ErrorKind::kBadInput, "'" + key + "'",
                 [&] { metadata_from_json(changed.dump(), "x.png"); });
  }
}

TEST(Metadata, NumbersOutOfRange) {
  const auto refuse = [](const char* key, const std::string& value) {
    SCOPED_TRACE(std::string(key) + " " + value);
    auto object = nlohmann::json::parse(to_json(example()));
    object[key] = nlohmann::json::parse(value);
    expect_error(ErrorKind::kBadInput, std::string("'") + key + "'",
                 [&] { metadata_from_json(object.dump(), "x.png"); });
  };
  for (const char* key :
       {"width", "height", "num_inference_steps", "max_sequence_length", "num_threads"}) {
    for (const char* value : {"0", "-1", "1.5", "\"8\"", "null", "9223372036854775808",
                              "18446744073709551615", "1e300"}) {
      refuse(key, value);
    }
  }
  refuse("max_sequence_length", "513");
  for (const char* value : {"-1", "1.0", "18446744073709551616", "\"1\"", "true"}) {
    refuse("seed", value);
  }
  refuse("guidance_scale", "\"3.5\"");
}

TEST(Metadata, OtherJson) {
  expect_error(ErrorKind::kBadInput, "x.png", [] { metadata_from_json("", "x.png"); });
  expect_error(ErrorKind::kBadInput, "x.png", [] { metadata_from_json("{\"seed\":1", "x.png"); });
  expect_error(ErrorKind::kBadInput, "expected an object",
               [] { metadata_from_json("[1]", "x.png"); });
  auto object = nlohmann::json::parse(to_json(example()));
  object["later_addition"] = {1, 2};
  EXPECT_EQ(metadata_from_json(object.dump(), "x.png"), example());
  object["format"] = 2;
  expect_error(ErrorKind::kBadInput, "newer", [&] { metadata_from_json(object.dump(), "x.png"); });
}

TEST(Metadata, A1111) {
  PictureMetadata metadata = example();
  metadata.prompt = "a red apple\non a table";
  metadata.seed = 7;
  EXPECT_EQ(a1111_parameters(metadata),
            "a red apple\non a table\nSteps: 28, Sampler: Euler, Schedule type: Simple, "
            "CFG scale: 1, Distilled CFG Scale: 3.5, Seed: 7, Size: 512x768, Model: FLUX.1-dev, "
            "Version: steadyflux 0.1.0");
  metadata.guidance_scale.reset();
  metadata.model = "a, b: c";
  metadata.prompt = std::string("x\0y", 3);
  EXPECT_EQ(a1111_parameters(metadata),
            "x y\nSteps: 28, Sampler: Euler, Schedule type: Simple, CFG scale: 1, Seed: 7, "
            "Size: 512x768, Model: \"a, b: c\", Version: steadyflux 0.1.0");
  metadata.model = "m";
  metadata.init_image = {.image = "a.png", .image_hash = "0", .strength = 0.75};
  EXPECT_NE(a1111_parameters(metadata).find("Model: m, Denoising strength: 0.75, Version"),
            std::string::npos);
  metadata.sampling = {.scheduler = "dpmpp_2m", .sigmas = {1, 0.5}, .shift = 2.5};
  EXPECT_NE(a1111_parameters(metadata).find("Steps: 28, Sampler: DPM++ 2M, Shift: 2.5, CFG"),
            std::string::npos);
  metadata.sampling.cache_threshold = 0.12;
  EXPECT_NE(a1111_parameters(metadata).find("Shift: 2.5, First block cache: 0.12, CFG"),
            std::string::npos);
}

TEST(Metadata, A1111HasTheNegativePromptOnALineOfItsOwn) {
  PictureMetadata metadata = example();
  metadata.prompt = "a red apple";
  metadata.seed = 7;
  metadata.negative = {.prompt = "blurry,\ndark", .true_cfg_scale = 3.5};
  EXPECT_EQ(
      a1111_parameters(metadata),
      "a red apple\nNegative prompt: blurry,\ndark\nSteps: 28, Sampler: Euler, Schedule type: "
      "Simple, CFG scale: 3.5, Distilled CFG Scale: 3.5, Seed: 7, Size: 512x768, Model: "
      "FLUX.1-dev, Version: steadyflux 0.1.0");
  metadata.negative = {.prompt = "", .prompt_2 = "dark", .true_cfg_scale = 2};
  metadata.prompt_2 = "a red, red apple";
  EXPECT_EQ(
      a1111_parameters(metadata),
      "a red apple\nSteps: 28, Sampler: Euler, Schedule type: Simple, CFG scale: 2, Distilled "
      "CFG Scale: 3.5, Seed: 7, Size: 512x768, Model: FLUX.1-dev, Prompt 2: \"a red, red "
      "apple\", Negative prompt 2: dark, Version: steadyflux 0.1.0");
}

std::string model_identity(const std::filesystem::path& folder) {
  std::vector<NamedFile> files;
  for (const auto& file : list_model_files(folder)) {
    files.push_back({file.generic_string(), folder / file});
  }
  return files_identity(files);
}

TEST(ModelIdentity, FollowsTheContentAndNothingElse) {
  TempFolder a;
  TempFolder b;
  const std::string big(3 << 20, 'w');
  for (const TempFolder* folder : {&a, &b}) {
    folder->write("model_index.json", "{}");
    folder->write("transformer/weights.safetensors", big);
  }
  const std::string identity = model_identity(a.path());
  EXPECT_EQ(identity.size(), 16u);
  EXPECT_EQ(model_identity(b.path()), identity);
  b.write("README.md", "notes");
  b.write(".cache/x.json", "{}");
  EXPECT_EQ(model_identity(b.path()), identity);
  b.write("model_index.json", "{ }");
  EXPECT_NE(model_identity(b.path()), identity);
  for (const std::size_t at : {std::size_t{0}, big.size() - 1}) {
    std::string changed = big;
    changed[at] = 'x';
    a.write("transformer/weights.safetensors", changed);
    EXPECT_NE(model_identity(a.path()), identity) << at;
  }
  a.write("transformer/weights.safetensors", big + "w");
  EXPECT_NE(model_identity(a.path()), identity);
  expect_error(ErrorKind::kBadInput, "none", [&] { model_identity(a / "none"); });
}

}  // namespace
}  // namespace steadyflux

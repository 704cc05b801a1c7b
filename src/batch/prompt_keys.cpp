#include "batch/prompt_keys.h"

#include <fmt/format.h>

#include <algorithm>
#include <array>

#include "base/utf8.h"
#include "steadyflux/error.h"

namespace steadyflux {
namespace {

struct Key {
  std::string_view key;  // with dashes; underscores mean the same
  std::string_view name;
  PromptValue value;
};

constexpr std::array<Key, 30> kKeys = {{
    {"prompt", "prompt", PromptValue::kText},
    {"prompt-2", "prompt-2", PromptValue::kText},
    {"negative-prompt", "negative-prompt", PromptValue::kText},
    {"negative-prompt-2", "negative-prompt-2", PromptValue::kText},
    {"true-cfg-scale", "true-cfg-scale", PromptValue::kNumber},
    {"seed", "seed", PromptValue::kWhole},
    {"width", "width", PromptValue::kWhole},
    {"height", "height", PromptValue::kWhole},
    {"steps", "steps", PromptValue::kWhole},
    {"guidance", "guidance", PromptValue::kNumber},
    {"max-sequence-length", "max-sequence-length", PromptValue::kWhole},
    {"num-images", "num-images", PromptValue::kWhole},
    {"output", "output", PromptValue::kString},
    {"lora", "lora", PromptValue::kString},
    {"image", "image", PromptValue::kString},
    {"mask", "mask", PromptValue::kString},
    {"strength", "strength", PromptValue::kNumber},
    {"reference", "reference", PromptValue::kString},
    {"reference-size", "reference-size", PromptValue::kString},
    {"control-image", "control-image", PromptValue::kString},
    {"redux-image", "redux-image", PromptValue::kString},
    {"base-size", "base-size", PromptValue::kWhole},
    {"scheduler", "scheduler", PromptValue::kString},
    {"sigmas", "sigmas", PromptValue::kNumber},
    {"shift", "shift", PromptValue::kNumber},
    {"compat", "compat", PromptValue::kString},
    {"cache-threshold", "cache-threshold", PromptValue::kNumber},
    {"num-inference-steps", "steps", PromptValue::kWhole},
    {"guidance-scale", "guidance", PromptValue::kNumber},
    {"n", "num-images", PromptValue::kWhole},
}};

// Options that have no other value from prompt to prompt.
constexpr std::array<std::string_view, 17> kOfTheBatch = {
    "vae",           "clip-l",      "t5",
    "tokenizers",    "model",       "device",
    "dtype",         "threads",     "max-vram",
    "max-ram",       "vae-tiling",  "on-pressure",
    "memory-report", "redux",       "image-encoder",
    "compute",       "cuda-graphs",
};

[[noreturn]] void bad(const std::string& what) { throw Error(ErrorKind::kBadInput, what); }

const Key* find_key(std::string_view key) {
  const auto it = std::find_if(kKeys.begin(), kKeys.end(),
                               [&](const Key& candidate) { return candidate.key == key; });
  return it == kKeys.end() ? nullptr : &*it;
}

[[noreturn]] void unknown_key(std::string_view key, const std::string& dashed) {
  if (std::find(kOfTheBatch.begin(), kOfTheBatch.end(), dashed) != kOfTheBatch.end()) {
    bad(fmt::format("{} is the same for all prompts: give it as --{} on the command line",
                    quoted_key(key), dashed));
  }
  bad(fmt::format(
      "unknown key {}; known are prompt, prompt-2, negative-prompt, "
      "negative-prompt-2, true-cfg-scale, seed, width, height, steps, guidance, "
      "max-sequence-length, num-images (or n), lora, image, mask, strength, reference, "
      "reference-size, control-image, redux-image, base-size, scheduler, sigmas, shift, compat, "
      "cache-threshold and output",
      quoted_key(key)));
}

// "4.0" is how programs write a 4 that went through floating point, as columns with blank cells do.
void drop_zero_fraction(std::string& number) {
  const std::size_t point = number.find('.');
  if (point == std::string::npos || point + 1 == number.size()) return;
  std::string_view whole = std::string_view(number).substr(0, point);
  if (whole.starts_with('-')) whole.remove_prefix(1);
  if (whole.empty() || whole.find_first_not_of("0123456789") != std::string_view::npos) return;
  if (number.find_first_not_of('0', point + 1) != std::string::npos) return;
  number.resize(point);
}

}  // namespace

PromptValue prompt_value(std::string_view name) {
  const Key* key = find_key(name);
  return key == nullptr ? PromptValue::kString : key->value;
}

std::string quoted_key(std::string_view key) { return fmt::format("'{}'", printable(key, 40)); }

std::string PromptKeys::claim(std::string_view key) {
  std::string dashed(key);
  std::replace(dashed.begin(), dashed.end(), '_', '-');
  const Key* found = find_key(dashed);
  if (found == nullptr) unknown_key(key, dashed);
  const auto [it, is_new] = spelled_.emplace(found->name, key);
  if (!is_new) {
    if (it->second == key) bad(fmt::format("{} is given twice; keep one", quoted_key(key)));
    bad(fmt::format("{} and {} mean the same; keep one", quoted_key(it->second), quoted_key(key)));
  }
  return it->first;
}

void set_prompt_value(PromptEntry& entry, const std::string& name, std::string_view key,
                      std::string value) {
  if (value.find('\0') != std::string::npos) {
    bad(fmt::format("{} contains a NUL character; remove it", quoted_key(key)));
  }
  if (name == "prompt") {
    entry.prompt = std::move(value);
    return;
  }
  if (value.empty() && name != "lora" && name != "redux-image" && name != "negative-prompt") {
    bad(fmt::format("{} is empty; give it a value or leave it out", quoted_key(key)));
  }
  if (prompt_value(name) == PromptValue::kWhole) drop_zero_fraction(value);
  entry.options[name] = std::move(value);
}

}  // namespace steadyflux

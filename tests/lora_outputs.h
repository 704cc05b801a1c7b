// What diffusers, peft and LyCORIS computed with LoRAs in the tiny pipeline of goldens/a: the
// tensors of scripts/make_lora_output_goldens.py, and the LoRAs with the same strengths for us.
#pragma once

#include <ATen/ATen.h>

#include <filesystem>
#include <memory>
#include <ostream>
#include <string>
#include <vector>

#include "nn/load.h"
#include "nn/lora_layers.h"
#include "weights/safetensors.h"

namespace steadyflux::testing {

struct LoraCase {
  std::string name;
  std::vector<std::string> files;  // their names without ".safetensors"
  // How much better conditioned the model is without them. The reference too differs so much more
  // from itself between processors: AVX2 and AVX-512, by 2.4e-5 with "kohya", 8.2e-5 with "two".
  double amplifies = 1;
};

inline void PrintTo(const LoraCase& one, std::ostream* out) { *out << one.name; }

class LoraOutputs {
 public:
  LoraOutputs() : file_(SafetensorsFile::open(tests() / "goldens/lora/outputs.safetensors")) {}

  at::Tensor tensor(const std::string& name) const {
    return to_tensor(file_.tensors.at(name)).clone();
  }
  LoraLayers layers(const LoraCase& one, LoraComponent component) const {
    const auto strengths = tensor(one.name + ".strengths");
    LoraLayers layers;
    for (std::size_t i = 0; i < one.files.size(); ++i) {
      layers.add(std::make_shared<LoraFile>(read_lora(path(one.files[i]))), component,
                 strengths[static_cast<std::int64_t>(i)].item<double>());
    }
    return layers;
  }

 private:
  static std::filesystem::path tests() {
    return std::filesystem::path(STEADYFLUX_SOURCE_DIR) / "tests";
  }
  static std::filesystem::path path(const std::string& name) {
    const auto beside_outputs = tests() / "goldens/lora" / name;
    if (std::filesystem::is_directory(beside_outputs)) {
      return beside_outputs / "adapter_model.safetensors";
    }
    const auto file = name + ".safetensors";
    if (std::filesystem::exists(tests() / "goldens/lora" / file)) {
      return tests() / "goldens/lora" / file;
    }
    return tests() / "lora/goldens" / file;
  }

  SafetensorsFile file_;
};

}  // namespace steadyflux::testing

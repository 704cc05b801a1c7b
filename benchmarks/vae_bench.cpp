// Seconds and memory of the VAE's decoder at FLUX.1's size with random weights, and a hash of the
// picture's bits, which has to be the same however the picture is cut into bands:
//   vae_bench --size 1024 --dtype bf16 --band-bytes 67108864 --threads 2 --repeat 2 [--encode]
// One JSON object on standard output. Memory is that of the first run, above what was resident when
// it began; the time is that of the fastest. --repeat 0: one, then turns (turns.h).
#include <ATen/ATen.h>
#include <ATen/Parallel.h>
#include <c10/core/InferenceMode.h>

#include <algorithm>
#include <cstdlib>
#include <fstream>
#include <iostream>
#include <map>
#include <nlohmann/json.hpp>
#include <string>

#include "memory/release.h"
#include "turns.h"
#include "vae/autoencoder_kl.h"

namespace {

using namespace steadyflux;

std::int64_t status_bytes(const std::string& key) {
  std::ifstream file("/proc/self/status");
  for (std::string line; std::getline(file, line);) {
    if (line.rfind(key + ":", 0) == 0) return std::stoll(line.substr(key.size() + 1)) * 1024;
  }
  return 0;
}

std::uint64_t hash_bits(const at::Tensor& tensor) {
  const auto bytes = tensor.cpu().contiguous().view(-1).view(at::kByte);
  const auto* data = bytes.const_data_ptr<std::uint8_t>();
  std::uint64_t hash = 14695981039346656037u;  // FNV-1a
  for (std::int64_t i = 0; i < bytes.numel(); ++i) hash = (hash ^ data[i]) * 1099511628211u;
  return hash;
}

// Values of a size that keeps activations near 1 through all layers.
void fill_randomly(const std::vector<TensorSlot>& slots, at::ScalarType dtype) {
  at::manual_seed(1);
  for (const auto& slot : slots) {
    auto values = at::randn(slot.shape);
    if (slot.shape.size() == 1) {
      const bool norm_weight = slot.name.find("norm") != std::string::npos &&
                               slot.name.find("weight") != std::string::npos;
      values = values * 0.1 + (norm_weight ? 1 : 0);
    } else {
      values /= std::sqrt(static_cast<double>(values.numel() / slot.shape[0]));
    }
    *slot.tensor = values.to(dtype);
  }
}

}  // namespace

int main(int argc, char** argv) {
  return_large_blocks_at_once();  // as steadyflux does
  std::map<std::string, std::string> options = {
      {"size", "512"},
      {"dtype", "bf16"},
      {"band-bytes", std::to_string(BandMode{}.band_bytes)},
      {"threads", "0"},
      {"repeat", "1"}};
  bool encode = false;
  for (int i = 1; i < argc; ++i) {
    const std::string name = std::string(argv[i]).substr(2);
    if (name == "encode") {
      encode = true;
    } else if (options.count(name) && i + 1 < argc) {
      options[name] = argv[++i];
    } else {
      std::cerr << "unknown option " << argv[i] << "\n";
      return 2;
    }
  }
  const c10::InferenceMode inference_mode;
  if (const int threads = std::stoi(options["threads"])) at::set_num_threads(threads);
  const auto size = std::stoll(options["size"]);
  const auto dtype = options["dtype"] == "fp32"   ? at::kFloat
                     : options["dtype"] == "fp16" ? at::kHalf
                                                  : at::kBFloat16;
  const BandMode mode{.band_bytes = std::stoll(options["band-bytes"])};

  const AutoencoderKlConfig config;
  AutoencoderKlDecoder decoder(config);
  AutoencoderKlEncoder encoder(config);
  fill_randomly(encode ? encoder.slots() : decoder.slots(), dtype);
  at::manual_seed(2);
  const auto input = (encode ? at::rand({1, 3, size, size}) * 2 - 1
                             : at::randn({1, config.latent_channels, size / 8, size / 8}))
                         .to(dtype);

  at::Tensor result;
  const auto run = [&] {
    result.reset();
    result = encode ? encoder.encode(input, mode) : decoder.decode(input, mode);
  };
  std::ofstream("/proc/self/clear_refs") << "5";  // the peak starts anew
  const auto before = status_bytes("VmRSS");
  const double first = seconds(run);
  const auto peak = status_bytes("VmHWM") - before;
  double fastest = first;
  if (const int repeat = std::stoi(options["repeat"]); repeat != 1) {
    for (const auto taken : timed_runs(std::max(repeat - 1, 0), run)) {
      fastest = std::min(fastest, taken);
    }
  }
  std::cout << nlohmann::json{{"what", encode ? "encode" : "decode"},
                              {"size", size},
                              {"dtype", options["dtype"]},
                              {"band_bytes", mode.band_bytes},
                              {"threads", at::get_num_threads()},
                              {"seconds", fastest},
                              {"peak_rss_delta", peak},
                              {"hash", hash_bits(result)}}
            << "\n";
}

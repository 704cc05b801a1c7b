// Where every weight and activation lives while pictures are made, decided before anything is
// loaded: a pure function of the model's configuration, the request and the budget. It predicts the
// peaks of memory and the bytes read, and the pipeline carries it out (src/residency,
// src/pipeline). Torch-free, and it opens nothing.
#pragma once

#include <cstdint>
#include <map>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "config/model_config.h"
#include "config/tiles.h"

namespace steadyflux {

// What the process may take. Margins are taken off already.
struct Budget {
  bool has_device = false;      // false: everything happens in RAM
  std::int64_t vram = 0;        // bytes on the device, its context included; 0 without a device
  std::int64_t ram = 0;         // bytes of RSS
  std::string ram_set_by = {};  // MemoryLimit::set_by
  std::int64_t ram_base = 0;    // RSS of the process before it loads anything
  // All phases have been run in this process before, and what its libraries took for that is in
  // ram_base.
  bool warm = false;
  // What the device's runtime takes for itself on the device, before any tensor.
  std::int64_t device_context = 0;
};

// Assumed for CUDA, as the program must not open the device to plan: what context and kernels take
// on the card (518 MiB on an H200), what they add to the RSS of the process (there 895 MiB), and
// cuBLAS's workspace, which is the allocator's like a tensor; pipeline/planning asks for that size,
// as cuBLAS's own choice differs from card to card.
constexpr std::int64_t kCudaContextBytes = std::int64_t{520} << 20;
constexpr std::int64_t kCudaHostBytes = std::int64_t{900} << 20;
constexpr std::int64_t kCublasWorkspaceBytes = std::int64_t{8320} << 10;
constexpr const char* kCublasWorkspaceConfig = ":4096:2:16:8";  // buffers of so many KiB, how many
constexpr std::int64_t kCudaBytes = kCudaContextBytes + kCublasWorkspaceBytes;

// How much one tensor takes.
struct StoredSize {
  std::int64_t file_bytes = 0;
  std::int64_t packed_bytes = 0;  // in memory, where it can stay packed; 0: plain values
};

// How a component's weights are stored.
struct StoredWeights {
  // What most bytes are: bf16, fp16, fp32, fp64 or a quantisation, "Q4_K".
  std::string dtype = "bf16";
  // Most bytes are packed and stay so in memory.
  bool packed = false;
  // LoRAs change plain weights, which then are not used as they lie in mapped files.
  bool merged = false;
  // Of every tensor, by the model's names. Without it all are of `dtype`.
  std::shared_ptr<const std::map<std::string, StoredSize>> sizes = {};
};

struct StoredModel {
  StoredWeights text_encoder = {};
  StoredWeights text_encoder_2 = {};
  StoredWeights transformer = {};
  StoredWeights vae = {};
  StoredWeights image_encoder = {};  // of Redux
  StoredWeights image_embedder = {};
};

// What is to be made in one go, as far as memory is concerned. Where pictures differ, the largest
// of each counts for all of them.
struct Workload {
  std::int64_t width = 1024;   // pixels
  std::int64_t height = 1024;  // pixels
  std::int64_t tile = 0;       // pixels: pictures with longer sides are made in tiles; 0: as one
  std::int64_t num_inference_steps = 4;  // that are made: of image to image those behind the first
  // Of the transformer in every step but the last, which has one: 2 with Heun's method.
  std::int64_t passes_per_step = 1;
  std::int64_t solver_latents = 0;    // that a solver keeps of each picture, beside its latents
  std::int64_t num_images = 1;        // in all
  std::int64_t num_guided = 0;        // of them: with a negative prompt beside the prompt
  std::int64_t num_prompts = 1;       // different ones
  std::int64_t num_encoded = 1;       // texts of them: 0 where all embeddings are there already
  std::int64_t num_redux_images = 0;  // pictures that are encoded for prompts
  std::int64_t redux_tokens = 0;      // that stand behind a prompt's, at most
  std::int64_t redux_load_bytes = 0;  // of RAM, to read one of those pictures
  std::int64_t num_init_images = 0;   // pictures that begin from one
  std::int64_t num_masks = 0;         // and keep part of it
  std::int64_t num_conditions = 0;    // pictures that have one beside their channels
  std::int64_t num_references = 0;    // pictures that have one behind their tokens
  std::int64_t reference_width = 0;   // pixels, of the largest of those
  std::int64_t reference_height = 0;  // pixels
  std::int64_t image_load_bytes = 0;  // of RAM, to read one of all those pictures
  std::int64_t num_tables = 1;        // of modulations: combinations of prompt, steps and guidance
  // What step caching keeps from pass to pass: one for each text of a picture, two with Heun's
  // method, over all pictures; in tiles for each tile.
  std::int64_t num_step_caches = 0;
  std::int64_t max_sequence_length = 512;
  int num_threads = 1;
  std::string dtype = "bf16";  // computed with: bf16, fp16, fp32
  // What blocks of the transformer multiply in: auto (dtype), bf16, int8, fp8.
  std::string compute = "auto";
  bool widened = false;         // on the CPU, which multiplies such numbers in fp32 only
  std::int64_t lora_bytes = 0;  // of the files
  // Where it is the dtype computed with, or packed, weights on the CPU are used as they lie in the
  // mapped files.
  StoredModel stored;

  // Pictures that are encoded on their behalf, perhaps several for one.
  bool encodes_images() const { return num_init_images + num_conditions + num_references > 0; }
  // Whether there is a phase of prompts, and pictures that stand behind them.
  bool encodes() const { return num_encoded + num_redux_images > 0; }
  // Tokens before those of the picture.
  std::int64_t text_len() const { return max_sequence_length + redux_tokens; }
  // Times that the transformer is asked of each picture, or tile, with one text.
  std::int64_t evaluations() const {
    return num_inference_steps * passes_per_step - (passes_per_step - 1);
  }
  // In packed tokens, `token` pixels a side.
  TileGrid tiles(std::int64_t token) const { return token_tiles(height, width, tile, token); }
  std::int64_t reference_tokens(std::int64_t token) const {
    return reference_height / token * (reference_width / token);
  }
};

enum class UnitPlace : std::uint8_t {
  kResident,  // where it is computed with, for the whole phase
  kHost,      // in pinned RAM, copied to the device in every pass
  kDisk,      // read from the file in every pass
};

// A stretch of weights that is needed at the same time and comes and goes as one.
struct UnitFootprint {
  std::string name;             // "transformer_blocks.3.attn"
  std::int64_t bytes = 0;       // in memory, as it is computed with
  std::int64_t file_bytes = 0;  // in the file
};

// How one set of weights is held and fed.
struct WeightsPlan {
  // text_encoder, text_encoder_2, image_encoder, image_embedder, modulation, transformer, vae
  std::string component;
  std::vector<UnitFootprint> units;  // in the order of use
  std::vector<UnitPlace> places;     // one per unit
  std::int64_t fixed_bytes = 0;      // always in place: embedders, norms
  bool mapped = false;       // on the CPU, all of it: views of the mapped files, nothing is read
  std::int64_t buffers = 0;  // that streamed units take turns in; buffers - 1 are read ahead
  std::int64_t buffer_bytes = 0;  // of each
  std::int64_t passes = 1;        // times the units are gone through
  // So many units in front are wanted in every pass; those behind may be left out. 0: none may.
  std::size_t always = 0;

  std::int64_t count(UnitPlace place) const;
  std::int64_t bytes(UnitPlace place) const;
  std::int64_t file_bytes(UnitPlace place) const;
  std::int64_t total_bytes() const;  // of the units
};

// encode (unless nothing is to be encoded), encode_image (if pictures begin from one or are shown
// one), modulate, denoise, decode.
struct PhasePlan {
  std::string name;
  std::vector<WeightsPlan> weights = {};  // one after the other, not at the same time
  std::int64_t device_activations = 0;    // at the peak, besides weights and buffers
  std::int64_t host_activations = 0;      // likewise in RAM
  std::int64_t device_peak_bytes = 0;     // context included; 0 without a device
  std::int64_t ram_peak_bytes = 0;        // RSS
  std::int64_t disk_read_bytes = 0;       // over the whole phase
  std::int64_t host_copy_bytes = 0;       // from pinned RAM to the device, likewise
};

struct VaePlan {
  std::int64_t band_bytes = 0;  // one band of one layer's activations takes at most about this
  std::int64_t band_rows = 0;   // what that is at the widest layer, in rows of pixels
  bool tiled = false;           // the picture is decoded in more than one band
  bool parked_in_ram = false;   // on a device: what lies between two layers waits in RAM
};

enum class Tiling { kAuto, kOn, kOff };

struct PlanOptions {
  Tiling vae_tiling = Tiling::kAuto;
  bool cuda_graphs = false;  // passes of a transformer that is on the device are recorded there
  // 0: as the budget says. n: as if the budget of the device (on the CPU: of RAM) left n steps less
  // than that; the last step is the leanest plan there is. For memory that is not what it seemed.
  int leaner = 0;
};

struct Plan {
  Budget budget;
  Workload workload;
  bool fits = false;
  std::vector<PhasePlan> phases;
  VaePlan vae;                       // of decoding
  VaePlan vae_encoder;               // of encode_image
  std::int64_t modulation_rows = 0;  // steps whose modulations are held at once, for every table
  // Pictures, and prompts, that go in turn through each unit of weights while it is there.
  std::int64_t denoise_group = 1;
  std::int64_t encode_group = 1;
  bool records_passes = false;  // of the transformer: transformer/recorded_forward.h
  bool leanest = false;         // nothing can be given up any more

  std::int64_t device_peak_bytes = 0;
  std::int64_t ram_peak_bytes = 0;
  std::int64_t disk_read_bytes_per_step = 0;
  std::int64_t disk_read_bytes = 0;  // in all
  std::int64_t host_copy_bytes = 0;  // in all
  std::int64_t disk_bytes = 0;       // that the weights take on the disk

  const PhasePlan& phase(const std::string& name) const;
};

Plan make_plan(const FluxModel& model, const Workload& workload, const Budget& budget,
               const PlanOptions& options = {});

bool fits(const PhasePlan& phase, const Budget& budget);

// What a plan has to bring in, in bytes read from the disk; copies from pinned RAM are several
// times as fast.
std::int64_t traffic(const Plan& plan);

}  // namespace steadyflux

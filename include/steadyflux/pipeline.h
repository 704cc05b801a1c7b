// The public face of the library: a request goes in, pictures come out.
#pragma once

#include <cstddef>
#include <cstdint>
#include <filesystem>
#include <functional>
#include <memory>
#include <optional>
#include <span>
#include <string>
#include <vector>

#include "steadyflux/error.h"
#include "steadyflux/model_parts.h"
#include "steadyflux/sampling.h"

namespace steadyflux {

struct Plan;            // memory/plan.h
struct Aspect;          // memory/largest_size.h
struct MemoryTimeline;  // memory/timeline.h
struct StoredEmbeds;    // embeddings/prompt_embeds_file.h

// A LoRA file and how strongly it is applied.
struct LoraUse {
  std::filesystem::path path;
  double strength = 1.0;

  bool operator==(const LoraUse&) const = default;
};

// 8-bit RGB, rows from top to bottom, no padding.
struct Image {
  std::int64_t width = 0;
  std::int64_t height = 0;
  std::vector<std::uint8_t> rgb;
};

// A picture to begin from, in place of noise alone: image to image, and inpainting with a mask.
struct InitImage {
  struct Pixels {
    Image image;
    // Grey, one byte a pixel: from 128 on it is painted anew. Empty: all of it is.
    std::vector<std::uint8_t> mask = {};
  };
  std::filesystem::path image;
  std::filesystem::path mask = {};  // empty: none
  // Both in the request's size. Called when they are needed, and again if need be.
  std::function<Pixels()> load;
  std::int64_t load_bytes = 0;  // of RAM that it takes at most, for the plan
  // How much of the way from noise is gone, above 0 to 1: of n steps the first (1 - strength) n are
  // left out.
  double strength = 0.6;
};

// A picture that the model is shown in every step, by models that are made for it.
struct ConditionImage {
  enum class Role {
    kReference,  // what the picture goes by, of any size: Kontext
    kFill,       // filled in where the mask is light: Fill
    kControl,    // a depth map or edges: Depth, Canny
  };
  Role role = Role::kReference;
  std::filesystem::path image;
  std::filesystem::path mask = {};  // of kFill
  // In pixels, of what load gives; multiples of 16, and but for kReference the request's.
  std::int64_t width = 0;
  std::int64_t height = 0;
  std::function<InitImage::Pixels()> load;  // likewise called when needed, and again if need be
  std::int64_t load_bytes = 0;              // of RAM that it takes at most
};

// A picture that is taken up together with the prompt: FLUX.1-Redux makes tokens of it, which stand
// behind those of the prompt.
struct ReduxImage {
  std::filesystem::path image;
  // How strongly the prompt's tokens and this picture's count. Of several pictures of a request
  // these are added up, as diffusers does with `prompt_embeds_scale`.
  double scale = 1.0;
  // In the picture's own size. Called when it is needed, and again if need be.
  std::function<Image()> load = {};
  std::int64_t load_bytes = 0;  // of RAM that it takes at most
};

// A picture that is begun small and made larger in stages. Each stage is image to image from the
// picture before it, resized.
struct Progressive {
  std::int64_t base = 512;  // pixels of the longer side of the first stage
  // Of the later stages, as InitImage::strength.
  double strength = 0.3;

  bool operator==(const Progressive&) const = default;
};

// One of the stages, of which there is one where a picture is not progressive.
struct StageInfo {
  std::int64_t number = 1;  // from 1
  std::int64_t count = 1;
  std::int64_t width = 0;   // pixels, of the first picture
  std::int64_t height = 0;  // pixels
  std::int64_t steps = 0;   // that are made, likewise
};

// One prompt and what to do with it. Validated by Pipeline::check.
struct Request {
  std::string prompt;                      // UTF-8, may be empty
  std::string prompt_2 = {};               // what T5 reads; empty: the prompt, as CLIP does
  std::int64_t width = 1024;               // pixels, a multiple of 16
  std::int64_t height = 1024;              // pixels, a multiple of 16
  std::int64_t num_inference_steps = 4;    // >= 1
  double guidance_scale = 3.5;             // used by models with guidance_embeds only
  std::uint64_t seed = 0;                  // of the first picture; picture i has seed + i
  std::int64_t num_images = 1;             // >= 1
  std::int64_t max_sequence_length = 512;  // T5 tokens, 1..512
  std::vector<LoraUse> loras = {};
  std::shared_ptr<const InitImage> init_image = nullptr;
  std::shared_ptr<const ConditionImage> condition = nullptr;
  // With a Redux model only.
  std::vector<ReduxImage> redux_images = {};
  // False, with redux_images only: there is no prompt, and zeros stand for its tokens.
  bool has_prompt = true;
  // Without an init_image only.
  std::optional<Progressive> progressive = {};
  // Pixels, a multiple of 16. A picture with longer sides is made in overlapping tiles of this
  // side: the models see one at a time, and memory is bounded by it. 0: the picture as one.
  std::int64_t tile = 0;
  // True classifier-free guidance: away from this prompt, and the further the larger the scale.
  std::optional<std::string> negative_prompt = {};  // may be empty
  std::string negative_prompt_2 = {};               // as prompt_2
  double true_cfg_scale = 1.0;                      // finite, >= 0; up to 1 there is no guidance

  bool has_true_cfg() const { return negative_prompt.has_value() && true_cfg_scale > 1; }
  Sampling sampling = {};  // with sigmas, num_inference_steps is how many there are
};

// Requests that go through Pipeline::generate in one go have the same LoRAs, stages and tiles.
bool can_be_made_together(const Request& a, const Request& b);

// Measured over one phase. Bytes and seconds.
struct PhaseStats {
  std::string name;        // "encode", "encode_image", "modulate", "denoise", "decode"
  std::int64_t stage = 0;  // of a progressive picture, from 1; 0: it has no stages
  double seconds = 0;
  double load_seconds = 0;                 // part of `seconds` spent opening weights
  std::int64_t device_peak_allocated = 0;  // 0 on the CPU
  std::int64_t device_peak_reserved = 0;
  std::int64_t peak_rss = 0;
  std::int64_t peak_rss_anon = 0;
  std::int64_t peak_rss_file = 0;
  std::int64_t major_faults = 0;
  std::int64_t disk_read = 0;         // that came from a disk
  std::int64_t swap = 0;              // largest VmSwap seen
  std::int64_t predicted_device = 0;  // by the plan, to compare with device_peak_allocated
  std::int64_t predicted_ram = 0;     // by the plan, to compare with peak_rss
};

// Passes of a picture through the transformer, with step caching.
struct PassCounts {
  std::int64_t computed = 0;  // through all blocks
  std::int64_t reused = 0;    // through the first one only

  PassCounts& operator+=(const PassCounts& other) {
    computed += other.computed;
    reused += other.reused;
    return *this;
  }
};

// Gets every picture as soon as it is decoded: picture `index` of request number `request`.
using OnImage = std::function<void(std::size_t request, std::int64_t index, Image image)>;

// Told what happens while pictures are made. All calls come from the thread that called generate.
class Observer {
 public:
  virtual ~Observer() = default;
  // Before anything is loaded, and when memory makes another plan necessary.
  virtual void planned(const Plan& /*plan*/) {}
  // At the end of generate, also when it ends by an exception.
  virtual void memory_seen(const MemoryTimeline& /*timeline*/) {}
  // Of progressive pictures: before all that belongs to a stage.
  virtual void stage_started(const StageInfo& /*stage*/) {}
  virtual void phase_started(const std::string& /*name*/, std::int64_t /*total_steps*/) {}
  virtual void phase_progress(std::int64_t /*steps_done*/) {}
  virtual void phase_finished(const PhaseStats& /*stats*/) {}
  // With step caching, when all steps of picture `index` of request number `request` are made; of
  // progressive pictures once a stage.
  virtual void passes_made(std::size_t /*request*/, std::int64_t /*index*/,
                           const PassCounts& /*passes*/) {}
  virtual void warning(const std::string& /*message*/) {}
  // Asked between steps; a non-zero signal number ends the work with Interrupted.
  virtual int interrupt_signal() { return 0; }
};

// Where embeddings are kept beyond a run. Nothing that goes wrong in it may end the run.
class PromptEmbedsStore {
 public:
  virtual ~PromptEmbedsStore() = default;
  // Of the prompt, and what T5 reads in its place ("": the same), with this number of T5 tokens in
  // this dtype ("bf16", ...); nothing if unknown.
  virtual std::optional<StoredEmbeds> find(const std::string& prompt, const std::string& prompt_2,
                                           std::int64_t max_sequence_length,
                                           const std::string& dtype) = 0;
  virtual void put(const StoredEmbeds& embeds) = 0;
  // Told before find and put: the LoRAs of the requests that the prompts are of, and whether any
  // of them changes a text encoder, and with it the embeddings.
  virtual void use_loras(const std::vector<LoraUse>& loras, bool change_embeds) = 0;
};

// A picture after some of its steps. Bytes stay where they are, in tensors or a mapped file, and
// are not copied: `owner` keeps them.
struct SavedLatents {
  using Bytes = std::span<const std::byte>;
  std::int64_t steps_done = 0;
  std::string dtype;                // bf16, fp16, fp32, of all that follows
  std::vector<std::int64_t> shape;  // packed: [1, S, out_channels]
  Bytes values;
  // What the last step took the finished picture to be, in the same shape, where the next one needs
  // it (dpmpp_2m); else empty.
  Bytes prediction = {};
  // Of step caching, where there is some: what blocks added to the picture's tokens in the last
  // whole pass, one for each text, in each tile, at each evaluation of a step.
  struct StepCache {
    std::vector<std::int64_t> shape;  // [1, tokens, dim]
    Bytes first_residual, rest_residual;
  };
  std::vector<StepCache> step_caches = {};
  PassCounts passes = {};
  std::shared_ptr<const void> owner = {};
};

// Where unfinished pictures are kept, to go on from there in another run. With a store an interrupt
// waits for the end of the step, and what was reached is kept.
class LatentsStore {
 public:
  virtual ~LatentsStore() = default;
  virtual std::int64_t every() const = 0;  // steps between two times of keeping; >= 1
  // Of picture `index` of request number `request`; nothing if there is none that fits.
  virtual std::optional<SavedLatents> find(std::size_t request, std::int64_t index) = 0;
  // The next step writes over the bytes: a store that wants them for later copies them.
  virtual void put(std::size_t request, std::int64_t index, const SavedLatents& latents) = 0;
};

struct PipelineOptions {
  std::filesystem::path model;  // a diffusers folder, or a single-file checkpoint
  ModelParts parts = {};        // what goes with a single file
  std::string device = "auto";  // auto, cpu, cuda, cuda:N
  std::string dtype = "auto";   // auto (that of the transformer's weights), bf16, fp16, fp32
  // What the transformer's blocks multiply in: auto (the dtype), bf16, int8, fp8.
  // docs/performance.md
  std::string compute = "auto";
  int num_threads = 0;  // 0: as many as there are physical cores for this process
  // At most this much of what is there, bytes. The device's context counts as well.
  std::optional<std::int64_t> max_vram = {};
  std::optional<std::int64_t> max_ram = {};
  std::string vae_tiling = "auto";     // auto (as memory demands), on, off
  std::string cuda_graphs = "off";     // on, off
  std::string on_pressure = "replan";  // when memory is short while it works: replan, warn, abort
  // With several processes on one machine: the number of this one, which picks its card, and how
  // many share the cores and the main memory.
  int local_rank = 0;
  int processes_here = 1;
};

// How long a picture may take, for a size that is to be found.
struct TimeLimit {
  std::optional<double> max_seconds = {};  // for each picture
  std::optional<double> tflops = {};       // what the machine computes; nothing: it is measured
};

class Pipeline {
 public:
  // Reads the configuration files and the headers of the transformer's and the VAE's files, picks
  // device and dtype; loads no weights.
  explicit Pipeline(const PipelineOptions& options);
  ~Pipeline();
  Pipeline(Pipeline&&) noexcept;
  Pipeline& operator=(Pipeline&&) noexcept;

  // Throws Error{kUsage} if the request cannot be carried out by this model.
  void check(const Request& request) const;

  // How the requests would be carried out in one go with the memory there is now; progressive ones
  // in their last stage.
  Plan plan(std::span<const Request> requests) const;

  // The request in the largest size of this aspect whose plan fits now, and takes no longer by an
  // estimate. Throws Error: kDoesNotFit if none fits, kUsage if none is quick enough.
  Request with_largest_size(Request request, const Aspect& aspect,
                            const TimeLimit& limit = {}) const;

  // How many of `requests`, from the first on, are best made in one go: weights are brought in once
  // for all of them, and what waits between the phases has to fit into memory. At least 1.
  std::size_t chunk_size(std::span<const Request> requests) const;

  // Encodes all prompts, releases the encoders, denoises all pictures, releases the transformer,
  // decodes. Pictures come in the order of the requests. Every picture is the same as if it were
  // made alone. Throws Error{kDoesNotFit} if no plan fits; when memory runs out all the same, it
  // goes on by a leaner plan, and ends only where there is none, after it has given what was
  // finished. Prompts that `embeds` knows are not encoded. Progressive pictures come in the size
  // that memory allowed, which may be less than the request's.
  void generate(std::span<const Request> requests, Observer& observer, const OnImage& on_image,
                PromptEmbedsStore* embeds = nullptr, LatentsStore* latents = nullptr);

  // Only the prompts of the requests, in their order.
  void encode(
      std::span<const Request> requests, Observer& observer,
      const std::function<void(std::size_t request, const StoredEmbeds& embeds)>& on_embeds);

  const std::string& device_name() const;  // "cpu", "cuda:0"
  const std::string& dtype_name() const;   // "bf16", "fp16", "fp32"
  int num_threads() const;

 private:
  // Requests that are not progressive.
  void make_pictures(std::span<const Request> requests, Observer& observer, const OnImage& on_image,
                     PromptEmbedsStore* embeds, LatentsStore* latents);
  // Opens the LoRAs of the requests, which are the same for all.
  void take_loras(std::span<const Request> requests, Observer& observer);

  struct State;
  std::unique_ptr<State> state_;
};

}  // namespace steadyflux
